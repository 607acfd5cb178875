"""A model folder: `codec/` and `prior_<stream>/`, a prior for each stream that is modelled.

A folder that is a prior itself counts as a model of that prior alone, so that one that was just
trained can be used as it lies.

It knows where the parts lie and whether they belong together, not what they are: it reads their
configs, no weights.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError, model_validator

from plugins.ground.errors import InputError, first_problem
from plugins.ground.saved import CONFIG, load_config


def codec_of(model: Path) -> Path:
    """The folder of a model's codec; there need be no priors.

    Raises:
        InputError: it is missing, or a prior was made for another codec (names both).
    """
    codec = model / "codec"
    if not codec.is_dir():
        raise InputError(f"{model} is no model: it has no codec/")
    load_config(codec, "codec")
    _fitting(model, [folder for folder in _folders(model) if (folder / CONFIG).is_file()])
    return codec


def priors_of(model: Path) -> list[Path]:
    """The folders of a model's priors, that of the finest stream first; there need be no codec.

    Raises:
        InputError: it has none, or they and the codec were not made for each other or two are of
            one stream (names both).
    """
    return list(_by_stream(model).values())


def prior_of(model: Path, stream: str | None = None) -> Path:
    """The folder of a model's prior of one stream; the coarsest that it has unless named.

    Raises:
        InputError: as `priors_of`, or it has no prior of that stream.
    """
    priors = _by_stream(model)
    if stream is None:
        return [*priors.values()][-1]
    if stream not in priors:
        raise InputError(
            f"{model} has no prior of stream {stream!r}; there are: {', '.join(priors)}"
        )
    return priors[stream]


def chosen_codec(codec: Path | None, model: Path | None) -> Path:
    """The codec that a command's `--codec` names, or its `--model`.

    Raises:
        InputError: not exactly one of them is given, or as `codec_of`.
    """
    if codec is not None and model is None:
        return codec
    if model is not None and codec is None:
        return codec_of(model)
    raise InputError("give either --codec or --model")


def chosen_priors(
    priors: Sequence[Path], model: Path | None, streams: Sequence[str]
) -> Sequence[Path]:
    """The priors that a command names one by one, or by its `--model` and `--streams`.

    Raises:
        InputError: not exactly one of both is given, or as `prior_of`.
    """
    if bool(priors) == (model is not None):
        raise InputError("give either folders of priors or --model")
    if model is not None:
        return [prior_of(model, stream) for stream in streams] or priors_of(model)
    if streams:
        raise InputError("--streams chooses among the priors of a --model: leave it out")
    return priors


class _Stream(BaseModel):
    name: str


class _Spec(BaseModel):
    """What is needed here of the TokenSpec in a config."""

    codec: str
    fingerprint: str
    streams: list[_Stream]


class _Codec(BaseModel):
    """A codec's config."""

    spec: _Spec | None = None
    """None: from before it was kept there."""


class _Prior(BaseModel):
    """A prior's config."""

    spec: _Spec
    stream: str

    @model_validator(mode="after")
    def _stream_is_there(self) -> "_Prior":
        if self.stream not in [stream.name for stream in self.spec.streams]:
            raise ValueError(f"its codec has no stream {self.stream!r}")
        return self


ConfigT = TypeVar("ConfigT", _Codec, _Prior)


def _by_stream(model: Path) -> dict[str, Path]:
    """A model's priors by stream, finest first."""
    folders = _folders(model)
    if not folders:
        raise InputError(f"{model} is no model: it has no prior_0/, prior_1/, ...")
    priors = _fitting(model, folders)
    found: dict[str, Path] = {}
    for folder, prior in priors.items():
        if prior.stream in found:
            raise InputError(
                f"{folder} and {found[prior.stream]} both model stream {prior.stream!r}: move one "
                "of them out of the model"
            )
        found[prior.stream] = folder
    names = [stream.name for stream in priors[folders[0]].spec.streams]
    return {name: found[name] for name in names if name in found}


def _folders(model: Path) -> list[Path]:
    if (model / CONFIG).is_file():
        return [model]
    return sorted(path for path in model.glob("prior_*") if path.is_dir())


def _fitting(model: Path, folders: Sequence[Path]) -> dict[Path, _Prior]:
    """The configs of priors, if they and the model's codec, if any, were made for each other.

    Raises:
        InputError: they were not, or a config is damaged.
    """
    priors = {folder: _read(folder, "prior", _Prior) for folder in folders}
    specs = {folder: prior.spec for folder, prior in priors.items()}
    codec = model / "codec"
    if (codec / CONFIG).is_file():
        spec = _read(codec, "codec", _Codec).spec
        specs = {codec: spec, **specs} if spec else specs
    said = {folder: f"{spec.codec} {spec.fingerprint}" for folder, spec in specs.items()}
    for folder, name in said.items():
        first, expected = next(iter(said.items()))
        if name != expected:
            raise InputError(
                f"{folder} is of codec {name}, but {first} of {expected}: {model} mixes parts of "
                "different models"
            )
    return priors


def _read(folder: Path, kind: str, cls: type[ConfigT]) -> ConfigT:
    try:
        return cls.model_validate(load_config(folder, kind))
    except ValidationError as error:
        raise InputError(f"{folder / CONFIG} is damaged: {first_problem(error)}") from error
