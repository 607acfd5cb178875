"""What there is to hear: samples with their labels, and the real music that they go on from.

It knows token corpora, folders of decoded audio and of originals, not how a page is made.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePath
from typing import Any

from pydantic import TypeAdapter, ValidationError

from codec.audio import measure
from codec.corpus import Corpus
from codec.decoding import DECODED, Decoded
from codec.rows import CODES
from codec.tokens import TokenSpec
from conditioning.maps import Picture, read_map
from plugins.ground.errors import InputError
from plugins.ground.files import read_json

SHOWN_ELSEWHERE = {"id", "path", "audio_sha256", "num_samples", "lyrics", "words"}
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
class TimedWord:
    """A word and when it is sung, in seconds."""

    start: float
    end: float
    text: str


@dataclass(frozen=True)
class Card:
    """One sample or reconstruction."""

    heading: str
    labels: Mapping[str, str]
    audible: bool
    """Whether what a model made can be heard."""
    notes: tuple[str, ...] = ()
    lyrics: str = ""
    words: tuple[TimedWord, ...] = ()
    """Those of the lyrics, if they were aligned."""
    recordings: tuple[Recording, ...] = ()
    sung: Recording | None = None
    """The one of them that the words' times belong to."""
    map: Picture | None = None
    """What the aligner of the words went by, if that was kept."""


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

    def __post_init__(self) -> None:
        if self.folder is not None and not self.folder.is_dir():
            raise InputError(f"--originals {self.folder} is no folder: give that of the music")

    def recording(
        self, track: str, caption: str, seconds: float, prompt_seconds: float = 0.0
    ) -> tuple[Recording | None, str]:
        """The first `seconds` of a track, or None and why it is not there."""
        if self.folder is None:
            return None, "With --originals, the real recording would be beside it."
        file = below(self.folder, track)
        if file is None:
            return None, f"There is no {track} among the originals to compare it with."
        return _recording(caption, file, seconds, prompt_seconds), ""


class Decodings:
    """Decoded audio of a corpus, found by track id.

    Args:
        folder: of `codec.decode`; None or one that is not there yet: nothing is decoded.

    Raises:
        InputError: it is something else, or its record is damaged.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.entries: dict[str, Decoded] = {}
        if folder is None or not folder.exists():
            return
        content = read_json(folder / DECODED)
        try:
            entries = TypeAdapter(dict[str, Decoded]).validate_python(content)
        except ValidationError as error:
            raise InputError(
                f"{folder / DECODED} is damaged: decode into another folder"
            ) from error
        self.entries = {track: entry for track, entry in entries.items() if entry.stream}

    def recording(
        self, track: str, caption: str, prompt_seconds: float = 0.0
    ) -> tuple[Recording | None, str]:
        """The audio of a track, or None and why it is not there."""
        entry = self.entries.get(track)
        if self.folder is None or entry is None:
            return None, "Not decoded yet: python -m codec.decode makes audio of it."
        file = below(self.folder, entry.file)
        if file is None:
            return None, f"Its audio, {entry.file}, is gone: decode it again."
        return _recording(f"{caption}, from stream {entry.stream}", file, None, prompt_seconds), ""


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
    samples, decodings = Corpus(corpus), Decodings(audio)
    rows = list(islice(samples.tracks(), limit))
    cards = tuple(_sample(row, samples, decodings, originals) for row in rows)
    return Group(name, _intro(rows, samples.spec), cards, len(samples) - len(cards))


def read_songs(name: str, corpus: Path, originals: Originals, limit: int) -> Group:
    """Real music with its labels and lyrics.

    Raises:
        InputError: no corpus there, no folder of originals, or a file that can't be used.
    """
    songs = Corpus(corpus)
    if originals.folder is None:
        raise InputError(f"--songs {name} are played from the music itself: give --originals")
    rows = islice(songs.tracks(), limit)
    cards = tuple(_song(row, songs, originals) for row in rows)
    intro = "Recordings. Lyrics that were aligned light up as they are sung."
    return Group(name, intro, cards, len(songs) - len(cards))


def read_reconstructions(name: str, audio: Path, originals: Originals, limit: int) -> Group:
    """Decoded audio of tokenized originals, each beside its original.

    Raises:
        InputError: nothing is decoded there, or a file can't be used.
    """
    decodings = Decodings(audio)
    if not decodings.entries:
        raise InputError(f"{audio} holds no decoded audio: give the --out folder of codec.decode")
    cards = []
    for track in islice(decodings.entries, limit):
        made, gone = decodings.recording(track, "After the codec")
        real, missing = (
            originals.recording(track, "The original", made.seconds) if made else (None, "")
        )
        notes = tuple(filter(None, (gone, missing)))
        cards.append(
            Card(track, {}, made is not None, notes, recordings=tuple(filter(None, (real, made))))
        )
    return Group(
        name,
        "Real music that was turned into codes and back, beside the original. What is lost here "
        "no prior can bring back: samples can't sound better than this.",
        tuple(cards),
        len(decodings.entries) - len(cards),
    )


def _song(row: Mapping[str, Any], songs: Corpus, originals: Originals) -> Card:
    seconds = row["num_samples"] / songs.spec.sample_rate
    heard, missing = originals.recording(row["id"], "The recording", seconds)
    return Card(
        row["id"],
        {**_labels(row), "length": f"{seconds:.1f} s"},
        audible=heard is not None,
        notes=(missing,) if missing else (),
        lyrics=row["lyrics"],
        words=_words(row),
        recordings=(heard,) if heard else (),
        sung=heard,
        map=_map(row, songs),
    )


def _sample(
    row: Mapping[str, Any], samples: Corpus, decodings: Decodings, originals: Originals
) -> Card:
    spec = samples.spec
    seconds = row["num_samples"] / spec.sample_rate
    prompt, prompt_seconds = _prompt(row, spec)
    labels = {**_labels(row), "length": f"{seconds:.1f} s"}
    made, gone = decodings.recording(row["id"], "The sample", prompt_seconds)
    real, missing = None, ""
    if prompt and seconds:
        labels["goes on from"] = f"the first {prompt_seconds:.1f} s of {prompt}"
        real, missing = originals.recording(
            prompt, f"The real recording, {prompt}", seconds, prompt_seconds
        )
    notes = tuple(filter(None, (_unfinished(row, spec), gone, missing)))
    heard = tuple(filter(None, (made, real)))
    return Card(
        row["id"],
        labels,
        made is not None,
        notes,
        row["lyrics"],
        _words(row),
        heard,
        made,
        _map(row, samples),
    )


def _words(row: Mapping[str, Any]) -> tuple[TimedWord, ...]:
    return tuple(TimedWord(word["start"], word["end"], word["text"]) for word in row["words"])


def _map(row: Mapping[str, Any], corpus: Corpus) -> Picture | None:
    return read_map(corpus.folder, row["id"], row["lyrics"]) if row["words"] else None


def _labels(row: Mapping[str, Any]) -> dict[str, str]:
    """What a card says of a track, by name."""
    return {
        name: str(value)
        for name, value in row.items()
        if name not in SHOWN_ELSEWHERE and not name.startswith(CODES) and value not in (None, "")
    }


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


def _unfinished(row: Mapping[str, Any], spec: TokenSpec) -> str:
    """A note on streams that are not sampled to the end; "" if all are."""
    shares = {}
    for stream in reversed(spec.streams):
        whole = max(1, row["num_samples"] // stream.hop_length)
        shares[stream.name] = min(1.0, len(row[CODES + stream.name]) / whole)
    if min(shares.values()) == 1.0:
        return ""
    parts = [f"stream {name} {share:.0%}" for name, share in shares.items()]
    return f"Not sampled to the end: {', '.join(parts)}."


def _recording(
    caption: str, file: Path, seconds: float | None = None, prompt_seconds: float = 0.0
) -> Recording:
    shape = measure(file)
    shown = shape.seconds if seconds is None else seconds
    return Recording(caption, file, shown, shape.seconds, shape.sample_rate, prompt_seconds)


def below(folder: Path, name: str) -> Path | None:
    """A file by its relative path; None if there is none, or `name` leads out of the folder."""
    pure = PurePath(name)
    if not name or "\0" in name or pure.is_absolute() or pure.drive or ".." in pure.parts:
        return None
    try:
        file = folder / pure
        return file if file.is_file() else None
    except OSError:  # a name that no file can have
        return None
