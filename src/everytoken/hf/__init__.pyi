from .adapter import lora as lora
from .llama import llama_from_hf as llama_from_hf
from .model import HuggingFace as HuggingFace
