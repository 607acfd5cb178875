"""How audio files become a token corpus: who codes which file, and what is kept when.

It knows files, codecs and corpora, not networks. A codec's codes may depend on how many threads
compute them, so every worker computes with one; then they don't depend on how many workers there
are.
"""

import contextlib
import itertools
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np
import torch

from codec.audio import AudioError, read_blocks
from codec.base import Codec
from codec.checkpoint import load_codec
from codec.corpus import Corpus, CorpusWriter
from codec.rows import CODES, Row, Skipped, column_types
from codec.sources import Source, find_sources, read_tags
from plugins.ground.device import pick_device
from plugins.ground.errors import InputError
from plugins.ground.files import sha256_of
from plugins.ground.progress import Progress

SETTINGS = {"made_by": "codec.tokenize"}
AHEAD = 4
"""Files for each worker that may be under way or waiting to be written."""

Result = Row | Skipped


def tokenize_files(
    audio: str | Path | Sequence[str | Path],
    codec_folder: Path | str,
    out: Path | str,
    *,
    workers: int = 1,
    shard_tracks: int = 64,
    device: str = "cpu",
) -> Corpus:
    """Code audio files into a token corpus; goes on with a corpus that is there.

    Files whose ids the corpus has, as a track or as skipped, are not read again. Memory is bounded
    by a block of audio for each worker and by the codes of a few tracks. With several workers a
    script that calls this must be importable (`if __name__ == "__main__":`), since they are
    spawned.

    Args:
        audio: files, folders or globs.
        codec_folder: of the codec.
        out: folder for the corpus.
        workers: processes; 1 works in this one.
        shard_tracks: files, skipped ones included, that make one shard; a kill costs at most that.
        device: "cpu", or "auto" for the accelerator, if any.

    Returns:
        The corpus, with what could not be used in `skipped`.

    Raises:
        InputError: no audio, no codec, malformed metadata, a folder that holds something else, or
            not one file that could be used; a worker that died (names the files it may have been
            reading).
    """
    sources = find_sources(audio)
    codec = load_codec(codec_folder, pick_device(device))
    columns = column_types(source.metadata for source in sources)
    writer = CorpusWriter(out, codec.spec, SETTINGS, columns)
    known = {*writer.ids(), *(skipped.path for skipped in writer.skipped)}
    pending = [source for source in sources if source.id not in known]
    done = len(sources) - len(pending)
    workers = max(1, min(workers, len(pending)))
    try:
        with (
            Progress(len(sources), what="tokenizing", unit="files", done=done) as bar,
            _coder(codec, codec_folder, device, workers) as code,
        ):
            results = code(pending)
            for _ in range(0, len(pending), shard_tracks):
                skipped: list[Skipped] = []
                group = itertools.islice(results, shard_tracks)
                writer.append(_rows(group, skipped, bar), skipped)
    finally:
        unusable = writer.skipped
        writer.abandon()
    if not len(writer):
        first = f"{unusable[0].path}: {unusable[0].reason}"
        raise InputError(f"none of {len(unusable)} files could be used; the first, {first}")
    return Corpus(out)


def encode_file(codec: Codec, file: Path) -> tuple[dict[str, torch.Tensor], int]:
    """Codes of a whole file, {stream: [N] int64}, and how many samples it has at the codec's rate.

    Memory does not grow with its length, apart from the codes.

    Raises:
        AudioError: it can't be used.
    """
    spec = codec.spec
    samples = 0

    def blocks() -> Iterator[torch.Tensor]:
        nonlocal samples
        for block in read_blocks(file, spec.sample_rate, spec.channels):
            samples += block.shape[1]
            yield torch.from_numpy(block)

    codes = codec.encode_blocks(blocks())
    if not any(map(len, codes.values())):
        raise AudioError(file, f"shorter than one code ({samples} samples)")
    return codes, samples


def code_file(codec: Codec, source: Source) -> Row:
    """One file's row of a token corpus.

    Raises:
        AudioError: it can't be used.
    """
    codes, samples = encode_file(codec, source.file)
    tags = read_tags(source.file)
    given = {k: v for k, v in source.metadata.items() if v != "" or k not in tags}
    return {
        **tags,
        **given,
        "id": source.id,
        "path": source.path,
        "audio_sha256": sha256_of(source.file),
        "num_samples": samples,
        **{CODES + name: c.cpu().numpy().astype(np.uint16) for name, c in codes.items()},
    }


def _try(codec: Codec, source: Source) -> Result:
    try:
        return code_file(codec, source)
    except AudioError as error:
        return Skipped(path=source.id, reason=error.reason)


def _rows(results: Iterable[Result], skipped: list[Skipped], bar: Progress) -> Iterator[Row]:
    """Those of the results that are rows; the others go to `skipped`."""
    for result in results:
        if isinstance(result, Skipped):
            skipped.append(result)
        else:
            yield result
        bar.advance(1)


Coder = Callable[[Sequence[Source]], Iterator[Result]]


@contextlib.contextmanager
def _coder(codec: Codec, folder: Path | str, device: str, workers: int) -> Iterator[Coder]:
    """A function that codes files in order: in this process, or in several others."""
    if workers == 1:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield lambda sources: (_try(codec, source) for source in sources)
        finally:
            torch.set_num_threads(threads)
        return
    pool = ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start_worker,
        initargs=(folder, device),
    )
    try:
        yield lambda sources: _gathered(pool, sources, workers)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _gathered(
    pool: ProcessPoolExecutor, sources: Sequence[Source], workers: int
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
                under_way.append((source, pool.submit(_work, source)))
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


def _start_worker(folder: Path | str, device: str) -> None:
    global _codec
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C is the parent's to report
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    _codec = load_codec(folder, pick_device(device))


def _end_with_parent() -> None:
    """A parent that is killed can't tell its workers to stop: they would wait for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)


def _work(source: Source) -> Result:
    assert _codec is not None
    return _try(_codec, source)
