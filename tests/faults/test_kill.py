"""SIGKILL at random moments: the same command again ends with the same bytes."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from harness import contents, run, run_with_kills

MUSIC = Path(__file__).parents[2] / "examples" / "music"
TINY_CODEC = ["--preset", "tiny", "--set", "width=8", "--set", "depth=1"]
TINY_PRIOR = ["--preset", "tiny", "--set", "width=32", "--set", "depth=3", "--set", "heads=1",
              "--set", "context=128", "--set", "blocks=8"]  # fmt: skip
TRAINING = ["--batch-size", 2, "--save-every", 3, "--evaluate-every", 50, "--log-every", 1,
            "--device", "cpu"]  # fmt: skip
MODEL_FILES = ("model.safetensors", "config.json", "metrics.jsonl", "training.json")
CORPUS_FILES = ("*.parquet", "corpus.json")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A codec, tokens and two priors, each a few steps old."""
    folder = tmp_path_factory.mktemp("model")
    songs = sorted(MUSIC.glob("*.ogg"))[:3]
    run(["codec.train", *songs, *TINY_CODEC, *TRAINING, "--steps", 6], folder / "codec")
    run(["codec.tokenize", *songs, "--codec", folder / "codec"], folder / "tokens")
    for stream in ("1", "0"):
        words = ["prior.train", folder / "tokens", "--stream", stream, *TINY_PRIOR, *TRAINING]
        run([*words, "--steps", 3], folder / f"prior_{stream}")
    return folder


def survives(tmp_path: Path, words: list[object], patterns: tuple[str, ...], seed: int) -> None:
    """A run with kills ends with the files of a run without."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    work = run(words, whole)
    cut = run_with_kills(words, broken, work, seed)
    assert cut >= 3, f"only {cut} runs were cut off: make the work longer"
    expected = contents(whole, *patterns)
    assert expected
    assert contents(broken, *patterns) == expected
    left = {p.name for p in broken.rglob("*") if p.is_file()}
    assert not [name for name in left if "partial" in name]


def test_training_a_codec(tmp_path: Path) -> None:
    songs = sorted(MUSIC.glob("*.ogg"))[:3]
    held_out = ["--held-out", songs[0].name]
    words = [
        "codec.train",
        *songs,
        *TINY_CODEC,
        *TRAINING,
        *held_out,
        "--clip-seconds",
        0.2,
        "--steps",
        150,
    ]
    survives(tmp_path, words, MODEL_FILES, seed=1)


def test_tokenizing(tmp_path: Path, model: Path) -> None:
    words = ["codec.tokenize", MUSIC, "--codec", model / "codec", "--workers", 2,
             "--shard-tracks", 2]  # fmt: skip
    survives(tmp_path, words, CORPUS_FILES, seed=2)


def test_training_a_prior(tmp_path: Path, model: Path) -> None:
    words = ["prior.train", model / "tokens", "--stream", "0", *TINY_PRIOR, *TRAINING,
             "--steps", 80]  # fmt: skip
    survives(tmp_path, words, MODEL_FILES, seed=3)


def test_sampling(tmp_path: Path, model: Path) -> None:
    words = ["prior.sample", model / "prior_1", model / "prior_0", "--seconds", 3,
             "--count", 3, "--batch-size", 2, "--device", "cpu"]  # fmt: skip
    survives(tmp_path, words, CORPUS_FILES, seed=4)
