"""Lyrics as a memory, read by an encoder of its own, or as a prefix (paper section 4.3).

It knows characters and which of them belong to a window of audio, not how a prior attends to them.
Shapes: B batch, S characters of a window, V kinds of characters with 0 for "unknown" and padding,
W width of the encoder, D width of the prior.
"""

import unicodedata
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, field_validator
from torch import Tensor, nn

from conditioning.base import (
    AuxiliaryLoss,
    Condition,
    Excerpt,
    LyricsReader,
    Provides,
    Site,
    Track,
    Window,
)
from conditioning.text import (
    ALPHABETS,
    Transliteration,
    clean,
    compose,
    numbers,
    transliterator,
)
from plugins.ground.errors import InputError

PADDING = 0
NOWHERE = -1
"""Index of padding in the lyrics."""
MOST_NEW = 1000
"""Characters that an alphabet may gain at once."""
EMBEDDING_STD = 0.02
POSITION_STD = 0.01

ENCODER: Mapping[str, Any] = {
    "width": 1280,
    "depth": 18,
    "heads": 4,
    "blocks": 32,
    "patterns": ["row", "column", "previous"],
    "init_scale": 0.7,
}
"""The published lyric encoder of the 5b_lyrics prior."""


class LyricsConfig(BaseModel):
    """How lyrics are read, whatever becomes of them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tokens: int = Field(ge=1)
    """S, characters that belong to one window of audio."""
    alphabet: str = Field(ALPHABETS["v3"], min_length=1)
    """Characters in the order of their numbers, from 1. May be given as "v2" or "v3"."""
    transliterate: Transliteration = "anyascii"
    """How characters become ASCII; "none" keeps other scripts, by an alphabet that `fit` grows."""
    loss_weight: float = Field(0.4, ge=0)
    """Of the loss at one character, beside 1 for a code."""

    @field_validator("alphabet", mode="before")
    @classmethod
    def _alphabet_by_name(cls, given: Any) -> Any:
        return ALPHABETS.get(given, given) if isinstance(given, str) else given

    @field_validator("alphabet")
    @classmethod
    def _characters_differ(cls, alphabet: str) -> str:
        if len(set(alphabet)) != len(alphabet):
            raise ValueError("a character stands twice in the alphabet")
        return alphabet


class LyricsPrefixConfig(LyricsConfig):
    """How lyrics are read; the defaults are those of the published 1b_lyrics prior."""

    tokens: int = Field(384, ge=1)


class LyricsMemoryConfig(LyricsConfig):
    """How lyrics are read, and by which encoder."""

    tokens: int = Field(512, ge=1)
    network: dict[str, Any] = dict(ENCODER)
    """Settings of the encoder's transformer but for its context; those that are not given are the
    published encoder's."""

    @field_validator("network")
    @classmethod
    def _network_is_complete(cls, network: dict[str, Any]) -> dict[str, Any]:
        if "context" in network:
            raise ValueError("the encoder's context is `tokens`: leave it out")
        return {**ENCODER, **network}


def lyric_window(
    tokens: Sequence[int], size: int, total: int, offset: int, duration: int
) -> tuple[list[int], list[int]]:
    """The characters that belong to a window of audio (paper section 4.3).

    As if lyrics were sung at one rate from the first sample to the last: the `size` characters
    around the one at the window's midpoint, moved to lie within the lyrics. Shorter lyrics are
    padded in front.

    Args:
        tokens: numbers of all characters.
        size: S.
        total: samples of the whole track.
        offset: sample at which the window starts.
        duration: samples of the window.

    Returns:
        The tokens, and the index of each in the lyrics, [S] each; padding has token 0, index -1.
    """
    middle = len(tokens) * (2 * offset + duration) // (2 * max(total, 1))
    start = max(0, min(middle - size // 2, len(tokens) - size))
    held = list(tokens[start : start + size])
    missing = size - len(held)
    indices = [NOWHERE] * missing + list(range(start, start + len(held)))
    return [PADDING] * missing + held, indices


class _Lyrics(LyricsReader):
    """What both designs share: from a track's lyrics to numbered characters."""

    config: LyricsConfig
    reads = ("lyrics",)

    def __init__(self, config: LyricsConfig, site: Site) -> None:
        super().__init__(config, site)
        transliterator(config.transliterate)  # a library that is missing is missed at once

    @property
    def kinds(self) -> int:
        """V."""
        return len(self.config.alphabet) + 1

    @classmethod
    def fit(cls, config: Any, tracks: Iterable[Track]) -> Any:
        """The config with new characters of `tracks` appended in sorted order.

        Only where nothing is transliterated; else the alphabet stays. Warns if there are more new
        characters than `MOST_NEW`, and takes the most frequent of them.
        """
        if config.transliterate != "none":
            return config
        met: Counter[str] = Counter()
        for track in tracks:
            met.update(compose(_lyrics(track)).replace("\\", "\n"))
        new = [c for c in met if c not in config.alphabet and _written(c)]
        new.sort(key=lambda char: (-met[char], char))
        if len(new) > MOST_NEW:
            warnings.warn(
                f"the lyrics hold {len(new)} characters that the alphabet lacks: the {MOST_NEW} "
                f"most frequent are added, the others will be dropped",
                stacklevel=2,
            )
        grown = config.alphabet + "".join(sorted(new[:MOST_NEW]))
        return config.model_copy(update={"alphabet": grown})

    def excerpt(self, track: Track, window: Window) -> Excerpt:
        """The lyrics of a window of a track; nothing but padding if it has none."""
        cleaned = clean(_lyrics(track), self.config.alphabet, self.config.transliterate)
        hop = self.site.stream.hop_length
        tokens, indices = lyric_window(
            numbers(cleaned.text, self.config.alphabet),
            self.config.tokens,
            total=window.total,
            offset=window.start * hop,
            duration=self.site.context * hop,
        )
        return Excerpt(tokens, indices, cleaned.sources)

    def prepare(
        self, track: Track, window: Window, rng: np.random.Generator | None = None
    ) -> dict[str, Tensor]:
        """`tokens` of the window's lyrics, [S] int64; zeros if there are none."""
        return {"tokens": torch.tensor(self.excerpt(track, window).tokens, dtype=torch.int64)}

    def check(self, track: Track) -> None:
        """Refuse lyrics of which nothing would be left.

        Raises:
            InputError: the alphabet has none of their characters.
        """
        lyrics = _lyrics(track).strip()
        cleaned = clean(lyrics, self.config.alphabet, self.config.transliterate)
        if lyrics and not cleaned.text.strip():
            raise InputError(
                f"lyrics {lyrics[:20]!r} have no character that this prior can read: it knows "
                f"{self.config.alphabet.strip()[:80]!r}; write them in these, or give none"
            )


class LyricsPrefix(_Lyrics):
    """Lyrics as tokens ahead of the codes, in one transformer."""

    Config = LyricsPrefixConfig

    @property
    def provides(self) -> Provides:
        """A prefix."""
        return Provides(
            prefix=self.config.tokens,
            prefix_vocab=self.kinds,
            prefix_weight=self.config.loss_weight,
        )

    def forward(self, batch: Mapping[str, Tensor]) -> Condition:
        """Tokens [B, S] -> prefix [B, S]."""
        return Condition(prefix=batch["tokens"])


class LyricsMemory(_Lyrics):
    """Lyrics as a memory: a causal encoder's outputs, which also predict the next character.

    Raises:
        InputError: the prior lends no transformer, or the encoder can't be built as configured.
    """

    Config = LyricsMemoryConfig
    config: LyricsMemoryConfig

    def __init__(self, config: LyricsMemoryConfig, site: Site) -> None:
        super().__init__(config, site)
        self.transformer = _encoder(config, site)
        width = int(config.network["width"])
        self.start = nn.Parameter(torch.empty(1, width))
        self.embedding = nn.Embedding(self.kinds, width)
        self.positions = nn.Parameter(torch.empty(config.tokens, width))
        self.projection = nn.Linear(width, site.width)
        self.norm = nn.LayerNorm(site.width)
        self.output = nn.Linear(site.width, self.kinds, bias=False)
        self._initialise(float(config.network["init_scale"]))

    def _initialise(self, scale: float) -> None:
        for weight in (self.embedding.weight, self.projection.weight, self.output.weight):
            nn.init.normal_(weight, std=EMBEDDING_STD * scale)
        for weight in (self.start, self.positions):
            nn.init.normal_(weight, std=POSITION_STD * scale)
        nn.init.zeros_(self.projection.bias)

    @property
    def provides(self) -> Provides:
        """A memory."""
        return Provides(memory=self.config.tokens)

    def forward(self, batch: Mapping[str, Tensor]) -> Condition:
        """Tokens [B, S] -> memory [B, S, D], and the loss of each character given those before."""
        tokens = batch["tokens"]
        memory = self.encode(tokens)
        logits = self.output(memory).float()  # [B, S, V]
        surprise = F.cross_entropy(logits.flatten(0, 1), tokens.flatten())
        loss = AuxiliaryLoss("lyrics", surprise, self.config.tokens, self.config.loss_weight)
        return Condition(memory=memory, losses=(loss,))

    def encode(self, tokens: Tensor) -> Tensor:
        """Tokens [B, S] -> [B, S, D]; at each position, what is known of the characters before."""
        start = self.start.expand(len(tokens), 1, -1)
        x = torch.cat([start, self.embedding(tokens[:, :-1])], 1) + self.positions
        x = F.dropout(x, float(self.config.network.get("dropout", 0)), self.training)
        return self.norm(self.projection(self.transformer(x)))

    def adopt(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tables of a smaller alphabet [V', ...], new characters starting as "unknown"."""
        fitted = dict(state)
        for name in ("embedding.weight", "output.weight"):
            new = state[name][:1].expand(max(0, self.kinds - len(state[name])), -1)
            fitted[name] = torch.cat([state[name], new])
        return fitted


def _encoder(config: LyricsMemoryConfig, site: Site) -> nn.Module:
    """The lent transformer over S characters, [B, S, W] -> [B, S, W]."""
    if site.transformer is None:
        raise InputError(
            "lyrics_memory needs a transformer from its prior, which lends none: "
            "use lyrics_prefix, or a prior that does"
        )
    try:
        return site.transformer(context=config.tokens, **config.network)
    except InputError as error:
        raise InputError(f"lyrics_memory's network over {config.tokens} tokens: {error}") from error


def _written(char: str) -> bool:
    """Whether it is a character to be read: no control character but newline and tab."""
    return char in "\n\t" or unicodedata.category(char) not in ("Cc", "Cs")


def _lyrics(track: Track) -> str:
    return str(track.get("lyrics") or "")
