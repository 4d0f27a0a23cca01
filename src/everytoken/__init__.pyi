from .batch import IGNORE_INDEX as IGNORE_INDEX
from .batch import Batch as Batch
from .commands.library import LoadedRun as LoadedRun
from .commands.library import Parts as Parts
from .commands.library import build as build
from .commands.library import load as load
from .data import Example as Example
from .data import TokenDataModule as TokenDataModule
from .data.collate import collate as collate
from .model import Transformer as Transformer
from .training import ExactMatch as ExactMatch
from .training import MaskedAccuracy as MaskedAccuracy
from .training import Perplexity as Perplexity
from .training import TokenModule as TokenModule
from .training import masked_cross_entropy as masked_cross_entropy

__version__: str
