"""Ray actors that each hold a codec and work on audio files, with the results in order.

The same as `codec.workers`, over a cluster: actors run wherever Ray has a free core, each with one
thread. Ray Data keeps the order, bounds what is under way and repeats what was lost with an actor
or a node. The codec travels to the actors; audio must be found under the same path on every node,
and this toolkit must be installed there. It does not know what the work is.
"""

import contextlib
import itertools
import logging
import os
import pickle
import secrets
import socket
import tempfile
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import pyarrow as pa
import torch

from codec.base import Codec
from codec.checkpoint import load_codec
from codec.sources import Source
from plugins.ground.device import pick_device
from plugins.ground.errors import InputError
from plugins.ground.saved import CONFIG, WEIGHTS

ADDRESS = "RAY_ADDRESS"
"""Environment variable of Ray itself: the cluster to join; without it this machine is one."""
SECRET = "RAY_AUTH_TOKEN"
"""And what keeps other users out of a cluster."""
ANSWER = 10.0
"""Seconds that a cluster has to answer."""
MOST_FILES = 8
"""Files that an actor is given at a time, at most: what a lost actor costs."""
ROUNDS = 16
"""Times that each actor is given files, at least, where there are enough."""
TRIES = 3
"""Further ones for files whose actor died."""
RESTARTS = 20
"""Of one actor: where no actor can even start, that must end."""
WAITING = 1 << 28
"""Bytes of results that may wait for whoever takes them."""
STORE = 1 << 30
"""Bytes of the store for what travels, where this machine is the cluster; the rest goes to disk."""

Result = TypeVar("Result")
Work = Callable[[Codec, Source], Any]


@contextlib.contextmanager
def workforce(
    work: Callable[[Codec, Source], Result],
    codec: Codec,
    folder: Path | str,
    place: tuple[str, str],
    workers: int,
) -> Iterator[Callable[[Sequence[Source]], Iterator[Result]]]:
    """A function that does `work` on files and gives the results in order.

    Ray is started, or joined, when there are files to work on, and left at the end.

    Args:
        work: it must be importable by name wherever actors run.
        codec: not used; actors have their own.
        folder: of the codec.
        place: device and engine of the codec.
        workers: actors; those that find no free core wait for one.

    Raises:
        InputError: Ray is not installed, there is no cluster, or files killed whoever read them.
    """
    ray = _imported()
    model = {name: (Path(folder) / name).read_bytes() for name in (CONFIG, WEIGHTS)}
    with contextlib.ExitStack() as until_end:

        def results(sources: Sequence[Source]) -> Iterator[Result]:
            if not sources:
                return iter(())
            until_end.enter_context(_connected(ray, workers))
            task = (work, ray.put(model), place)
            rows = _rows(ray, sources, task, min(workers, len(sources)))
            until_end.callback(rows.close)
            return _complete(sources, rows)

        yield results


def _imported() -> ModuleType:
    """Ray, with nothing to say.

    Raises:
        InputError: it is not installed.
    """
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise InputError(
            "engine 'ray' needs Ray: pip install 'jukebox-toolkit[ray]', here and on every node"
        ) from error
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return ray


@contextlib.contextmanager
def _connected(ray: ModuleType, workers: int) -> Iterator[None]:
    """Be part of a cluster: the caller's, that of `RAY_ADDRESS`, or one of this machine alone.

    Raises:
        InputError: the cluster does not answer.
    """
    if ray.is_initialized():
        yield
        return
    address = os.environ.get(ADDRESS)
    # Sockets lie below this folder, and their paths must be short.
    place = os.environ.get("RAY_TMPDIR", "/tmp")
    with tempfile.TemporaryDirectory("", "ray-", place, ignore_cleanup_errors=True) as folder:
        own = {
            "num_cpus": workers,
            "object_store_memory": STORE,
            "include_dashboard": False,
            "_temp_dir": folder,
        }
        if not address:  # else Ray keeps a secret of its own in the home folder
            os.environ.setdefault(SECRET, secrets.token_hex(32))
        try:
            _require_answer(address)
            with _silence():
                ray.init(
                    address or "local",
                    logging_level=logging.CRITICAL,
                    log_to_driver=False,
                    **({} if address else own),
                )
        except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            raise InputError(
                f"no Ray cluster at {ADDRESS}={address} ({_reason(error)}): start one by "
                f"`ray start --head`, or unset {ADDRESS} for this machine alone"
                if address
                else f"Ray does not start on this machine: {_reason(error)}"
            ) from error
        try:
            yield
        finally:
            ray.shutdown()


def _require_answer(address: str | None) -> None:
    """Ray itself asks for an hour whether anybody is there.

    Raises:
        OSError: nobody is.
        ValueError: it is no address.
    """
    if address and address != "auto":
        host, _, port = address.rpartition(":")
        socket.create_connection((host, int(port)), ANSWER).close()


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep native code from writing to our stderr that it will not write to it."""
    kept = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _rows(
    ray: ModuleType, sources: Sequence[Source], task: tuple[Work, Any, Any], actors: int
) -> Generator[tuple[int, Any], None, None]:
    """Numbers of sources and their results, in order; those of files that could not be read by
    any actor are missing.
    """
    size = max(1, min(MOST_FILES, len(sources) // (actors * ROUNDS)))
    tables = [_table(sources, first, size) for first in range(0, len(sources), size)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # how to bound retries will change, to what nobody says
        with ray.data.DataContext.current(_context(ray)):
            results = ray.data.from_arrow(tables).map_batches(
                _Actor,
                batch_size=1,
                batch_format="pyarrow",
                compute=ray.data.ActorPoolStrategy(size=min(actors, len(tables))),
                fn_constructor_args=task,
                num_cpus=1,
                num_gpus=int(pick_device(task[2][0]).type == "cuda"),
                max_restarts=RESTARTS,
                max_task_retries=TRIES,
            )
    try:
        for batch in results.iter_batches(batch_size=None, batch_format="pyarrow"):
            for row in batch.to_pylist():
                yield row["number"], pickle.loads(row["result"])
    except ray.exceptions.RayError as error:
        raise InputError(f"the Ray cluster gave up: {_reason(error)}") from error


def _context(ray: ModuleType) -> Any:
    """How Ray Data goes about it."""
    context = ray.data.DataContext.get_current().copy()
    context.execution_options.preserve_order = True
    context.execution_options.resource_limits = ray.data.ExecutionResources.for_limits(
        object_store_memory=WAITING
    )
    context.max_errored_blocks = -1  # what is missing says better which files those are
    context.execution_no_progress_timeout_s = -1  # one file may take hours
    context.enable_progress_bars = context.print_on_execution_start = False
    return context


def _table(sources: Sequence[Source], first: int, size: int) -> pa.Table:
    """What an actor is given at a time; it works in another folder than this process."""
    some = sources[first : first + size]
    there = [pickle.dumps(replace(source, file=source.file.absolute())) for source in some]
    return pa.table({"number": range(first, first + len(some)), "source": there})


def _complete(sources: Sequence[Source], rows: Iterator[tuple[int, Any]]) -> Iterator[Any]:
    """The results alone, one for every source.

    Raises:
        InputError: one is missing (names the files that may be why).
        Exception: what the work raised.
    """
    expected = 0
    for number, result in itertools.chain(rows, [(len(sources), None)]):
        if number > expected:
            lost = ", ".join(str(source.file) for source in sources[expected:number][:MOST_FILES])
            raise InputError(
                f"actors died (killed, or out of memory?) {TRIES + 1} times while they read one "
                f"of: {lost}; leave that out, or take fewer --workers"
            )
        if isinstance(result, Exception):
            raise result
        if number < len(sources):
            yield result
        expected = number + 1


class _Actor:
    """A codec of its own, and what is done with it.

    Args:
        work: what is to be done.
        model: reference to the codec's files, by name.
        place: device and engine of the codec.
    """

    def __init__(self, work: Work, model: Any, place: tuple[str, str]) -> None:
        import ray

        files: Mapping[str, bytes] = ray.get(model)
        torch.set_num_threads(1)
        self.work = work
        with tempfile.TemporaryDirectory() as folder:
            for name, content in files.items():
                (Path(folder) / name).write_bytes(content)
            self.codec = load_codec(folder, pick_device(place[0]), place[1])

    def __call__(self, batch: pa.Table) -> Iterator[pa.Table]:
        """One file after another; what the work raises is a result too, since no other actor
        would do better.
        """
        for row in batch.to_pylist():
            try:
                result = self.work(self.codec, pickle.loads(row["source"]))
            except Exception as error:
                result = error
            content = pa.array([pickle.dumps(result)], pa.large_binary())
            yield pa.table({"number": [row["number"]], "result": content})


def _reason(error: BaseException) -> str:
    """What Ray says at the end of a long story."""
    return next(filter(None, reversed(str(error).splitlines())), type(error).__name__)
