"""Files of texts for tests of corpora, and their refusals."""

import bz2
import csv
import gzip
import io
import json
import lzma
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from everytoken.corpora.files import ending
from everytoken.errors import UserError


def write(file: Path, content: str | bytes) -> Path:
    data = content.encode() if isinstance(content, str) else content
    pack = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": zstandard}
    file.write_bytes(pack.get(file.suffix, bytes)(data))
    return file


def zstandard(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


def write_table(file: Path, columns: dict[str, list[str]]) -> Path:
    rows = list(zip(*columns.values(), strict=True))
    match ending(file):
        case ".jsonl" | ".ndjson":
            dumped = (json.dumps(dict(zip(columns, row, strict=True))) for row in rows)
            return write(file, "".join(f"{row}\n" for row in dumped))
        case ".json":
            named = [dict(zip(columns, row, strict=True)) for row in rows]
            return write(file, json.dumps(named, indent=1, ensure_ascii=False))
        case ".parquet":
            types = pa.schema([(name, pa.string()) for name in columns])
            pq.write_table(pa.table(columns, schema=types), file, row_group_size=2)
            return file
        case kind:
            stream = io.StringIO(newline="")
            writer = csv.writer(stream, delimiter="\t" if kind == ".tsv" else ",")
            writer.writerows([list(columns), *rows])
            return write(file, stream.getvalue())


def refused(read: Callable[[], object], *words: str) -> None:
    with pytest.raises(UserError) as error:
        read()
    message = str(error.value)
    assert "\n" not in message
    assert all(word in message for word in words), message
