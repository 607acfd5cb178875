"""Which files are meant, and what is known about them."""

import os
from pathlib import Path

import mutagen
import numpy as np
import pytest
from mutagen.id3 import TCON, TIT2, TPE1, USLT

from codec.audio import write_audio
from codec.sources import find_sources, read_tags
from plugins.ground.errors import InputError


def ids(*arguments: str | Path) -> list[str]:
    return [source.id for source in find_sources(arguments)]


def test_folders_files_and_globs(music: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (music / ".hidden.wav").touch()
    (music / "notes.txt").touch()
    everything = ["a.wav", "album/c.ogg", "album/d.mp3", "b.flac", "e.wav"]
    assert ids(music) == everything
    assert [s.path for s in find_sources(str(music))] == everything
    assert ids(music / "album" / "c.ogg") == ["c.ogg"]
    assert ids(f"{music}/*.wav") == ["a.wav", "e.wav"]
    assert ids(f"{music}/**/*.*") == everything
    assert ids(f"{music}/al*") == ["album/c.ogg", "album/d.mp3"]
    monkeypatch.chdir(music)
    assert ids(".") == everything
    assert ids("./*.wav", "b.flac") == ["a.wav", "b.flac", "e.wav"]


def test_each_file_counts_once(music: Path) -> None:
    assert len(ids(music, music / "a.wav", f"{music}/*.wav", music / "album")) == 5


def test_links_that_go_in_circles(music: Path) -> None:
    (music / "album" / "up").symlink_to(music)
    (music / "album" / "alias.wav").symlink_to(music / "a.wav")
    assert ids(music)[:2] == ["a.wav", "album/alias.wav"]
    assert len(ids(music)) == 6


def test_ids_are_unique(tmp_path: Path) -> None:
    for folder in ("x", "y", "z/y"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "a.wav").touch()
    found = find_sources([tmp_path / folder for folder in ("x", "y", "z/y")])
    assert [s.id for s in found] == ["a.wav", "y/a.wav", "y/a.wav#2"]
    assert {s.path for s in found} == {"a.wav"}


def test_a_name_with_brackets_or_strange_bytes(tmp_path: Path) -> None:
    (tmp_path / "b[1].wav").touch()
    assert ids(tmp_path / "b[1].wav") == ["b[1].wav"]
    (tmp_path / os.fsdecode(b"\xff.wav")).touch()
    assert [name.encode() for name in ids(tmp_path)]


@pytest.mark.parametrize("arguments", [["missing.wav"], ["no/*.wav"], ["."], []])
def test_nothing_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"no such file or folder: missing.wav|no audio files in"):
        find_sources(arguments)


def test_metadata_of_every_folder_on_the_way(music: Path) -> None:
    (music / "album" / "metadata.csv").write_text(
        'file_name,artist,lyrics,bpm\nc.ogg,Dora,"la, la\nlä",100\n./d.mp3,,,\n', "utf-8"
    )
    found = {source.id: dict(source.metadata) for source in find_sources([music])}
    assert found["a.wav"] == {"artist": "Anna", "bpm": 120}
    nearer = {"artist": "Dora", "lyrics": "la, la\nlä", "bpm": "100", "live": True}
    assert found["album/c.ogg"] == nearer
    assert found["album/d.mp3"] == {"artist": "", "lyrics": "", "bpm": ""}
    assert found["b.flac"] == {}
    (alone,) = find_sources([music / "album" / "c.ogg"])
    assert alone.metadata == {"artist": "Dora", "lyrics": "la, la\nlä", "bpm": "100"}


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("jsonl", b'{"file_name": "a.wav"}\n\n{"file_name": ', "line 3: not JSON"),
        ("jsonl", b'{"file_name": "a.wav"}\n[1]\n', "line 2: not a JSON object"),
        ("jsonl", b'{"artist": "x"}\n', "line 1: file_name is missing"),
        ("jsonl", b'{"file_name": 7}\n', "line 1: file_name is missing"),
        ("jsonl", b'{"file_name": "\xff"}\n', "is not UTF-8"),
        ("csv", b"file_name,artist\na.wav,x,y\n", "line 2: not 2 fields"),
        ("csv", b"file_name,artist\na.wav,x\nb.flac\n", "line 3: not 2 fields"),
        ("csv", b"name,artist\na.wav,x\n", "line 2: file_name is missing"),
        ("csv", b'file_name,artist\na.wav,"x\n', "line 2: unexpected end"),
    ],
)
def test_malformed_metadata(music: Path, name: str, content: bytes, reason: str) -> None:
    (music / f"metadata.{name}").write_bytes(content)
    with pytest.raises(InputError, match=rf"metadata.{name}\b.*{reason}"):
        find_sources([music])


LRC = "[ar:Anna]\n[00:00.20]la la\n[00:00.60]lö\n"


def test_text_beside_the_audio(music: Path) -> None:
    (music / "metadata.jsonl").write_text(
        '{"file_name": "a.wav", "lyrics": "of the table", "year": 1999}\n'
        '{"file_name": "b.flac", "lyrics": "", "artist": "Béla"}\n'
    )
    for name in ("a", "b", "album/c"):
        (music / f"{name}.lrc").write_bytes(b"\xef\xbb\xbf" + LRC.replace("\n", "\r\n").encode())
        (music / f"{name}.txt").write_text("plain")
    (music / "album" / "d.TXT").write_text("\n là là\n", "utf-8")
    (music / "e.txt").write_text(" \n")
    (music / "README.txt").write_bytes(b"\xff not about any song")
    (music / "other.lrc").write_text("no song of this name")
    found = {source.id: dict(source.metadata) for source in find_sources(music)}
    timed = {"lyrics": "la la\nlö", "lrc": LRC}
    assert found == {
        "a.wav": {"lyrics": "of the table", "year": 1999},
        "album/c.ogg": timed,
        "album/d.mp3": {"lyrics": "\n là là\n"},
        "b.flac": {"artist": "Béla", **timed},
        "e.wav": {},
    }


def test_times_without_a_word_are_no_lyrics(music: Path) -> None:
    (music / "a.lrc").write_text("[au: instrumental]\n[00:10.00]\n")
    (music / "a.txt").write_text("la")
    found = {source.id: source.metadata for source in find_sources(music)}
    assert found["a.wav"]["lyrics"] == "la"
    assert "lrc" not in found["a.wav"]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.lrc", b"[00:01.00]la\n\nla\n", r"a\.lrc:3: no time ahead of 'la'"),
        ("a.lrc", "[00:01.00]là".encode("latin-1"), r"a\.lrc is not UTF-8"),
        ("a.txt", "là".encode("utf-16"), r"a\.txt is not UTF-8"),
    ],
)
def test_malformed_text_beside_the_audio(
    music: Path, name: str, content: bytes, reason: str
) -> None:
    (music / name).write_bytes(content)
    with pytest.raises(InputError, match=reason) as caught:
        find_sources(music)
    assert str(music / name) in str(caught.value)
    assert len(find_sources(music, lyrics=False)) == 5, "who needs no lyrics must not read them"
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", ["mp3", "wav"])
def test_id3_tags(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    write_audio(path, np.zeros((1, 8000), np.float32), 8000)
    tagged = mutagen.File(path)
    tagged.add_tags()
    tagged.tags.add(TPE1(text=["Anna", "Béla"]))
    tagged.tags.add(TCON(text="(17)"))
    tagged.tags.add(TIT2(text="Song"))
    tagged.tags.add(USLT(lang="eng", text="la la\nla"))
    tagged.save()
    expected = {"artist": "Anna; Béla", "genre": "Rock", "title": "Song", "lyrics": "la la\nla"}
    assert read_tags(path) == expected


@pytest.mark.parametrize("suffix", ["flac", "ogg", "opus"])
def test_vorbis_comments(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    write_audio(path, np.zeros((1, 48000), np.float32), 48000)
    tagged = mutagen.File(path)
    tagged["artist"] = ["Anna", "Béla"]
    tagged["TITLE"] = "Song"
    tagged["unsyncedlyrics"] = "la la\nla"
    tagged.save()
    expected = {"artist": "Anna; Béla", "genre": "", "title": "Song", "lyrics": "la la\nla"}
    assert read_tags(path) == expected


@pytest.mark.parametrize(
    ("written", "timed"),
    [
        (LRC, True),
        ("[00:01.00]la", True),
        ("[00:01.00]la\n[Chorus]\n", True),
        ("la\n[5:30pm]", False),
        ("[ar:Anna]", False),
    ],
)
def test_tags_with_times(tmp_path: Path, written: str, timed: bool) -> None:
    path = tmp_path / "a.flac"
    write_audio(path, np.zeros((1, 8000), np.float32), 8000)
    tagged = mutagen.File(path)
    tagged["lyrics"] = written
    tagged.save()
    found = read_tags(path)
    if timed:
        assert found.pop("lrc") == written.strip()
        assert "[" not in found["lyrics"]
    assert found == {"artist": "", "genre": "", "title": "", "lyrics": found["lyrics"]}
    assert timed or found["lyrics"] == written.strip()


@pytest.mark.parametrize(
    ("written", "text"),
    [("la\n[00:00.10]lo", "la\nlo"), ("[00:61.00]la", "la"), ("[00:10.00]", "")],
)
def test_no_time_in_tags_is_sung(tmp_path: Path, written: str, text: str) -> None:
    path = tmp_path / "a.flac"
    write_audio(path, np.zeros((1, 8000), np.float32), 8000)
    tagged = mutagen.File(path)
    tagged["lyrics"] = written
    tagged.save()
    assert read_tags(path) == {"artist": "", "genre": "", "title": "", "lyrics": text}


def test_broken_tags_are_no_tags(tmp_path: Path) -> None:
    nothing = {"artist": "", "genre": "", "title": "", "lyrics": ""}
    path = tmp_path / "a.mp3"
    write_audio(path, np.zeros((1, 8000), np.float32), 8000)
    assert read_tags(path) == nothing
    path.write_bytes(b"ID3\x04\x00\x00\x7f\x7f\x7f\x7fTPE1\xff\xff\xff\xff" + path.read_bytes())
    assert read_tags(path) == nothing
    (tmp_path / "b.flac").write_bytes(b"fLaC" + bytes(10))
    assert read_tags(tmp_path / "b.flac") == nothing
    assert read_tags(tmp_path / "missing.flac") == nothing
