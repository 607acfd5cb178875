"""Sung and spoken words begin when their times say: real voices, against the energy of the wave."""

from pathlib import Path

import festival
import numpy as np
import pytest
import scores
import singing
import speaking
from festival import Sung
from songs import RATE, Song

from codec.audio import read_audio
from plugins.ground.errors import InputError


def _no_espeak() -> str | None:
    try:
        speaking.Espeak(speaking.VOICES[0], 150, 50)
    except InputError as error:
        return str(error)
    return None


needs_festival = pytest.mark.skipif(festival.why_not() is not None, reason=str(festival.why_not()))
needs_examples = pytest.mark.skipif(
    not scores.EXAMPLES.exists(), reason=f"festival's songs aren't in {scores.EXAMPLES}"
)
needs_espeak = pytest.mark.skipif(_no_espeak() is not None, reason=str(_no_espeak()))

LINE = [
    Sung("moonlight", (140.0, 120.0), (0.4, 0.5), 0.4),
    Sung("over", (150.0, 150.0), (0.3, 0.6), 0.5),
    Sung("dusty", (110.0, 130.0), (0.5, 0.4), 0.6),
    Sung("river", (140.0, 130.0), (0.3, 0.8)),
]


def onset(audio: np.ndarray, after: float) -> float:
    """When it is first above -34 dB after a moment, in seconds: rests have faint clicks."""
    first = round(after * RATE)
    energy = np.convolve(audio[first:] ** 2, np.ones(80) / 80, "same")
    return float(after + np.argmax(energy > 4e-4) / RATE)


@needs_festival
def test_sung_words_begin_when_their_times_say() -> None:
    (take,) = festival.sing([LINE])
    assert len(take.times) == len(LINE)
    ends = [0.0, *(end for _, end in take.times)]
    for (start, _), before in zip(take.times, ends, strict=False):
        late = onset(take.audio, before + 0.05 if before else 0.0) - start
        assert -0.02 < late < 0.12
    assert take.times[-1][1] == pytest.approx(len(take.audio) / RATE, abs=0.05)


@needs_festival
def test_times_are_those_of_the_voice_and_not_of_the_score() -> None:
    (take,) = festival.sing([LINE])
    score = np.cumsum([0.0, *(sum(word.seconds) + word.rest for word in LINE[:-1])])
    early = score - [start for start, _ in take.times]
    assert early[0] == 0
    assert early[2] == pytest.approx(0.09, abs=0.01), "festival begins a d early"


@needs_festival
def test_a_score_must_have_the_syllables_of_its_words() -> None:
    assert festival.syllables(["beautiful", "moon", "fire"]) == {
        "beautiful": 3,
        "moon": 1,
        "fire": 2,
    }
    with pytest.raises(InputError, match="can't sing 'beautiful'"):
        festival.sing([[Sung("beautiful", (140.0, 140.0), (0.3, 0.3))]])


def straight_line(song: Song) -> float:
    """Mean error in seconds of words spread evenly by their characters."""
    seconds = read_audio(song.file).shape[1] / RATE
    before = np.cumsum([0, *(len(word["text"]) + 1 for word in song.words[:-1])])
    guessed = before / len(song.lyrics) * seconds
    return float(np.abs(guessed - [word["start"] for word in song.words]).mean())


@needs_festival
@needs_examples
def test_training_songs_are_a_function_of_seed_and_number(tmp_path: Path) -> None:
    few = singing.training(tmp_path / "grown", 2, seed=5)
    grown = singing.training(tmp_path / "grown", 4, seed=5)
    fresh = singing.training(tmp_path / "fresh", 4, seed=5)
    assert grown[:2] == few
    for one, other in zip(grown, fresh, strict=True):
        assert (one.lyrics, one.words) == (other.lyrics, other.words)
        assert one.file.read_bytes() == other.file.read_bytes()
    for song in fresh:
        assert [word["text"] for word in song.words] == song.lyrics.split()
        times = [time for word in song.words for time in (word["start"], word["end"])]
        assert times == sorted(times)
    other_seed = singing.training(tmp_path / "other", 1, seed=6)
    assert other_seed[0].lyrics != fresh[0].lyrics


@needs_festival
@needs_examples
def test_a_straight_line_is_wrong_on_held_out_songs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = singing.held_out_scores
    assert len(every(0)) == 16
    monkeypatch.setattr(
        singing, "held_out_scores", lambda seed: {"america1": every(seed)["america1"]}
    )
    (song,) = singing.held_out(tmp_path)
    assert song.lyrics.startswith("Oh beautiful for spacious skies\nFor amber waves of grain\n")
    assert straight_line(song) > 0.5


@needs_examples
def test_examples_are_read_as_they_are_written() -> None:
    songs = scores.examples()
    daisy, road = songs["daisy"], songs["lochlomond"]
    assert " ".join(word.text for word in daisy[0]) == "Daisy Daisy Give me your answer do"
    assert daisy[0][0].pitches == pytest.approx((174.6, 146.8), abs=0.1)  # F4, D4 an octave low
    assert daisy[0][0].seconds == pytest.approx((0.625, 0.625))
    assert daisy[0][-1].rest == pytest.approx(0.3125)
    assert [len(line) for line in road[:2]] == [6, 6], "twelve words without a rest are halved"


@needs_examples
def test_training_words_cover_the_held_out_songs() -> None:
    known = set(scores.words())
    sung = {
        word.text
        for score in scores.held_out_scores(0).values()
        for _, line in score.lines
        for word in line
    }
    assert {text for text in sung if not {text, text.lower()} & known} == set()
    assert len(known) > 800


@needs_espeak
def test_spoken_words_begin_when_their_times_say(tmp_path: Path) -> None:
    (song,) = speaking.held_out(tmp_path / "one", seed=1, count=1)
    audio = read_audio(song.file)[0]
    assert [word["text"] for word in song.words] == song.lyrics.split()
    firsts = np.cumsum([0, *(len(line.split()) for line in song.lyrics.split("\n")[:-1])])
    for first in firsts:
        before = song.words[first - 1]["end"] if first else 0.0
        late = onset(audio, before) - song.words[first]["start"]
        assert -0.03 < late < 0.12
    (again,) = speaking.held_out(tmp_path / "two", seed=1, count=1)
    assert again.file.read_bytes() == song.file.read_bytes()


@needs_espeak
@pytest.mark.parametrize("voice", speaking.VOICES)
def test_every_sentence_has_a_time_for_every_word(voice: str) -> None:
    espeak = speaking.Espeak(voice, 160, 50)
    for sentence in speaking.SENTENCES:
        _, times = espeak.say(sentence)
        assert len(times) == len(sentence.split())
