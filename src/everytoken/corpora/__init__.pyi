from .dates import Dates as Dates
from .hub import Hub as Hub
from .pairs import Pairs as Pairs
from .pydoc import Pydoc as Pydoc
from .text import Text as Text
