"""The toolkit's own plugins pass the suites that strangers' plugins are given, by inheritance.

There is a class of tests for each plugin of ours in the registry, so a new one is tested by being
registered; settings that make it small, and what it needs, stand in the table of its group.
"""

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import soundfile

from plugins import registry
from plugins.ground.errors import InputError
from plugins.testing import (
    AlignerContract,
    CodecContract,
    CommandContract,
    ConditionerContract,
    KernelContract,
    LayerAttentionContract,
)
from plugins.testing.aligners import LYRICS
from plugins.testing.contract import Contract
from prior.attention.base import LayerAttention

OURS = "jukebox-toolkit"
NETWORK = {"width": 16, "depth": 2, "heads": 2, "blocks": 4}
SONG = {"track": {"lyrics": "La la, the first\nand la"}, "others": ({"lyrics": "Ещё ラ"},)}
LRC = "\n".join(f"[00:{2 * n + 1:02}.50]{line}" for n, line in enumerate(LYRICS.splitlines()))
PLAIN = {"tokens": 12, "transliterate": "none"}


class AttentionAligner(AlignerContract):
    """By a prior whose attention follows the singing by construction."""

    @pytest.fixture(params=["memory", "prefix"])
    def settings(self, request: pytest.FixtureRequest, tmp_path: Path) -> Mapping[str, Any]:
        from test_attention_aligner import following

        return {"model": following(tmp_path / "model", request.param), "device": "cpu"}

    @pytest.fixture
    def labels(self) -> Mapping[str, Any]:
        from test_attention_aligner import song

        return song(0)[0]


class SpokenAligner(AlignerContract):
    """By audio: what espeak-ng says."""

    @pytest.fixture
    def settings(self, tmp_path: Path) -> Mapping[str, Any]:
        if not shutil.which("espeak-ng"):
            pytest.skip("espeak-ng, who speaks the lyrics, is not installed")
        path = tmp_path / "song.wav"
        subprocess.run(
            ["espeak-ng", "-w", path, "-s", "140", LYRICS.replace("\n", ". ")], check=True
        )
        return {"audio": tmp_path}

    @pytest.fixture
    def labels(self, settings: Mapping[str, Any]) -> Mapping[str, Any]:
        seconds = soundfile.info(settings["audio"] / "song.wav").duration
        return {"num_samples": round(seconds * self.spec.sample_rate)}


CODECS: dict[str, Mapping[str, Any]] = {
    "vqvae": {
        "config": {
            "sample_rate": 8000,
            "halvings": (2, 1),
            "multipliers": (1, 1),
            "width": 4,
            "depth": 1,
            "codebook_width": 4,
            "codebook_size": 32,
        }
    }
}
CONDITIONERS: dict[str, Mapping[str, Any]] = {
    "artist": {"track": {"artist": "Anna"}, "others": ({"artist": "Bert"}, {"artist": "Aaron"})},
    "genre": {"track": {"genre": "Rock; pop"}, "others": ({"genre": "jazz pop"},)},
    "timing": {"config": {"bins": 8}},
    "codes": {"config": {"width": 8, "depth": 2, "dilation_cycle": 2}},
    "lyrics_prefix": {"config": PLAIN, **SONG},
    "lyrics_memory": {"config": {**PLAIN, "network": NETWORK}, **SONG},
}
ALIGNERS: dict[str, Mapping[str, Any]] = {
    "attention": {"suite": AttentionAligner},
    "linear": {},
    "lrc": {"track": {"lrc": LRC}},
    "pocketsphinx": {"suite": SpokenAligner},
}
NEEDED: dict[str, dict[str, Mapping[str, Any]]] = {
    registry.CODECS: CODECS,
    registry.CONDITIONERS: CONDITIONERS,
    registry.ALIGNERS: ALIGNERS,
}
"""Groups whose plugins can't be tested by their names alone."""
SUITES: dict[str, type[Contract]] = {
    registry.CODECS: CodecContract,
    registry.CONDITIONERS: ConditionerContract,
    registry.ALIGNERS: AlignerContract,
    registry.COMMANDS: CommandContract,
}


def ours(group: str) -> list[str]:
    """Names of this distribution's plugins."""
    found = registry.plugins(group).values()
    return [plugin.name for plugin in found if plugin.distribution == OURS]


def suite_of(group: str, name: str) -> type[Contract]:
    """The suite of one plugin, not inherited yet."""
    if group != registry.ATTENTION:
        return NEEDED.get(group, {}).get(name, {}).get("suite", SUITES[group])
    try:
        owns = issubclass(registry.get(group, name), LayerAttention)
    except InputError:  # which its tests will say
        owns = False
    return LayerAttentionContract if owns else KernelContract


def inherited(group: str, name: str) -> type[Contract]:
    """A class of tests, as an author of that plugin would write it."""
    told = NEEDED.get(group, {}).get(name, {})
    own = {key: value for key, value in told.items() if key != "suite"}
    return type(f"Test_{name}", (suite_of(group, name),), {"name": name, **own})


for _group in registry.GROUPS:
    _kind = _group.rpartition(".")[2]
    for _name in ours(_group):
        if _name in NEEDED.get(_group, {_name: {}}):
            globals()[f"Test_{_kind}_{_name}".replace("-", "_")] = inherited(_group, _name)


@pytest.mark.parametrize("group", NEEDED)
def test_every_plugin_of_ours_is_in_its_table(group: str) -> None:
    missing = set(ours(group)) - set(NEEDED[group])
    assert not missing, f"give {missing} of {group} what they need in NEEDED, to be tested"
    gone = set(NEEDED[group]) - set(ours(group))
    assert not gone, f"{gone} of {group} are not registered any more"
