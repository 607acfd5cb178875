"""Trainings on several real processes (gloo, on a CPU) beside the same trainings on one."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from codec.corpus import CorpusWriter
from codec.tokens import TokenSpec, TokenStream
from plugins.ground.saved import load_weights
from prior.checkpoint import load_prior

MUSIC = Path(__file__).parents[2] / "examples" / "music"
SPEC = TokenSpec(
    sample_rate=800,
    channels=1,
    streams=(TokenStream(name="0", vocab_size=12, hop_length=8),),
    codec="vqvae",
    fingerprint="0123456789abcdef",
)
SHAPE = {"context": 16, "width": 32, "depth": 3, "heads": 2, "blocks": 4}
PRIOR = ["--preset", "tiny", "--set", json.dumps(SHAPE), "--held-out", "track-6",
         "--learning-rate", 0.01, "--anneal", "none"]  # fmt: skip
CODEC = ["--preset", "tiny", "--set", "width=8", "--set", "depth=1", "--set", "codebook_size=64",
         "--clip-seconds", 0.2]  # fmt: skip
Endless = Callable[[int], "subprocess.Popen[str]"]
OPTIONS = ["--batch-size", 8, "--log-every", 1, "--evaluate-every", 3, "--save-every", 6]


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus whose tracks are often shorter than a window, so that batches count differently."""
    folder = tmp_path_factory.mktemp("corpus") / "tokens"
    rng = np.random.default_rng(0)
    rows = [
        {
            "id": f"track-{number}",
            "num_samples": length * 8,
            "artist": "ab"[number % 2],
            "codes_0": ((np.arange(length) * (1 + number % 2) + rng.integers(12)) % 12),
        }
        for number, length in enumerate((5, 40, 3, 64, 9, 2, 90, 16))
    ]
    CorpusWriter(folder, SPEC).append(rows)
    return folder


def command(processes: int, words: list[object], out: Path) -> list[str]:
    """A training as accelerate launches it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    alone = [sys.executable, "-m"]
    several = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"]
    several += ["--num_processes", str(processes), "--num_machines", "1"]
    several += ["--mixed_precision", "no", "--dynamo_backend", "no"]
    several += ["--main_process_port", str(port), "-m"]
    return [*(alone if processes == 1 else several), *map(str, words), "--out", str(out)]


def run(processes: int, words: list[object], out: Path, steps: int = 12) -> list[dict[str, float]]:
    """Its figures, step by step."""
    done = subprocess.run(
        command(processes, [*words, *OPTIONS, "--device", "cpu", "--steps", steps], out),
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return figures(out)


def figures(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def check_same(ours: list[dict[str, float]], others: list[dict[str, float]]) -> None:
    """Every figure of every step agrees to 1e-4."""
    assert [sorted(one) for one in ours] == [sorted(one) for one in others]
    for one, other in zip(ours, others, strict=True):
        for name, value in one.items():
            assert value == pytest.approx(other[name], rel=1e-4, abs=1e-4), (one["step"], name)


@pytest.fixture(scope="module")
def alone(tokens: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prior that one process trained."""
    out = tmp_path_factory.mktemp("alone") / "prior"
    run(1, ["prior.train", tokens, *PRIOR], out)
    return out


def test_two_processes_train_a_prior_as_one_does(tokens: Path, alone: Path, tmp_path: Path) -> None:
    words = ["prior.train", tokens, *PRIOR]
    found = run(2, [*words, "--accumulate", 2], tmp_path)
    check_same(found, figures(alone))
    losses = [line["loss"] for line in found if "loss" in line]
    assert losses[-1] < losses[0]
    assert any("validation/bits_per_code" in line for line in found)
    own, whole = load_weights(tmp_path), load_weights(alone)
    assert all(torch.allclose(own[name], whole[name], atol=1e-4) for name in whole)


def test_parts_of_weights_train_as_whole_ones_and_load_into_a_plain_prior(
    tokens: Path, alone: Path, tmp_path: Path
) -> None:
    words = ["prior.train", tokens, *PRIOR, "--recompute"]
    run(2, [*words, "--shard"], tmp_path, steps=6)
    parted = torch.load(tmp_path / "state.pt", weights_only=True)
    assert {type(tensor) for tensor in parted["module"].values()} == {torch.Tensor}
    found = run(1, words, tmp_path, steps=9)  # resumed on one process, whole
    found = run(2, [*words, "--shard"], tmp_path)  # and in parts again
    check_same(found, figures(alone))
    own, whole = load_prior(tmp_path).state_dict(), load_weights(alone)
    assert all(torch.allclose(own[name], whole[name], atol=1e-4) for name in whole)


@pytest.mark.parametrize("after", [1, 4])
def test_what_two_processes_saved_goes_on_with_others(
    tokens: Path, alone: Path, tmp_path: Path, after: int
) -> None:
    words = ["prior.train", tokens, *PRIOR]
    run(2, words, tmp_path, steps=6)
    check_same(run(after, words, tmp_path), figures(alone))


def test_bad_input_is_told_by_each_process_in_a_line(tokens: Path, tmp_path: Path) -> None:
    words = ["prior.train", tokens, *PRIOR, "--batch-size", 3, "--steps", 1]
    done = subprocess.run(command(2, words, tmp_path), capture_output=True, text=True, check=False)
    assert done.returncode != 0
    told = [line for line in done.stderr.splitlines() if "can't be split" in line]
    assert told
    for line in told:  # one may be ended before it says so
        assert line.startswith(("error: ", "error of process 1: "))
    assert "can't be split into 1 passes on 2 processes" in told[0]
    assert f"{Path(__file__).parents[2]}/prior" not in done.stderr  # no traceback of ours


def test_two_processes_train_a_codec_as_one_does(tmp_path: Path) -> None:
    songs = sorted(MUSIC.glob("*.ogg"))[:3]
    words = ["codec.train", *songs, *CODEC, "--held-out", songs[0].name]
    one = run(1, words, tmp_path / "one")
    two = run(2, words, tmp_path / "two")
    check_same(two, one)
    assert any(value > 0 for line in one for name, value in line.items() if "restarts" in name)


CODEBOOKS = """
import sys, torch, torch.distributed as dist
from codec.quantize import Quantizer

dist.init_process_group("gloo")
rank, size = dist.get_rank(), dist.get_world_size()
quantizer = Quantizer(48, 4)
for step in range(6):
    vectors = torch.randn(8, 4, 5, generator=torch.Generator().manual_seed(step))
    torch.manual_seed(step + (rank << 48))
    share = 8 // size
    made = quantizer.train()(vectors[rank * share : (rank + 1) * share])
    figures = {name: float(value) for name, value in made.metrics.items()}
torch.save({**quantizer.state_dict(), "figures": figures}, f"{sys.argv[1]}/{size}-{rank}.pt")
dist.destroy_process_group()
"""


def test_codebooks_and_restarts_agree_on_every_process(tmp_path: Path) -> None:
    (tmp_path / "codebooks.py").write_text(CODEBOOKS)
    for size in (1, 2, 4):
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        launch += ["--nproc-per-node", str(size), str(tmp_path / "codebooks.py"), str(tmp_path)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run(launch, check=True, capture_output=True, env=environment)
    one = torch.load(tmp_path / "1-0.pt")
    assert one["figures"]["restarts"] > 0
    for size in (2, 4):
        states = [torch.load(tmp_path / f"{size}-{rank}.pt") for rank in range(size)]
        for state in states:
            for name in ("codebook", "counts", "sums"):
                assert torch.equal(state[name], states[0][name]), (size, name)
                assert torch.allclose(state[name], one[name], atol=1e-5), (size, name)
            assert state["figures"] == pytest.approx(one["figures"], abs=1e-5)


@pytest.fixture
def endless(tokens: Path, tmp_path: Path) -> Iterator[Endless]:
    """Starts a training on so many processes; what is left of it is ended after the test."""
    started: list[subprocess.Popen[str]] = []

    def start(processes: int) -> "subprocess.Popen[str]":
        words = ["prior.train", tokens, *PRIOR, *OPTIONS, "--device", "cpu", "--steps", 100_000]
        process = subprocess.Popen(
            command(processes, words, tmp_path / "broken"),
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        started.append(process)
        while not (tmp_path / "broken" / "state.pt").exists():
            assert process.poll() is None
            time.sleep(0.05)
        return process

    yield start
    for process in started:
        process.kill()


def check_it_goes_on(tokens: Path, tmp_path: Path, processes: int) -> None:
    """What was broken off ends as if it had not been."""
    broken, whole = tmp_path / "broken", tmp_path / "whole"
    words = ["prior.train", tokens, *PRIOR]
    steps = torch.load(broken / "state.pt", weights_only=True)["step"] // 3 * 3 + 6
    check_same(run(processes, words, broken, steps)[-4:], run(1, words, whole, steps)[-4:])


def test_a_killed_process_ends_the_job_which_goes_on_later(
    tokens: Path, endless: Endless, tmp_path: Path
) -> None:
    launcher = endless(2)
    os.kill(_process_of_rank(1, launcher.pid), signal.SIGKILL)
    said = launcher.communicate(timeout=120)[1]
    assert launcher.returncode != 0
    assert "exitcode  : -9" in said
    assert "rank      : 1" in said
    (line,) = [line for line in said.splitlines() if "error: " in line]
    assert "process 0 of 2 lost another one" in line
    check_it_goes_on(tokens, tmp_path, 2)


@pytest.mark.parametrize("processes", [1, 2])
def test_sigterm_saves_the_state_first(
    tokens: Path, endless: Endless, tmp_path: Path, processes: int
) -> None:
    launcher = endless(processes)
    launcher.terminate()
    said = launcher.communicate(timeout=120)[1]
    assert launcher.returncode != 0
    (told,) = {line for line in said.splitlines() if "stopped by SIGTERM" in line}
    step = torch.load(tmp_path / "broken" / "state.pt", weights_only=True)["step"]
    assert f"at step {step}: the same command goes on there" in told
    check_it_goes_on(tokens, tmp_path, processes)


def _process_of_rank(rank: int, launcher: int) -> int:
    """Of those that a launcher started."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            told = (entry / "environ").read_bytes().split(b"\0")
            parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
        except (OSError, ValueError):
            continue
        if parent == launcher and f"RANK={rank}".encode() in told:
            return int(entry.name)
    raise AssertionError(f"no process of rank {rank}")
