"""Files of texts for tests of corpora, and their refusals."""

import csv
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from everytoken.corpora.files import ending
from everytoken.errors import UserError


def write(file: Path, content: str | bytes) -> Path:
    data = content.encode() if isinstance(content, str) else content
    file.write_bytes(gzip.compress(data) if file.suffix == ".gz" else data)
    return file


def write_table(file: Path, columns: dict[str, list[str]]) -> Path:
    rows = list(zip(*columns.values(), strict=True))
    match ending(file):
        case ".jsonl":
            dumped = (json.dumps(dict(zip(columns, row, strict=True))) for row in rows)
            return write(file, "".join(f"{row}\n" for row in dumped))
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
