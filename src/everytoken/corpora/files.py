"""Files of texts: found, and read as streams of lines.

Only a line feed ends a line, with or without a carriage return before it: other characters that
Unicode calls line breaks are text. A byte order mark isn't text. Files are UTF-8; what can't be
read as it was meant is refused with its place, never repaired.
"""

import bz2
import codecs
import glob
import gzip
import io
import lzma
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import IO, Any

from everytoken.corpora.long_text import LONG_CHARACTERS, LongText
from everytoken.corpora.remote import find_remote, is_remote
from everytoken.errors import UserError

NAMED_ONLY = (".json",)
"""Files of a folder that aren't meant with it: they tell about data more often than they are it."""


def _zstandard(stream: IO[bytes]) -> IO[bytes]:
    import pyarrow as pa

    return io.BufferedReader(pa.input_stream(stream, compression="zstd"))


OPENERS: dict[str, Callable[[Any], Any]] = {
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
    ".zst": _zstandard,
}
"""How files are unpacked, by what ends their names after the ending that tells how to read them."""

OF_IDS = (".bin", ".npy", ".arrow")
"""What ends the names of files that may hold token ids, see `tokens`."""

BLOCK_CHARACTERS = 1 << 18
"""Of a text that is read block by block, about so many at a time."""

UNFINISHED_END = re.compile(rb"(?:\r|[\xc0-\xff][\x80-\xbf]{0,2})\Z")
"""What may go on in the next part of a line: half a line end, half a character."""

UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)

Paths = str | Sequence[str]
"""A file, a folder (all files in it that can be read), a pattern such as a/**/*.txt, or several."""


def find(paths: Paths, endings: Iterable[str] | None) -> list[Path]:
    """The files that paths name, in order; those of a folder or pattern by name. One with an
    address (s3://…) is a `RemoteFile`, which is read as others are.

    Where there is no such file, but one that differs in being compressed or not, that one is meant.

    Args:
        endings: what files may end in; others in a folder aren't meant. None for any.

    Raises:
        UserError: an empty path, one that leads to no file, a file that ends in something else.
    """
    files = []
    for path in paths if isinstance(paths, Sequence) and not isinstance(paths, str) else [paths]:
        if not str(path):  # would be the current folder
            raise UserError("a path is empty: give a file, a folder or a pattern such as a/*.txt")
        place = at_home(path)
        if is_remote(path):
            found: list[Any] = find_remote(path, lambda name: _is_meant(Path(name), endings))
        elif place.is_dir():
            found = sorted(file for file in place.rglob("*") if _is_data(file, place, endings))
            if not found:
                raise UserError(f"folder {path} has nothing to read: {_known(endings)}")
        elif file := _file(place):
            found = [file]
        elif glob.has_magic(str(place)):
            matches = (Path(match) for match in glob.glob(str(place), recursive=True))
            found = sorted(match for match in matches if match.is_file())
            if not found:
                raise UserError(f"no file matches {path}")
        else:
            raise UserError(f"no file {path}: give a file, a folder or a pattern such as a/*.txt")
        files += found
    if not files:
        raise UserError("the list of files is empty: give a file, a folder or a pattern")
    for file in files:
        if endings is not None and ending(file) not in endings:
            ids = "; data=tokens reads ids" if file.suffix in OF_IDS else ""
            raise UserError(f"can't read {file}: {_known(endings)}{ids}")
    return files


def at_home(path: str) -> Path:
    """A path whose ~ is somebody's home folder; left as it is if there is no such user."""
    try:
        return Path(str(path)).expanduser()
    except RuntimeError:
        return Path(str(path))


def _is_data(file: Path, folder: Path, endings: Iterable[str] | None) -> bool:
    hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
    return file.is_file() and not hidden and _is_meant(file, endings)


def _is_meant(file: Path, endings: Iterable[str] | None) -> bool:
    return endings is None or (ending(file) in endings and ending(file) not in NAMED_ONLY)


def _file(place: Path) -> Path | None:
    """The file at a place, compressed or not; None if there is neither."""
    plain = place.with_suffix("") if place.suffix in OPENERS else place
    packed = (plain.with_name(plain.name + suffix) for suffix in OPENERS)
    return next((file for file in (place, plain, *packed) if file.is_file()), None)


def _known(endings: Iterable[str] | None) -> str:
    if endings is None:
        return "it is empty"
    after = " or ".join(OPENERS)
    return f"names of files must end in {', '.join(endings)} ({after} may follow)"


def ending(file: Path) -> str:
    """What tells how a file is read: its last suffix, or the one before .gz and the like."""
    name = file.name.lower()
    packing = name.removeprefix(unpacked(file))
    suffix = Path(unpacked(file)).suffix
    return suffix + packing if suffix == ".parquet" else suffix


def unpacked(file: Path) -> str:
    """The name of what a file holds: without .gz and the like, in small letters."""
    name = file.name.lower()
    packing = next((suffix for suffix in OPENERS if name.endswith(suffix)), "")
    return name.removesuffix(packing)


def listed(files: Sequence[Path]) -> str:
    """Some of the files, in words."""
    names = ", ".join(map(str, files[:2]))
    return names if len(files) <= 2 else f"{names} and {len(files) - 2} more"


def state(files: Iterable[Path]) -> list[tuple[str, int, int, int]]:
    """What changes with each file: absolute path, size in bytes, and two times of change in ns.

    The first of them is kept by who copies a file with its times, the second isn't.

    Raises:
        UserError: a file that is there no longer.
    """
    try:
        stats = [(file, file.stat()) for file in files]
    except OSError as error:
        raise UserError(f"can't read {error.filename}: {error.strerror}") from error
    return [
        (str(file.resolve()), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
        for file, stat in stats
    ]


def lines(file: Path) -> Iterator[str]:
    """The lines of a text file, blank ones too, without their ends.

    Raises:
        UserError: a missing or broken file, invalid UTF-8, a NUL byte; when it is reached.
    """
    return map(without_end, lines_with_ends(file))


def documents(file: Path) -> Iterator[str | LongText]:
    """The one text of a text file, its lines ended by line feeds only; in memory if it isn't long.

    Raises:
        UserError: as `lines` does.
    """
    read = partial(blocks, file)
    begin = [*until(read(), LONG_CHARACTERS)]
    text = "".join(begin)
    yield text if len(text) <= LONG_CHARACTERS else LongText(read)


def until(parts: Iterable[str], characters: int) -> Iterator[str]:
    """The first of some parts, with one more than have so many characters, if there are more."""
    for part in parts:
        yield part
        if (characters := characters - len(part)) < 0:
            return


def blocks(file: Path) -> Iterator[str]:
    """The text of a text file, block by block, its lines ended by line feeds only.

    Raises:
        UserError: as `lines` does.
    """
    gathered: list[str] = []
    size = 0
    for part in lines_with_ends(file, BLOCK_CHARACTERS):
        gathered.append(f"{without_end(part)}\n" if part.endswith("\n") else part)
        if (size := size + len(part)) >= BLOCK_CHARACTERS:
            yield "".join(gathered)
            gathered, size = [], 0
    yield "".join(gathered)


def lines_with_ends(file: Path, most: int = -1) -> Iterator[str]:
    """The same, each with its own end; raises as `lines` does.

    Args:
        file: the text file.
        most: bytes of a line, more or less: what is longer comes in parts. Negative for no limit.
    """
    number, line, is_odd = 0, "\n", False
    try:
        unpack = OPENERS.get(file.suffix.lower(), nullcontext)
        with file.open("rb") as raw, unpack(raw) as stream:
            for part in decoded(parts_of_lines(stream, most), str(file)):
                number += line.endswith("\n")
                line = part
                if "\0" in line:
                    many = 4 * line.count("\0") > len(line)
                    raise UserError(
                        f"{file}, line {number}: NUL at character {line.index(chr(0)) + 1}: "
                        + (
                            "it looks like UTF-16: save it as UTF-8"
                            if many
                            else "is this a text file? Take it out"
                        )
                    )
                is_odd = number == 1 and (is_odd or "\r" in line[:-1]) and not line.endswith("\n")
                if is_odd and most < 0:
                    break
                yield line
        if is_odd:
            raise UserError(
                f"{file}: its line ends are carriage returns only: save it with line feeds"
            )
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # the system's
            raise UserError(f"can't read {file}: {error.strerror}") from error
        raise UserError(
            f"{file}: broken {file.suffix[1:]} after line {number} ({error}): fetch the file again"
        ) from error


def parts_of_lines(stream: IO[bytes], most: int) -> Iterator[bytes]:
    """Lines with their ends; longer ones in parts, none of which ends inside of a character."""
    kept = b""
    while read := stream.readline(most):
        part = kept + read
        kept = b""
        if most > 0 and not part.endswith(b"\n") and (found := UNFINISHED_END.search(part)):
            part, kept = part[: found.start()], found.group()
        if part:
            yield part
    if kept:
        yield kept


def decoded(encoded: Iterable[bytes], name: str) -> Iterator[str]:
    """Lines of UTF-8 text with their ends, or parts of such, without a byte order mark.

    Raises:
        UserError: bytes that are no UTF-8, with their place.
    """
    number, before, offset = 0, b"\n", 0
    for line in encoded:
        is_next = before.endswith(b"\n")
        number, offset, before = number + is_next, 0 if is_next else offset + len(before), line
        if number == 1 and is_next:
            if line.startswith(UTF16):
                raise UserError(f"{name} is UTF-16: save it as UTF-8")
            line = line.removeprefix(codecs.BOM_UTF8)
            if not line:
                return  # nothing but the mark
        try:
            yield line.decode()
        except UnicodeDecodeError as error:
            raise UserError(
                f"{name}, line {number}: byte {offset + error.start + 1} of the line "
                f"(0x{line[error.start]:02x}) isn't UTF-8: save it as UTF-8"
            ) from error


def without_end(line: str) -> str:
    """A line without its line feed and the carriage return before it."""
    return line.removesuffix("\n").removesuffix("\r")
