"""What a `_target_` names, looked up in source files: nothing is imported, so nothing is run.

Where source alone doesn't say (an extension, a name that is made as a module is imported), nothing
is refused.
"""

import ast
import difflib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

PACKAGES = (__name__.partition(".")[0], "project", "torch", "lightning", "torchmetrics")
"""What most targets begin with."""

ALIKE = 0.6
"""How much a name must look like another to be meant, from 0 to 1 …"""

SLIP = 0.8
"""… and to be a slip of it."""

Code = ast.ClassDef | ast.FunctionDef


class MissingCodeError(Exception):
    """There is no such code; the message says what there is."""


class _UnknownError(Exception):
    """Source alone doesn't say."""


@dataclass(frozen=True)
class Module:
    """A module in source: its dotted name and its file."""

    name: str
    file: Path

    @property
    def is_package(self) -> bool:
        """True if other modules are in it."""
        return self.file.stem == "__init__"

    def inside(self) -> list[str]:
        """Names of the modules in it."""
        if not self.is_package:
            return []
        files = [*self.file.parent.glob("*.py"), *self.file.parent.glob("*/__init__.py")]
        names = {f.parent.name if f.stem == "__init__" else f.stem for f in files}
        return sorted(names - {self.file.parent.name})


def missing(target: str) -> str:
    """Why there is no such code, and the nearest that there is; "" if it is there, or may be."""
    try:
        _definition(target)
    except MissingCodeError as error:
        return str(error)
    except _UnknownError:
        pass
    return ""


def parameters(target: str) -> set[str] | None:
    """Names of what code takes; None if it takes anything, or if source doesn't say."""
    try:
        module, code = _definition(target)
        return _taken(module, code)
    except (MissingCodeError, _UnknownError):
        return None


def _definition(target: str) -> tuple[Module, Code]:
    first, *names = target.split(".")
    module = _top(first)
    for place, name in enumerate(names):
        is_last = place == len(names) - 1
        if not is_last and (inner := _inner(module, name)):
            module = inner
            continue
        if not is_last and (near := difflib.get_close_matches(name, module.inside(), 1, SLIP)):
            raise MissingCodeError(
                f"{module.name} has no {name}: did you mean {module.name}.{near[0]}?"
            )
        found = _bound(module, name, 0)
        if is_last:
            return found
        break  # something inside of a class
    raise _UnknownError


def _top(name: str) -> Module:
    try:
        spec = find_spec(name)
    except (ImportError, ValueError) as error:
        raise _UnknownError from error
    if spec is None:
        raise MissingCodeError(f"there is no module {name}{_near(name, PACKAGES)}")
    if spec.origin is None or not spec.origin.endswith(".py"):
        raise _UnknownError
    return Module(name, Path(spec.origin))


def _inner(module: Module, name: str) -> Module | None:
    if not module.is_package:
        return None
    place = module.file.parent / name
    for file in (place / "__init__.py", place.with_suffix(".py")):
        if file.is_file():
            return Module(f"{module.name}.{name}", file)
    if [*module.file.parent.glob(f"{name}*")]:  # an extension, a folder without __init__
        raise _UnknownError
    return None


def _bound(module: Module, name: str, depth: int) -> tuple[Module, Code]:
    """The class or function that a name of a module stands for."""
    bindings, is_closed = _bindings(module.file)
    node = bindings.get(name)
    if isinstance(node, Code):
        return module, node
    if isinstance(node, ast.ImportFrom) and depth < 9:
        origin = next((a.name for a in node.names if (a.asname or a.name) == name), name)
        source = _source(module, node)
        return _bound(source, origin, depth + 1)
    if node is not None or not is_closed or _inner(module, name):
        raise _UnknownError
    known = [n for n in bindings if not n.startswith("_")]
    public = [n for n in known if isinstance(bindings[n], Code) or module.is_package]
    raise MissingCodeError(
        f"{module.name} has no {name}"
        + (_near(name, public, f"{module.name}.") or _elsewhere(name))
    )


def _source(module: Module, node: ast.ImportFrom) -> Module:
    """The module that something is imported from."""
    parts = (node.module or "").split(".") if node.module else []
    if node.level:
        own = module.name.split(".")
        own = own if module.is_package else own[:-1]
        parts = [*own[: len(own) - node.level + 1], *parts]
    found = _top(parts[0])
    for part in parts[1:]:
        inner = _inner(found, part)
        if inner is None:
            raise _UnknownError
        found = inner
    return found


@cache
def _bindings(file: Path) -> tuple[dict[str, ast.AST], bool]:
    """What binds each name at the top of a file, and whether these are all names that it has."""
    text = _text(file)
    stub = file.with_suffix(".pyi")
    if "attach_stub" in text and stub.is_file():
        text = _text(stub)
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError) as error:
        raise _UnknownError from error  # importing it will say what is wrong
    found: dict[str, ast.AST] = {}
    is_closed = "globals()" not in text and "__getattr__" not in text and "sys.modules" not in text
    for node in _statements(tree.body):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            found[node.name] = node
        elif isinstance(node, ast.Import | ast.ImportFrom):
            for alias in node.names:
                is_closed = is_closed and alias.name != "*"
                found[alias.asname or alias.name.partition(".")[0]] = node
        else:
            names = (n for n in ast.walk(node) if isinstance(n, ast.Name))
            found |= {n.id: node for n in names if isinstance(n.ctx, ast.Store)}
    return found, is_closed


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise _UnknownError from error


def _statements(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements at the top, also those under a condition."""
    for node in body:
        inner = [getattr(node, part, []) for part in ("body", "orelse", "handlers", "finalbody")]
        if isinstance(node, ast.If | ast.Try | ast.With | ast.For | ast.While):
            for part in inner:
                for one in part:
                    handled = one.body if isinstance(one, ast.ExceptHandler) else [one]
                    yield from _statements(handled)
        yield node


def _taken(module: Module, code: Code) -> set[str]:
    if isinstance(code, ast.FunctionDef):
        if code.decorator_list:
            raise _UnknownError
        return _arguments(code, skip=0)
    own = {node.name: node for node in code.body if isinstance(node, ast.FunctionDef)}
    if "__new__" in own or code.keywords:
        raise _UnknownError
    if "__init__" in own and not code.decorator_list:
        return _arguments(own["__init__"], skip=1)
    if code.decorator_list or len(code.bases) != 1 or not isinstance(code.bases[0], ast.Name):
        raise _UnknownError
    return _taken(*_bound(module, code.bases[0].id, 0))


def _arguments(function: ast.FunctionDef, skip: int) -> set[str]:
    given = function.args
    if given.kwarg is not None or function.decorator_list:
        raise _UnknownError
    return {a.arg for a in [*given.posonlyargs, *given.args][skip:]} | {
        a.arg for a in given.kwonlyargs
    }


def _near(name: str, known: Iterable[str], prefix: str = "") -> str:
    lower = {one.lower(): one for one in known}
    near = difflib.get_close_matches(name.lower(), lower, n=1, cutoff=ALIKE)
    return f": did you mean {prefix}{lower[near[0]]}?" if near else ""


def _elsewhere(name: str) -> str:
    """The same name, or one like it, in the face of a room of the engine."""
    engine = Module(PACKAGES[0], Path(__file__).parents[1] / "__init__.py")
    faces = {}
    for room in engine.inside():
        if (inner := _inner(engine, room)) and inner.is_package:
            faces |= {n: f"{inner.name}." for n in _bindings(inner.file)[0] if n[:1].isupper()}
    near = difflib.get_close_matches(name, faces, n=1, cutoff=SLIP)
    return f": did you mean {faces[near[0]]}{near[0]}?" if near else ""
