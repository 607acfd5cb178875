"""The prior: codes as integers in, logits of each next code out. It knows no audio.

An autoregressive transformer over one stream's codes (paper section 4), told about the track by
conditioners that it builds by name. Shapes:
B batch, T code positions of a window, W width, V codes of the stream, H heads.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from conditioning.base import Condition, Conditioner, Site, Track, Window
from conditioning.fuse import fuse
from plugins import registry
from plugins.ground.errors import InputError
from prior.attention.kernels import AUTO, Attend, AttentionRequest, Chosen, Recording, choose
from prior.config import PriorConfig
from prior.transformer import Transformer

NOTHING = Condition()


@dataclass(frozen=True)
class Output:
    """What a forward pass gives."""

    logits: Tensor | None  # [B, T, V] of the code at each position; None if stopped early
    hidden: Tensor  # [B, T, W] residual stream after the last layer that ran
    attention: Mapping[int, Tensor] = field(default_factory=dict)  # layer -> [B, H, T, T]


class Prior(nn.Module):
    """A model of one stream's codes, given a Condition.

    Args:
        config: what to build.
        conditioners: by name, if they are built already.
    """

    def __init__(self, config: PriorConfig, conditioners: nn.ModuleDict | None = None) -> None:
        super().__init__()
        self.config = config
        self.attention = AUTO
        """Name of the attention kernel; set by `use_attention`, no part of the weights."""
        self.site = site_of(config)
        self.conditioners = build_conditioners(config) if conditioners is None else conditioners
        self.embedding = nn.Embedding(config.vocab_size, config.width)
        self.positions = nn.Parameter(torch.empty(config.context, config.width))
        started = any(part.provides.start for _, part in self._parts())
        self.start = None if started else nn.Parameter(torch.empty(1, config.width))
        self.transformer = Transformer(config)
        self.output = (
            nn.Linear(config.width, config.vocab_size, bias=False)
            if config.separate_embeddings
            else None
        )
        self._initialise()

    def _initialise(self) -> None:
        scale = self.config.init_scale
        nn.init.normal_(self.embedding.weight, std=0.02 * scale)
        nn.init.normal_(self.positions, std=0.01 * scale)
        if self.start is not None:
            nn.init.normal_(self.start, std=0.01 * scale)
        if self.output is not None:
            nn.init.normal_(self.output.weight, std=0.02 * scale)

    def use_attention(self, name: str) -> None:
        """Attend with the kernel of that name, or with the fastest for "auto".

        Raises:
            InputError: no such kernel, or it can't serve this prior where it now is.
        """
        weight = self.embedding.weight
        grad = self.training and weight.requires_grad
        check_attention(name, self.config, weight.device, grad=grad)
        self.attention = name

    def use_recomputation(self, on: bool = True) -> None:
        """In training, keep only each layer's input and compute the rest again: less memory."""
        self.transformer.recompute = on

    def adopt(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors of a prior with smaller vocabularies, fitted to this one's."""
        fitted = dict(state)
        for name, conditioner in self.conditioners.items():
            own = f"conditioners.{name}."
            old = {k[len(own) :]: t for k, t in state.items() if k.startswith(own)}
            assert isinstance(conditioner, Conditioner)
            fitted |= {own + key: tensor for key, tensor in conditioner.adopt(old).items()}
        return fitted

    def prepare(
        self, track: Track, window: Window, rng: np.random.Generator | None = None
    ) -> dict[str, Tensor]:
        """What all conditioners prepare for one item, as "<conditioner>/<tensor>"."""
        return {
            f"{name}/{key}": tensor
            for name, part in self._parts()
            for key, tensor in part.prepare(track, window, rng).items()
        }

    def condition(self, batch: Mapping[str, Tensor]) -> Condition:
        """The Condition of a batch of `prepare`d tensors [B, ...]; other names are ignored."""
        made: list[Condition] = []
        for name, part in self._parts():
            own = f"{name}/"
            made.append(part({k[len(own) :]: t for k, t in batch.items() if k.startswith(own)}))
        return fuse(made)

    def inputs(self, codes: Tensor, condition: Condition = NOTHING) -> Tensor:
        """Input vectors of the positions 0..P from the codes [B, P] before them: [B, P + 1, W].

        The input at position i is the embedding of code i - 1, at 0 the start.
        """
        length = codes.shape[1] + 1
        start = self._start(condition).expand(len(codes), 1, -1)
        x = torch.cat([start, self.embedding(codes)], 1) + self.positions[:length]
        return x if condition.position is None else x + condition.position[:, :length]

    def head(self, hidden: Tensor, position: Tensor | None = None) -> Tensor:
        """Logits [..., V] of hidden vectors [..., W].

        Args:
            hidden: the transformer's output.
            position: the Condition's part at the same positions, of the same shape.
        """
        if self.config.condition_output and position is not None:
            hidden = hidden + position
        return F.linear(hidden, (self.output or self.embedding).weight)

    def forward(
        self,
        codes: Tensor,
        condition: Condition = NOTHING,
        *,
        upto: int | None = None,
        record: Collection[int] = (),
    ) -> Output:
        """Logits of every code from those before it.

        Args:
            codes: [B, T], T up to the context.
            condition: of the same batch.
            upto: stop after this layer, counted from 0; no logits then.
            record: layers whose attention weights are kept, computed by `naive`.

        Raises:
            InputError: more codes than the context, a Condition of another length or without
                the start that this prior needs, or no such layer.
        """
        self._check(codes, condition, [*record, *([] if upto is None else [upto])])
        count = self.config.depth if upto is None else upto + 1
        recordings = {layer: Recording() for layer in record if layer < count}
        kernel = Chosen(self.attention)
        attends: list[Attend] = [recordings.get(layer, kernel) for layer in range(count)]
        x = F.dropout(self.inputs(codes[:, :-1], condition), self.config.dropout, self.training)
        hidden = self.transformer(x, attends)
        position = condition.position
        return Output(
            logits=self.head(hidden, None if position is None else position[:, : codes.shape[1]])
            if upto is None
            else None,
            hidden=hidden,
            attention={layer: kept.recorded for layer, kept in recordings.items()},
        )

    def loss(
        self, codes: Tensor, condition: Condition = NOTHING, mask: Tensor | None = None
    ) -> Tensor:
        """Mean cross-entropy in nats per code, plus the Condition's auxiliary losses.

        Args:
            codes: [B, T].
            condition: of the same batch.
            mask: [B, T] bool, True where a code counts; all do by default.
        """
        logits = self(codes, condition).logits
        losses = F.cross_entropy(logits.flatten(0, 1).float(), codes.flatten(), reduction="none")
        if mask is None:
            mean = losses.mean()
        else:
            counted = mask.flatten().to(losses.dtype)
            mean = (losses * counted).sum() / counted.sum().clamp(min=1)
        return mean + sum(condition.loss.values())

    def _parts(self) -> Iterator[tuple[str, Conditioner]]:
        for name, part in self.conditioners.items():
            yield name, cast(Conditioner, part)

    def _start(self, condition: Condition) -> Tensor:
        if condition.start is not None:
            return condition.start
        if self.start is None:
            names = ", ".join(self.conditioners)
            raise InputError(f"this prior starts from its conditioners ({names}): give a Condition")
        return self.start

    def _check(self, codes: Tensor, condition: Condition, layers: Collection[int]) -> None:
        length, context = codes.shape[1], self.config.context
        if not 1 <= length <= context:
            raise InputError(f"{length} codes for a prior whose context is 1 to {context} codes")
        if condition.position is not None and condition.position.shape[1] < length:
            told = condition.position.shape[1]
            raise InputError(f"a Condition of {told} positions for {length} codes")
        for layer in layers:
            if not 0 <= layer < self.config.depth:
                raise InputError(f"no layer {layer}: layers are 0 to {self.config.depth - 1}")


def check_attention(
    name: str, config: PriorConfig, device: torch.device, *, grad: bool, half: bool = False
) -> None:
    """Refuse a kernel that can't serve a prior of this config there.

    Raises:
        InputError: no such kernel, or the reason why it can't.
    """
    dtype = torch.bfloat16 if half else torch.float32
    for pattern in set(config.patterns):
        choose(name, AttentionRequest(device.type, dtype, pattern, grad))


def site_of(config: PriorConfig) -> Site:
    """The place that this prior's conditioners are built for."""
    names = [stream.name for stream in config.spec.streams]
    place = names.index(config.stream)
    return Site(
        width=config.width,
        context=config.context,
        sample_rate=config.spec.sample_rate,
        stream=config.spec.streams[place],
        upper=config.spec.streams[place + 1] if place + 1 < len(names) else None,
    )


def build_conditioners(config: PriorConfig) -> nn.ModuleDict:
    """The conditioners of a config by name, freshly initialised.

    Raises:
        InputError: one is not installed, refuses its config, or makes what this transformer has
            no layers to read.
    """
    site = site_of(config)
    built = nn.ModuleDict()
    for record in config.conditioners:
        cls, cls_config = registry.restore(registry.CONDITIONERS, record)
        conditioner: Conditioner = cls(cls_config, site)
        for part in ("memory", "prefix"):
            if getattr(conditioner.provides, part):
                raise InputError(
                    f"conditioner {record.name!r} makes a {part}, but this transformer has no "
                    f"layers that read one"
                )
        built[record.name] = conditioner
    return built
