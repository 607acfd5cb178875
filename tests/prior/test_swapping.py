"""Kernels swapped on the same weights: what is trained and sampled is the same."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from music import TINY
from safetensors.torch import load_file

from codec.corpus import Corpus
from plugins import registry
from plugins.ground.options import TrainingOptions
from prior.attention.base import AttentionKernel, AttentionRequest
from prior.attention.pattern import PATTERNS
from prior.options import SamplingOptions
from prior.sampling import sample_tokens
from prior.training import train_prior

GREEDY = SamplingOptions(
    seconds=2.0, count=2, artist=["a", "b"], genre=["scales"], top_k=1, device="cpu"
)


def able(grad: bool) -> list[str]:
    """Kernels that serve every pattern here."""
    requests = [AttentionRequest("cpu", torch.float32, name, grad) for name in PATTERNS]
    return [
        name
        for name in registry.plugins(registry.ATTENTION)
        if issubclass(cls := registry.get(registry.ATTENTION, name), AttentionKernel)
        and all(cls().why_not(request) is None for request in requests)
    ]


@pytest.fixture(scope="module")
def greedy(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> list[list[int]]:
    return sampled(trained, tmp_path_factory.mktemp("greedy") / "samples", "naive")


def sampled(trained: Path, out: Path, attention: str) -> list[list[int]]:
    options = GREEDY.model_copy(update={"attention": attention})
    made = sample_tokens([trained / "prior_0", trained / "prior_1"], out, options)
    return [row[f"codes_{name}"].tolist() for row in Corpus(made.folder).tracks() for name in "01"]


@pytest.mark.parametrize("attention", able(grad=False))
def test_every_kernel_samples_the_same_codes(
    attention: str, trained: Path, greedy: list[list[int]], tmp_path: Path
) -> None:
    assert [len(codes) for codes in greedy] == [200, 50] * 2
    assert len(set(greedy[0])) > 2
    assert sampled(trained, tmp_path / "samples", attention) == greedy


def test_every_kernel_that_can_is_tried() -> None:
    assert {"naive", "flash", "sparse"} <= set(able(grad=True)) <= set(able(grad=False))


@pytest.mark.parametrize("attention", able(grad=True))
def test_every_kernel_trains_the_same_weights(
    attention: str, trained: Path, tmp_path: Path
) -> None:
    """As those of the fixture, with the fastest kernel."""
    options = TrainingOptions(steps=20, batch_size=4, learning_rate=3e-3, device="cpu")
    out = tmp_path / "prior_1"
    train_prior(
        trained / "tokens", out, preset="tiny", set=TINY, attention=attention, options=options
    )
    weights = load_file(out / "model.safetensors")
    for name, expected in load_file(trained / "prior_1" / "model.safetensors").items():
        torch.testing.assert_close(weights[name], expected, atol=1e-3, rtol=0, msg=name)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (
            "prior.sample prior_1 --out s --seconds 1 --attention xformers",
            "'xformers' can't serve this: its operator runs on CUDA only, and the device is cpu",
        ),
        (
            "prior.train tokens --out p --preset tiny --attention flex",
            "'flex' can't serve this: flex_attention has no backward pass on a CPU",
        ),
    ],
)
def test_a_kernel_that_can_not_serve_says_why(trained: Path, line: str, reason: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", *line.split(), "--device", "cpu"],
        cwd=trained,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 2
    assert ended.stderr == f"error: attention kernel {reason}\n"
    assert not (trained / line.split()[3]).exists()
