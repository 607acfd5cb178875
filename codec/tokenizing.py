"""How audio files become a token corpus: which files are coded, and what is kept when.

It knows files, codecs and corpora, not networks; who codes is `codec.workers`'s, or on a cluster
`codec.cluster`'s. Shapes: N codes of a stream.
"""

import itertools
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from codec import cluster
from codec.audio import BLOCK, AudioError, read_blocks
from codec.base import Codec
from codec.checkpoint import load_codec
from codec.corpus import Corpus, CorpusWriter
from codec.rows import CODES, Row, Skipped, column_types
from codec.sources import LYRICS, TAGS, TIMED, Source, find_sources, read_tags
from codec.text import utf8
from codec.workers import workforce
from plugins.ground.device import pick_device
from plugins.ground.errors import InputError
from plugins.ground.files import sha256_of
from plugins.ground.progress import Progress

SETTINGS = {"made_by": "codec.tokenize"}

Result = Row | Skipped


def tokenize_files(
    audio: str | Path | Sequence[str | Path],
    codec_folder: Path | str,
    out: Path | str,
    *,
    workers: int = 1,
    shard_tracks: int = 64,
    device: str = "cpu",
    engine: str = "auto",
) -> Corpus:
    """Code audio files into a token corpus; goes on with a corpus that is there.

    Files that the corpus has are not coded again; those that were skipped are tried once more when
    there is nothing else to do. Memory is bounded
    by a block of audio for each worker and by the codes of a few tracks. With several workers a
    script that calls this must be importable (`if __name__ == "__main__":`), since they are
    spawned.

    Args:
        audio: files, folders or globs.
        codec_folder: of the codec.
        out: folder for the corpus.
        workers: processes; 1 works in this one. Of engine "ray", actors.
        shard_tracks: files, skipped ones included, that make one shard; a kill costs at most that.
        device: "cpu", "cuda" or "mps", or "auto" for the accelerator, if any.
        engine: "auto" for the fastest that can serve, "eager" for PyTorch, "native" for C++;
            "ray" for actors on a Ray cluster, each with "auto".

    Returns:
        The corpus, with what could not be used in `skipped`.

    Raises:
        InputError: no audio, no codec, malformed metadata, a folder that holds something else, or
            not one file that could be used; a worker that died (names the files it may have been
            reading); no Ray, or no cluster.
    """
    sources = find_sources(audio)
    hands = workforce
    if engine == "ray":
        hands, engine = cluster.workforce, "auto"
    codec = load_codec(codec_folder, pick_device(device), engine)
    columns = column_types([*(source.metadata for source in sources), _column_of_tags(sources)])
    writer = CorpusWriter(out, codec.spec, SETTINGS, columns)
    _check_same_files(writer, sources)
    pending = _pending(writer, sources)
    done = len(sources) - len(pending)
    workers = max(1, min(workers, len(pending)))
    try:
        with (
            Progress(len(sources), what="tokenizing", unit="files", done=done) as bar,
            hands(try_file, codec, codec_folder, (device, engine), workers) as code,
        ):
            results = code(pending)
            for _ in range(0, len(pending), shard_tracks):
                skipped: list[Skipped] = []
                group = itertools.islice(results, shard_tracks)
                writer.append(_rows(group, skipped, bar), skipped)
    finally:
        unusable = writer.skipped
        writer.abandon()
        writer.lock.release()
    if not len(writer):
        first = f"{unusable[0].path}: {unusable[0].reason}"
        raise InputError(f"none of {len(unusable)} files could be used; the first, {first}")
    return Corpus(out)


def _column_of_tags(sources: Sequence[Source]) -> dict[str, str]:
    """The further column that tags make where some hold text with times."""
    untold = (source.file for source in sources if not source.metadata.get(LYRICS))
    return {TIMED: ""} if any(TIMED in read_tags(file) for file in untold) else {}


def _pending(writer: CorpusWriter, sources: Sequence[Source]) -> list[Source]:
    """Files to code: those that are new; once all were looked at, those that were skipped again.

    In this order, so that a run that was cut off goes on with the groups that it had.
    """
    coded, skipped = set(writer.ids()), {entry.path for entry in writer.skipped}
    missing = [source for source in sources if source.id not in coded]
    return [source for source in missing if source.id not in skipped] or missing


def _check_same_files(writer: CorpusWriter, sources: Sequence[Source]) -> None:
    """Refuse another file under an id that the corpus has: its codes would silently be missing.

    Warns of text that is new: what a track was coded with stays.
    """
    if not len(writer):
        return
    corpus = Corpus(writer.folder, streaming=True)
    known = {source.id: source for source in sources}
    changed = 0
    for number, name in enumerate(corpus.ids()):
        if not (source := known.get(name)):
            continue
        row = corpus.metadata(number)
        if sha256_of(source.file) != row["audio_sha256"]:
            raise InputError(
                f"{writer.folder} has other audio under the id {name!r} than {source.file}: "
                "tokenize into another --out (or, of several folders, all in one command)"
            )
        changed += _text_changed(_metadata(source), row)
    if changed:
        warnings.warn(
            f"{changed} of {len(corpus)} tracks in {writer.folder} have other metadata than "
            "when they were coded: tokenize into another folder to take it up",
            stacklevel=3,
        )


def _text_changed(now: Mapping[str, Any], row: Row) -> bool:
    """Whether artist, genre, title or lyrics differ; passes over what is no text."""
    pairs = ((now.get(name) or "", row.get(name) or "") for name in (*TAGS, TIMED))
    return any(isinstance(value, str) and utf8(value) != coded for value, coded in pairs)


def encode_file(codec: Codec, file: Path, block: int = BLOCK) -> tuple[dict[str, np.ndarray], int]:
    """Codes of a whole file, {stream: [N] uint16}, and how many samples it has at the codec's rate.

    Memory does not grow with its length, apart from the codes, two bytes each. `block`, the
    samples that are read at a time, does not change them.

    Raises:
        AudioError: it can't be used.
    """
    spec = codec.spec
    samples = 0

    def blocks() -> Iterator[torch.Tensor]:
        nonlocal samples
        for audio in read_blocks(file, spec.sample_rate, spec.channels, block):
            samples += audio.shape[1]
            yield torch.from_numpy(audio)

    kept = {stream.name: bytearray() for stream in spec.streams}
    for part in codec.encode_stream(blocks()):
        for name, new in part.items():
            kept[name] += new.cpu().numpy().astype(np.uint16).tobytes()
    codes = {name: np.frombuffer(held, np.uint16) for name, held in kept.items()}
    if not any(map(len, codes.values())):
        raise AudioError(file, f"shorter than one code ({samples} samples)")
    return codes, samples


def code_file(codec: Codec, source: Source) -> Row:
    """One file's row of a token corpus.

    Raises:
        AudioError: it can't be used.
    """
    codes, samples = encode_file(codec, source.file)
    return {
        **_metadata(source),
        "id": source.id,
        "path": source.path,
        "audio_sha256": sha256_of(source.file),
        "num_samples": samples,
        **{CODES + name: one for name, one in codes.items()},
    }


def _metadata(source: Source) -> dict[str, Any]:
    """What is known about a file: its tags, and over them what files say."""
    tags = read_tags(source.file)
    given = {k: v for k, v in source.metadata.items() if v != "" or k not in tags}
    if given.get(LYRICS):
        tags.pop(TIMED, None)  # times of other words
    return {**tags, **given}


def try_file(codec: Codec, source: Source) -> Result:
    """One file's row, or why there is none."""
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
