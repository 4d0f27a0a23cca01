"""What all tests share."""

from support.session import (  # noqa: F401
    inside_hydra,
    nothing_typed,
    pytest_collection_finish,
    pytest_collection_modifyitems,
)
