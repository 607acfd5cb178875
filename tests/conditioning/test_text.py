"""How text is read: against the reference's cases, and by what must hold for any text."""

import json
import re
import sys
import unicodedata
from pathlib import Path

import pytest
from anyascii import anyascii
from hypothesis import given
from hypothesis import strategies as st

from conditioning.text import (
    ALPHABETS,
    RULES,
    Characters,
    Utf8,
    clean,
    numbers,
    plain_name,
    plain_words,
    transliterator,
    v2_name,
    v2_words,
    v3_name,
    v3_words,
)
from plugins.ground.errors import InputError

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "text.json").read_text("utf-8"))
CASES = [(version, case) for version in ("v2", "v3") for case in GOLDEN[version]]


# The reference's cases


@pytest.mark.parametrize(("version", "case"), CASES)
def test_text_is_cleaned_and_numbered_as_published(version, case):
    alphabet = ALPHABETS[version]
    cleaned = clean(case["text"], alphabet, "anyascii")
    assert cleaned.text == case["clean"]
    assert numbers(cleaned.text, alphabet) == case["tokens"]


@pytest.mark.parametrize(("version", "case"), CASES)
def test_unidecode_cleans_the_same_cases_alike(version, case):
    pytest.importorskip("unidecode")
    assert clean(case["text"], ALPHABETS[version], "unidecode").text == case["clean"]


@pytest.mark.parametrize("case", GOLDEN["norm"])
def test_names_are_normalised_as_published(case):
    assert v2_name(case["text"]) == case["norm"]


def test_alphabets_have_the_published_sizes_and_no_character_twice():
    assert {name: len(set(alphabet)) + 1 for name, alphabet in ALPHABETS.items()} == {
        "v2": 80,
        "v3": 79,
    }
    assert set(ALPHABETS["v2"]) - set(ALPHABETS["v3"]) == {"+"}
    assert numbers("Aa0\n☃", ALPHABETS["v3"]) == [1, 27, 53, 78, 0]


# Cleaning


@given(st.text(max_size=40))
def test_transliterating_one_by_one_is_transliterating_the_whole_without_emoji(text):
    written = "".join(c for c in text if not re.fullmatch(":[a-z0-9_+-]+:", anyascii(c)))
    spelled = anyascii(written).replace("\\", "\n")
    expected = "".join(c for c in spelled if c in ALPHABETS["v2"])
    assert clean(text, ALPHABETS["v2"], "anyascii").text == expected


# Scripts whose letters are composed in unlike ways: by marks, by syllables, by reordering.
composing = st.text(
    st.sampled_from(
        "aeo\u0301\u0323\u0308\u0344ᄀ\u1161\u11a8가か\u3099ক\u09c7\u09be\u0f71\u0f73 \n"
    ),
    max_size=12,
)


@given(st.one_of(st.text(max_size=20), composing))
def test_untransliterated_text_is_composed(text):
    composed = unicodedata.normalize("NFC", text)
    alphabet = "".join(sorted(set(composed) | {"\n"}))
    assert clean(text, alphabet, "none").text == composed.replace("\\", "\n")


@given(st.one_of(st.text(max_size=20), composing), st.sampled_from(["anyascii", "none"]))
def test_sources_lead_back_to_the_original(text, transliterate):
    spell = transliterator(transliterate)
    alphabet = "".join(dict.fromkeys([*map(chr, range(128)), *unicodedata.normalize("NFC", text)]))
    cleaned = clean(text, alphabet, transliterate)
    assert len(cleaned.sources) == len(cleaned.text)
    assert list(cleaned.sources) == sorted(cleaned.sources)
    starts = sorted({0, *cleaned.sources})
    for start, end in zip(starts, [*starts[1:], len(text)], strict=True):
        piece = text[start:end]
        expected = spell(piece) if transliterate == "none" else "".join(map(spell, piece))
        made = [c for c, at in zip(cleaned.text, cleaned.sources, strict=True) if at == start]
        assert "".join(made) == expected.replace("\\", "\n")


def test_a_character_that_becomes_several_is_the_source_of_each():
    cleaned = clean("Щи ☃ cœur", ALPHABETS["v3"], "anyascii")
    assert cleaned.text == "Shchi  coeur"
    assert cleaned.sources == (0, 0, 0, 0, 1, 2, 4, 5, 6, 6, 7, 8)
    assert clean("la 😂♪ la", ALPHABETS["v3"], "anyascii").text == "la  la"


def test_characters_that_become_one_are_found_at_the_first():
    cleaned = clean("e\u0301te\u0301 한", "té 한", "none")
    assert cleaned.text == "été 한"
    assert cleaned.sources == (0, 2, 3, 5, 6)


def test_backslashes_become_newlines_however_they_are_written():
    full_width = "\uff3c"
    assert clean(f"a\\b{full_width}c", ALPHABETS["v2"], "anyascii").text == "a\nb\nc"
    assert clean("a\\b", ALPHABETS["v2"], "none").text == "a\nb"
    assert clean("a\\b", "ab", "none").text == "ab"


@pytest.mark.parametrize("transliterate", ["anyascii", "none"])
def test_nothing_gives_nothing(transliterate):
    assert clean("", ALPHABETS["v3"], transliterate).text == ""
    assert clean("\r\x00\ue000", ALPHABETS["v3"], transliterate).sources == ()


def test_a_missing_unidecode_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "unidecode", None)  # as if it were not installed
    with pytest.raises(InputError, match=r"pip install jukebox-toolkit\[unidecode\]"):
        clean("é", ALPHABETS["v3"], "unidecode")


# Vocabularies


@pytest.mark.parametrize(("version", "case"), CASES)
def test_characters_are_numbered_as_published(version, case):
    vocabulary = Characters(ALPHABETS[version], "anyascii")
    read = vocabulary.read(case["text"])
    assert list(read.tokens) == case["tokens"]
    assert read.sources == clean(case["text"], ALPHABETS[version], "anyascii").sources
    assert max(read.tokens, default=0) <= vocabulary.size == len(ALPHABETS[version])


@given(st.one_of(st.text(max_size=20), composing))
def test_bytes_are_those_of_the_composed_text_and_lead_back_to_it(text):
    read = Utf8().read(text)
    composed = unicodedata.normalize("NFC", text)
    assert bytes(token - 1 for token in read.tokens).decode() == composed
    assert all(1 <= token <= Utf8.size for token in read.tokens)
    assert list(read.sources) == sorted(read.sources)
    starts = sorted({0, *read.sources})
    for start, end in zip(starts, [*starts[1:], len(text)], strict=True):
        made = [t for t, at in zip(read.tokens, read.sources, strict=True) if at == start]
        assert bytes(t - 1 for t in made).decode() == unicodedata.normalize("NFC", text[start:end])


def test_bytes_of_one_character_have_one_source():
    read = Utf8().read("e\u0301\\\n歌🎵")
    assert bytes(token - 1 for token in read.tokens) == "é\\\n歌🎵".encode()
    assert read.sources == (0, 0, 2, 3, 4, 4, 4, 5, 5, 5, 5)
    assert Utf8().read("").tokens == ()
    assert Utf8().read("\ud800").tokens == (ord("?") + 1,)  # half of a character is none


# Names


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("  Björk \n", "björk"),
        ("The\t Beatles", "the beatles"),
        ("AC/DC", "ac/dc"),
        ("Bjo\u0308rk", "björk"),  # decomposed, as file systems write it
        ("\uff21\uff22\uff22\uff21", "abba"),  # full-width
        ("Кино", "кино"),
        ("\u3000宇多田\u3000ヒカル", "宇多田 ヒカル"),
        ("", ""),
    ],
)
def test_names_are_normalised(text, name):
    assert plain_name(text) == name


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Hip-Hop/Rap; J-Pop", ["hip", "hop", "rap", "j", "pop"]),
        ("Drum & Bass, Techno", ["drum", "bass", "techno"]),
        ("Rock;Punk Rock", ["rock", "punk"]),
        ("Música_Popular", ["música", "popular"]),
        ("ロック/ポップ", ["ロック", "ポップ"]),
        ("हिन्दी संगीत", ["हिन्दी", "संगीत"]),  # vowel signs are marks, not letters
        ("80s", ["80s"]),
        (" / ", []),
    ],
)
def test_genres_are_split_into_words(text, words):
    assert plain_words(text) == words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Hip-Hop/Rap; Pop Rap", ["hip", "hop", "rap", "pop", "rap"]),
        ("_x__Y_", ["x", "y"]),
        ("R&B", ["r", "b"]),
        (" ☃ ", []),
        ("", []),
    ],
)
def test_v2_genres_are_words_that_may_be_repeated(text, words):
    assert v2_words(text) == words


def test_v3_names_are_only_lower_cased():
    assert v3_name("Beyoncé  & JAY-Z!!") == "beyoncé  & jay-z!!"
    assert v3_words("Hip-Hop; Rap") == ["hip-hop; rap"]
    assert (v3_name(" \t"), v3_words("")) == ("", [])


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@given(text=st.text(max_size=20))
def test_names_and_words_stay_as_they_are_when_read_again(rule, text):
    assert rule.name(rule.name(text)) == rule.name(text)
    for word in rule.words(text):
        assert rule.words(word) == [word]
        assert rule.name(word) == word


@given(st.text(max_size=20))
def test_v2_words_are_the_parts_of_the_name(text):
    assert v2_words(text) == [word for word in v2_name(text).split("_") if word]
