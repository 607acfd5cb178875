"""How words get their times: which tracks of a corpus, by which aligner, and what is kept when.

It knows token corpora and aligners by name, not how any of them works.
"""

import functools
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from codec.corpus import Corpus, CorpusWriter
from conditioning.base import Aligner, Track, Word
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
    again: bool = False,
) -> Alignment:
    """Put the times of words into a token corpus, for every track that has lyrics.

    Words are published by rename every minute or so, and tracks that have some are passed over; so
    an alignment that was killed goes on. What comes of each track is printed.

    Args:
        folder: of the token corpus.
        aligner: registry name.
        settings: of the aligner.
        again: align tracks that have words, too.

    Raises:
        InputError: no corpus or no lyrics in it, no such aligner or setting, or an aligner that
            can't work on this corpus.
    """
    corpus = Corpus(folder)
    cls = registry.get(registry.ALIGNERS, aligner)
    config = _config(aligner, cls.Config, {**_told(corpus, cls.Config), **(settings or {})})
    run = _Run(corpus, cls, config, again)
    with Progress(len(corpus), "aligning", "tracks") as bar:
        for shard in range(len(corpus.manifest.shards)):
            run.align_shard(shard, bar)
    if run.result.without == len(corpus):
        raise InputError(
            f"no track of {folder} has lyrics: give them in metadata.jsonl or in the files' tags "
            "and tokenize again, or in --lyrics of prior.sample"
        )
    print("\n".join(_summary(run.result, corpus)))
    return run.result


class _Run:
    """An alignment in the making."""

    def __init__(
        self, corpus: Corpus, aligner: type[Aligner], config: BaseModel, again: bool
    ) -> None:
        self.folder, self.spec, self.again = corpus.folder, corpus.spec, again
        self.writer = CorpusWriter(corpus.folder, corpus.spec, corpus.settings)
        self.result = Alignment()
        self._build = functools.cache(lambda: aligner(config))  # once a track needs it

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
        made = self._build().align(row, self.spec)
        if isinstance(made, str):
            self.result.failed[row["id"]] = made
            print(f"{row['id']}: not aligned: {made}", flush=True)
            return []
        sure = sum(word.confidence for word in made) / max(1, len(made))
        lost = sum(word.confidence == 0 for word in made)
        self.result.aligned[row["id"]] = sure
        print(
            f"{row['id']}: {len(made)} words, mean confidence {sure:.2f}"
            + (f", {lost} of them not found" if lost else ""),
            flush=True,
        )
        return made


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


def _told(corpus: Corpus, cls: type[BaseModel]) -> dict[str, Any]:
    """The length of song that samples were made to be parts of, if the aligner takes it."""
    total = corpus.settings.get("total_seconds")
    return {"total_seconds": total} if total and "total_seconds" in cls.model_fields else {}


def _entry(word: Word) -> dict[str, Any]:
    """A word as corpora hold it."""
    return {"start": word.start, "end": word.end, "text": word.text}


def _summary(result: Alignment, corpus: Corpus) -> list[str]:
    """What came of it, and how to see it, in lines."""
    counts = {
        "aligned": len(result.aligned),
        "not aligned": len(result.failed),
        "without lyrics": result.without,
        "aligned before (--again aligns them anew)": result.there,
    }
    lines = ["tracks: " + ", ".join(f"{n} {what}" for what, n in counts.items() if n)]
    if result.aligned or result.there:
        lines.append(f"to see the words light up: {_report(corpus)}")
    return lines


def _report(corpus: Corpus) -> str:
    """The command that makes a page of them."""
    command = "jukebox report --out report/index.html"
    if next(Corpus(corpus.folder).tracks())["path"]:
        return f"{command} --songs Aligned={corpus.folder} --originals FOLDER-OF-THE-MUSIC"
    decoded = "FOLDER-OF-DECODED-AUDIO"
    return f"{command} --samples Aligned={corpus.folder} --audio Aligned={decoded}"
