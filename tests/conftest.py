"""Small real things that tests of several rooms share."""

import contextlib
import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from codec.checkpoint import save_codec
from codec.config import VQVAEConfig
from codec.vqvae import VQVAE

# Hooks, which only work from here: a process that has others run the tests loads no other conftest.
sys.path.insert(0, str(Path(__file__).parent / "faults"))
from counting import pytest_configure, pytest_terminal_summary  # noqa: F401

RATE = 2000
# Packages of their own, whose tests run where they are installed (plugins/test_example_plugin.py).
collect_ignore = ["example_plugin", "broken_plugin"]


@pytest.fixture(autouse=True)
def _same_numbers_in_any_order() -> None:
    """Random weights of a test don't depend on which tests ran before it."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def codec_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A codec of 2 kHz with streams of hop 4 and 8; random, but its codes vary with the audio."""
    torch.manual_seed(0)
    codec = VQVAE(
        VQVAEConfig(
            sample_rate=RATE,
            halvings=(2, 1),
            multipliers=(1, 1),
            width=4,
            depth=1,
            codebook_width=4,
            codebook_size=32,
        )
    )
    with torch.no_grad():
        for encoder, quantizer in zip(codec.encoders, codec.quantizers, strict=True):
            vectors = encoder(torch.randn(1, 1, 1024))[0].T
            quantizer.codebook.copy_(vectors[:32])
            quantizer.initialised.fill_(True)
    folder = tmp_path_factory.mktemp("codec")
    save_codec(codec, folder)
    return folder


@pytest.fixture
def music(tmp_path: Path) -> Path:
    """A folder of five short songs in several formats, rates and channel counts, two labelled."""
    folder = tmp_path / "music"
    (folder / "album").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, rate, channels in (
        ("a.wav", 2000, 1),
        ("b.flac", 8000, 2),
        ("album/c.ogg", 11025, 2),
        ("album/d.mp3", 16000, 1),
        ("e.wav", 44100, 6),
    ):
        time = np.arange(rate)[:, None] / rate
        sound = np.sin(2 * np.pi * rng.uniform(100, 900, channels) * time)
        noise = rng.standard_normal((rate, channels))
        soundfile.write(folder / name, 0.3 * sound + 0.05 * noise, rate)
    (folder / "metadata.jsonl").write_text(
        '{"file_name": "a.wav", "artist": "Anna", "bpm": 120}\n'
        '{"file_name": "album/c.ogg", "artist": "Cora", "bpm": 90.5, "live": true}\n'
    )
    return folder


@pytest.fixture
def file_size_limit() -> Callable[[int], AbstractContextManager[None]]:
    """A context in which no file can grow past so many bytes, as on a disk that fills up."""

    @contextlib.contextmanager
    def limited(size: int) -> Iterator[None]:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return limited
