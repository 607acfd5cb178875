"""What is sung: random words over random tunes, and the songs of festival's examples, varied.

A score has what makes a straight line wrong: an intro, gaps of any length, a tempo of its own for
each line. It knows neither audio nor times: those are the voice's.
"""

import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
from festival import Sung

from plugins.ground.errors import InputError

EXAMPLES = Path("/usr/share/doc/festival/examples/songs")
"""Where Debian's festival keeps its songs."""
WORDS = Path(__file__).with_name("words.txt")
"""Common words of songs."""
SCALES = ((0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 10), (0, 2, 4, 7, 9))
"""Major, minor and pentatonic: half-tones above the tonic."""
STEPS = (-2, -1, -1, 0, 0, 1, 1, 2)
"""How a tune goes on, in degrees of its scale."""
BEATS = (0.5, 1, 1, 1, 1.5, 2)
"""Lengths of notes."""
SHORT = 0.4
"""Share of training songs that are one line or two: alignment is learnt from them first."""
ALONE = ("america1", "daisy", "doremi", "lochlomond", "spice1")
"""The different texts of the examples; the others are further voices of them."""
SUNG = 12.0
"""Seconds of singing that a held-out song has at least; its verses come again until then."""
WIDTH = 8
"""Words of a line of the examples, which have no lines, at most."""


@dataclass(frozen=True)
class Score:
    """Lines to sing, each after a silence, and a silence at the end; in seconds."""

    lines: list[tuple[float, list[Sung]]]
    outro: float


def few_words(rng: np.random.Generator, syllables: Mapping[str, int]) -> Score:
    """One line of one to six words: what a prior learns to read from first.

    Args:
        rng: draws everything.
        syllables: what may be sung, with the number of syllables of each.
    """
    tune, vocabulary = _Tune(rng), list(syllables)
    count = int(rng.choice([1, 2, 3, 4, 5, 6], p=[0.25, 0.25, 0.2, 0.15, 0.1, 0.05]))
    texts = [vocabulary[n] for n in rng.integers(len(vocabulary), size=count)]
    line = tune.line([(text, syllables[text]) for text in texts])
    return Score([(rng.uniform(0, 0.5), line)], rng.uniform(0, 0.5))


def random_score(
    rng: np.random.Generator, syllables: Mapping[str, int], short_share: float = SHORT
) -> Score:
    """A training song of 3-40 s, whose words can't be guessed from each other.

    Args:
        rng: draws everything.
        syllables: what may be sung, with the number of syllables of each.
        short_share: of songs that are one line or two.
    """
    short = rng.random() < short_share
    tune = _Tune(rng)
    longest = rng.uniform(3, 8) if short else rng.uniform(12, 40)
    silence = rng.uniform(0, 1.5) if short else rng.uniform(0.3, 6)
    gap_after = rng.uniform(0.3, 0.8) * longest if not short and rng.random() < 0.5 else np.inf
    vocabulary = list(syllables)
    texts: list[list[str]] = []
    lines, at = [], 0.0
    while True:
        if texts and rng.random() < 0.12:  # a refrain, to another tune
            texts.append(texts[rng.integers(len(texts))])
        else:
            count = rng.integers(3, 7 if short else 10)
            texts.append([vocabulary[n] for n in rng.integers(len(vocabulary), size=count)])
        line = tune.line([(text, syllables[text]) for text in texts[-1]])
        lines.append((silence, line))
        at += silence + _seconds(line)
        silence = rng.uniform(0.1, 1.8)
        if at > gap_after:
            silence, gap_after = rng.uniform(3, 8), np.inf
        if at + silence > 0.85 * longest:
            return Score(lines, rng.uniform(0, 1 if short else 4))


class _Tune:
    """A walk over a scale at a tempo that changes with each line."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.beat = rng.uniform(0.3, 0.55)
        self.tonic = int(rng.integers(42, 55))
        self.scale = SCALES[rng.integers(len(SCALES))]

    def line(self, words: Sequence[tuple[str, int]]) -> list[Sung]:
        rng = self.rng
        beat = self.beat * rng.uniform(0.75, 1.35)
        degree, line = int(rng.integers(len(self.scale))), []
        for text, syllables in words:
            pitches = []
            for _ in range(syllables):
                degree = int(np.clip(degree + rng.choice(STEPS), -3, len(self.scale) + 1))
                octave, step = divmod(degree, len(self.scale))
                pitches.append(_hertz(self.tonic + 12 * octave + self.scale[step]))
            lengths = np.maximum(0.15, beat * rng.choice(BEATS, size=syllables))
            rest = rng.uniform(0.1, 0.6) if rng.random() < 0.1 else 0.0
            line.append(Sung(text, tuple(pitches), tuple(map(float, lengths)), rest))
        *early, last = line[-1].seconds
        held = (*early, last * rng.uniform(1, 2.5))
        return [*line[:-1], replace(line[-1], seconds=held, rest=0.0)]


def held_out_scores(seed: int) -> dict[str, Score]:
    """The example songs by name: some alone, all followed by another one."""
    songs = examples()
    names = list(songs)
    plans = [(name,) for name in ALONE] + [(n, names[i - 5]) for i, n in enumerate(names)]
    return {
        "-".join(plan): _varied(np.random.default_rng([seed, i]), [songs[name] for name in plan])
        for i, plan in enumerate(plans)
    }


def _varied(rng: np.random.Generator, songs: list[list[list[Sung]]]) -> Score:
    """Verses, each at its own tempo and height, until they last; a longer gap between them."""
    lines: list[tuple[float, list[Sung]]] = []
    silence, sung, verse = rng.uniform(2, 10), 0.0, 0
    while verse < len(songs) or sung < SUNG:
        song = songs[verse % len(songs)]
        words = [word for line in song for word in line]
        stretch = rng.uniform(0.2, 0.36) / np.median([s for word in words for s in word.seconds])
        shift = _hertz(rng.uniform(46, 55)) / np.median([p for word in words for p in word.pitches])
        for line in song:
            pace = stretch * rng.uniform(0.85, 1.2)
            changed = [_changed(word, pace, shift) for word in line]
            lines.append((silence, [*changed[:-1], replace(changed[-1], rest=0.0)]))
            sung += _seconds(lines[-1][1])
            silence = changed[-1].rest + rng.uniform(0.1, 1.2)
        silence, verse = rng.uniform(2, 8), verse + 1
    return Score(lines, rng.uniform(1, 5))


def _changed(word: Sung, pace: float, shift: float) -> Sung:
    seconds = tuple(max(0.1, length * pace) for length in word.seconds)
    return Sung(word.text, tuple(p * shift for p in word.pitches), seconds, word.rest * pace)


def examples() -> dict[str, list[list[Sung]]]:
    """Festival's example songs as written, by name; rests part the lines, and long ones are halved.

    Raises:
        InputError: they aren't there.
    """
    songs = {path.stem: _example(path) for path in sorted(EXAMPLES.glob("*.xml"))}
    if not songs:
        raise InputError(
            f"no songs in {EXAMPLES}: install Debian's festival with its documentation, "
            "which container images leave out"
        )
    return songs


def _example(path: Path) -> list[list[Sung]]:
    root = ET.parse(path).getroot()
    beat = 50 / float(root.get("BPM", "120"))  # festival's own count
    phrases: list[list[Sung]] = [[]]
    for element in root:
        marks = {name: value for part in element.iter() for name, value in part.attrib.items()}
        seconds = tuple(float(beats) * beat for beats in marks["BEATS"].split(","))
        if element.tag == "REST":
            phrases[-1][-1] = replace(phrases[-1][-1], rest=seconds[0])
            phrases.append([])
            continue
        pitches = tuple(_hertz(_half_tones(note)) for note in marks["NOTE"].split(","))
        phrases[-1].append(Sung("".join(element.itertext()).strip(), pitches, seconds))
    return [line for phrase in phrases if phrase for line in _lines(phrase)]


def _lines(phrase: list[Sung]) -> list[list[Sung]]:
    count = -(-len(phrase) // WIDTH)
    ends = [round(len(phrase) * n / count) for n in range(count + 1)]
    return [phrase[start:end] for start, end in pairwise(ends)]


def words() -> list[str]:
    """The words of training songs: common ones and those of the examples."""
    common = [_capital_i(word) for word in WORDS.read_text("utf-8").split()]
    sung = {word.text for song in examples().values() for line in song for word in line}
    known = set(common)
    return common + sorted(text for text in sung if not {text, text.lower()} & known)


def _capital_i(word: str) -> str:
    return "I" + word[1:] if word == "i" or word.startswith("i'") else word


def _seconds(line: Sequence[Sung]) -> float:
    return sum(sum(word.seconds) + word.rest for word in line)


def _half_tones(note: str) -> int:
    """Half-tones of a note such as `Bb3` as festival counts them: A5 is 69."""
    place = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}[note[0]]
    return 12 * int(note[-1]) + place + note.count("#") - note.count("b")


def _hertz(half_tones: float) -> float:
    return float(440 * 2 ** ((half_tones - 69) / 12))
