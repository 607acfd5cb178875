"""Golden cases of text: which lyrics belong to a window, and how text becomes numbers.

It knows the entries of such files, not where they are.
"""

import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from conditioning.lyrics import lyric_window
from conditioning.text import ALPHABETS, Transliteration, clean, numbers, v2_name
from plugins.openai.comparison import EQUAL, Row, compare


def lyric_rows(case: str, entries: Sequence[Mapping[str, Any]]) -> Iterator[Row]:
    """Windows over lyrics that are numbered 1 to n_chars."""
    for number, entry in enumerate(entries):
        tokens, indices = lyric_window(
            range(1, entry["n_chars"] + 1),
            entry["n_tokens"],
            total=entry["total_length"],
            offset=entry["offset"],
            duration=entry["duration"],
        )
        yield compare(case, f"{number} tokens", tokens, entry["tokens"], EQUAL)
        yield compare(case, f"{number} indices", indices, entry["indices"], EQUAL)


def text_rows(case: str, content: Mapping[str, Sequence[Mapping[str, Any]]]) -> Iterator[Row]:
    """Texts cleaned and numbered by each vocabulary, and artists' names."""
    # Unidecode is what published models were trained with; anyascii is as good on most letters.
    found = importlib.util.find_spec("unidecode") is not None
    spelling: Transliteration = "unidecode" if found else "anyascii"
    for version, entries in content.items():
        for number, entry in enumerate(entries):
            if version == "norm":
                yield compare(case, f"norm {number}", v2_name(entry["text"]), entry["norm"], EQUAL)
            elif version not in ALPHABETS:
                yield Row(case, f"{version} {number}", note="unexpected: nothing computes it")
            else:
                alphabet = ALPHABETS[version]
                text = clean(entry["text"], alphabet, spelling).text
                name = f"{version} {number}"
                yield compare(case, f"{name} clean ({spelling})", text, entry["clean"], EQUAL)
                tokens = numbers(text, alphabet)
                yield compare(case, f"{name} tokens", tokens, entry["tokens"], EQUAL)
