"""What a test says when another version of a library has changed what we use of its insides."""

from importlib.metadata import version


def changed(library: str, what: str, home: str) -> str:
    """The message of an assertion.

    Args:
        library: its distribution.
        what: has changed, by the library's own name for it.
        home: the module, below everytoken, that is to be mended.
    """
    return f"{library} {version(library)} has changed {what}: mend everytoken/{home}"
