"""Words of lyrics as words that a pronouncing dictionary has, or as guessed sounds.

Pure functions over text; it knows no recognizer. Sounds are written in ARPAbet, as in the CMU
Pronouncing Dictionary.
"""

import re
import unicodedata
from collections.abc import Callable, Iterator

ONES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TEENS = (
    *("ten", "eleven", "twelve", "thirteen", "fourteen"),
    *("fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
SIGNS = {"&": " and ", "%": " percent ", "+": " plus ", "@": " at ", "$": " dollar "}

SOUNDS = {
    # Several letters of one sound, the longest first when they are read.
    **{"tch": "CH", "ch": "CH", "sch": "SH", "sh": "SH", "th": "TH", "ph": "F", "wh": "W"},
    **{"ck": "K", "ng": "NG", "qu": "K W", "gh": "", "dge": "JH", "tion": "SH AH N"},
    **{"ce": "S EH", "ci": "S IH", "cy": "S IY", "ge": "JH EH", "gi": "JH IH", "gy": "JH IY"},
    **{"igh": "AY", "ee": "IY", "ea": "IY", "ie": "IY", "ey": "IY", "oo": "UW", "oa": "OW"},
    **{"ou": "AW", "ow": "OW", "oi": "OY", "oy": "OY", "ai": "EY", "ay": "EY", "ei": "EY"},
    **{"au": "AO", "aw": "AO", "ue": "UW", "ew": "UW", "ah": "AA", "oh": "OW", "uh": "AH"},
    **{"eh": "EH", "ar": "AA R", "or": "AO R", "er": "ER", "ir": "ER", "ur": "ER"},
    **{"a": "AE", "b": "B", "c": "K", "d": "D", "e": "EH", "f": "F", "g": "G", "h": "HH"},
    **{"i": "IH", "j": "JH", "k": "K", "l": "L", "m": "M", "n": "N", "o": "OW", "p": "P"},
    **{"q": "K", "r": "R", "s": "S", "t": "T", "u": "AH", "v": "V", "w": "W", "x": "K S"},
    **{"y": "IY", "z": "Z"},
}
"""What letters of English words mostly sound like."""
FIRST = {"kn": "N", "wr": "R", "y": "Y", "x": "Z"}
"""What is different at the beginning of a word; and at its end, where there are other vowels:"""
LAST = {"e": "", "es": "Z", "a": "AH", "y": "IY"}
LETTERS = sorted(SOUNDS, key=len, reverse=True)


def spoken(word: str, known: Callable[[str], bool]) -> list[str]:
    """What a word of lyrics is spoken as: lower-case words of a dictionary, or else of a to z.

    Figures are read out, accents and punctuation are left out, parts between hyphens are words of
    their own, and what a singer draws out ("sooooo") is written shorter.

    Args:
        word: as white space separates them.
        known: whether the dictionary has a word.

    Returns:
        Nothing for what is not spoken, or has no Latin letters.
    """
    for sign, name in SIGNS.items():
        word = word.replace(sign, name)
    plain = unicodedata.normalize("NFKD", word.lower().replace("\u2019", "'"))
    plain = "".join(char for char in plain if not unicodedata.combining(char))
    plain = re.sub(r"(?<=\d)[,.](?=\d{3})|(?<=\d)(?:st|nd|rd|th)\b", "", plain)
    plain = re.sub(r"\d+", lambda figures: f" {_read_out(figures.group())} ", plain)
    return [form for part in re.findall(r"[a-z']+", plain) if (form := _form(part, known))]


def guessed(word: str) -> str:
    """Sounds of a word of a to z that no dictionary has, by simple rules; never none.

    For an alignment they need not be right, only as many and about alike.
    """
    letters = re.sub(r"([^aeiou])\1", r"\1", word.replace("'", ""))
    made: list[str] = []
    place = 0
    while place < len(letters):
        rest = letters[place:]
        begins = next((start for start in FIRST if not place and rest.startswith(start)), None)
        if begins:
            piece, sound = begins, FIRST[begins]
        elif rest in LAST and re.search("[aeiouy]", letters[:place]):
            piece, sound = rest, LAST[rest]
        else:
            piece = next(piece for piece in LETTERS if rest.startswith(piece))
            sound = SOUNDS[piece]
        made += sound.split()
        place += len(piece)
    return " ".join(made or ["AH"])


def _form(part: str, known: Callable[[str], bool]) -> str:
    """The form of a word that the dictionary has, or the plainest; "" for apostrophes alone."""
    forms = list(_forms(part))
    return next((form for form in forms if form and known(form)), forms[-1])


def _forms(part: str) -> Iterator[str]:
    """Ways to write a word, the one that is written first."""
    yield part
    bare = part.strip("'")
    yield bare
    if part.endswith("in'"):
        yield part[:-1] + "g"
    for kept in (r"\1\1", r"\1"):
        yield re.sub(r"(.)\1{2,}", kept, bare)


def _read_out(figures: str) -> str:
    """A number in words; years in pairs, long ones figure by figure."""
    number = int(figures)
    if len(figures) > 4 or (figures[0] == "0" and len(figures) > 1):
        return " ".join(ONES[int(figure)] for figure in figures)
    if number < 20:
        return (ONES + TEENS)[number]
    if number < 100:
        return TENS[number // 10] + (f" {ONES[number % 10]}" if number % 10 else "")
    if number >= 1000 and number % 1000 >= 100 and number % 100 >= 10:
        return f"{_read_out(str(number // 100))} {_read_out(str(number % 100))}"
    size, name = (1000, "thousand") if number >= 1000 else (100, "hundred")
    rest = f" {_read_out(str(number % size))}" if number % size else ""
    return f"{_read_out(str(number // size))} {name}{rest}"
