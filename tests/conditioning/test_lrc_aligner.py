"""Words from the times of `.lrc` files, kept in the corpus or beside the recordings."""

from pathlib import Path
from typing import Any

import pytest

from codec.corpus import Corpus, CorpusWriter
from codec.tokens import TokenSpec, TokenStream
from conditioning.align import Align
from conditioning.base import Word
from conditioning.lrc import LrcAligner

SPEC = TokenSpec(
    sample_rate=1000,
    channels=1,
    streams=(TokenStream(name="0", vocab_size=16, hop_length=10),),
    codec="vqvae",
    fingerprint="0123456789abcdef",
)
LRC = "[ar:Nobody]\n[00:02.00]one two\n[00:04.00]three\n"


def song(lyrics: str, **more: Any) -> dict[str, Any]:
    return {"id": "s", "path": "album/s.ogg", "num_samples": 10_000, "lyrics": lyrics, **more}


def align(track: dict[str, Any], **settings: Any) -> list[Word] | str:
    return LrcAligner(LrcAligner.Config(**settings)).align(track, SPEC)


def test_lines_have_their_times_and_words_share_them_by_characters() -> None:
    words = align(song("one two\nthree", lrc=LRC))
    assert not isinstance(words, str)
    assert [(word.start, word.text, word.confidence) for word in words] == [
        (2, "one", 1.0),
        (pytest.approx(2 + 8 / 7), "two", 0.5),
        (4, "three", 1.0),
    ]
    assert words[0].end == pytest.approx(2 + 6 / 7)


def test_words_with_times_of_their_own_keep_them_and_nothing_is_behind_the_end() -> None:
    words = align(song("one two far", lrc="[00:01.00]one <00:03.25>two\n[00:11]far"))
    assert not isinstance(words, str)
    assert [(word.start, word.confidence) for word in words] == [(1, 1), (3.25, 1), (10, 1)]
    assert words[2].end == 10


def test_the_file_beside_the_recording_goes_ahead(tmp_path: Path) -> None:
    (tmp_path / "album").mkdir()
    (tmp_path / "album" / "s.lrc").write_text("[00:05.00]one two three", "utf-8")
    words = align(song("one two three", lrc=LRC), audio=tmp_path)
    assert words[0] == Word(5, words[0].end, "one", 1.0)
    (tmp_path / "album" / "s.lrc").unlink()
    assert align(song("one two three", lrc=LRC), audio=tmp_path)[0].start == 2


def test_edited_lyrics_keep_the_times_of_the_words_that_are_left() -> None:
    lrc = "[00:01]Hello, dear World\n[00:03]again and again\n"
    edited = "hello new world!\n(again) and again and again"
    words = align(song(edited, lrc=lrc))
    assert not isinstance(words, str)
    assert [word.text for word in words] == edited.split()
    assert [word.confidence for word in words][:5] == [1, 0, 0.5, 1, 0.5]
    starts = [word.start for word in words]
    assert starts == sorted(starts)
    assert (starts[0], starts[3]) == (1, 3)
    assert words[1].start == words[0].end
    assert sum(word.confidence == 0 for word in words) == 3


@pytest.mark.parametrize(
    ("track", "reason"),
    [
        (song(" \n", lrc=LRC), "it has no lyrics"),
        (song("one two"), "it has no .lrc: not in the corpus, nor beside its"),
        (song("one two", lrc=""), "it has no .lrc: not in the corpus, nor beside its"),
        (song("other words altogether", lrc=LRC), "its .lrc has times for 0 of its 3 words only"),
        (song("one", lrc="[ar:Nobody]"), "its .lrc has times for 0 of its 1 words only"),
        (song("one", lrc="[00:01.00]one\n[00:99.00]two"), "its .lrc:2: "),
    ],
)
def test_reasons(track: dict[str, Any], reason: str, tmp_path: Path) -> None:
    found = align(track, audio=tmp_path)
    assert isinstance(found, str)
    assert found.startswith(reason)


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "album").mkdir()
    (tmp_path / "album" / "s.lrc").write_bytes(b"\xff\xfe\x00")
    found = align(song("one", lrc=LRC), audio=tmp_path)
    assert found == f"{tmp_path / 'album' / 's.lrc'} is not UTF-8: save it as plain UTF-8 text"
    assert align(song("one")) == "it has no .lrc: not in the corpus, and --audio is not given"


def test_the_command_takes_times_from_files_beside_the_music(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "music" / "album").mkdir(parents=True)
    (tmp_path / "music" / "album" / "s.lrc").write_text(LRC, "utf-8")
    corpus = tmp_path / "tokens"
    other = {**song("two words"), "id": "t", "path": "t.ogg"}
    CorpusWriter(corpus, SPEC, {}).append([song("one two\nthree"), other])
    with pytest.raises(SystemExit) as ended:
        Align.main([str(corpus), "--audio", str(tmp_path / "music"), "--aligner", "lrc"])
    assert ended.value.code == 0
    timed, straight = ([w["start"] for w in row["words"]] for row in Corpus(corpus).tracks())
    assert timed == pytest.approx([2, 2 + 8 / 7, 4])
    assert straight == pytest.approx([0, 40 / 9])
    said = capsys.readouterr().out
    assert "s: 3 words, mean confidence 0.83" in said
    assert "t: it has no .lrc: not in the corpus, nor beside its recording in " in said
    assert "; times of 'linear' instead" in said
