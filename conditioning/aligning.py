"""How words get their times: which tracks of a corpus, by which aligner, and what is kept when.

It knows token corpora and aligners by name, not how any of them works.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from codec.corpus import Corpus, CorpusWriter
from conditioning.base import Aligner, Word
from plugins import registry
from plugins.ground.config import build_config
from plugins.ground.errors import InputError
from plugins.ground.progress import Progress

SECONDS_AT_RISK = 60.0
"""Of work that a kill may cost, and the track at hand."""


@dataclass
class Alignment:
    """What came of it."""

    words: dict[str, list[Word]] = field(default_factory=dict)
    """By track, of those that were aligned now."""
    failed: dict[str, str] = field(default_factory=dict)
    """By track that can't be aligned, the reason."""
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
    """Put the times of words into a token corpus, for every track that has lyrics; say what came.

    Words are published about every `SECONDS_AT_RISK`, by renaming; tracks that have some are
    passed over, so an alignment that was killed goes on.

    Args:
        folder: of the token corpus.
        aligner: registry name.
        settings: of the aligner.
        again: align tracks that have words, too.

    Raises:
        InputError: no corpus, no such aligner or setting, or an aligner that can't work on this.
    """
    corpus = Corpus(folder)
    made = make_aligner(aligner, {**_sampled_with(corpus, aligner), **(settings or {})})
    work = _Work(Path(folder), made, again)
    with Progress(len(corpus), "aligning", "tracks") as bar:
        for number in range(len(corpus.manifest.shards)):
            while work.some_of(number, bar):
                pass
    _say(work.result, Path(folder))
    return work.result


def make_aligner(name: str, settings: Mapping[str, Any]) -> Aligner:
    """The aligner of that name.

    Raises:
        InputError: there is none, or it refuses a setting or lacks one.
    """
    cls = registry.get(registry.ALIGNERS, name)
    missing = [
        key for key, one in cls.Config.model_fields.items() if one.is_required() and key not in settings
    ]
    if missing:
        raise InputError(f"aligner {name!r} needs --{missing[0].replace('_', '-')}")
    try:
        config = build_config(cls.Config, {"": {}}, "", settings)
    except InputError as error:
        raise InputError(f"aligner {name!r}: {error}") from error
    aligner: Aligner = cls(config)
    return aligner


def _sampled_with(corpus: Corpus, aligner: str) -> dict[str, Any]:
    """Settings that samples were made with and their aligner must know."""
    fields = registry.get(registry.ALIGNERS, aligner).Config.model_fields
    total = corpus.settings.get("total_seconds")
    return {"total_seconds": total} if total and "total_seconds" in fields else {}


class _Work:
    """An alignment in the making."""

    def __init__(self, folder: Path, aligner: Aligner, again: bool) -> None:
        self.folder, self.aligner, self.again = folder, aligner, again
        corpus = Corpus(folder)
        self.writer = CorpusWriter(folder, corpus.spec, corpus.settings)
        self.result = Alignment()
        self._seen: set[str] = set()

    def some_of(self, shard: int, bar: Progress) -> bool:
        """Align tracks of a shard until it is time to publish; whether there are more."""
        started, found = time.monotonic(), {}
        corpus = Corpus(self.folder)  # anew, since publishing replaces its files
        for row in corpus.shard_rows(shard):
            if row["id"] in self._seen:
                continue
            if found and time.monotonic() - started > SECONDS_AT_RISK:
                break
            if words := self._align(row, corpus):
                found[row["id"]] = {"words": [_plain(word) for word in words]}
            self._seen.add(row["id"])
            bar.advance()
        else:
            self._publish(shard, found)
            return False
        self._publish(shard, found)
        return True
