"""Arguments of a part, compared with what its code says that it takes."""

import inspect
import types
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from everytoken.errors import UserError

SCALARS = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
"""What is told apart, and its name in messages."""

CONTAINERS = {list: "a list", tuple: "a list", dict: "a group of settings"}


class _UnknownError(Exception):
    """An annotation that says nothing about YAML's values."""


def check_arguments(key: str, code: Callable[..., Any], settings: Mapping[str, Any]) -> None:
    """Refuse values of another type than a class or function says for its parameters.

    Args:
        key: of the part, as it is typed.
        code: what is going to be called.
        settings: its arguments: texts, numbers, lists, groups.

    Raises:
        UserError: with the type.
    """
    try:
        hints = get_type_hints(code.__init__ if inspect.isclass(code) else code)
        parameters = inspect.signature(code).parameters
    except Exception:  # annotations are any code, and some can't be evaluated
        return
    for name, value in settings.items():
        if name not in hints or name not in parameters:
            continue
        hint = hints[name]
        if parameters[name].default is None:
            hint = hint | None if isinstance(hint, type) else Union[hint, None]  # noqa: UP007
        try:
            expected = [*_expected(hint)]
        except _UnknownError:
            continue
        if not any(_fits(value, one) for one in expected):
            names = " or ".join(dict.fromkeys(_name(one) for one in expected))
            raise UserError(f"{key}.{name} must be {names}, got {value!r}")


def _expected(hint: Any) -> Iterator[Any]:
    """Types of YAML's values, and single values, that an annotation allows."""
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        for one in get_args(hint):
            yield from _expected(one)
    elif origin is Literal:
        yield from map(_Value, get_args(hint))
    elif hint is Path:
        yield str
    elif hint in SCALARS or hint is types.NoneType:
        yield hint
    elif (origin or hint) in CONTAINERS:
        yield origin or hint
    else:
        raise _UnknownError


class _Value:
    def __init__(self, value: object) -> None:
        self.value = value


def _fits(value: object, expected: Any) -> bool:
    if isinstance(expected, _Value):
        return value == expected.value
    if isinstance(value, bool):
        return expected is bool
    kinds = {float: (int, float), list: (list,), tuple: (list, tuple)}
    return isinstance(value, kinds.get(expected, expected))


def _name(expected: Any) -> str:
    if isinstance(expected, _Value):
        return str(expected.value)
    return (SCALARS | CONTAINERS).get(expected, "null")
