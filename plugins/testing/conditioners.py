"""What the toolkit expects of a conditioner: it makes what it announces, of any track.

Shapes: B batch, T code positions of a window, D width of the prior.
"""

import copy
import itertools
import math
import pickle
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from pydantic import BaseModel
from torch import Tensor

from codec.tokens import TokenSpec, TokenStream
from conditioning.base import Condition, Conditioner, Provides, Window
from conditioning.fuse import condition_of, layout_of, prepared_by
from plugins import registry
from plugins.ground.saved import fill
from plugins.testing.contract import ConfiguredContract, differing, maybe_refused
from prior.checkpoint import load_prior, save_prior
from prior.config import PriorConfig
from prior.data import stack
from prior.prior import Prior, site_of

SPEC = TokenSpec(
    sample_rate=8000,
    channels=1,
    streams=(
        TokenStream(name="0", vocab_size=24, hop_length=8),
        TokenStream(name="1", vocab_size=12, hop_length=32),
    ),
    codec="vqvae",
    fingerprint="0123456789abcdef",
)
CONTEXT, WIDTH, COARSE = 32, 32, 48
ODD: tuple[Any, ...] = (None, "", "?", "no such thing", "7", -1, 0, 1e9, math.nan, True)
"""What a column of metadata may hold besides what one hopes for."""
OTHERWISE: dict[str, Any] = {
    "id": "something else",
    "words": [{"start": 0.0, "end": 0.1, "text": "something", "confidence": 1.0}],
}
"""Columns that are no labels, with another track's entries."""
LABELS = ("artist", "genre", "title", "lyrics", "contract_column")
PARTS = [field.name for field in fields(Condition) if field.name != "losses"]


def row(labels: Mapping[str, Any]) -> dict[str, Any]:
    """A track as a corpus gives it: 48 codes of stream "1", 192 of "0", and these labels."""
    made: dict[str, Any] = {
        "id": "track",
        "path": "track.wav",
        "audio_sha256": "",
        "num_samples": COARSE * 32 + 5,
        "artist": "",
        "genre": "",
        "title": "",
        "lyrics": "",
        "words": [],
    }
    for stream in SPEC.streams:
        codes = np.arange(COARSE * 32 // stream.hop_length) % stream.vocab_size
        made[f"codes_{stream.name}"] = codes.astype(np.uint16)
        made[f"codes_{stream.name}"].flags.writeable = False  # as a map of a corpus's files is
    return {**made, **labels}


WINDOWS = [Window(start, COARSE * 32 + 5) for start in (0, 64, 160, 184)]
"""The first of a track, others, its last whole one, and one that goes past its end."""


@pytest.mark.filterwarnings("ignore::UserWarning")  # of labels that are unknown, as some here are
class ConditionerContract(ConfiguredContract):
    """A subclass of `Conditioner`, built for a stream with a coarser one above it."""

    group = registry.CONDITIONERS
    track: ClassVar[Mapping[str, Any]] = {}
    """Metadata that it reads, as a corpus holds it: {"tempo": 120}."""
    others: ClassVar[Sequence[Mapping[str, Any]]] = ()
    """Metadata of further tracks, with labels that `fit` has to learn, if it learns any."""

    @pytest.fixture
    def fitted(self, made_config: BaseModel) -> Any:
        """The config that knows the labels of `track`."""
        return self.plugin.fit(made_config, [row(self.track)])

    @pytest.fixture
    def part(self, fitted: BaseModel) -> Conditioner:
        """The conditioner, as sampling uses it."""
        return self.build(fitted).eval()

    def build(self, config: BaseModel) -> Conditioner:
        """For a prior of stream "0" that lends a transformer."""
        made: Conditioner = self.plugin(config, site_of(self._shape()))
        return made

    def test_it_announces_what_it_makes(self, part: Conditioner) -> None:
        """`provides` is known before any batch and stays; the parts come in the right shapes."""
        announced = part.provides
        assert isinstance(announced, Provides)
        assert announced != Provides(), "it makes nothing"
        assert not announced.prefix or announced.prefix_vocab > 0
        for count in (1, 3):
            self.told(part, self.prepared(part)[:count])  # raises if it makes something else
            assert part.provides == announced

    def test_every_item_has_the_same_layout(self, part: Conditioner) -> None:
        """Whatever the track lacks and wherever the window is; in training and in sampling."""
        first = layout_of(part.prepare(row(self.track), WINDOWS[0]))
        for track, window in itertools.product(self.tracks(), WINDOWS):
            for rng in (None, *map(np.random.default_rng, range(5))):
                made = prepared_by(part, track, window, rng)
                assert layout_of(made) == first
                assert all(t.device.type == "cpu" and not t.requires_grad for t in made.values())

    def test_preparing_is_a_function_of_track_window_and_rng(self, part: Conditioner) -> None:
        """So that a resumed training sees the same items; and it leaves the track alone."""
        for track, seed in itertools.product(self.tracks(), (None, 0, 1)):
            before = copy.deepcopy(track)
            one, other = (part.prepare(track, WINDOWS[1], _rng(seed)) for _ in range(2))
            assert differing(one, other) == []
            assert all(np.array_equal(track[name], before[name]) for name in before)

    def test_it_reads_what_it_says(self, part: Conditioner) -> None:
        """A column that is not in `reads` makes no difference. (None: nobody knows which does.)"""
        if part.reads is not None:
            others = {**dict.fromkeys((*LABELS, *self.track), "something else"), **OTHERWISE}
            unread = {name: others[name] for name in others if name not in part.reads}
            one, other = (
                part.prepare(track, WINDOWS[0])
                for track in (row(self.track), row({**self.track, **unread}))
            )
            assert differing(one, other) == []

    @pytest.mark.parametrize("odd", ODD, ids=repr)
    def test_an_odd_label_is_unknown_or_refused(self, part: Conditioner, odd: Any) -> None:
        """In training, where nobody typed it, and by `check`, where somebody did."""
        for name in self.track:
            track = row({**self.track, name: odd})
            with maybe_refused():
                self.told(part, [part.prepare(track, WINDOWS[0])])
            with maybe_refused():
                part.check({name: odd})

    def test_a_track_may_lack_anything(self, part: Conditioner) -> None:
        """A sampler knows less of a track than a corpus: keys may be missing, too."""
        for name in (*self.track, *(key for key in row({}) if key.startswith("codes_"))):
            track = row(self.track)
            del track[name]
            with maybe_refused():
                self.told(part, [part.prepare(track, WINDOWS[0])])

    def test_labels_that_it_was_fitted_to_are_known(self, part: Conditioner) -> None:
        """`check` lets them pass."""
        part.check(self.track)
        part.check({})

    def test_fit_keeps_numbers(self, made_config: BaseModel, fitted: BaseModel) -> None:
        """Labels that are known prepare the same tensors, however many are learned later."""
        assert self.plugin.fit(fitted, [row(self.track)]) == fitted
        grown = self.plugin.fit(fitted, [row(labels) for labels in self.others])
        assert type(fitted) is type(grown) is type(made_config)
        old, new = self.build(fitted), self.build(grown)
        for window in WINDOWS:
            track = row(self.track)
            assert differing(old.prepare(track, window), new.prepare(track, window)) == []
        new.check(self.track)
        for labels in self.others:
            new.check(labels)

    def test_adopt_makes_an_older_state_fit(self, part: Conditioner, fitted: BaseModel) -> None:
        """What `fit` grew is loaded, and known labels mean what they meant."""
        grown = self.plugin.fit(fitted, [row(labels) for labels in self.others])
        new = self.build(grown).eval()
        fill(new, new.adopt(part.state_dict()), "the adopted state")
        items = [part.prepare(row(self.track), window) for window in WINDOWS]
        _close(self.told(new, items), self.told(part, items))
        for labels in self.others:
            self.told(new, [new.prepare(row(labels), WINDOWS[0])])

    def test_the_same_batch_gives_the_same_condition(self, part: Conditioner) -> None:
        """Bit for bit in evaluation mode, and each item as it would be alone."""
        items = self.prepared(part)
        whole, again = self.told(part, items), self.told(part, items)
        assert differing(dict(_parts(again)), dict(_parts(whole))) == []
        for number, item in enumerate(items):
            alone = self.told(part, [item])
            for name, one in _parts(whole):
                torch.testing.assert_close(getattr(alone, name)[0], one[number])

    def test_it_can_be_copied_and_sent_to_another_process(self, part: Conditioner) -> None:
        """For moving averages of the weights, and for processes that prepare items."""
        items = self.prepared(part)
        for other in (copy.deepcopy(part), pickle.loads(pickle.dumps(part))):
            _close(self.told(other, items), self.told(part, items))

    def test_it_can_be_built_without_memory(self, fitted: BaseModel) -> None:
        """On PyTorch's meta device, as dry runs do."""
        with torch.device("meta"):
            self.build(fitted)

    def test_a_prior_learns_with_it(self, fitted: BaseModel) -> None:
        """Every one of its parameters gets a finite gradient; it can train in bfloat16."""
        prior = self.prior(fitted).train()
        batch = self.batch(prior)
        prior.loss(batch["codes"], prior.condition(batch)).backward()
        for name, parameter in prior.conditioners.named_parameters():
            if parameter.requires_grad:
                assert parameter.grad is not None, f"no gradient reaches {name}"
                assert parameter.grad.isfinite().all()
        with torch.autocast("cpu", torch.bfloat16):
            assert prior.loss(batch["codes"], prior.condition(batch)).isfinite()

    def test_a_prior_is_saved_and_loaded_with_it(self, fitted: BaseModel, tmp_path: Path) -> None:
        """Settings and vocabularies are in the folder, parameters and buffers among the weights."""
        prior = self.prior(fitted).eval()
        save_prior(prior, tmp_path / "prior")
        again = load_prior(tmp_path / "prior")
        assert again.config == prior.config
        assert torch.equal(self.logits(again), self.logits(prior))
        halved = load_prior(tmp_path / "prior", dtype=torch.bfloat16)
        assert self.logits(halved).isfinite().all()

    def tracks(self) -> Iterator[dict[str, Any]]:
        """Its own, the others, and one that has no labels."""
        yield from map(row, (self.track, *self.others, dict.fromkeys(self.track)))

    def prepared(self, part: Conditioner) -> list[dict[str, Tensor]]:
        """Items of all tracks and windows."""
        pairs = itertools.product(self.tracks(), WINDOWS)
        return [part.prepare(track, window) for track, window in pairs]

    def told(self, part: Conditioner, items: Sequence[Mapping[str, Tensor]]) -> Condition:
        """The Condition of some items, compared with what was announced, as a prior does it."""
        batch, size = stack(items, torch.device("cpu")), len(items)
        with torch.no_grad():
            return condition_of(part, batch, part.site, size=size, dtype=torch.float32)

    def prior(self, config: BaseModel) -> Prior:
        """A tiny prior that is told by this conditioner alone."""
        provides = self.build(config).provides
        reading = [name for name in ("memory", "prefix") if getattr(provides, name)]
        record = registry.record(self.group, self.name, config)
        shape = {"patterns": ("dense", *reading), "conditioners": (record,)}
        return Prior(PriorConfig.model_validate({**self._shape().model_dump(), **shape}))

    def batch(self, prior: Prior) -> dict[str, Tensor]:
        """Codes and what is prepared of all tracks and windows, as in training."""
        rng, items = np.random.default_rng(0), []
        for track, window in itertools.product(self.tracks(), WINDOWS[:3]):
            codes = track["codes_0"][window.start : window.start + CONTEXT].astype(np.int64)
            prepared = prior.prepare(track, window, rng)
            items.append({"codes": torch.from_numpy(codes), **prepared})
        return stack(items, torch.device("cpu"))

    def logits(self, prior: Prior) -> Tensor:
        """What a prior predicts."""
        batch = self.batch(prior)
        with torch.inference_mode():
            logits = prior(batch["codes"], prior.condition(batch)).logits
        assert logits is not None
        return logits

    def _shape(self) -> PriorConfig:
        return PriorConfig(
            context=CONTEXT,
            width=WIDTH,
            depth=4,
            heads=2,
            patterns=("dense",),
            spec=SPEC,
            stream="0",
            vocab_size=24,
        )


def _rng(seed: int | None) -> np.random.Generator | None:
    return None if seed is None else np.random.default_rng(seed)


def _parts(made: Condition) -> Iterator[tuple[str, Tensor]]:
    """The parts that a Condition has, by name."""
    return ((name, getattr(made, name)) for name in PARTS if getattr(made, name) is not None)


def _close(one: Condition, other: Condition) -> None:
    for name, part in _parts(other):
        torch.testing.assert_close(getattr(one, name), part)
