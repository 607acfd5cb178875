"""How a prior is trained: a token corpus in, a prior folder out.

It knows codes and Conditions; the loop itself is `plugins.ground.trainer`. Shapes: B batch,
T codes of a window.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from codec.corpus import Corpus
from codec.tokens import TokenSpec
from plugins import registry
from plugins.ground.config import build_config
from plugins.ground.errors import InputError
from plugins.ground.options import TrainingOptions
from plugins.ground.saved import fill, load_weights
from plugins.ground.split import split_ids
from plugins.ground.trainer import Batch, Task, show_cost, train, training_cost
from prior.checkpoint import read_config, save_prior
from prior.config import CONDITIONERS, PriorConfig
from prior.config import preset as complete
from prior.data import Windows, stack, unigram_bits
from prior.prior import Prior

EVALUATED_WINDOWS = 64


def train_prior(
    corpus: Path | str,
    out: Path | str,
    *,
    stream: str | None = None,
    preset: str = "small",
    set: Mapping[str, Any] | None = None,
    conditioners: Sequence[str] | None = None,
    conditioner_set: Mapping[str, Any] | None = None,
    init: Path | str | None = None,
    held_out: Sequence[str] = (),
    attention: str = "auto",
    recompute: bool = False,
    options: TrainingOptions | None = None,
) -> None:
    """Train a prior on a corpus; goes on where an earlier call with the same arguments stopped.

    Args:
        corpus: folder of a token corpus.
        out: folder for the prior, its resumable state and its figures.
        stream: to model; the coarsest unless named.
        preset: a name of `prior.config.PRESETS`.
        set: settings over the preset's.
        conditioners: registry names; artist and genre, with timing at the coarsest stream and
            the codes above at any other, unless named.
        conditioner_set: "name.setting" -> value, over the conditioners' defaults.
        init: folder of a prior to start from; shape and conditioners are its own, and its
            vocabularies grow by the labels of the corpus.
        held_out: patterns of track ids that are only evaluated on.
        attention: kernel, by registry name.
        recompute: hold only each layer's input and compute the rest again (gradient
            checkpointing).
        options: how to train.

    Raises:
        InputError: bad settings, codes of another codec, or `out` holds something else.
    """
    options = options or TrainingOptions()
    data = Corpus(corpus)
    ids = data.ids()
    train_on, back = split_ids(ids, held_out)
    labels = [data.metadata(i) for i in train_on]
    torch.manual_seed(options.seed)
    if init is None:
        name = stream or data.spec.streams[-1].name
        chosen = default_conditioners(data.spec, name) if conditioners is None else conditioners
        records = fit_conditioners(chosen, preset, conditioner_set or {}, labels)
        config = complete(preset, data.spec, name, records, **(set or {}))
        prior = Prior(config)
    else:
        if set or conditioners or conditioner_set or stream:
            raise InputError("--init brings shape, stream and conditioners: leave out the others")
        prior = grow(init, data, labels)
        config = prior.config
    prior.use_attention(attention)
    prior.use_recomputation(recompute)
    if options.dry_run:
        show_cost(training_cost(prior, options))
        return
    settings = {
        "corpus": data.spec.fingerprint,
        "tracks": len(ids),
        "prior": config.model_dump(mode="json"),
        "init": init and str(init),
        "held_out": list(held_out),
        **TrainingOptions.model_dump(options, mode="json", include={*TrainingOptions.model_fields}),
    }
    train(PriorTask(prior, data, train_on, back, options.seed), options, Path(out), settings)


class PriorTask(Task):
    """A prior, the windows it learns from, and those it is judged by."""

    module: Prior

    def __init__(
        self, prior: Prior, corpus: Corpus, tracks: Sequence[int], back: Sequence[int], seed: int
    ) -> None:
        self.module = prior
        self.windows = Windows(corpus, prior, tracks, seed=seed, training=True)
        self.held_out = Windows(corpus, prior, back, seed=0, training=False) if back else None
        if back:
            self.unigram = unigram_bits(corpus, prior.config.stream, tracks, back)

    def item(self, index: int) -> Mapping[str, Tensor]:
        """One window."""
        return self.windows(index)

    def loss(self, module: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy in nats, with bits per code beside it."""
        assert isinstance(module, Prior)
        loss = module.loss(batch["codes"], module.condition(batch), batch["mask"])
        return loss, {"bits_per_code": loss.detach() / math.log(2)}

    def evaluate(self, module: nn.Module) -> dict[str, float]:
        """Bits per code of held-out windows, and what a unigram model would need."""
        assert isinstance(module, Prior)
        if self.held_out is None:
            return {}
        device = next(module.parameters()).device
        total, codes = 0.0, 0
        for index in range(min(EVALUATED_WINDOWS, len(self.held_out.crops))):
            batch = stack([self.held_out(index)], device)
            count = int(batch["mask"].sum())
            total += self.loss(module, batch)[1]["bits_per_code"].item() * count
            codes += count
        return {"bits_per_code": total / codes, "unigram_bits_per_code": self.unigram}

    def save(self, module: nn.Module, folder: Path) -> None:
        """Publish the prior's folder."""
        assert isinstance(module, Prior)
        save_prior(module, folder)


def default_conditioners(spec: TokenSpec, stream: str) -> tuple[str, ...]:
    """What a prior of a stream is told unless somebody says otherwise (paper section 4)."""
    top = spec.stream(stream) == spec.streams[-1]
    return ("artist", "genre", "timing" if top else "codes")


def fit_conditioners(
    names: Sequence[str],
    preset: str,
    settings: Mapping[str, Any],
    labels: Sequence[Mapping[str, Any]],
) -> list[registry.PluginRecord]:
    """Records of conditioners with the preset's settings, `settings`, and the corpus's labels."""
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
        config = cls.fit(build_config(cls.Config, {preset: base}, preset, own), labels)
        records.append(registry.record(registry.CONDITIONERS, name, config))
    return records


def grow(init: Path | str, corpus: Corpus, labels: Sequence[Mapping[str, Any]]) -> Prior:
    """The prior of a folder with vocabularies grown by the labels of a corpus.

    Raises:
        InputError: no prior there, or the corpus holds codes of another codec.
    """
    config = read_config(init)
    config.spec.require(corpus.spec, str(init), str(corpus.folder))
    records = []
    for kept in config.conditioners:
        cls, settings = registry.restore(registry.CONDITIONERS, kept)
        records.append(registry.record(registry.CONDITIONERS, kept.name, cls.fit(settings, labels)))
    grown = PriorConfig.model_validate({**config.model_dump(), "conditioners": records})
    prior = Prior(grown)
    fill(prior, prior.adopt(load_weights(init)), init)
    return prior
