from .pretrained import from_pretrained as from_pretrained
from .special import SpecialIds as SpecialIds
from .tokenizer import Tokenizer as Tokenizer
from .tokenizer import train_bpe as train_bpe
from .tokenizer import train_byte as train_byte
from .tokenizer import train_char as train_char
