from .learned import train_bpe as train_bpe
from .learned import train_byte as train_byte
from .learned import train_char as train_char
from .pretrained import from_pretrained as from_pretrained
from .special import SpecialIds as SpecialIds
from .tokenizer import Tokenizer as Tokenizer
