"""The straight line, which is what windows of lyrics go by; and words between words."""

from typing import Any

import numpy as np
import pytest

from codec.tokens import TokenSpec, TokenStream
from conditioning.base import Word
from conditioning.linear import LinearAligner
from conditioning.lyrics import lyric_window
from conditioning.words import filled, spread

SPEC = TokenSpec(
    sample_rate=1000,
    channels=1,
    streams=(TokenStream(name="0", vocab_size=16, hop_length=10),),
    codec="vqvae",
    fingerprint="0123456789abcdef",
)


def align(track: dict[str, Any], **settings: Any) -> list[Word] | str:
    return LinearAligner(LinearAligner.Config(**settings)).align(track, SPEC)


def test_words_are_where_the_window_of_lyrics_around_them_is() -> None:
    """A window's middle character is the one that the straight line sings at its midpoint."""
    text = "row row row\nyour boat\n\ngently down the stream"
    total = 10 * len(text)
    words = align({"lyrics": text, "num_samples": total})
    assert not isinstance(words, str)
    for word in words:
        middle = round(word.start * SPEC.sample_rate) + 1
        _, indices = lyric_window([ord(c) for c in text], 1, total, middle - 5, 10)
        assert text[indices[0] :].startswith(word.text)
    assert [word.text for word in words] == text.split()
    assert words[-1].end == pytest.approx(total / SPEC.sample_rate)
    assert {word.confidence for word in words} == {0.0}


def test_a_sample_has_the_words_of_the_beginning_of_its_song() -> None:
    words = align({"lyrics": "one two", "num_samples": 2000}, total_seconds=7)
    assert words == [Word(0, 2, "one", 0.0), Word(2, 2, "two", 0.0)]
    assert align({"lyrics": "one two", "num_samples": 7000}, total_seconds=2) == [
        Word(0, 3, "one", 0.0),
        Word(4, 7, "two", 0.0),
    ]


def test_what_has_no_words_or_no_length_gets_a_reason() -> None:
    assert align({"lyrics": " \n", "num_samples": 100}) == "it has no lyrics"
    assert align({"lyrics": None, "num_samples": 100}) == "it has no lyrics"
    assert align({"lyrics": "la", "num_samples": 0}) == "its length is not known"


def test_words_that_were_not_found_share_the_time_in_between_by_their_characters() -> None:
    found = [None, Word(1, 2, "b", 0.5), None, None, Word(5, 6, "e", 0.25), Word(6, 7, "f", 1)]
    words = filled(["a", "b", "cc", "ddddd", "e", "f", "g", "h"], [*found, None, None])
    assert [(word.start, word.end, word.text) for word in words] == [
        (1, 1, "a"), (1, 2, "b"), (2, 3, "cc"), (3, 5, "ddddd"), (5, 6, "e"), (6, 7, "f"),
        (7, 7, "g"), (7, 7, "h"),
    ]  # fmt: skip
    assert [word.confidence for word in words] == [0, 0.5, 0, 0, 0.25, 1, 0, 0]


def test_words_that_overlap_leave_no_time_to_share() -> None:
    words = filled(["a", "b", "c"], [Word(0, 3, "a", 1), None, Word(2, 4, "c", 1)])
    assert (words[1].start, words[1].end) == (2, 2)
    assert np.ptp([word.start for word in spread(["x"] * 3, 2, 2)]) == 0
