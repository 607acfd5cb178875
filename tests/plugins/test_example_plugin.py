"""A third party's package from its sources to its removal, as its users would handle it.

`tests/example_plugin` has one plugin of every kind, `tests/broken_plugin` has nothing that works.
One test goes the whole way, since every step needs those before it.
"""

import json
import subprocess
from pathlib import Path

import pytest
import soundfile
from fresh import ROOT, Environment, build_wheel, copy_package

from codec.corpus import Corpus

OURS = {
    ("rvq", "jukebox.codecs"),
    ("relative", "jukebox.attention"),
    ("tempo", "jukebox.conditioners"),
    ("syllables", "jukebox.aligners"),
    ("code-usage", "jukebox.commands"),
}
BROKEN = {
    ("lost", "jukebox.codecs"): "No module named 'jukebox_broken.nowhere'",
    ("raising", "jukebox.attention"): "RuntimeError: this package is broken in more than one line",
    ("nameless", "jukebox.attention"): "no attribute 'NoSuchClass'",
    ("wrong", "jukebox.conditioners"): "must be a subclass of conditioning.base.Conditioner",
    ("genre", "jukebox.conditioners"): "jukebox-toolkit offers this name too: uninstall one",
    ("exiting", "jukebox.aligners"): "SystemExit: 7",
    ("function", "jukebox.commands"): "must be a subclass of plugins.ground.command.Command",
}
LYRICS = "Here is a song\nof even syllables"
CODEC = {
    "codebook_sizes": [16, 32],
    "bands": 20,
    "width": 8,
    "depth": 1,
}
PRIOR = {"context": 32, "width": 32, "depth": 3, "heads": 2, "blocks": 4}
NAMED_TWICE = ("--conditioners", "genre")
BRIEF = ("--steps", 2, "--batch-size", 2, "--device", "cpu")
SMALL = ("--preset", "tiny", "--set", json.dumps(PRIOR), *BRIEF)
RELATIVE = ("--conditioners", "timing", "--attention", "relative")


def test_a_package_from_its_sources_to_its_removal(
    environment: Environment, tmp_path: Path
) -> None:
    wheel = build_wheel(copy_package("example_plugin", tmp_path), tmp_path / "wheels")
    environment.install(wheel)
    states = listed(environment)
    assert {row: states[row] for row in OURS} == dict.fromkeys(
        OURS, ("jukebox-example", "0.1.0", "ready")
    )
    make_music(environment.home / "music")

    a_codec_is_trained_and_used(environment)
    priors_are_trained_and_sampled(environment)
    words_are_aligned(environment)
    codes_are_counted(environment)
    contracts_are_kept(environment, tmp_path / "example_plugin" / "tests")

    broken = build_wheel(copy_package("broken_plugin", tmp_path), tmp_path / "broken_wheels")
    environment.install(broken)
    a_broken_package_stops_nothing(environment)

    environment.uninstall("jukebox-broken")
    environment.uninstall("jukebox-example")
    what_needs_it_says_what_is_missing(environment)


def make_music(folder: Path) -> None:
    """Five seconds of three songs, one of them with lyrics and two with a tempo."""
    folder.mkdir()
    songs = sorted((ROOT / "examples" / "music").glob("*.ogg"))[:3]
    for name, song in zip("abc", songs, strict=True):
        with soundfile.SoundFile(song) as file:
            rate = file.samplerate
            file.seek(20 * rate)
            soundfile.write(folder / f"{name}.wav", file.read(5 * rate), rate)
    rows = [
        {"file_name": "a.wav", "tempo": 90, "lyrics": LYRICS},
        {"file_name": "b.wav", "tempo": 140.5},
        {"file_name": "c.wav", "artist": "somebody"},
    ]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))


def a_codec_is_trained_and_used(environment: Environment) -> None:
    succeeds(
        environment, "python", "-m", "codec.train", "music", "--codec", "rvq", "--out", "codec",
        "--set", json.dumps(CODEC), "--clip-seconds", 1, *BRIEF,
    )  # fmt: skip
    succeeds(
        environment,
        "python",
        "-m",
        "codec.tokenize",
        "music",
        "--codec",
        "codec",
        "--out",
        "tokens",
    )
    corpus = Corpus(environment.home / "tokens")
    assert corpus.spec.codec == "rvq"
    assert len({stream.hop_length for stream in corpus.spec.streams}) == 1
    assert [len(corpus.codes(0, stream.name)) for stream in corpus.spec.streams] == [125, 125]


def priors_are_trained_and_sampled(environment: Environment) -> None:
    """Of both streams; the finer one is told the other's codes, which have the same rate."""
    succeeds(
        environment, "python", "-m", "prior.train", "tokens", "--out", "prior_1", *SMALL,
        "--conditioners", "tempo,timing", "--conditioner-set", "tempo.bins=8",
        "--attention", "relative", "--attention-set", "max_distance=20",
    )  # fmt: skip
    kept = json.loads((environment.home / "prior_1" / "config.json").read_text())
    owner = {"distribution": "jukebox-example", "version": "0.1.0"}
    assert kept["attention"] == {"name": "relative", "config": {"max_distance": 20}, **owner}
    assert kept["conditioners"][0].items() >= {"name": "tempo", **owner}.items()
    assert kept["conditioners"][0]["config"]["bins"] == 8
    succeeds(
        environment, "python", "-m", "prior.train", "tokens", "--out", "prior_0", *SMALL,
        "--stream", "stage2", "--conditioners", "codes",
        "--conditioner-set", '{"codes.width": 8, "codes.depth": 1}',
    )  # fmt: skip
    succeeds(environment, *sample("samples", "--label", "tempo=120", "--attention", "auto"))
    assert Corpus(environment.home / "samples").metadata(0)["tempo"] == "120"
    succeeds(environment, "jukebox", "decode", "samples", "--codec", "codec", "--out", "songs")
    (song,) = (environment.home / "songs").glob("*.wav")
    assert soundfile.info(song).frames > 16_000
    refused = environment.run(*sample("no", "--label", "tempo=fast"))
    assert one_line(refused) == "tempo 'fast' is no number above 0: give beats per minute"


def sample(out: str, *words: object) -> tuple[object, ...]:
    """A second of music from both priors."""
    return (
        "python", "-m", "prior.sample", "prior_1", "prior_0", "--out", out, "--seconds", 1.5,
        "--device", "cpu", *words,
    )  # fmt: skip


def words_are_aligned(environment: Environment) -> None:
    succeeds(
        environment, "python", "-m", "conditioning.align", "tokens", "--aligner", "syllables",
        "--set", "breath=0",
    )  # fmt: skip
    words = Corpus(environment.home / "tokens").metadata(0)["words"]
    assert [word["text"] for word in words] == LYRICS.split()
    assert words[-1]["end"] == 5
    lengths = {word["text"]: word["end"] - word["start"] for word in words}
    assert lengths["syllables"] == pytest.approx(3 * lengths["song"])


def codes_are_counted(environment: Environment) -> None:
    told = succeeds(environment, "jukebox", "code-usage", "tokens").splitlines()
    assert len(told) == 2
    assert "375 codes" in told[0]
    assert "of 4.00 bits a code" in told[1]
    refused = environment.run("jukebox", "code-usage", "music")
    assert "music" in one_line(refused)


def contracts_are_kept(environment: Environment, tests: Path) -> None:
    """The package's own tests, which inherit the toolkit's contract suites."""
    told = succeeds(
        environment,
        "python",
        "-m",
        "pytest",
        tests,
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
    )
    assert " passed" in told
    assert "skipped" not in told


def a_broken_package_stops_nothing(environment: Environment) -> None:
    states = listed(environment)
    assert {states[row] for row in OURS} == {("jukebox-example", "0.1.0", "ready")}
    for row, reason in BROKEN.items():
        assert states[row][:2] == ("jukebox-broken", "0.2.0")
        assert reason in states[row][2]
    done = environment.run(*sample("more", "--label", "tempo=120", "--seed", 1))
    assert done.returncode == 0, done.stderr
    assert "jukebox-broken 0.2.0" in done.stderr  # whose kernel "auto" looked at
    succeeds(environment, "jukebox", "train-prior", "tokens", "--out", "told", *SMALL, *RELATIVE)
    told = environment.run("jukebox")
    assert told.returncode == 0
    assert "can't be loaded from jukebox-broken" in told.stdout
    refused = environment.run("jukebox", "train-prior", "tokens", "--out", "no", *NAMED_TWICE)
    assert "jukebox-broken and jukebox-toolkit" in one_line(refused)


def what_needs_it_says_what_is_missing(environment: Environment) -> None:
    """In one line, and before anything is written."""
    needs = "this checkpoint needs {} of group {}, which jukebox-example 0.1.0 offered: install it"
    assert not OURS & set(listed(environment))
    told = environment.run(*sample("none"))
    assert one_line(told) == needs.format("'tempo'", "jukebox.conditioners")
    told = environment.run("jukebox", "sample", "told", "--out", "none")
    assert one_line(told) == needs.format("'relative'", "jukebox.attention")
    told = environment.run("jukebox", "decode", "samples", "--codec", "codec", "--out", "none")
    assert one_line(told) == needs.format("'rvq'", "jukebox.codecs")
    told = environment.run("jukebox", "align", "tokens", "--aligner", "syllables")
    assert "no 'syllables' in jukebox.aligners" in one_line(told)
    told = environment.run("jukebox", "code-usage", "tokens")
    assert "no command 'code-usage'" in one_line(told)
    assert not (environment.home / "none").exists()


def listed(environment: Environment) -> dict[tuple[str, str], tuple[str, str, str]]:
    """`jukebox plugins`: name and group -> distribution, version and state, strangers' first."""
    lines = succeeds(environment, "jukebox", "plugins").splitlines()[1:]
    rows = [line.split(maxsplit=4) for line in lines]
    # Strangers come last, so that of a name that two offer it is theirs that is kept.
    rows.sort(key=lambda row: row[2] != "jukebox-toolkit")
    return {(row[0], row[1]): (row[2], row[3], row[4].strip()) for row in rows}


def succeeds(environment: Environment, *words: object) -> str:
    """What a program says that must come to a good end."""
    done = environment.run(*words)
    assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def one_line(done: "subprocess.CompletedProcess[str]", warned: bool = False) -> str:
    """What a program says that refuses bad input: one line, behind warnings of others' packages."""
    assert done.returncode == 2, done.stderr
    *before, last = done.stderr.splitlines()
    assert last.startswith("error: ")
    assert bool(before) == warned
    return last.removeprefix("error: ")
