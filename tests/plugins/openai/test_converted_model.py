"""A converted model is used like any other: sampled in every mode, tuned on new artists."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from codec.corpus import Corpus, CorpusWriter
from codec.tokenizing import tokenize_files
from plugins.ground.model import codec_of, prior_of, priors_of
from plugins.ground.options import TrainingOptions
from plugins.openai.converting import convert
from prior.checkpoint import load_prior
from prior.options import SamplingOptions
from prior.sampling import sample_tokens
from prior.training import train_prior

ROOT = Path(__file__).parents[3]
GOLDEN, MUSIC = ROOT / "tests" / "golden", ROOT / "examples" / "music"
PARTS = ("codec", "top", "upsampler_0", "upsampler_1")
SECONDS = 1 / 44100


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("converted") / "model"
    convert([GOLDEN / f"{name}.pth.tar" for name in PARTS], out)
    return out


def expected(name: str) -> dict[str, np.ndarray]:
    with np.load(GOLDEN / f"{name}_expected.npz") as arrays:
        return dict(arrays)


def options(labels: np.ndarray, **more) -> SamplingOptions:
    """What a case tells of its first item, whose window begins its track."""
    total, offset, length, artist, *genres = labels[0].tolist()
    assert offset == 0
    return SamplingOptions(
        **{"seconds": length * SECONDS, **more},
        total_seconds=total * SECONDS,
        artist=[str(artist)],
        genre=[" ".join(str(number) for number in genres if number > 0)],
    )


def prompts(spec, folder: Path, samples: int, **codes: np.ndarray) -> Path:
    """A corpus of one track."""
    CorpusWriter(folder, spec).replace([{"id": "prompt", "num_samples": samples, **codes}])
    return folder


def drawn(case, level: int):
    """The case's uniforms of its first item."""
    return lambda item, at, start, stop: case["uniforms"][item, start:stop] if at == level else None


def test_ancestral_sampling_gives_the_tokens_of_the_reference(model, tmp_path):
    case = expected("top")
    plain = options(case["labels"], temperature=1.0)
    made = sample_tokens([prior_of(model, "2")], tmp_path / "samples", plain, drawn(case, 2))
    assert made.codes(0, "2").tolist() == case["sampled"][0].tolist()


def test_primed_sampling_gives_the_tokens_of_the_reference(model, tmp_path):
    case, hop = expected("top"), 128
    prior, count = prior_of(model, "2"), int(case["prompt_length"])
    corpus = prompts(
        load_prior(prior).config.spec,
        tmp_path / "prompts",
        count * hop,
        codes_2=case["codes"][0, :count].astype(np.uint16),
    )
    primed = options(
        case["labels"],
        prompts=corpus,
        seconds=(case["codes"].shape[1] - count) * hop * SECONDS,
        temperature=0.9,
        top_k=12,
    )
    made = sample_tokens([prior], tmp_path / "samples", primed, drawn(case, 2))
    assert made.codes(0, "2").tolist() == case["sampled_primed"][0].tolist()


@pytest.mark.parametrize(("stream", "upper", "hop"), [("0", "1", 8), ("1", "2", 32)])
def test_upsampling_gives_the_tokens_of_the_reference(model, tmp_path, stream, upper, hop):
    case = expected(f"upsampler_{stream}")
    prior = prior_of(model, stream)
    corpus = prompts(
        load_prior(prior).config.spec,
        tmp_path / "prompts",
        case["codes"].shape[1] * hop,
        # Not told to the prior of stream 0, but it says how long the prompt is.
        **{
            "codes_2": np.zeros(case["codes"].shape[1] * hop // 128, np.uint16),
            f"codes_{upper}": case["upper_codes"][0].astype(np.uint16),
        },
    )
    upwards = options(
        case["labels"], prompts=corpus, prompt_streams=["2", upper], seconds=0, temperature=1.0
    )
    made = sample_tokens([prior], tmp_path / "samples", upwards, drawn(case, int(stream)))
    assert made.codes(0, stream).tolist() == case["sampled"][0].tolist()


def test_fine_tuning_on_new_artists_keeps_the_old_ones_and_learns(model, tmp_path):
    music = tmp_path / "music"
    music.mkdir()
    rows = [json.loads(line) for line in (MUSIC / "metadata.jsonl").read_text().splitlines()]
    chosen = [row for row in rows if row["artist"]][::4]
    assert len({row["artist"] for row in chosen}) == 2
    for row in chosen:
        shutil.copy(MUSIC / row["file_name"], music)
    (music / "metadata.jsonl").write_text("\n".join(map(json.dumps, chosen)))
    tokenize_files([str(music)], codec_of(model), tmp_path / "tokens", workers=1)

    init, tuned = priors_of(model)[-1], tmp_path / "tuned"
    learn = TrainingOptions(
        steps=60, batch_size=8, learning_rate=3e-3, warmup_steps=5, log_every=1, ema_decay=0.5
    )
    train_prior(tmp_path / "tokens", tuned, init=init, options=learn)

    old, new = load_prior(init), load_prior(tuned)
    before, after = (p.conditioners["artist"].config.names for p in (old, new))
    assert after[: len(before)] == before
    assert set(after[len(before) :]) == {"maxstack", "obsidian_shell"}
    table = new.conditioners["artist"].table.weight
    assert table.shape[0] == 302
    torch.testing.assert_close(
        table[1:300], old.conditioners["artist"].table.weight[1:], rtol=0.02, atol=1e-5
    )
    lines = (tuned / "metrics.jsonl").read_text().splitlines()
    bits = [line["bits_per_code"] for line in map(json.loads, lines) if "bits_per_code" in line]
    assert np.mean(bits[-10:]) < np.mean(bits[:5]) - 0.5
    assert len(Corpus(tmp_path / "tokens")) == len(chosen)
