"""Files of token ids: what they hold comes out, and what they can't hold is told with its place."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset, Features, LargeList, List, Value

from everytoken.corpora.token_files import DTYPES, READERS, documents
from support.corpus_files import refused

ROWS = [[5, 6, 7], [8], [9, 9, 1]]
FLAT = [id_ for row in ROWS for id_ in row]


def found(file: Path, dtype: str = "uint16", end_id: int | None = None) -> list[list[int]]:
    return [list(document) for document in documents(file, dtype, "input_ids", end_id)]


def raw(folder: Path, ids: list[int], dtype: str) -> Path:
    np.array(ids, dtype).tofile(folder / "a.bin")
    return folder / "a.bin"


def numpy(folder: Path, ids: Any, dtype: str) -> Path:
    np.save(folder / "a.npy", np.array(ids, dtype))
    return folder / "a.npy"


def arrow_file(folder: Path, rows: Any, kind: pa.DataType, column: str = "input_ids") -> Path:
    """Of several batches, the first of which is a slice."""
    table = pa.table({"id": [*range(len(rows))], column: pa.array(rows, kind)})
    with pa.ipc.new_file(folder / "a.arrow", table.schema) as writer:
        for batch in table.to_batches(max_chunksize=2):
            writer.write_batch(batch)
    return folder / "a.arrow"


def saved_dataset(folder: Path, rows: Any, kind: Any) -> Path:
    Dataset.from_dict({"input_ids": rows}, features=Features(input_ids=kind)).save_to_disk(folder)
    return next(folder.glob("*.arrow"))


@pytest.mark.parametrize("dtype", [*DTYPES, ">u2", "uint64"])
@pytest.mark.parametrize("write", [raw, numpy])
def test_ids_in_a_row(
    tmp_path: Path, write: Callable[[Path, list[int], str], Path], dtype: str
) -> None:
    if write is raw and dtype not in DTYPES:
        return
    file = write(tmp_path, FLAT, dtype)
    assert found(file, dtype) == [FLAT]
    assert found(file, dtype, end_id=9) == [[5, 6, 7, 8], [], [1]]
    assert found(file, dtype, end_id=1) == [FLAT[:-1]]


def test_rows_are_documents(tmp_path: Path) -> None:
    square = [row for row in ROWS if len(row) == 3]
    assert found(numpy(tmp_path, square, "uint32")) == square
    for number, kind in enumerate((pa.list_(pa.int32()), pa.large_list(pa.uint16()))):
        folder = tmp_path / str(number)
        folder.mkdir()
        assert found(arrow_file(folder, ROWS, kind)) == ROWS
    for number, kind in enumerate((List(Value("int64")), LargeList(Value("uint16")))):
        folder = tmp_path / f"saved {number}"
        assert found(saved_dataset(folder, ROWS * 700, kind)) == ROWS * 700
        assert found(next(folder.glob("*.arrow")), end_id=7)[:3] == [[5, 6], [8], [9, 9, 1]]
    fixed = saved_dataset(tmp_path / "fixed", square * 700, List(Value("int32"), length=3))
    assert found(fixed) == square * 700


def test_where_an_id_is(tmp_path: Path) -> None:
    _, second = documents(raw(tmp_path, FLAT, "uint16"), "uint16", "", 8)
    assert second.at(2) == f"{tmp_path / 'a.bin'}, token 6"
    *_, last = documents(arrow_file(tmp_path, ROWS, pa.list_(pa.int32())), "", "input_ids", None)
    assert last.part(1, 3).at(1) == f"{tmp_path / 'a.arrow'}, row 3, token 2"


@pytest.mark.parametrize(
    ("magic", "dtype"), [(20240520, "u2"), (20240801, "u4"), (278895051, "u4")]
)
def test_a_header_says_what_a_raw_file_holds(tmp_path: Path, magic: int, dtype: str) -> None:
    header = np.zeros(256, np.int32)
    header[:4] = magic, 1, len(FLAT), 4
    file = tmp_path / "a.bin"
    file.write_bytes(header.tobytes() + np.array(FLAT, dtype).tobytes())
    assert found(file, "int64") == [FLAT]
    file.write_bytes(file.read_bytes()[:-1])
    refused(lambda: found(file), f"{file} says that it has 7 ids", "fetch or write it again")


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.bin", b"", "is empty"),
        (
            "a.bin",
            b"123",
            "3 bytes, which is no whole number of ids of 2 bytes (data.dtype",
        ),
        (
            "a.bin",
            np.arange(9, dtype="u4").tobytes(),
            "every second id is 0",
        ),
        ("a.bin", b"\x93NUMPY\1\0", "name it .npy"),
        ("a.npy", b"", "no header of NumPy's"),
        ("a.npy", np.arange(9).tobytes(), "if it is raw ids, name it .bin"),
        ("a.npy", b"\x93NUMPY\1\0", "can't be read"),
        ("a.arrow", b"", "is empty"),
        ("a.arrow", b"nothing", "broken arrow"),
    ],
)
def test_files_that_are_none(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    refused(lambda: found(tmp_path / name), str(tmp_path / name), words)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros(4), "holds float64, and ids are whole numbers"),
        (np.zeros(4, bool), "holds bool"),
        (np.array([None]), "can't be read"),
        (np.zeros((2, 2, 2), int), "is of shape (2, 2, 2)"),
        (np.array(7), "is of shape ()"),
        (np.ones((2, 3), int, order="F"), "by columns"),
        (np.zeros(0, int), "is empty"),
    ],
)
def test_arrays_that_hold_no_ids(tmp_path: Path, array: Any, words: str) -> None:
    np.save(tmp_path / "a.npy", array)
    refused(lambda: found(tmp_path / "a.npy"), str(tmp_path / "a.npy"), words)
    np.save(tmp_path / "b.npy", np.arange(9))
    (tmp_path / "b.npy").write_bytes((tmp_path / "b.npy").read_bytes()[:-8])
    refused(lambda: found(tmp_path / "b.npy"), "b.npy can't be read")


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("rows", "kind", "words"),
    [
        ([[1.5]], pa.list_(pa.float32()), "is list<item: float>, and ids are lists"),
        ([1], pa.int32(), "is int32"),
        ([["a"]], pa.list_(pa.string()), "is list<item: string>"),
        ([[1], None], pa.list_(pa.int32()), "has nulls"),
        ([[1, None]], pa.list_(pa.int32()), "has nulls"),
    ],
)
def test_columns_that_hold_no_ids(tmp_path: Path, rows: Any, kind: Any, words: str) -> None:
    file = arrow_file(tmp_path, rows, kind)
    refused(lambda: found(file), str(file), "column 'input_ids'", words)
    file = arrow_file(tmp_path, rows, kind, column="ids")
    refused(lambda: found(file), "no column 'input_ids'; it has 'id', 'ids'", "data.column")


@pytest.mark.bad_input
def test_arrow_that_is_compressed(tmp_path: Path) -> None:
    table = pa.table({"input_ids": pa.array([[1] * 9999], pa.list_(pa.int32()))})
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_file(tmp_path / "a.arrow", table.schema, options=options) as writer:
        writer.write_table(table)
    refused(lambda: found(tmp_path / "a.arrow"), "is compressed: write it uncompressed")


@pytest.mark.bad_input
def test_a_file_that_is_cut_off_while_it_is_read(tmp_path: Path) -> None:
    file = raw(tmp_path, FLAT, "uint16")
    (document,) = documents(file, "uint16", "", None)
    file.write_bytes(file.read_bytes()[:4])
    refused(lambda: document[:], "was cut off while in use")
    assert set(READERS) == {".bin", ".npy", ".arrow"}
