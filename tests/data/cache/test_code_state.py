"""The code behind an object: every file that could change what it does is part of its state."""

from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from torch.utils.data import Dataset

from everytoken.corpora import Dates
from everytoken.data.cache.code_state import NoSourceError, _is_installed, _version, code_of

LAZY = "import lazy_loader\n__getattr__, _, __all__ = lazy_loader.attach_stub(__name__, __file__)\n"
FILES = {
    "mine.py": "",
    "room/__init__.py": LAZY,
    "room/__init__.pyi": "from .deep import Far as Far\nfrom .near import Near as Close\n",
    "room/near.py": "class Near:\n    pass\n",
    "room/deep/__init__.py": LAZY,
    "room/deep/__init__.pyi": "from .far import Far as Far\n",
    "room/deep/far.py": "import loose.helper\nclass Far:\n    pass\n",
    "loose/helper.py": "value = 1\n",
    "loud/__init__.py": "raise SystemExit('it was imported')\n",
    "loud/inner.py": "raise SystemExit('it was imported')\n",
}
LAZY_LOADER = "lazy_loader (version)"
FAR = {"room", "room.deep", "room.deep.far", "loose.helper", LAZY_LOADER}


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], dict[str, str]]:
    """The state of a module `mine` of some code, itself aside."""
    for name, code in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    _is_installed.cache_clear()

    def state(code: str) -> dict[str, str]:
        (tmp_path / "mine.py").write_text(code)
        found = code_of(["mine.Thing"])
        del found["mine"]
        return found

    return state


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("from room import Far", FAR),
        ("from room import Far as Other", FAR),
        ("from room.deep import Far", FAR),
        ("from room.deep.far import Far", FAR),
        ("from room import Close", {"room", "room.near", LAZY_LOADER}),
        ("from room import Nothing", {"room", LAZY_LOADER}),
        ("from room import deep", FAR),
        ("from room import *", FAR | {"room.near"}),
        ("import room", FAR | {"room.near"}),
        ("def later():\n    import room as r\n    return r.Far", FAR | {"room.near"}),
    ],
)
def test_what_a_lazy_package_gives_is_followed(state: Any, code: str, found: set[str]) -> None:
    assert {*state(code)} == found


def test_an_edit_behind_a_lazy_package_changes_the_state(state: Any, tmp_path: Path) -> None:
    before = state("from room import Far")
    assert state("from room import Far") == before
    (tmp_path / "room/near.py").write_text("class Near:\n    edited = True\n")
    assert state("from room import Far") == before
    (tmp_path / "loose/helper.py").write_text("value = 2\n")
    edited = state("from room import Far")
    assert {name for name in before if edited[name] != before[name]} == {"loose.helper"}


def test_a_class_of_everytoken_is_followed_from_its_room(state: Any) -> None:
    found = state("from everytoken.corpora import Dates\nclass Thing(Dates):\n    pass")
    assert "everytoken.corpora.dates" in found
    assert "everytoken.corpora.hub" not in found
    assert found["babel (version)"] == version("babel")
    assert found.items() >= code_of([Dates]).items()


def test_a_name_as_in_target_is_followed(state: Any) -> None:
    assert {*code_of(["room.Far"])} == FAR
    assert {*code_of(["room.Close.method"])} == {"room", "room.near", LAZY_LOADER}


def test_no_module_is_imported_to_be_read(state: Any) -> None:
    assert {*state("from loud.inner import nothing\nimport loud")} == {"loud", "loud.inner"}


def test_a_library_is_known_by_its_version() -> None:
    class Mine(Dataset):
        pass

    found = code_of([Mine])
    assert found["torch (version)"] == version("torch")
    assert not [name for name in found if name.startswith("torch.")]
    assert __name__ in found


def test_a_distribution_may_have_another_name_than_its_package() -> None:
    assert _version("yaml") == version("PyYAML")
    assert _version("nowhere_at_all") == "unknown"


@pytest.mark.parametrize(
    "thing", ["nowhere.Thing", type("Typed", (), {"__module__": "typed"}), str]
)
def test_code_that_is_in_no_file_has_no_state(thing: Any) -> None:
    with pytest.raises(NoSourceError, match="is in no file"):
        code_of([thing])
