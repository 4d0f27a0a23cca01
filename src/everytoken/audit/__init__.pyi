from .foreign.entrance import audit as audit
from .foreign.entrance import prepare as prepare
from .results import Report as Report
