"""Lyrics on their way to a prior: from files, with times and without, and what can't be sung."""

import warnings
from pathlib import Path

import numpy as np
import pytest
from music import RATIO, SPEC, TINY

from codec.corpus import Corpus, CorpusWriter
from plugins import registry
from plugins.ground.errors import InputError
from plugins.ground.options import TrainingOptions
from prior.checkpoint import save_prior
from prior.config import preset
from prior.data import identity
from prior.embedding import embed_corpus
from prior.items import make_items
from prior.options import SamplingOptions
from prior.prior import Prior
from prior.sample import Sample
from prior.sampling import sample_tokens
from prior.training import train_prior

OPTIONS = TrainingOptions(steps=2, batch_size=2, device="cpu")
SONG = "[00:01.00]la lo\n[00:02.00]lu li\n[00:03.00]\n"
WORDS = [
    {"start": 1.0, "end": 1.5, "text": "la"},
    {"start": 1.5, "end": 2.0, "text": "lo"},
    {"start": 2.0, "end": 2.5, "text": "lu"},
    {"start": 2.5, "end": 3.0, "text": "li"},
]


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    """Two tracks of four seconds, one with lyrics."""
    rng = np.random.default_rng(0)
    rows = [
        {
            "id": name,
            "num_samples": 100 * 32,
            "lyrics": lyrics,
            "codes_0": rng.integers(0, 24, 100 * RATIO).astype(np.uint16),
            "codes_1": rng.integers(0, 12, 100).astype(np.uint16),
        }
        for name, lyrics in (("sung", "la lo\nlu li"), ("played", ""))
    ]
    CorpusWriter(tmp_path / "tokens", SPEC).append(rows)
    return tmp_path / "tokens"


@pytest.fixture
def reader(tmp_path: Path) -> Path:
    """A prior that reads lyrics, eight characters at a time; what it reads matters to it."""
    record = registry.PluginRecord(
        name="lyrics_prefix", distribution="", version="", config={"tokens": 8}
    )
    config = preset("tiny", SPEC, "1", [record], **TINY, init_scale=10)
    save_prior(Prior(config), tmp_path / "prior")
    return tmp_path / "prior"


def align(folder: Path, words: list[dict] = WORDS) -> None:
    corpus = Corpus(folder)
    CorpusWriter(folder, SPEC, corpus.settings).set_words(0, {"sung": words})


def file(folder: Path, name: str, content: str) -> Path:
    (folder / name).write_text(content, "utf-8")
    return folder / name


# Training


def train(tokens: Path, out: Path, *conditioners: str, **options) -> None:
    given = {"conditioners": conditioners} if conditioners else {}
    options = {"preset": "tiny", "set": TINY, "options": OPTIONS, **options}
    sizes = {"lyrics_prefix.tokens": 8} if "lyrics_prefix" in conditioners else {}
    train_prior(tokens, out, **given, conditioner_set=sizes, **options)


def test_a_training_that_reads_words_is_another_once_they_have_other_times(
    tmp_path: Path, tokens: Path
) -> None:
    plain, reading = tmp_path / "plain", tmp_path / "reading"
    train(tokens, plain, "artist")
    train(tokens, reading, "lyrics_prefix")
    before = (reading / "model.safetensors").read_bytes()
    align(tokens)
    train(tokens, plain, "artist")  # goes on
    with pytest.raises(InputError, match=r"with corpus '\w+', not '\w+, words \w+'"):
        train(tokens, reading, "lyrics_prefix")
    assert (reading / "model.safetensors").read_bytes() == before
    train(tokens, tmp_path / "new", "lyrics_prefix")
    align(tokens)  # the same times
    train(tokens, tmp_path / "new", "lyrics_prefix")
    align(tokens, [{**word, "end": word["end"] + 0.1} for word in WORDS])
    with pytest.raises(InputError, match="with corpus"):
        train(tokens, tmp_path / "new", "lyrics_prefix")


def test_music_without_lyrics_teaches_nobody_to_sing(
    tmp_path: Path, tokens: Path, reader: Path
) -> None:
    silent = tmp_path / "silent"
    rows = [{**row, "lyrics": " \n"} for row in Corpus(tokens).tracks()]
    CorpusWriter(silent, SPEC).append(rows)
    with pytest.raises(InputError, match=r"no track of .*silent to train on has lyrics, which lyr"):
        train(silent, tmp_path / "out", "artist", "lyrics_prefix")
    with pytest.raises(InputError, match="no track"):  # the one with lyrics is held out
        train(tokens, tmp_path / "out", "lyrics_prefix", held_out=["sung"])
    assert not (tmp_path / "out").exists()
    train_prior(silent, tmp_path / "tuned", init=reader, options=OPTIONS)  # it brings its reader


def test_embeddings_with_labels_are_others_once_words_have_times(
    tmp_path: Path, tokens: Path, reader: Path
) -> None:
    for labels in (False, True):
        embed_corpus(tokens, reader, tmp_path / f"{labels}", layer=1, labels=labels, device="cpu")
    align(tokens)
    embed_corpus(tokens, reader, tmp_path / "False", layer=1, labels=False, device="cpu")
    with pytest.raises(InputError, match="corpus"):
        embed_corpus(tokens, reader, tmp_path / "True", layer=1, labels=True, device="cpu")


def test_who_reads_no_words_does_not_care_for_them(tokens: Path) -> None:
    align(tokens)
    corpus = Corpus(tokens)
    deaf = preset("tiny", SPEC, "1", **TINY)
    assert identity(corpus, deaf) == corpus.fingerprint


# Sampling


def sampled(reader: Path, out: Path, **options) -> Corpus:
    return sample_tokens([reader], out, SamplingOptions(**{"seconds": 4, **options}, device="cpu"))


def test_times_of_lyrics_are_kept_and_followed(tmp_path: Path, reader: Path) -> None:
    timed, plain = file(tmp_path, "song.LRC", SONG), file(tmp_path, "song.txt", "la lo\nlu li")
    made = sampled(reader, tmp_path / "timed", lyrics=timed)[0]
    assert (made["lyrics"], made["lrc"], made["words"]) == ("la lo\nlu li", SONG, [])
    options = SamplingOptions(seconds=4, lyrics=timed)
    (item,) = make_items(SPEC, options)
    told = [(round(w["start"], 2), w["text"]) for w in item.told()["words"]]
    assert told == [(1.0, "la"), (1.6, "lo"), (2.0, "lu"), (2.6, "li")]
    other = sampled(reader, tmp_path / "plain", lyrics=plain)[0]
    assert "lrc" not in other
    assert made["codes_1"].tolist() != other["codes_1"].tolist()


def test_samples_of_other_times_are_other_samples(tmp_path: Path, reader: Path) -> None:
    song, out = file(tmp_path, "song.lrc", SONG), tmp_path / "out"
    first = sampled(reader, out, lyrics=song)[0]
    again = sampled(reader, out, lyrics=song)[0]
    assert again["codes_1"].tolist() == first["codes_1"].tolist()
    file(tmp_path, "song.lrc", SONG.replace("02.00", "02.50"))
    with pytest.raises(InputError, match="made with words 'times "):
        sampled(reader, out, lyrics=song)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"seconds": 2, "prompt_seconds": 1}, True),
        ({"seconds": 0}, True),
        ({"seconds": 1}, False),  # behind the track's end nobody knows
        ({"seconds": 2, "prompt_seconds": 1, "lyrics": "song.txt"}, False),
    ],
)
def test_words_of_a_prompt_count_as_far_as_it_goes(
    tmp_path: Path, tokens: Path, given: dict, told: bool
) -> None:
    align(tokens)
    file(tmp_path, "song.txt", "other words")
    if "lyrics" in given:
        given = {**given, "lyrics": tmp_path / given["lyrics"]}
    options = SamplingOptions(prompts=tokens, prompt_ids=["sung"], **given)
    (item,) = make_items(SPEC, options)
    assert item.told()["words"] == (WORDS if told else [])
    assert item.as_row()["words"] == []


def test_replaced_lyrics_take_their_times_along(tmp_path: Path, tokens: Path) -> None:
    row = {**Corpus(tokens)[0], "lrc": SONG}
    CorpusWriter(tmp_path / "timed", SPEC, columns={"lrc": "string"}).append([row])
    for name, content, kept in (("a.txt", "other", None), ("a.lrc", "[00:01.00]x", "[00:01.00]x")):
        lyrics = file(tmp_path, name, content)
        (item,) = make_items(SPEC, SamplingOptions(prompts=tmp_path / "timed", lyrics=lyrics))
        assert item.as_row().get("lrc") == kept
    (item,) = make_items(SPEC, SamplingOptions(prompts=tmp_path / "timed"))
    assert item.as_row()["lrc"] == SONG


def test_lyrics_may_be_longer_than_a_window_but_not_too_dense(tmp_path: Path, reader: Path) -> None:
    """Eight characters are seen in a window of 1.28 s: in 64 s there is time for 400."""
    lyrics = file(tmp_path, "song.txt", "x" * 350)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sampled(reader, tmp_path / "whole", seconds=0.1, total_seconds=64, lyrics=lyrics)
    expected = r"song\.txt is too much text for 12\.8 s: .* sees 2% of it .* never its first 4%"
    with pytest.warns(UserWarning, match=expected):
        sampled(reader, tmp_path / "dense", seconds=0.1, total_seconds=12.8, lyrics=lyrics)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("song.lrc", "[00:01.00]la\nla\n", "song.lrc:2: no time ahead of 'la'"),
        ("song.lrc", "[ar:Anna]\n[00:01.00]\n", "song.lrc are empty"),
        ("song.txt", " \n\n", "song.txt are empty"),
        ("song.txt", "\n☃ ☃\n", "song.txt: lyrics '☃ ☃' have no character that this prior can"),
    ],
)
def test_lyrics_that_nobody_can_sing_end_in_one_line(
    tmp_path: Path,
    reader: Path,
    capfd: pytest.CaptureFixture[str],
    name: str,
    content: str,
    reason: str,
) -> None:
    lyrics, out = file(tmp_path, name, content), tmp_path / "out"
    with pytest.raises(SystemExit) as ended:
        Sample.main([str(reader), "--out", str(out), "--lyrics", str(lyrics), "--device", "cpu"])
    assert ended.value.code == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert str(tmp_path / reason.split(":")[0].split(" ")[0]) in line
    assert reason in line
    assert not out.exists()
