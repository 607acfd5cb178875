"""How good a codec is on held-out audio."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from codec import evaluating
from codec.audio import read_audio
from codec.checkpoint import load_codec
from codec.evaluate import EvaluateCodec
from codec.evaluating import evaluate_codec
from codec.metrics import decibels, spectral_convergence
from plugins.ground.errors import InputError


def test_figures_are_those_of_the_whole(music: Path, codec_folder: Path) -> None:
    report = evaluate_codec(music / "b.flac", codec_folder, device="cpu")
    codec = load_codec(codec_folder)
    audio = torch.from_numpy(read_audio(music / "b.flac", 2000, 1))[None]
    codes = codec.encode(audio)
    assert report.seconds == 1.0
    for name, rate in (("0", 500), ("1", 250)):
        figures = report.streams[name]
        output = codec.decode({name: codes[name]})
        expected = decibels(spectral_convergence([(audio, output)])).item()
        assert figures.spectral_convergence_db == pytest.approx(expected, abs=1e-3)
        counts = np.bincount(codes[name][0], minlength=32)
        p = counts[counts > 0] / counts.sum()
        entropy = -(p * np.log(p)).sum()
        assert (figures.codes, figures.vocab_size) == (rate, 32)
        assert figures.used == len(p) > 3
        assert figures.perplexity == pytest.approx(math.exp(entropy), rel=1e-4)
        assert figures.bits_per_second == rate * 5
        assert figures.entropy_bits_per_second == pytest.approx(
            rate * entropy / math.log(2), rel=1e-4
        )


def test_stretches_change_little(
    codec_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = np.random.default_rng(0).standard_normal(100_003) / 5
    soundfile.write(tmp_path / "a.wav", noise, 2000)
    found = []
    for seconds in (8.0, 100.0):
        monkeypatch.setattr(evaluating, "STRETCH_SECONDS", seconds)
        (track,) = evaluate_codec(tmp_path, codec_folder).tracks
        found.append(track.spectral_convergence_db["0"])
    assert found[0] == pytest.approx(found[1], abs=0.05)


def test_tracks_count_alike_and_silence_not_at_all(music: Path, codec_folder: Path) -> None:
    soundfile.write(music / "silence.wav", np.zeros(8000), 2000)
    (music / "bad.wav").write_bytes(b"")
    report = evaluate_codec([music], codec_folder)
    assert [t.id for t in report.tracks][-1] == "silence.wav"
    assert report.tracks[-1].spectral_convergence_db == {"0": None, "1": None}
    heard = [t.spectral_convergence_db["0"] for t in report.tracks[:-1]]
    assert report.streams["0"].spectral_convergence_db == pytest.approx(np.mean(heard))
    assert [(s.path, s.reason) for s in report.skipped] == [("bad.wav", "empty file")]
    assert report.seconds == pytest.approx(9, abs=0.01)
    silent = evaluate_codec(music / "silence.wav", codec_folder)
    assert silent.streams["0"].spectral_convergence_db is None


def test_the_command(
    music: Path, codec_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = [str(music), "--codec", str(codec_folder), "--out", str(tmp_path / "report.json")]
    with pytest.raises(SystemExit) as ended:
        EvaluateCodec.main(words)
    assert ended.value.code == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert set(report["streams"]) == {"0", "1"}
    assert len(report["tracks"]) == 5
    printed = capfd.readouterr().out
    assert "spectral" in printed
    assert f"{report['streams']['0']['spectral_convergence_db']:.2f} dB" in printed


def test_nothing_that_can_be_used(tmp_path: Path, codec_folder: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"")
    with pytest.raises(InputError, match=r"none of 1 files .* a.wav: empty file"):
        evaluate_codec(tmp_path, codec_folder)
