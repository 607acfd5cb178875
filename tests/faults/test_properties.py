"""What holds for any text and any JSON at all: hypothesis looks for those that it does not hold
for, the same ones every time.
"""

import functools
import json
import sys
import tempfile
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

sys.path.insert(0, str(Path(__file__).parent))
from plumbing import allowed

from codec.corpus import Corpus, CorpusWriter
from codec.decoding import DECODED, LONGEST_NAME, decode_corpus, safe_name
from codec.rows import Shard, column_types
from codec.sources import find_sources
from codec.text import utf8
from codec.tokens import TokenSpec, TokenStream
from plugins.ground.lrc import parse_lrc, plain_text, timed_words, without_times
from plugins.report.lyrics import shown_lyrics
from plugins.report.markup import VOID, tag
from plugins.report.page import document
from plugins.report.recordings import TimedWord, below

SPEC = TokenSpec(
    sample_rate=2000,
    channels=1,
    streams=(TokenStream(name="0", vocab_size=32, hop_length=4),),
    codec="vqvae",
    fingerprint="0" * 16,
)
# Lone surrogates too, which Python's text may hold and UTF-8 can't.
ANY_TEXT = st.text(st.characters(exclude_categories=()))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(ANY_TEXT, inner, max_size=4),
    max_leaves=8,
)
LIKE_LRC = st.lists(
    st.sampled_from(["[", "]", "<", ">", ":", ".", "00:01.50", "[00:02.5]", "<01:00>", "[offset:"])
    | st.sampled_from(["+250", "99", "\n", "\r\n", " ", "la", "[Chorus]", "\ufeff", "[ar:x]"])
    | ANY_TEXT
).map("".join)
LIKE_PATHS = st.lists(
    st.sampled_from(["..", ".", "/", "\\", "a", "\0", "C:", "~", "%2e", ".parquet", ".wav", "\n"])
    | ANY_TEXT
).map("".join)

bounded = functools.partial(settings, derandomize=True, database=None, deadline=None)


@bounded(max_examples=500)
@given(LIKE_LRC)
def test_any_text_as_lyrics_with_times(text: str) -> None:
    without_times(text)
    lines = allowed(parse_lrc, text, "song.lrc")
    if lines is None:
        return
    words = timed_words(lines)
    assert [word.text for word in words] == plain_text(lines).split()
    times = [time for word in words for time in (word.start, word.end)]
    assert times == sorted(times)
    assert all(0 <= time < np.inf for time in times)


def code(place: Path) -> None:
    """What `codec.tokenize` does with metadata, and whether they come back."""
    sources = find_sources(place)
    columns = column_types(source.metadata for source in sources)
    writer = CorpusWriter(place / "tokens", SPEC, {}, columns)
    writer.append({**s.metadata, "id": s.id, "codes_0": [1]} for s in sources)
    tracks = Corpus(place / "tokens").tracks()
    for track, source in zip(tracks, sources, strict=True):
        for name, value in source.metadata.items():
            if isinstance(value, str) and columns.get(name, "string") == "string":
                assert track[name] == utf8(value)


@bounded(max_examples=100)
@given(st.dictionaries(ANY_TEXT, JSON, max_size=5), st.dictionaries(ANY_TEXT, JSON, max_size=5))
def test_any_json_as_metadata_comes_back_from_the_corpus(
    one: dict[str, Any], other: dict[str, Any]
) -> None:
    with tempfile.TemporaryDirectory() as place:
        for name in ("a.wav", "b.wav"):
            Path(place, name).touch()
        rows = [{**one, "file_name": "a.wav"}, {**other, "file_name": "b.wav"}]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        Path(place, "metadata.jsonl").write_text(lines)
        allowed(code, Path(place))


@bounded(max_examples=500)
@given(LIKE_PATHS)
def test_a_tracks_name_as_a_file_name(name: str) -> None:
    stem = safe_name(name)
    assert 0 < len(stem.encode()) <= LONGEST_NAME
    file = f"{stem}.wav"
    assert Path(file).name == file
    assert not set(file) & set('/\\\0:*?"<>|\n')
    assert file.strip(" .") == file


@bounded(max_examples=300)
@given(LIKE_PATHS)
def test_a_manifest_names_no_file_elsewhere(name: str) -> None:
    try:
        shard = Shard(file=name, rows=1, sha256="")
    except ValidationError:
        return
    folder = Path("corpus")
    assert (folder / shard.file).parent == folder
    assert (folder / shard.file).name not in ("", ".", "..")
    assert "\0" not in shard.file


@bounded(max_examples=300)
@given(LIKE_PATHS)
def test_a_page_shows_no_file_from_elsewhere(name: str) -> None:
    with tempfile.TemporaryDirectory() as place:
        inside, outside = Path(place, "music"), Path(place, "a.wav")
        inside.mkdir()
        for path in (inside / "a.wav", outside):
            path.touch()
        found = below(inside, name)
        assert found is None or found.resolve().parent == inside.resolve()


@bounded(max_examples=100)
@given(LIKE_PATHS)
def test_metadata_adds_no_files(name: str) -> None:
    with tempfile.TemporaryDirectory() as place:
        music = Path(place, "music")
        music.mkdir()
        for path in (music / "a.wav", Path(place, "b.wav")):
            path.touch()
        row = {"file_name": name, "artist": "Anna"}
        (music / "metadata.jsonl").write_text(json.dumps(row))
        sources = allowed(find_sources, music)
        assert sources is None or [source.path for source in sources] == ["a.wav"]


@pytest.fixture(scope="module")
def decoding(tmp_path_factory: pytest.TempPathFactory, codec_folder: Path) -> Path:
    """Tokens of one track, in a folder where decoded audio goes to out/."""
    folder = tmp_path_factory.mktemp("decoding")
    soundfile.write(folder / "a.wav", np.zeros(200), 2000)
    from codec.tokenizing import tokenize_files

    tokenize_files(folder / "a.wav", codec_folder, folder / "tokens")
    return folder


@bounded(max_examples=60)
@given(file=LIKE_PATHS)
def test_a_record_of_decoded_audio_leads_nowhere_else(
    decoding: Path, codec_folder: Path, file: str
) -> None:
    with tempfile.TemporaryDirectory(dir=decoding) as place:
        out = Path(place, "out")
        out.mkdir()
        record = {"a.wav": {"file": f"{file}.wav", "stream": "0", "sha256": ""}}
        (out / DECODED).write_text(json.dumps(record))
        made = allowed(decode_corpus, decoding / "tokens", codec_folder, out) or []
        assert [path.parent for path in made] == [out] * len(made)
        assert {path.name for path in Path(place).iterdir()} == {"out"}


class Seen(HTMLParser):
    """What a browser makes of a page: elements, their attributes, and text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[str] = []
        self.open: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def handle_comment(self, data: str) -> None:
        raise AssertionError("a comment")

    def handle_pi(self, data: str) -> None:
        raise AssertionError("an instruction")


LIKE_HTML = st.lists(
    st.sampled_from(["<script>", "</p>", "<!--", "-->", "&lt;", "&#60;", "&", '"', "'", "<", ">"])
    | st.sampled_from(["</style>", "</script>", "<![CDATA[", "]]>", "<?", "javascript:", "=", " "])
    | st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\r\0"))
).map("".join)


@bounded(max_examples=300)
@given(LIKE_HTML, LIKE_HTML, LIKE_HTML)
def test_no_text_becomes_markup(title: str, artist: str, attribute: str) -> None:
    body = tag("dd", artist, title=attribute)
    page = Seen(document(title, body))
    plain = Seen(document("title", tag("dd", "artist", title="x")))
    assert page.elements == plain.elements
    assert not page.open
    assert "".join(page.text).count(title) >= 1
    assert artist in "".join(page.text)
    assert ("title", attribute) in page.attributes


@bounded(max_examples=300)
@given(LIKE_HTML)
def test_no_lyrics_become_markup(text: str) -> None:
    words = [TimedWord(n, n + 1, word) for n, word in enumerate(text.split())]
    for shown in (shown_lyrics(text), shown_lyrics(text, words, "player")):
        if shown is None:
            continue
        seen = Seen(shown)
        assert set(seen.elements) <= {"details", "summary", "p", "span"}
        assert not seen.open
        assert "".join(seen.text).endswith(text)
