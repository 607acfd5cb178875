"""Names of published tensors <-> names of ours, for any shape of codec or prior.

It knows how both sides call things and which are stored transposed; it reads no files. The names
and shapes of ours come from our modules, built without memory, so a shape is never written down
twice.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import nn

from codec.config import VQVAEConfig
from codec.vqvae import VQVAE
from plugins.ground.errors import InputError
from plugins.openai.torchfile import Stored
from prior.config import PriorConfig
from prior.prior import Prior

SHOWN = 5
"""How many tensors a message lists."""

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Source:
    """The published tensor that one of ours is made of."""

    name: str
    shape: Shape
    transposed: bool = False
    """Published dense layers are [in, out], ours [out, in]."""

    @property
    def our_shape(self) -> Shape:
        """Of ours."""
        return self.shape[::-1] if self.transposed else self.shape


@dataclass(frozen=True)
class Layout:
    """All tensors of a published checkpoint."""

    sources: Mapping[str, Source]
    """By our names."""
    twins: Mapping[str, Source] = field(default_factory=dict)
    """Tensors that are stored beside an equal one which is used for them, by our names."""

    @property
    def published(self) -> dict[str, Shape]:
        """Shapes by published names."""
        every = [*self.sources.values(), *self.twins.values()]
        return {source.name: source.shape for source in every}


def published_layout(config: VQVAEConfig | PriorConfig) -> dict[str, Shape]:
    """Names and shapes of the tensors of a published checkpoint of that config.

    Residual blocks are called `model.N`; some published files call them `blocks.N`.
    """
    return layout_of(config).published


def layout_of(config: VQVAEConfig | PriorConfig) -> Layout:
    """Which published tensor each of ours is made of.

    Raises:
        InputError: the config's conditioners are not installed or can't be built, or have no
            published names; or its tensors are larger than any can be.
    """
    try:
        with torch.device("meta"):
            module: nn.Module = VQVAE(config) if isinstance(config, VQVAEConfig) else Prior(config)
    except (RuntimeError, TypeError, OverflowError, MemoryError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"hyper-parameters are of no model that can be built: {reason}") from error
    shapes = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    if isinstance(config, VQVAEConfig):
        return Layout(
            {
                name: Source(_codec_name(name, config.halvings), shape)
                for name, shape in shapes.items()
                if not re.fullmatch(OWN_STATE, name)
            }
        )
    sources = {name: _prior_source(name, shape) for name, shape in shapes.items()}
    if config.separate_embeddings:
        return Layout(sources)
    shared = sources["embedding.weight"]
    return Layout(sources, {"embedding.weight": Source("prior.x_out.weight", shared.shape)})


def match(layout: Layout, stored: Mapping[str, Stored], where: object, what: str) -> dict[str, str]:
    """The names that a file has for each published name of a layout; all must be there.

    Args:
        layout: what is expected.
        stored: what the file has.
        where: the file, for the message.
        what: what the layout was made from, for the message.

    Raises:
        InputError: names tensors that are missing, left over, or of another shape.
    """
    found: dict[str, str] = {}
    over = []
    for name in stored:
        if (canonical := _canonical(name)) in layout.published and canonical not in found:
            found[canonical] = name
        else:
            over.append(f"{name} {list(stored[name].shape)} is left over")
    wrong = [
        f"{name} has shape {list(stored[found[name]].shape)}, not {list(shape)}"
        for name, shape in layout.published.items()
        if name in found and stored[found[name]].shape != shape
    ]
    wrong += [f"{name} is missing" for name in layout.published if name not in found]
    wrong += over
    if wrong:
        more = f"; and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        raise InputError(f"{where} does not fit {what}: {'; '.join(wrong[:SHOWN])}{more}")
    return found


def label_rows(stored: Mapping[str, Stored]) -> dict[str, int]:
    """Rows of the tables of labels that a file has, by the conditioners' registry names."""
    tables = {what: f"{_CONDITIONERS[f'{what}.table']}.weight" for what in ("artist", "genre")}
    return {
        what: stored[name].shape[0]
        for what, name in tables.items()
        if name in stored and stored[name].shape
    }


def _canonical(name: str) -> str:
    """Residual blocks have two names: both `blocks.N` and `model.N` occur."""
    return re.sub(r"\.blocks\.(\d+)\.model\.", r".model.\1.model.", name)


# Codecs

OWN_STATE = r"bandwidth|quantizers\.\d+\.(counts|sums|initialised)"
"""What published codecs do not keep: state of their training."""


def _codec_name(name: str, halvings: tuple[int, ...]) -> str:
    if found := re.fullmatch(r"quantizers\.(\d+)\.codebook", name):
        return f"bottleneck.level_blocks.{found[1]}.k"
    if found := re.fullmatch(r"(decoders\.\d+)\.conv_out\.(\w+)", name):
        return f"{found[1]}.out.{found[2]}"
    side, level, block, rest = name.split(".", 3)
    number = int(block.removeprefix("block_"))
    layer = _doubling(rest) if side == "decoders" else _halving(rest, halvings[number])
    return f"{side}.{level}.level_blocks.{number}.model.{layer}"


def _halving(name: str, halvings: int) -> str:
    """Of an encoder's block: pairs of a strided convolution and a residual stack, then one more."""
    kind, rest = name.split(".", 1)
    if kind == "conv_out":
        return f"{halvings}.{rest}"
    role, stage = kind.split("_")
    return f"{stage}.0.{rest}" if role == "halve" else f"{stage}.1.{_residual(rest)}"


def _doubling(name: str) -> str:
    """Of a decoder's block: a convolution, then pairs of a residual stack and a transposed one."""
    kind, rest = name.split(".", 1)
    if kind == "conv_in":
        return f"0.{rest}"
    role, number = kind.split("_")
    stage = int(number) + 1
    return f"{stage}.1.{rest}" if role == "double" else f"{stage}.0.{_residual(rest)}"


def _residual(name: str) -> str:
    """Of a residual stack: its convolutions come after one activation each."""
    _, block, role, rest = name.split(".")
    return f"model.{block}.model.{ {'dilated': 1, 'pointwise': 3}[role] }.{rest}"


# Priors

_LAYER_PARTS = {
    "attention_norm": "ln_0",
    "attention.qkv": "attn.c_attn",
    "attention.query": "attn.c_attn",
    "attention.memory": "attn.c_enc_kv",
    "attention.out": "attn.c_proj",
    "mlp_norm": "ln_1",
    "mlp.0": "mlp.c_fc",
    "mlp.2": "mlp.c_proj",
}
_CONDITIONERS = {
    "artist.table": "y_emb.artist_emb.emb",
    "genre.table": "y_emb.bow_genre_emb.emb",
    "timing.total": "y_emb.total_length_emb.emb",
    "timing.absolute": "y_emb.absolute_pos_emb.emb",
    "timing.relative": "y_emb.relative_pos_emb.emb",
    "codes.embedding": "conditioner_blocks.0.x_emb",
    "codes.norm": "conditioner_blocks.0.ln",
    "lyrics_memory.projection": "prime_state_proj",
    "lyrics_memory.norm": "prime_state_ln",
    "lyrics_memory.output": "prime_x_out",
}
_UPPER, _LYRICS = "conditioners.codes.network.", "conditioners.lyrics_memory."
_DENSE = re.compile(r"(.*\.c_\w+|prime_state_proj)\.(w|b)(?:eight|ias)")


def _prior_source(name: str, shape: Shape) -> Source:
    theirs = _prior_name(name)
    if dense := _DENSE.fullmatch(theirs):
        transposed = len(shape) == 2
        return Source(f"{dense[1]}.{dense[2]}", shape[::-1], transposed)
    return Source(theirs, shape)


def _prior_name(name: str) -> str:
    if name.startswith(_UPPER):
        return "conditioner_blocks.0.cond.model." + _doubling(name.removeprefix(_UPPER))
    part, _, leaf = name.removeprefix("conditioners.").rpartition(".")
    if part in _CONDITIONERS:
        return f"{_CONDITIONERS[part]}.{leaf}"
    if theirs := _transformer_name(name):
        return f"prior.{theirs}"
    if name.startswith(_LYRICS) and (theirs := _transformer_name(name.removeprefix(_LYRICS))):
        return f"prime_prior.{theirs}"
    raise InputError(f"published checkpoints have no name for {name}")


def _transformer_name(name: str) -> str:
    """Within an autoregressive transformer; "" for what is none of its own."""
    if found := re.fullmatch(r"transformer\.layers\.(\d+)\.(.+)\.(\w+)", name):
        return f"transformer._attn_mods.{found[1]}.{_LAYER_PARTS[found[2]]}.{found[3]}"
    return {
        "embedding.weight": "x_emb.weight",
        "positions": "pos_emb.pos_emb",
        "start": "start_token",
        "output.weight": "x_out.weight",
    }.get(name, "")
