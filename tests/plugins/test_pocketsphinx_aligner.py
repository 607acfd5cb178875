"""Forced alignment of what festival sings and espeak-ng says, and how words are spoken."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr

from codec.tokens import TokenSpec, TokenStream
from plugins.ground.errors import InputError
from plugins.pocketsphinx_aligner.aligner import UNHEARD, PocketsphinxAligner
from plugins.pocketsphinx_aligner.pronunciation import guessed, spoken

MUSIC = Path(__file__).parents[2] / "examples" / "music" / "maxstack-coherence.ogg"
RATE = 16000
SPEC = TokenSpec(
    sample_rate=RATE,
    channels=1,
    streams=(TokenStream(name="0", vocab_size=16, hop_length=100),),
    codec="vqvae",
    fingerprint="0123456789abcdef",
)
LYRICS = "Oh beautiful for\nspacious skies\nfor [Chorus] amber waves\nof grain"
NOTES = [
    (1, 72),
    (2.5, 70),
    (1, 67),
    (3, 69),
    (2, 65),
    (1, 67),
    (2, 72),
    (2, 70),
    (0.5, 67),
    (3, 65),
]
"""Beats and notes of those words that are sung."""
REST = 2.0
"""Seconds between two lines."""
AHEAD = 4.0
"""Seconds without a voice ahead of the words."""
SING = """
(voice_kal_diphone)
(require 'singing-mode)
(define (keep utt)
  (utt.save.wave utt "song.wav" 'riff)
  (let ((file (fopen "song.txt" "w")))
    (mapcar
      (lambda (word) (format file "%f\\n" (item.feat word "word_start")))
      (utt.relation.items utt 'Word))
    (fclose file))
  utt)
(set! tts_hooks (list utt.synth keep))
(tts "song.xml" 'singing)
"""


@pytest.fixture(scope="module")
def sung(tmp_path_factory: pytest.TempPathFactory) -> tuple[np.ndarray, list[float]]:
    """A voice alone [T] at `RATE`, and when each word that it sings begins, as the singer says."""
    if shutil.which("festival") is None:
        pytest.skip("festival is not installed: apt-get install festival festvox-kallpc16k")
    folder = tmp_path_factory.mktemp("festival")
    rests = {"spacious", "amber"}
    words = [word for word in LYRICS.split() if word != "[Chorus]"]
    sung = [
        (f'<REST BEATS="{REST}"></REST>' if word in rests else "")
        + f'<DURATION BEATS="{beats}"><PITCH FREQ="{440 * 2 ** ((note - 81) / 12):.1f}">{word}'
        "</PITCH></DURATION>"
        for word, (beats, note) in zip(words, NOTES, strict=True)
    ]
    (folder / "song.xml").write_text(
        '<?xml version="1.0"?>\n<!DOCTYPE SINGING PUBLIC "-//SINGING//DTD SINGING mark up//EN" '
        '"Singing.v0_1.dtd"\n[]>\n<SINGING BPM="90">' + "\n".join(sung) + "</SINGING>"
    )
    (folder / "song.scm").write_text(SING)
    subprocess.run(["festival", "--batch", "song.scm"], cwd=folder, check=True, capture_output=True)
    voice, rate = soundfile.read(folder / "song.wav", dtype="float32")
    starts = [AHEAD + float(line) for line in (folder / "song.txt").read_text().split()]
    silence = np.zeros(int(AHEAD * RATE), np.float32)
    return np.concatenate([silence, soxr.resample(voice, rate, RATE), silence]), starts


def over_music(voice: np.ndarray, level: float) -> np.ndarray:
    """The voice, so many dB over a band where it sings."""
    music, rate = soundfile.read(MUSIC, dtype="float32", always_2d=True, start=44100 * 10)
    music = np.resize(soxr.resample(music.mean(1), rate, RATE), len(voice))
    loud = np.sqrt(np.mean(voice[np.abs(voice) > 1e-4] ** 2) / np.mean(music**2))
    return voice + music * loud * 10 ** (-level / 20)


def track(folder: Path, audio: np.ndarray, lyrics: str = LYRICS, **more: Any) -> dict[str, Any]:
    soundfile.write(folder / "song.wav", audio / np.abs(audio).max() / 2, RATE)
    return {"id": "s", "path": "song.wav", "num_samples": len(audio), "lyrics": lyrics, **more}


def aligner(folder: Path, **settings: Any) -> PocketsphinxAligner:
    return PocketsphinxAligner(PocketsphinxAligner.Config(audio=folder, **settings))


@pytest.mark.parametrize("level", [None, 20, 5])
def test_sung_words_are_found_alone_and_over_music(
    sung: tuple[np.ndarray, list[float]], level: float | None, tmp_path: Path
) -> None:
    voice, starts = sung
    audio = voice if level is None else over_music(voice, level)
    words = aligner(tmp_path).align(track(tmp_path, audio), SPEC)
    assert not isinstance(words, str)
    assert [word.text for word in words] == LYRICS.split()
    heard = [word for word in words if word.text != "[Chorus]"]
    errors = np.abs([word.start - start for word, start in zip(heard, starts, strict=True)])
    assert errors.mean() < 0.1
    assert errors.max() < 0.4
    assert min(word.confidence for word in heard) > 0
    aside = words[LYRICS.split().index("[Chorus]")]
    assert aside.confidence == 0
    assert heard[5].end <= aside.start <= aside.end <= heard[6].start


def test_music_louder_than_the_voice_and_other_words_are_reasons(
    sung: tuple[np.ndarray, list[float]], tmp_path: Path
) -> None:
    made = aligner(tmp_path)
    assert made.align(track(tmp_path, over_music(sung[0], -20)), SPEC) == UNHEARD
    other = "my bonnie lies over the ocean\nmy bonnie lies over the sea\n" * 4
    assert made.align(track(tmp_path, sung[0], other), SPEC) == UNHEARD
    assert made.align(track(tmp_path, sung[0], "word " * 500), SPEC) == UNHEARD
    silent = track(tmp_path, sung[0])
    soundfile.write(tmp_path / "song.wav", np.zeros(RATE), RATE)
    assert made.align(silent, SPEC) == UNHEARD


@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")
def test_speech_of_another_rate_and_words_that_no_dictionary_has(tmp_path: Path) -> None:
    text = "The bajillionaires were looooking at 21 caf\u00e9s, it\u2019s Zorblaxian \u266a"
    said = "The bajillionaires were looking at twenty one cafes, it's Zorblaxian"
    speaker = ["espeak-ng", "-v", "en-us", "-s", "120", "-w", str(tmp_path / "song.wav")]
    subprocess.run([*speaker, said], check=True)
    length = soundfile.info(tmp_path / "song.wav").duration
    row = {"id": "s", "path": "song.wav", "num_samples": int(length * RATE), "lyrics": text}
    words = aligner(tmp_path).align(row, SPEC)
    assert not isinstance(words, str)
    assert [word.text for word in words] == text.split()
    assert [word.confidence > 0 for word in words] == [True] * 9 + [False]
    starts = [word.start for word in words]
    assert starts == sorted(starts)
    assert words[0].start < 0.3
    assert 0.7 * length < words[8].start < words[8].end <= length
    assert words[1].end - words[1].start > 4 * (words[0].end - words[0].start)


def test_a_word_that_was_guessed_once_is_no_word_of_the_dictionary(tmp_path: Path) -> None:
    made = aligner(tmp_path)
    text = "zorblax zorblax zorblax hello"
    reason = made.align({"path": "x.wav", "num_samples": 1, "lyrics": text}, SPEC)
    assert reason == "its words are not English: the dictionary has 1 of 4"
    row = {"path": "x.wav", "num_samples": 1, "lyrics": "hello hello hello hello zorblax"}
    assert made.align(row, SPEC) == f"{tmp_path / 'x.wav'}: no such file"
    assert made.align({"path": "x.wav", "num_samples": 1, "lyrics": text}, SPEC) == reason


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"lyrics": " \n"}, "it has no lyrics"),
        ({"path": ""}, "the corpus does not say which recording it is"),
        ({"path": "no/where.wav"}, "no/where.wav: no such file"),
        ({"lyrics": "\u4f60\u597d \u4e16\u754c"}, "not English: the dictionary has 0 of 2"),
        (
            {"lyrics": "Nem tudom hogy merre j\u00e1rok az \u00e9jszaka s\u00f6t\u00e9t"},
            "not English: the dictionary has",
        ),
        ({"lyrics": "\u266a ..."}, "not English: the dictionary has 0 of 0"),
    ],
)
def test_reasons(change: dict[str, Any], reason: str, tmp_path: Path) -> None:
    made = aligner(tmp_path).align(track(tmp_path, np.ones(RATE), "hello") | change, SPEC)
    assert isinstance(made, str)
    assert reason in made


def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"--audio \S+nowhere is no folder"):
        aligner(tmp_path / "nowhere")
    assert PocketsphinxAligner.why_not() is None
    monkeypatch.setitem(sys.modules, "pocketsphinx", None)
    assert "pip install jukebox-toolkit[align]" in str(PocketsphinxAligner.why_not())
    with pytest.raises(InputError, match=r"'pocketsphinx' can't work here: .*pip install"):
        aligner(tmp_path)


@pytest.mark.parametrize(
    ("word", "parts"),
    [
        ("Don\u2019t,", ["don't"]),
        ("'Cause", ["'cause"]),
        ("\u201cnight\u201d", ["night"]),
        ("rock-n-roll", ["rock", "n", "roll"]),
        ("sooooo", ["so"]),
        ("cruisin'", ["cruising"]),
        ("Caf\u00e9", ["cafe"]),
        ("(zorblax)", ["zorblax"]),
        ("R&B", ["r", "and", "b"]),
        ("7", ["seven"]),
        ("1999", ["nineteen", "ninety", "nine"]),
        ("2005", ["two", "thousand", "five"]),
        ("5,000", ["five", "thousand"]),
        ("21st", ["twenty", "one"]),
        ("007", ["zero", "zero", "seven"]),
        ("--", []),
        ("'", []),
        ("\u041f\u0440\u0438\u0432\u0435\u0442", []),
    ],
)
def test_words_are_spoken_in_words_of_the_dictionary(word: str, parts: list[str]) -> None:
    known = {"don't", "'cause", "night", "rock", "n", "roll", "so", "cruising", "cafe", "and"}
    assert spoken(word, lambda part: part in known) == parts


@pytest.mark.parametrize(
    ("word", "sounds"),
    [
        ("fah", "F AA"),
        ("knight", "N AY T"),
        ("shawty", "SH AO T IY"),
        ("bling", "B L IH NG"),
        ("yatch", "Y AE CH"),
        ("zorbes", "Z AO R B Z"),
        ("'", "AH"),
    ],
)
def test_words_of_no_dictionary_have_guessed_sounds(word: str, sounds: str) -> None:
    assert guessed(word) == sounds
