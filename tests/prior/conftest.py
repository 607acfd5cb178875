"""A small corpus and a prior for each of its streams, trained for a few steps."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from music import TINY, TINY_CODES, make_corpus

from plugins.ground.options import TrainingOptions
from prior.training import train_prior


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tokens/, prior_1/ and prior_0/."""
    folder = tmp_path_factory.mktemp("trained")
    make_corpus(folder / "tokens")
    options = TrainingOptions(steps=20, batch_size=4, learning_rate=3e-3, device="cpu")
    train_prior(folder / "tokens", folder / "prior_1", preset="tiny", set=TINY, options=options)
    train_prior(
        folder / "tokens",
        folder / "prior_0",
        stream="0",
        preset="tiny",
        set=TINY,
        conditioner_set=TINY_CODES,
        options=options,
    )
    return folder
