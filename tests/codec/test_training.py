"""Training a codec: presets, clips, damaged files, cost, what a resumed run looks at again."""

import pickle
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from codec import data
from codec.checkpoint import load_codec
from codec.data import AudioClips
from codec.train import TrainCodec
from codec.training import train_codec
from codec.vqvae import VQVAE
from plugins.ground.errors import InputError
from plugins.ground.options import TrainingOptions

SHAPE = {
    "sample_rate": 2000,
    "halvings": (2, 1),
    "multipliers": (1, 1),
    "width": 4,
    "depth": 1,
    "codebook_width": 4,
    "codebook_size": 8,
    "resolutions": ((64, 16, 64),),
}
QUICK = {"batch_size": 2, "device": "cpu", "warmup_steps": 0}

PLUGIN = """
from codec.vqvae import VQVAE

class Plain(VQVAE):
    presets = {}

    def __init__(self, config):
        super().__init__(config)
        self.spec = self.spec.model_copy(update={"codec": "plain"})

class Nameless(VQVAE):
    pass
"""


def clips(files: list[Path], **more: bool) -> AudioClips:
    return AudioClips(files, 2000, 1, 256, **more)


@pytest.fixture
def damaged(music: Path) -> Path:
    """A FLAC file whose header is sound and whose middle is not."""
    path = music / "damaged.flac"
    soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, 40_000), 2000)
    content = bytearray(path.read_bytes())
    content[len(content) // 4 :] = bytes(len(content) - len(content) // 4)
    path.write_bytes(content)
    return path


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed distribution with two codecs."""
    folder = tmp_path / "site"
    info = folder / "plain_codec-1.0.dist-info"
    info.mkdir(parents=True)
    (folder / "plain_codec.py").write_text(PLUGIN)
    (info / "entry_points.txt").write_text(
        "[jukebox.codecs]\nplain = plain_codec:Plain\nnameless = plain_codec:Nameless\n"
    )
    monkeypatch.syspath_prepend(str(folder))


def test_a_codec_without_presets_is_trained_and_loaded(
    plugin: None, music: Path, tmp_path: Path
) -> None:
    options = TrainingOptions(steps=1, **QUICK)
    train_codec([str(music)], tmp_path / "out", codec="plain", set=SHAPE, options=options)
    codec = load_codec(tmp_path / "out")
    assert (type(codec).__name__, codec.spec.codec) == ("Plain", "plain")
    assert codec.config.codebook_width == 4
    with pytest.raises(InputError, match="no preset 'small'"):
        train_codec([str(music)], tmp_path / "x", codec="plain", preset="small", options=options)


def test_a_codec_with_its_parents_name_is_refused_before_training(
    plugin: None, music: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="Nameless would be loaded as VQVAE"):
        train_codec([str(music)], tmp_path / "out", codec="nameless", set=SHAPE)
    assert not (tmp_path / "out").exists()


def test_small_is_the_preset_unless_another_is_named(
    music: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = []
    for preset in ([], ["--preset", "small"], ["--preset", "jukebox"]):
        with pytest.raises(SystemExit) as ended:
            TrainCodec.main([str(music), "--out", str(tmp_path / "out"), "--dry-run", *preset])
        assert ended.value.code == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1] != said[2]
    assert not (tmp_path / "out").exists()


def test_a_dry_run_allocates_nothing(
    music: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    # 160 GB of codebooks alone.
    huge = {"codebook_size": 65536, "codebook_width": 100_000}
    options = TrainingOptions(dry_run=True)
    train_codec([str(music)], tmp_path / "out", preset="jukebox", set=huge, options=options)
    assert "memory" in capsys.readouterr().out


def test_the_music_is_looked_at_once(
    music: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    measured = VQVAE.prepare_training

    def counted(self: VQVAE, clips: Iterator[torch.Tensor]) -> None:
        every = list(clips)
        seen.append(len(every))
        measured(self, iter(every))

    monkeypatch.setattr(VQVAE, "prepare_training", counted)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.txt").write_text("years of work")
    words = {"preset": "tiny", "set": SHAPE, "clip_seconds": 0.2}
    for out, steps in (("thesis", 1), ("out", 1), ("out", 2)):
        options = TrainingOptions(steps=steps, anneal="none", **QUICK)
        if out == "thesis":
            with pytest.raises(InputError, match="holds something other"):
                train_codec([str(music)], tmp_path / out, options=options, **words)
            assert seen == []
        else:
            train_codec([str(music)], tmp_path / out, options=options, **words)
    assert seen == [25]
    assert (load_codec(tmp_path / "out").bandwidth != 1).all()


def test_unusable_files_are_left_out_with_one_warning(music: Path) -> None:
    (music / "empty.wav").write_bytes(b"")
    (music / "text.mp3").write_bytes(b"not music " * 99)
    soundfile.write(music / "nothing.wav", np.zeros(0), 2000)
    bad = [music / "empty.wav", music / "text.mp3", music / "nothing.wav"]
    good = [music / "a.wav", music / "b.flac"]
    with pytest.warns(UserWarning, match=r"3 of 5 .* the first, .*empty\.wav: empty") as warned:
        found = clips([bad[0], good[0], *bad[1:], good[1]])
    assert len(warned) == 1
    assert found.files == good
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        expected = clips(good)
        with pytest.raises(InputError, match=r"none of 3 .* the first, .*empty\.wav: empty"):
            clips(bad)
    assert all(torch.equal(found(i), expected(i)) for i in range(20))


@pytest.mark.parametrize("cache", [0, 1 << 30])
def test_clips_are_the_same_cached_or_not_and_in_other_processes(
    music: Path, monkeypatch: pytest.MonkeyPatch, cache: int
) -> None:
    files = [music / "a.wav", music / "b.flac", music / "e.wav"]
    expected = [clips(files)(i) for i in range(12)]
    monkeypatch.setattr(data, "CACHE_BYTES", cache)
    found = clips(files)
    found(0)
    sent = pickle.dumps(found)
    assert len(sent) < 4000, "decoded audio must not be sent"
    received = pickle.loads(sent)
    for i, clip in enumerate(expected):
        assert clip.shape == (1, 256)
        assert torch.equal(found(i), received(i))
        torch.testing.assert_close(found(i), clip)


def test_a_training_goes_on_when_a_damaged_file_is_replaced(
    music: Path, damaged: Path, tmp_path: Path
) -> None:
    words = {"preset": "tiny", "set": SHAPE, "clip_seconds": 0.2}

    def run(steps: int) -> None:
        options = TrainingOptions(steps=steps, save_every=1, anneal="none", **QUICK)
        train_codec([str(music)], tmp_path / "out", options=options, **words)

    content = damaged.read_bytes()
    soundfile.write(damaged, np.random.default_rng(0).uniform(-0.5, 0.5, 40_000), 2000)
    run(1)
    damaged.write_bytes(content)
    with pytest.raises(InputError, match=rf"can't train on {damaged}: damaged .* in its place"):
        run(30)
    damaged.unlink()
    with pytest.raises(InputError, match="holds a training with music '6 files"):
        run(30)
    soundfile.write(damaged, np.random.default_rng(1).uniform(-0.5, 0.5, 40_000), 2000)
    run(30)
    assert (tmp_path / "out" / "metrics.jsonl").read_text().count('"loss"') >= 3
