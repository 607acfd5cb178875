import json
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from music import SPEC, TINY, TINY_CODES, make_corpus

from codec.corpus import Corpus, CorpusWriter
from conditioning.base import Window
from plugins.ground.errors import InputError
from plugins.ground.options import TrainingOptions
from plugins.ground.saved import load_weights
from prior.checkpoint import load_prior, read_config
from prior.data import Windows, unigram_surprise
from prior.engine import Engine
from prior.training import default_conditioners, train_prior

OPTIONS = TrainingOptions(steps=4, batch_size=4, device="cpu")


def test_windows_are_cut_from_the_corpus(trained: Path) -> None:
    corpus = Corpus(trained / "tokens")
    prior = load_prior(trained / "prior_0")
    windows = Windows(corpus, prior, range(4), seed=0, training=True)
    seen = set()
    for index in range(40):
        item = windows(index)
        track, start = windows.crops(index)
        assert start % 4 == 0
        row = corpus[track]
        assert np.array_equal(item["codes"], row["codes_0"][start : start + 32])
        assert np.array_equal(
            item["codes/codes"] if "codes/codes" in item else item["codes/upper"],
            row["codes_1"][start // 4 : start // 4 + 8],
        )
        assert item["mask"].all()
        seen.add((track, start))
    assert len(seen) > 25


def test_short_tracks_are_padded_and_their_padding_does_not_count(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "tokens", lengths=(5, 40))
    train_prior(tmp_path / "tokens", tmp_path / "prior", preset="tiny", set=TINY, options=OPTIONS)
    prior = load_prior(tmp_path / "prior")
    item = Windows(corpus, prior, [0], seed=0, training=False)(0)
    assert item["mask"].tolist() == [True] * 5 + [False] * 27
    batch = {name: tensor[None] for name, tensor in item.items()}
    condition = prior.condition(batch)
    whole = prior.loss(batch["codes"], condition, batch["mask"])
    other = batch["codes"].clone()
    other[:, 5:] = 7
    assert torch.equal(whole, prior.loss(other, condition, batch["mask"]))
    assert not torch.equal(whole, prior.loss(other, condition))


def test_unigram_surprise_by_hand(tmp_path: Path) -> None:
    row = {"id": "train", "num_samples": 4 * 32, "codes_1": np.array([0, 0, 0, 1], np.uint16)}
    CorpusWriter(tmp_path / "c", SPEC, settings={}).append([row])
    bits = unigram_surprise(Corpus(tmp_path / "c"), "1", [0])
    assert bits == pytest.approx(-np.log2(np.array([4, 2, *[1] * 10]) / 16))


def test_it_learns_more_than_which_codes_are_common(tmp_path: Path) -> None:
    make_corpus(tmp_path / "tokens", lengths=(160,) * 40)
    options = TrainingOptions(
        steps=150, batch_size=8, learning_rate=5e-3, device="cpu", evaluate_every=75
    )
    train_prior(
        tmp_path / "tokens",
        tmp_path / "prior",
        preset="tiny",
        set=TINY,
        held_out=["track-6", "track-7"],
        options=options,
    )
    lines = (tmp_path / "prior" / "metrics.jsonl").read_text().splitlines()
    last = [json.loads(line) for line in lines if "validation" in line][-1]
    assert last["validation/bits_per_code"] < 0.7 * last["validation/unigram_bits_per_code"]


ENCODER = {"width": 32, "depth": 2, "heads": 2, "blocks": 4, "init_scale": 1.0}
LYRICS = {
    "lyrics_memory": {"lyrics_memory.tokens": 16, "lyrics_memory.network": ENCODER},
    "lyrics_prefix": {"lyrics_prefix.tokens": 16},
}


@pytest.mark.parametrize("kind", LYRICS)
def test_a_prior_learns_from_lyrics(tmp_path: Path, kind: str) -> None:
    """Only the words tell the two songs apart."""
    songs = {"la la la la la": 3, "do re mi fa so": 8}
    rows = [
        {"id": f"{turn}-{words}", "num_samples": 32 * 32, "lyrics": words,
         "codes_1": np.full(32, code, np.uint16)}
        for turn in range(2) for words, code in songs.items()
    ]  # fmt: skip
    CorpusWriter(tmp_path / "tokens", SPEC).append(rows)
    reads = kind.removeprefix("lyrics_")
    train_prior(
        tmp_path / "tokens",
        tmp_path / "prior",
        preset="tiny",
        set={**TINY, "patterns": ["row", reads, "column"]},
        conditioners=["timing", kind],
        conditioner_set=LYRICS[kind],
        options=OPTIONS.model_copy(update={"steps": 60, "learning_rate": 1e-2, "log_every": 1}),
    )
    lines = (tmp_path / "prior" / "metrics.jsonl").read_text().splitlines()
    figures = [json.loads(line) for line in lines]
    own = "lyrics" if reads == "memory" else kind
    assert figures[-1][f"bits_of_{own}"] < 4  # any character alike would be 6.3
    prior = load_prior(tmp_path / "prior")
    for words, code in songs.items():
        batch = prior.prepare({"lyrics": words}, Window(0, 32 * 32))
        condition = prior.condition({name: tensor[None] for name, tensor in batch.items()})
        nothing = torch.zeros(1, 0, dtype=torch.int64)
        assert Engine(prior, condition).generate(nothing, 4).tolist() == [[code] * 4]


def test_presets_that_read_lyrics_are_told_them() -> None:
    assert default_conditioners(SPEC, "1", "tiny") == ("artist", "genre", "timing")
    assert default_conditioners(SPEC, "0", "upsampler") == ("artist", "genre", "codes")
    for preset, conditioner in (("5b_lyrics", "lyrics_memory"), ("1b_lyrics", "lyrics_prefix")):
        assert default_conditioners(SPEC, "1", preset)[3:] == (conditioner,)


def test_fine_tuning_grows_vocabularies_and_keeps_what_was_learned(
    tmp_path: Path, trained: Path
) -> None:
    make_corpus(tmp_path / "tokens", artists=("b", "newcomer"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train_prior(
            tmp_path / "tokens",
            tmp_path / "tuned",
            init=trained / "prior_0",
            options=OPTIONS.model_copy(update={"learning_rate": 1e-9, "weight_decay": 0.0}),
        )
    old, new = read_config(trained / "prior_0"), read_config(tmp_path / "tuned")
    names = {r.name: r.config["names"] for r in new.conditioners if "names" in r.config}
    assert names["artist"] == ["a", "b", "newcomer"]
    assert [r.name for r in new.conditioners] == [r.name for r in old.conditioners]
    before, after = load_weights(trained / "prior_0"), load_weights(tmp_path / "tuned")
    table = "conditioners.artist.table.weight"
    assert after[table].shape[0] == before[table].shape[0] + 1
    assert torch.allclose(after[table][:3], before[table], atol=1e-6)
    for name in before.keys() - {table}:
        assert torch.allclose(after[name], before[name], atol=1e-6), name
    load_prior(tmp_path / "tuned").conditioners["artist"].check({"artist": "newcomer"})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"stream": "7"}, "no stream '7'; there are: 0, 1"),
        ({"preset": "huge"}, "no preset 'huge'; there are: tiny"),
        ({"set": {"widht": 3}}, "no setting 'widht'.*did you mean width"),
        ({"set": {"heads": 3}}, "can't be split into 3 heads"),
        ({"conditioners": ["weather"]}, "no 'weather' in jukebox.conditioners; there are: artist"),
        ({"conditioners": ["codes"]}, "stream"),
        ({"conditioner_set": {"tempo.x": 1}}, "give NAME.SETTING=VALUE"),
        ({"held_out": ["*"]}, "leaves no track"),
        ({"held_out": ["nobody"]}, "no track has an id like that"),
        ({"attention": "psychic"}, "no 'psychic' in jukebox.attention"),
        ({"set": {"stream": "0"}}, "--set stream: it follows"),
        ({"init": "/nowhere"}, "no prior in /nowhere"),
        ({"init": "/nowhere", "preset": "5b"}, "--init brings shape"),
    ],
)
def test_bad_settings_are_named_before_anything_is_written(
    tmp_path: Path, trained: Path, arguments: dict[str, object], message: str
) -> None:
    settings = {"preset": "tiny", "set": TINY, **arguments}
    if "init" in arguments:
        settings = arguments
    with pytest.raises(InputError, match=message):
        train_prior(trained / "tokens", tmp_path / "prior", options=OPTIONS, **settings)
    assert not (tmp_path / "prior").exists()


def test_init_refuses_codes_of_another_codec(tmp_path: Path, trained: Path) -> None:
    other = SPEC.model_copy(update={"fingerprint": "f" * 16})
    row = {**Corpus(trained / "tokens")[0]}
    CorpusWriter(tmp_path / "tokens", other, settings={}).append([row])
    with pytest.raises(InputError, match=r"ffffffffffffffff.*0123456789abcdef"):
        train_prior(tmp_path / "tokens", tmp_path / "p", init=trained / "prior_0", options=OPTIONS)


def test_a_dry_run_says_what_it_costs_and_writes_nothing(
    tmp_path: Path, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dry = OPTIONS.model_copy(update={"dry_run": True})
    train_prior(
        trained / "tokens", tmp_path / "p", stream="0", preset="tiny", set=TINY,
        conditioner_set=TINY_CODES, options=dry,
    )  # fmt: skip
    said = capsys.readouterr().out
    count = sum(p.numel() for p in load_prior(trained / "prior_0").parameters())
    assert f"parameters: {count:,}" in said
    assert "memory" in said
    assert "disk" in said
    assert not (tmp_path / "p").exists()


def test_a_dry_run_of_a_large_prior_builds_nothing(
    tmp_path: Path, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dry = OPTIONS.model_copy(update={"dry_run": True})
    train_prior(trained / "tokens", tmp_path / "p", preset="5b", options=dry)
    assert re.search(r"parameters: 5,\d{3},\d{3},\d{3}", capsys.readouterr().out)
    train_prior(trained / "tokens", tmp_path / "p", preset="5b_lyrics", options=dry)
    assert re.search(r"parameters: 5,[56]\d{2},\d{3},\d{3}", capsys.readouterr().out)
    train_prior(trained / "tokens", tmp_path / "p", preset="1b_lyrics", options=dry)
    assert re.search(r"parameters: 92\d,\d{3},\d{3}", capsys.readouterr().out)


def test_other_tracks_are_another_training(tmp_path: Path, trained: Path) -> None:
    out = tmp_path / "prior"
    train_prior(trained / "tokens", out, preset="tiny", set=TINY, options=OPTIONS)
    before = (out / "state.pt").read_bytes()
    make_corpus(tmp_path / "others", lengths=(70, 60, 50, 90))
    with pytest.raises(InputError, match="holds a training with corpus"):
        train_prior(tmp_path / "others", out, preset="tiny", set=TINY, options=OPTIONS)
    assert (out / "state.pt").read_bytes() == before
