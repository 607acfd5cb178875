"""`jukebox continue` with a real, hardly trained model: nothing of the user's may be lost."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from codec.tokenizing import tokenize_files
from plugins.continuation.command import Continue
from plugins.continuation.work import continue_song
from plugins.ground.errors import InputError
from plugins.ground.options import TrainingOptions
from prior.training import train_prior

SHAPE = {"context": 32, "width": 16, "depth": 3, "heads": 1, "blocks": 4}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, codec_folder: Path) -> Path:
    folder = tmp_path_factory.mktemp("model")
    rng = np.random.default_rng(0)
    soundfile.write(folder / "train.wav", 0.1 * rng.standard_normal(6000), 2000)
    tokenize_files(folder / "train.wav", codec_folder, folder / "tokens")
    shutil.copytree(codec_folder, folder / "codec")
    options = TrainingOptions(steps=2, batch_size=2, device="cpu")
    for stream in ("0", "1"):
        codes = {"codes.width": 4, "codes.depth": 1} if stream == "0" else {}
        train_prior(
            folder / "tokens", folder / f"prior_{stream}", stream=stream, preset="tiny",
            set=SHAPE, conditioner_set=codes, options=options,
        )  # fmt: skip
    return folder


@pytest.fixture
def song(tmp_path: Path) -> Path:
    path = tmp_path / "song.wav"
    soundfile.write(path, 0.1 * np.random.default_rng(1).standard_normal(4000), 2000)
    return path


def test_a_song_goes_on(tmp_path: Path, model: Path, song: Path) -> None:
    out = tmp_path / "longer.FLAC"
    task = Continue(song=song, model=model, out=out, seconds=0.5, device="cpu")
    assert continue_song(task) == out
    assert soundfile.info(out).frames == 4000 + 1000
    assert sorted(p.name for p in tmp_path.iterdir()) == ["longer.FLAC", "song.wav"]


def test_parts_of_another_song_are_not_used(tmp_path: Path, model: Path, song: Path) -> None:
    out = tmp_path / "out.wav"
    task = Continue(song=song, model=model, out=out, seconds=0.5, device="cpu", seed=3)
    expected = continue_song(task).read_bytes()
    out.unlink()
    # An earlier attempt at another song of this name was cut off behind its tokens.
    right = song.read_bytes()
    soundfile.write(song, np.zeros(4000), 2000)
    broken = Continue(song=song, model=model, out=out, seconds=0.5, device="cpu", artist="nobody")
    with pytest.raises(InputError, match="unknown artist"):
        continue_song(broken)
    assert (tmp_path / ".out.parts" / "tokens" / "corpus.json").is_file()
    song.write_bytes(right)
    assert continue_song(task).read_bytes() == expected


@pytest.mark.parametrize("name", ["song.wav", "kept.wav"])
def test_nothing_is_overwritten(tmp_path: Path, model: Path, song: Path, name: str) -> None:
    (tmp_path / "kept.wav").write_bytes(b"mine")
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(InputError, match="there already"):
        continue_song(Continue(song=song, model=model, out=tmp_path / name, device="cpu"))
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_a_folder_of_the_name_of_the_parts_is_kept(tmp_path: Path, model: Path, song: Path) -> None:
    (tmp_path / ".out.parts").mkdir()
    (tmp_path / ".out.parts" / "notes.txt").write_text("precious")
    with pytest.raises(InputError, match="holds something other"):
        continue_song(Continue(song=song, model=model, out=tmp_path / "out.wav", device="cpu"))
    assert (tmp_path / ".out.parts" / "notes.txt").read_text() == "precious"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"out": "x.xyz"}, "one of the suffixes .wav"),
        ({"model": "nowhere"}, "is no model"),
        ({"song": "missing.wav"}, "missing.wav"),
        ({"prompt_seconds": 60.0}, "longer than track"),
    ],
)
def test_bad_input(
    tmp_path: Path,
    model: Path,
    song: Path,
    changes: dict[str, object],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    given = {"song": song, "model": model, "out": "x.wav", "seconds": 0.5, "device": "cpu"}
    with pytest.raises(InputError, match=message):
        continue_song(Continue(**{**given, **changes}))  # type: ignore[arg-type]
    assert not (tmp_path / "x.wav").exists()
