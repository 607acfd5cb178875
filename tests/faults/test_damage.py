"""Files that were damaged: one line that names them, or the same bytes; and no sound file is hurt.

Shards of token corpora in which a bit has flipped, and files of models, trainings and corpora that
were cut off.
"""

import random
import re
import shutil
import signal
from pathlib import Path

import pytest
from cases import CASES, Lab
from counting import count
from harness import SOAK, contents

READERS = ("train a prior", "continue tracks", "decode", "embed", "tokenize more", "align")
"""Those that read a token corpus, or go on with one."""
FLIPS = 5
CUTS = {
    "sample": ("model/prior_0/model.safetensors", "model/prior_1/config.json"),
    "decode": ("model/codec/model.safetensors", "model/codec/config.json", "tokens/corpus.json"),
    "tokenize": ("model/codec/model.safetensors", "model/codec/config.json"),
    "embed": ("model/prior_1/model.safetensors", "model/prior_1/config.json"),
    "train a prior": ("tokens/corpus.json",),
    "continue tracks": ("tokens/corpus.json",),
}
"""Files that commands read."""
OWN_CUTS = {
    "train a codec": ("model.safetensors", "config.json", "state.pt", "training.json"),
    "train a prior": ("model.safetensors", "config.json", "state.pt", "training.json"),
    "tokenize": ("corpus.json",),
    "sample": ("corpus.json",),
    "decode": ("decoded.json",),
    "embed": ("embeddings.json",),
}
"""Files that commands go on from."""
WHAT_TO_DO = re.compile(r"\b(mend|make|restore|remove|choose|download|start|give) ")


@pytest.mark.parametrize("name", READERS)
def test_a_bit_of_a_shard_has_flipped(lab: Lab, tmp_path: Path, name: str) -> None:
    rng = random.Random(name)
    for number in range(FLIPS * SOAK):
        home, out = copied(lab, tmp_path / str(number), name)
        corpus = out if CASES[name].start else home / "tokens"
        shard = rng.choice(sorted(corpus.glob("*.parquet")))
        flipped = bytearray(shard.read_bytes())
        flipped[rng.randrange(len(flipped))] ^= 1 << rng.randrange(8)
        shard.write_bytes(flipped)
        before = contents(corpus)
        said = lab.run(name, out, cwd=home).error
        if said:
            lost = shard.name not in said or contents(corpus) != before
            count("faults", 1, lost)
            assert not lost, said
        else:
            if shard.exists():  # aligning publishes others in its place
                assert shard.read_bytes() == flipped
            lab.check(name, out, 1, shard.name)
        shutil.rmtree(home)


@pytest.mark.parametrize(("name", "file"), [(n, file) for n in CUTS for file in CUTS[n]])
def test_what_a_command_reads_was_cut_off(lab: Lab, tmp_path: Path, name: str, file: str) -> None:
    rng = random.Random(f"{name} {file}")
    for number in range(2 * SOAK):
        home, out = copied(lab, tmp_path / str(number), name)
        cut_off(home / file, rng)
        before = contents(home, f"{Path(file).parts[0]}/**/*")
        ended = lab.run(name, out, cwd=home)
        assert contents(home, f"{Path(file).parts[0]}/**/*") == before
        assert WHAT_TO_DO.search(ended.error)
        assert str(Path(file).parent) in ended.error
        shutil.rmtree(out, ignore_errors=True)
        (home / file).write_bytes((lab.home / file).read_bytes())
        lab.finish(name, out, 1)


@pytest.mark.parametrize(("name", "file"), [(n, file) for n in OWN_CUTS for file in OWN_CUTS[n]])
def test_what_a_command_goes_on_from_was_cut_off(
    lab: Lab, tmp_path: Path, name: str, file: str
) -> None:
    rng = random.Random(f"{name} {file}")
    for number in range(SOAK):
        out = begun(lab, tmp_path / str(number), name, file, rng)
        cut_off(out / file, rng)
        before = contents(out)
        said = lab.run(name, out).error
        if said:
            assert WHAT_TO_DO.search(said), said
            assert str(out) in said, said
            after = contents(out)
            count("faults", 1, after != before)
            assert after == before
        else:
            lab.check(name, out, 1)


def copied(lab: Lab, home: Path, name: str) -> tuple[Path, Path]:
    """A home like the lab's, whose files may be damaged; and the folder for a command's work."""
    home.mkdir()
    (home / "songs").symlink_to(lab.home / "songs")
    for folder in ("model", "tokens"):
        shutil.copytree(lab.home / folder, home / folder)
    return home, lab.begin(name, home / "out")


def cut_off(file: Path, rng: random.Random) -> None:
    data = file.read_bytes()
    file.write_bytes(data[: rng.randrange(len(data))])


def begun(lab: Lab, out: Path, name: str, file: str, rng: random.Random) -> Path:
    """A folder in which a command was stopped once it had written a file."""
    while True:
        process = lab.start(name, out)
        while not (out / file).exists():
            assert not process.wait(0.005)
        process.wait(rng.uniform(0, 0.3) * lab.seconds(name))
        if process.kill(signal.SIGTERM).status < 0:
            return out
        shutil.rmtree(out)
