"""Artist and genre as starts: a label's name is a row of a table (paper section 4.2).

It knows names and their numbers, not how a text is read as names (`conditioning.text`), nor what a
prior does with the vectors. Shapes:
B batch, D width of the prior, W names that a label may have, V rows of a table.
"""

import difflib
import warnings
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from conditioning.base import Condition, Conditioner, Provides, Site, Track, Window
from conditioning.text import RULES, Rule
from plugins.ground.errors import InputError

UNKNOWN = "unknown"
PADDING = -1
EMBEDDING_STD = 0.01
SHOWN = 5
"""How many names a message lists."""


class LabelConfig(BaseModel):
    """A vocabulary and how it is used."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    names: tuple[str, ...] = ()
    """Names in the order of their numbers, from 1; number 0 is "unknown". A number whose name is
    not known stands for itself: "37"."""
    named: bool = True
    """Whether any name is known; else only numbers are, and names that `fit` added."""
    rule: Literal["plain", "v2", "v3"] = "plain"
    """How a tag's text becomes names: one of `conditioning.text.RULES`."""
    dropout: float = Field(0.1, ge=0, le=1)
    """How often training replaces the label by "unknown"."""


class GenreConfig(LabelConfig):
    """A vocabulary of genre words."""

    max_words: int = Field(5, ge=1)
    """Words of one genre that are summed; further ones are ignored. Under v3 a genre is one."""


def names_by_number(pairs: Iterable[tuple[str, int]], rows: int) -> tuple[str, ...]:
    """The `names` of a config from a published list.

    Args:
        pairs: names and their numbers; several names may share one, and 0 is "unknown".
        rows: V of the table.

    Returns:
        Names of the numbers 1 to V - 1: the first that has the number, else the number itself
        ("number_37", where "37" is the name of another).

    Raises:
        InputError: a number outside of the table.
    """
    first: dict[int, str] = {}
    for name, number in pairs:
        if not 0 <= number < rows:
            raise InputError(
                f"{name!r} has number {number}, but the table has rows 0 to {rows - 1}: "
                "give the list that belongs to it"
            )
        if number:
            first.setdefault(number, name)
    taken = set(first.values())
    return tuple(
        first.get(number) or (f"number_{number}" if str(number) in taken else str(number))
        for number in range(1, rows)
    )


class Vocabulary:
    """Names and their numbers.

    Args:
        names: in the order of their numbers, from 1, however they are written.
        rule: gives the form in which they are looked up.
    """

    def __init__(self, names: Iterable[str], rule: Rule) -> None:
        self.numbers = {UNKNOWN: 0}
        for number, name in enumerate(names, start=1):
            self.numbers.setdefault(rule.name(name), number)

    def __contains__(self, name: str) -> bool:
        return name in self.numbers

    def number(self, name: str) -> int:
        """The number of a name, read by the rule; 0 if it has none."""
        return self.numbers.get(name, 0)

    def nearest(self, name: str) -> list[str]:
        """Up to `SHOWN` names that are spelled alike, most alike first."""
        known = [other for other, number in self.numbers.items() if number]
        return difflib.get_close_matches(name, known, SHOWN)


class _Labels(Conditioner):
    """A tag as the sum of the table rows of its names, in place of the start token."""

    what: ClassVar[str]
    """The column of the corpus, and the name of the prepared tensor."""

    def __init__(self, config: LabelConfig, site: Site) -> None:
        super().__init__(config, site)
        self.vocabulary = Vocabulary(config.names, RULES[config.rule])
        self.table = nn.Embedding(len(config.names) + 1, site.width)
        nn.init.normal_(self.table.weight, std=EMBEDDING_STD)
        self._warned = False

    @classmethod
    @abstractmethod
    def split(cls, text: str, rule: Rule) -> list[str]:
        """The names in a tag's text; none if it is empty."""

    @property
    @abstractmethod
    def most(self) -> int:
        """W, how many names a label may have."""

    @property
    def provides(self) -> Provides:
        """A start."""
        return Provides(start=True)

    @classmethod
    def fit(cls, config: Any, tracks: Iterable[Track]) -> Any:
        """The config with new names of `tracks` appended in sorted order."""
        known = Vocabulary(config.names, RULES[config.rule])
        met = {name for track in tracks for name in cls._names(track, config)}
        new = sorted(name for name in met if name not in known)
        return config.model_copy(update={"names": (*config.names, *new)})

    def prepare(
        self, track: Track, window: Window, rng: np.random.Generator | None = None
    ) -> dict[str, Tensor]:
        """{`what`: numbers [W] int64, padded with -1}; "unknown" if there is no known name.

        Warns once, in each process, of names that the vocabulary lacks.
        """
        numbers = [number for number in self._numbers(track) if number][: self.most]
        if rng is not None and rng.random() < self.config.dropout:
            numbers = []
        numbers = numbers or [0]
        padding = [PADDING] * (self.most - len(numbers))
        return {self.what: torch.tensor(numbers + padding, dtype=torch.int64)}

    def forward(self, batch: Mapping[str, Tensor]) -> Condition:
        """Numbers [B, W] -> start [B, 1, D], the sum of their rows; -1 adds nothing."""
        numbers = batch[self.what]
        rows = self.table(numbers.clamp(min=0))
        used = (numbers != PADDING).unsqueeze(-1)
        return Condition(start=(rows * used).sum(1, keepdim=True))

    def check(self, track: Track) -> None:
        """Refuse a label that the vocabulary lacks.

        Raises:
            InputError: lists the nearest names; or the label has too many names.
        """
        names = self._names(track, self.config)
        strange = [name for name in names if name not in self.vocabulary]
        if strange:
            raise InputError(
                f"unknown {self.what}: {'; '.join(map(self._beside, strange))}. {self._advice()}"
            )
        if len(names) > self.most:
            raise InputError(
                f"{self.what} {track[self.what]!r} has {len(names)} words, but this prior takes "
                f"{self.most}: leave some out"
            )

    def adopt(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A smaller vocabulary's table [V', D], new names starting as "unknown": [V, D]."""
        old = state["table.weight"]
        new = old[:1].expand(max(0, self.table.num_embeddings - len(old)), -1)
        return {**state, "table.weight": torch.cat([old, new])}

    @classmethod
    def _names(cls, track: Track, config: LabelConfig) -> list[str]:
        return cls.split(str(track.get(cls.what) or ""), RULES[config.rule])

    def _numbers(self, track: Track) -> list[int]:
        names = self._names(track, self.config)
        strange = [name for name in names if name not in self.vocabulary]
        if strange and not self._warned:
            self._warned = True
            warnings.warn(
                f"names that are not among the {len(self.config.names)} of {self.what} count as "
                f"unknown: {', '.join(map(repr, strange[:SHOWN]))}, and maybe others",
                stacklevel=3,
            )
        return [self.vocabulary.number(name) for name in names]

    def _advice(self) -> str:
        """What to do about an unknown name."""
        names = self.config.names
        if self.config.named or not names:
            return f"This prior knows {len(names)}: choose among them, or give none"
        numbers = sum(name == str(number) for number, name in enumerate(names, start=1))
        return (
            f"This prior takes numbers, 1 to {numbers}, since it was converted without the list of "
            f"their names: give one, or none, or convert it again with --labels FOLDER or with "
            f"jukebox-infer installed"
        )

    def _beside(self, name: str) -> str:
        near = ", ".join(map(repr, self.vocabulary.nearest(name)))
        return f"{name!r} ({f'nearest: {near}' if near else 'nothing is spelled alike'})"


class Artist(_Labels):
    """The artist's vector; the whole tag is one name."""

    Config = LabelConfig
    what = "artist"
    reads = ("artist",)

    @classmethod
    def split(cls, text: str, rule: Rule) -> list[str]:
        """One name, or none."""
        return [name] if (name := rule.name(text)) else []

    @property
    def most(self) -> int:
        """One."""
        return 1


class Genre(_Labels):
    """A bag of words: the sum of the vectors of a genre's words."""

    Config = GenreConfig
    what = "genre"
    reads = ("genre",)

    @classmethod
    def split(cls, text: str, rule: Rule) -> list[str]:
        """The words of the tag."""
        return rule.words(text)

    @property
    def most(self) -> int:
        """`max_words`."""
        return int(self.config.max_words)
