"""How a token corpus becomes audio files: which stream, which file name, what to decode again.

It knows corpora, codecs and audio files, not networks. Shapes: N codes of a stream, C channels,
n samples of a block.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from codec.audio import WRITERS, write_audio
from codec.base import Codec
from codec.checkpoint import load_codec
from codec.corpus import Corpus
from codec.rows import CODES, Row
from codec.text import is_utf8
from codec.tokens import TokenSpec
from plugins.ground.device import pick_device
from plugins.ground.errors import InputError
from plugins.ground.files import FolderLock, claim_folder, read_json, write_json
from plugins.ground.progress import Progress

DECODED = "decoded.json"
LONGEST_NAME = 100


class Decoded(BaseModel):
    """One track's entry in `decoded.json`."""

    model_config = ConfigDict(frozen=True)

    file: str
    stream: str = ""
    """That was decoded; "" if the file is only planned."""
    sha256: str = ""
    """Of the codes that were decoded and the length that they were cut to."""


def decode_corpus(
    corpus_folder: Path | str,
    codec_folder: Path | str,
    out: Path | str,
    *,
    stream: str | None = None,
    format: str = "wav",
    device: str = "auto",
    engine: str = "auto",
) -> list[Path]:
    """Decode every track of a corpus into a file named after its id.

    What was decoded from which codes is kept in `decoded.json`, so that decoding again, after more
    was sampled, does only what has changed. Tracks that have no codes yet are left out.

    Args:
        corpus_folder: of the token corpus.
        codec_folder: of the codec that made its codes.
        out: folder for the files.
        stream: to decode; None: the finest that covers the whole track, or else covers most of it.
        format: suffix of the files: wav, flac, ogg, mp3 or opus.
        device: "auto" for the accelerator, if any, "cpu", "cuda" or "mps".
        engine: "auto" for the fastest that can serve, "eager" for PyTorch, "native" for C++.

    Returns:
        The files, in the order of the tracks.

    Raises:
        InputError: codes of another codec, no such stream or format, nothing to decode, or a
            folder that holds something else, or that another process writes to.
    """
    if f".{format}" not in WRITERS:
        known = ", ".join(suffix.removeprefix(".") for suffix in WRITERS)
        raise InputError(f"no audio format {format!r}; there are: {known}")
    corpus = Corpus(corpus_folder)
    codec = load_codec(codec_folder, pick_device(device), engine)
    codec.spec.require(corpus.spec, str(codec_folder), str(corpus_folder))
    if stream is not None:
        codec.spec.stream(stream)
    if not len(corpus):
        raise InputError(f"{corpus_folder} holds no tracks")
    files = []
    with FolderLock(out), Progress(len(corpus), what="decoding", unit="tracks") as bar:
        out = claim_folder(out, DECODED, "decoded audio")
        record = _plan(out, corpus.ids(), format)
        for row in corpus.tracks():
            codes = chosen_codes(row, codec.spec, stream)
            if codes:
                files.append(_decode_track(codec, row, codes, out, record))
            bar.advance(1)
    if not files:
        what = "codes" if stream is None else f"codes of stream {stream!r}"
        raise InputError(f"{corpus_folder} has no {what} yet: sample some first")
    return files


def chosen_codes(row: Row, spec: TokenSpec, stream: str | None = None) -> dict[str, np.ndarray]:
    """The codes to decode a track from.

    That is one stream, the finest that covers all of the track's `num_samples` or, if none does,
    the one that covers most, and with it the coarser ones that reach as far (a VQ-VAE does without
    them, a residual codec does not).

    Args:
        row: of a corpus.
        spec: its spec.
        stream: the name of the stream, to choose it oneself.

    Returns:
        {stream: [N] uint16}, finest first; empty if there are no codes.
    """
    held = {s.name: row[CODES + s.name] for s in spec.streams if len(row[CODES + s.name])}
    hops = {s.name: s.hop_length for s in spec.streams}
    covered = {name: len(codes) * hops[name] for name, codes in held.items()}
    if stream is None:
        whole = [n for n, codes in held.items() if len(codes) >= row["num_samples"] // hops[n]]
        stream = whole[0] if whole else max(covered, key=lambda n: covered[n], default=None)
    if stream not in held:
        return {}
    names = list(held)
    rest = names[names.index(stream) :]
    # A coarser stream ends up to one of its own codes before a finer one.
    return {n: held[n] for n in rest if covered[n] + hops[n] > covered[stream]}


def _decode_track(
    codec: Codec,
    row: Row,
    codes: Mapping[str, np.ndarray],
    out: Path,
    record: dict[str, Decoded],
) -> Path:
    """Write one track's file, unless it is there already."""
    path = out / record[row["id"]].file
    digest = hashlib.sha256(str(row["num_samples"]).encode())
    for name, stream in codes.items():
        digest.update(f" {name} {len(stream)} ".encode())
        digest.update(np.ascontiguousarray(stream).astype("<u2").data)
    entry = Decoded(file=path.name, stream=next(iter(codes)), sha256=digest.hexdigest())
    if record[row["id"]] != entry or not path.exists():
        write_audio(path, _audio(codec, codes, row["num_samples"]), codec.spec.sample_rate)
        record[row["id"]] = entry
        _save(out, record)
    return path


def _audio(codec: Codec, codes: Mapping[str, np.ndarray], samples: int) -> Iterator[np.ndarray]:
    """Decoded audio in blocks [C, n], cut to the track's length."""
    own = {name: torch.from_numpy(stream.copy()) for name, stream in codes.items()}
    for block in codec.decode_blocks(own):
        yield block[:, :samples].cpu().numpy()
        samples -= block.shape[1]
        if samples <= 0:
            return


def _plan(out: Path, ids: list[str], format: str) -> dict[str, Decoded]:
    """Which track goes into which file, those of an earlier run first; kept before any is written,
    so that a killed run knows its own files again.
    """
    record = _load(out)
    # Two names that differ by case only are one file on some systems.
    taken = {entry.file.casefold() for entry in record.values()}
    taken |= {path.name.casefold() for path in out.iterdir()}
    for name in ids:
        if name in record and record[name].file.endswith(f".{format}"):
            continue
        stem = safe_name(name)
        file, count = f"{stem}.{format}", 2
        while file.casefold() in taken:
            file, count = f"{stem}-{count}.{format}", count + 1
        taken.add(file.casefold())
        record[name] = Decoded(file=file)
    _save(out, record)
    return record


def safe_name(name: str) -> str:
    """A track's id as a file name without suffix, for any file system."""
    stem = re.sub(r"\.[A-Za-z0-9]{1,5}$", "", name)
    stem = re.sub(r"[^\w .,()&'+#=@-]+", "_", stem.replace("/", "_")).strip(" ._")
    while len(stem.encode()) > LONGEST_NAME:
        stem = stem[:-1]
    return stem or "track"


def _load(out: Path) -> dict[str, Decoded]:
    path = out / DECODED
    if not path.exists():
        return {}
    content: Any = read_json(path)
    try:
        record = {name: Decoded.model_validate(entry) for name, entry in content.items()}
    except (ValidationError, AttributeError) as error:
        raise InputError(f"{path} is damaged: choose another folder for the audio") from error
    if not is_utf8(content):
        raise InputError(f"{path} is damaged: choose another folder for the audio")
    if any(Path(entry.file).name != entry.file or "\0" in entry.file for entry in record.values()):
        raise InputError(f"{path} names files outside of its folder: choose another folder")
    return record


def _save(out: Path, record: Mapping[str, Decoded]) -> None:
    write_json(out / DECODED, {name: entry.model_dump() for name, entry in record.items()})
