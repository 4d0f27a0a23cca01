from .directory import Run as Run
