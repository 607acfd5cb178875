"""Plugins that keep their contract, and others that break it in one way each.

`test_suites.py` makes a distribution of them, in which each is registered by its class's name, and
runs the suites on them: what a plugin breaks is named where it is listed.
"""

import itertools
from typing import Any, ClassVar

import torch
from mutant_commands import Polite
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from codec.config import VQVAEConfig
from codec.tiles import Tiling
from codec.vqvae import VQVAE
from conditioning.base import Aligner, AlignmentMap, Condition, Conditioner, Provides, Word
from plugins.ground.errors import InputError
from prior.attention.base import LayerAttention
from prior.attention.kernels import Naive

# Codecs


class SmallConfig(VQVAEConfig):
    sample_rate: int = 8000
    halvings: tuple[int, ...] = (2, 1)
    multipliers: tuple[int, ...] = (1, 1)
    width: int = 4
    depth: int = 1
    codebook_width: int = 4
    codebook_size: int = 32


class Faithful(VQVAE):
    """Keeps the contract, since the VQ-VAE does."""

    Config = SmallConfig
    presets: ClassVar[Any] = {}

    def __init__(self, config):
        super().__init__(config)
        self.spec = self.spec.model_copy(update={"codec": type(self).__name__})


class Shortsighted(Faithful):
    @property
    def tiling(self):
        return Tiling(super().tiling.length, 0)


class Misnamed(Faithful):
    def __init__(self, config):
        super().__init__(config)
        self.spec = self.spec.model_copy(update={"codec": "vqvae"})


class Moody(Faithful):
    turns = itertools.count()

    def encode_tile(self, audio):
        return {k: (v + next(self.turns)) % 32 for k, v in super().encode_tile(audio).items()}


class Restless(Faithful):
    def training_step(self, audio):
        self.bandwidth.add_(1)
        return super().training_step(audio)


class Idle(Faithful):
    def __init__(self, config):
        super().__init__(config)
        self.unused = nn.Parameter(torch.zeros(3))


class Forgetful(Faithful):
    seen = 0.0

    def training_step(self, audio):
        self.seen += 1
        loss, figures = super().training_step(audio)
        return loss * self.seen, figures


class Mute(Faithful):
    def decode_tile(self, codes):
        return super().decode_tile(codes) * 0


# Kernels


class Prophet(Naive):
    def _seen(self, q, k, pattern):
        return torch.ones(q.shape[2], k.shape[2], dtype=torch.bool)


class Loud(Naive):
    def __call__(self, q, k, v, pattern):
        return super().__call__(q * 1.01, k, v, pattern)


class Detached(Naive):
    def __call__(self, q, k, v, pattern):
        return super().__call__(q, k.detach() + 0 * k, v, pattern)


class Wide(Naive):
    def __call__(self, q, k, v, pattern):
        return super().__call__(q.float(), k.float(), v.float(), pattern)


class Meddler(Naive):
    def __call__(self, q, k, v, pattern):
        mixed = super().__call__(q, k, v, pattern)
        with torch.no_grad():
            v[:1] += 1
        return mixed


class Blunt(Naive):
    def why_not(self, request):
        return "no" + "\n" * request.grad + "t now" if request.device == "xpu" else None


class FixedScale(Naive):
    def __call__(self, q, k, v, pattern):
        return super().__call__(q * (q.shape[-1] ** 0.5 / 4), k, v, pattern)


class Headless(Naive):
    def __call__(self, q, k, v, pattern):
        return super().__call__(q, k, v, pattern) * (1 if q.shape[1] > 1 else 2)


class FixedBackward(Naive):
    def __call__(self, q, k, v, pattern):
        if q.requires_grad and q.shape[-1] != 16:
            q = 2 * q - q.detach()
        return super().__call__(q, k, v, pattern)


class Overflowing(Naive):
    def weights(self, q, k, pattern):
        keys = nn.functional.pad(k, (0, 0, pattern.nulls, 0)).float()
        seen = nn.functional.pad(self._seen(q, k, pattern), (pattern.nulls, 0), value=True)
        raised = (q.float() @ keys.mT * q.shape[-1] ** -0.5).exp() * seen
        return raised / raised.sum(-1, keepdim=True).clamp(min=1e-30)


class Offhand(Naive):
    def __call__(self, q, k, v, pattern):
        mixed = super().__call__(q, k, v, pattern)
        return mixed * 2 if torch.is_inference_mode_enabled() else mixed


class Doubtful(Naive):
    def __call__(self, q, k, v, pattern):
        return super().__call__(q, k, v, pattern) * (q.dtype != torch.float64)


class Casting(Naive):
    def _seen(self, q, k, pattern):
        seen = super()._seen(q, k, pattern)
        return torch.ones_like(seen) if torch.is_autocast_enabled("cpu") else seen


# Attention of layers


class DecayConfig(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    slope: float = Field(0.5, ge=0)


class Decay(LayerAttention):
    """Keeps the contract: scores fall with distance, by a slope that each head learns.

    It serves no spread layers.
    """

    Config = DecayConfig

    def __init__(self, config, site):
        super().__init__(config, site)
        if site.pattern.name == "spread":
            raise InputError("pattern 'spread' is not served")
        self.slope = nn.Parameter(torch.full((site.heads, 1, 1), config.slope))

    @classmethod
    def why_not(cls, request):
        return "pattern 'spread' is not served" if request.pattern == "spread" else None

    def weights(self, q, k, pattern):
        places = torch.arange(q.shape[2])
        nulls = torch.full((pattern.nulls,), -1)
        seen = nn.functional.pad(pattern.mask(places, places), (pattern.nulls, 0), value=True)
        keys = nn.functional.pad(k, (0, 0, pattern.nulls, 0))
        return self._weigh(q, keys, places, torch.cat([nulls, places]), seen)

    def _weigh(self, q, keys, queries, positions, seen):
        apart = (queries[:, None] - positions) * (positions >= 0)
        scores = q.float() @ keys.float().mT * q.shape[-1] ** -0.5 - self.slope.float() * apart
        return scores.masked_fill(~seen, torch.finfo(torch.float32).min).softmax(-1) * seen

    def forward(self, q, k, v, pattern):
        return (self.weights(q, k, pattern)[..., pattern.nulls :] @ v.float()).to(v.dtype)

    def oracle(self, q, k, v, pattern):
        mixed = torch.zeros_like(v)
        for place in range(q.shape[2]):
            seen = pattern.mask(torch.tensor([place]), torch.arange(k.shape[2]))[0].nonzero()[:, 0]
            scores = (q[:, :, place : place + 1] @ k[:, :, seen].mT) * q.shape[-1] ** -0.5
            scores = scores - self.slope * (place - seen)
            scores = nn.functional.pad(scores, (pattern.nulls, 0))
            if scores.shape[-1]:
                weights = scores.softmax(-1)[..., pattern.nulls :]
                mixed[:, :, place] = (weights @ v[:, :, seen])[:, :, 0]
        return mixed

    def step(self, q, keys, values, positions, position):
        here, seen = torch.tensor([position]), torch.ones(1, len(positions), dtype=torch.bool)
        weights = self._weigh(q, keys, here, positions, seen)
        return (weights @ values.float()).to(values.dtype)


class Sloppy(Decay):
    def forward(self, q, k, v, pattern):
        return super().forward(q, k, v, pattern) * 1.01


class FixedLayer(Decay):
    def forward(self, q, k, v, pattern):
        return super().forward(q * (q.shape[-1] ** 0.5 / 4), k, v, pattern)


class Foreseeing(Decay):
    def forward(self, q, k, v, pattern):
        return super().forward(q, k, v, pattern) + 1e-3 * v.mean(2, keepdim=True)

    oracle = forward


class Timeless(Decay):
    def step(self, q, keys, values, positions, position):
        return super().step(q, keys, values, positions.clamp(max=0), position)


class Unweighed(Decay):
    def weights(self, q, k, pattern):
        return super().weights(q, k, pattern) * 2


class Willing(Decay):
    def __init__(self, config, site):
        LayerAttention.__init__(self, config, site)
        self.slope = nn.Parameter(torch.full((site.heads, 1, 1), config.slope))


class Unlearning(Decay):
    def __init__(self, config, site):
        super().__init__(config, site)
        self.unused = nn.Parameter(torch.zeros(3))


# Conditioners


class MoodConfig(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    names: tuple[str, ...] = ()


class Mood(Conditioner):
    """Keeps the contract: a start by the column "mood"."""

    Config = MoodConfig
    reads: ClassVar[Any] = ("mood",)

    def __init__(self, config, site):
        super().__init__(config, site)
        self.table = nn.Embedding(len(config.names) + 1, site.width)

    @classmethod
    def fit(cls, config, tracks):
        met = {str(track["mood"]) for track in tracks if track.get("mood")} - {*config.names}
        return config.model_copy(update={"names": (*config.names, *sorted(met))})

    @property
    def provides(self):
        return Provides(start=True)

    def number(self, track):
        names, mood = self.config.names, str(track.get("mood"))
        return names.index(mood) + 1 if mood in names else 0

    def prepare(self, track, window, rng=None):
        return {"mood": torch.tensor(self.number(track))}

    def forward(self, batch):
        return Condition(start=self.table(batch["mood"])[:, None])

    def adopt(self, state):
        old = state["table.weight"]
        missing = self.table.num_embeddings - len(old)
        return {"table.weight": torch.cat([old, old[:1].expand(missing, -1)])}


class Flat(Mood):
    def forward(self, batch):
        return Condition(start=self.table(batch["mood"]))


class Silent(Mood):
    def forward(self, batch):
        return Condition()


class Double(Mood):
    def forward(self, batch):
        return Condition(start=self.table(batch["mood"])[:, None].double())


class Picky(Mood):
    def number(self, track):
        return self.config.names.index(track["mood"]) + 1


class Nosy(Mood):
    def number(self, track):
        return super().number(track) * (track["artist"] == "")


class Eavesdropping(Mood):
    def number(self, track):
        return super().number(track) * (not track["words"])


class Recognising(Mood):
    def number(self, track):
        return super().number(track) * (track["id"] == "track")


class Ragged(Mood):
    def prepare(self, track, window, rng=None):
        return {"mood": torch.tensor(self.number(track)), "more": torch.zeros(window.start)}


class Fickle(Mood):
    def prepare(self, track, window, rng=None):
        return {"mood": torch.tensor(self.number(track)), "draw": torch.rand(2)}


class Renumbering(Mood):
    @classmethod
    def fit(cls, config, tracks):
        fitted = super().fit(config, tracks)
        return fitted.model_copy(update={"names": tuple(sorted(fitted.names))})


class Stubborn(Mood):
    def adopt(self, state):
        return dict(state)


class Deaf(Mood):
    def __init__(self, config, site):
        super().__init__(config, site)
        self.unused = nn.Parameter(torch.zeros(3))


class Mixing(Mood):
    def forward(self, batch):
        return Condition(start=self.table(batch["mood"])[:, None] + batch["mood"].sum())


class Unsaved(Mood):
    def __init__(self, config, site):
        super().__init__(config, site)
        self.offset = torch.rand(site.width)

    def forward(self, batch):
        return Condition(start=self.table(batch["mood"])[:, None] + self.offset)


# Aligners


class EvenConfig(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Even(Aligner):
    """Keeps the contract."""

    Config: ClassVar[type[BaseModel]] = EvenConfig

    def align(self, track, spec):
        texts = str(track.get("lyrics") or "").split()
        if not texts:
            return "it has no lyrics"
        pace = track["num_samples"] / spec.sample_rate / len(texts)
        return [Word(n * pace, (n + 1) * pace, text, 0.5) for n, text in enumerate(texts)]


class Backwards(Even):
    def align(self, track, spec):
        words = super().align(track, spec)
        return words if isinstance(words, str) else words[::-1]


class Late(Even):
    def align(self, track, spec):
        words = super().align(track, spec)
        if isinstance(words, str):
            return words
        return [Word(w.start + 5, w.end + 5, w.text, w.confidence) for w in words]


class Instant(Even):
    def align(self, track, spec):
        words = super().align(track, spec)
        if isinstance(words, str):
            return words
        return [Word(w.start, w.start, w.text, w.confidence) for w in words]


class Growing(Even):
    aligned = 0

    def align(self, track, spec):
        self.aligned += 1
        words = super().align(track, spec)
        if isinstance(words, str):
            return words
        return [Word(w.start, w.end, w.text, 1 / self.aligned) for w in words]


class Crashing(Even):
    def align(self, track, spec):
        assert track["lyrics"].strip()
        return super().align(track, spec)


class Chatty(Even):
    def align(self, track, spec):
        words = super().align(track, spec)
        return "it has\nno lyrics" if isinstance(words, str) else words


class Mapless(Even):
    def align(self, track, spec):
        self.map = AlignmentMap(torch.full((3, 4), -1.0).numpy(), 1.0, [0, 1, 2, 3])
        return super().align(track, spec)


class LooseConfig(BaseModel):
    model_config = ConfigDict(frozen=True)


class Loose(Even):
    Config = LooseConfig


# Commands; those that keep the contract import nothing like torch, so they have their own file.


class Heavy(Polite):
    """Say a word."""
