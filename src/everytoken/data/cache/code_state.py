"""The source code behind an object: files that, if they change, may change what it does."""

import ast
import hashlib
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec, resolve_name
from pathlib import Path
from typing import Any


class NoSourceError(Exception):
    """Code that isn't in a file: typed at a prompt, say."""


def code_of(objects: Iterable[Any]) -> dict[str, str]:
    """What classes, functions and modules (given by name) do: the state of their code.

    Goes on to base classes, and to all that is imported: modules of the same packages and modules
    that aren't installed, which may be edited, by their content (SHA-256); others by their version.

    Raises:
        NoSourceError: an object is defined in no file.
    """
    first = [_defining(thing) for thing in objects]
    packages = {_top(modules[0]) for modules in first}
    waiting = [name for modules in first for name in modules]
    for name in waiting:
        if _file(name) is None:
            raise NoSourceError(f"the code of {name} is in no file")
    found: dict[str, str] = {}
    while waiting:
        name = waiting.pop()
        file = _file(name)
        if name in found or file is None:
            continue
        code = file.read_bytes()
        found[name] = hashlib.sha256(code).hexdigest()
        for imported in set(_imported(ast.parse(code), name, file)):
            top = _top(imported)
            if top in packages or not _is_installed(top):
                waiting.append(imported)
            elif top not in sys.stdlib_module_names:
                found[f"{top} (version)"] = _version(top)
    return dict(sorted(found.items()))


def _defining(thing: Any) -> list[str]:
    """Names of modules, the thing's own first."""
    if isinstance(thing, str):
        return [thing]
    if isinstance(thing, type):
        bases = [base.__module__ for base in thing.__mro__[1:]]
        return [thing.__module__, *(name for name in bases if _file(name))]
    return [thing.__module__]


@cache
def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def _imported(tree: ast.AST, name: str, file: Path) -> Iterator[str]:
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            relative = "." * node.level + (node.module or "")
            base = resolve_name(relative, package) if node.level else relative
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)  # modules, perhaps


def _top(name: str) -> str:
    return name.partition(".")[0]


@cache
def _is_installed(package: str) -> bool:
    file = _file(package)
    if file is None:
        return True  # built into Python; a namespace package, too, has no code of its own
    library = Path(sysconfig.get_path("stdlib")).resolve()
    return "site-packages" in file.parts or "dist-packages" in file.parts or library in file.parents


def _file(name: str) -> Path | None:
    """The file of a module, or None; imports nothing but the packages around it."""
    place = getattr(sys.modules.get(name), "__file__", None)
    if place is None and name not in sys.modules:
        try:
            spec = find_spec(name)
        except (ImportError, ValueError, AttributeError):
            return None
        place = spec.origin if spec else None
    file = Path(place).resolve() if place else None
    return file if file and file.suffix == ".py" and file.is_file() else None
