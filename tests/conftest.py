"""What all tests share."""

from support.session import (  # noqa: F401
    inside_hydra,
    pytest_collection_finish,
    pytest_collection_modifyitems,
)
