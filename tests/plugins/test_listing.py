"""`jukebox plugins`: what is there, whose it is, and whether it can be used on this machine."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from plugins import registry
from plugins.ground.device import pick_device

ROOT = Path(__file__).parents[2]
ENTRY_POINTS = """
[jukebox.codecs]
wrecked = stranger_wreck:Codec
absent = no_such_module:Codec
odd = stranger_things:Odd

[jukebox.attention]
never = stranger_things:Never
unsure = stranger_things:Unsure
own = stranger_things:Own

[jukebox.aligners]
lame = stranger_things:Lame
fine = stranger_things:Fine

[jukebox.commands]
quiet = stranger_things:Quiet
"""
THINGS = '''
import sys
from pydantic import BaseModel
from conditioning.base import Aligner
from plugins.ground.command import Command
from prior.attention.base import LayerAttention
from prior.attention.kernels import Naive

class Odd:
    pass

class Never(Naive):
    def why_not(self, request):
        asked = (request.device, str(request.dtype), request.pattern, request.grad)
        return f"it was asked {asked}\\nin vain"

class Unsure(Naive):
    def why_not(self, request):
        raise KeyError("driver")

class Own(LayerAttention):
    class Config(BaseModel):
        pass
    oracle = forward = step = None
    @classmethod
    def why_not(cls, request):
        return None

class Fine(Aligner):
    class Config(BaseModel):
        model: str
    align = None

class Lame(Fine):
    @classmethod
    def why_not(cls):
        return "the library nothing is missing: pip install nothing"

class Quiet(Command):
    """Say nothing."""
    def cli_cmd(self):
        pass

print("a stranger's module talks")
'''


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the path, with somebody's distribution and another that claims one of its
    names.
    """
    folder = tmp_path_factory.mktemp("site")
    for name, text in (
        ("stranger_kit-2.5", ENTRY_POINTS),
        ("rival_kit-1", "[jukebox.codecs]\nwrecked = a:b\n"),
        ("torn_kit-1", "[jukebox.codecs\n"),
    ):
        info = folder / f"{name}.dist-info"
        info.mkdir()
        (info / "entry_points.txt").write_text(text)
    (folder / "stranger_wreck.py").write_text("raise RuntimeError('all is lost')")
    (folder / "stranger_things.py").write_text(THINGS)
    return folder


@pytest.fixture(scope="module")
def listed(site: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "plugins.cli", "plugins"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(site)},
    )


@pytest.fixture(scope="module")
def rows(listed: "subprocess.CompletedProcess[str]") -> dict[tuple[str, str, str], tuple[str, str]]:
    """Group, name and distribution -> version and state."""
    assert listed.returncode == 0, listed.stderr
    head, *lines = (line for line in listed.stdout.splitlines() if "talks" not in line)
    assert head.split() == ["name", "group", "distribution", "version", "state"]
    split = (line.split(maxsplit=4) for line in lines)
    return {(row[1], row[0], row[2]): (row[3], row[4].strip()) for row in split}


def test_all_of_ours_are_there_and_ready_but_where_they_say_why_not(rows) -> None:
    ours = {key: state for key, (_, state) in rows.items() if key[2] == "jukebox-toolkit"}
    registered = {
        (group, name, plugin.distribution)
        for group in registry.GROUPS
        for name, plugin in registry.plugins(group).items()
        if plugin.distribution == "jukebox-toolkit"
    }
    assert registered == set(ours)
    assert len(ours) > 25
    excused = {"jukebox.attention": {"xformers", "flex"}, "jukebox.aligners": {"pocketsphinx"}}
    for (group, name, _), state in ours.items():
        absent = name in excused.get(group, set()) and state.startswith("not here: ")
        assert state == "ready" or absent, (name, state)


@pytest.mark.skipif(torch.cuda.is_available(), reason="xformers may be ready here")
def test_what_needs_cuda_says_so(rows) -> None:
    state = rows["jukebox.attention", "xformers", "jukebox-toolkit"][1]
    assert state.startswith("not here: ")
    assert "CUDA" in state


@pytest.mark.parametrize(
    ("group", "name", "state"),
    [
        ("codecs", "absent", "can't be loaded: ModuleNotFoundError: No module named 'no_such_m"),
        ("codecs", "odd", "can't be loaded: TypeError: stranger_things:Odd must be a subclass of "),
        ("codecs", "wrecked", "rival-kit offers this name too: uninstall one"),
        ("attention", "unsure", "can't be asked whether it works here: KeyError: 'driver'"),
        ("attention", "own", "ready"),
        ("aligners", "lame", "not here: the library nothing is missing: pip install nothing"),
        ("aligners", "fine", "ready"),
        ("commands", "quiet", "ready"),
    ],
)
def test_a_stranger_s_are_listed_with_their_state(rows, group: str, name: str, state: str) -> None:
    version, found = rows[f"jukebox.{group}", name, "stranger-kit"]
    assert version == "2.5"
    assert found.startswith(state)


def test_kernels_are_asked_about_sampling_on_this_machine(rows) -> None:
    asked = (pick_device("auto").type, "torch.float32", "dense", False)
    state = rows["jukebox.attention", "never", "stranger-kit"][1]
    assert state == f"not here: it was asked {asked} in vain"


def test_both_who_claim_a_name_are_listed(rows) -> None:
    found = rows["jukebox.codecs", "wrecked", "rival-kit"]
    assert found == ("1", "stranger-kit offers this name too: uninstall one")


def test_a_malformed_distribution_is_named(listed) -> None:
    assert "ignoring the plugins of torn_kit" in listed.stderr
