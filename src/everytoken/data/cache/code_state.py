"""The source code behind an object: files that, if they change, may change what it does."""

import ast
import hashlib
import sys
from collections.abc import Iterator, Sequence
from functools import cache, lru_cache
from importlib.machinery import ModuleSpec
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from importlib.util import resolve_name
from pathlib import Path
from typing import Any


class NoSourceError(Exception):
    """Code that isn't in a file: typed at a prompt, say."""


def code_of(objects: Sequence[Any]) -> dict[str, str]:
    """What classes, functions and names ("package.module.name") do: the state of their code.

    Goes on to base classes, and to all that is imported: modules of the same packages and modules
    that aren't installed, which may be edited, by their content (SHA-256); others by their version.

    Raises:
        NoSourceError: an object is defined in no file.
    """
    waiting: list[str] = []
    for thing in objects:
        own = thing if isinstance(thing, str) else thing.__module__
        if not (_modules(own) if own is thing else _file(own)):
            raise NoSourceError(f"the code of {own} is in no file")
        waiting.append(own)
    packages = {_top(name) for name in waiting}
    for thing in objects:
        waiting += [base.__module__ for base in getattr(thing, "__mro__", ())]
    found: dict[str, str] = {}
    seen: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        top = _top(name)
        if top in packages or not _is_installed(top):
            modules = _modules(name)
            for module, file in modules.items():
                if module not in found:
                    found[module] = hashlib.sha256(file.read_bytes()).hexdigest()
                    waiting += [origin for _, origin in _imports(module, file)]
            waiting += _offered(name, modules)
        elif top not in sys.stdlib_module_names:  # of Python's version
            found[f"{top} (version)"] = _version(top)
    return dict(sorted(found.items()))


def _modules(name: str) -> dict[str, Path]:
    """Modules along a dotted name, with their files: packages, and what it names or is in."""
    found: dict[str, Path] = {}
    parts = name.split(".")
    for end in range(1, len(parts) + 1):
        module = ".".join(parts[:end])
        if file := _file(module):
            found[module] = file
            if file.stem != "__init__":
                break  # what follows is in it
    return found


def _offered(name: str, modules: dict[str, Path]) -> Iterator[str]:
    """Where a lazy package has a name from; of its own name, where all that it offers is from.

    Its code imports nothing: `lazy_loader` does, by what __init__.pyi imports, when asked for it.
    """
    if modules:
        module, file = [*modules.items()][-1]
        stub, asked = file.with_suffix(".pyi"), name[len(module) + 1 :].partition(".")[0]
        offers = _imports(module, stub) if stub.is_file() else ()
        yield from (origin for offer, origin in offers if asked in ("", offer))


def _imports(module: str, file: Path) -> list[tuple[str, str]]:
    """What a file imports: names there, and dotted names of what they are."""
    package = module if file.stem == "__init__" else module.rpartition(".")[0]
    return _imported(package, file.read_bytes(), str(file))


@lru_cache(maxsize=1000)  # it is asked for each split
def _imported(package: str, code: bytes, file: str) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for node in _statements(ast.parse(code, file)):
        if isinstance(node, ast.Import):
            found += [(alias.asname or alias.name, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            relative = "." * node.level + (node.module or "")
            base = resolve_name(relative, package) if node.level else relative
            for alias in node.names:
                origin = base if alias.name == "*" else f"{base}.{alias.name}"
                found.append((alias.asname or alias.name, origin))
    return found


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """All in it, however deep; most nodes are expressions, which hold none."""
    for part in ("body", "orelse", "finalbody", "handlers", "cases"):
        for inner in getattr(node, part, ()):
            yield inner
            yield from _statements(inner)


def _top(name: str) -> str:
    return name.partition(".")[0]


@cache
def _is_installed(package: str) -> bool:
    """True, too, if there is no such package."""
    spec = None if package in sys.stdlib_module_names else _spec(package)
    places = [spec.origin, *(spec.submodule_search_locations or ())] if spec else []
    parts = [Path(place).parts for place in places if place]
    return not parts or any("site-packages" in p or "dist-packages" in p for p in parts)


@cache
def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # PyYAML is imported as yaml
        names = packages_distributions().get(package, [])
        return ", ".join(version(name) for name in names) or "unknown"


def _file(name: str) -> Path | None:
    """The file of a module, or None."""
    place = getattr(sys.modules.get(name), "__file__", None)
    if place is None and (spec := _spec(name)):
        place = spec.origin
    file = Path(place).resolve() if place else None
    return file if file and file.suffix == ".py" and file.is_file() else None


def _spec(name: str) -> ModuleSpec | None:
    """Where a module is; unlike importlib's `find_spec` this doesn't import the packages around."""
    path = None
    if package := name.rpartition(".")[0]:
        outer = _spec(package)
        path = outer and outer.submodule_search_locations
        if path is None:
            return None
    return next(filter(None, (finder.find_spec(name, path) for finder in sys.meta_path)), None)
