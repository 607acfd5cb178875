"""The recipe of the lyric prior: what it asks for exists, and fits together."""

import lyrics_recipe
from lyrics_recipe import READING, SHAPE, STREAM

from codec.tokens import TokenSpec, TokenStream
from prior.config import preset
from prior.prior import Prior
from prior.training import fit_conditioners

SPEC = TokenSpec(
    sample_rate=16000,
    channels=1,
    streams=(
        TokenStream(name="stage2", vocab_size=256, hop_length=800),
        TokenStream(name=STREAM, vocab_size=128, hop_length=800),
    ),
    codec=lyrics_recipe.CODEC,
    fingerprint="f" * 16,
)


def test_the_prior_can_be_built_and_reads_lyrics_without_their_padding():
    records = fit_conditioners(["timing", "lyrics_memory"], "tiny", READING, [])
    prior = Prior(preset("tiny", SPEC, STREAM, records, **SHAPE))
    assert prior.conditioners["lyrics_memory"].config.mask_padding
    assert [prior.config.pattern_of(layer) for layer in range(2)] == ["dense", "memory"]
    assert sum(p.numel() for p in prior.parameters()) < 3_000_000
