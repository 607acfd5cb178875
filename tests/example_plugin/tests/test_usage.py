"""How much of a codebook is used, counted by hand."""

from pathlib import Path

import numpy as np
import pytest
from jukebox_example.counting import code_usage

from codec.corpus import CorpusWriter
from codec.tokens import TokenSpec, TokenStream
from plugins.ground.errors import InputError

SPEC = TokenSpec(
    sample_rate=1000,
    channels=1,
    streams=tuple(TokenStream(name=name, vocab_size=8, hop_length=10) for name in "ab"),
    codec="rvq",
    fingerprint="",
)


def test_usage_by_hand(tmp_path: Path) -> None:
    rows = [
        {"id": "x", "num_samples": 40, "codes_a": [0, 1, 2, 3], "codes_b": [7] * 4},
        {"id": "y", "num_samples": 20, "codes_a": [0, 1], "codes_b": [7] * 2},
    ]
    arrays = [
        {k: np.array(v, np.uint16) if k.startswith("codes") else v for k, v in row.items()}
        for row in rows
    ]
    CorpusWriter(tmp_path / "tokens", SPEC).append(arrays)
    a, b = code_usage(tmp_path / "tokens")
    assert (a.stream, a.codes, a.used, a.codebook, a.most_bits) == ("a", 6, 4, 8, 3)
    assert a.bits == pytest.approx(2 / 3 * np.log2(3) + 1 / 3 * np.log2(6))
    assert (b.codes, b.used, b.bits) == (6, 1, 0)


def test_an_empty_corpus_uses_nothing(tmp_path: Path) -> None:
    CorpusWriter(tmp_path / "tokens", SPEC)
    assert [(usage.codes, usage.bits) for usage in code_usage(tmp_path / "tokens")] == [(0, 0)] * 2


def test_a_folder_without_a_corpus_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        code_usage(tmp_path)
