"""`python -m conditioning.align` with an aligner that a stranger's distribution offers."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from codec.corpus import Corpus, CorpusWriter
from codec.rows import Skipped
from codec.tokens import TokenSpec, TokenStream
from conditioning.aligning import align_corpus
from plugins.ground.errors import InputError

SPEC = TokenSpec(
    sample_rate=1000,
    channels=1,
    streams=(TokenStream(name="0", vocab_size=16, hop_length=10),),
    codec="vqvae",
    fingerprint="0123456789abcdef",
)
STEADY = '''
import os, signal
from pathlib import Path
import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from conditioning.base import Aligner, AlignmentMap, Word

class Steady(Aligner):
    """As if all words were equally long; writes down what it was asked to do."""

    class Config(BaseModel):
        model_config = ConfigDict(frozen=True, extra="forbid")
        log: Path
        gain: float = Field(1.0, le=1)
        dies_at: str = ""
        total_seconds: float | None = None

    def align(self, track, spec):
        with open(self.config.log, "a") as file:
            print(track["id"], len(track["codes_0"]), self.config.total_seconds, file=file)
        if track["id"] == self.config.dies_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if "instrumental" in track["lyrics"]:
            return "nobody sings"
        words = track["lyrics"].split()
        each = track["num_samples"] / spec.sample_rate / len(words)
        return [
            Word(i * each, (i + 1) * each, word, 0.0 if word == "..." else self.config.gain)
            for i, word in enumerate(words)
        ]

class Listening(Steady):
    """As long as its recordings are bytes."""

    class Config(BaseModel):
        audio: Path

    def align(self, track, spec):
        if not (self.config.audio / track["path"]).exists():
            return f"there is no {track['path']}"
        seconds = len((self.config.audio / track["path"]).read_bytes())
        return [Word(0.0, seconds, word, 0.25) for word in track["lyrics"].split()]

class Deaf(Steady):
    """Needs a library that nobody has."""

    @classmethod
    def why_not(cls):
        return "no ears:\\npip install ears"

class Odd(Steady):
    """Sound but for track e, of which it gives or does what it is told."""

    class Config(BaseModel):
        does: str
        log: Path = Path(os.devnull)
        gain: float = 0.5
        total_seconds: float | None = None
        dies_at: str = ""

    def __init__(self, config):
        super().__init__(config)
        if config.does == "refuse()":
            raise RuntimeError("no\\nway")

    def align(self, track, spec):
        assert track["words"] == []
        words = super().align(track, spec)
        self.map = None
        if track["id"] != "e":
            return words
        names = {"words": words, "Word": Word, "self": self, "nan": float("nan"), "Map": Map}
        return eval(self.config.does, names)

class Mute(Steady):
    """Can't even say what it lacks."""

    @classmethod
    def why_not(cls):
        raise OSError("no\\nmouth")

def Map(shape, value=1.0):
    return AlignmentMap(np.full(shape, value), 0.1, [0, 1])
'''
NAMES = {
    "steady": "Steady",
    "listening": "Listening",
    "deaf": "Deaf",
    "odd": "Odd",
    "mute": "Mute",
}
OWN = [{"start": 0.0, "end": 1.0, "text": "mine"}]


def track(name: str, lyrics: str, **more: Any) -> dict[str, Any]:
    codes = np.random.default_rng(len(name) + len(lyrics)).integers(0, 16, 200).astype(np.uint16)
    return {
        "id": name,
        "path": name,
        "num_samples": 2000,
        "codes_0": codes,
        "lyrics": lyrics,
    } | more


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Two shards: songs a, b, c and d, e; b and d can't be aligned, c has words already."""
    writer = CorpusWriter(tmp_path / "tokens", SPEC, {"made_by": "test"}, {"bpm": "int64"})
    first = [track("a", "la le\nli lo", bpm=90), track("b", "(instrumental)")]
    writer.append([*first, track("c", "x", words=OWN)], [Skipped(path="z", reason="no audio")])
    writer.append([track("d", " "), track("e", "la ...")])
    return tmp_path / "tokens"


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the aligner `steady`, which is installed now with others, was asked to do."""
    info = tmp_path / "site" / "steady-1.0.dist-info"
    info.mkdir(parents=True)
    lines = [f"{name} = steady_module:{cls}" for name, cls in NAMES.items()]
    (info / "entry_points.txt").write_text("\n".join(["[jukebox.aligners]", *lines, ""]))
    (tmp_path / "site" / "steady_module.py").write_text(STEADY)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.delitem(sys.modules, "steady_module", raising=False)
    return tmp_path / "log"


def asked(log: Path) -> list[str]:
    """The ids in a log, which is emptied."""
    names = [line.split()[0] for line in log.read_text().splitlines()] if log.exists() else []
    log.write_text("")
    return names


def words(folder: Path) -> dict[str, list[tuple[float, float, str]]]:
    return {
        row["id"]: [(word["start"], word["end"], word["text"]) for word in row["words"]]
        for row in Corpus(folder).tracks()
    }


def command(
    log: Path, *arguments: object, at_risk: float = 60
) -> "subprocess.CompletedProcess[str]":
    program = (
        "import sys, conditioning.aligning\n"
        f"conditioning.aligning.SECONDS_AT_RISK = {at_risk}\n"
        "from conditioning.align import Align\n"
        "Align.main(sys.argv[1:])\n"
    )
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(log.parent / "site")},
        capture_output=True,
        text=True,
        check=False,
    )


A = [(0.0, 0.5, "la"), (0.5, 1.0, "le"), (1.0, 1.5, "li"), (1.5, 2.0, "lo")]
E = [(0.0, 1.0, "la"), (1.0, 2.0, "...")]


def test_words_come_into_the_corpus_and_nothing_else_changes(
    corpus: Path, log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = Corpus(corpus)
    rows = {row["id"]: row for row in before.tracks()}
    made = align_corpus(corpus, "steady", {"log": log, "gain": 0.5})
    after = Corpus(corpus)
    assert words(corpus) == {"a": A, "b": [], "c": [(0.0, 1.0, "mine")], "d": [], "e": E}
    for row in after.tracks():
        codes = row.pop("codes_0"), rows[row["id"]].pop("codes_0")
        assert np.array_equal(*codes)
        assert {**row, "words": []} == {**rows[row["id"]], "words": []}
    kept = (before.manifest.skipped, before.settings, [s.rows for s in before.manifest.shards])
    assert (after.manifest.skipped, after.settings, [s.rows for s in after.manifest.shards]) == kept
    after.verify()
    assert asked(log) == ["a", "b", "e"]
    assert (made.aligned, made.failed) == ({"a": 0.5, "e": 0.25}, {"b": "nobody sings"})
    assert (made.there, made.without) == (1, 1)
    said = capsys.readouterr().out.splitlines()
    assert said[:3] == [
        "a: 4 words, mean confidence 0.50",
        "b: not aligned: nobody sings",
        "e: 2 words, mean confidence 0.25, 1 of them not found",
    ]
    assert said[3].startswith("tracks: 2 aligned, 1 not aligned, 1 without lyrics, 1 aligned befor")
    assert f"jukebox report --out report/index.html --songs Aligned={corpus}" in said[4]


def test_again_aligns_what_is_missing_or_everything(corpus: Path, log: Path) -> None:
    settings = {"log": log}
    align_corpus(corpus, "steady", settings)
    shards = Corpus(corpus).manifest.shards
    asked(log)
    align_corpus(corpus, "steady", settings)
    assert asked(log) == ["b"]
    assert Corpus(corpus).manifest.shards == shards
    align_corpus(corpus, "steady", settings, again=True)
    assert asked(log) == ["a", "b", "c", "e"]
    assert words(corpus)["c"] == [(0.0, 2.0, "x")]


def test_another_aligner_steps_in_where_one_has_a_reason(
    corpus: Path, log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a").write_bytes(b"..")
    made = align_corpus(corpus, "listening", {}, audio=tmp_path, fallback="linear")
    found = words(corpus)
    assert found["a"] == [(0, 2, "la"), (0, 2, "le"), (0, 2, "li"), (0, 2, "lo")]
    assert found["b"] == [(0, 2, "(instrumental)")]
    assert [text for *_, text in found["e"]] == ["la", "..."]
    assert made.aligned == {"a": 0.25}
    assert made.instead == {"b": "there is no b", "e": "there is no e"}
    assert (made.failed, made.there, made.without) == ({}, 1, 1)
    said = capsys.readouterr().out.splitlines()
    assert said[:3] == [
        "a: 4 words, mean confidence 0.25",
        "b: there is no b; times of 'linear' instead",
        "e: there is no e; times of 'linear' instead",
    ]
    assert said[3].startswith("tracks: 1 aligned, 2 by 'linear' instead, 1 without lyrics, 1 al")


def test_who_steps_in_may_have_a_reason_too_or_be_nobody(
    corpus: Path, log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {"log": log, "gain": 0.5}
    made = align_corpus(corpus, "steady", given, audio=tmp_path, fallback="listening")
    assert made.failed == {"b": "nobody sings"}
    assert made.instead == {}
    assert (
        "b: not aligned: nobody sings; nor by 'listening': there is no b" in capsys.readouterr().out
    )
    done = command(log, corpus, "--aligner", "steady", "--set", f"log={log}", "--fallback", "none")
    assert done.returncode == 0, done.stderr
    assert words(corpus)["b"] == []
    done = command(log, corpus, "--aligner", "steady", "--set", f"log={log}")
    assert done.returncode == 0, done.stderr
    assert words(corpus)["b"] == [(0, 2, "(instrumental)")]


def test_words_of_the_straight_line_are_not_called_found(
    corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    align_corpus(corpus, "linear")
    assert capsys.readouterr().out.startswith("a: 4 words, not looked for\n")


def test_an_aligner_that_listens_needs_a_corpus_of_recordings(log: Path, tmp_path: Path) -> None:
    CorpusWriter(tmp_path / "samples", SPEC, {}).append([track("s", "la", path="")])
    with pytest.raises(
        InputError, match=r"'listening' listens to recordings, and \S+samples names"
    ):
        align_corpus(tmp_path / "samples", "listening", audio=tmp_path)


@pytest.mark.parametrize(("at_risk", "done"), [(60, {"a", "b", "c"}), (0, set("abcdefg"))])
def test_a_kill_loses_nothing_that_was_published(
    tmp_path: Path, log: Path, at_risk: float, done: set[str]
) -> None:
    corpus = tmp_path / "tokens"
    writer = CorpusWriter(corpus, SPEC, {})
    writer.append([track(name, f"{name} la") for name in "abc"])
    writer.append([track(name, f"{name} la") for name in "defghi"])
    writer.lock.release()
    options = [corpus, "--aligner", "steady", "--set", f"log={log}"]
    killed = command(log, *options, "--set", "dies_at=h", at_risk=at_risk)
    assert killed.returncode == -9
    assert asked(log) == [*"abcdefgh"]
    Corpus(corpus).verify()
    assert {name for name, found in words(corpus).items() if found} == done
    ended = command(log, *options)
    assert ended.returncode == 0, ended.stderr
    assert asked(log) == sorted(set("abcdefghi") - done)
    assert all(words(corpus).values())
    assert len(list(corpus.iterdir())) == 3


def test_samples_are_aligned_as_the_parts_of_songs_that_they_were_made_as(
    tmp_path: Path, log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {"seconds": 2.0, "total_seconds": 180.0}
    CorpusWriter(tmp_path / "samples", SPEC, settings).append([track("s", "la", path="")])
    align_corpus(tmp_path / "samples", "steady", {"log": log})
    assert log.read_text() == "s 200 180.0\n"
    assert f"--samples Aligned={tmp_path / 'samples'} --audio Aligned=" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--aligner", "stedy"], "no 'stedy' in jukebox.aligners; there are: attention, deaf, lin"),
        (["--aligner", "deaf"], "aligner 'deaf' can't work here: no ears: pip install ears"),
        (["--aligner", "listening"], "aligner 'listening' needs 'audio': give --audio or --set"),
        (["--aligner", "listening", "--audio", "no/where"], "--audio no/where is no folder: give"),
        (["--aligner", "linear", "--audio", "no/where"], "--audio no/where is no folder: give"),
        (["--aligner", "linear", "--fallback", "stedy"], "no 'stedy' in jukebox.aligners"),
        (["--aligner", "linear", "--fallback", "deaf"], "aligner 'deaf' can't work here: no ears"),
        (
            ["--aligner", "linear", "--fallback", "lrc", "--set", "audio=x"],
            "--audio x is no folder",
        ),
        (["--aligner", "linear", "--model", "x"], "'linear': no setting 'model' in LinearConfig"),
        (["--aligner", "steady"], "aligner 'steady' needs 'log': give --log or --set log="),
        (["--aligner", "steady", "--set", "log=x", "--layer", "3"], "no setting 'layer' in Config"),
        (
            ["--aligner", "steady", "--set", "log=x", "--set", "gain=2"],
            "'steady': setting gain: In",
        ),
        (["--aligner", "mute"], "'mute' of group jukebox.aligners from steady 1.0 can't say"),
        ([], "aligner 'attention' needs 'model': give --model"),
        (["--model", "nowhere"], "nowhere is no model"),
        (["--layer", "x"], "--layer: "),
    ],
)
def test_bad_input_is_one_line(corpus: Path, log: Path, arguments: list[str], message: str) -> None:
    before = Corpus(corpus).fingerprint
    done = command(log, corpus, *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert Corpus(corpus).fingerprint == before


def test_a_corpus_without_lyrics_or_none_at_all(tmp_path: Path, log: Path) -> None:
    CorpusWriter(tmp_path / "tokens", SPEC, {}).append([track("a", "")])
    with pytest.raises(
        InputError, match=r"no track of \S+tokens has lyrics: .* tokenize into another fo"
    ):
        align_corpus(tmp_path / "tokens", "steady", {"log": log})
    with pytest.raises(InputError, match="no token corpus in"):
        align_corpus(tmp_path, "steady", {"log": log})
    assert asked(log) == []


ODD = {
    "1 / 0": "can't align e: ZeroDivisionError: division by zero",
    "None": "of e, it gives NoneType: it must be a list of Word, or a reason",
    "tuple(words)": "of e, it gives tuple",
    "(word for word in words)": "of e, it gives generator",
    "[None, *words]": "of e, it gives NoneType among its words",
    "['la', '...']": "of e, it gives str among its words",
    "words[:1]": "of e, its 1 words are not the 2 of the lyrics",
    "words[::-1]": "of e, its 2 words are not the 2 of the lyrics",
    "[Word(nan, 1, 'la', 1), words[1]]": "of e, word 1, 'la', has nan where 0 to 2 can be",
    "[Word(-1, 1, 'la', 1), words[1]]": "of e, word 1, 'la', has -1 where 0 to 2",
    "[Word(1, 0.5, 'la', 1), words[1]]": "of e, word 1, 'la', has 0.5 where 1 to 2",
    "[Word(1, 2.1, 'la', 1), words[1]]": "of e, word 1, 'la', has 2.1 where 1 to 2",
    "[Word(1.5, 2, 'la', 1), words[1]]": "of e, word 2, '...', has 1 where 1.5 to 2",
    "[words[0], Word(1, 2, '...', 1.5)]": "of e, word 2, '...', has 1.5 where 0 to 1",
    "[words[0], Word('x', 2, '...', 1)]": "of e, word 2, '...', could not convert",
    "[words[0], Word(None, 2, '...', 1)]": "of e, word 2, '...', float() argument",
    "setattr(self, 'map', 3) or words": "the map of e is int: it must be an AlignmentMap",
    "setattr(self, 'map', Map((9, 3))) or words": "the map of e has weights of shape [9, 3]",
    "setattr(self, 'map', Map((9, 2), nan)) or words": "the map of e has weights that are negative",
}


@pytest.mark.parametrize("does", ODD)
def test_what_a_stranger_gets_wrong_is_laid_at_his_door(corpus: Path, log: Path, does: str) -> None:
    with pytest.raises(InputError) as caught:
        align_corpus(corpus, "odd", {"does": does}, again=True, maps=True)
    said = str(caught.value)
    assert said.startswith("'odd' of group jukebox.aligners from steady 1.0")
    assert ODD[does] in said
    assert "\n" not in said
    found = words(corpus)
    assert (found["a"], found["e"]) == (A, [])


def test_a_broken_aligner_keeps_what_it_found_before(tmp_path: Path, log: Path) -> None:
    CorpusWriter(tmp_path / "tokens", SPEC).append([track(name, "la ...") for name in "de"])
    done = command(log, tmp_path / "tokens", "--aligner", "odd", "--set", "does=1 / 0")
    assert done.returncode == 2
    *_, said = done.stderr.splitlines()
    assert said.startswith("error: 'odd' of group jukebox.aligners from steady 1.0 can't align e: ")
    assert "Traceback" not in done.stderr
    assert words(tmp_path / "tokens") == {"d": E, "e": []}
    with pytest.raises(InputError, match=r"from steady 1.0 can't be made: RuntimeError: no way"):
        align_corpus(tmp_path / "tokens", "odd", {"does": "refuse()"})


def test_what_misses_by_little_is_moved_and_songs_may_go_on(corpus: Path, log: Path) -> None:
    near = "[Word(-0.01, 2.04, 'la', 1.0001), Word(-0.02, 2.0, '...', 0)]"
    align_corpus(corpus, "odd", {"does": near})
    assert words(corpus)["e"] == [(0, 2, "la"), (0, 2, "...")]
    beyond = "[words[0], Word(2, 5, '...', 0)]"
    align_corpus(corpus, "odd", {"does": beyond, "total_seconds": 5.0}, again=True)
    assert words(corpus)["e"][1] == (2, 5, "...")


@pytest.mark.parametrize(
    ("does", "reason"),
    [("[]", "it gives no words"), ("'no\\n voice'", "no voice"), ("''", "it gives no reason")],
)
def test_no_words_are_a_reason_and_reasons_are_one_line(
    corpus: Path, log: Path, does: str, reason: str
) -> None:
    made = align_corpus(corpus, "odd", {"does": does}, fallback="linear")
    assert made.instead["e"] == reason
    assert len(words(corpus)["e"]) == 2


def test_times_of_older_corpora_that_are_no_numbers_are_found_anew(
    tmp_path: Path, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = [{"start": float("nan"), "end": 1.0, "text": "la"}]
    rows = [track("d", "x", words=bad), track("e", "la ...", words=bad), track("f", "x", words=OWN)]
    with monkeypatch.context() as older:
        older.setattr("codec.rows.np.isfinite", lambda times: np.ones_like(times, bool))
        CorpusWriter(tmp_path / "tokens", SPEC).append(rows)
    monkeypatch.setattr("conditioning.aligning.SECONDS_AT_RISK", 0)
    align_corpus(tmp_path / "tokens", "steady", {"log": log})
    assert asked(log) == ["d", "e"]
    assert words(tmp_path / "tokens") == {"d": [(0, 2, "x")], "e": E, "f": [(0, 1, "mine")]}
