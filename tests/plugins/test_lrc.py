"""Lyrics with times: what is read, what is refused, and when words are sung."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugins.ground.errors import InputError
from plugins.ground.lrc import parse_lrc, plain_text, timed_words, without_times

SONG = """\ufeff[ar:Anna]\r
[ti: Songs [live]]\r
[length: 00:50]\r
[#: made by hand]\r
\r
[00:10.50][00:30.500]  La la\tla \r
[00:12]\r
[0:20:5] <00:20.50>Do<00:21.00>re, <00:22.0>mi <00:24.00>\r
[01:28,25]So <3 [live]\r
"""


def times(text: str) -> list[tuple[float, float, str]]:
    words = timed_words(parse_lrc(text, "a.lrc"))
    return [(round(start, 3), round(end, 3), word) for start, end, word in words]


def test_lines_come_in_the_order_in_which_they_are_sung():
    lines = parse_lrc(SONG, "a.lrc")
    assert [(line.start, line.text) for line in lines] == [
        (10.5, "La la la"),
        (12.0, ""),
        (20.5, "Dore, mi"),
        (30.5, "La la la"),
        (88.25, "So <3 [live]"),
    ]
    assert plain_text(lines) == "La la la\n\nDore, mi\nLa la la\nSo <3 [live]"
    assert lines[2].pieces == ((20.5, "Do"), (21.0, "re, "), (22.0, "mi "), (24.0, ""))


@pytest.mark.parametrize(
    ("offset", "start"),
    [
        ("+500", 9.5),
        ("-500", 10.5),
        ("20000", 0.0),
        ("", 10.0),
        ("+250 ms", 9.75),
        ("250.5MS", 9.7495),
    ],
)
def test_a_positive_offset_lets_everything_be_sung_earlier(offset, start):
    lines = parse_lrc(f"[00:10.00]<00:10.00>la\n[offset: {offset}]", "a.lrc")
    assert [(line.start, line.pieces) for line in lines] == [(start, ((start, "la"),))]


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_every_kind_of_newline_counts_lines(newline):
    text = newline.join(["[ar:Anna]", "", "[00:01.00]la", "[00:0x.00]la"])
    with pytest.raises(InputError, match=r"^songs/a\.lrc:4: '\[00:0x\.00\]' is no time"):
        parse_lrc(text, "songs/a.lrc")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("la la", "no time ahead of 'la la'"),
        ("[Chorus] la", "no time ahead of '[Chorus] la'"),
        ("[00:0x.00]", "'[00:0x.00]' is no time"),
        ("[00:12.00 la]", "'[00:12.00 la]' is no time"),
        ("[00:01.00]la [00:02.00", "'[00:02.00' is no time"),
        ("[00:01.00][00:02.1234567]la", "'[00:02.1234567]' is no time"),
        ("[offset: 1e3]", "offset '1e3' is no number"),
        ("[offset: inf]", "offset 'inf' is no number"),
        ("[00:61.00]la", "[00:61.00] is no time: seconds go up to 59"),
        ("[00:12.00 la", "'[00:12.00 la' is no time"),
        ("[12]la", "'[12]' is no time"),
        ("[00:01.00]la <00:1x>la", "'<00:1x>' is no time"),
        ("[00:01.00]la <00:99.00>la", "<00:99.00> is no time"),
        ("[offset: soon]", "offset 'soon' is no number of milliseconds"),
        ("x" * 500, "xxx...'"),
    ],
)
def test_what_is_malformed_is_refused_with_its_line(line, reason):
    with pytest.raises(InputError, match=rf"^a\.lrc:3: .*{re.escape(reason)}") as caught:
        parse_lrc(f"[00:00.50]la\n\n{line}\n", "a.lrc")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("line", ["[作词:x]", "[re-edit:x]", "[Chorus]", "[2x Refrain]", "[:]"])
def test_tags_and_headers_are_passed_over(line):
    lines = parse_lrc(f"{line}\n[00:01.1234]la\n{line}\n", "a.lrc")
    assert [(line.start, line.text) for line in lines] == [(1.1234, "la")]


@pytest.mark.parametrize("text", ["[Chorus] la", "at [5:30pm] la", "[5:30 pm]", "[12] la [live]"])
def test_brackets_within_a_line_are_text(text):
    assert [line.text for line in parse_lrc(f"[00:01.00]{text}", "a.lrc")] == [text]


@pytest.mark.parametrize(
    ("text", "bare"),
    [
        ("[ar:Anna]\nla\n\n[00:00.10] la  <00:00.50>lo\n[00:99.00]lu", "la\n\nla lo\nlu"),
        ("[Chorus]\nla <00:01.00>la", "la la"),
        ("[au: instrumental]\n[00:10.00]\n", ""),
        ("[Chorus]\nat [5:30]  la\n", "[Chorus]\nat [5:30]  la\n"),
    ],
)
def test_times_are_taken_out_of_text_that_has_some(text, bare):
    assert without_times(text) == bare


@pytest.mark.parametrize("text", ["", "\ufeff\r\n \r\n", "[ar:Anna]\n[au: instrumental]"])
def test_a_file_may_hold_no_line(text):
    assert parse_lrc(text, "a.lrc") == []
    assert plain_text([]) == ""
    assert timed_words([]) == []
    assert times("[00:01.00]\n[00:02.00] ") == []


def test_characters_of_a_line_take_equally_long():
    assert times("[00:10.00]one three\n[00:19.00]end\n[00:22.00]") == [
        (10.0, 13.0, "one"),
        (14.0, 19.0, "three"),
        (19.0, 22.0, "end"),
    ]


def test_times_inside_of_a_line_count_and_the_last_one_ends_it():
    assert times("[00:10.00]Hel<00:12.00>lo <00:20.00>you<00:21.00>\n[01:00.00]x<01:02.00>") == [
        (10.0, 17.333, "Hello"),
        (20.0, 21.0, "you"),
        (60.0, 62.0, "x"),
    ]


def test_a_long_pause_is_no_slow_line():
    lines = "\n".join(f"[00:{4 * n:02}.00]four" for n in range(4))
    assert times(f"{lines}\n[00:50.00]four")[3:] == [(12.0, 20.0, "four"), (50.0, 54.0, "four")]


def test_lines_of_one_time_share_it():
    sung = times("[00:10.00]abcd\n[00:10.00]efgh\n[00:19.00]")
    assert sung == [(10.0, 14.0, "abcd"), (15.0, 19.0, "efgh")]


stamps = st.integers(0, 20_000).map(lambda n: f"{n // 6000:02}:{n % 6000 // 100:02}.{n % 100:02}")
texts = st.text(st.sampled_from("ab é字\t"), max_size=12)
rows = st.lists(
    st.tuples(
        st.lists(stamps, min_size=1, max_size=3),
        texts,
        st.lists(st.tuples(stamps, texts), max_size=3),
    ),
    max_size=6,
)


@given(rows)
def test_words_are_those_of_the_text_and_time_does_not_go_back(song):
    written = "\n".join(
        "".join(f"[{stamp}]" for stamp in starts)
        + text
        + "".join(f"<{stamp}>{more}" for stamp, more in inside)
        for starts, text, inside in song
    )
    lines = parse_lrc(written, "a.lrc")
    words = timed_words(lines)
    assert [word.text for word in words] == plain_text(lines).split()
    edges = [edge for word in words for edge in (word.start, word.end)]
    assert edges == sorted(edges)
    assert all(word.start >= 0 for word in words)
