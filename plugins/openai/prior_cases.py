"""Golden cases of priors: logits, losses, samples, alignment, and sampling over all levels.

It knows what the arrays of such a case are called, not where their files are. Shapes: B batch,
T code positions, S lyric positions, V tokens, P codes of a prompt, N codes of a level.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from codec.checkpoint import load_codec
from conditioning.base import Condition
from conditioning.labels import Genre
from plugins.ground.model import codec_of, priors_of
from plugins.openai.comparison import (
    ABSOLUTE,
    EQUAL,
    RELATIVE,
    Arrays,
    Row,
    Tolerance,
    compare,
    compare_all,
)
from prior.checkpoint import load_prior, read_config
from prior.drawing import Drawing
from prior.engine import Engine
from prior.options import SamplingOptions
from prior.prior import Prior
from prior.sampling import sample_tokens

Computed = dict[str, tuple[Any, Tolerance]]

GIVEN = {"labels", "upper_codes", "codes", "prompt_length", "uniforms", "alignment_layer"}
SAMPLES = ("greedy", "greedy_primed", "sampled", "sampled_primed")
PRIMED = Drawing(temperature=0.9, top_k=12)
"""How `sampled_primed` was drawn."""


def prior_rows(case: str, folder: Path, expected: Arrays) -> Iterator[Row]:
    """A converted prior against everything that its case holds."""
    prior = load_prior(folder, dtype=torch.float32)
    codes = torch.tensor(expected["codes"])
    with torch.inference_mode():
        condition = prior.condition(batch_of(prior, expected))
        computed = _passes(prior, codes, condition)
        if "alignment_attention" in expected:
            computed |= _alignment(prior, codes, condition, int(expected["alignment_layer"]))
        if any(name in expected for name in SAMPLES):  # the reference can't sample with some
            computed |= _samples(prior, codes, condition, expected)
        yield from compare_all(case, computed, expected, GIVEN)
        prior.use_attention("naive")
        logits = prior(codes, condition).logits
        yield compare(case, "logits, naive attention", logits, expected["logits"], ABSOLUTE)


def batch_of(prior: Prior, expected: Arrays) -> dict[str, Tensor]:
    """The prepared tensors of all items from the reference's labels and upper codes."""
    batch = {}
    if "upper_codes" in expected:
        batch["codes/codes"] = torch.tensor(expected["upper_codes"])
    if "labels" not in expected:
        return batch
    labels = torch.tensor(expected["labels"])
    total, offset, length = labels[:, 0], labels[:, 1], labels[:, 2]
    batch |= {"timing/total": total, "timing/start": offset, "timing/end": offset + length}
    genre = prior.conditioners["genre"]
    assert isinstance(genre, Genre)
    tokens = 4 + genre.most
    batch |= {"artist/artist": labels[:, 3:4], "genre/genre": labels[:, 4:tokens]}
    for name in prior.conditioners:
        if name.startswith("lyrics_"):
            batch[f"{name}/tokens"] = labels[:, tokens:]
    return batch


def _passes(prior: Prior, codes: Tensor, condition: Condition) -> Computed:
    """Logits [B, S + T, V] and losses in bits."""
    losses = prior.losses(codes, condition)
    primed = sum(losses.others.values())  # on lyrics alone
    bits = {"loss": losses.total, "gen_loss": losses.codes, "prime_loss": primed}
    return {
        "logits": (prior(codes, condition).logits, ABSOLUTE),
        **{name: (nats / math.log(2), RELATIVE) for name, nats in bits.items()},
    }


def _alignment(prior: Prior, codes: Tensor, condition: Condition, layer: int) -> Computed:
    """How much each code reads of each lyric position, [B, H, T, S]."""
    weights = prior(codes, condition, record=[layer]).attention[layer]
    if prior.prefix:
        weights = weights[:, :, prior.prefix :, : prior.prefix]
    return {"alignment_attention": (weights, ABSOLUTE)}


def _samples(prior: Prior, codes: Tensor, condition: Condition, expected: Arrays) -> Computed:
    """What an engine makes of nothing, and of a prompt; as many codes as are expected."""
    engine = Engine(prior, condition, len(codes))
    prompt = codes[:, : int(expected["prompt_length"])]
    uniforms = torch.tensor(expected["uniforms"])
    made: Computed = {}
    for name in SAMPLES:
        start = prompt if name.endswith("primed") else codes[:, :0]
        stop = expected[name].shape[1] if name in expected else prior.config.context
        chances = uniforms[:, start.shape[1] : stop] if name.startswith("sampled") else None
        drawing = PRIMED if name == "sampled_primed" else Drawing()
        made[name] = engine.generate(start, stop, chances, drawing), EQUAL
    return made


def windowed_rows(case: str, model: Path, expected: Arrays, work: Path) -> Iterator[Row]:
    """Sampling over all levels of a converted model, past one context at each of them.

    Args:
        case: its name.
        model: folder with codec/ and a prior for each level.
        expected: what the case holds.
        work: folder for the samples.
    """
    codec = load_codec(codec_of(model))
    rate, streams = codec.spec.sample_rate, codec.spec.streams
    options = SamplingOptions(
        seconds=int(expected["sample_length"]) / rate,
        total_seconds=int(expected["total_length"]) / rate,
        count=len(expected["artist_ids"]),
        artist=_named(model, "artist", expected["artist_ids"][:, None]),
        genre=_named(model, "genre", expected["genre_ids"]),
        temperature=1.0,
        hop_fractions=expected["hop_fraction"].tolist(),
        batch_size=len(expected["artist_ids"]),
        device="cpu",
    )

    def draws(item: int, level: int, start: int, stop: int) -> np.ndarray:
        return expected[f"uniforms_{level}"][item, start:stop]

    corpus = sample_tokens(priors_of(model), work, options, draws=draws)
    codes = {
        stream.name: np.stack([corpus.codes(item, stream.name) for item in range(len(corpus))])
        for stream in streams
    }
    computed: Computed = {
        f"codes_{level}": (codes[stream.name], EQUAL) for level, stream in enumerate(streams)
    }
    finest = torch.from_numpy(codes[streams[0].name].astype(np.int64))
    computed["audio"] = codec.decode({streams[0].name: finest}).mT, ABSOLUTE
    given = {"hop_fraction", "total_length", "sample_length", "artist_ids", "genre_ids"}
    given |= {f"uniforms_{level}" for level in range(len(streams))}
    yield from compare_all(case, computed, expected, given)


def _named(model: Path, conditioner: str, numbers: np.ndarray) -> list[str]:
    """Labels [B, words] as a person would type them, "" for unknown ones."""
    records = read_config(priors_of(model)[-1]).conditioners
    names = next((r.config["names"] for r in records if r.name == conditioner), ())
    return [" ".join(names[n - 1] for n in item if n > 0) if names else "" for item in numbers]
