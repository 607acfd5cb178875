"""Lyrics as a memory, read by an encoder of its own, or as a prefix (paper section 4.3).

It knows characters or bytes and which of them belong to a window of audio, not how a prior attends
to them. Shapes: B batch, S tokens of a window (characters or bytes), V kinds of tokens with 0 for
"unknown" and padding, W width of the encoder, D width of the prior.
"""

import re
import unicodedata
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
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
    Characters,
    Transliteration,
    Utf8,
    Vocabulary,
    compose,
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


Name = Literal["openai-v2", "openai-v3", "utf8"]
PUBLISHED: Mapping[str, str] = {"openai-v2": ALPHABETS["v2"], "openai-v3": ALPHABETS["v3"]}
"""Alphabets by the names of their vocabularies."""


class Alphabet(BaseModel):
    """A vocabulary of one's own characters."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    characters: str = Field(min_length=1)
    """In the order of their numbers, from 1."""

    @field_validator("characters")
    @classmethod
    def _characters_differ(cls, characters: str) -> str:
        if len(set(characters)) != len(characters):
            raise ValueError("a character stands twice in the alphabet")
        return characters


class LyricsConfig(BaseModel):
    """How lyrics are read, whatever becomes of them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tokens: int = Field(ge=1)
    """S, characters or bytes that belong to one window of audio."""
    vocabulary: Name | Alphabet = "openai-v3"
    """What they are read as: the characters of published models, bytes, which write every script,
    or characters that `fit` found."""
    transliterate: Transliteration = "anyascii"
    """How characters become ASCII; "none" keeps other scripts, by an alphabet that `fit` grows.
    Bytes are those of the text as it is written, whatever this says."""
    loss_weight: float = Field(0.4, ge=0)
    """Of the loss at one token, beside 1 for a code."""

    @model_validator(mode="before")
    @classmethod
    def _read_alphabet(cls, given: Any) -> Any:
        """Older configs have an `alphabet`: all its characters, or "v2" or "v3"."""
        if not isinstance(given, dict) or "alphabet" not in given:
            return given
        rest = {name: value for name, value in given.items() if name != "alphabet"}
        return {"vocabulary": _vocabulary_of(given["alphabet"]), **rest}

    @field_validator("vocabulary", mode="before")
    @classmethod
    def _name_is_known(cls, given: Any) -> Any:
        if isinstance(given, str) and given not in get_args(Name):
            raise ValueError(f"there is no {given!r}, but {', '.join(get_args(Name))}")
        return given

    @property
    def alphabet(self) -> str:
        """The vocabulary's characters in the order of their numbers, from 1; "" for bytes."""
        if isinstance(self.vocabulary, Alphabet):
            return self.vocabulary.characters
        return PUBLISHED.get(self.vocabulary, "")

    def build_vocabulary(self) -> Vocabulary:
        """What reads lyrics so.

        Raises:
            InputError: the library for that transliteration is not installed.
        """
        return Characters(self.alphabet, self.transliterate) if self.alphabet else Utf8()


def _vocabulary_of(alphabet: Any) -> Any:
    """The vocabulary that an older config means by its alphabet."""
    names = {value: name for name, value in PUBLISHED.items()}
    known = {"v2": "openai-v2", "v3": "openai-v3", **names}
    return known.get(alphabet, {"characters": alphabet})


class LyricsPrefixConfig(LyricsConfig):
    """How lyrics are read; the defaults are those of the published 1b_lyrics prior."""

    tokens: int = Field(384, ge=1)


class LyricsMemoryConfig(LyricsConfig):
    """How lyrics are read, and by which encoder."""

    tokens: int = Field(512, ge=1)
    network: dict[str, Any] = dict(ENCODER)
    """Settings of the encoder's transformer but for its context; those that are not given are the
    published encoder's."""
    mask_padding: bool = False
    """Layers don't look at the padding ahead of lyrics that are shorter than `tokens`. Published
    priors look at it. A prior that does not learns far sooner to look at what is sung."""

    @field_validator("network")
    @classmethod
    def _network_is_complete(cls, network: dict[str, Any]) -> dict[str, Any]:
        if "context" in network:
            raise ValueError("the encoder's context is `tokens`: leave it out")
        return {**ENCODER, **network}


def lyric_window(
    tokens: Sequence[int], size: int, total: int, offset: int, duration: int
) -> tuple[list[int], list[int]]:
    """The tokens that belong to a window of audio, by a straight line (paper section 4.3).

    As if lyrics were sung at one rate from the first sample to the last: those `around` the one at
    the window's midpoint.

    Args:
        tokens: of the whole lyrics.
        size: S.
        total: samples of the whole track.
        offset: sample at which the window starts.
        duration: samples of the window.

    Returns:
        As `around`.
    """
    return around(len(tokens) * (2 * offset + duration) // (2 * max(total, 1)), tokens, size)


def around(middle: int, tokens: Sequence[int], size: int) -> tuple[list[int], list[int]]:
    """The `size` tokens around one of them, moved to lie within the lyrics.

    Shorter lyrics are padded in front. Of bytes, a window may begin or end inside of a character:
    the next window has it whole, and S stays what it is.

    Returns:
        The tokens, and the index of each in the lyrics, [S] each; padding has token 0, index -1.
    """
    start = max(0, min(middle - size // 2, len(tokens) - size))
    held = list(tokens[start : start + size])
    missing = size - len(held)
    indices = [NOWHERE] * missing + list(range(start, start + len(held)))
    return [PADDING] * missing + held, indices


def token_sung(
    seconds: float, text: str, sources: Sequence[int], words: Sequence[Mapping[str, Any]]
) -> int | None:
    """The token that is sung at a time, by the times of words.

    Inside of a word and from one to the next its tokens are taken to follow at one rate; ahead of
    all it is the first, behind all the last.

    Args:
        seconds: from the track's start.
        text: the lyrics as they were written.
        sources: of each of their tokens, the character that it comes from.
        words: each with start and end in seconds and text, in order.

    Returns:
        Its index among all tokens; None if the words are not those of the lyrics, as white space
        separates them, or times are no numbers.
    """
    written = list(re.finditer(r"\S+", text))
    if not words or [word["text"] for word in words] != [word.group() for word in written]:
        return None
    places = np.searchsorted(sources, [edge for word in written for edge in word.span()])
    edges = np.array([word[edge] for word in words for edge in ("start", "end")], float)
    if not np.isfinite(edges).all():
        return None
    # Words that overlap must not make the lyrics go backwards.
    return int(np.interp(seconds, np.maximum.accumulate(edges), places))


class _Lyrics(LyricsReader):
    """What both designs share: from a track's lyrics to the tokens of a window."""

    config: LyricsConfig
    reads = ("lyrics", "words")

    def __init__(self, config: LyricsConfig, site: Site) -> None:
        super().__init__(config, site)
        self.vocabulary = config.build_vocabulary()

    @property
    def kinds(self) -> int:
        """V."""
        return self.vocabulary.size + 1

    @classmethod
    def fit(cls, config: Any, tracks: Iterable[Track]) -> Any:
        """The config with new characters of `tracks` appended in sorted order.

        Only of an alphabet, and where nothing is transliterated; else the vocabulary stays. Warns
        if there are more new characters than `MOST_NEW`, and takes the most frequent of them.
        """
        if config.transliterate != "none" or not config.alphabet:
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
        if not new:
            return config
        grown = Alphabet(characters=config.alphabet + "".join(sorted(new[:MOST_NEW])))
        return config.model_copy(update={"vocabulary": grown})

    def excerpt(self, track: Track, window: Window) -> Excerpt:
        """The lyrics of a window of a track; nothing but padding if it has none.

        They follow the times of the track's words, or where it has none the straight line.
        """
        text, size = _lyrics(track), self.config.tokens
        read = self.vocabulary.read(text)
        hop = self.site.stream.hop_length
        offset, duration = window.start * hop, self.site.context * hop
        seconds = (offset + duration / 2) / self.site.sample_rate
        sung = token_sung(seconds, text, read.sources, track.get("words") or ())
        if sung is None:
            tokens, indices = lyric_window(read.tokens, size, window.total, offset, duration)
        else:
            tokens, indices = around(sung, read.tokens, size)
        return Excerpt(tokens, indices, read.sources)

    def prepare(
        self, track: Track, window: Window, rng: np.random.Generator | None = None
    ) -> dict[str, Tensor]:
        """`tokens` of the window's lyrics, [S] int64; zeros if there are none."""
        return {"tokens": torch.tensor(self.excerpt(track, window).tokens, dtype=torch.int64)}

    def check(self, track: Track) -> None:
        """Refuse lyrics of which nothing would be left.

        Raises:
            InputError: the vocabulary has none of their characters.
        """
        lyrics = _lyrics(track).strip()
        sources = self.vocabulary.read(lyrics).sources
        if lyrics and all(lyrics[source].isspace() for source in sources):
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
    """Lyrics as a memory: a causal encoder's outputs, which also predict the next token.

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
        """Tokens [B, S] -> memory [B, S, D], and the loss of each token given those before.

        With a mask [B, S] of where there are lyrics, if the config says so.
        """
        tokens = batch["tokens"]
        memory = self.encode(tokens)
        logits = self.output(memory).float()  # [B, S, V]
        surprise = F.cross_entropy(logits.flatten(0, 1), tokens.flatten())
        loss = AuxiliaryLoss("lyrics", surprise, self.config.tokens, self.config.loss_weight)
        mask = tokens != PADDING if self.config.mask_padding else None
        return Condition(memory=memory, memory_mask=mask, losses=(loss,))

    def encode(self, tokens: Tensor) -> Tensor:
        """Tokens [B, S] -> [B, S, D]; at each position, what is known of the tokens before."""
        start = self.start.expand(len(tokens), 1, -1)
        x = torch.cat([start, self.embedding(tokens[:, :-1])], 1) + self.positions
        x = F.dropout(x, float(self.config.network.get("dropout", 0)), self.training)
        return self.norm(self.projection(self.transformer(x)))

    def adopt(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tables of a smaller alphabet [V', ...]; its new characters start as "unknown"."""
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
