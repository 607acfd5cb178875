"""What there is to hear: samples with their labels, and the real music that they go on from.

It knows token corpora, folders of decoded audio and of originals, not how a page is made.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

from codec.audio import measure
from codec.corpus import Corpus
from codec.tokens import TokenSpec
from plugins.ground.errors import InputError
from plugins.ground.files import read_json

DECODED = "decoded.json"
CODES = "codes_"
SHOWN_ELSEWHERE = {"id", "path", "audio_sha256", "num_samples", "title", "lyrics", "words"}
SHOWN_ELSEWHERE |= {"prompt_id", "prompt_samples"}


@dataclass(frozen=True)
class Recording:
    """A file to play, and the stretch of it to draw."""

    caption: str
    file: Path
    seconds: float
    """Length of what is shown, from the start of the file."""
    length: float
    """Of the whole file, in seconds."""
    sample_rate: int
    prompt_seconds: float = 0.0


@dataclass(frozen=True)
class Card:
    """One sample or reconstruction."""

    heading: str
    labels: Mapping[str, str]
    notes: tuple[str, ...] = ()
    lyrics: str = ""
    recordings: tuple[Recording, ...] = ()


@dataclass(frozen=True)
class Group:
    """One section of cards."""

    name: str
    intro: str
    cards: tuple[Card, ...]
    left_out: int = 0
    """Cards that are not shown."""


@dataclass(frozen=True)
class Originals:
    """The music that was tokenized, found by track id."""

    folder: Path | None
    _missing: set[str] = field(default_factory=set, compare=False)

    def __post_init__(self) -> None:
        if self.folder is not None and not self.folder.is_dir():
            raise InputError(f"--originals {self.folder} is no folder: give that of the music")

    def find(self, track: str) -> Path | None:
        """The file of a track; None if there is none or it would lie elsewhere."""
        return None if self.folder is None else _below(self.folder, track)

    def recording(
        self, track: str, caption: str, seconds: float, prompt_seconds: float = 0.0
    ) -> tuple[Recording, ...]:
        """The first `seconds` of a track, if it is there."""
        file = self.find(track)
        return () if file is None else (_recording(caption, file, seconds, prompt_seconds),)


def read_samples(
    name: str, corpus: Path, audio: Path | None, originals: Originals, limit: int
) -> Group:
    """Samples with what is decoded of them.

    Args:
        name: of the section.
        corpus: folder of the samples.
        audio: folder of their decoded audio, which may not be there yet.
        originals: to find prompts in.
        limit: cards to make at most.

    Raises:
        InputError: no corpus there, or a file that can't be used.
    """
    samples = Corpus(corpus)
    files = _decoded(audio, needed=False) if audio else {}
    rows = list(islice(samples.tracks(), limit))
    cards = tuple(_sample(row, samples.spec, files, originals) for row in rows)
    return Group(name, _intro(rows, samples.spec), cards, len(samples) - len(cards))


def read_reconstructions(name: str, audio: Path, originals: Originals, limit: int) -> Group:
    """Decoded audio of tokenized originals, each beside its original.

    Raises:
        InputError: nothing is decoded there, or a file can't be used.
    """
    files = _decoded(audio, needed=True)
    cards = []
    for track, file in islice(files.items(), limit):
        made = _recording("After the codec", file)
        real = originals.recording(track, "The original", made.seconds)
        notes = () if real else (f"No {track} among the originals to compare it with.",)
        cards.append(Card(track, {}, notes, recordings=(*real, made)))
    return Group(
        name,
        "Real music that was turned into codes and back, beside the original. What is lost here "
        "no prior can bring back: samples can't sound better than this.",
        tuple(cards),
        len(files) - len(cards),
    )


def _sample(
    row: Mapping[str, Any], spec: TokenSpec, files: Mapping[str, Path], originals: Originals
) -> Card:
    seconds = row["num_samples"] / spec.sample_rate
    prompt, prompt_seconds = _prompt(row, spec)
    labels = {
        name: _text(value)
        for name, value in row.items()
        if name not in SHOWN_ELSEWHERE and not name.startswith(CODES) and _text(value)
    }
    labels["length"] = f"{seconds:.1f} s"
    notes = [*_unfinished(row, spec)]
    recordings: tuple[Recording, ...] = ()
    file = files.get(row["id"])
    if file is None:
        notes.append("Not decoded yet: python -m codec.decode makes audio of it.")
    elif not file.is_file():
        notes.append(f"Its audio, {file.name}, is gone: decode it again.")
    else:
        recordings = (_recording("The sample", file, None, prompt_seconds),)
    if prompt:
        labels["goes on from"] = f"the first {prompt_seconds:.1f} s of {prompt}"
        caption = f"The real recording, {prompt}"
        real = originals.recording(prompt, caption, seconds, prompt_seconds)
        if not real:
            notes.append(f"No {prompt} among the originals to compare it with.")
        recordings += real
    heading = f"{row['id']}: {row['title']}" if row["title"] else row["id"]
    return Card(heading, labels, tuple(notes), row["lyrics"], recordings)


def _intro(rows: list[dict[str, Any]], spec: TokenSpec) -> str:
    """What kind of samples these are, in a sentence or two."""
    prompts = [seconds for name, seconds in (_prompt(row, spec) for row in rows) if name]
    if not rows:
        return "There are no samples yet."
    if not prompts:
        return "Made from nothing but the labels shown: no note of it was given."
    shortest, longest = min(prompts), max(prompts)
    length = f"{longest:.1f} s"
    if f"{shortest:.1f}" != f"{longest:.1f}":
        length = f"{shortest:.1f} to {length}"
    return (
        f"Each goes on from {length} of music that it was given, up to the dashed line; what "
        "follows is new. Beside it, where there is one, the real recording goes its own way."
    )


def _prompt(row: Mapping[str, Any], spec: TokenSpec) -> tuple[str, float]:
    """Id of what a sample goes on from ("" for nothing), and its length in seconds."""
    samples = row.get("prompt_samples") or 0
    name = row.get("prompt_id") or ""
    return (name, samples / spec.sample_rate) if samples > 0 else ("", 0.0)


def _unfinished(row: Mapping[str, Any], spec: TokenSpec) -> list[str]:
    """A note on streams that are not sampled to the end."""
    have = {
        stream.name: min(
            1.0, len(row[CODES + stream.name]) * stream.hop_length / max(1, row["num_samples"])
        )
        for stream in spec.streams
    }
    if min(have.values()) == 1.0:
        return []
    parts = [f"stream {name} {share:.0%}" for name, share in reversed(have.items())]
    return [f"Not sampled to the end: {', '.join(parts)}."]


def _recording(
    caption: str, file: Path, seconds: float | None = None, prompt_seconds: float = 0.0
) -> Recording:
    shape = measure(file)
    shown = shape.seconds if seconds is None else seconds
    return Recording(caption, file, shown, shape.seconds, shape.sample_rate, prompt_seconds)


def _decoded(folder: Path, needed: bool) -> dict[str, Path]:
    """Decoded files by track id, in order."""
    if not (folder / DECODED).exists():
        if needed or folder.is_file():
            raise InputError(f"{folder} holds no {DECODED}: give a folder of codec.decode")
        return {}
    content = read_json(folder / DECODED)
    return {}


def _below(folder: Path, name: str) -> Path | None:
    """A file by its relative path; None if there is none, or `name` leads out of the folder."""
    parts = PurePosixPath(name).parts
    if not name or "\0" in name or name.startswith("/") or ".." in parts:
        return None
    file = folder.joinpath(*parts)
    return file if file.is_file() else None


def _text(value: Any) -> str:
    return "" if value is None else str(value)
