"""docs/plugins.md from nothing to an installed conditioner, as a reader would type it."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
from fresh import ROOT, Environment

from codec.corpus import Corpus
from prior.checkpoint import read_config

PAGE = (ROOT / "docs" / "plugins.md").read_text("utf-8")
# Nothing is downloaded, and pip must be the environment's own.
INSTEAD = {"pip install": "python -m pip install --quiet --no-index --no-build-isolation"}
BRIEF = " --steps 2 --batch-size 2 --set context=64 --set width=32 --set depth=2"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def home(environment: Environment, codec_folder: Path) -> Path:
    """The files that the page has its reader write, two songs, and a codec."""
    package = environment.home / "jukebox-key"
    package.mkdir()
    (package / "pyproject.toml").write_text(*blocks("toml"))
    conditioner, test = blocks("python")
    (package / "jukebox_key.py").write_text(conditioner)
    (package / "test_key.py").write_text(test)
    music = environment.home / "my-music"
    music.mkdir()
    for name, song in {"fear": "obsidian-shell-fear", "apex": "maxstack-apex-aleph"}.items():
        shutil.copy(ROOT / "examples" / "music" / f"{song}.ogg", music / f"{name}.ogg")
    (music / "metadata.jsonl").write_text(*blocks("json"))
    shutil.copytree(codec_folder, environment.home / "model" / "codec")
    return environment.home


def test_a_reader_gets_from_nothing_to_an_installed_conditioner(
    home: Path, environment: Environment
) -> None:
    said = {}
    for command in "".join(blocks("sh")).splitlines():
        line = command
        for theirs, ours in INSTEAD.items():
            line = line.replace(theirs, ours)
        line = line.replace("--seconds 5", "--seconds 0.5")
        words = shlex.split(line + BRIEF if "prior.train" in line else line)
        done = environment.run(*words)
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        said[command] = done.stdout
    (key,) = [row for row in said["jukebox plugins"].splitlines() if row.startswith("key ")]
    assert key.split() == ["key", "jukebox.conditioners", "jukebox-key", "1.0", "ready"]
    assert " passed" in said["python -m pytest jukebox-key"]
    kept = read_config(home / "model" / "prior_1").conditioners[0]
    assert (kept.name, kept.distribution, kept.config) == ("key", "jukebox-key", {"dropout": 0.2})
    assert Corpus(home / "samples").metadata(0)["key"] == "C minor"


def test_it_is_one_page() -> None:
    assert len(PAGE.splitlines()) < 150
    (program, _) = blocks("python")
    assert len(program.splitlines()) < 50
