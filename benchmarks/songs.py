"""Songs whose word times are known: put together from takes, in folders, mixed with real music.

A folder of songs is an AudioFolder: `<id>.wav` (16 kHz mono) and `metadata.jsonl` with
`file_name`, `title`, `artist` and `lyrics`. The truth is in `words.json` beside it, {id: words},
and not in `metadata.jsonl`, whose columns go into a token corpus: what learns from that must not
see it. `recipe.json` says what the songs depend on. It knows no synthesiser.
"""

import json
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from codec.audio import read_audio
from plugins.ground.errors import InputError
from plugins.ground.files import claim_folder, published, read_json, read_text, write_json
from plugins.ground.progress import Progress

RATE = 16000
"""Samples per second of every song."""
LOUDNESS = 0.08
"""RMS of a voice where it sounds."""
PEAK = 0.95
"""No sample is beyond it."""
BATCH = 50
"""Songs that are made and published together."""
MUSIC = (".ogg", ".flac", ".mp3", ".opus", ".wav")
ROWS, TRUTH, RECIPE = "metadata.jsonl", "words.json", "recipe.json"
"""Files of a folder beside the audio."""

Word = dict[str, Any]
"""`start` and `end` in seconds, `text`."""


@dataclass(frozen=True)
class Draft:
    """A song before it is a file: float32 [T] at `RATE`, lyrics with a line a row, words."""

    title: str
    artist: str
    audio: np.ndarray
    lyrics: str
    words: list[Word]


@dataclass(frozen=True)
class Song:
    """A song in a folder. The texts of its words are exactly `lyrics.split()`."""

    id: str
    file: Path
    lyrics: str
    words: list[Word]


@dataclass(frozen=True)
class Part:
    """A stretch of voice after a silence: seconds, float32 [T], texts and times of its words."""

    silence: float
    audio: np.ndarray
    texts: Sequence[str]
    times: Sequence[tuple[float, float]]


def assemble(title: str, artist: str, parts: Iterable[Part], outro: float) -> Draft:
    """One track of parts in turn, each after its silence; `outro` seconds of silence at the end.

    A part is a line of the lyrics.
    """
    pieces, words, lines, at = [], [], [], 0
    for part in parts:
        silence = np.zeros(round(part.silence * RATE), np.float32)
        begin = (at + len(silence)) / RATE
        words += [
            {"start": round(begin + start, 3), "end": round(begin + end, 3), "text": text}
            for text, (start, end) in zip(part.texts, part.times, strict=True)
        ]
        pieces += [silence, part.audio]
        at += len(silence) + len(part.audio)
        lines.append(" ".join(part.texts))
    audio = np.concatenate([*pieces, np.zeros(round(outro * RATE), np.float32)])
    audio *= min(LOUDNESS / loudness(audio, words), PEAK / float(np.abs(audio).max()))
    return Draft(title, artist, audio, "\n".join(lines), words)


def loudness(audio: np.ndarray, words: Iterable[Word]) -> float:
    """RMS of what sounds during the words."""
    sung = [audio[round(w["start"] * RATE) : round(w["end"] * RATE)] for w in words]
    return float(np.sqrt(np.mean(np.concatenate(sung) ** 2)))


def publish(
    folder: Path | str,
    recipe: dict[str, Any],
    names: Sequence[str],
    make: Callable[[Sequence[str]], Iterable[Draft]],
) -> list[Song]:
    """Make the songs that `folder` lacks, a batch at a time; a killed run goes on where it was.

    Args:
        folder: new, or one of the same recipe.
        recipe: what the songs depend on; a song must not depend on how many there are.
        names: ids.
        make: drafts of the songs of these ids.

    Raises:
        InputError: the folder holds something else, or songs of another recipe.
    """
    folder = claim_folder(folder, RECIPE, "songs")
    if not (folder / RECIPE).exists():
        write_json(folder / RECIPE, recipe)
    elif read_json(folder / RECIPE) != recipe:
        raise InputError(f"{folder} holds songs of another recipe or seed: choose another folder")
    rows, truth = _rows(folder), _truth(folder)
    missing = [name for name in names if not (name in rows and name in truth)]
    done = len(names) - len(missing)
    with Progress(len(names), "making songs", "songs", done) as progress:
        for start in range(0, len(missing), BATCH):
            batch = missing[start : start + BATCH]
            for name, draft in zip(batch, make(batch), strict=True):
                with published(folder / f"{name}.wav") as path:
                    soundfile.write(path, draft.audio, RATE, "PCM_16")
                rows[name] = {
                    "file_name": f"{name}.wav",
                    "title": draft.title,
                    "artist": draft.artist,
                    "lyrics": draft.lyrics,
                }
                truth[name] = draft.words
                progress.advance()
            _write_lines(folder / ROWS, (rows[name] for name in sorted(rows)))
            _write_lines(folder / TRUTH, [truth])
    wanted = set(names)
    return [song for song in read_songs(folder) if song.id in wanted]


def read_songs(folder: Path | str) -> list[Song]:
    """The songs of a folder, in the order of their ids."""
    folder = Path(folder)
    rows, truth = _rows(folder), _truth(folder)
    return [
        Song(name, folder / rows[name]["file_name"], rows[name]["lyrics"], truth[name])
        for name in sorted(rows.keys() & truth.keys())
    ]


def mixed(
    songs: Sequence[Song], folder: Path | str, music: Path | str, snr: float, seed: int = 0
) -> list[Song]:
    """Songs over real music that plays from their first sample to their last; the same ids.

    Args:
        songs: voices alone, all of one folder.
        folder: where to put the mixes.
        music: a folder of audio files; each song gets a stretch of one of them, drawn by `seed`
            and the song's id, which comes again where it is shorter than the song.
        snr: by how many dB the voice is louder than the music, both measured during the words.

    Raises:
        InputError: no music there, or `folder` holds something else.
    """
    files = sorted(path for path in Path(music).iterdir() if path.suffix in MUSIC)
    if not files:
        raise InputError(f"{music} holds no music: none of {' '.join(MUSIC)}")
    source = songs[0].file.parent
    rows, by_id = _rows(source), {song.id: song for song in songs}

    def make(names: Sequence[str]) -> Iterable[Draft]:
        for name in names:
            rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
            file = files[rng.integers(len(files))]
            audio = _over(by_id[name], read_audio(file, RATE, 1)[0], snr, rng)
            row, song = rows[name], by_id[name]
            yield Draft(row["title"], row["artist"], audio, song.lyrics, song.words)

    recipe = {
        "mixed": read_json(source / RECIPE),
        "music": [file.name for file in files],
        "snr": snr,
        "seed": seed,
    }
    return publish(folder, recipe, list(by_id), make)


def _over(song: Song, music: np.ndarray, snr: float, rng: np.random.Generator) -> np.ndarray:
    """A song's voice over a stretch of music, float32 [T], without clipping."""
    voice = read_audio(song.file, RATE, 1)[0]
    music = np.resize(np.roll(music, -rng.integers(len(music))), len(voice))
    heard = loudness(music, song.words)
    if heard == 0:
        raise InputError(f"the music drawn for {song.id} is silent: choose other music")
    mix = voice + music * np.float32(loudness(voice, song.words) / heard / 10 ** (snr / 20))
    return mix * min(1.0, PEAK / float(np.abs(mix).max()))


def _rows(folder: Path) -> dict[str, dict[str, str]]:
    """`metadata.jsonl` by id; nothing where there is none yet."""
    lines = read_text(folder / ROWS).splitlines() if (folder / ROWS).exists() else []
    return {Path(row["file_name"]).stem: row for row in map(json.loads, lines)}


def _truth(folder: Path) -> dict[str, list[Word]]:
    return read_json(folder / TRUTH) if (folder / TRUTH).exists() else {}


def _write_lines(path: Path, contents: Iterable[Any]) -> None:
    with published(path) as partial:
        lines = (json.dumps(content, ensure_ascii=False) + "\n" for content in contents)
        partial.write_text("".join(lines), "utf-8")
