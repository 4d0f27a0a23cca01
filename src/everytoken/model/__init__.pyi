from .backends import Attend as Attend
from .transformer import Transformer as Transformer
