"""How a codec is judged on held-out audio: what each stream keeps, and at what rate.

It knows files, codecs and figures, not networks. Shapes: C channels, T samples of a stretch,
K entries of a codebook.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from pydantic import BaseModel
from torch import Tensor

from codec.audio import AudioError, read_blocks, regroup
from codec.base import Codec
from codec.checkpoint import load_codec
from codec.metrics import (
    bits_per_second,
    codebook_use,
    count_codes,
    decibels,
    spectral_convergence,
)
from codec.rows import Skipped
from codec.sources import Source, find_sources
from codec.tokenizing import encode_file
from codec.tokens import TokenSpec
from plugins.ground.device import pick_device
from plugins.ground.errors import InputError
from plugins.ground.progress import Progress

STRETCH_SECONDS = 8.0
"""Audio whose spectra are held at a time."""


class StreamFigures(BaseModel):
    """What one stream, along with all coarser ones, keeps over all tracks."""

    spectral_convergence_db: float | None
    """Mean over tracks that are not silent; None if all are."""
    codes: int
    used: int
    """Entries of the codebook that occur."""
    vocab_size: int
    perplexity: float
    bits_per_second: float
    """As stored plainly, every entry the same number of bits."""
    entropy_bits_per_second: float
    """As an ideal coder would store single codes."""


class TrackFigures(BaseModel):
    """What is kept of one track."""

    id: str
    seconds: float
    spectral_convergence_db: dict[str, float | None]
    """By stream; None for silence."""


class Report(BaseModel):
    """What `evaluate_codec` finds."""

    spec: TokenSpec
    seconds: float
    streams: dict[str, StreamFigures]
    tracks: list[TrackFigures]
    skipped: list[Skipped]


def evaluate_codec(
    audio: str | Path | Sequence[str | Path],
    codec_folder: Path | str,
    *,
    device: str = "auto",
    engine: str = "auto",
) -> Report:
    """Code and decode audio; memory does not grow with its length, apart from codes.

    Args:
        audio: files, folders or globs; held out of training, or the figures flatter.
        codec_folder: of the codec.
        device: "auto" for the accelerator, if any, "cpu", "cuda" or "mps".
        engine: "auto" for the fastest that can serve, "eager" for PyTorch, "native" for C++.

    Raises:
        InputError: no audio, no codec, or not one file that could be used.
    """
    sources = find_sources(audio, lyrics=False)
    codec = load_codec(codec_folder, pick_device(device), engine)
    counts = {s.name: torch.zeros(s.vocab_size, dtype=torch.int64) for s in codec.spec.streams}
    tracks: list[TrackFigures] = []
    skipped: list[Skipped] = []
    with Progress(len(sources), what="evaluating", unit="files") as bar:
        for source in sources:
            try:
                tracks.append(_evaluate_track(codec, source, counts))
            except AudioError as error:
                skipped.append(Skipped(path=source.id, reason=error.reason))
            bar.advance(1)
    if not tracks:
        first = f"{skipped[0].path}: {skipped[0].reason}"
        raise InputError(f"none of {len(skipped)} files could be used; the first, {first}")
    return Report(
        spec=codec.spec,
        seconds=sum(track.seconds for track in tracks),
        streams={name: _stream(codec.spec, name, counts[name], tracks) for name in counts},
        tracks=tracks,
        skipped=skipped,
    )


def _evaluate_track(codec: Codec, source: Source, counts: dict[str, Tensor]) -> TrackFigures:
    """One track's figures; its codes are added to `counts`, stream -> [K]."""
    coded, samples = encode_file(codec, source.file)
    codes = {name: torch.from_numpy(stream) for name, stream in coded.items()}
    kept = {name: _convergence(codec, source, _from(name, codes, codec.spec)) for name in codes}
    for name, stream in codes.items():
        counts[name] += count_codes(stream.long(), len(counts[name])).to(torch.int64).cpu()
    seconds = samples / codec.spec.sample_rate
    return TrackFigures(id=source.id, seconds=seconds, spectral_convergence_db=kept)


def _from(stream: str, codes: dict[str, Tensor], spec: TokenSpec) -> dict[str, Tensor]:
    """The codes of a stream and of all coarser ones, without which some codecs can't decode it."""
    names = [one.name for one in spec.streams]
    return {name: codes[name] for name in names[names.index(stream) :]}


def _convergence(codec: Codec, source: Source, codes: dict[str, Tensor]) -> float | None:
    """Spectral convergence of a track decoded from `codes`, in decibels; None for silence."""
    spec = codec.spec
    size = round(STRETCH_SECONDS * spec.sample_rate)
    decoded = (block.T.cpu().numpy() for block in codec.decode_blocks(codes))
    original = read_blocks(source.file, spec.sample_rate, spec.channels, size)
    ratio = spectral_convergence(
        (_item(target[:, : len(output)], codec), _item(output.T, codec))
        # What lies past the last whole code is not decoded.
        for output, target in zip(regroup(decoded, size), original, strict=False)
    )
    return None if ratio.isnan() else decibels(ratio).item()


def _item(audio: np.ndarray, codec: Codec) -> Tensor:
    """[C, T] as a batch of one, [1, C, T]."""
    return torch.from_numpy(np.ascontiguousarray(audio))[None].to(codec.device)


def _stream(
    spec: TokenSpec, name: str, counts: Tensor, tracks: Sequence[TrackFigures]
) -> StreamFigures:
    use = codebook_use(counts.double())
    kept = [track.spectral_convergence_db[name] for track in tracks]
    heard = [value for value in kept if value is not None]
    return StreamFigures(
        spectral_convergence_db=sum(heard) / len(heard) if heard else None,
        codes=int(counts.sum()),
        used=int(use.used),
        vocab_size=len(counts),
        perplexity=float(use.perplexity),
        bits_per_second=bits_per_second(spec, name),
        entropy_bits_per_second=bits_per_second(spec, name, float(use.entropy)),
    )


def show(report: Report) -> None:
    """Print the figures as a table."""
    from rich.console import Console
    from rich.table import Table

    minutes = report.seconds / 60
    title = f"{len(report.tracks)} tracks, {minutes:.1f} min, {len(report.skipped)} files skipped"
    table = Table(title=title)
    for heading in ("stream", "spectral convergence", "entries used", "perplexity", "bits/s"):
        table.add_column(heading, justify="right")
    for name, figures in report.streams.items():
        kept = figures.spectral_convergence_db
        table.add_row(
            name,
            "silent" if kept is None else f"{kept:.2f} dB",
            f"{figures.used} of {figures.vocab_size}",
            f"{figures.perplexity:.1f}",
            f"{figures.bits_per_second:.0f} (entropy {figures.entropy_bits_per_second:.0f})",
        )
    console = Console()
    console.print(table)
    for skipped in report.skipped:
        console.print(f"  {skipped.path}: {skipped.reason}", markup=False)
