from .callback import WriteReport as WriteReport
