"""How words get their times: which tracks of a corpus, by which aligner, and what is kept when.

It knows token corpora and aligners by name, not how any of them works.
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel

from codec.corpus import Corpus, CorpusWriter
from codec.tokens import TokenSpec
from conditioning.base import Aligner, AlignmentMap, Track, Word
from conditioning.maps import write_map
from plugins import registry
from plugins.ground.config import build_config
from plugins.ground.errors import InputError
from plugins.ground.progress import Progress

SECONDS_AT_RISK = 60.0
"""How much work a kill may cost, besides the track at hand."""
LATITUDE = 0.05
"""Seconds by which times may miss their bounds, as frames do; they are moved to them."""
ROUNDING = 1e-3
"""The same of confidences."""


@dataclass
class Alignment:
    """What came of it."""

    aligned: dict[str, float] = field(default_factory=dict)
    """Mean confidence over the words of each track that was aligned now."""
    instead: dict[str, str] = field(default_factory=dict)
    """Why each track that has the fallback's words has not the aligner's."""
    failed: dict[str, str] = field(default_factory=dict)
    """Why each track that can't be aligned can't."""
    there: int = 0
    """Tracks that had words already."""
    without: int = 0
    """Tracks without lyrics."""


def align_corpus(
    folder: Path | str,
    aligner: str = "attention",
    settings: Mapping[str, Any] | None = None,
    *,
    audio: Path | str | None = None,
    fallback: str | None = None,
    again: bool = False,
    maps: bool = False,
) -> Alignment:
    """Put the times of words into a token corpus, for every track that has lyrics.

    Words are published by rename every minute or so, and tracks that have some are passed over; so
    an alignment that was killed goes on. What comes of each track is printed.

    Args:
        folder: of the token corpus.
        aligner: registry name.
        settings: of the aligner.
        audio: folder of the corpus's music, for aligners that take one.
        fallback: registry name of who aligns the tracks that the aligner gives a reason for.
        again: align tracks that have words, too.
        maps: keep what the aligner went by, where it can show that (see `conditioning.maps`).

    Raises:
        InputError: no corpus or no lyrics in it, no such aligner, setting or folder, or an aligner
            that can't work here or on this corpus, or breaks; words that were found are kept. Or
            another process writes to the corpus.
    """
    corpus, settings = Corpus(folder), dict(settings or {})
    told = {"audio": audio, "total_seconds": corpus.settings.get("total_seconds")}
    told = {name: value for name, value in told.items() if value}
    heard = settings.get("audio", audio)
    if heard is not None and not Path(heard).is_dir():
        raise InputError(f"--audio {heard} is no folder: give that of the music")
    chosen, other = _Chosen.of(aligner, told, settings, corpus), None
    if fallback is not None and fallback != aligner:
        other = _Chosen.of(fallback, {**told, **settings}, {}, corpus)
    run = _Run(corpus, chosen, other, again, maps)
    with run.writer.lock, Progress(len(corpus), "aligning", "tracks") as bar:
        for shard in range(len(corpus.manifest.shards)):
            run.align_shard(shard, bar)
    if run.result.without == len(corpus):
        raise InputError(
            f"no track of {folder} has lyrics: give them in metadata.jsonl or in the files' tags "
            "and tokenize into another folder, or in --lyrics of prior.sample"
        )
    print("\n".join(_summary(run.result, corpus, fallback)))
    return run.result


@dataclass(frozen=True)
class _Chosen:
    """An aligner that can work here; built once a track needs it."""

    name: str
    cls: type[Aligner]
    config: BaseModel

    @classmethod
    def of(
        cls, name: str, offered: Mapping[str, Any], meant: Mapping[str, Any], corpus: Corpus
    ) -> "_Chosen":
        """The aligner of that name.

        Args:
            name: of the registry.
            offered: settings, which it may have or not.
            meant: settings that it must have.
            corpus: that it is to work on.

        Raises:
            InputError: there is none, it can't work on this machine or this corpus, or it refuses
                its settings.
        """
        found = registry.get(registry.ALIGNERS, name)
        with registry.blaming(found, "say whether it can work here"):
            reason = found.why_not()
        if reason:
            raise InputError(f"aligner {name!r} can't work here: {_one_line(reason)}")
        fields = found.Config.model_fields
        taken = {key: value for key, value in offered.items() if key in fields}
        with registry.blaming(found, "take its settings"):
            config = _config(name, found.Config, {**taken, **meant})
        hears = "audio" in fields and fields["audio"].is_required()
        if hears and not any(row["path"] for row in corpus.tracks()):
            raise InputError(
                f"aligner {name!r} listens to recordings, and {corpus.folder} names none: give a "
                "corpus that was tokenized from files, or another aligner"
            )
        return cls(name, found, config)

    @cached_property
    def aligner(self) -> Aligner:
        """Ready to align."""
        with registry.blaming(self.cls, "be made"):
            return self.cls(self.config)

    def words(self, row: Track, spec: TokenSpec) -> list[Word] | str:
        """A track's words, one for each of its lyrics; or in one line why there are none.

        Raises:
            InputError: the aligner breaks, or gives what are no words; names its distribution.
        """
        aligner, track = self.aligner, row["id"]
        with registry.blaming(self.cls, f"align {track}"):
            # Words that the track has may be wrong, and conditioners go by them.
            made = aligner.align({**row, "words": []}, spec)
        if isinstance(made, str):
            return _one_line(made) or "it gives no reason"
        if isinstance(made, list) and not made:
            return "it gives no words"
        try:
            return _checked(made, row["lyrics"].split(), self._seconds(row, spec))
        except ValueError as error:
            raise InputError(f"{registry.origin(self.cls)}: of {track}, {error}") from error

    def map_of(self, track: str) -> AlignmentMap | None:
        """What the words of the track that was aligned last went by.

        Raises:
            InputError: it is no map; names the aligner's distribution.
        """
        with registry.blaming(self.cls, f"show the map of {track}"):
            seen = self.aligner.map
            if seen is not None and (wrong := _broken(seen)):
                raise InputError(f"{registry.origin(self.cls)}: the map of {track} {wrong}")
        return seen

    def _seconds(self, row: Track, spec: TokenSpec) -> float:
        """When words may end at last: with the song that a track is a part of."""
        total = getattr(self.config, "total_seconds", None)
        whole = float(total) if isinstance(total, int | float) else 0.0
        return max(row["num_samples"] / spec.sample_rate, whole) or math.inf


class _Run:
    """An alignment in the making."""

    def __init__(
        self, corpus: Corpus, chosen: _Chosen, other: _Chosen | None, again: bool, maps: bool
    ) -> None:
        self.folder, self.spec = corpus.folder, corpus.spec
        self.chosen, self.other = chosen, other
        self.again, self.maps = again, maps
        self.writer = CorpusWriter(corpus.folder, corpus.spec, corpus.settings)
        self.result = Alignment()

    def align_shard(self, number: int, bar: Progress) -> None:
        """Align the tracks of one shard, publishing now and then."""
        rows = Corpus(self.folder).shard_rows(number)
        wanted = {row["id"]: row["words"] for row in rows if self._wants(row)}
        # Those of older corpora, that no shard may hold any more.
        bad = [track for track, words in wanted.items() if not _timed(words)]
        bar.advance(self.writer.manifest.shards[number].rows - len(wanted))
        while wanted:
            started = time.monotonic()
            found: dict[str, list[dict[str, Any]]] = {track: [] for track in bad if track in wanted}
            try:
                # Opened anew each time, since publishing takes the old file away.
                for row in Corpus(self.folder).shard_rows(number):
                    if row["id"] not in wanted:
                        continue
                    del wanted[row["id"]]
                    if words := self._align(row):
                        found[row["id"]] = [_entry(word) for word in words]
                    bar.advance()
                    if time.monotonic() - started > SECONDS_AT_RISK:
                        break
            finally:
                if found:
                    self.writer.set_words(number, found)

    def _wants(self, row: Track) -> bool:
        """Whether a track is to be aligned; counts it if not."""
        if not row["lyrics"].strip():
            self.result.without += 1
        elif row["words"] and _timed(row["words"]) and not self.again:
            self.result.there += 1
        else:
            return True
        return False

    def _align(self, row: Track) -> list[Word]:
        """A track's words, none if it can't be aligned; says which."""
        made = self.chosen.words(row, self.spec)
        if isinstance(made, str):
            return self._align_otherwise(row, made)
        sure = sum(word.confidence for word in made) / max(1, len(made))
        lost = sum(word.confidence == 0 for word in made)
        self.result.aligned[row["id"]] = sure
        how = f"mean confidence {sure:.2f}" + (f", {lost} of them not found" if lost else "")
        print(f"{row['id']}: {len(made)} words, {how if sure else 'not looked for'}", flush=True)
        self._keep_map(row, self.chosen)
        return made

    def _align_otherwise(self, row: Track, reason: str) -> list[Word]:
        """The fallback's words, if there is one; says so."""
        made = self.other.words(row, self.spec) if self.other else ""
        if self.other is None or isinstance(made, str):
            self.result.failed[row["id"]] = reason
            also = f"; nor by {self.other.name!r}: {made}" if self.other else ""
            print(f"{row['id']}: not aligned: {reason}{also}", flush=True)
            return []
        self.result.instead[row["id"]] = reason
        print(f"{row['id']}: {reason}; times of {self.other.name!r} instead", flush=True)
        self._keep_map(row, self.other)
        return made

    def _keep_map(self, row: Track, by: _Chosen) -> None:
        """What the words went by; a map of words that are gone goes, too."""
        seen = by.map_of(row["id"]) if self.maps else None
        with registry.blaming(by.cls, f"show the map of {row['id']}"):
            write_map(self.folder, row["id"], row["lyrics"], seen)


def _checked(made: Any, texts: Sequence[str], length: float) -> list[Word]:
    """An aligner's words, with what misses its bounds by a little moved to them.

    Args:
        made: what it gave.
        texts: of all words.
        length: seconds that they may last until.

    Raises:
        ValueError: they are no words of these texts; says what is wrong.
    """
    if not isinstance(made, list):
        raise ValueError(f"it gives {type(made).__name__}: it must be a list of Word, or a reason")
    if odd := [type(one).__name__ for one in made if not isinstance(one, Word)]:
        raise ValueError(f"it gives {odd[0]} among its words: all must be Word")
    if [word.text for word in made] != list(texts):
        raise ValueError(
            f"its {len(made)} words are not the {len(texts)} of the lyrics as white space "
            "separates them"
        )
    words: list[Word] = []
    last = 0.0
    for number, word in enumerate(made, start=1):
        try:
            start = _within(word.start, last, length, LATITUDE)
            end = _within(word.end, start, length, LATITUDE)
            sure = _within(word.confidence, 0.0, 1.0, ROUNDING)
        except (TypeError, ValueError) as error:
            raise ValueError(f"word {number}, {word.text!r}, {error}") from error
        words.append(Word(start, end, word.text, sure))
        last = start
    return words


def _within(given: Any, low: float, high: float, slack: float) -> float:
    """A number between bounds, moved to them if it misses them by no more than the slack.

    Raises:
        ValueError: it misses them by more, or is no finite number.
        TypeError: it is no number.
    """
    value = float(given)
    if not (math.isfinite(value) and low - slack <= value <= high + slack):
        raise ValueError(
            f"has {value:g} where {low:g} to {high:g} can be: starts must not go back, words must "
            "end in the track and not ahead of their start, confidences be 0 to 1"
        )
    return min(max(value, low), high)


def _timed(words: Sequence[Mapping[str, Any]]) -> bool:
    """Whether all words have times that are numbers."""
    edges = [word[edge] for word in words for edge in ("start", "end")]
    return bool(np.isfinite(np.array(edges, float)).all())


def _broken(seen: Any) -> str | None:
    """What is wrong with an aligner's map."""
    if not isinstance(seen, AlignmentMap):
        return f"is {type(seen).__name__}: it must be an AlignmentMap"
    weights, tokens = np.asarray(seen.weights), len(seen.sources)
    if (weights.ndim, *weights.shape[1:]) != (2, tokens):
        return f"has weights of shape {[*weights.shape]}: it needs one for each of {tokens} tokens"
    if not np.isfinite(weights).all() or (weights < 0).any():
        return "has weights that are negative or no numbers"
    if not 0 < seen.seconds < math.inf:
        return f"has frames of {seen.seconds} s"
    return None


def _one_line(reason: Any) -> str:
    """A stranger's reason in one line."""
    return " ".join(str(reason).split())


def _config(aligner: str, cls: type[BaseModel], settings: Mapping[str, Any]) -> BaseModel:
    """The config of the aligner of that name.

    Raises:
        InputError: it has no such setting, refuses a value, or lacks one that it needs.
    """
    for name, one in cls.model_fields.items():
        if one.is_required() and name not in settings:
            raise InputError(f"aligner {aligner!r} needs {name!r}: give --{name} or --set {name}=")
    try:
        return build_config(cls, {"": {}}, "", settings)
    except InputError as error:
        raise InputError(f"aligner {aligner!r}: {error}") from error


def _entry(word: Word) -> dict[str, Any]:
    """A word as corpora hold it."""
    return {"start": word.start, "end": word.end, "text": word.text}


def _summary(result: Alignment, corpus: Corpus, fallback: str | None) -> list[str]:
    """What came of it, and how to see it, in lines."""
    counts = {
        "aligned": len(result.aligned),
        f"by {fallback!r} instead": len(result.instead),
        "not aligned": len(result.failed),
        "without lyrics": result.without,
        "aligned before (--again aligns them anew)": result.there,
    }
    lines = ["tracks: " + ", ".join(f"{n} {what}" for what, n in counts.items() if n)]
    if result.aligned or result.instead or result.there:
        lines.append(f"to see the words light up: {_report(corpus)}")
    return lines


def _report(corpus: Corpus) -> str:
    """The command that makes a page of them."""
    command = "jukebox report --out report/index.html"
    if next(Corpus(corpus.folder).tracks())["path"]:
        return f"{command} --songs Aligned={corpus.folder} --originals FOLDER-OF-THE-MUSIC"
    decoded = "FOLDER-OF-DECODED-AUDIO"
    return f"{command} --samples Aligned={corpus.folder} --audio Aligned={decoded}"
