"""A token corpus into audio files: which stream, which names, what is done again."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from codec.audio import measure, read_audio
from codec.checkpoint import load_codec, save_codec
from codec.corpus import Corpus, CorpusWriter
from codec.decode import Decode
from codec.decoding import chosen_codes, decode_corpus, safe_name
from codec.tokenizing import tokenize_files
from plugins.ground.errors import InputError


@pytest.fixture
def tokens(music: Path, codec_folder: Path, tmp_path: Path) -> Path:
    tokenize_files([music], codec_folder, tmp_path / "tokens")
    return tmp_path / "tokens"


def sample(codec_folder: Path, folder: Path, **counts: int) -> None:
    """A corpus of one sample of 800 samples in the making, with so many codes of each stream."""
    writer = CorpusWriter(folder, load_codec(codec_folder).spec, {"seed": 0})
    codes = {name: np.arange(count) % 32 for name, count in counts.items()}
    writer.replace([{"id": "s0", "num_samples": 800, **codes}])


def times(folder: Path) -> dict[str, int]:
    return {
        path.name: path.stat().st_mtime_ns for path in folder.iterdir() if path.suffix == ".wav"
    }


def test_a_file_for_each_track(tokens: Path, codec_folder: Path, tmp_path: Path) -> None:
    files = decode_corpus(tokens, codec_folder, tmp_path / "out")
    assert [f.name for f in files] == ["a.wav", "album_c.wav", "album_d.wav", "b.wav", "e.wav"]
    codec, corpus = load_codec(codec_folder), Corpus(tokens)
    for path, track in zip(files, corpus.tracks(), strict=True):
        codes = torch.from_numpy(track["codes_0"].astype(np.int64))[None]
        expected = codec.decode({"0": codes})[0].clamp(-1, 1).numpy()
        audio = read_audio(path)
        assert measure(path).sample_rate == 2000
        assert audio.shape == (1, track["num_samples"] // 4 * 4)
        assert np.abs(audio - expected).max() < 1e-4


@pytest.mark.parametrize("format", ["flac", "ogg", "mp3", "opus"])
def test_formats(tokens: Path, codec_folder: Path, tmp_path: Path, format: str) -> None:
    files = decode_corpus(tokens, codec_folder, tmp_path / "out", format=format)
    assert {f.suffix for f in files} == {f".{format}"}
    for path, track in zip(files, Corpus(tokens).tracks(), strict=True):
        assert abs(measure(path).seconds - track["num_samples"] / 2000) < 0.01


def test_the_stream_that_is_named(tokens: Path, codec_folder: Path, tmp_path: Path) -> None:
    files = decode_corpus(tokens, codec_folder, tmp_path / "out", stream="1")
    track = Corpus(tokens)[0]
    codes = torch.from_numpy(track["codes_1"].astype(np.int64))[None]
    expected = load_codec(codec_folder).decode({"1": codes})[0].clamp(-1, 1).numpy()
    assert np.abs(read_audio(files[0]) - expected).max() < 1e-4
    with pytest.raises(InputError, match="no stream '7'; there are: 0, 1"):
        decode_corpus(tokens, codec_folder, tmp_path / "out", stream="7")


@pytest.mark.parametrize(
    ("counts", "stream", "seconds"),
    [
        ({"codes_0": 200, "codes_1": 100}, "0", 0.4),  # both whole: the finest
        ({"codes_0": 150, "codes_1": 100}, "1", 0.4),  # the finest is not ready
        ({"codes_0": 100, "codes_1": 60}, "1", 0.24),  # neither is: the longest
        ({"codes_0": 100, "codes_1": 50}, "0", 0.2),  # as long as each other: the finest
        ({"codes_0": 120, "codes_1": 50}, "0", 0.24),
        ({"codes_0": 220, "codes_1": 110}, "0", 0.4),  # cut to the track's length
    ],
)
def test_samples_in_the_making(
    codec_folder: Path, tmp_path: Path, counts: dict[str, int], stream: str, seconds: float
) -> None:
    sample(codec_folder, tmp_path / "s", **counts)
    (file,) = decode_corpus(tmp_path / "s", codec_folder, tmp_path / "out")
    assert measure(file).seconds == seconds
    assert json.loads((tmp_path / "out" / "decoded.json").read_text())["s0"]["stream"] == stream


def test_only_streams_that_reach_as_far_go_along(codec_folder: Path) -> None:
    spec = load_codec(codec_folder).spec
    row: dict[str, Any] = {"num_samples": 801, "codes_0": np.zeros(200), "codes_1": np.zeros(100)}
    assert list(chosen_codes(row, spec)) == ["0", "1"]
    assert list(chosen_codes(row, spec, "1")) == ["1"]
    assert list(chosen_codes({**row, "codes_1": np.zeros(98)}, spec)) == ["0"]
    assert chosen_codes({**row, "codes_0": [], "codes_1": []}, spec) == {}


def test_only_what_changed_is_decoded_again(codec_folder: Path, tmp_path: Path) -> None:
    writer = CorpusWriter(tmp_path / "s", load_codec(codec_folder).spec)
    rows = [{"id": f"s{i}", "num_samples": 800, "codes_1": np.full(100, i)} for i in range(3)]
    writer.replace([*rows, {"id": "none yet", "num_samples": 800}])
    out = tmp_path / "out"
    assert len(decode_corpus(tmp_path / "s", codec_folder, out)) == 3
    before = times(out)
    decode_corpus(tmp_path / "s", codec_folder, out)
    assert times(out) == before
    rows[1]["codes_0"] = np.arange(200) % 32
    writer.replace(rows)
    (out / "s2.wav").unlink()
    decode_corpus(tmp_path / "s", codec_folder, out)
    after = times(out)
    assert after["s0.wav"] == before["s0.wav"]
    assert after["s1.wav"] > before["s1.wav"]
    assert "s2.wav" in after
    decode_corpus(tmp_path / "s", codec_folder, out, format="flac")
    assert times(out) == after
    assert (out / "s1.flac").exists()


def test_a_kill_between_file_and_record_costs_nothing(
    tokens: Path, codec_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    expected = decode_corpus(tokens, codec_folder, out)
    contents = [path.read_bytes() for path in expected]
    record = json.loads((out / "decoded.json").read_text())
    record["b.flac"].update(stream="", sha256="")  # as it stands before the first is written
    (out / "decoded.json").write_text(json.dumps(record))
    assert decode_corpus(tokens, codec_folder, out) == expected
    assert [path.read_bytes() for path in expected] == contents


def test_names(codec_folder: Path, tmp_path: Path) -> None:
    names = ["a/b.wav", "a_b.flac", "A_B.ogg", "../../etc/x", "..", "con\0\n:*?", "é" * 200, ".mp3"]
    writer = CorpusWriter(tmp_path / "s", load_codec(codec_folder).spec)
    writer.append([{"id": n, "num_samples": 8, "codes_1": [1]} for n in names])
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "decoded.json").write_text("{}")
    (tmp_path / "out" / "a_b-2.wav").write_bytes(b"precious")
    files = decode_corpus(tmp_path / "s", codec_folder, tmp_path / "out")
    assert [f.name for f in files[:4]] == ["a_b.wav", "a_b-3.wav", "A_B-4.wav", "etc_x.wav"]
    assert len({f.name.casefold() for f in files}) == len(names)
    assert all(f.parent == tmp_path / "out" and f.exists() for f in files)
    assert (tmp_path / "out" / "a_b-2.wav").read_bytes() == b"precious"
    assert safe_name("Anna - Song (live).flac") == "Anna - Song (live)"


def test_bad_input(tokens: Path, codec_folder: Path, tmp_path: Path, music: Path) -> None:
    other = load_codec(codec_folder)
    with torch.no_grad():
        next(other.parameters()).add_(1)
    save_codec(other, tmp_path / "other")
    CorpusWriter(tmp_path / "empty", other.spec)
    sample(codec_folder, tmp_path / "unmade")
    before = sorted(os.listdir(music))
    for corpus, codec, out, reason in (
        (tokens, tmp_path / "other", tmp_path / "out", "holds codes of codec vqvae"),
        (tmp_path / "empty", tmp_path / "other", tmp_path / "out", "holds no tracks"),
        (tmp_path / "unmade", codec_folder, tmp_path / "out", "has no codes yet"),
        (tmp_path / "no", codec_folder, tmp_path / "out", "no token corpus in"),
        (tokens, codec_folder, music, "something other than decoded audio"),
    ):
        with pytest.raises(InputError, match=reason):
            decode_corpus(corpus, codec, out)
    assert sorted(os.listdir(music)) == before
    with pytest.raises(InputError, match="no audio format 'aac'; there are: wav, flac"):
        decode_corpus(tokens, codec_folder, tmp_path / "out", format="aac")
    decode_corpus(tokens, codec_folder, tmp_path / "record")
    for content in ("[]", '{"a": 1}', '{"a": {"file": "../x"}}', "{"):
        (tmp_path / "record" / "decoded.json").write_text(content)
        with pytest.raises(InputError, match=r"decoded\.json"):
            decode_corpus(tokens, codec_folder, tmp_path / "record")


def test_the_command(
    tokens: Path, codec_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = [str(tokens), "--codec", str(codec_folder), "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as ended:
        Decode.main([*words, "--format", "flac"])
    assert ended.value.code == 0
    assert capfd.readouterr().out == f"5 files in {tmp_path / 'out'}\n"
