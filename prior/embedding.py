"""Activations of a layer of a prior over a corpus: which windows, in which parts.

They are the features that music information retrieval takes from Jukebox (Castellon et al. 2021,
arXiv 2107.05677). It knows corpora and windows, not what a layer computes; what is written is
`prior.features`'s. Shapes: B windows of a batch, T codes of a window, W width of the prior.
"""

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from codec.corpus import Corpus
from conditioning.base import Track, Window
from plugins.ground.device import Precision, pick_device, pick_dtype
from plugins.ground.errors import InputError
from plugins.ground.files import FolderLock, claim_folder, sha256_of, write_json
from plugins.ground.progress import Progress
from plugins.ground.saved import WEIGHTS
from prior.checkpoint import load_prior, read_config
from prior.config import PriorConfig
from prior.data import identity, stack, window_alignment
from prior.features import (
    MANIFEST,
    Manifest,
    Part,
    Pool,
    Settings,
    code_rows,
    is_whole,
    taken_up,
    track_rows,
    write_rows,
)
from prior.prior import Prior, site_of

CODES_PER_PART = 1 << 20
WINDOWS_PER_PART = 1 << 10
BYTES_PER_PART = 1 << 29
"""Of vectors; memory holds those of one part."""
SHOWN = 5
"""How many tracks a message lists."""


@dataclass(frozen=True)
class Stretch:
    """What the prior sees at once."""

    track: int
    """Number of the track in the corpus."""
    start: int
    """First code."""
    length: int
    """T."""


def embed_corpus(
    corpus: Path | str,
    prior: Path | str,
    out: Path | str,
    *,
    layer: int,
    pool: Pool = "mean",
    labels: bool = False,
    dtype: Precision = "float32",
    device: str = "auto",
    batch_size: int = 4,
) -> Path:
    """Write what a layer of a prior makes of every track; goes on where an earlier call stopped.

    Tracks are cut into windows of one context, one after the other; the last may be shorter. The
    vector of a code is the residual stream where the prior is to predict that code from those
    before it. Layers behind the one asked for are neither loaded nor computed.

    Args:
        corpus: folder of the token corpus.
        prior: folder of the prior.
        out: folder for `embeddings.json` and `part-00000.parquet`, ... Rows have `id`, `embedding`
            (W of float32), and: by `pool="mean"`, a row a track, `layer` and `codes`, how many the
            mean is over; by "none", a row a code, `time`, where the code starts, in seconds.
        layer: counted from 0.
        pool: "mean" over all codes of a track, or "none".
        labels: tell the prior artist, genre, lyrics and other metadata of a track; names that it
            does not know count as unknown, and without labels all do: what features are to predict
            must not go into them.
        dtype: of weights and computation.
        device: "auto" for the accelerator, if any, "cpu", "cuda" or "mps".
        batch_size: windows at a time; changes rounding only.

    Returns:
        The folder.

    Raises:
        InputError: no such layer, codes of another codec or none at all, an output folder that
            holds something else or that another process writes to, or activations that leave the
            range of the dtype.
    """
    folder, config = Path(prior), read_config(prior)
    tokens, there = Corpus(corpus), pick_device(device)
    _check(tokens, config, layer, pool)
    pick_dtype(dtype, there)
    settings = Settings(
        corpus=identity(tokens, config) if labels else tokens.fingerprint,
        prior=sha256_of(folder / WEIGHTS),
        stream=config.stream,
        layer=layer,
        pool=pool,
        labels=labels,
        dtype=dtype,
        width=config.width,
    )
    work = Embedder(tokens, folder, Path(out), settings, there, batch_size)
    progress = Progress(work.total, "embedding", "codes", work.total - work.missing)
    with work.lock, progress as bar:
        for made in work.batches():
            bar.advance(made)
    return work.out


class Embedder:
    """Embeddings in the making.

    Args:
        corpus: of the tracks.
        folder: of the prior.
        out: folder for the embeddings.
        settings: of the same corpus and prior.
        device: to compute on.
        batch_size: windows at a time.

    Raises:
        InputError: a conditioner of the prior is not installed, or the output folder holds
            something else, or another process writes to it.
    """

    def __init__(
        self,
        corpus: Corpus,
        folder: Path,
        out: Path,
        settings: Settings,
        device: torch.device,
        batch_size: int,
    ) -> None:
        self.corpus, self.folder, self.settings = corpus, folder, settings
        self.device, self.batch_size = device, batch_size
        self.step = _step(read_config(folder))
        self.ids = corpus.ids()
        self.lengths: list[int] = corpus.lengths(settings.stream).tolist()
        empty = tuple(name for name, n in zip(self.ids, self.lengths, strict=True) if not n)
        rows = self.total if settings.pool == "none" else len(self.ids) - len(empty)
        self.lock = FolderLock(out)
        self.out = claim_folder(out, MANIFEST, "embeddings")
        fresh = Manifest(settings=settings, rows=rows, without_codes=empty)
        self.manifest = taken_up(self.out, fresh)
        self._written = {part.file for part in self.manifest.parts if is_whole(self.out, part)}
        _warn_of(empty, settings.stream)

    @property
    def total(self) -> int:
        """Codes of all tracks."""
        return sum(self.lengths)

    @property
    def missing(self) -> int:
        """Those that have no rows yet."""
        return sum(stretch.length for _, part in self._parts() for stretch in part)

    def batches(self) -> Iterator[int]:
        """Work batch by batch, part by part; gives how many codes each batch had."""
        prior = None
        for name, part in self._parts():
            if prior is None:
                prior = self._loaded()
                self._save()
            made: dict[Stretch, np.ndarray] = {}
            for batch in _alike(part, self.batch_size):
                made |= dict(zip(batch, self._activations(prior, batch), strict=True))
                yield sum(stretch.length for stretch in batch)
            self._write(name, [(stretch, made.pop(stretch)) for stretch in part])

    def _parts(self) -> Iterator[tuple[str, list[Stretch]]]:
        """The parts that are not written, by file name."""
        parts = plan(self.lengths, self.step, self.settings.pool, self.settings.width)
        for number, part in enumerate(parts):
            if (name := f"part-{number:05d}.parquet") not in self._written:
                yield name, part

    def _loaded(self) -> Prior:
        """The prior as far as it is needed; where it can't be had, no empty folder is left."""
        dtype: torch.dtype = getattr(torch, self.settings.dtype)
        try:
            return load_prior(self.folder, self.device, dtype, layers=self.settings.layer + 1)
        except InputError:
            with contextlib.suppress(OSError):  # it holds something
                self.out.rmdir()
            raise

    def _activations(self, prior: Prior, batch: Sequence[Stretch]) -> list[np.ndarray]:
        """Of each stretch [T, W] float32, or for the mean their sum [1, W] float64."""
        prepared = [self._prepared(prior, stretch) for stretch in batch]
        inputs = stack(prepared, self.device)
        with torch.inference_mode():
            condition = prior.condition(inputs)
            output = prior(inputs["codes"], condition, upto=self.settings.layer)
            hidden = output.hidden[:, prior.prefix :]
            self._check_finite(hidden, batch)
            if self.settings.pool == "mean":
                sums = hidden.sum(1, keepdim=True, dtype=torch.float32)
                return list(sums.cpu().numpy().astype(np.float64))
            return list(hidden.float().cpu().numpy())

    def _prepared(self, prior: Prior, stretch: Stretch) -> dict[str, Tensor]:
        """The codes of a stretch, [T] int64, and the conditioners' tensors."""
        track = self.corpus[stretch.track]
        known = track if self.settings.labels else _unlabelled(track)
        codes = track[f"codes_{self.settings.stream}"]
        own = codes[stretch.start : stretch.start + stretch.length].astype(np.int64)
        window = Window(stretch.start, track["num_samples"])
        return {"codes": torch.from_numpy(own), **prior.prepare(known, window)}

    def _check_finite(self, hidden: Tensor, batch: Sequence[Stretch]) -> None:
        for vectors, stretch in zip(hidden, batch, strict=True):
            if not vectors.isfinite().all():
                raise InputError(
                    f"layer {self.settings.layer} leaves the range of {self.settings.dtype} on "
                    f"track {self.ids[stretch.track]!r}: give --dtype bfloat16 or float32"
                )

    def _write(self, name: str, made: Sequence[tuple[Stretch, np.ndarray]]) -> None:
        """Publish a part, then list it."""
        settings, tracks = self.settings, [self.ids[s.track] for s, _ in made]
        vectors = [own for _, own in made]
        if settings.pool == "mean":
            lengths = [stretch.length for stretch, _ in made]
            table = track_rows(tracks, lengths, vectors, settings.layer)
        else:
            starts = [stretch.start for stretch, _ in made]
            rate = self.corpus.spec.rate(settings.stream)
            table = code_rows(tracks, starts, vectors, rate)
        write_rows(self.out / name, table, settings.width)
        others = [part for part in self.manifest.parts if part.file != name]
        parts = sorted([*others, Part(file=name, rows=len(table))], key=lambda part: part.file)
        self.manifest = self.manifest.model_copy(update={"parts": tuple(parts)})
        self._save()

    def _save(self) -> None:
        write_json(self.out / MANIFEST, self.manifest.model_dump(mode="json"))


def _check(corpus: Corpus, config: PriorConfig, layer: int, pool: str) -> None:
    """Refuse a corpus, a layer or a pool that does not fit."""
    config.spec.require(corpus.spec, "the prior", str(corpus.folder))
    if not 0 <= layer < config.depth:
        raise InputError(f"no layer {layer}: this prior's layers are 0 to {config.depth - 1}")
    if pool not in get_args(Pool):
        raise InputError(f"no pool {pool!r}: give {' or '.join(get_args(Pool))}")
    if not corpus.lengths(config.stream).any():
        raise InputError(
            f"no track of {corpus.folder} has codes of stream {config.stream!r}: tokenize or "
            "sample some first, or give another --stream"
        )


def _warn_of(empty: Sequence[str], stream: str) -> None:
    if empty:
        names = ", ".join(map(repr, empty[:SHOWN])) + (", ..." if len(empty) > SHOWN else "")
        warnings.warn(
            f"left out {len(empty)} tracks without codes of stream {stream!r}: {names}; "
            f"{MANIFEST} lists them",
            stacklevel=4,
        )


def _step(config: PriorConfig) -> int:
    """Codes from one window to the next: the most that a context holds and that starts allow."""
    align = window_alignment(site_of(config))
    return config.context // align * align or config.context


def plan(lengths: Sequence[int], step: int, pool: Pool, width: int) -> Iterator[list[Stretch]]:
    """The stretches of each part, in order; for the mean a track lies in one part as a whole.

    Args:
        lengths: codes of each track.
        step: codes of each window but a track's last.
        pool: of the rows.
        width: W.
    """
    most = CODES_PER_PART
    if pool == "none":
        most = min(most, BYTES_PER_PART // (4 * width))
    part: list[Stretch] = []
    held = 0
    for track, length in enumerate(lengths):
        starts = range(0, length, step)
        whole = [Stretch(track, start, min(step, length - start)) for start in starts]
        for piece in [whole] if pool == "mean" else [[stretch] for stretch in whole]:
            codes = sum(stretch.length for stretch in piece)
            if part and (held + codes > most or len(part) >= WINDOWS_PER_PART):
                yield part
                part, held = [], 0
            part += piece
            held += codes
    if part:
        yield part


def _alike(part: Sequence[Stretch], size: int) -> Iterator[list[Stretch]]:
    """Stretches of one length, up to `size` of them at a time."""
    alike: dict[int, list[Stretch]] = {}
    for stretch in part:
        alike.setdefault(stretch.length, []).append(stretch)
    for stretches in alike.values():
        yield from (stretches[i : i + size] for i in range(0, len(stretches), size))


def _unlabelled(row: Track) -> dict[str, Any]:
    """A row of a corpus with nothing but codes and length."""
    return {k: v for k, v in row.items() if k in ("id", "num_samples") or k.startswith("codes_")}
