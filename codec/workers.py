"""Processes that each hold a codec and work on audio files, with the results in order.

It does not know what the work is. A codec's codes may depend on how many threads compute them, so
every worker computes with one; then they don't depend on how many workers there are. A worker that
is alone takes all threads if the codec says that its codes don't.
"""

import contextlib
import itertools
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, TypeVar

import torch

from codec.base import Codec
from codec.checkpoint import load_codec
from codec.sources import Source
from plugins.ground.device import pick_device
from plugins.ground.errors import InputError

AHEAD = 4
"""Files for each worker that may be under way or waiting for their turn."""

Result = TypeVar("Result")


@contextlib.contextmanager
def workforce(
    work: Callable[[Codec, Source], Result],
    codec: Codec,
    folder: Path | str,
    place: tuple[str, str],
    workers: int,
) -> Iterator[Callable[[Sequence[Source]], Iterator[Result]]]:
    """A function that does `work` on files and gives the results in order.

    Args:
        work: with several workers it must be importable by name, since they are spawned.
        codec: that works in this process.
        folder: of the codec, to load it in others.
        place: device and engine of the codec, in others.
        workers: processes; 1 works in this one.

    Raises:
        InputError: a worker died (names the files that it may have been reading).
    """
    if workers == 1:
        threads = torch.get_num_threads()
        torch.set_num_threads(threads if codec.any_threads else 1)
        try:
            yield lambda sources: (work(codec, source) for source in sources)
        finally:
            torch.set_num_threads(threads)
        return
    pool = ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start_worker,
        initargs=(folder, *place),
    )
    try:
        yield lambda sources: _gathered(pool, work, sources, workers)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _gathered(
    pool: ProcessPoolExecutor,
    work: Callable[[Codec, Source], Result],
    sources: Sequence[Source],
    workers: int,
) -> Iterator[Result]:
    """Results of a pool in the order of the sources, not many ahead of what is asked for.

    Raises:
        InputError: a worker died.
    """
    under_way: deque[tuple[Source, Future[Result]]] = deque()
    waiting = iter(sources)
    try:
        while True:
            for source in itertools.islice(waiting, AHEAD * workers - len(under_way)):
                under_way.append((source, pool.submit(_do, work, source)))
            if not under_way:
                return
            yield under_way[0][1].result()
            under_way.popleft()
    except BrokenProcessPool as error:
        # Work is taken up in order: whoever died was at one of the first that have no result.
        lost = [str(s.file) for s, future in under_way if not _succeeded(future)][:workers]
        raise InputError(
            "a worker process died (killed, or out of memory?) while it read one of: "
            f"{', '.join(lost)}; leave that out, or take fewer --workers"
        ) from error


def _succeeded(future: "Future[Any]") -> bool:
    return future.done() and not future.cancelled() and future.exception() is None


_codec: Codec | None = None
"""A worker's own."""


def _start_worker(folder: Path | str, device: str, engine: str) -> None:
    global _codec
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C is the parent's to report
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    _codec = load_codec(folder, pick_device(device), engine)


def _end_with_parent() -> None:
    """A parent that is killed can't tell its workers to stop: they would wait for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)


def _do(work: Callable[[Codec, Source], Result], source: Source) -> Result:
    assert _codec is not None
    return work(_codec, source)
