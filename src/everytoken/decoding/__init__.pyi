from .beam_search import BeamSearch as BeamSearch
from .generate import Decoding as Decoding
from .generate import Prediction as Prediction
from .sampling import Greedy as Greedy
from .sampling import Sampling as Sampling
