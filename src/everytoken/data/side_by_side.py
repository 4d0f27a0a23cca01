"""Records become items in several processes at a time, in the order in which they come.

Each has a core for itself. One process with as many threads, as `tokenizers` has it, is no faster:
there all that isn't tokenizing waits for one core.
"""

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_all_start_methods, get_context

from everytoken.data.cache.packed import Packed
from everytoken.data.cache.parts import Parts
from everytoken.data.making import Made, Maker, Texts
from everytoken.errors import RunError
from everytoken.runtime.rank import die_with_parent
from everytoken.runtime.signals import begin_loader

FEW_CHUNKS = 2
"""Of so many no process is worth its start."""

AHEAD = 2
"""Chunks for each process that wait for it."""

PARALLEL = "TOKENIZERS_PARALLELISM"
"""Where `tokenizers` looks whether it may start threads, of which none live on in a fork."""

_maker: list[Maker] = []
"""In a process of its own, what it is to do."""


def side_by_side(
    maker: Maker, chunks: Iterable[list[Texts]], processes: int, parts: Parts | None = None
) -> Iterator[Made]:
    """What a maker makes of chunks of records, in their order.

    Args:
        maker: is copied into each process.
        chunks: of records.
        processes: how many, if there are more than a few chunks.
        parts: what was made before, and where what is made is kept, if there are more than a few.

    Raises:
        RunError: one was killed. What the maker raises is handed on.
    """
    waiting: deque[tuple[list[Texts], int, Future[list[Made]] | None]] = deque()
    pool: ProcessPoolExecutor | None = None
    first = 0
    try:
        for number, chunk in enumerate(chunks):
            if number == FEW_CHUNKS and processes > 1:
                pool = _pool(maker, processes)
            future = None
            if number >= FEW_CHUNKS and maker.is_in_memory(chunk):
                future = _begun(maker, pool, parts, number, chunk, first)
            waiting.append((chunk, first, future))
            first += len(chunk)
            while waiting and (waiting[0][2] is None or len(waiting) > AHEAD * processes):
                yield from _made(maker, *waiting.popleft())
        while waiting:
            yield from _made(maker, *waiting.popleft())
        if pool is not None:
            pool.shutdown()  # the last parts are kept by its thread, after they were handed on
    finally:
        if pool is not None:
            pool.shutdown(wait=False, cancel_futures=True)


def _begun(
    maker: Maker,
    pool: ProcessPoolExecutor | None,
    parts: Parts | None,
    number: int,
    chunk: list[Texts],
    first: int,
) -> "Future[list[Made]]":
    """What is made of a chunk: it was, or is being, or (without a pool) is now."""
    future = Future[list[Made]]()
    if parts and (found := parts.get(number)):
        future.set_result([maker.again(chunk, first, *found)])
        return future
    if pool is None:
        future.set_result([made._replace(items=_packed(made)) for made in maker.make(chunk, first)])
    else:
        with _one_thread():
            future = pool.submit(_make, chunk, first)
    if parts:
        future.add_done_callback(partial(_keep, parts, number))
    return future


def _keep(parts: Parts, number: int, future: "Future[list[Made]]") -> None:
    if not future.cancelled() and future.exception() is None and len(future.result()) == 1:
        parts.put(number, future.result())


def _made(
    maker: Maker, chunk: list[Texts], first: int, future: "Future[list[Made]] | None"
) -> Iterator[Made]:
    if future is None:
        yield from maker.make(chunk, first)
        return
    try:
        yield from future.result()
    except BrokenProcessPool as error:
        raise RunError(
            "a process that tokenizes was killed, as happens when memory runs out: make room, or "
            "allow fewer cores (taskset -c 0)"
        ) from error


def _pool(maker: Maker, processes: int) -> ProcessPoolExecutor | None:
    """Its processes start with the first chunk that they are given; None if there can't be any."""
    if "fork" not in get_all_start_methods():
        return None
    try:
        return ProcessPoolExecutor(processes, get_context("fork"), _begin, (maker, os.getpid()))
    except OSError:  # no room for what they share
        return None


@contextmanager
def _one_thread() -> Iterator[None]:
    before = os.environ.get(PARALLEL)
    os.environ[PARALLEL] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ[PARALLEL]
        else:
            os.environ[PARALLEL] = before


def _begin(maker: Maker, parent: int) -> None:
    begin_loader(0)
    die_with_parent(parent)
    _maker.append(maker)


def _make(chunk: list[Texts], first: int) -> list[Made]:
    return [made._replace(items=_packed(made)) for made in _maker[-1].make(chunk, first)]


def _packed(made: Made) -> "Packed | list":
    assert isinstance(made.items, list)
    try:
        return Packed.of(made.items) if made.items else []
    except ValueError:  # who keeps them says so
        return made.items
