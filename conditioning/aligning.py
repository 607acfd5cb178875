"""How words get their times: which tracks of a corpus, by which aligner, and what is kept when.

It knows token corpora and aligners by name, not how any of them works.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from codec.corpus import Corpus, CorpusWriter
from conditioning.base import Aligner, Track, Word
from conditioning.maps import write_map
from plugins import registry
from plugins.ground.config import build_config
from plugins.ground.errors import InputError
from plugins.ground.progress import Progress

SECONDS_AT_RISK = 60.0
"""How much work a kill may cost, besides the track at hand."""


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
            that can't work here or on this corpus.
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
    with Progress(len(corpus), "aligning", "tracks") as bar:
        for shard in range(len(corpus.manifest.shards)):
            run.align_shard(shard, bar)
    if run.result.without == len(corpus):
        raise InputError(
            f"no track of {folder} has lyrics: give them in metadata.jsonl or in the files' tags "
            "and tokenize again, or in --lyrics of prior.sample"
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
        if reason := found.why_not():
            raise InputError(f"aligner {name!r} can't work here: {reason}")
        fields = found.Config.model_fields
        taken = {key: value for key, value in offered.items() if key in fields}
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
        return self.cls(self.config)


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
        wanted = {row["id"] for row in Corpus(self.folder).shard_rows(number) if self._wants(row)}
        bar.advance(self.writer.manifest.shards[number].rows - len(wanted))
        while wanted:
            started, found = time.monotonic(), {}
            # Opened anew each time, since publishing takes the old file away.
            for row in Corpus(self.folder).shard_rows(number):
                if row["id"] not in wanted:
                    continue
                wanted.remove(row["id"])
                if words := self._align(row):
                    found[row["id"]] = [_entry(word) for word in words]
                bar.advance()
                if time.monotonic() - started > SECONDS_AT_RISK:
                    break
            if found:
                self.writer.set_words(number, found)

    def _wants(self, row: Track) -> bool:
        """Whether a track is to be aligned; counts it if not."""
        if not row["lyrics"].strip():
            self.result.without += 1
        elif row["words"] and not self.again:
            self.result.there += 1
        else:
            return True
        return False

    def _align(self, row: Track) -> list[Word]:
        """A track's words, none if it can't be aligned; says which."""
        made = self.chosen.aligner.align(row, self.spec)
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
        made = self.other.aligner.align(row, self.spec) if self.other else ""
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
        write_map(self.folder, row["id"], row["lyrics"], by.aligner.map if self.maps else None)


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
