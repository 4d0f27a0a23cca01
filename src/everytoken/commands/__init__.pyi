from .loaded import LoadedRun as LoadedRun
from .loaded import load as load
