"""A real, hardly trained model folder: `jukebox continue`, and all commands that take one."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from codec.checkpoint import load_codec, save_codec
from codec.corpus import Corpus
from codec.decode import Decode
from codec.evaluate import EvaluateCodec
from codec.tokenize import Tokenize
from codec.tokenizing import tokenize_files
from plugins.continuation.command import Continue
from plugins.continuation.work import continue_song
from plugins.ground.command import Command
from plugins.ground.errors import InputError
from plugins.ground.options import TrainingOptions
from prior.checkpoint import read_config
from prior.sample import Sample
from prior.train import TrainPrior
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


def test_precision_is_part_of_the_task_and_old_parts_are_of_float32(
    tmp_path: Path, model: Path, song: Path
) -> None:
    broken = {"song": song, "model": model, "seconds": 0.5, "device": "cpu", "artist": "nobody"}

    def attempt(dtype: str) -> int:
        """Which corpus of tokens a run that ends behind it leaves."""
        with pytest.raises(InputError, match="unknown artist"):
            continue_song(Continue(**broken, out=tmp_path / "out.wav", dtype=dtype))  # type: ignore[arg-type]
        return (tmp_path / ".out.parts" / "tokens" / "corpus.json").stat().st_mtime_ns

    first = attempt("float32")
    kept = tmp_path / ".out.parts" / "continue.json"
    before = {k: v for k, v in json.loads(kept.read_text()).items() if k != "dtype"}
    kept.write_text(json.dumps(before))
    assert attempt("float32") == first
    assert attempt("bfloat16") != first


def test_a_song_goes_on_in_half_precision(tmp_path: Path, model: Path, song: Path) -> None:
    out = tmp_path / "out.wav"
    task = Continue(song=song, model=model, out=out, seconds=0.5, device="cpu", dtype="bfloat16")
    assert continue_song(task) == out
    assert soundfile.info(out).frames == 4000 + 1000


def test_parts_of_different_models_are_refused(tmp_path: Path, model: Path, song: Path) -> None:
    shutil.copytree(model, tmp_path / "mixed")
    other = load_codec(model / "codec")
    with torch.no_grad():
        other.quantizers[0].codebook.add_(1.0)  # type: ignore[union-attr,operator,index]
    save_codec(other, tmp_path / "mixed" / "codec")
    with pytest.raises(InputError, match=r"prior_0 is of codec .*, but .*codec of"):
        continue_song(Continue(song=song, model=tmp_path / "mixed", out=tmp_path / "out.wav"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mixed", "song.wav"]


def main(command: type[Command], line: str, capfd: pytest.CaptureFixture[str]) -> str:
    """What a command said as a program to bad input; nothing if all went well."""
    with pytest.raises(SystemExit) as ended:
        command.main(line.split())
    errors = [said for said in capfd.readouterr().err.splitlines() if said.startswith("error: ")]
    assert ended.value.code == (2 if errors else 0)
    return "".join(errors)


def test_a_model_folder_is_enough_for_every_command(
    tmp_path: Path,
    model: Path,
    song: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("model").symlink_to(model)
    for command, line in (
        (Tokenize, "song.wav --model model --out tokens"),
        (EvaluateCodec, "song.wav --model model --out figures.json"),
        (TrainPrior, "tokens --model model --stream 1 --steps 1 --batch-size 1 --out tuned"),
        (Sample, "--model model --streams 1 --seconds 0.1 --out samples"),
        (Sample, "--model model --prompts samples --seconds 0 --dtype float16 --out finer"),
        (Decode, "finer --model model --out songs"),
    ):
        assert main(command, line, capfd) == ""
    assert read_config("tuned").stream == "1"
    (made,) = Corpus("finer").tracks()
    assert (len(made["codes_0"]), len(made["codes_1"])) == (50, 25)
    assert soundfile.info("songs/sample-0000.wav").frames == 200


@pytest.mark.parametrize(
    ("command", "line", "message"),
    [
        (EvaluateCodec, "song.wav --model nowhere", "nowhere is no model: it has no codec/"),
        (EvaluateCodec, "song.wav", "give either --codec or --model"),
        (Sample, "--model model --streams 7 --out new", "no prior of stream '7'; there are: 0, 1"),
        (Sample, "prior_0 --streams 0 --out new", "--streams chooses among the priors of"),
        (TrainPrior, "tokens --model model --init x --out new", "give either --init or --model"),
        (TrainPrior, "tokens --model model --stream 7 --out new", "no prior of stream '7'"),
    ],
)
def test_models_that_do_not_help(
    tmp_path: Path,
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    command: type[Command],
    line: str,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("model").symlink_to(model)
    assert message in main(command, line, capfd)
    assert not Path("new").exists()


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
