"""`pocketsphinx`: words are sung where a recognizer of English speech hears them.

Forced alignment: a hidden Markov model of the words' sounds, in order and with pauses in between,
is laid over the recording by its best path (Rabiner 1989). It knows audio files and text, and
neither codes nor priors.
"""

import importlib
import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from codec.audio import AudioError, read_audio
from codec.tokens import TokenSpec
from conditioning.base import Aligner, Track, Word
from conditioning.words import NO_LYRICS, filled
from plugins.ground.errors import InputError
from plugins.pocketsphinx_aligner.pronunciation import guessed, spoken

SAMPLE_RATE = 16000
FRAMES = 100
"""Of a second."""
LOG_UNIT = 1 / 1024
"""Acoustic scores are logarithms that PocketSphinx holds in units so many times larger."""
FLOOR = 0.001
"""Noise that is added, over the peak: paths are lost in digital silence, which no recording has."""
ENGLISH = 0.75
"""Share of the words that the dictionary must have."""
UNHEARD = (
    "its words can't be heard in the recording: the music may be as loud as the voice, or another "
    "text is sung"
)


class PocketsphinxConfig(BaseModel):
    """Where the music is, and how hard to listen."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    audio: Path
    """Folder that the paths of the corpus's tracks start at."""
    beam: float = Field(1e-80, gt=0, lt=1)
    """Paths so much less likely than the best are given up. Singing needs a smaller one than
    speech, whose sounds last about as long as the model expects."""
    least_confidence: float = Field(0.015, ge=0, le=1)
    """Geometric mean over the words below which they count as not heard."""


@dataclass(frozen=True)
class Heard:
    """One word that was spoken."""

    start: float
    """Seconds."""
    end: float
    """Seconds."""
    confidence: float
    """How likely its sounds are beside those that fit best: geometric mean over its frames."""


class PocketsphinxAligner(Aligner):
    """Forced alignment of English lyrics with PocketSphinx, whose wheel brings the acoustic model.

    Words that the dictionary lacks are spoken by simple rules; what is not spoken (signs,
    "[Chorus]") lies between its neighbours and gets confidence 0. Music ahead of the words and
    between them counts as noise; music as loud as the voice may leave no path: the reason says so.

    Raises:
        InputError: PocketSphinx is not installed, or there is no folder `audio`.
    """

    Config = PocketsphinxConfig
    config: PocketsphinxConfig

    def __init__(self, config: PocketsphinxConfig) -> None:
        super().__init__(config)
        if reason := self.why_not():
            raise InputError(f"aligner 'pocketsphinx' can't work here: {reason}")
        if not config.audio.is_dir():
            raise InputError(f"--audio {config.audio} is no folder: give that of the music")
        self.decoder = _decoder(config.beam)
        self.guessed: set[str] = set()
        """What was added to its dictionary."""

    @classmethod
    def why_not(cls) -> str | None:
        """See `Aligner`."""
        try:
            importlib.import_module("pocketsphinx")
        except ImportError as error:
            return f"{error}: pip install jukebox-toolkit[align]"
        return None

    def align(self, track: Track, spec: TokenSpec) -> list[Word] | str:
        """See `Aligner`."""
        text = str(track.get("lyrics") or "")
        if not text.strip():
            return NO_LYRICS
        if not track["path"]:
            return "the corpus does not say which recording it is"
        if isinstance(spoken_as := self._spoken(text), str):
            return spoken_as
        length = track["num_samples"] / spec.sample_rate
        try:
            audio = read_audio(self.config.audio / track["path"], SAMPLE_RATE, 1, duration=length)
        except AudioError as error:
            return str(error)
        heard = self._hear(audio[0], [part for parts in spoken_as for part in parts])
        if not heard or _certainty(heard) < self.config.least_confidence:
            return UNHEARD
        return filled(text.split(), _words(text.split(), spoken_as, heard, length))

    def _spoken(self, text: str) -> list[list[str]] | str:
        """What each word of a text is spoken as, in words that the decoder knows; or why not."""
        # "[Chorus]" is not sung.
        words = re.sub(r"\[[^]\n]*\]", lambda aside: re.sub(r"\S", "_", aside[0]), text).split()
        spoken_as = [spoken(word, self._knows) for word in words]
        known = sum(bool(parts) and all(map(self._knows, parts)) for parts in spoken_as)
        written = sum(
            bool(parts) or any(map(str.isalpha, word))
            for word, parts in zip(words, spoken_as, strict=True)
        )
        if not known or known < ENGLISH * written:
            return f"its words are not English: the dictionary has {known} of {written}"
        for part in {part for parts in spoken_as for part in parts if not self._knows(part)}:
            if part not in self.guessed:
                self.guessed.add(part)
                self.decoder.add_word(part, guessed(part), False)
        return spoken_as

    def _knows(self, word: str) -> bool:
        """Whether the dictionary has a word, as it came."""
        return word not in self.guessed and self.decoder.lookup_word(word) is not None

    def _hear(self, audio: np.ndarray, parts: Sequence[str]) -> list[Heard]:
        """When each of the parts of words is spoken; nothing if they can't be heard.

        Args:
            audio: [T] float32 at `SAMPLE_RATE`.
            parts: words that the decoder knows.
        """
        peak = np.abs(audio).max(initial=0)
        if not peak:
            return []
        self.decoder.reinit_feat()  # or it goes on from the levels of the track before
        self.decoder.set_align_text(" ".join(parts))
        noise = np.random.default_rng(0).standard_normal(audio.shape, np.float32)
        level = (audio / peak + FLOOR * noise).clip(-1, 1)
        self.decoder.start_utt()
        self.decoder.process_raw((level * 32767).astype("<i2").tobytes(), full_utt=True)
        self.decoder.end_utt()
        if self.decoder.hyp() is None:
            return []
        heard = [
            Heard(found.start_frame / FRAMES, (found.end_frame + 1) / FRAMES, _confidence(found))
            for found in self.decoder.seg()
            if re.match("[a-z']", found.word)  # not a pause
        ]
        # A path that was given up ahead of the last word is none.
        return heard if len(heard) == len(parts) else []


def _decoder(beam: float) -> Any:
    """A decoder of the English model; it says nothing, least of all that a path was given up."""
    return importlib.import_module("pocketsphinx").Decoder(
        samprate=SAMPLE_RATE,
        frate=FRAMES,
        lm=None,
        beam=beam,
        pbeam=beam,
        wbeam=beam,
        bestpath=False,  # a second search, among the words that the first left: it may find no end
        silprob=1.0,  # songs have pauses, and music in them
        fillprob=1.0,
        loglevel="FATAL",
    )


def _confidence(found: Any) -> float:
    """Of a segment of words; see `Heard`."""
    frames = found.end_frame + 1 - found.start_frame
    return min(1.0, float(found.ascore) ** (1 / (frames * LOG_UNIT)))


def _certainty(heard: Sequence[Heard]) -> float:
    """Of all words together: one that does not fit counts, however well the others do."""
    logs = [math.log(max(one.confidence, 1e-30)) for one in heard]
    return math.exp(sum(logs) / len(logs))


def _words(
    texts: Sequence[str], spoken_as: Sequence[Sequence[str]], heard: Sequence[Heard], length: float
) -> list[Word | None]:
    """Of each word its times, from those of its parts; None of one that is not spoken."""
    words: list[Word | None] = []
    rest = iter(heard)
    for text, parts in zip(texts, spoken_as, strict=True):
        own = list(itertools.islice(rest, len(parts)))
        sure = sum(one.confidence for one in own) / max(1, len(own))
        words.append(
            Word(min(own[0].start, length), min(own[-1].end, length), text, sure) if own else None
        )
    return words
