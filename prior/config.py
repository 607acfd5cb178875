"""Settings of a prior, and presets. No torch import; it knows no network.

The published shapes are those of the paper (arXiv 2005.00341, appendix B.2).
"""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from codec.tokens import TokenSpec
from plugins.ground.config import build_config
from plugins.ground.errors import InputError, first_problem
from plugins.registry import PluginRecord
from prior.attention.orders import FACTORED, PatternName, attention_order

DEEPEST = 4096
"""Far beyond any model, but so few layers that they can be outlined and compared with a file."""


class LayersConfig(BaseModel):
    """The layers of a transformer, whatever they see."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    width: int = Field(ge=1)
    depth: int = Field(ge=1, le=DEEPEST)
    heads: int = Field(1, ge=1)
    blocks: int = Field(1, ge=1)
    """All positions are folded as `blocks` blocks of equal length."""
    patterns: tuple[PatternName, ...] = Field(FACTORED, min_length=1)
    """What each layer's queries may see; repeated over the layers."""
    spread: int = Field(1, ge=1)
    """Positions at the end of each block that "spread" layers see."""
    attention_ratio: float = Field(0.25, gt=0)
    """Width of queries, keys and values, all heads together, over `width`."""
    mlp_ratio: float = Field(1.0, gt=0)
    """Width of the MLP's hidden layer over `width`."""
    res_scale: bool = False
    """Residual branches are scaled by 1 / depth."""
    init_scale: float = Field(1.0, gt=0)
    """Factor on the standard deviation of all initial weights."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Of the inputs and of both residual branches, in training."""
    attention: PluginRecord | None = None
    """What layers attend with that has parameters of its own; None: kernels, which have none."""

    @model_validator(mode="after")
    def _heads_divide(self) -> "LayersConfig":
        if self.attention_width < 1 or self.attention_width % self.heads:
            raise ValueError(
                f"an attention width of {self.attention_width} ({self.attention_ratio} x "
                f"{self.width}) can't be split into {self.heads} heads"
            )
        return self

    @property
    def attention_width(self) -> int:
        """Width of queries, keys and values, all heads together."""
        return int(self.attention_ratio * self.width)

    @property
    def mlp_width(self) -> int:
        """Width of the MLP's hidden layer."""
        return max(1, int(self.mlp_ratio * self.width))

    def pattern_of(self, layer: int) -> PatternName:
        """The pattern of a layer, counted from 0."""
        return self.patterns[layer % len(self.patterns)]


class TransformerConfig(LayersConfig):
    """A transformer over a known number of positions."""

    context: int = Field(ge=1)
    """Positions that it sees."""
    prefix: int = Field(0, ge=0)
    """Those of them that lie ahead of what it models; "prefix" layers look back at them."""
    memory: int = Field(0, ge=0)
    """Positions of another sequence, which "memory" layers read."""

    @model_validator(mode="after")
    def _layers_fit(self) -> "TransformerConfig":
        if self.context % self.blocks:
            raise ValueError(
                f"a context of {self.context} can't be folded into {self.blocks} blocks"
            )
        if "spread" in self.patterns and self.spread > self.context // self.blocks:
            raise ValueError(f"spread is {self.spread}, more than a block's length")
        for part in ("memory", "prefix"):
            if part in self.patterns[: self.depth] and not getattr(self, part):
                raise ValueError(f"there are layers that read a {part}, but no conditioner has one")
        if self.memory and "memory" not in self.patterns:
            raise ValueError("there is a memory, but no layer reads it: give a pattern 'memory'")
        return self


class PriorConfig(LayersConfig):
    """Everything that is needed to build a prior again; it travels with the checkpoint."""

    context: int = Field(ge=1)
    """Codes that it sees; a prefix of its conditioners comes ahead of them."""
    spec: TokenSpec
    """Of the codes that it was made for."""
    stream: str
    """Which of the spec's streams it models."""
    vocab_size: int = Field(ge=1)
    separate_embeddings: bool = False
    """Output embeddings of their own, instead of the input embeddings used again."""
    condition_output: bool = True
    """Position conditions are added to the transformer's outputs too."""
    conditioners: tuple[PluginRecord, ...] = ()

    @model_validator(mode="after")
    def _codes_and_conditioners_fit(self) -> "PriorConfig":
        stream = self.spec.stream(self.stream)
        if self.vocab_size != stream.vocab_size:
            raise ValueError(
                f"vocab_size is {self.vocab_size}, but stream {self.stream!r} has "
                f"{stream.vocab_size} codes"
            )
        names = [record.name for record in self.conditioners]
        if len(set(names)) != len(names):
            raise ValueError(f"two conditioners of one name: {', '.join(names)}")
        if odd := [name for name in names if "." in name or "/" in name]:
            raise ValueError(f"conditioner {odd[0]!r}: its name may hold neither '.' nor '/'")
        return self

    def transformer(self, prefix: int = 0, memory: int = 0) -> TransformerConfig:
        """The transformer over a prefix of that length and the codes.

        Raises:
            InputError: these layers can't be laid over so many positions.
        """
        layers = {name: getattr(self, name) for name in LayersConfig.model_fields}
        try:
            return TransformerConfig(
                **layers, context=prefix + self.context, prefix=prefix, memory=memory
            )
        except ValidationError as error:
            raise InputError(f"setting {first_problem(error)}") from error


PRESETS: Mapping[str, Mapping[str, Any]] = {
    # Two CPU cores: minutes of training, on codes of a tiny codec.
    "tiny": {"context": 512, "width": 256, "depth": 6, "heads": 4, "blocks": 16},
    # 45 million parameters, for one workstation GPU.
    "small": {
        "context": 4096,
        "width": 768,
        "depth": 24,
        "heads": 4,
        "blocks": 64,
        "res_scale": True,
    },
    # Published, levels 0 and 1: 0.8 billion, 1 billion with the conditioner on the codes above.
    "upsampler": {
        "context": 8192,
        "width": 1920,
        "depth": 72,
        "heads": 1,
        "blocks": 128,
        "res_scale": True,
        "init_scale": 0.2,
    },
    # Published, level 2.
    "5b": {
        "context": 8192,
        "width": 4800,
        "depth": 72,
        "heads": 8,
        "blocks": 128,
        "res_scale": True,
        "init_scale": 0.1,
        "separate_embeddings": True,
        "condition_output": False,
    },
    # Published, level 2: the same with seven layers more, which read a lyric encoder.
    "5b_lyrics": {
        "context": 8192,
        "width": 4800,
        "depth": 79,
        "heads": 8,
        "blocks": 128,
        "patterns": attention_order(10),
        "res_scale": True,
        "init_scale": 0.1,
        "separate_embeddings": True,
        "condition_output": False,
    },
    # Published, level 2: one transformer over lyrics and codes.
    "1b_lyrics": {
        "context": 6144,
        "width": 2048,
        "depth": 72,
        "heads": 2,
        "blocks": 64,
        "patterns": attention_order(12),
        "res_scale": True,
        "init_scale": 0.2,
    },
}
"""Shapes by name, without stream and conditioners: `preset` completes them."""

CONDITIONERS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "tiny": {"codes": {"width": 64, "depth": 4, "dilation_cycle": 4}},
    "small": {"codes": {"width": 256, "depth": 8}},
    "upsampler": {"timing": {"bins": 128}},
    "5b": {"timing": {"bins": 128, "total_seconds": (60, 600)}},
    "5b_lyrics": {
        "timing": {"bins": 128, "total_seconds": (23.8, 600)},
        "lyrics_memory": {"tokens": 512, "vocabulary": "openai-v2"},
    },
    "1b_lyrics": {"timing": {"bins": 64}, "lyrics_prefix": {"tokens": 384}},
}
"""Settings of conditioners by preset and registry name, over the conditioners' own defaults."""


def preset(
    name: str,
    spec: TokenSpec,
    stream: str,
    conditioners: Sequence[PluginRecord] = (),
    **settings: Any,
) -> PriorConfig:
    """The config of a preset for one stream of a codec.

    Args:
        name: a name of `PRESETS`.
        spec: of the codes that the prior is made for.
        stream: which of its streams.
        conditioners: as `plugins.registry.record` makes them.
        **settings: fields of `PriorConfig` that replace the preset's.

    Raises:
        InputError: no such preset, stream or setting, or a value that can't be.
    """
    given = {
        "spec": spec,
        "stream": stream,
        "vocab_size": spec.stream(stream).vocab_size,
        "conditioners": tuple(conditioners),
    }
    return build_config(PriorConfig, PRESETS, name, {**given, **settings})
