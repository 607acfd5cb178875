"""Words by syllables: how many a word has, and where that puts it."""

import pytest
from jukebox_example.syllables import Syllables, SyllablesConfig, syllables

from codec.tokens import TokenSpec, TokenStream

SPEC = TokenSpec(
    sample_rate=1000,
    channels=1,
    streams=(TokenStream(name="0", vocab_size=4, hop_length=10),),
    codec="rvq",
    fingerprint="",
)


@pytest.mark.parametrize(
    ("word", "count"),
    [("song", 1), ("rhythm", 1), ("Banana!", 3), ("Ááá", 1), ("elveszett", 3), ("hmm", 3),
     ("1999", 1), ("愛している", 5), ("사랑", 2)],
)  # fmt: skip
def test_syllables_of_a_word(word: str, count: int) -> None:
    assert syllables(word) == count


def times(lyrics: str, seconds: float = 10, **settings: float) -> list[tuple[float, float, str]]:
    track = {"lyrics": lyrics, "num_samples": round(seconds * 1000)}
    words = Syllables(SyllablesConfig(**settings)).align(track, SPEC)
    assert not isinstance(words, str)
    return [(round(word.start, 3), round(word.end, 3), word.text) for word in words]


def test_words_take_as_long_as_they_have_syllables_and_lines_end_with_a_breath() -> None:
    assert times("la banana\n\n  di") == [
        (0.0, 1.667, "la"), (1.667, 6.667, "banana"), (8.333, 10.0, "di"),
    ]  # fmt: skip


def test_intro_and_outro_are_left_free() -> None:
    assert times("la la\nla", intro=2, outro=5, breath=0) == [
        (2.0, 3.0, "la"), (3.0, 4.0, "la"), (4.0, 5.0, "la"),
    ]  # fmt: skip


def test_what_can_not_be_aligned_gets_a_reason() -> None:
    aligner = Syllables(SyllablesConfig(intro=6, outro=6))
    assert aligner.align({"lyrics": " \n", "num_samples": 5000}, SPEC) == "it has no lyrics"
    reason = aligner.align({"lyrics": "la", "num_samples": 5000}, SPEC)
    assert reason == "intro and outro leave nothing of its 5.00 s"
