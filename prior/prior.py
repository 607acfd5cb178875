"""The prior: codes as integers in, logits of each next code out. It knows no audio.

An autoregressive transformer over one stream's codes (paper section 4), told about the track by
conditioners that it builds by name. Some of them put tokens ahead of the codes, a prefix, which is
modelled with them over one vocabulary: the prefix's tokens first, then the codes. Shapes:
B batch, T code positions of a window, S prefix positions, W width, V tokens, H heads.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from conditioning.base import Condition, Conditioner, Site, Track, Window
from conditioning.fuse import (
    Layout,
    condition_of,
    fuse,
    layout_of,
    prepared_by,
    require_layout,
)
from plugins import registry
from plugins.ground.config import build_config
from plugins.ground.errors import InputError
from prior.attention.base import Attend, AttentionRequest
from prior.attention.kernels import AUTO, Chosen, Masked, Recording, choose
from prior.config import PriorConfig, TransformerConfig
from prior.lean import product, surprise
from prior.transformer import Transformer

NOTHING = Condition()


@dataclass(frozen=True)
class Output:
    """What a forward pass gives."""

    logits: Tensor | None  # [B, S + T, V] of the token at each position; None if stopped early
    hidden: Tensor  # [B, S + T, W] residual stream after the last layer that ran
    attention: Mapping[int, Tensor] = field(default_factory=dict)
    # layer -> weights [B, H, S + T, K]; K is S + T, as far as the pattern looks, or the memory's


@dataclass(frozen=True)
class Losses:
    """What a prior is trained on; [] each. Only the total leads back to the prior's weights."""

    total: Tensor  # mean over codes and the positions of all others, each by its weight
    codes: Tensor  # mean cross-entropy in nats per code
    others: Mapping[str, Tensor]  # name -> mean in nats per position


class Prior(nn.Module):
    """A model of one stream's codes, given a Condition.

    Args:
        config: what to build.
        conditioners: by name, if they are built already.
    """

    def __init__(self, config: PriorConfig, conditioners: nn.ModuleDict | None = None) -> None:
        super().__init__()
        self.config = config
        self.site = site_of(config)
        self._layouts: dict[str, Layout] = {}
        """What each conditioner prepared for the first item."""
        self.conditioners = build_conditioners(config) if conditioners is None else conditioners
        provided = [part.provides for _, part in self._parts()]
        self.prefix = sum(p.prefix for p in provided)
        """S."""
        self.prefix_vocab = sum(p.prefix_vocab for p in provided)
        """V less the codes of the stream."""
        shape = config.transformer(self.prefix, sum(p.memory for p in provided))
        tokens = self.prefix_vocab + config.vocab_size
        self.embedding = nn.Embedding(tokens, config.width)
        self.positions = nn.Parameter(torch.empty(shape.context, config.width))
        started = any(p.start for p in provided)
        self.start = None if started else nn.Parameter(torch.empty(1, config.width))
        self.transformer = Transformer(shape)
        self.output = (
            nn.Linear(config.width, tokens, bias=False) if config.separate_embeddings else None
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
        check_attention(name, self.config, weight.device, weight.dtype, grad=grad)
        for transformer in self._transformers():
            transformer.attention = AUTO if self.config.attention else name

    def use_recomputation(self, on: bool = True) -> None:
        """In training, keep only each layer's input and compute the rest again: less memory."""
        for transformer in self._transformers():
            transformer.recompute = on

    def _transformers(self) -> Iterator[Transformer]:
        """Its own, and those that it lent to conditioners."""
        return (module for module in self.modules() if isinstance(module, Transformer))

    @property
    def kernel(self) -> Attend:
        """How layers attend."""
        return Chosen(self.transformer.attention)

    def memory_kernel(self, condition: Condition) -> Attend:
        """How layers attend to the memory of a Condition: kernels know of no holes in one."""
        mask = condition.memory_mask
        return self.kernel if mask is None else Masked(mask)

    def adopt(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors of a prior with smaller vocabularies, fitted to this one's."""
        fitted = dict(state)
        for table in ("embedding.weight", "output.weight"):
            if table in state:
                fitted[table] = self._with_prefix_rows(state[table])
        for name, conditioner in self.conditioners.items():
            own = f"conditioners.{name}."
            old = {k[len(own) :]: t for k, t in state.items() if k.startswith(own)}
            assert isinstance(conditioner, Conditioner)
            fitted |= {own + key: tensor for key, tensor in conditioner.adopt(old).items()}
        return fitted

    def _with_prefix_rows(self, table: Tensor) -> Tensor:
        """A table of tokens [V', W] whose prefix knew fewer, new ones starting as its first."""
        missing = self.prefix_vocab + self.config.vocab_size - len(table)
        if missing <= 0 or missing >= self.prefix_vocab:
            return table
        if sum(part.provides.prefix > 0 for _, part in self._parts()) > 1:
            raise InputError("a prior with two prefixes can't take up new tokens of either")
        old = self.prefix_vocab - missing
        return torch.cat([table[:old], table[:1].expand(missing, -1), table[old:]])

    def prepare(
        self, track: Track, window: Window, rng: np.random.Generator | None = None
    ) -> dict[str, Tensor]:
        """What all conditioners prepare for one item, as "<conditioner>/<tensor>".

        Raises:
            InputError: one can't, or prepares other things than for earlier items.
        """
        prepared: dict[str, Tensor] = {}
        for name, part in self._parts():
            made = prepared_by(part, track, window, rng)
            require_layout(part, made, self._layouts.setdefault(name, layout_of(made)))
            prepared |= {f"{name}/{key}": tensor for key, tensor in made.items()}
        return prepared

    def condition(self, batch: Mapping[str, Tensor]) -> Condition:
        """The Condition of a batch of `prepare`d tensors [B, ...]; other names are ignored.

        Raises:
            InputError: a conditioner makes something else than it announced.
        """
        made: list[Condition] = []
        weight = self.embedding.weight
        dtype = None if torch.is_autocast_enabled(weight.device.type) else weight.dtype
        known = 0  # tokens of the prefixes so far
        for name, part in self._parts():
            own = f"{name}/"
            its = {k[len(own) :]: t for k, t in batch.items() if k.startswith(own)}
            size = len(next(iter((its or batch).values()), weight[:1]))
            one = condition_of(part, its, self.site, size=size, dtype=dtype)
            if one.prefix is not None:
                one = replace(one, prefix=one.prefix + known)
                known += part.provides.prefix_vocab
            made.append(one)
        return fuse(made)

    def tokens(self, codes: Tensor, condition: Condition = NOTHING) -> Tensor:
        """The prefix and codes [B, P] over one vocabulary, [B, S + P]."""
        numbered = codes + self.prefix_vocab
        return numbered if condition.prefix is None else torch.cat([condition.prefix, numbered], 1)

    def inputs(self, codes: Tensor, condition: Condition = NOTHING) -> Tensor:
        """Input vectors of all positions up to code P from the codes [B, P]: [B, S + P + 1, W].

        The input at position i is the embedding of token i - 1, at 0 the start.
        """
        embedded = self.embedding(self.tokens(codes, condition))
        start = self._start(condition).expand(len(codes), 1, -1)
        x = torch.cat([start, embedded], 1) + self.positions[: embedded.shape[1] + 1]
        told = self.told(condition, codes.shape[1] + 1)
        return x if told is None else x + told

    def told(self, condition: Condition, length: int) -> Tensor | None:
        """The Condition's positions, nothing over the prefix, then `length`: [B, S + length, W]."""
        if condition.position is None:
            return None
        return F.pad(condition.position[:, :length], (0, 0, self.prefix, 0))

    def head(self, hidden: Tensor, position: Tensor | None = None) -> Tensor:
        """Logits [..., V] of hidden vectors [..., W].

        Args:
            hidden: the transformer's output.
            position: the Condition's part at the same positions, of the same shape.
        """
        return product(self._read(hidden, position), self._table)

    def _read(self, hidden: Tensor, position: Tensor | None) -> Tensor:
        """What the output embeddings are compared with."""
        if self.config.condition_output and position is not None:
            return hidden + position
        return hidden

    @property
    def _table(self) -> Tensor:
        """Output embeddings [V, W]."""
        return (self.output or self.embedding).weight

    def forward(
        self,
        codes: Tensor,
        condition: Condition = NOTHING,
        *,
        upto: int | None = None,
        record: Collection[int] = (),
    ) -> Output:
        """Logits of every token from those before it.

        Args:
            codes: [B, T], T up to the context.
            condition: of the same batch.
            upto: stop after this layer, counted from 0; no logits then.
            record: layers whose attention weights are kept, computed by `naive`.

        Raises:
            InputError: more codes than the context, a Condition of another length or without
                what this prior needs, or no such layer.
        """
        length, last = codes.shape[1], self.config.depth - 1 if upto is None else upto
        self.check(condition)
        self._check(length, condition, [*record, last])
        attends = self.transformer.attends(self.kernel, self.memory_kernel(condition))[: last + 1]
        recordings = {layer: self._recording(layer, condition) for layer in record if layer <= last}
        for layer, recording in recordings.items():
            attends[layer] = recording
        x = F.dropout(self.inputs(codes[:, :-1], condition), self.config.dropout, self.training)
        hidden = self.transformer(x, attends, condition.memory)
        return Output(
            logits=self.head(hidden, self.told(condition, length)) if upto is None else None,
            hidden=hidden,
            attention={layer: kept.recorded for layer, kept in recordings.items()},
        )

    def losses(
        self,
        codes: Tensor,
        condition: Condition = NOTHING,
        mask: Tensor | None = None,
        count: Tensor | None = None,
    ) -> Losses:
        """How surprised the prior is by codes, by its prefix, and what its conditioners learn.

        Args:
            codes: [B, T].
            condition: of the same batch.
            mask: [B, T] bool, True where a code counts; all do by default.
            count: [], what the mean over codes divides by: how many count unless given.
        """
        length = codes.shape[1]
        hidden = self(codes, condition, upto=self.config.depth - 1).hidden
        counted = torch.ones_like(codes) if mask is None else mask
        own = counted / (counted.sum() if count is None else count).clamp(min=1)  # [B, T]
        ahead = {name: part.provides for name, part in self._parts() if part.provides.prefix}
        others = condition.losses
        positions = length + self.prefix + sum(other.positions for other in others)
        weights = [own.new_full((one.prefix,), one.prefix_weight) for one in ahead.values()]
        first = torch.cat(weights).expand(len(codes), -1) / len(codes) if weights else own[:, :0]
        total, surprises = surprise(
            self._read(hidden, self.told(condition, length)).flatten(0, 1),
            self._table,
            self.tokens(codes, condition).flatten(),
            torch.cat([first, own * length], 1).flatten() / positions,
        )
        for other in others:
            total = total + other.weight * other.positions / positions * other.mean
        sizes = [*(one.prefix for one in ahead.values()), length]
        *parts, last = surprises.view(len(codes), -1).split(sizes, 1)
        means = {other.name: other.mean for other in others}
        means |= {name: part.mean() for name, part in zip(ahead, parts, strict=True)}
        return Losses(total, (last * own).sum(), means)

    def loss(
        self, codes: Tensor, condition: Condition = NOTHING, mask: Tensor | None = None
    ) -> Tensor:
        """What training minimises: `losses(...).total`."""
        return self.losses(codes, condition, mask).total

    def _recording(self, layer: int, condition: Condition) -> Recording:
        if self.config.pattern_of(layer) == "memory":
            return Recording(condition.memory_mask)
        return Recording(own=self.transformer.own(layer))

    def _parts(self) -> Iterator[tuple[str, Conditioner]]:
        for name, part in self.conditioners.items():
            yield name, cast(Conditioner, part)

    def _start(self, condition: Condition) -> Tensor:
        start = self.start if condition.start is None else condition.start
        assert start is not None  # `check` saw to that
        return start

    def check(self, condition: Condition) -> None:
        """Refuse a Condition that lacks what this prior's conditioners make.

        Raises:
            InputError: says what is missing.
        """
        for part, needed in (
            ("start", self.start is None),
            ("memory", self.transformer.config.memory),
            ("prefix", self.prefix),
        ):
            if needed and getattr(condition, part) is None:
                names = ", ".join(self.conditioners)
                raise InputError(f"this prior needs a {part} from its conditioners ({names})")

    def _check(self, length: int, condition: Condition, layers: Collection[int]) -> None:
        context, count = self.config.context, len(self.transformer.layers)
        if not 1 <= length <= context:
            raise InputError(f"{length} codes for a prior whose context is 1 to {context} codes")
        if condition.position is not None and condition.position.shape[1] < length:
            told = condition.position.shape[1]
            raise InputError(f"a Condition of {told} positions for {length} codes")
        for layer in layers:
            if not 0 <= layer < count:
                raise InputError(f"no layer {layer}: layers are 0 to {count - 1}")


def check_attention(
    name: str, config: PriorConfig, device: torch.device, dtype: torch.dtype, *, grad: bool
) -> None:
    """Refuse a kernel that can't serve a prior of this config there.

    Raises:
        InputError: no such kernel, or the reason why it can't; or the prior's own attention can't
            work there.
    """
    own = config.attention
    if own is not None and name not in (AUTO, own.name):
        raise InputError(
            f"the prior of stream {config.stream} attends with {own.name!r}, whose parameters it "
            f"has learned: {name!r} can't stand in for it"
        )
    for pattern in set(config.patterns):
        request = AttentionRequest(device.type, dtype, pattern, grad)
        if own is None or pattern == "memory":
            choose(AUTO if own else name, request)
            continue
        cls = registry.restore(registry.ATTENTION, own)[0]
        with registry.blaming(cls, "say what it can serve"):
            reason = cls.why_not(request)
        if reason:
            raise InputError(f"attention {own.name!r} can't serve this: {reason}")


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
        transformer=_transformer,
    )


def _transformer(**settings: Any) -> Transformer:
    """What is lent to conditioners."""
    return Transformer(build_config(TransformerConfig, {"": {}}, "", settings))


def build_conditioners(config: PriorConfig) -> nn.ModuleDict:
    """The conditioners of a config by name, freshly initialised.

    Raises:
        InputError: one is not installed, refuses its config, or can't be built.
    """
    site = site_of(config)
    built = nn.ModuleDict()
    for record in config.conditioners:
        cls, cls_config = registry.restore(registry.CONDITIONERS, record)
        with registry.blaming(cls, "be built"):
            built[record.name] = cls(cls_config, site)
    return built
