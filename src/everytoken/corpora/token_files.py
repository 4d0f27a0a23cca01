"""Files of token ids that others wrote: raw (.bin), NumPy's (.npy), Arrow's (.arrow)."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from everytoken.corpora.columns import shown
from everytoken.corpora.documents import Document, TokenFile
from everytoken.errors import UserError, one_line

if TYPE_CHECKING:
    import pyarrow as pa

DTYPES = ("uint16", "uint32", "int32", "int64", "uint8")
"""Of the ids of a raw file."""

NUMPY = b"\x93NUMPY"
HEADER_BYTES = 1024
MARKS = {20240520: "<u2", 20240801: "<u4", 278895051: None}
"""What a .bin with a header of so many bytes begins with, as an int32, and its ids' dtype; without
one its fourth number is their size. The third is how many there are."""


def documents(file: Path, dtype: str, column: str, end_id: int | None) -> Iterator[Document]:
    """The documents of a file.

    Args:
        file: a .bin, .npy or .arrow file.
        dtype: of the ids of a .bin without a header.
        column: of an .arrow file: the lists of ids.
        end_id: what stands after each document; None if a file, or a row of one with rows, is one.

    Raises:
        UserError: a file that can't be read in this way; when it is reached.
    """
    try:
        for whole in READERS[file.suffix.lower()](file, dtype, column):
            yield from [whole] if end_id is None else _divided(whole, end_id)
    except OSError as error:
        raise UserError(f"can't read {file}: {error.strerror or one_line(error)}") from error


def _divided(whole: Document, end_id: int) -> Iterator[Document]:
    begin = 0
    for place in whole.places_of(end_id):
        yield whole.part(begin, place)
        begin = place + 1
    if begin < len(whole):
        yield whole.part(begin, len(whole))


def _raw(file: Path, dtype: str, _: str) -> Iterator[Document]:
    size = file.stat().st_size
    if not size:
        raise UserError(f"{file} is empty: give a file with ids")
    with file.open("rb") as opened:
        begin = opened.read(HEADER_BYTES)
    if begin.startswith(NUMPY):
        raise UserError(f"{file} is a NumPy array: name it .npy")
    kind, first = np.dtype(dtype).newbyteorder("<"), 0
    header = np.frombuffer(begin[: len(begin) // 4 * 4], "<i4").tolist()
    if header and header[0] in MARKS and len(begin) == HEADER_BYTES:
        kind = np.dtype(MARKS[header[0]] or f"<u{header[3]}")
        first = HEADER_BYTES // kind.itemsize
        if size != HEADER_BYTES + header[2] * kind.itemsize:
            raise UserError(
                f"{file} says that it has {header[2]:,} ids of {kind.name}, and it has "
                f"{(size - HEADER_BYTES) / kind.itemsize:,.9g}: fetch or write it again"
            )
    if size % kind.itemsize:
        raise UserError(
            f"{file} has {size:,} bytes, which is no whole number of ids of {kind.itemsize} bytes "
            f"(data.dtype={dtype}): set data.dtype, or fetch the file again"
        )
    opened_file, end = TokenFile(file, kind), size // kind.itemsize
    sample = opened_file.read(first, min(end, first + 2048))
    if kind.itemsize == 2 and len(sample) > 7 and sample.any() and not sample[1::2].any():
        raise UserError(
            f"{file}: every second id is 0, as if they had 4 bytes each: set data.dtype=uint32"
        )
    yield Document(opened_file, first, end, str(file), first)


def _numpy(file: Path, _: str, __: str) -> Iterator[Document]:
    with file.open("rb") as opened:
        if opened.read(len(NUMPY)) != NUMPY:
            raise UserError(
                f"{file} has no header of NumPy's: if it is raw ids, name it .bin, and set "
                "data.dtype"
            )
    try:
        array = np.load(file, mmap_mode="r")
    except (ValueError, EOFError) as error:
        raise UserError(f"{file} can't be read: {one_line(error)}") from error
    if array.dtype.kind not in "iu":
        raise UserError(f"{file} holds {array.dtype.name}, and ids are whole numbers: {WRITE}")
    if array.ndim not in (1, 2) or not array.flags.c_contiguous:
        raise UserError(
            f"{file} is of shape {array.shape}{'' if array.ndim != 2 else ', by columns'}: give "
            "all ids in a row, or a row of them for each document (np.ascontiguousarray)"
        )
    if not array.size:
        raise UserError(f"{file} is empty: give a file with ids")
    first, width = array.offset // array.itemsize, array.shape[-1]
    opened_file = TokenFile(file, array.dtype)
    if array.ndim == 1:
        yield Document(opened_file, first, first + width, str(file), first)
        return
    for row in range(len(array)):
        begin = first + row * width
        yield Document(opened_file, begin, begin + width, f"{file}, row {row + 1}", begin)


def _arrow(file: Path, _: str, column: str) -> Iterator[Document]:
    import pyarrow as pa

    number = 0
    try:
        with pa.memory_map(str(file)) as mapped:
            if not mapped.size():
                raise UserError(f"{file} is empty: give a file with ids")
            start = mapped.read_buffer(mapped.size()).address
            opened_file: TokenFile | None = None
            for batch in _batches(mapped):
                if column not in batch.schema.names:
                    raise UserError(
                        f"{file} has no column {column!r}; it has {shown(batch.schema.names)}: "
                        "name that of the ids by data.column"
                    )
                kind, begins, ends = _lists(batch.column(column), file, column)
                address = batch.column(column).values.buffers()[1]
                offset = 0 if address is None else address.address - start
                if not 0 <= offset < mapped.size():
                    raise UserError(f"{file} is compressed: write it uncompressed")
                opened_file = opened_file or TokenFile(file, kind)
                first = offset // kind.itemsize
                for begin, end in zip(begins, ends, strict=True):
                    number += 1
                    place = f"{file}, row {number}"
                    yield Document(opened_file, first + begin, first + end, place, first + begin)
    except (pa.ArrowException, pa.ArrowInvalid) as error:
        raise UserError(f"{file}: broken arrow after row {number} ({one_line(error)})") from error


def _batches(mapped: Any) -> Iterator["pa.RecordBatch"]:
    """Of a stream, as `datasets` writes it, or of a file."""
    import pyarrow as pa

    mapped.seek(0)
    if mapped.read(6) == b"ARROW1":
        reader = pa.ipc.open_file(mapped)
        yield from (reader.get_batch(i) for i in range(reader.num_record_batches))
    else:
        mapped.seek(0)
        yield from pa.ipc.open_stream(mapped)


def _lists(lists: Any, file: Path, column: str) -> tuple[np.dtype[Any], list[int], list[int]]:
    """Of lists of ids: their dtype, where each begins, and ends."""
    from pyarrow import types

    kind = lists.type
    is_fixed = types.is_fixed_size_list(kind)
    if not (types.is_list(kind) or types.is_large_list(kind) or is_fixed) or not types.is_integer(
        kind.value_type
    ):
        raise UserError(
            f"{file}: column {column!r} is {kind}, and ids are lists of whole numbers: {WRITE}"
        )
    if lists.null_count or lists.values.null_count:
        raise UserError(f"{file}: column {column!r} has nulls: fill them, or leave them out")
    if is_fixed:
        borders = np.arange(lists.offset, lists.offset + len(lists) + 1) * kind.list_size
    else:
        borders = np.asarray(lists.offsets)
    borders = borders + lists.values.offset
    return np.dtype(kind.value_type.to_pandas_dtype()), borders[:-1].tolist(), borders[1:].tolist()


WRITE = "write them as uint16 or uint32"

READERS: dict[str, Callable[[Path, str, str], Iterator[Document]]] = {
    ".bin": _raw,
    ".npy": _numpy,
    ".arrow": _arrow,
}
"""How files are read, by their ending: what each of a file's rows is, or all of it."""
