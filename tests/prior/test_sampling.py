"""Sampling against a plain loop without caches, and everything that must not change a sample."""

import json
import re
import shutil
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from music import SPEC, TINY, make_corpus

from codec.corpus import Corpus, CorpusWriter
from conditioning.base import Window
from plugins import registry
from plugins.ground.errors import InputError
from plugins.ground.saved import save_config
from prior.checkpoint import load_prior, save_prior
from prior.config import preset
from prior.drawing import Drawing, draw, filter_logits
from prior.engine import Engine
from prior.job import Job, sampling_cost
from prior.options import SamplingOptions
from prior.plan import steps, uniforms
from prior.prior import Prior
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


def test_levels_shorter_than_a_context(
    tmp_path: Path, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths = []

    class Watched(Engine):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            lengths.append(self.length)

    monkeypatch.setattr("prior.sampling.Engine", Watched)
    options = OPTIONS.model_copy(update={"seconds": 0.1})
    made = sample_tokens(priors(trained), tmp_path / "s", options)
    assert made.lengths("1").tolist() == [3] * 3
    assert made.lengths("0").tolist() == [12] * 3
    assert lengths == [3, 3, 12, 12]  # no larger caches than are needed, for two batches each


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_precision_is_a_setting_of_the_samples(tmp_path: Path, trained: Path, dtype: str) -> None:
    short = {"seconds": 0.5, "count": 1}
    options = OPTIONS.model_copy(update={**short, "dtype": dtype})
    made = sample_tokens(priors(trained), tmp_path / "s", options)
    assert made.lengths("0").tolist() == [52]
    assert made.settings["dtype"] == dtype
    with pytest.raises(InputError, match=f"made with dtype '{dtype}'"):
        sample_tokens(priors(trained), tmp_path / "s", OPTIONS.model_copy(update=short))


def test_int8_is_a_setting_of_the_samples(tmp_path: Path, trained: Path, sampled: Path) -> None:
    options = OPTIONS.model_copy(update={"int8": True})
    made = sample_tokens(priors(trained), tmp_path / "s", options)
    assert made.settings["int8"] is True
    assert "int8" not in Corpus(sampled).settings
    pairs = zip(codes_of(Corpus(sampled)), codes_of(made), strict=True)
    same = [np.mean(np.array(a["1"]) == np.array(b["1"])) for a, b in pairs]
    assert np.mean(same) > 0.5  # samples of a trained prior stay nearly what they were
    with pytest.raises(InputError, match="made with int8 True"):
        sample_tokens(priors(trained), tmp_path / "s", OPTIONS)


@pytest.mark.parametrize("engine", ["eager", "native"])
def test_the_engine_is_no_setting_of_the_samples(
    tmp_path: Path, trained: Path, sampled: Path, engine: str
) -> None:
    options = OPTIONS.model_copy(update={"engine": engine})
    sampler = Sampler(priors(trained), tmp_path / "s", options)
    next(sampler.windows())
    other = "native" if engine == "eager" else "eager"
    options = OPTIONS.model_copy(update={"engine": other})
    made = sample_tokens(priors(trained), tmp_path / "s", options)
    assert codes_of(made) == codes_of(Corpus(sampled))


def test_samples_from_before_there_was_a_choice_go_on(
    tmp_path: Path, trained: Path, sampled: Path
) -> None:
    sampler = Sampler(priors(trained), tmp_path / "s", OPTIONS)
    next(sampler.windows())
    manifest = json.loads((tmp_path / "s" / "corpus.json").read_text())
    for new in ("dtype", "lyrics", "draws"):
        manifest["settings"].pop(new, None)
    (tmp_path / "s" / "corpus.json").write_text(json.dumps(manifest))
    assert codes_of(sample_tokens(priors(trained), tmp_path / "s", OPTIONS)) == codes_of(
        Corpus(sampled)
    )


def test_the_weights_have_the_precision_asked_for(trained: Path) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        options = OPTIONS.model_copy(update={"dtype": str(dtype).removeprefix("torch.")})
        job = Job(priors(trained), options)
        prior = load_prior(trained / "prior_1", job.device, job.dtype)
        assert {p.dtype for p in prior.parameters()} == {dtype}


def test_a_dry_run_counts_bytes_as_they_will_be(tmp_path: Path) -> None:
    config = preset("small", SPEC, "1")
    save_config(tmp_path, "prior", config.model_dump(mode="json"))

    def megabytes(**changes: object) -> list[int]:
        plain = OPTIONS.model_copy(update={"artist": [], "genre": [], **changes})
        cost = sampling_cost([tmp_path], plain)["stream 1"]
        return [int(n.replace(",", "")) for n in re.findall(r"([\d,]+) MiB", cost)]

    whole = {"seconds": 4096 * 32 / 800}
    weights, caches = megabytes(**whole)
    count = sum(p.numel() for p in Prior(config).parameters())
    assert weights == round(4 * count / 2**20)
    assert megabytes(**whole, dtype="bfloat16") == [round(2 * count / 2**20), caches // 2]
    shape = Prior(config).transformer
    layers = sum(p.numel() for n, p in shape.named_parameters() if n.endswith("weight"))
    assert megabytes(**whole, int8=True)[0] < (4 * count - 2.9 * layers) / 2**20
    # Caches hold what there will be, not the context.
    assert 0 < megabytes(seconds=1024 * 32 / 800)[1] < caches / 2


def test_one_prior_at_a_time_is_in_memory(
    tmp_path: Path, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[weakref.ref[Prior]] = []
    alive: list[int] = []

    def load(*given: object) -> Prior:
        alive.append(sum(ref() is not None for ref in loaded))
        prior = load_prior(*given)  # type: ignore[arg-type]
        loaded.append(weakref.ref(prior))
        return prior

    monkeypatch.setattr("prior.sampling.load_prior", load)
    options = OPTIONS.model_copy(update={"seconds": 0.5})
    sample_tokens(priors(trained), tmp_path / "s", options)
    assert alive == [0, 0]


def test_draws_can_be_handed_in(tmp_path: Path, trained: Path, sampled: Path) -> None:
    asked: list[tuple[int, int, int, int]] = []

    def draws(item: int, level: int, start: int, stop: int) -> np.ndarray:
        asked.append((item, level, start, stop))
        return uniforms(5, item, level, start, stop)

    other_seed = OPTIONS.model_copy(update={"seed": 99})
    made = sample_tokens(priors(trained), tmp_path / "s", other_seed, draws)
    assert codes_of(made) == codes_of(Corpus(sampled))
    for item in range(3):
        for level, total in ((0, 400), (1, 100)):
            parts = [(a, b) for i, lev, a, b in asked if (i, lev) == (item, level)]
            assert [p for a, b in parts for p in range(a, b)] == [*range(total)]
    with pytest.raises(InputError, match="made with draws"):
        sample_tokens(priors(trained), tmp_path / "s", other_seed)


def test_lyrics_come_from_a_file(tmp_path: Path) -> None:
    record = registry.PluginRecord(
        name="lyrics_prefix", distribution="", version="", config={"tokens": 16}
    )
    prior = tmp_path / "prior"
    save_prior(Prior(preset("tiny", SPEC, "1", [record], **TINY)), prior)
    text = "Ein Lied, größer\nals zwei 🎵\n"
    (tmp_path / "words.txt").write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    options = SamplingOptions(seconds=0.1, count=3, lyrics=tmp_path / "words.txt", device="cpu")
    made = sample_tokens([prior], tmp_path / "s", options)
    assert [row["lyrics"] for row in made.tracks()] == [text] * 3
    (tmp_path / "words.txt").rename(tmp_path / "moved.txt")
    moved = options.model_copy(update={"lyrics": tmp_path / "moved.txt"})
    sample_tokens([prior], tmp_path / "s", moved)  # the same text
    (tmp_path / "moved.txt").write_text("other words")
    with pytest.raises(InputError, match="made with lyrics 'text "):
        sample_tokens([prior], tmp_path / "s", moved)


PICKY = """
import torch
from pydantic import BaseModel
from conditioning.base import Condition, Conditioner, Provides
from plugins.ground.errors import InputError

class Picky(Conditioner):
    class Config(BaseModel):
        pass
    provides = Provides(start=True)
    def prepare(self, track, window, rng=None):
        return {"one": torch.ones(1)}
    def forward(self, batch):
        return Condition(start=batch["one"][:, None].expand(-1, 1, self.site.width))
    def check(self, track):
        if "x" in track.get("lyrics", ""):
            raise InputError("nobody can sing an x")
"""


def test_typed_lyrics_are_checked_and_those_of_prompts_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "site" / "picky_plugin-1.0.dist-info"
    info.mkdir(parents=True)
    (info.parent / "picky_plugin.py").write_text(PICKY)
    (info / "METADATA").write_text("Name: picky-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[jukebox.conditioners]\npicky = picky_plugin:Picky\n")
    monkeypatch.syspath_prepend(str(info.parent))
    record = registry.PluginRecord(name="picky", distribution="picky-plugin", version="1.0")
    save_prior(Prior(preset("tiny", SPEC, "1", [record], **TINY)), tmp_path / "prior")
    (tmp_path / "words.txt").write_text("an x")
    options = SamplingOptions(seconds=0.1, lyrics=tmp_path / "words.txt", device="cpu")
    with pytest.raises(InputError, match="nobody can sing an x"):
        sample_tokens([tmp_path / "prior"], tmp_path / "s", options)
    row = {**make_corpus(tmp_path / "plain")[0], "lyrics": "an x"}
    CorpusWriter(tmp_path / "tokens", SPEC, settings={}).append([row])
    prompted = SamplingOptions(seconds=0.1, prompts=tmp_path / "tokens", device="cpu")
    made = sample_tokens([tmp_path / "prior"], tmp_path / "s", prompted)
    assert made[0]["lyrics"] == "an x"


def test_finer_priors_may_know_other_names(tmp_path: Path, trained: Path) -> None:
    """Those of the published models do; the coarsest one catches what is mistyped."""
    other = tmp_path / "prior_0"
    shutil.copytree(trained / "prior_0", other)
    config = json.loads((other / "config.json").read_text())
    (artist,) = [c for c in config["conditioners"] if c["name"] == "artist"]
    artist["config"]["names"] = ["somebody", "else"]
    (other / "config.json").write_text(json.dumps(config))
    options = OPTIONS.model_copy(update={"seconds": 1.0})
    with pytest.warns(UserWarning, match="prior_0 counts it as unknown: unknown artist: 'a'"):
        made = sample_tokens([other, trained / "prior_1"], tmp_path / "s", options)
    assert made[0]["artist"] == "a"


def test_words_that_were_aligned_in_between_stay(tmp_path: Path, trained: Path) -> None:
    samples, words = tmp_path / "s", [{"start": 0.0, "end": 0.5, "text": "la"}]
    sampler = Sampler(priors(trained), samples, OPTIONS)
    next(iter(sampler.windows()))
    CorpusWriter(samples, SPEC, Corpus(samples).settings).set_words(0, {"sample-0001": words})
    made = sample_tokens(priors(trained), samples, OPTIONS)
    assert [row["words"] for row in made.tracks()] == [[], words, []]


def test_weights_that_can_not_be_used_leave_no_samples(tmp_path: Path, trained: Path) -> None:
    """So that the same command works once they are mended."""
    prior, out = tmp_path / "prior", tmp_path / "s"
    shutil.copytree(trained / "prior_1", prior)
    good = (prior / "model.safetensors").read_bytes()
    (prior / "model.safetensors").write_bytes(good[:-9])
    with pytest.raises(InputError, match="can't read weights"):
        sample_tokens([prior], out, OPTIONS)
    assert not out.exists()
    (prior / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"can't read .*model.safetensors: No such file"):
        sample_tokens([prior], out, OPTIONS)
    (prior / "model.safetensors").write_bytes(good)
    sample_tokens([prior], out, OPTIONS)


def _bad_input(
    trained: Path, tmp_path: Path
) -> Iterator[tuple[list[Path], dict[str, object], str]]:
    both, tokens = priors(trained), trained / "tokens"
    yield both, {"artist": ["aa"]}, "unknown artist: 'aa'"
    yield both, {"label": {"tempo": "120"}}, "no prior that is to be sampled reads tempo"
    yield both, {"lyrics": Path(__file__)}, "no prior that is to be sampled reads lyrics"
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
    yield both, {"label": {"lyrics": "la"}}, "give --lyrics instead"
    yield both, {"lyrics": trained / "words.txt"}, "can't read .*words.txt: No such file"
    yield both, {"lyrics": trained}, "can't read .*: Is a directory"
    yield both, {"lyrics": trained / "empty.txt"}, "empty.txt are empty"
    yield both, {"lyrics": trained / "prior_0" / "state.pt"}, "state.pt is not UTF-8"
    yield [tmp_path], {}, "no prior in"
    yield [], {}, "at least one prior"


def test_bad_input_is_named_and_writes_nothing(tmp_path: Path, trained: Path) -> None:
    (trained / "empty.txt").write_text(" \n\n")
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
