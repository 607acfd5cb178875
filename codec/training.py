"""How a codec is trained: clips in, losses out, a codec folder at the end.

It knows codecs and audio; the loop itself is `plugins.ground.trainer`. Shapes: B batch,
C channels, T samples.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel
from torch import Tensor, nn

from codec.base import Codec
from codec.checkpoint import build_codec, require_registered, save_codec
from codec.data import AudioClips
from codec.sources import find_sources
from plugins import registry
from plugins.ground.config import build_config
from plugins.ground.options import TrainingOptions
from plugins.ground.split import split_ids
from plugins.ground.trainer import Batch, Task, show_cost, train, training_cost

PREPARING_CLIPS = 256
"""That a codec looks at before the first step."""
EVALUATED_CLIPS = 32
DEFAULT_PRESET = "small"


def train_codec(
    audio: Sequence[str],
    out: Path | str,
    *,
    codec: str = "vqvae",
    preset: str | None = None,
    set: Mapping[str, Any] | None = None,
    held_out: Sequence[str] = (),
    clip_seconds: float = 1.0,
    shift: bool = True,
    blend: bool = True,
    options: TrainingOptions | None = None,
) -> None:
    """Train a codec on music; goes on where an earlier call with the same arguments stopped.

    Files that can't be used are left out with a warning. The music is no part of what must stay
    the same: a training goes on without a file that was found to be damaged on the way.

    Args:
        audio: files, folders or globs.
        out: folder for the codec, its resumable state and its figures.
        codec: registry name.
        preset: name of one of the codec's presets; None: "small", or the defaults of the config
            if the codec has no preset of that name.
        set: settings over the preset's.
        held_out: patterns of track ids that are only evaluated on.
        clip_seconds: length of a training clip.
        shift: start clips anywhere in a track (random shift).
        blend: mix a file's channels with random weights (random stereo blend).
        options: how to train.

    Raises:
        InputError: bad settings, no audio that can be used, a file whose damage shows when a clip
            is read (names it), or `out` holds something else.
    """
    options = options or TrainingOptions()
    cls = registry.get(registry.CODECS, codec)
    config = _config(cls, preset, set or {})
    sources = find_sources(audio, lyrics=False)
    files, back = (
        [sources[i].file for i in part]
        for part in split_ids([source.id for source in sources], held_out)
    )
    if options.dry_run:
        with torch.device("meta"):  # shapes without memory
            show_cost(training_cost(build_codec(cls, config), options))
        return
    torch.manual_seed(options.seed)
    model = build_codec(cls, config)
    require_registered(model)
    spec = model.spec
    hop = spec.coarsest_hop
    length = max(1, round(clip_seconds * spec.sample_rate / hop)) * hop
    rate, channels, seed = spec.sample_rate, spec.channels, options.seed
    clips = AudioClips(files, rate, channels, length, seed=seed, shift=shift, blend=blend)
    unseen = AudioClips(back, rate, channels, length, shift=False) if back else None
    settings = {
        "codec": codec,
        "model": config.model_dump(mode="json"),
        "music": f"{len(sources)} files, {ids_digest(source.id for source in sources)}",
        "held_out": list(held_out),
        "clip_seconds": clip_seconds,
        "shift": shift,
        "blend": blend,
        **options.model_dump(mode="json", include={*TrainingOptions.model_fields}),
    }
    train(CodecTask(model, clips, unseen), options, Path(out), settings)


def ids_digest(ids: Iterable[str]) -> str:
    """Name of a set of tracks."""
    return hashlib.sha256("\n".join(sorted(ids)).encode()).hexdigest()[:16]


def _config(cls: type[Codec], preset: str | None, settings: Mapping[str, Any]) -> BaseModel:
    """The config of a codec of that class; None is the default preset, if the codec has it."""
    if preset is None and DEFAULT_PRESET not in cls.presets:
        return build_config(cls.Config, {"": {}}, "", settings)
    return build_config(cls.Config, cls.presets, preset or DEFAULT_PRESET, settings)


class CodecTask(Task):
    """A codec, the clips it learns from, and the clips it is judged by."""

    module: Codec

    def __init__(self, codec: Codec, clips: AudioClips, held_out: AudioClips | None) -> None:
        self.module, self.clips, self.held_out = codec, clips, held_out

    def prepare(self) -> None:
        """Let the codec look at clips [C, T] of the training set."""
        count = min(PREPARING_CLIPS, len(self.clips.crops))
        with registry.blaming(type(self.module), "prepare its training"):
            self.module.prepare_training(self.clips(index) for index in range(count))

    def item(self, index: int) -> Mapping[str, Tensor]:
        """One clip [C, T]."""
        return {"audio": self.clips(index)}

    def loss(self, module: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The codec's own loss of a batch [B, C, T]."""
        assert isinstance(module, Codec)
        return _step(module, batch["audio"])

    def evaluate(self, module: nn.Module) -> dict[str, float]:
        """Mean figures over at most `EVALUATED_CLIPS` held-out clips, each time the same."""
        assert isinstance(module, Codec)
        if self.held_out is None:
            return {}
        total: dict[str, float] = defaultdict(float)
        count = min(EVALUATED_CLIPS, len(self.held_out.crops))
        device = next(module.parameters()).device
        for index in range(count):
            _, figures = _step(module, self.held_out(index)[None].to(device))
            for name, value in figures.items():
                total[name] += value.item() / count
        return dict(total)

    def save(self, module: nn.Module, folder: Path) -> None:
        """Publish the codec's folder."""
        assert isinstance(module, Codec)
        save_codec(module, folder)


def _step(codec: Codec, audio: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """`training_step` on audio [B, C, T], held to its word."""
    with registry.blaming(type(codec), "take a training step"):
        made = codec.training_step(audio)
        if not (isinstance(made, tuple) and len(made) == 2 and isinstance(made[1], Mapping)):
            raise TypeError("training_step must give a loss and figures by name")
        loss, figures = made
        for name, value in {**figures, "loss": loss}.items():
            if not (isinstance(value, Tensor) and value.ndim == 0):
                raise TypeError(f"training_step must give {name!r} as a tensor of one number, []")
        if not loss.is_floating_point():
            raise TypeError(f"training_step must give a loss of floats, not {loss.dtype}")
    return loss, dict(figures)
