"""The commands under test, what each is run on, and what it leaves when nothing happens to it.

They are the whole road from music to embeddings, tiny: each reads what earlier ones made. It does
not know what goes wrong.
"""

import fcntl
import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from counting import count
from harness import Ended, Process, contents, partial_files, starter

TESTS = Path(__file__).parents[1]
MUSIC = TESTS.parent / "examples" / "music"
SONGS = ("maxstack-apex-aleph", "maxstack-by-product", "maxstack-coherence",
         "obsidian-shell-fear", "obsidian-shell-farewell", "obsidian-shell-ezer-ev")  # fmt: skip
LYRICS = "The words of a song that nobody sings here, and some more of them"

TRAINING = "--batch-size 2 --save-every 3 --evaluate-every 20 --log-every 1 --device cpu"
CODEC = "--preset tiny --set width=8 --set depth=1 --clip-seconds 0.1"
PRIOR = "--preset tiny --set width=32 --set depth=3 --set heads=1 --set context=128 --set blocks=8"
GOLDEN = " ".join(
    str(TESTS / "golden" / f"{name}.pth.tar")
    for name in ("codec", "top", "upsampler_0", "upsampler_1")
)


@dataclass(frozen=True)
class Case:
    """A command."""

    line: str
    """Its words; `OUT` is the folder that it writes."""
    made: str
    """Where the undisturbed run writes, for other commands to read."""
    files: tuple[str, ...]
    """Patterns of the files that must be the same in every run."""
    start: str = ""
    """What is in the folder at the start: a copy of this one."""


MODEL = ("model.safetensors", "config.json", "metrics.jsonl", "training.json")
CORPUS = ("*.parquet", "corpus.json")
CASES = {
    "train a codec": Case(
        f"codec.train songs --out OUT {CODEC} {TRAINING} --steps 9",
        "model/codec",
        MODEL,
    ),
    "tokenize": Case(
        "codec.tokenize songs --codec model/codec --out OUT --shard-tracks 2", "tokens", CORPUS
    ),
    "tokenize the first": Case(
        f"codec.tokenize {' '.join(f'songs/{song}.ogg' for song in SONGS[:4])} --codec model/codec "
        "--out OUT --shard-tracks 2",
        "first",
        CORPUS,
    ),
    "tokenize more": Case(
        "codec.tokenize songs --codec model/codec --out OUT --shard-tracks 2",
        "more",
        CORPUS,
        start="first",
    ),
    "train the top prior": Case(
        f"prior.train tokens --out OUT --stream 1 {PRIOR} {TRAINING} --steps 3",
        "model/prior_1",
        MODEL,
    ),
    "train a prior": Case(
        f"prior.train tokens --out OUT --stream 0 {PRIOR} {TRAINING} --steps 20",
        "model/prior_0",
        MODEL,
    ),
    "sample": Case(
        "prior.sample --model model --out OUT --seconds 1 --count 3 --batch-size 2 --device cpu",
        "samples",
        CORPUS,
    ),
    "continue tracks": Case(
        "prior.sample --model model --out OUT --prompts tokens --prompt-seconds 1 --seconds 1 "
        "--device cpu",
        "onwards",
        CORPUS,
    ),
    "decode": Case(
        "codec.decode tokens --codec model/codec --out OUT --device cpu",
        "audio",
        ("*.wav", "decoded.json"),
    ),
    "convert": Case(
        f"plugins.openai.convert {GOLDEN} --out OUT",
        "converted",
        ("model.safetensors", "config.json"),
    ),
    "align": Case("conditioning.align OUT --aligner linear", "aligned", CORPUS, start="tokens"),
    "embed": Case(
        "prior.embed tokens --model model --stream 1 --layer 1 --pool none --out OUT --device cpu",
        "features",
        ("*.parquet", "embeddings.json"),
    ),
}
"""By name, in an order in which each finds what it reads."""

WRITERS = ("train a codec", "tokenize", "train a prior", "sample", "decode", "convert", "align",
           "embed")  # fmt: skip
"""Those that most faults are tried on: every command that writes a folder."""


class Lab:
    """Where commands are run: inputs, and what each command makes of them undisturbed."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.starter = starter()

    @classmethod
    def shared(cls, home: Path) -> "Lab":
        """The one in a folder, which processes of the tests have in common."""
        lab = cls(home)
        with open(home.with_suffix(".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (home / "seconds.json").exists():
                shutil.rmtree(home, ignore_errors=True)
                lab._make()
        return lab

    def _make(self) -> None:
        songs = self.home / "songs"
        songs.mkdir(parents=True)
        told = [{"file_name": f"{song}.ogg", "lyrics": LYRICS} for song in SONGS]
        (songs / "metadata.jsonl").write_text("\n".join(map(json.dumps, told)))
        for song in SONGS:
            (songs / f"{song}.ogg").symlink_to(MUSIC / f"{song}.ogg")
        seconds = {}
        for name, case in CASES.items():
            out = self.begin(name, self.home / case.made)
            began = time.monotonic()
            assert self.run(name, out).error == ""
            seconds[name] = time.monotonic() - began
            assert self.files(name, out), name
        (self.home / "seconds.json").write_text(json.dumps(seconds))

    def seconds(self, name: str) -> float:
        """How long an undisturbed run takes."""
        found: dict[str, float] = json.loads((self.home / "seconds.json").read_text())
        return found[name]

    def begin(self, name: str, out: Path) -> Path:
        """Put into a new folder what the command finds there at the start."""
        if CASES[name].start:
            shutil.copytree(self.home / CASES[name].start, out)
        return out

    def start(self, name: str, out: Path, *more: str, **how: Any) -> Process:
        """Start a command, with further options if need be; `how` as `Starter.start`."""
        words = [str(out) if word == "OUT" else word for word in CASES[name].line.split()]
        return self.starter.start([*words, *more], how.pop("cwd", self.home), **how)

    def run(self, name: str, out: Path, *more: str, **how: Any) -> Ended:
        """Start it, and wait for its end."""
        return self.start(name, out, *more, **how).end()

    def files(self, name: str, out: Path) -> dict[str, bytes]:
        """What must be the same in every run."""
        return contents(out, *CASES[name].files)

    def made(self, name: str) -> Path:
        """The folder of the undisturbed run."""
        return self.home / CASES[name].made

    def check(self, name: str, out: Path, tried: int, *but: str) -> None:
        """Compare a folder in which so many things went wrong with that of the undisturbed run.

        Files of the names `but` are left out.
        """
        found, wanted = self.files(name, out), self.files(name, self.made(name))
        for one in but:
            found.pop(one, None)
            wanted.pop(one, None)
        partial = partial_files(out)
        count("faults", tried, tried if found != wanted or partial else 0)
        assert sorted(found) == sorted(wanted)
        assert [file for file in wanted if found[file] != wanted[file]] == []
        assert partial == []

    def finish(self, name: str, out: Path, tried: int) -> None:
        """Give the same command once more, undisturbed; all must be as if nothing had happened."""
        assert self.run(name, out).error == ""
        self.check(name, out, tried)
