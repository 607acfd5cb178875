"""How a prior is trained: a token corpus in, a prior folder out.

It knows codes and Conditions; the loop itself is `plugins.ground.trainer`. Shapes: B batch,
T codes of a window.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel
from torch import Tensor, nn

from codec.corpus import Corpus
from codec.tokens import TokenSpec
from conditioning.base import Conditioner, LyricsReader
from plugins import registry
from plugins.ground.config import build_config
from plugins.ground.errors import InputError
from plugins.ground.files import sha256_of
from plugins.ground.options import TrainingOptions
from plugins.ground.processes import bfloat16
from plugins.ground.saved import WEIGHTS, fill, load_weights
from plugins.ground.split import split_ids
from plugins.ground.trainer import (
    Batch,
    Task,
    show_cost,
    train,
    training_cost,
    training_device,
)
from prior.attention.base import LayerAttention
from prior.attention.kernels import AUTO
from prior.checkpoint import read_config, save_prior
from prior.config import CONDITIONERS, PriorConfig
from prior.config import preset as complete
from prior.data import Labels, Windows, identity, stack, unigram_surprise
from prior.prior import Prior, check_attention
from prior.streaming import StreamedWindows
from prior.transformer import Layer

EVALUATED_WINDOWS = 64
COUNTED_TRACKS = 512
"""Of a corpus that is streamed, to know which codes are common."""


def train_prior(
    corpus: Path | str,
    out: Path | str,
    *,
    stream: str | None = None,
    preset: str | None = None,
    set: Mapping[str, Any] | None = None,
    conditioners: Sequence[str] | None = None,
    conditioner_set: Mapping[str, Any] | None = None,
    init: Path | str | None = None,
    held_out: Sequence[str] = (),
    attention: str = "auto",
    attention_set: Mapping[str, Any] | None = None,
    recompute: bool = False,
    streaming: bool = False,
    options: TrainingOptions | None = None,
) -> None:
    """Train a prior on a corpus; goes on where an earlier call with the same arguments stopped.

    Args:
        corpus: folder of a token corpus.
        out: folder for the prior, its resumable state and its figures.
        stream: to model; the coarsest unless named.
        preset: a name of `prior.config.PRESETS`; "small" unless named.
        set: settings over the preset's.
        conditioners: registry names; artist and genre, with timing at the coarsest stream and
            the codes above at any other, unless named.
        conditioner_set: "name.setting" -> value, over the conditioners' defaults.
        init: folder of a prior to start from; shape and conditioners are its own, and its
            vocabularies grow by the labels of the corpus.
        held_out: patterns of track ids that are only evaluated on.
        attention: by registry name: a kernel, or attention that has parameters of its own, which
            then belongs to the prior.
        attention_set: settings of the latter.
        recompute: hold only each layer's input and compute the rest again (gradient
            checkpointing).
        streaming: read a large corpus from its shards in a shuffled order of row groups, instead of
            mapping a copy of it.
        options: how to train.

    Raises:
        InputError: bad settings, codes of another codec, metadata that a conditioner reads and the
            corpus lacks, or `out` holds something else.
    """
    options = options or TrainingOptions()
    data = Corpus(corpus, streaming)
    ids = data.ids()
    train_on, back = split_ids(ids, held_out)
    labels = Labels(data, train_on)
    if init is None:
        name = stream or data.spec.streams[-1].name
        shape = preset or "small"
        chosen = conditioners
        if chosen is None:
            chosen = default_conditioners(data.spec, name, shape)
        check_columns(chosen, data)
        if not options.dry_run:
            check_lyrics(chosen, labels, data.folder)
        records = fit_conditioners(chosen, shape, conditioner_set or {}, labels)
        own = own_attention_record(attention, attention_set or {})
        shaping = {**_allowed(set or {}), "attention": own}
        config = complete(shape, data.spec, name, records, **shaping)
    else:
        if preset or set or conditioners or conditioner_set or attention_set or stream:
            raise InputError(
                "--init brings shape, stream and conditioners, and so does --model: leave out the "
                "others"
            )
        config = grown_config(init, data, labels)
    device = training_device(options)
    dtype = torch.bfloat16 if bfloat16(options) else torch.float32
    check_attention(attention, config, device, dtype, grad=True)
    if options.dry_run:
        with torch.device("meta"):
            show_cost(training_cost(Prior(config), options))
        return
    torch.manual_seed(options.seed)
    prior = Prior(config)
    prior.use_attention(attention)
    prior.use_recomputation(recompute)
    if init is not None:
        fill(prior, prior.adopt(load_weights(init)), init)
    settings = {
        "corpus": identity(data, config),
        "prior": config.model_dump(mode="json"),
        "init": init and sha256_of(Path(init) / WEIGHTS),
        "held_out": list(held_out),
        **({"streaming": True} if streaming else {}),
        **options.model_dump(mode="json", include={*TrainingOptions.model_fields}),
    }
    lanes = options.batch_size if streaming else 0
    task = PriorTask(prior, data, train_on, back, options.seed, lanes)
    train(task, options, Path(out), settings)


class PriorTask(Task):
    """A prior, the windows it learns from, and those it is judged by.

    Args:
        prior: to train.
        corpus: holds the codes.
        tracks: to learn from.
        back: to judge by.
        seed: of the windows.
        lanes: stream the corpus in so many; 0: not at all. Of a corpus that is streamed few tracks
            are looked at to judge by, and to know which codes are common.
    """

    module: Prior

    def __init__(
        self,
        prior: Prior,
        corpus: Corpus,
        tracks: Sequence[int],
        back: Sequence[int],
        seed: int,
        lanes: int = 0,
    ) -> None:
        self.module = prior
        self.windows: Windows | StreamedWindows
        if lanes:
            self.windows = StreamedWindows(corpus, prior, tracks, seed=seed, lanes=lanes)
            back, tracks = back[:EVALUATED_WINDOWS], tracks[:: -(-len(tracks) // COUNTED_TRACKS)]
        else:
            self.windows = Windows(corpus, prior, tracks, seed=seed, training=True)
        self.held_out = Windows(corpus, prior, back, seed=0, training=False) if back else None
        self.unigram = unigram_surprise(corpus, prior.config.stream, tracks) if back else None

    def blocks(self) -> Iterable[nn.Module]:
        """Layers, those of conditioners too."""
        return (module for module in self.module.modules() if isinstance(module, Layer))

    def count(self, batch: Batch) -> Tensor:
        """Codes that count."""
        return batch["mask"].sum().float()

    def item(self, index: int) -> Mapping[str, Tensor]:
        """One window."""
        return self.windows(index)

    def loss(self, module: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """What is minimised, in nats; beside it the bits of a code and of all else there is."""
        assert isinstance(module, Prior)
        condition = module.condition(batch)
        losses = module.losses(batch["codes"], condition, batch["mask"], batch.get("count"))
        bits = {"bits_per_code": losses.codes}
        bits |= {f"bits_of_{name}": value for name, value in losses.others.items()}
        return losses.total, {name: value.detach() / math.log(2) for name, value in bits.items()}

    def evaluate(self, module: nn.Module) -> dict[str, float]:
        """Bits per code of held-out windows, and what a unigram model needs for the same codes."""
        assert isinstance(module, Prior)
        if self.held_out is None or self.unigram is None:
            return {}
        device = next(module.parameters()).device
        total, unigram, codes = 0.0, 0.0, 0
        for index in range(min(EVALUATED_WINDOWS, len(self.held_out.crops))):
            item = self.held_out(index)
            count = int(item["mask"].sum())
            figures = self.loss(module, stack([item], device))[1]
            total += figures["bits_per_code"].item() * count
            unigram += self.unigram[item["codes"][item["mask"]].numpy()].sum()
            codes += count
        return {"bits_per_code": total / codes, "unigram_bits_per_code": float(unigram / codes)}

    def save(self, module: nn.Module, folder: Path) -> None:
        """Publish the prior's folder."""
        assert isinstance(module, Prior)
        save_prior(module, folder)


def default_conditioners(spec: TokenSpec, stream: str, preset: str) -> tuple[str, ...]:
    """What a prior is told unless somebody says otherwise (paper section 4): also lyrics, if the
    preset is one that reads them.
    """
    top = spec.stream(stream) == spec.streams[-1]
    plain = ("artist", "genre", "timing" if top else "codes")
    return (*plain, *(name for name in CONDITIONERS.get(preset, {}) if name.startswith("lyrics")))


def fit_conditioners(
    names: Sequence[str],
    preset: str,
    settings: Mapping[str, Any],
    labels: Iterable[Mapping[str, Any]],
) -> list[registry.PluginRecord]:
    """Records of conditioners with the preset's settings, `settings`, and the corpus's labels.

    Raises:
        InputError: a setting or a conditioner that there is not.
    """
    for key in settings:
        if key.partition(".")[0] not in names or "." not in key:
            raise InputError(
                f"--conditioner-set {key}: give NAME.SETTING=VALUE for one of {', '.join(names)}"
            )
    records = []
    for name in names:
        cls = registry.get(registry.CONDITIONERS, name)
        own = {
            key.partition(".")[2]: v for key, v in settings.items() if key.startswith(name + ".")
        }
        base = CONDITIONERS.get(preset, {}).get(name, {})
        config = build_config(cls.Config, {preset: base}, preset, own)
        records.append(_fitted(name, cls, config, labels))
    return records


def _fitted(
    name: str, cls: type[Conditioner], config: BaseModel, labels: Iterable[Mapping[str, Any]]
) -> registry.PluginRecord:
    """The record of a conditioner whose vocabularies know these labels."""
    with registry.blaming(cls, "be fitted to the labels of the corpus"):
        return registry.record(registry.CONDITIONERS, name, cls.fit(config, labels))


def check_columns(names: Sequence[str], corpus: Corpus) -> None:
    """Refuse conditioners that read metadata which a corpus does not have.

    Raises:
        InputError: says which column is missing, and for whom.
    """
    if not len(corpus):
        return
    have = {*corpus.metadata(0), *(f"codes_{stream.name}" for stream in corpus.spec.streams)}
    for name in names:
        cls = registry.get(registry.CONDITIONERS, name)
        for column in cls.reads or ():
            if column not in have:
                raise InputError(
                    f"conditioner {registry.origin(cls)} reads {column!r}, a column that "
                    f"{corpus.folder} lacks: give {column!r} in metadata.jsonl and tokenize into "
                    "another folder, or leave that conditioner out"
                )


def check_lyrics(names: Sequence[str], labels: Iterable[Mapping[str, Any]], folder: Path) -> None:
    """Refuse to learn how lyrics are sung from music without any.

    Raises:
        InputError: no track has lyrics, and a conditioner is one that reads them.
    """
    if any(str(row.get("lyrics") or "").strip() for row in labels):
        return
    for name in names:
        if issubclass(registry.get(registry.CONDITIONERS, name), LyricsReader):
            raise InputError(
                f"no track of {folder} to train on has lyrics, which {name} is to read: give them "
                "as .lrc or .txt beside the audio, in metadata.jsonl or in tags and tokenize into "
                "another folder, or leave that conditioner out"
            )


def own_attention_record(name: str, settings: Mapping[str, Any]) -> registry.PluginRecord | None:
    """The record of attention that has parameters of its own; None for a kernel or "auto".

    Raises:
        InputError: no attention of that name, a setting that it lacks or refuses, or settings of a
            kernel, which has none.
    """
    cls = None if name == AUTO else registry.get(registry.ATTENTION, name)
    if cls is not None and issubclass(cls, LayerAttention):
        config = build_config(cls.Config, {"": {}}, "", settings)
        return registry.record(registry.ATTENTION, name, config)
    if settings:
        raise InputError(
            f"--attention-set {next(iter(settings))}: kernels have no settings, and {name!r} is "
            "one: name attention that has parameters of its own"
        )
    return None


def grown_config(
    init: Path | str, corpus: Corpus, labels: Iterable[Mapping[str, Any]]
) -> PriorConfig:
    """The config of a prior with its vocabularies grown by the labels of a corpus.

    Raises:
        InputError: no prior there, or the corpus holds codes of another codec or lacks a column.
    """
    config = read_config(init)
    config.spec.require(corpus.spec, str(init), str(corpus.folder))
    check_columns([kept.name for kept in config.conditioners], corpus)
    records = []
    for kept in config.conditioners:
        cls, settings = registry.restore(registry.CONDITIONERS, kept)
        records.append(_fitted(kept.name, cls, settings, labels))
    return PriorConfig.model_validate({**config.model_dump(), "conditioners": records})


def _allowed(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """Settings, but for those that follow from the corpus or have an option of their own."""
    for name in ("spec", "stream", "vocab_size", "conditioners", "attention"):
        if name in settings:
            raise InputError(f"--set {name}: it follows from the corpus and the other options")
    return settings
