"""Does the toolkit compute what the Jukebox of `transformers` does, from the same weights?

`python benchmarks/transformers_agreement.py [--seed 0]` gives small models of every published kind
random weights and one input to both sides, and prints the largest differences: codes must be
equal, numbers within 1e-3. It ends with status 1 if any are not. Half a minute on one core.

transformers has no Jukebox after 4.57, which needs older packages than this toolkit does. So it
wants an environment of its own, with this toolkit beside it:

    python -m venv agreement
    agreement/bin/pip install torch==2.13.0
    agreement/bin/pip install -e . transformers==4.57.6
    agreement/bin/python benchmarks/transformers_agreement.py

It knows that side's public classes, the names of its weights and what it answers, not its code.
There, priors are counted from the coarsest. Shapes:
B batch, T codes of a window, U codes above it, S characters of the lyrics, C channels, N samples.
"""

import importlib
import math
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pydantic import Field
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from codec.config import VQVAEConfig
from codec.vqvae import VQVAE, token_spec
from conditioning.base import Window
from conditioning.text import ALPHABETS, numbers
from plugins import registry
from plugins.ground.command import Command
from plugins.ground.errors import InputError
from prior.attention.orders import attention_order
from prior.config import PriorConfig
from prior.engine import Engine
from prior.prior import Prior

TOLERANCE = 1e-3
PROMPTS = (0, 10)
"""Codes that sampling starts from."""
SAMPLED = 40
"""Codes that are sampled, always the likeliest."""

CODEC = VQVAEConfig(codebook_size=64, codebook_width=16, width=8, depth=3)
SPEC = token_spec(CODEC)
CODES = CODEC.codebook_size
CONTEXT, CHARACTERS, ALPHABET = 64, 24, ALPHABETS["v3"]
LAYERS = {"width": 32, "heads": 2, "blocks": 8, "spread": 3, "res_scale": True}
ENCODER = {"width": 40, "heads": 2, "blocks": 4, "depth": 4, "res_scale": True}
UPPER = {"width": 16, "depth": 4, "dilation_growth": 3, "dilation_cycle": 3}
GENRES, ARTISTS, WORDS, BINS = 12, 30, 3, 16
TOTAL_SECONDS = (10, 600)


@dataclass(frozen=True)
class Case:
    """A kind of prior."""

    name: str
    order: int
    depth: int
    stream: str = "2"
    merged: bool = False
    """Separate embeddings, and conditions are not added again after the transformer."""
    lyrics: str | None = None
    """The conditioner that reads them."""
    scaled: bool = False
    """Residual branches of the conditioner on the codes above are."""
    sampled: bool = True
    """The other side can sample it."""


CASES = (
    Case("upsampler of level 0", order=2, depth=6, stream="0"),
    Case("upsampler of level 1", order=2, depth=6, stream="1", scaled=True),
    Case("top without lyrics (5b)", order=2, depth=9, merged=True),
    Case("lyric encoder (5b_lyrics)", order=10, depth=29, merged=True, lyrics="lyrics_memory"),
    Case("lyrics ahead (1b_lyrics)", order=12, depth=48, lyrics="lyrics_prefix"),
    Case("order 0, dense", order=0, depth=3),
    Case("order 1, row and column", order=1, depth=4, merged=True),
    Case("order 3, summary", order=3, depth=4, sampled=False),
    Case("order 4, spread summary", order=4, depth=4, merged=True, sampled=False),
    Case("order 5, summary", order=5, depth=8, sampled=False),
    Case("order 6, lyric encoder", order=6, depth=8, lyrics="lyrics_memory"),
    Case("order 7, lyric encoder", order=7, depth=16, merged=True, lyrics="lyrics_memory"),
    Case("order 8, lyric encoder", order=8, depth=20, merged=True, lyrics="lyrics_memory"),
    Case("order 9, dense", order=9, depth=8, merged=True),
    Case("order 11, lyric encoder", order=11, depth=48, lyrics="lyrics_memory"),
)


@dataclass(frozen=True)
class Finding:
    """One comparison."""

    case: str
    what: str
    difference: float
    """The largest between two numbers, or how many codes differ."""
    tolerance: float = TOLERANCE

    @property
    def agrees(self) -> bool:
        """Never if the difference is not a number."""
        return self.difference <= self.tolerance


class TransformersAgreement(Command):
    """Compare this toolkit with the Jukebox of transformers 4.57.6 on random weights."""

    seed: int = Field(0, ge=0, description="of weights and inputs")

    def cli_cmd(self) -> None:
        """Compare and print; status 1 if anything differs.

        Raises:
            InputError: there is no transformers with a Jukebox.
        """
        theirs = transformers_jukebox()
        findings = list(compare_codecs(theirs, self.seed))
        for case in CASES:
            findings += compare_priors(theirs, case, self.seed)
        table = Table("case", "what", "largest difference", "tolerance", "verdict")
        for f in findings:
            shown = f"{f.difference:.1e}" if f.tolerance else f"{f.difference:.0f} codes"
            verdict = "agree" if f.agrees else "DIFFER"
            table.add_row(f.case, f.what, shown, f"{f.tolerance:g}", verdict)
        Console().print(table)
        sys.exit(not all(f.agrees for f in findings))


def transformers_jukebox() -> Any:
    """The module with that side's classes.

    Raises:
        InputError: it is not there.
    """
    try:
        jukebox = importlib.import_module("transformers.models.deprecated.jukebox")
        logging = importlib.import_module("transformers.utils.logging")
    except ImportError as error:
        raise InputError(
            f"no Jukebox of transformers here ({error}): install transformers==4.57.6 into an "
            "environment of its own, as the head of this script says"
        ) from error
    logging.disable_progress_bar()
    return jukebox


@torch.inference_mode()
def compare_codecs(theirs: Any, seed: int) -> Iterator[Finding]:
    """Codes of random audio, and audio of random codes, by level."""
    random = torch.Generator().manual_seed(seed)
    config = theirs.JukeboxVQVAEConfig(
        embed_dim=CODEC.codebook_width,
        nb_discrete_codes=CODES,
        res_conv_width=CODEC.width,
        res_conv_depth=CODEC.depth,
        multipliers=list(CODEC.multipliers),
        res_downs_t=list(CODEC.halvings),
    )
    other = randomised(theirs.JukeboxVQVAE(config), random, vectors=0.1)
    codec = VQVAE(CODEC).eval()
    # Buffers of its training are its own.
    codec.load_state_dict({**dict(codec.named_buffers()), **our_weights(other)})
    audio = torch.randn(2, 1, 8192, generator=random)  # [B, C, N]
    expected = other.encode(audio.mT)
    for level, (stream, codes) in enumerate(codec.encode(audio).items()):
        what = f"codes of level {stream}, {len(codes.unique())} kinds"
        yield Finding("codec", what, unequal(codes, expected[level]), 0)
        drawn = torch.randint(CODES, codes.shape, generator=random)
        heard = other.decode([drawn], start_level=level, end_level=level + 1).mT
        difference = apart(codec.decode({stream: drawn}), heard)
        yield Finding("codec", f"audio of level {stream}", difference)


@torch.inference_mode()
def compare_priors(theirs: Any, case: Case, seed: int) -> Iterator[Finding]:
    """Logits of a whole window, what is made of the lyrics, and codes sampled from caches."""
    random = torch.Generator().manual_seed(seed)
    other = randomised(theirs.JukeboxPrior(their_config(theirs, case)), random, vectors=1)
    # Else characters would be likelier than codes.
    other.prior.embed_tokens.weight[:-CODES] *= 0.3
    prior = Prior(our_config(case)).eval()
    weights = our_weights(other, prior.config.patterns)
    if not case.merged:
        assert torch.equal(weights.pop("output.weight"), weights["embedding.weight"])
    prior.load_state_dict(weights)
    inputs = draw_inputs(case, random)
    condition = prior.condition(inputs.batch(prior))
    logits = prior(inputs.codes, condition).logits
    yield Finding(case.name, "logits", apart(logits, their_logits(other, inputs)))
    if condition.memory is not None:
        states = other.get_encoder_states(inputs.lyrics)
        yield Finding(case.name, "lyrics as read", apart(condition.memory, states))
        bits = condition.losses[0].mean / math.log(2)
        expected = other.get_encoder_loss(states, inputs.lyrics)
        yield Finding(case.name, "bits per character", apart(bits, expected))
    for prompt in PROMPTS if case.sampled else ():
        codes = Engine(prior, condition, 2).generate(inputs.codes[:, :prompt], prompt + SAMPLED)
        what = f"likeliest codes after {prompt}, {len(codes[:, prompt:].unique())} kinds"
        yield Finding(case.name, what, unequal(codes, their_codes(other, inputs, prompt)), 0)


# One input for both sides


@dataclass(frozen=True)
class Inputs:
    """Two windows, one amid a track, one that goes past the end of another."""

    case: Case
    codes: Tensor  # [B, T]
    upper: Tensor  # [B, U]
    text: Sequence[str]
    lyrics: Tensor  # [B, S]; S is 0 without lyrics
    artists: Sequence[int] = (4, 17)
    genres: Sequence[Sequence[int]] = ((1,), (3, 2, 7))
    starts: Sequence[int] = (2 * CONTEXT, 53 * CONTEXT)  # in codes
    totals: Sequence[int] = (2_000_000, 441_500)  # of the tracks, in samples

    def batch(self, prior: Prior) -> dict[str, Tensor]:
        """As this toolkit prepares it from tracks."""
        items = [self._prepared(prior, row) for row in range(2)]
        return {name: torch.stack([item[name] for item in items]) for name in items[0]}

    def _prepared(self, prior: Prior, row: int) -> dict[str, Tensor]:
        start = self.starts[row]
        unseen = np.zeros(start * self.upper.shape[1] // CONTEXT, np.int64)
        track = {
            "artist": str(self.artists[row]),
            "genre": " ".join(map(str, self.genres[row])),
            "lyrics": self.text[row],
            f"codes_{int(self.case.stream) + 1}": np.append(unseen, self.upper[row].numpy()),
        }
        return prior.prepare(track, Window(start, self.totals[row]))

    @property
    def metadata(self) -> Tensor:
        """As the other side takes it, [B, 4 + words + S]."""
        hop = SPEC.stream(self.case.stream).hop_length
        rows = [
            [total, start * hop, CONTEXT * hop, artist, *words, *[-1] * (WORDS - len(words))]
            for total, start, artist, words in zip(
                self.totals, self.starts, self.artists, self.genres, strict=True
            )
        ]
        return torch.cat([torch.tensor(rows), self.lyrics], 1)

    @property
    def above(self) -> list[Tensor] | None:
        """The codes above as the other side takes them."""
        return None if self.case.stream == "2" else [self.upper]


def draw_inputs(case: Case, random: torch.Generator) -> Inputs:
    """Random codes and lyrics."""
    codes = torch.randint(CODES, (2, CONTEXT), generator=random)
    upper = torch.randint(CODES, (2, CONTEXT // 4), generator=random)
    length = CHARACTERS if case.lyrics else 0
    drawn = torch.randint(len(ALPHABET), (2, length), generator=random)
    text = ["".join(ALPHABET[i] for i in row) for row in drawn.tolist()]
    lyrics = torch.tensor([numbers(t, ALPHABET) for t in text], dtype=torch.int64)
    return Inputs(case, codes, upper, text, lyrics)


# This side


def our_config(case: Case) -> PriorConfig:
    """A case, as this toolkit says it."""
    names = {"rule": "v2", "named": False}
    parts: dict[str, Mapping[str, Any]] = {
        "artist": {**names, "names": [str(i) for i in range(1, ARTISTS)]},
        "genre": {**names, "names": [str(i) for i in range(1, GENRES)], "max_words": WORDS},
    }
    if case.stream == "2":
        parts["timing"] = {"bins": BINS, "total_seconds": TOTAL_SECONDS}
    else:
        parts["codes"] = {**UPPER, "res_scale": case.scaled}
    if case.lyrics:
        network = {"network": ENCODER} if case.lyrics == "lyrics_memory" else {}
        parts[case.lyrics] = {"tokens": CHARACTERS, "alphabet": ALPHABET, **network}
    return PriorConfig(
        **LAYERS,
        context=CONTEXT,
        depth=case.depth,
        patterns=attention_order(case.order),
        spec=SPEC,
        stream=case.stream,
        vocab_size=CODES,
        separate_embeddings=case.merged,
        condition_output=not case.merged,
        conditioners=tuple(_record(name, settings) for name, settings in parts.items()),
    )


def _record(name: str, settings: Mapping[str, Any]) -> registry.PluginRecord:
    config = registry.get(registry.CONDITIONERS, name).Config(**settings)
    return registry.record(registry.CONDITIONERS, name, config)


def our_weights(other: nn.Module, patterns: Sequence[str] = ("",)) -> dict[str, Tensor]:
    """Their weights under our names; dense layers are [in, out] there, [out, in] here.

    Args:
        other: a codec or prior of theirs.
        patterns: a prior's cycle of attention patterns.
    """
    dense = re.compile(r"\.c_\w+\.weight$|^encoder\.proj_in\.weight$")
    return {
        _our_name(name, patterns): tensor.T if dense.search(name) else tensor
        for name, tensor in other.state_dict().items()
    }


_NAMES = (
    (r"bottleneck\.level_blocks\.(\d+)\.", r"quantizers.\1."),
    (r"^(decoders\.\d+)\.out\.", r"\1.conv_out."),
    (r"\.level_blocks\.(\d+)\.", r".block_\1."),
    (r"^metadata_embedding\.artist_emb\.", "conditioners.artist.table."),
    (r"^metadata_embedding\.bow_genre_emb\.", "conditioners.genre.table."),
    (r"^metadata_embedding\.(\w+?)_(?:pos|length)_emb\.emb\.", r"conditioners.timing.\1."),
    (r"^conditioner_blocks\.upsampler\.", "conditioners.codes.network."),
    (r"^conditioner_blocks\.layer_norm\.", "conditioners.codes.norm."),
    (r"^conditioner_blocks\.", "conditioners.codes."),
    (r"^encoder\.proj_in\.", "conditioners.lyrics_memory.projection."),
    (r"^encoder\.", "conditioners.lyrics_memory."),
    (r"^prior\.", ""),
    (r"(\w+)sample_block\.(\d+)", lambda found: _stage(found[1], int(found[2]))),
    (r"resnet_block\.", "blocks."),
    (r"conv1d_1\.", "dilated."),
    (r"conv1d_2\.", "pointwise."),
    (r"\bproj_(in|out)\.", r"conv_\1."),
    (r"final_layer_norm\.", "norm."),
    (r"(lm_head|fc_proj_out)\.", "output."),
    (r"pos_emb\.pos_emb$", "positions"),
    (r"start_token$", "start"),
    (r"embed_tokens\.", "embedding."),
    (r"_attn_mods\.", "layers."),
    (r"attn\.c_attn\.", "attention.qkv."),
    (r"attn\.c_enc_kv\.", "attention.memory."),
    (r"attn\.c_proj", "attention.out"),
    (r"layer_norm_0\.", "attention_norm."),
    (r"layer_norm_1\.", "mlp_norm."),
    (r"mlp\.c_fc\.", "mlp.0."),
    (r"mlp\.c_proj\.", "mlp.2."),
)
"""Parts of their names and what ours have instead, in this order."""


def _our_name(name: str, patterns: Sequence[str]) -> str:
    layer = re.match(r"prior\.transformer\._attn_mods\.(\d+)\.", name)
    reads_memory = layer and patterns[int(layer[1]) % len(patterns)] == "memory"
    for part, ours in _NAMES:
        name = re.sub(part, ours, name)
    return name.replace("attention.qkv.", "attention.query.") if reads_memory else name


def _stage(direction: str, number: int) -> str:
    """Of a block that changes the rate, where convolutions and residual stacks take turns."""
    residual = number % 2 == (direction == "down")
    change = "double" if direction == "up" else "halve"
    return f"{'residual' if residual else change}_{number // 2}"


# The other side


def their_config(theirs: Any, case: Case) -> Any:
    """A case, as transformers says it."""
    encoder = {
        **_their_layers(ENCODER),
        "n_ctx": CHARACTERS,
        "attention_pattern": _their_order(theirs, 2),
        "is_encoder_decoder": False,
    }
    return theirs.JukeboxPriorConfig(
        **_their_layers({**LAYERS, "depth": case.depth}),
        level=2 - int(case.stream),
        n_ctx=CONTEXT,
        attention_pattern=_their_order(theirs, case.order),
        music_vocab_size=CODES,
        merged_decoder=case.merged,
        metadata_dims=[GENRES, ARTISTS],
        max_nb_genres=WORDS,
        timing_dims=BINS,
        min_duration=TOTAL_SECONDS[0],
        max_duration=TOTAL_SECONDS[1],
        res_conv_width=UPPER["width"],
        res_conv_depth=UPPER["depth"],
        res_dilation_growth_rate=UPPER["dilation_growth"],
        res_dilation_cycle=UPPER["dilation_cycle"],
        conv_res_scale=case.scaled,
        nb_relevant_lyric_tokens=CHARACTERS if case.lyrics else 0,
        is_encoder_decoder=case.lyrics == "lyrics_prefix",
        encoder_config=encoder if case.lyrics == "lyrics_memory" else None,
    )


def _their_layers(layers: Mapping[str, Any]) -> dict[str, Any]:
    names = {
        "width": "hidden_size",
        "heads": "n_heads",
        "depth": "num_layers",
        "res_scale": "attn_res_scale",
    }
    named = {names.get(name, name): value for name, value in layers.items()}
    # Without `mask`, which is off by default, each position would see what comes after it.
    return {**named, "mask": True, "lyric_vocab_size": len(ALPHABET) + 1}


_THEIR_ORDERS = {
    2: "raw_column_previous_row_attention",
    10: "large_separated_enc_dec_w_lyrics",
    12: "enc_dec_with_lyrics",
}
_THEIR_PATTERNS = {
    "dense": "dense_attn",
    "row": "block_attn",
    "column": "transpose_block_attn",
    "previous": "prev_block_attn",
    "summary": "summary_attn",
    "spread": "summary_spread_attn",
    "memory": "cross_attention",
}


def _their_order(theirs: Any, order: int) -> str:
    """What an attention order is called there; those that it has no name for are given one."""
    if order in _THEIR_ORDERS:
        return _THEIR_ORDERS[order]
    layers = [_THEIR_PATTERNS[pattern] for pattern in attention_order(order)]
    known = theirs.configuration_jukebox.ATTENTION_PATTERNS
    known[f"order_{order}"] = lambda layer: layers[layer % len(layers)]
    return f"order_{order}"


def their_logits(other: Any, inputs: Inputs) -> Tensor:
    """[B, T, codes], or [B, S + T, characters and codes] where lyrics stand ahead."""
    if inputs.case.lyrics == "lyrics_prefix":
        given = (inputs.codes, inputs.above, inputs.metadata)
        return other.forward_tokens(*given, get_preds=True)[1]["preds"]
    position, start, _ = other.get_cond(inputs.above, inputs.metadata)
    states = other.get_encoder_states(inputs.lyrics) if inputs.case.lyrics else None
    return other.prior(inputs.codes, position, start, states, get_preds=True)[1]


def their_codes(other: Any, inputs: Inputs, prompt: int) -> Tensor:
    """The first `prompt` codes and the likeliest after them, [B, prompt + SAMPLED]."""
    return other.sample(
        2,
        music_tokens=inputs.codes[:, :prompt] if prompt else None,
        music_tokens_conds=inputs.above,
        metadata=inputs.metadata,
        top_k=1,
        sample_tokens=prompt + SAMPLED,
    )


# Both


def randomised(module: nn.Module, random: torch.Generator, vectors: float) -> Any:
    """The module in evaluation mode: every tensor matters, and codes are not all alike.

    Args:
        module: any of theirs.
        random: where values come from.
        vectors: standard deviation of biases and norms.
    """
    for name, tensor in module.state_dict(keep_vars=True).items():
        scale = vectors if tensor.ndim == 1 else 2 if name.endswith("pos_emb.pos_emb") else 0.2
        tensor.data.copy_(torch.randn(tensor.shape, generator=random) * scale)
    return module.eval()


def apart(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference of two tensors; infinite if their shapes differ."""
    return float((ours - theirs).abs().max()) if ours.shape == theirs.shape else math.inf


def unequal(ours: Tensor, theirs: Tensor) -> float:
    """How many codes differ; infinite if there are not equally many."""
    return float((ours != theirs).sum()) if ours.shape == theirs.shape else math.inf


if __name__ == "__main__":
    TransformersAgreement.main()
