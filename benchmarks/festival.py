"""Sing lines with Debian's festival: text, pitches and lengths in, audio and times of words out.

Times are read from the finished utterance, not from the score: festival starts a syllable early
by what its first consonant needs to be heard, and spreads the length over the sounds. It knows no
songs. Debian packages: `festival`, `festvox-kallpc16k` (a man's voice at 16 kHz).

Quirks of its singing mode: a word needs as many pitches and lengths as it has syllables in
festival's lexicon, so ask `syllables` first; a token that it reads as two words ("dog's") can't
be sung; A4 is 220 Hz and a beat is 50 s over the BPM, so pitches go in as Hz and lengths as
seconds; a line is an utterance, so silence between lines is the caller's.
"""

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
import soundfile

from plugins.ground.errors import InputError

RATE = 16000
"""Samples per second of the voice."""

SCHEME = """
(require 'singing-mode)
(voice_kal_diphone)
(define (tell word)
  (format t "word %f %f %d\\n"
    (item.feat word "word_start") (item.feat word "word_end")
    (length (item.daughters (item.relation word 'SylStructure)))))
(define (sing score wave)
  (set! tts_hooks
    (list utt.synth
      (lambda (utt)
        (utt.save.wave utt wave 'riff)
        (format t "take %s\\n" wave)
        (mapcar (lambda (token) (mapcar tell (item.daughters token)))
                (utt.relation.items utt 'Token))
        utt)))
  (tts_file score 'singing))
(define (count word) (format t "count %d\\n" (length (car (cdr (cdr (lex.lookup word nil)))))))
"""


@dataclass(frozen=True)
class Sung:
    """A word of a score: a pitch in Hz and a length in seconds for each syllable, then a rest."""

    text: str
    pitches: tuple[float, ...]
    seconds: tuple[float, ...]
    rest: float = 0.0


@dataclass(frozen=True)
class Take:
    """A sung line: float32 [T] at `RATE`, and start and end of each word in seconds."""

    audio: np.ndarray
    times: list[tuple[float, float]]


def why_not() -> str | None:
    """Why nothing can be sung here; None if it can."""
    if shutil.which("festival") is None:
        return "festival isn't installed: apt-get install festival festvox-kallpc16k"
    said = _festival("(voice_kal_diphone)", Path.cwd())
    if said.returncode != 0 or "ERROR" in said.stderr:
        return "festival lacks its voice: apt-get install festvox-kallpc16k"
    return None


def syllables(words: Sequence[str]) -> dict[str, int]:
    """How many syllables festival gives each word; 0 for what it can't sing.

    Raises:
        InputError: festival isn't there.
    """
    asked = "".join(f'(count "{word}")\n' for word in words)
    said = _run(asked, Path.cwd())
    counts = [int(count) for count in re.findall(r"^count (\d+)$", said, re.MULTILINE)]
    return dict(zip(words, counts, strict=True))


def sing(lines: Iterable[Sequence[Sung]]) -> list[Take]:
    """Sing lines, in one process.

    Raises:
        InputError: festival isn't there, or can't sing one of them.
    """
    lines = list(lines)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number, line in enumerate(lines):
            (folder / f"{number}.xml").write_text(_score(line), "utf-8")
        said = _run("".join(f'(sing "{n}.xml" "{n}.wav")\n' for n in range(len(lines))), folder)
        blocks = {}
        for block in re.split(r"^take ", said, flags=re.MULTILINE)[1:]:
            wave, _, rest = block.partition("\n")
            blocks[int(wave.removesuffix(".wav"))] = rest
        return [_take(line, folder / f"{n}.wav", blocks.get(n, "")) for n, line in enumerate(lines)]


def _score(line: Sequence[Sung]) -> str:
    rows = [
        '<?xml version="1.0"?>',
        '<!DOCTYPE SINGING PUBLIC "-//SINGING//DTD SINGING mark up//EN" "Singing.v0_1.dtd" []>',
        "<SINGING>",
    ]
    for word in line:
        seconds = ",".join(f"{length:.3f}" for length in word.seconds)
        pitches = ",".join(f"{pitch:.2f}" for pitch in word.pitches)
        rows.append(
            f'<DURATION SECONDS="{seconds}"><PITCH FREQ="{pitches}">{escape(word.text)}'
            "</PITCH></DURATION>"
        )
        if word.rest:
            rows.append(f'<REST SECONDS="{word.rest:.3f}"></REST>')
    return "\n".join([*rows, "</SINGING>", ""])


def _take(line: Sequence[Sung], wave: Path, said: str) -> Take:
    found = re.findall(r"^word (\S+) (\S+) (\d+)$", said, re.MULTILINE)
    text = " ".join(word.text for word in line)
    if [int(count) for *_, count in found] != [len(word.pitches) for word in line]:
        raise InputError(f"festival can't sing {text!r}: its syllables aren't those of the score")
    audio, rate = soundfile.read(wave, dtype="float32")
    if rate != RATE:
        raise InputError(f"festival sang at {rate} Hz, not {RATE}: is it the voice kal_diphone?")
    return Take(audio, [(float(start), float(end)) for start, end, _ in found])


def _run(commands: str, folder: Path) -> str:
    if shutil.which("festival") is None:
        raise InputError(str(why_not()))
    done = _festival(SCHEME + commands, folder)
    if done.returncode != 0 or "ERROR" in done.stderr:
        if reason := why_not():
            raise InputError(reason)
        raise InputError(f"festival failed: {done.stderr.strip()[-300:]}")
    return done.stdout


def _festival(commands: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["festival", "--pipe"], input=commands, cwd=folder, capture_output=True, text=True
    )
