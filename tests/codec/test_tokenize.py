"""Audio files into a token corpus: what is coded, skipped, resumed and refused."""

import json
import multiprocessing
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import mutagen
import numpy as np
import pytest
import soundfile
import torch

from codec import tokenizing
from codec.audio import read_audio, read_blocks
from codec.checkpoint import load_codec, save_codec
from codec.corpus import Corpus
from codec.shards import MAPPED
from codec.tokenize import Tokenize
from codec.tokenizing import encode_file, tokenize_files
from plugins.ground.errors import InputError

ROOT = Path(__file__).parents[2]
BAD = {
    "bad/empty.wav": (b"", "empty file"),
    "bad/text.mp3": (b"not music at all " * 100, "not audio"),
    "bad/short.wav": (None, "shorter than one code (3 samples)"),
}


def run(*words: object) -> int:
    """The command in this process; its exit status."""
    with pytest.raises(SystemExit) as ended:
        Tokenize.main([str(word) for word in words])
    return int(ended.value.code or 0)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def add_bad(folder: Path) -> None:
    (folder / "bad").mkdir()
    for name, (content, _) in BAD.items():
        if content is None:
            soundfile.write(folder / name, np.zeros(3), 2000)
        else:
            (folder / name).write_bytes(content)


def test_a_row_for_each_file(music: Path, codec_folder: Path, tmp_path: Path) -> None:
    corpus = tokenize_files(music, codec_folder, tmp_path / "out")
    codec = load_codec(codec_folder)
    assert corpus.spec == codec.spec
    assert corpus.ids() == ["a.wav", "album/c.ogg", "album/d.mp3", "b.flac", "e.wav"]
    assert corpus.skipped == ()
    for track in corpus.tracks():
        audio = read_audio(music / track["path"], 2000, 1)
        assert audio.shape[1] == track["num_samples"] > 1990
        codes = codec.encode(torch.from_numpy(audio)[None])
        for stream, hop in (("0", 4), ("1", 8)):
            assert len(track[f"codes_{stream}"]) == track["num_samples"] // hop
            assert len(set(track[f"codes_{stream}"].tolist())) > 3
            assert track[f"codes_{stream}"].tolist() == codes[stream][0].tolist()
    rows = {track["id"]: track for track in corpus.tracks()}
    assert (rows["a.wav"]["artist"], rows["a.wav"]["bpm"]) == ("Anna", 120.0)
    assert (rows["album/c.ogg"]["live"], rows["b.flac"]["live"]) == (True, None)
    assert len(rows["b.flac"]["audio_sha256"]) == 64


LRC = "[00:00.20]la la\n[00:00.60]lo\n"


def tag(file: Path, lyrics: str) -> None:
    tagged = mutagen.File(file)
    tagged["lyrics"] = lyrics
    tagged.save()


def test_lyrics_come_from_what_is_nearest(music: Path, codec_folder: Path, tmp_path: Path) -> None:
    """Metadata files, then `.lrc`, then `.txt`, then tags."""
    (music / "metadata.jsonl").write_text('{"file_name": "b.flac", "lyrics": "table"}\n')
    for name in ("b.flac", "album/c.ogg"):
        tag(music / name, LRC.replace("lo", "tag"))
    (music / "a.lrc").write_text(LRC)
    (music / "a.txt").write_text("text")
    (music / "e.txt").write_text("text")
    outs = [tmp_path / name for name in ("one", "two")]
    corpus = tokenize_files(music, codec_folder, outs[0], shard_tracks=2)
    found = {row["id"]: (row["lyrics"], row["lrc"]) for row in corpus.tracks()}
    assert found == {
        "a.wav": ("la la\nlo", LRC),
        "album/c.ogg": ("la la\ntag", LRC.replace("lo", "tag").strip()),
        "album/d.mp3": ("", None),
        "b.flac": ("table", None),
        "e.wav": ("text", None),
    }
    assert corpus.manifest.columns == {"lrc": "string"}
    tokenize_files(music, codec_folder, outs[1], shard_tracks=2, workers=2)
    tokenize_files(music, codec_folder, outs[1], shard_tracks=2)
    assert contents(outs[0]) == contents(outs[1])


def test_text_that_came_later_is_told_and_not_taken(
    music: Path, codec_folder: Path, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    out = tmp_path / "out"
    tag(music / "b.flac", LRC)
    (music / "e.txt").write_text("text")
    (music / "metadata.jsonl").write_text(
        '{"file_name": "album/c.ogg", "artist": ["Anna", "Béla"], "genre": "\\ud800"}\n',
        "utf-8",
    )
    tokenize_files(music, codec_folder, out)
    before = contents(out)
    tokenize_files(music, codec_folder, out)
    assert not recwarn.list
    assert contents(out) == before
    (music / "a.lrc").write_text(LRC)
    (music / "e.txt").unlink()
    with pytest.warns(
        UserWarning, match=r"^2 of 5 tracks in .* tokenize into another folder"
    ) as told:
        corpus = tokenize_files(music, codec_folder, out)
    assert len(told) == 1
    assert contents(out) == before
    assert corpus.metadata(0)["lyrics"] == ""


def test_times_in_tags_alone_make_their_column(
    music: Path, codec_folder: Path, tmp_path: Path
) -> None:
    tokenize_files(music / "a.wav", codec_folder, tmp_path / "out")
    assert "lrc" not in Corpus(tmp_path / "out").manifest.columns
    tag(music / "b.flac", LRC)
    corpus = tokenize_files(music, codec_folder, tmp_path / "out")
    found = {row["id"]: row["lrc"] for row in corpus.tracks()}
    assert {name for name, written in found.items() if written} == {"b.flac"}


def test_a_thousand_files_with_three_bad_ones(
    tmp_path: Path, codec_folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "music"
    rng = np.random.default_rng(0)
    for number in range(997):
        (folder / f"{number % 10}").mkdir(parents=True, exist_ok=True)
        path = folder / f"{number % 10}" / f"{number:04d}.wav"
        soundfile.write(path, rng.uniform(-0.5, 0.5, 200), 2000)
    add_bad(folder)
    assert run(folder, "--codec", codec_folder, "--out", tmp_path / "out") == 0
    printed = capfd.readouterr()
    assert printed.out.startswith(f"997 tracks in {tmp_path / 'out'}, 3 files skipped\n")
    assert all(line.startswith("tokenizing: ") for line in printed.err.splitlines())
    corpus = Corpus(tmp_path / "out")
    assert len(corpus) == 997
    assert {s.path for s in corpus.skipped} == set(BAD)
    for skipped in corpus.skipped:
        assert skipped.reason.startswith(BAD[skipped.path][1])
        assert f"{skipped.path}: {skipped.reason}" in printed.out


@pytest.fixture
def long_music(music: Path, codec_folder: Path) -> Path:
    """The folder with a song of more than two tiles in it."""
    samples = load_codec(codec_folder).tiling.length * 2 + 777
    noise = np.random.default_rng(1).uniform(-0.5, 0.5, samples)
    soundfile.write(music / "long.flac", noise, 2000)
    return music


def test_neither_workers_nor_place_change_a_byte(
    long_music: Path, codec_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    music = long_music
    add_bad(music)
    outs = [tmp_path / name for name in ("one", "two", "elsewhere")]
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    tokenize_files([music], codec_folder, outs[0], shard_tracks=3)
    tokenize_files([music], codec_folder, outs[1], shard_tracks=3, workers=2)
    assert torch.get_num_threads() == 3, "what the caller had set must be given back"
    torch.set_num_threads(threads)
    shutil.copytree(music, tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    tokenize_files(["moved"], codec_folder, outs[2], shard_tracks=3)
    expected = contents(outs[0])
    assert len(expected) == 4
    assert all(contents(out) == expected for out in outs[1:])


def test_blocks_do_not_change_a_code(
    long_music: Path, codec_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    codec = load_codec(codec_folder)
    for name in ("long.flac", "album/c.ogg", "e.wav"):
        codes, samples = encode_file(codec, long_music / name)
        with monkeypatch.context() as patch:
            patch.setattr("codec.audio.BLOCK", 1000)
            again, same = encode_file(codec, long_music / name, block=321)
        assert samples == same
        assert all(np.array_equal(codes[stream], again[stream]) for stream in ("0", "1"))


def test_what_is_there_is_not_coded_again(
    music: Path, codec_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_bad(music)
    out = tmp_path / "out"
    tokenize_files([music], codec_folder, out, shard_tracks=4)
    first = contents(out)
    read = []
    monkeypatch.setattr(
        tokenizing,
        "read_blocks",
        lambda path, *more: (read.append(path.name), read_blocks(path, *more))[1],
    )
    corpus = tokenize_files([music], codec_folder, out, shard_tracks=4)
    assert contents(out) == first
    assert sorted(read) == sorted(Path(skipped.path).name for skipped in corpus.skipped)
    soundfile.write(music / "album" / "new.wav", np.zeros(500), 2000)
    (music / "album" / "metadata.jsonl").write_text('{"file_name": "new.wav", "year": 1999}\n')
    corpus = tokenize_files([music], codec_folder, out, shard_tracks=4)
    assert corpus.ids()[-1] == "album/new.wav"
    assert corpus.metadata(len(corpus) - 1)["year"] == 1999
    assert corpus.metadata(0)["year"] is None
    assert len(corpus) == 6
    assert len(corpus.skipped) == 3


def test_going_on_writes_no_copy_of_a_large_corpus(
    music: Path, codec_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("codec.shards.IN_MEMORY", 0)
    tokenize_files([music / "album"], codec_folder, tmp_path / "out", shard_tracks=1)
    corpus = tokenize_files([music / "album"], codec_folder, tmp_path / "out", shard_tracks=1)
    assert corpus.ids() == ["c.ogg", "d.mp3"]
    assert not (tmp_path / "out" / MAPPED).exists()


def test_a_run_that_is_cut_off_ends_with_the_same_bytes(
    music: Path, codec_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_bad(music)
    tokenize_files([music], codec_folder, tmp_path / "whole", shard_tracks=2)
    out, read = tmp_path / "cut", []

    def give_up(path: Path) -> str:
        read.append(path)
        if len(read) == 4:
            raise KeyboardInterrupt
        return real(path)

    import codec.tokenizing as module

    real = module.sha256_of
    monkeypatch.setattr(module, "sha256_of", give_up)
    with pytest.raises(KeyboardInterrupt):
        tokenize_files([music], codec_folder, out, shard_tracks=2)
    assert 0 < len(Corpus(out)) < 5
    tokenize_files([music], codec_folder, out, shard_tracks=2)
    assert contents(out) == contents(tmp_path / "whole")


def test_nothing_that_can_be_used(tmp_path: Path, codec_folder: Path) -> None:
    add_bad(tmp_path)
    words = [tmp_path / "bad", "--codec", codec_folder, "--out", tmp_path / "out"]
    done = subprocess.run(
        [sys.executable, "-m", "codec.tokenize", *map(str, words)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        "error: none of 3 files could be used; the first, empty.wav: empty file"
    )
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_bad_input_is_one_line(
    music: Path, codec_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    shutil.copytree(music, tmp_path / "broken")
    (tmp_path / "broken" / "metadata.jsonl").write_text('{"file_name": "a.wav"}\n{"file\n')
    shutil.copytree(music, tmp_path / "taken")
    (tmp_path / "taken" / "metadata.jsonl").write_text('{"file_name": "a.wav", "id": 7}\n')
    shutil.copytree(music, tmp_path / "timed")
    (tmp_path / "timed" / "album" / "d.lrc").write_text("[00:01.00]la\n[00:61.00]la\n")
    out = tmp_path / "out"
    for words, reason in (
        ([tmp_path / "nowhere", "--codec", codec_folder, "--out", out], "no such file or folder"),
        ([tmp_path / "mine", "--codec", codec_folder, "--out", out], "no audio files in"),
        ([music, "--codec", music, "--out", out], "no codec in"),
        ([music, "--codec", codec_folder, "--out", tmp_path / "mine"], "something other than a"),
        ([tmp_path / "broken", "--codec", codec_folder, "--out", out], "jsonl line 2: not JSON"),
        ([tmp_path / "taken", "--codec", codec_folder, "--out", out], "metadata column 'id'"),
        ([tmp_path / "timed", "--codec", codec_folder, "--out", out], "d.lrc:2: [00:61.00] is no"),
        ([music, "--codec", codec_folder, "--out", out, "--workers", 0], "--workers"),
    ):
        assert run(*words) == 2
        (line,) = capfd.readouterr().err.splitlines()
        assert line.startswith("error: ")
        assert reason in line
        assert not out.exists()
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


def test_another_codecs_corpus_is_not_added_to(
    music: Path, codec_folder: Path, tmp_path: Path
) -> None:
    tokenize_files([music / "a.wav"], codec_folder, tmp_path / "out")
    before = contents(tmp_path / "out")
    other = load_codec(codec_folder)
    with torch.no_grad():
        next(other.parameters()).add_(1)
    save_codec(other, tmp_path / "other")
    with pytest.raises(InputError, match="holds codes of codec vqvae"):
        tokenize_files([music], tmp_path / "other", tmp_path / "out")
    assert contents(tmp_path / "out") == before


def test_a_full_disk(
    music: Path,
    codec_folder: Path,
    tmp_path: Path,
    file_size_limit: Callable[[int], AbstractContextManager[None]],
) -> None:
    out = tmp_path / "out"
    tokenize_files([music / "a.wav"], codec_folder, out)
    before = contents(out)
    with file_size_limit(3000), pytest.raises(InputError, match="can't write a shard"):
        tokenize_files([music], codec_folder, out)
    assert contents(out) == before
    assert len(tokenize_files([music], codec_folder, out)) == 5


def test_a_worker_that_dies_is_reported(music: Path, codec_folder: Path, tmp_path: Path) -> None:
    endless = music / "endless.flac"
    soundfile.write(endless, np.zeros(100_000_000, np.int16), 2000)

    def kill_one() -> None:
        while not (tmp_path / "out" / "corpus.json").exists() or len(Corpus(tmp_path / "out")) < 5:
            time.sleep(0.05)  # until only the endless file is left
        for worker in multiprocessing.active_children():
            worker.kill()

    thread = threading.Thread(target=kill_one)
    thread.start()
    with pytest.raises(InputError, match=rf"a worker process died .* one of: {endless}; leave"):
        tokenize_files([music], codec_folder, tmp_path / "out", workers=2, shard_tracks=1)
    thread.join()
    assert len(Corpus(tmp_path / "out")) == 5


def test_workers_end_with_a_parent_that_is_killed(
    music: Path, codec_folder: Path, tmp_path: Path
) -> None:
    soundfile.write(music / "endless.flac", np.zeros(100_000_000, np.int16), 2000)
    words = ["-m", "codec.tokenize", music, "--codec", codec_folder, "--out", tmp_path / "out"]
    with subprocess.Popen(
        [sys.executable, *words, "--workers", "2"], cwd=ROOT, stderr=subprocess.PIPE
    ) as parent:
        children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
        found: list[str] = []
        while len(found) < 3 and parent.poll() is None:  # two workers and a resource tracker
            found = children.read_text().split()
            time.sleep(0.05)
        parent.kill()
    deadline = time.monotonic() + 20
    while any(is_running(pid) for pid in found) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [pid for pid in found if is_running(pid)]


def is_running(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_the_manifest_is_plain_json(music: Path, codec_folder: Path, tmp_path: Path) -> None:
    add_bad(music)
    tokenize_files([music], codec_folder, tmp_path / "out")
    content = json.loads((tmp_path / "out" / "corpus.json").read_text())
    assert content["format"] == 1
    assert content["settings"] == {"made_by": "codec.tokenize"}
    assert content["columns"] == {"bpm": "double", "live": "bool"}
    assert [set(shard) for shard in content["shards"]] == [{"file", "rows", "sha256", "content"}]
    assert [s["path"] for s in content["skipped"]] == sorted(BAD)


def test_another_file_under_a_known_id_is_refused(
    tmp_path: Path, codec_folder: Path, music: Path
) -> None:
    """Two albums with a track of one name: its codes must not silently be missing."""
    out = tmp_path / "tokens"
    tokenize_files(music, codec_folder, out)
    before = {path.name: path.read_bytes() for path in out.glob("*.*")}
    other = tmp_path / "other"
    other.mkdir()
    soundfile.write(other / "a.wav", np.random.default_rng(5).uniform(-1, 1, 3000), 2000)
    with pytest.raises(InputError, match=r"other audio under the id 'a\.wav' than .*other"):
        tokenize_files(other, codec_folder, out)
    assert {path.name: path.read_bytes() for path in out.glob("*.*")} == before


def test_a_repaired_file_is_tried_again(tmp_path: Path, codec_folder: Path, music: Path) -> None:
    out, broken = tmp_path / "tokens", music / "broken.wav"
    broken.touch()
    assert [s.path for s in tokenize_files(music, codec_folder, out).skipped] == ["broken.wav"]
    before = {path.name: path.read_bytes() for path in out.glob("*.*")}
    tokenize_files(music, codec_folder, out)
    assert {path.name: path.read_bytes() for path in out.glob("*.*")} == before
    soundfile.write(broken, np.random.default_rng(5).uniform(-1, 1, 3000), 2000)
    corpus = tokenize_files(music, codec_folder, out)
    assert corpus.skipped == ()
    assert corpus.ids()[-1] == "broken.wav"
