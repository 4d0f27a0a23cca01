"""Configs as Hydra composes them: once, however often a command asks for the same.

Composing takes a tenth of a second, and a run that goes on is compared with a dozen configs.
"""

import hashlib
import os
import pickle
import re
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

import everytoken.config.mixed  # noqa: F401 (a resolver that conf/ uses)
from everytoken.config.keys import conf_dir

OF_ENVIRONMENT = re.compile(rb"oc\.env:\s*(\w+)")


def composed(folder: Path, name: str, overrides: Iterable[str]) -> DictConfig:
    """A config with Hydra's own part, of the YAMLs in a folder and under conf/."""
    # Hydra looks for the primary config in one folder only.
    home, other = conf_dir(), folder
    if (folder / name).with_suffix(".yaml").is_file():
        home, other = folder, conf_dir()
    search = [] if home == other else [f"hydra.searchpath=['file://{other}']"]
    words = (*search, *overrides)
    # Other folders may be anybody's, of any size.
    known = None if any("searchpath" in word for word in words) else state(home)
    if known is None:
        return _anew(home, name, words)
    cfg = pickle.loads(_pickled(home, name, words, known))
    cfg.hydra.runtime.cwd = os.getcwd()
    return cfg


def state(folder: Path) -> str | None:
    """Equal if what can be composed is: of all files, and the variables that they name.

    None if they name other folders, which would have to be looked at, too, or can't be read.
    """
    digest, variables = hashlib.sha256(), set[bytes]()
    for place, folders, files in os.walk(folder):
        folders.sort()
        for file in sorted(files):
            try:
                text = Path(place, file).read_bytes()
            except OSError:  # an editor's lock, say: a link to nothing
                return None
            if b"searchpath" in text:
                return None
            digest.update(f"{place}/{file}\0{len(text)}\0".encode() + text)
            variables.update(OF_ENVIRONMENT.findall(text))
    for name in sorted(variables):
        digest.update(repr(os.environ.get(name.decode())).encode())
    return digest.hexdigest()


@lru_cache(maxsize=1000)
def _pickled(home: Path, name: str, words: tuple[str, ...], known: str) -> bytes:
    return pickle.dumps(_anew(home, name, words))


def _anew(home: Path, name: str, words: tuple[str, ...]) -> DictConfig:
    with initialize_config_dir(str(home), name, version_base="1.3"):
        return compose(name, [*words], return_hydra_config=True)
