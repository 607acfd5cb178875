"""Published checkpoints -> a model folder, tensor by tensor.

It knows the order of the work and how it is published; names, hyper-parameters and files are
other files' of this folder. A prior is refused, if it is, before its first weight is read.
"""

import contextlib
import filecmp
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from codec.checkpoint import read_spec, save_codec
from codec.config import VQVAEConfig
from codec.quantize import Quantizer
from codec.tokens import TokenSpec
from codec.vqvae import VQVAE
from plugins.ground import saved
from plugins.ground.errors import InputError
from plugins.ground.files import PARTIAL, FolderLock
from plugins.ground.progress import Progress
from plugins.openai.models import Model
from plugins.openai.names import Layout, layout_of, match
from plugins.openai.torchfile import Checkpoint, Weights
from plugins.openai.vocabulary import Vocabularies
from prior.checkpoint import KIND, read_config
from prior.config import PriorConfig

CODEC, PRIOR = "codec", "prior_{stream}"
PART = rf"{CODEC}|prior_\d+"
CODEC_SIGN, PRIOR_SIGN = "bottleneck.level_blocks.0.k", "prior.x_emb.weight"
"""Tensors that every codec has, and every prior."""


def convert(
    checkpoints: Sequence[Path | str],
    out: Path | str,
    model: str | None = None,
    labels: Path | str | None = None,
) -> list[Path]:
    """Convert published checkpoints.

    Memory holds one checkpoint's weights at most, as they are stored, and the largest tensor
    beside them. A folder takes one conversion at a time: another process is refused.

    Args:
        checkpoints: a codec, priors, or both.
        out: model folder; gains `codec/` and `prior_<level>/`. Parts that it has stay, and priors
            are made for the codec that it has, or that is converted with them.
        model: which they are: see `plugins.openai.models.Model`.
        labels: folder with names of labels: see `plugins.openai.vocabulary.Vocabularies`.

    Returns:
        The folders of what was converted: codec, then priors as given.

    Raises:
        InputError: a file is damaged or not what it should be, there is no codec, or `out` holds
            something else, another conversion or half of one. Nothing is left of what was under
            way, nor of a conversion that was killed.
    """
    out = Path(out)
    told = Model(model, Vocabularies(labels))
    codec, priors = _by_kind([Checkpoint(path) for path in checkpoints])
    with _parts(out) as parts:
        spec = _convert_codec(codec, told, parts, out) if codec else _spec_of(out)
        jobs = [_job(prior, told, spec, out) for prior in priors]
        for job in jobs:
            if [other.folder for other in jobs].count(job.folder) > 1:
                raise InputError(f"two checkpoints are {job.folder}, {job.path} one of them")
        for job in jobs:
            _convert_prior(job, parts)
    return [out / name for name in parts.names]


def _by_kind(checkpoints: Sequence[Checkpoint]) -> tuple[Checkpoint | None, list[Checkpoint]]:
    """The codec, if there is one, and the priors."""
    codecs = [c for c in checkpoints if CODEC_SIGN in c.stored]
    priors = [c for c in checkpoints if PRIOR_SIGN in c.stored]
    for checkpoint in checkpoints:
        if checkpoint not in codecs and checkpoint not in priors:
            raise InputError(
                f"{checkpoint.path} is neither a published codec nor a prior: it has neither "
                f"{CODEC_SIGN} nor {PRIOR_SIGN}"
            )
    if not checkpoints:
        raise InputError("give checkpoints to convert")
    if len(codecs) > 1:
        raise InputError(f"{codecs[0].path} and {codecs[1].path} are both codecs: give one")
    return (codecs[0] if codecs else None), priors


# Codecs


def _convert_codec(checkpoint: Checkpoint, told: Model, parts: "_Parts", out: Path) -> TokenSpec:
    """Make `codec/`; gives its spec, with the fingerprint that priors are made for."""
    there = _is_there(out / CODEC)
    config = told.codec(checkpoint)
    layout, names = _fit(config, checkpoint, told)
    codec = VQVAE(config)
    codec.load_state_dict(dict(_tensors(checkpoint.path, layout, names)), strict=False)
    for quantizer in codec.quantizers:
        assert isinstance(quantizer, Quantizer)
        # As if each entry had been chosen once: further training moves it from where it is.
        quantizer.counts.fill_(1)
        quantizer.sums.copy_(quantizer.codebook)
        quantizer.initialised.fill_(True)
    spec = save_codec(codec, parts.stage(CODEC))
    if there and read_spec(out / CODEC) != spec:
        raise _occupied(out / CODEC)
    return spec


def _spec_of(out: Path) -> TokenSpec:
    if not _is_there(out / CODEC):
        raise InputError(
            f"a prior belongs to a codec: convert vqvae.pth.tar to {out} in the same call, or first"
        )
    return read_spec(out / CODEC)


# Priors


@dataclass(frozen=True)
class _Job:
    """A prior that fits its config."""

    checkpoint: Checkpoint
    config: PriorConfig
    layout: Layout
    names: dict[str, str]
    """Of tensors in the file, by published names."""

    @property
    def path(self) -> Path:
        return self.checkpoint.path

    @property
    def folder(self) -> str:
        return PRIOR.format(stream=self.config.stream)


def _job(checkpoint: Checkpoint, told: Model, spec: TokenSpec, out: Path) -> _Job:
    level = told.level(checkpoint)
    if level >= len(spec.streams):
        raise InputError(
            f"{checkpoint.path} is of level {level}, but its codec has {len(spec.streams)} levels"
        )
    config = told.prior(checkpoint, spec, level)
    job = _Job(checkpoint, config, *_fit(config, checkpoint, told))
    if _is_there(out / job.folder) and read_config(out / job.folder) != config:
        raise _occupied(out / job.folder)
    return job


def _convert_prior(job: _Job, parts: "_Parts") -> None:
    """Make `prior_<level>/`, in the types that the checkpoint has."""
    folder = parts.stage(job.folder)
    layout = {
        ours: (source.our_shape, job.checkpoint.stored[job.names[source.name]].dtype)
        for ours, source in job.layout.sources.items()
    }
    tensors = _tensors(job.path, job.layout, job.names)
    with Progress(len(layout), f"converting {job.folder}", "tensors") as bar:
        saved.write_weights(folder / saved.WEIGHTS, layout, _counted(tensors, bar))
    saved.save_config(folder, KIND, job.config.model_dump(mode="json"))


def _counted(tensors: Iterator[tuple[str, Tensor]], bar: Progress) -> Iterator[tuple[str, Tensor]]:
    for tensor in tensors:
        yield tensor
        bar.advance()


# Tensors


def _fit(
    config: VQVAEConfig | PriorConfig, checkpoint: Checkpoint, told: Model
) -> tuple[Layout, dict[str, str]]:
    """The layout of a config, and the file's names for the published ones; all must be there."""
    try:
        layout = layout_of(config)
    except InputError as error:
        raise InputError(f"{checkpoint.path}: {error}") from error
    return layout, match(layout, checkpoint.stored, checkpoint.path, told.what)


def _tensors(path: Path, layout: Layout, names: dict[str, str]) -> Iterator[tuple[str, Tensor]]:
    """Our tensors by our names, one at a time.

    Raises:
        InputError: one is not finite, or one that should equal another does not.
    """
    weights = Weights(path)
    for ours, source in layout.sources.items():
        tensor = weights.take(names[source.name])
        if not saved.finite(tensor):
            raise InputError(
                f"{path}: {source.name} holds NaN or infinity: the file is damaged, download it "
                "again"
            )
        twin = layout.twins.get(ours)
        if twin and not torch.equal(weights.take(names[twin.name]), tensor):
            raise InputError(
                f"{path}: {twin.name} differs from {source.name}, but its hyper-parameters say "
                "that they are one table (merged_decoder is false)"
            )
        yield ours, tensor.T if source.transposed else tensor


# What is published


class _Parts:
    """Parts of a model that are made beside their places, to be published together."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.names: list[str] = []

    def stage(self, name: str) -> Path:
        """An empty folder to make a part in."""
        folder = self._staged(name)
        self.names.append(name)
        with self._writing():
            folder.mkdir()
        return folder

    def publish(self) -> None:
        """Rename all of them into their places, unless they are there already.

        Raises:
            InputError: another conversion is there, or the folder can't be written.
        """
        new = [name for name in self.names if not _is_there(self.out / name)]
        for name in self.names:
            if name not in new and not self._is_same(name):
                raise _occupied(self.out / name)
        with self._writing():
            for name in new:
                self._staged(name).rename(self.out / name)

    def _is_same(self, name: str) -> bool:
        """Whether a part that is in its place is the one that was made; its config is."""
        if name == CODEC:  # what training keeps beside the weights may differ
            return True
        made, found = self._staged(name) / saved.WEIGHTS, self.out / name / saved.WEIGHTS
        return filecmp.cmp(made, found, shallow=False)

    def discard(self) -> None:
        """Remove what was not published, also by a conversion that was killed."""
        for path in self.out.glob(f".*{PARTIAL}"):
            if re.fullmatch(PART, path.name[1:].removesuffix(PARTIAL)):
                shutil.rmtree(path, ignore_errors=True)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise InputError(f"can't write {self.out}: {error.strerror}") from error

    def _staged(self, name: str) -> Path:
        return self.out / f".{name}{PARTIAL}"


@contextlib.contextmanager
def _parts(out: Path) -> Iterator[_Parts]:
    """Parts that are published if all goes well; otherwise `out` is left as it was found."""
    new = [folder for folder in (out, *out.parents) if not os.path.exists(folder)]
    with FolderLock(out):
        try:
            _claim(out)
            parts = _Parts(out)
            parts.discard()
            try:
                yield parts
                parts.publish()
            except InputError as error:  # of a place that the user knows
                raise InputError(re.sub(rf"\.({PART}){PARTIAL}", r"\1", str(error))) from error
            finally:
                parts.discard()
        finally:
            for folder in new:
                with contextlib.suppress(OSError):  # not empty: it was published
                    folder.rmdir()


def _claim(out: Path) -> None:
    """Take up an empty folder or one that holds a model."""
    try:
        names = [path.name for path in out.iterdir() if PARTIAL not in path.name]
    except OSError as error:
        raise InputError(f"can't use {out} as model folder: {error.strerror}") from error
    if names and not any(re.fullmatch(PART, name) for name in names):
        raise InputError(f"{out} holds something other than a model; choose an empty folder")


def _is_there(folder: Path) -> bool:
    """Whether there is a part already; one without its files is refused."""
    if not os.path.lexists(folder):  # a link to nowhere is in the way, too
        return False
    for name in (saved.CONFIG, saved.WEIGHTS):
        if not (folder / name).is_file():
            raise InputError(
                f"{folder} is incomplete, it has no {name}: remove it, or move it away"
            )
    return True


def _occupied(folder: Path) -> InputError:
    return InputError(
        f"{folder} is there already, and is another conversion: move it away, or choose another "
        "--out"
    )
