"""How text is read: lyrics as numbers, tags as the names that vocabularies hold.

Two published ways, v2 and v3 (paper section 4.2 and 4.3), and plain ones for scripts that they
lack. It knows no tensors, no tables and no prior.
"""

import importlib
import re
import string
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

from anyascii import anyascii

from plugins.ground.errors import InputError

_WORDS = string.ascii_uppercase + string.ascii_lowercase + string.digits
ALPHABETS = {"v2": _WORDS + ".,:;!?-+'\"()[] \t\n", "v3": _WORDS + ".,:;!?-'\"()[] \t\n"}
"""The characters of published lyrics in the order of their numbers, from 1."""

Transliteration = Literal["anyascii", "unidecode", "none"]
"""How characters become ASCII: by a library of that name, or not at all, only composed (NFC)."""

_FIRST_COMBINING = "\u0300"
"""No character below it changes one before it."""


# Lyrics


@dataclass(frozen=True)
class Numbered:
    """Text as numbers, and where each of them was in the original."""

    tokens: tuple[int, ...]
    """From 1; 0 is left for what is unknown or padding."""
    sources: tuple[int, ...]
    """Of each token, the index in the original of the character that it was made of (of the first,
    if several were composed); it never falls."""


class Vocabulary(Protocol):
    """What lyrics are read as."""

    @property
    def size(self) -> int:
        """Its tokens are 1 to `size`."""

    def read(self, text: str) -> Numbered:
        """The text as its tokens; what it has no token for is left out."""


@dataclass(frozen=True)
class Characters:
    """The characters of an alphabet, as published models read them."""

    alphabet: str
    transliterate: Transliteration

    def __post_init__(self) -> None:
        transliterator(self.transliterate)  # a library that is missing is missed at once

    @property
    def size(self) -> int:
        """Characters."""
        return len(self.alphabet)

    def read(self, text: str) -> Numbered:
        """See `clean`."""
        cleaned = clean(text, self.alphabet, self.transliterate)
        return Numbered(tuple(numbers(cleaned.text, self.alphabet)), cleaned.sources)


class Utf8:
    """The bytes of UTF-8, of text that is composed (NFC): every script can be read."""

    size = 256

    def read(self, text: str) -> Numbered:
        """Each byte as itself and 1; those of one character have one source."""
        pairs = [
            (byte + 1, index)
            for index, composed in _spelled(text, "none")
            for byte in composed.encode("utf-8", "replace")
        ]
        return Numbered(tuple(token for token, _ in pairs), tuple(index for _, index in pairs))


@dataclass(frozen=True)
class Cleaned:
    """Text of an alphabet's characters only, and where each of them was in the original."""

    text: str
    sources: tuple[int, ...]
    """Of each character of `text`, the index in the original of the one it was made of (of the
    first, if several were composed); it never falls."""


def clean(text: str, alphabet: str, transliterate: Transliteration) -> Cleaned:
    """Lyrics as published models read them.

    Characters are transliterated one by one, then backslashes become newlines, then what the
    alphabet lacks is dropped.

    Raises:
        InputError: the library for that transliteration is not installed.
    """
    known = frozenset(alphabet)
    kept = [
        (index, char)
        for index, spelled in _spelled(text, transliterate)
        for char in spelled.replace("\\", "\n")
        if char in known
    ]
    return Cleaned("".join(char for _, char in kept), tuple(index for index, _ in kept))


def numbers(text: str, alphabet: str) -> list[int]:
    """Characters as their numbers from 1; 0 for one that the alphabet lacks."""
    places = {char: number for number, char in enumerate(alphabet, start=1)}
    return [places.get(char, 0) for char in text]


def transliterator(name: Transliteration) -> Callable[[str], str]:
    """What spells one character in ASCII, or composes a piece of text for "none".

    Raises:
        InputError: its library is not installed.
    """
    if name == "anyascii":
        return _spell
    if name == "none":
        return compose
    try:
        unidecode: Callable[[str], str] = importlib.import_module("unidecode").unidecode
    except ImportError as error:
        raise InputError(
            "transliterate is 'unidecode', but Unidecode is not installed: "
            "pip install jukebox-toolkit[unidecode], or choose 'anyascii'"
        ) from error
    return unidecode


def compose(text: str) -> str:
    """Letters and their marks as one character each, where there is one (Unicode NFC)."""
    return unicodedata.normalize("NFC", text)


def _spell(char: str) -> str:
    """A character by `anyascii`, but for emoji: nobody sings ":joy:", and Unidecode drops them."""
    spelled = anyascii(char)
    return "" if len(spelled) > 2 and spelled[0] == spelled[-1] == ":" else spelled


def _spelled(text: str, transliterate: Transliteration) -> Iterator[tuple[int, str]]:
    """The text in pieces: where each starts, and how it is spelled."""
    spell = transliterator(transliterate)
    apart = transliterate != "none" or unicodedata.is_normalized("NFC", text)
    pieces = enumerate(text) if apart else _stretches(text)
    return ((index, spell(piece)) for index, piece in pieces)


def _stretches(text: str) -> Iterator[tuple[int, str]]:
    """The shortest pieces that can be composed one by one, and where each starts."""
    start = 0
    for end in range(1, len(text) + 1):
        if end == len(text) or _apart(text[start:end], text[end]):
            yield start, text[start:end]
            start = end


def _apart(before: str, char: str) -> bool:
    """Whether a character leaves what is before it as it is, and begins something itself."""
    if char < _FIRST_COMBINING:
        return True
    if unicodedata.combining(unicodedata.normalize("NFD", char)[0]):
        return False
    return compose(before + char) == compose(before) + compose(char)


# Names


@dataclass(frozen=True)
class Rule:
    """How a vocabulary reads tags. Names that `name` returns stay as they are when read again."""

    name: Callable[[str], str]
    """The one name in a text; "" for none."""
    words: Callable[[str], list[str]]
    """The names in a text that holds several."""


def plain_name(text: str) -> str:
    """A name as it is looked up: NFKC, lower case, stripped, runs of white space made one space."""
    lowered = unicodedata.normalize("NFKC", text).lower()
    return " ".join(unicodedata.normalize("NFKC", lowered).split())


def plain_words(text: str) -> list[str]:
    """Genre words: runs of letters, marks and digits of any script, each once, in order.

    "Hip-Hop/Rap; J-Pop" gives hip, hop, rap, j, pop. Tags separate genres by comma, semicolon or
    slash and spell one genre with blank, hyphen or ampersand, so everything else separates too.
    On ASCII text this is how the published v2 vocabulary is looked up, apart from repeated words.
    """
    kept = "".join(c if unicodedata.category(c)[0] in "LMN" else " " for c in plain_name(text))
    return list(dict.fromkeys(kept.split()))


def v2_name(text: str) -> str:
    """Lower case; each run of other characters than a-z and 0-9 is one underscore between words."""
    return re.sub("[^a-z0-9]+", "_", text.lower()).strip("_")


def v2_words(text: str) -> list[str]:
    """The words of a `v2_name`, repeated ones too."""
    return re.findall("[a-z0-9]+", text.lower())


def v3_name(text: str) -> str:
    """Lower case, else as it comes; white space alone is no name."""
    return text.lower() if text.strip() else ""


def v3_words(text: str) -> list[str]:
    """The whole text as one name, or none."""
    return [name] if (name := v3_name(text)) else []


RULES = {
    "plain": Rule(plain_name, plain_words),
    "v2": Rule(v2_name, v2_words),
    "v3": Rule(v3_name, v3_words),
}
"""How tags are read, by name; v2 and v3 as the published vocabularies of those names were made."""
