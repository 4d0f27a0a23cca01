from .llama import llama_from_hf as llama_from_hf
from .model import HuggingFace as HuggingFace
