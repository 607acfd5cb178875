"""Sampling against a plain loop without caches, and everything that must not change a sample."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from music import SPEC, make_corpus

from codec.corpus import Corpus
from conditioning.base import Window
from plugins.ground.errors import InputError
from prior.checkpoint import load_prior
from prior.engine import Drawing, draw, filter_logits
from prior.job import sampling_cost
from prior.options import SamplingOptions
from prior.plan import steps, uniforms
from prior.sampling import Sampler, sample_tokens

OPTIONS = SamplingOptions(
    seconds=4.0, count=3, artist=["a", "b"], genre=["scales"], seed=5, batch_size=2, device="cpu"
)


def priors(trained: Path) -> list[Path]:
    return [trained / "prior_0", trained / "prior_1"]


def codes_of(corpus: Corpus) -> list[dict[str, list[int]]]:
    return [{name: row[f"codes_{name}"].tolist() for name in ("0", "1")} for row in corpus.tracks()]


@pytest.fixture(scope="module")
def sampled(tmp_path_factory: pytest.TempPathFactory, trained: Path) -> Path:
    folder = tmp_path_factory.mktemp("sampled") / "samples"
    sample_tokens(priors(trained), folder, OPTIONS)
    return folder


def plainly(trained: Path, row: dict[str, object], item: int, name: str, hop: int) -> list[int]:
    """The codes of a stream by whole forward passes, one for each code."""
    prior = load_prior(trained / f"prior_{name}")
    total = len(row[f"codes_{name}"])  # type: ignore[arg-type]
    made: list[int] = []
    for step in steps(total, 32, hop, 0):
        prepared = prior.prepare(row, Window(step.start, int(row["num_samples"])))  # type: ignore[call-overload]
        condition = prior.condition({k: t[None] for k, t in prepared.items()})
        for position in range(step.known, step.stop):
            window = torch.zeros(1, 32, dtype=torch.long)
            window[0, : position - step.start] = torch.tensor(made[step.start :])
            with torch.inference_mode():
                logits = prior(window, condition).logits[:, position - step.start]
            chance = uniforms(5, item, int(name), position, position + 1)
            made.append(int(draw(filter_logits(logits, Drawing(0.98)), torch.from_numpy(chance))))
    return made


@pytest.mark.parametrize(("name", "hop"), [("1", 4), ("0", 16)])
def test_windowed_sampling_equals_a_plain_loop(
    trained: Path, sampled: Path, name: str, hop: int
) -> None:
    corpus = Corpus(sampled)
    assert corpus.lengths("1").tolist() == [100] * 3
    assert corpus.lengths("0").tolist() == [400] * 3
    for item in (0, 2):
        row = corpus[item]
        assert plainly(trained, row, item, name, hop) == row[f"codes_{name}"].tolist()


def test_samples_differ_by_item_and_seed(tmp_path: Path, trained: Path, sampled: Path) -> None:
    first = codes_of(Corpus(sampled))
    assert first[0] != first[2]
    other = OPTIONS.model_copy(update={"seed": 6})
    again = codes_of(sample_tokens(priors(trained)[1:], tmp_path / "s", other))
    assert again[0]["1"] != first[0]["1"]


@pytest.mark.parametrize("size", [1, 3])
def test_batch_size_changes_nothing(
    tmp_path: Path, trained: Path, sampled: Path, size: int
) -> None:
    options = OPTIONS.model_copy(update={"batch_size": size})
    made = sample_tokens(priors(trained), tmp_path / "s", options)
    assert codes_of(made) == codes_of(Corpus(sampled))


def test_resumed_at_every_window_the_bytes_are_the_same(
    tmp_path: Path, trained: Path, sampled: Path
) -> None:
    out, windows = tmp_path / "s", 0
    while True:
        sampler = Sampler(priors(trained), out, OPTIONS)
        brought = next(sampler.windows(), None)
        if brought is None:
            break
        windows += 1
        if windows in (3, 30):
            half = Corpus(out)
            assert 0 < half.lengths("1")[0] <= 100
    assert windows > 40
    names = sorted(p.name for p in sampled.glob("*.parquet"))
    assert sorted(p.name for p in out.glob("*.parquet")) == names
    for name in [*names, "corpus.json"]:
        assert (out / name).read_bytes() == (sampled / name).read_bytes()


def test_streams_sampled_in_two_calls_are_those_of_one(
    tmp_path: Path, trained: Path, sampled: Path
) -> None:
    top = tmp_path / "top"
    sample_tokens([trained / "prior_1"], top, OPTIONS)
    assert Corpus(top).lengths("0").tolist() == [0, 0, 0]
    upwards = SamplingOptions(prompts=top, seconds=0, seed=5, device="cpu")
    made = sample_tokens([trained / "prior_0"], tmp_path / "both", upwards)
    assert codes_of(made) == codes_of(Corpus(sampled))


def test_primed_samples_begin_with_the_prompt(tmp_path: Path, trained: Path) -> None:
    options = SamplingOptions(
        prompts=trained / "tokens",
        prompt_ids=["track-3", "track-0"],
        prompt_seconds=1.5,
        seconds=1,
        device="cpu",
    )
    made = sample_tokens(priors(trained), tmp_path / "s", options)
    real = Corpus(trained / "tokens")
    assert [row["prompt_id"] for row in made.tracks()] == ["track-3", "track-0"]
    for row, track in zip(made.tracks(), (3, 0), strict=True):
        kept = 37  # 1.5 s at 800 Hz are 37 whole codes of 32 samples
        assert row["prompt_samples"] == kept * 32
        assert row["num_samples"] == kept * 32 + 800
        assert row["artist"] == real[track]["artist"]
        assert len(row["codes_1"]) == 62
        assert len(row["codes_0"]) == 4 * 62
        assert np.array_equal(row["codes_1"][:kept], real[track]["codes_1"][:kept])
        assert np.array_equal(row["codes_0"][: 4 * kept], real[track]["codes_0"][: 4 * kept])


def test_earlier_samples_are_continued(tmp_path: Path, trained: Path, sampled: Path) -> None:
    options = SamplingOptions(prompts=sampled, seconds=1, device="cpu")
    made = sample_tokens(priors(trained), tmp_path / "s", options)
    for longer, before in zip(made.tracks(), Corpus(sampled).tracks(), strict=True):
        assert np.array_equal(longer["codes_0"][:400], before["codes_0"])
        assert len(longer["codes_0"]) == 500
        assert longer["artist"] == before["artist"]


def test_prompts_that_leave_nothing_to_make_are_the_samples(tmp_path: Path, trained: Path) -> None:
    options = SamplingOptions(prompts=trained / "tokens", seconds=0, device="cpu")
    made = sample_tokens(priors(trained), tmp_path / "s", options)
    assert codes_of(made) == codes_of(Corpus(trained / "tokens"))


def test_only_the_named_streams_of_a_prompt_are_kept(tmp_path: Path, trained: Path) -> None:
    options = SamplingOptions(
        prompts=trained / "tokens", prompt_ids=["track-0"], prompt_streams=["1"], seconds=0,
        device="cpu",
    )  # fmt: skip
    made = sample_tokens([trained / "prior_0"], tmp_path / "s", options)[0]
    real = Corpus(trained / "tokens")[0]
    assert np.array_equal(made["codes_1"], real["codes_1"])
    assert len(made["codes_0"]) == len(real["codes_0"])
    assert not np.array_equal(made["codes_0"], real["codes_0"])


def test_levels_shorter_than_a_context(tmp_path: Path, trained: Path) -> None:
    options = OPTIONS.model_copy(update={"seconds": 0.1})
    made = sample_tokens(priors(trained), tmp_path / "s", options)
    assert made.lengths("1").tolist() == [3] * 3
    assert made.lengths("0").tolist() == [12] * 3


def _bad_input(
    trained: Path, tmp_path: Path
) -> Iterator[tuple[list[Path], dict[str, object], str]]:
    both, tokens = priors(trained), trained / "tokens"
    yield both, {"artist": ["aa"]}, "unknown artist: 'aa'"
    yield both[:1], {}, "has 0 of 100 codes of stream '1'"
    yield [both[0], both[0]], {}, "both model stream '0'"
    yield both, {"prompts": tokens, "prompt_seconds": 60.0}, "longer than track 'track-0'"
    yield both, {"prompts": tokens, "prompt_seconds": 0.01}, "shorter than one code"
    yield both, {"prompts": tokens, "prompt_ids": ["x"]}, "no track of that id"
    yield both, {"prompts": tokens, "prompt_streams": ["9"]}, "no stream '9'"
    yield both, {"seconds": 0.0}, "nothing to sample"
    yield both, {"hop_fractions": [0.5]}, "needs 2 numbers"
    yield both, {"hop_fractions": [0.5, 2.0]}, "above 0 and at most 1"
    yield both, {"attention": "psychic"}, "no 'psychic'"
    yield both, {"device": "abacus"}, "no device 'abacus'"
    yield both, {"label": {"num_samples": "5"}}, "that column is the corpus's own"
    yield both, {"label": {"artist": "a"}}, "give --artist instead"
    yield [tmp_path], {}, "no prior in"
    yield [], {}, "at least one prior"


def test_bad_input_is_named_and_writes_nothing(tmp_path: Path, trained: Path) -> None:
    for folders, changes, message in _bad_input(trained, tmp_path):
        options = OPTIONS.model_copy(update=changes)
        with pytest.raises(InputError, match=message):
            sample_tokens(folders, tmp_path / "s", options)
    assert list(tmp_path.iterdir()) == []


def test_other_samples_in_the_folder_are_kept(tmp_path: Path, trained: Path) -> None:
    out = tmp_path / "s"
    sample_tokens([trained / "prior_1"], out, OPTIONS)
    before = {p.name: p.read_bytes() for p in out.glob("*.*")}
    with pytest.raises(InputError, match=r"made with seed 5, not 6"):
        sample_tokens([trained / "prior_1"], out, OPTIONS.model_copy(update={"seed": 6}))
    assert {p.name: p.read_bytes() for p in out.glob("*.*")} == before


def test_prompts_of_another_codec_are_refused(tmp_path: Path, trained: Path) -> None:
    from codec.corpus import CorpusWriter

    other = SPEC.model_copy(update={"fingerprint": "f" * 16})
    row = make_corpus(tmp_path / "same")[0]
    CorpusWriter(tmp_path / "tokens", other, settings={}).append([row])
    options = OPTIONS.model_copy(update={"prompts": tmp_path / "tokens"})
    with pytest.raises(InputError, match=r"vqvae ffffffffffffffff.*vqvae 0123456789abcdef"):
        sample_tokens(priors(trained), tmp_path / "s", options)


def test_a_dry_run_counts_codes_and_parameters(trained: Path) -> None:
    cost = sampling_cost(priors(trained), OPTIONS)
    count = sum(p.numel() for p in load_prior(trained / "prior_0").parameters())
    assert cost["stream 0"].startswith(f"{count:,} parameters")
    assert cost["stream 0"].endswith("1,200 codes to make")
    assert cost["stream 1"].endswith("300 codes to make")
