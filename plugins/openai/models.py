"""Which model checkpoints belong to: what `--model` and the files say, as configs.

It knows where hyper-parameters come from and the published models by name; what they mean is
`plugins.openai.hps`'s.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from codec.config import PRESETS as CODECS
from codec.config import VQVAEConfig
from codec.tokens import TokenSpec
from plugins.ground.errors import InputError
from plugins.ground.files import read_json
from plugins.openai.hps import Hps, Incomplete, LabelHps, codec_config, conditioner, prior_config
from plugins.openai.names import label_rows
from plugins.openai.torchfile import Checkpoint
from plugins.openai.vocabulary import Vocabularies
from prior.config import CONDITIONERS, LayersConfig, PriorConfig, preset

ConfigT = TypeVar("ConfigT", bound=BaseModel)

PUBLISHED = ("5b", "5b_lyrics", "1b_lyrics")
UPSAMPLER, V3_MODEL = "upsampler", "1b_lyrics"
LEVELS = 3
"""Of the published codec."""
V2_LABELS = {"labels_v3": False, "y_bins": (120, 4111), "max_bow_genre_size": 5}
V3_LABELS = {"labels_v3": True, "y_bins": (604, 7898), "max_bow_genre_size": 1}
SCALED_LEVEL = 1
"""The published upsampler whose conditioner on the codes above has `cond_res_scale`."""

ADVICE = f"give --model: {', '.join(PUBLISHED)}, or a JSON file of hyper-parameters"

TRAINING = {
    *("ema_decay", "restart_threshold", "commit_weight", "reconstruction", "linf_k"),
    *("lmix_l1", "lmix_l2", "lmix_linf", "spectral_weight", "multispectral_weight", "resolutions"),
    *("init_scale", "dropout", "loss_weight"),
}
"""Fields of configs that decide nothing of what a trained model computes."""


class Model:
    """What the user says of the model that checkpoints belong to.

    Args:
        given: a name of `PUBLISHED`; a JSON file of hyper-parameters, {"hps": {...}}, or either by
            the checkpoints' names ("prior_level_2"); None: the checkpoints say it themselves.
        vocabularies: names of labels.

    Raises:
        InputError: no such model, or the file can't be read.
    """

    def __init__(self, given: str | None, vocabularies: Vocabularies) -> None:
        self.vocabularies = vocabularies
        self.name = given if given in PUBLISHED else None
        self._given = given
        self._file = None if given is None or self.name else _read(given)

    @property
    def what(self) -> str:
        """What tensors are compared with, for messages."""
        return f"--model {self._given}" if self._given else "its own hyper-parameters"

    def codec(self, checkpoint: Checkpoint) -> VQVAEConfig:
        """The config of a codec.

        Raises:
            InputError: hyper-parameters are missing or are none that this toolkit has, or those
                of the checkpoint are not those of the model named.
        """
        published = VQVAEConfig.model_validate(CODECS["jukebox"]) if self.name else None
        return self._chosen(checkpoint, codec_config, published)

    def prior(self, checkpoint: Checkpoint, spec: TokenSpec, level: int) -> PriorConfig:
        """The config of a prior of that level, for a codec of that spec.

        Raises:
            InputError: as `codec`.
        """
        published = self._published(self.name, spec, level) if self.name else None
        rows = label_rows(checkpoint.stored)
        return self._chosen(
            checkpoint,
            lambda hps: prior_config(hps, spec, level, self.vocabularies, rows),
            published,
        )

    def level(self, checkpoint: Checkpoint) -> int:
        """The level of a prior: 0 is the finest.

        Raises:
            InputError: neither hyper-parameters nor the file's name say it, or it is no number.
        """
        level = (self._hps_of(checkpoint) or {}).get("level")
        if type(level) is int and level >= 0:  # no bool
            return level
        if level is not None:
            raise InputError(
                f"{checkpoint.path}: hyper-parameter level: is {level!r}, but levels are 0, 1, ..."
            )
        if found := re.match(r"prior_level_(\d+)\b", checkpoint.path.name):
            return int(found[1])
        raise InputError(
            f"{checkpoint.path} does not say which level it models: name it prior_level_N.pth.tar, "
            "or give 'level' among its hyper-parameters"
        )

    def _hps_of(self, checkpoint: Checkpoint) -> Hps | None:
        """Of the user's file, else the checkpoint's own."""
        given = self._file
        if given and "hps" not in given and all(isinstance(v, dict) for v in given.values()):
            given = given.get(checkpoint.path.name.split(".")[0])
        if given is None:
            return checkpoint.hps
        hps = given.get("hps")
        return hps if isinstance(hps, dict) else given

    def _chosen(
        self, checkpoint: Checkpoint, read: Callable[[Hps], ConfigT], published: ConfigT | None
    ) -> ConfigT:
        """The config by hyper-parameters, if there are any; `published` must not contradict it."""
        path, hps = checkpoint.path, self._hps_of(checkpoint)
        try:
            own = None if hps is None else read(hps)
        except Incomplete as error:
            if published is None:
                raise InputError(f"{path}: {error}; {ADVICE}") from error
            own = None
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
        if own is None:
            if published is None:
                raise InputError(f"{path} holds no hyper-parameters; {ADVICE}")
            return published
        if published is not None and (problem := _difference(own, published)):
            raise InputError(
                f"{path} is not of --model {self.name}: its own hyper-parameters say {problem}; "
                "name the right model, or leave --model out"
            )
        return own

    def _published(self, name: str, spec: TokenSpec, level: int) -> PriorConfig:
        """The prior of a level of a published model."""
        if len(spec.streams) != LEVELS:
            raise InputError(f"--model {name} has {LEVELS} levels, its codec {len(spec.streams)}")
        top = level == LEVELS - 1
        shape = name if top else UPSAMPLER
        labels = LabelHps.of(V3_LABELS if shape == V3_MODEL else V2_LABELS)
        conditioners = labels.records(self.vocabularies)
        if top:
            told = CONDITIONERS[shape].items()
            conditioners += [conditioner(kind, **settings) for kind, settings in told]
        else:
            conditioners.append(conditioner("codes", res_scale=level == SCALED_LEVEL))
        return preset(shape, spec, spec.streams[level].name, conditioners)


def _read(given: str) -> dict[str, Any]:
    """A file of hyper-parameters."""
    if not given.endswith(".json") and not Path(given).is_file():
        raise InputError(
            f"no published model {given!r} (--model): there are {', '.join(PUBLISHED)}; or give a "
            "JSON file of hyper-parameters"
        )
    content = read_json(given)
    if not isinstance(content, dict):
        raise InputError(f"{given} is no table of hyper-parameters (--model)")
    return content


def _difference(own: BaseModel, published: BaseModel) -> str:
    """The first field in which two configs compute other things, with both values; "" for none."""
    mine, theirs = _computed(own), _computed(published)
    for name in [*mine, *(name for name in theirs if name not in mine)]:
        if mine.get(name) != theirs.get(name):
            return f"{name} = {_short(mine.get(name))}, not {_short(theirs.get(name))}"
    return ""


def _computed(config: BaseModel) -> dict[str, Any]:
    """The fields of a config that decide what is computed, nested ones by path."""
    fields = config.model_dump(mode="json", exclude={"spec"})
    for record in fields.pop("conditioners", ()):
        settings = record["config"]
        if network := settings.pop("network", None):
            settings |= LayersConfig.model_validate(network).model_dump(mode="json")
        fields |= {f"{record['name']}.{name}": value for name, value in settings.items()}
    return {name: fields[name] for name in fields if name.split(".")[-1] not in TRAINING}


def _short(value: Any) -> str:
    return f"{len(value)} entries" if isinstance(value, list) and len(value) > 12 else repr(value)
