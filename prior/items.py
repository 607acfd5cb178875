"""What each sample starts from: its labels, its lyrics, its length, and the codes of its prompt.

It knows corpora and numbers, not networks. Shapes: N codes of a stream.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from codec.corpus import Corpus
from codec.tokens import TokenSpec
from plugins.ground import lrc
from plugins.ground.errors import InputError
from plugins.ground.files import read_text
from prior.options import SamplingOptions
from prior.plan import code_count

OWN = {
    "id", "path", "audio_sha256", "num_samples", "words", "prompt_id", "prompt_samples",
}  # fmt: skip
"""Columns that say what a sample is."""
TIMED = "lrc"
"""Column of lyrics as they came with times."""


@dataclass
class Item:
    """One sample in the making."""

    row: dict[str, Any]
    """Its row of the corpus, but for the codes."""
    codes: dict[str, np.ndarray]
    """Codes so far, by stream: [N] uint16."""
    words: list[dict[str, Any]] = field(default_factory=list)
    """When the words of its lyrics are to be sung, if that is known; the row's own `words` are
    when they are found to be."""

    def wanted(self, spec: TokenSpec, stream: str) -> int:
        """Codes of a stream that the finished sample has."""
        hop = spec.stream(stream).hop_length
        return code_count(self.row["num_samples"], hop, spec.coarsest_hop)

    def total(self, spec: TokenSpec, options: SamplingOptions) -> int:
        """Audio samples that the prior is told, of the sample or what it is a part of."""
        told = round((options.total_seconds or 0) * spec.sample_rate)
        return max(self.row["num_samples"], told)

    def told(self) -> dict[str, Any]:
        """The track that the prior is told."""
        return {**self.as_row(), "words": self.words}

    def as_row(self) -> dict[str, Any]:
        """Row of a token corpus."""
        return {**self.row, **{f"codes_{name}": codes for name, codes in self.codes.items()}}


def make_items(spec: TokenSpec, options: SamplingOptions) -> list[Item]:
    """The samples that the options ask for, none of their new codes made yet.

    Raises:
        InputError: nothing to make, no such prompt, a prompt longer than its track, or prompts
            of another codec.
    """
    _check_label_names(options)
    items = _unlabelled(spec, options)
    lyrics = None if options.lyrics is None else read_lyrics(options.lyrics)
    for number, item in enumerate(items):
        row = item.row
        row["artist"] = _turn(options.artist, number, row["artist"])
        row["genre"] = _turn(options.genre, number, row["genre"])
        if lyrics is not None:
            row.pop(TIMED, None)
            row.update(lyrics.columns)
            item.words = lyrics.words
        row.update(options.label)
    return items


@dataclass(frozen=True)
class Lyrics:
    """What a file of lyrics holds."""

    columns: dict[str, str]
    """For the row: the text, and as it came if it has times."""
    words: list[dict[str, Any]] = field(default_factory=list)
    """When each word is to be sung, if it has times."""


def read_lyrics(path: Path) -> Lyrics:
    """The lyrics in a text file, with their times if it is an `.lrc` file.

    Raises:
        InputError: it can't be read, is not UTF-8, is empty, or is malformed (names the line).
    """
    text = read_text(path)
    lyrics = Lyrics({"lyrics": text})
    if path.suffix.lower() == ".lrc":
        lines = lrc.parse_lrc(text, str(path))
        words = [word._asdict() for word in lrc.timed_words(lines)]
        lyrics = Lyrics({"lyrics": lrc.plain_text(lines), TIMED: text}, words)
    if not lyrics.columns["lyrics"].strip():
        raise InputError(f"lyrics {path} are empty: leave --lyrics out to sample without")
    return lyrics


def _unlabelled(spec: TokenSpec, options: SamplingOptions) -> list[Item]:
    """The samples with the labels of their prompts, if they have any."""
    if options.prompts is None:
        if options.seconds == 0 or options.prompt_ids or options.prompt_seconds:
            raise InputError("nothing to sample: give --seconds above 0, or --prompts CORPUS")
        new = round(options.seconds * spec.sample_rate)
        empty = {s.name: np.zeros(0, np.uint16) for s in spec.streams}
        return [_item(number, {}, dict(empty), new, 0) for number in range(options.count or 1)]
    prompts = _prompts(spec, options)
    count = options.count or len(prompts)
    return [_continued(i, prompts[i % len(prompts)], spec, options) for i in range(count)]


def _check_label_names(options: SamplingOptions) -> None:
    """`--label` is for metadata that has no option of its own, and never for the corpus's own."""
    for name in options.label:
        if name in ("artist", "genre", "lyrics"):
            raise InputError(f"--label {name}: give --{name} instead")
        if name in OWN or name.startswith("codes_"):
            raise InputError(f"--label {name}: that column is the corpus's own")


def _prompts(spec: TokenSpec, options: SamplingOptions) -> list[Mapping[str, Any]]:
    assert options.prompts is not None
    corpus = Corpus(options.prompts)
    spec.require(corpus.spec, "the prior", str(options.prompts))
    ids = corpus.ids()
    for name in options.prompt_ids:
        if name not in ids:
            raise InputError(f"--prompt-ids {name}: {options.prompts} has no track of that id")
    if not ids:
        raise InputError(f"{options.prompts} holds no track to go on from")
    return [corpus[ids.index(name)] for name in options.prompt_ids or ids]


def _continued(
    number: int, track: Mapping[str, Any], spec: TokenSpec, options: SamplingOptions
) -> Item:
    """A sample that goes on from a track."""
    hop = spec.coarsest_hop
    streams = options.prompt_streams or [s.name for s in spec.streams]
    for name in streams:
        spec.stream(name)
    held = min(len(track[f"codes_{spec.streams[-1].name}"]) * hop, track["num_samples"])
    kept = held
    if options.prompt_seconds is not None:
        kept = int(options.prompt_seconds * spec.sample_rate) // hop * hop
        if kept > held:
            raise InputError(
                f"a prompt of {options.prompt_seconds} s is longer than track {track['id']!r} "
                f"({held / spec.sample_rate:.2f} s): give a smaller --prompt-seconds"
            )
        if kept == 0:
            raise InputError(
                f"--prompt-seconds {options.prompt_seconds} is shorter than one code "
                f"({hop / spec.sample_rate:.4f} s)"
            )
    codes = {}
    for stream in spec.streams:
        count = code_count(kept, stream.hop_length, hop) if stream.name in streams else 0
        codes[stream.name] = np.asarray(track[f"codes_{stream.name}"][:count], np.uint16)
    total = kept + round(options.seconds * spec.sample_rate)
    return _item(number, track, codes, total, kept)


def _item(
    number: int,
    track: Mapping[str, Any],
    codes: dict[str, np.ndarray],
    samples: int,
    prompt_samples: int,
) -> Item:
    """A sample with the labels of its prompt's track, which may be empty."""
    kept = {k: v for k, v in track.items() if k not in OWN and not k.startswith("codes_")}
    row: dict[str, Any] = {
        **kept,
        "id": f"sample-{number:04d}",
        "path": "",
        "audio_sha256": "",
        "num_samples": samples,
        "artist": track.get("artist", ""),
        "genre": track.get("genre", ""),
        "title": track.get("title", ""),
        "lyrics": track.get("lyrics", ""),
        "words": [],
        "prompt_id": track.get("id", ""),
        "prompt_samples": prompt_samples,
    }
    # Behind the track's end nothing is known of when its words are sung.
    timed = samples <= track.get("num_samples", 0)
    return Item(row, codes, list(track.get("words") or ()) if timed else [])


def _turn(given: Sequence[str], number: int, otherwise: str) -> str:
    return given[number % len(given)] if given else otherwise
