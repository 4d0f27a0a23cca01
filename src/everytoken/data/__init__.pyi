from .collate import Example as Example
from .datamodule import TokenDataModule as TokenDataModule
from .objective import CausalLM as CausalLM
from .objective import MaskedLM as MaskedLM
from .objective import Objective as Objective
from .objective import Seq2Seq as Seq2Seq
from .tags import TokenClassification as TokenClassification
