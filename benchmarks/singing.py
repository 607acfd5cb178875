"""Make sung songs whose word times are known, by festival's singing mode.

`python benchmarks/singing.py OUT [--songs 400] [--seed 0] [--kind mixed]` writes training songs:
random words over random tunes, so that only the lyrics tell what is sung; all of a line or two
with the kind `short`, of a few words with `tiny`. `--held-out` writes the songs of
festival's examples, varied, instead. The layout of OUT is that of `songs.py`. The same command
again goes on where it stopped, and the same seed gives the same songs, however many.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import festival
import numpy as np
from pydantic import Field
from pydantic_settings import CliPositionalArg
from rich.console import Console
from scores import Score, few_words, held_out_scores, random_score, words
from songs import Draft, Part, Song, assemble, publish

from plugins.ground.command import Command

Kind = Literal["mixed", "short", "tiny"]
KINDS: dict[Kind, Callable[..., Score]] = {
    "mixed": random_score,
    "short": partial(random_score, short_share=1.0),
    "tiny": few_words,
}
ARTIST = "festival"
VERSION = 1
"""Of the recipe: raise it when the same seed gives other songs."""


class Singing(Command):
    """Make sung songs whose word times are known."""

    out: CliPositionalArg[Path] = Field(description="folder to write")
    songs: int = Field(400, ge=1, description="training songs")
    seed: int = Field(0, ge=0, description="same seed, same songs")
    kind: Kind = Field("mixed", description="how long training songs are")
    held_out: bool = Field(False, description="the songs of festival's examples instead")

    def cli_cmd(self) -> None:
        """Make them, and say what was made."""
        if self.held_out:
            made = held_out(self.out, self.seed)
        else:
            made = training(self.out, self.songs, self.seed, self.kind)
        Console().print(f"{len(made)} songs of {sum(len(s.words) for s in made)} words: {self.out}")


def training(folder: Path | str, count: int, seed: int = 0, kind: Kind = "mixed") -> list[Song]:
    """Songs of random words; each depends on the kind, the seed and its number alone.

    Raises:
        InputError: festival isn't there, or `folder` holds something else.
    """
    syllables = {word: n for word, n in festival.syllables(words()).items() if n}

    def make(names: Sequence[str]) -> list[Draft]:
        numbers = (int(name.split("-")[1]) for name in names)
        rngs = (np.random.default_rng([seed, number]) for number in numbers)
        score = KINDS[kind]
        return _sung({n: score(rng, syllables) for n, rng in zip(names, rngs, strict=True)})

    names = [f"train-{number:05d}" for number in range(count)]
    return publish(folder, _recipe("training" if kind == "mixed" else kind, seed), names, make)


def held_out(folder: Path | str, seed: int = 0) -> list[Song]:
    """Festival's example songs and medleys of them, with intros, gaps and changes of tempo.

    Raises:
        InputError: festival isn't there, or `folder` holds something else.
    """
    scores = held_out_scores(seed)
    return publish(
        folder,
        _recipe("held out", seed),
        list(scores),
        lambda names: _sung({name: scores[name] for name in names}),
    )


def _recipe(kind: str, seed: int) -> dict[str, object]:
    return {"kind": kind, "seed": seed, "version": VERSION}


def _sung(scores: dict[str, Score]) -> list[Draft]:
    takes = iter(festival.sing(line for score in scores.values() for _, line in score.lines))
    drafts = []
    for title, score in scores.items():
        parts = []
        for silence, line in score.lines:
            take = next(takes)
            texts = _capitalised([word.text for word in line])
            parts.append(Part(silence, take.audio, texts, take.times))
        drafts.append(assemble(title, ARTIST, parts, score.outro))
    return drafts


def _capitalised(texts: list[str]) -> list[str]:
    """Lines of lyrics begin with a capital."""
    return [texts[0][:1].upper() + texts[0][1:], *texts[1:]]


if __name__ == "__main__":
    Singing.main()
