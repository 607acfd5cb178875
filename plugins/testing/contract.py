"""What the suites share: a plugin by its registry name, settings that make it small, refusals.

It knows no kind of plugin.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

import pytest
import torch
from pydantic import BaseModel
from torch import Tensor

from plugins import registry
from plugins.ground.config import build_config
from plugins.ground.errors import InputError


@contextmanager
def refused() -> Iterator[None]:
    """Bad input must raise `InputError`, whose message is one line."""
    with pytest.raises(InputError) as caught:
        yield
    assert is_line(str(caught.value))


@contextmanager
def maybe_refused() -> Iterator[None]:
    """What may do or not; if it does not, then as `refused` says, with no other exception."""
    said = None
    try:
        yield
    except InputError as error:
        said = str(error)
    assert said is None or is_line(said)


def is_line(text: object) -> bool:
    """Whether it is one line of text that says something."""
    return isinstance(text, str) and bool(text.strip()) and "\n" not in text


def differing(ours: Mapping[str, Tensor], exact: Mapping[str, Tensor]) -> list[str]:
    """Names of tensors that are not the same, bit for bit, or that only one side has."""
    names = [*exact, *(name for name in ours if name not in exact)]
    return [
        name
        for name in names
        if name not in ours or name not in exact or not torch.equal(ours[name], exact[name])
    ]


class Contract:
    """A plugin of a group, by name."""

    group: ClassVar[str]
    name: ClassVar[str]
    """Registry name of the plugin: what stands left of the `=` among your entry points."""

    @property
    def plugin(self) -> Any:
        """The class, found and checked as commands find it."""
        return registry.get(self.group, self.name)

    @pytest.fixture(autouse=True)
    def _same_numbers_each_time(self) -> None:
        torch.manual_seed(0)

    def test_it_comes_from_a_distribution_that_errors_can_name(self) -> None:
        """Errors and checkpoints say whose plugin it is."""
        offered = registry.plugins(self.group)[self.name]
        assert offered.distribution
        assert offered.version != "unknown version"
        assert (
            registry.origin(self.plugin) != f"{self.plugin.__module__}.{self.plugin.__qualname__}"
        )


class ConfiguredContract(Contract):
    """A plugin with settings, `Config`."""

    config: ClassVar[Mapping[str, Any]] = {}
    """Settings over the defaults: small, since every test builds the plugin anew."""

    @pytest.fixture
    def settings(self) -> Mapping[str, Any]:
        """`config`. Override this fixture where settings name files, and make the files in it."""
        return self.config

    @pytest.fixture
    def made_config(self, settings: Mapping[str, Any]) -> Any:
        """The plugin's `Config` of these settings, checked as commands check them."""
        return build_config(self.plugin.Config, {"": {}}, "", settings)

    def test_config_survives_json(self, made_config: BaseModel) -> None:
        """Checkpoints hold it as JSON, with the plugin's name, and build the plugin from it."""
        kept = registry.record(self.group, self.name, made_config)
        again = registry.PluginRecord.model_validate_json(kept.model_dump_json())
        cls, config = registry.restore(self.group, again)
        assert cls is self.plugin
        assert config == made_config
        assert type(config) is type(made_config)

    def test_a_setting_that_there_is_not_is_refused(self, made_config: BaseModel) -> None:
        """Else a misspelt setting would be a silent default: `extra="forbid"` in `model_config`."""
        kept = registry.record(self.group, self.name, made_config)
        odd = kept.model_copy(update={"config": {**kept.config, "no_such_setting": 1}})
        with refused():
            registry.restore(self.group, odd)
