from .date_languages import DateLanguages as DateLanguages
from .date_parts import DateParts as DateParts
from .chat_dates import ChatDates as ChatDates
from .dates import Dates as Dates
from .hub import Hub as Hub
from .pairs import Pairs as Pairs
from .pydoc import Pydoc as Pydoc
from .text import Text as Text
