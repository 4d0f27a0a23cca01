"""Before torch is imported: one thread each, in tests and in the runs that they start.

Threads of processes that share two cores wait for each other, which can take ten times as long.
Tokenized corpora and the user's key go to a folder of this session.
"""

import atexit
import gc
import os
import sys
import tempfile
from collections.abc import Iterator

import pytest
from hydra import initialize_config_dir
from hydra.core.hydra_config import HydraConfig

from support.prefork import measure_quickly

os.environ.setdefault("OMP_NUM_THREADS", "1")

_cache = tempfile.TemporaryDirectory(prefix="everytoken-tests-")
atexit.register(_cache.cleanup)
os.environ["XDG_CACHE_HOME"] = os.environ["XDG_STATE_HOME"] = _cache.name


gc.disable()  # until all is imported: see everytoken.runtime.rank


def pytest_collection_finish() -> None:
    """What was imported is no garbage."""
    if "everytoken.callbacks.machine" in sys.modules:
        measure_quickly()
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that start whole runs come first, so that no worker waits for the other at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(autouse=True)
def nothing_typed() -> None:
    """Forget the command line that a test before this one has checked."""
    HydraConfig.instance().cfg = None


@pytest.fixture(scope="module")
def inside_hydra() -> Iterator[None]:
    """As in a job: configs can be composed."""
    from everytoken.config.keys import conf_dir
    from everytoken.hf import config as hf_config  # only here, as all that imports torch

    assert hf_config  # its resolver is needed by the config
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        yield
