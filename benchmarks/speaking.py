"""Make spoken texts whose word times are known, by espeak-ng's word events.

`python benchmarks/speaking.py OUT [--texts 8] [--seed 0]` writes sentences with pauses between
them, in the layout of `songs.py`. It loads Debian's `libespeak-ng1`; a word ends where the next
one of its sentence begins, since espeak-ng tells beginnings only.
"""

import ctypes
import multiprocessing
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import soxr
from pydantic import Field
from pydantic_settings import CliPositionalArg
from rich.console import Console
from songs import RATE, Draft, Part, Song, assemble, publish

from plugins.ground.command import Command
from plugins.ground.errors import InputError

LIBRARY = "libespeak-ng.so.1"
SYNCHRONOUS, UTF8, NO_EXIT = 2, 1, 0x8000
"""Of speak_lib.h: samples come to a callback, text is UTF-8, trouble doesn't end the process."""
WORD, END = 1, 5
"""Kinds of events: a word begins, a clause ends."""
SPEED, PITCH = 1, 3
"""Parameters of a voice: words a minute, and 0-100."""
VOICES = ("gmw/en", "gmw/en-US", "gmw/en-GB-scotland", "gmw/en-GB-x-rp")
VERSION = 1
"""Of the recipe: raise it when the same seed gives other texts."""

SENTENCES = """
The night train leaves the old station in silence
Every window carries a small yellow light
Somebody left a guitar beside the kitchen door
We waited until the rain had stopped
My brother never learned to swim
Seven boats came home before the storm
She wrote her name across the frozen glass
Nobody remembers who planted that apple tree
Morning comes slowly over the eastern hills
Turn down the radio and listen
His grandfather repaired clocks for fifty years
Bring two blankets and a bottle of water
The river changes colour after heavy snow
Children were dancing around an empty fountain
Tell me again how the story ends
A stranger gave us bread and honey
Most roads around here lead nowhere
They painted the whole house blue last summer
Keep your letters somewhere dry
Under the bridge a dog was sleeping
I forgot the second verse completely
Nine candles burned inside the little chapel
Perhaps tomorrow will be warmer
Her voice was louder than the market crowd
Please close both gates behind you
Long shadows moved along the garden wall
He counted every step between the tower and the sea
Winter keeps its secrets under the ice
No letter ever reached the lighthouse
Come back before the coffee gets cold
""".strip().split("\n")


class Speaking(Command):
    """Make spoken texts whose word times are known."""

    out: CliPositionalArg[Path] = Field(description="folder to write")
    texts: int = Field(8, ge=1, description="how many")
    seed: int = Field(0, ge=0, description="same seed, same texts")

    def cli_cmd(self) -> None:
        """Make them, and say what was made."""
        made = held_out(self.out, self.seed, self.texts)
        Console().print(f"{len(made)} texts of {sum(len(s.words) for s in made)} words: {self.out}")


class _Name(ctypes.Union):
    _fields_ = (("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8))


class _Event(ctypes.Structure):
    """`espeak_EVENT` of speak_lib.h; `sample` counts from the start of the text."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _Name),
    )


_Callback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event)
)


class Espeak:
    """A voice of espeak-ng.

    Raises:
        InputError: it isn't installed, or lacks the voice.
    """

    def __init__(self, voice: str, speed: int, pitch: int) -> None:
        try:
            self.library: Any = ctypes.CDLL(LIBRARY)
        except OSError as error:
            raise InputError(f"no {LIBRARY}: apt-get install espeak-ng") from error
        self.rate = self.library.espeak_Initialize(SYNCHRONOUS, 0, None, NO_EXIT)
        if self.rate <= 0 or self.library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise InputError(f"espeak-ng has no voice {voice}: apt-get install espeak-ng-data")
        self.library.espeak_SetParameter(SPEED, speed, 0)
        self.library.espeak_SetParameter(PITCH, pitch, 0)

    def say(self, text: str) -> tuple[np.ndarray, list[tuple[float, float]]]:
        """Speak one sentence: float32 [T] at `RATE`, and start and end of each word in seconds.

        Raises:
            InputError: espeak-ng tells no time for one of its words.
        """
        pieces: list[np.ndarray] = []
        begins: dict[int, float] = {}
        ends: list[float] = []

        def heard(samples: Any, count: int, events: Any) -> int:
            if samples:
                pieces.append(np.ctypeslib.as_array(samples, (count,)).copy())
            for event in _until_last(events):
                if event.type == WORD and event.text_position > 0:  # 0: a stray one at the end
                    begins[event.text_position] = event.sample / self.rate
                elif event.type == END:
                    ends.append(event.sample / self.rate)
            return 0

        callback = _Callback(heard)  # must live until the call is over
        self.library.espeak_SetSynthCallback(callback)
        said = text.encode()
        self.library.espeak_Synth(said, len(said) + 1, 0, 1, 0, UTF8, None, None)
        self.library.espeak_Synchronize()
        places = _places(text)
        if list(begins) != places:
            raise InputError(f"espeak-ng runs words together in {text!r}: word it otherwise")
        audio = np.concatenate(pieces).astype(np.float32) / 32768
        marks = [*begins.values(), max(ends)]
        return soxr.resample(audio, self.rate, RATE), list(pairwise(marks))


def _until_last(events: Any) -> Iterator[Any]:
    number = 0
    while events[number].type != 0:
        yield events[number]
        number += 1


def _places(text: str) -> list[int]:
    """Where words begin, counted from 1 as espeak-ng does."""
    return [n + 1 for n, mark in enumerate(text) if mark != " " and (n == 0 or text[n - 1] == " ")]


def held_out(folder: Path | str, seed: int = 0, count: int = 8) -> list[Song]:
    """Sentences in any order with pauses between them, each text in a voice and speed of its own.

    Raises:
        InputError: espeak-ng isn't there, or `folder` holds something else.
    """

    def make(names: Sequence[str]) -> list[Draft]:
        # A process for each: what espeak-ng says depends a little on what it said before.
        with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
            return pool.map(_text, [(seed, int(name.split("-")[1])) for name in names], 1)

    names = [f"spoken-{number:03d}" for number in range(count)]
    return publish(folder, {"kind": "spoken", "seed": seed, "version": VERSION}, names, make)


def _text(place: tuple[int, int]) -> Draft:
    """The text of a seed and a number."""
    rng = np.random.default_rng(place)
    voice = VOICES[rng.integers(len(VOICES))]
    espeak = Espeak(voice, int(rng.integers(120, 190)), int(rng.integers(30, 70)))
    chosen = rng.permutation(len(SENTENCES))[: rng.integers(5, 9)]
    silence, parts = rng.uniform(1, 6), []
    for n in chosen:
        audio, times = espeak.say(SENTENCES[n])
        parts.append(Part(silence, audio, SENTENCES[n].split(), times))
        silence = rng.uniform(0.2, 1.5) if rng.random() < 0.8 else rng.uniform(3, 6)
    return assemble(f"spoken {place[1]}", "espeak-ng", parts, rng.uniform(1, 4))


if __name__ == "__main__":
    Speaking.main()
