"""What W&B has really written to disk: its .wandb files, read back.

W&B writes them in a process of its own, a while after a value was logged, so a run that is killed
loses the end. The format is LevelDB's log: blocks of 32 KiB with checksummed pieces of records,
each record a message of W&B's own protocol.

All of that is W&B's own affair, which only this file knows. Checked with wandb 0.31;
tests/tracking/test_upstream.py says what another version has changed.
"""

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

from wandb.proto.wandb_internal_pb2 import Record  # pyright: ignore[reportAttributeAccessIssue]

BLOCK_BYTES = 32 * 1024
FILE_HEADER_BYTES = 7
PIECE_HEADER = struct.Struct("<IHB")
"""Checksum, length, kind."""
FULL, LAST = 1, 4
"""Kinds of a piece that end a record; 2 and 3 are the first and those between."""


def records(file: Path) -> Iterator[Record]:
    """The records of a .wandb file, up to where it ends or is damaged."""
    content = file.read_bytes()
    place, pieces = FILE_HEADER_BYTES, b""
    while True:
        left = BLOCK_BYTES - place % BLOCK_BYTES
        if left < PIECE_HEADER.size:
            place += left  # too little for a piece: the block ends with zeros
        if place + PIECE_HEADER.size > len(content):
            return
        checksum, length, kind = PIECE_HEADER.unpack_from(content, place)
        place += PIECE_HEADER.size
        piece = content[place : place + length]
        if len(piece) < length or zlib.crc32(piece, zlib.crc32(bytes([kind]))) != checksum:
            return
        place += length
        pieces += piece
        if kind in (FULL, LAST):
            yield Record.FromString(pieces)
            pieces = b""


def recorded_lines(folder: Path) -> int:
    """One more than the highest step in the .wandb files of a run's folder wandb/."""
    steps = [
        record.history.step.num
        for file in folder.glob("*run-*/*.wandb")
        for record in records(file)
        if record.HasField("history")
    ]
    return max(steps, default=-1) + 1


def set_empty_aside(folder: Path) -> None:
    """Rename files of runs that were killed before anything was written.

    `wandb sync` would stop at them, and upload none of the others either.
    """
    for file in folder.glob("*run-*/*.wandb"):
        if not any(record.HasField("run") for record in records(file)):
            file.rename(file.with_suffix(".wandb.empty"))
