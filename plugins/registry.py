"""How a name becomes an object: plugins found through Python entry points.

The one place that uses the `entrypoints` package. It knows groups and names, not what the
objects do. Nothing is imported before it is asked for, and a stranger's broken plugin is
warned about, never fatal.
"""

import difflib
import functools
import importlib
import importlib.metadata
import inspect
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import entrypoints
from pydantic import BaseModel, ConfigDict, ValidationError

from plugins.ground.errors import InputError, first_problem

CODECS = "jukebox.codecs"
ATTENTION = "jukebox.attention"
CONDITIONERS = "jukebox.conditioners"
ALIGNERS = "jukebox.aligners"
COMMANDS = "jukebox.commands"
BASES = {
    CODECS: ("codec.base:Codec",),
    ATTENTION: ("prior.attention.base:AttentionKernel", "prior.attention.base:LayerAttention"),
    CONDITIONERS: ("conditioning.base:Conditioner",),
    ALIGNERS: ("conditioning.base:Aligner",),
    COMMANDS: ("plugins.ground.command:Command",),
}
"""Groups, and what their plugins are subclasses of: named, since the registry imports no room."""
GROUPS = tuple(BASES)


@dataclass(frozen=True)
class Plugin:
    """One name in one group, not yet imported."""

    group: str
    name: str
    target: str
    """"module:attribute"."""
    distribution: str
    version: str

    def __str__(self) -> str:
        return f"{self.name!r} of group {self.group} from {self.distribution} {self.version}"

    def load(self) -> Any:
        """Import the class.

        Raises:
            InputError: its name can't be used, its target names no class, its module can't be
                imported or lacks it, or it is not what its group holds; names the distribution.
        """
        if not re.fullmatch(r"[^\s./,]+", self.name):
            raise InputError(f"{self}: a name can't be empty or hold '.', '/', ',' or white space")
        if self.target.endswith(":"):
            raise InputError(f"{self}: {self.target[:-1]} names no class: write module:Class")
        try:
            found = _import(self.target)
        except (Exception, SystemExit) as error:  # whatever a stranger's module raises on import
            said = " ".join(str(error).split())
            raise InputError(f"{self} can't be loaded: {type(error).__name__}: {said}") from error
        if wrong := _misfit(found, self.group):
            said = f"{self.target} {wrong}"
            raise InputError(f"{self} is not what that group holds: {said}") from TypeError(said)
        return found


def _import(target: str) -> Any:
    """The object of "module:attribute"."""
    module, _, attribute = target.partition(":")
    return functools.reduce(getattr, attribute.split("."), importlib.import_module(module))


def _misfit(found: Any, group: str) -> str | None:
    """What keeps an object from being a plugin of a group; None if it is one."""
    bases = [_import(base) for base in BASES[group]]
    kind = [base for base in bases if isinstance(found, type) and issubclass(found, base)]
    if not kind:
        names = " or ".join(base.replace(":", ".") for base in BASES[group])
        return f"must be a subclass of {names}"
    if missing := sorted(getattr(found, "__abstractmethods__", ())):
        return f"lacks {', '.join(missing)}"
    config = getattr(found, "Config", None)
    if "Config" in inspect.get_annotations(kind[0]) and not (
        isinstance(config, type) and issubclass(config, BaseModel)
    ):
        return "lacks Config, a pydantic model of its settings"
    return None


class PluginRecord(BaseModel):
    """What a checkpoint keeps of a plugin, so that it can be built, or missed by name."""

    model_config = ConfigDict(frozen=True)

    name: str
    distribution: str
    version: str
    config: dict[str, Any] = {}


def offers(group: str) -> tuple[Plugin, ...]:
    """Everything that is offered in a group, two of one name included; imports nothing."""
    return _scan(group, tuple(sys.path))


def plugins(group: str) -> dict[str, Plugin]:
    """Every plugin of a group by name, sorted; imports nothing.

    A name that two distributions offer is left out with a warning, so that it harms no other.
    """
    found: dict[str, Plugin] = {}
    for plugin in offers(group):
        found.setdefault(plugin.name, plugin)
    for name in [name for name in found if len(_rivals(group, name)) > 1]:
        warnings.warn(_dispute(group, name), stacklevel=1)  # one place, so it is said once
        del found[name]
    return dict(sorted(found.items()))


def get(group: str, name: str) -> Any:
    """The object of that name.

    Raises:
        InputError: there is none (lists the names and the nearest), two distributions offer it,
            or it can't be loaded.
    """
    if len(_rivals(group, name)) > 1:
        raise InputError(_dispute(group, name))
    known = plugins(group)
    if name in known:
        return known[name].load()
    if not known:
        raise InputError(f"no plugin in {group}: install jukebox-toolkit (pip install .)")
    near = difflib.get_close_matches(name, known, 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise InputError(
        f"no {name!r} in {group}; there are: {', '.join(known)}{hint} "
        f"(another package may offer it: install that package)"
    )


def origin(cls: type) -> str:
    """Whose plugin a class is, for messages; its own name if it is nobody's."""
    everything = (plugin for group in GROUPS for plugin in offers(group))
    found = (plugin for plugin in everything if _loaded(plugin) is cls)
    return str(next(found, f"{cls.__module__}.{cls.__qualname__}"))


@contextmanager
def blaming(cls: type, doing: str) -> Iterator[None]:
    """Whatever a plugin's class raises, in one line that says whose it is.

    Raises:
        InputError: that line, or what the class itself has to say about bad input.
    """
    try:
        yield
    except (InputError, MemoryError):
        raise
    except Exception as error:
        if type(error).__name__ == "OutOfMemoryError":  # torch's, which is not imported here
            raise
        said = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise InputError(f"{origin(cls)} can't {doing}: {said}") from error


def _loaded(plugin: Plugin) -> Any:
    """The object of a plugin whose module has been imported; None for others, and broken ones."""
    if plugin.target.partition(":")[0] not in sys.modules:
        return None
    try:
        return _import(plugin.target)
    except Exception:
        return None


def _rivals(group: str, name: str) -> list[str]:
    """The distributions that offer a name."""
    return [plugin.distribution for plugin in offers(group) if plugin.name == name]


def _dispute(group: str, name: str) -> str:
    return (
        f"two plugins are named {name!r} in {group}: of {' and '.join(_rivals(group, name))}; "
        "uninstall one of them"
    )


def record(group: str, name: str, config: BaseModel) -> PluginRecord:
    """What a checkpoint keeps of the plugin of that name with that config."""
    plugin = plugins(group).get(name)
    return PluginRecord(
        name=name,
        distribution=plugin.distribution if plugin else "",
        version=plugin.version if plugin else "",
        config=config.model_dump(mode="json"),
    )


def restore(group: str, kept: PluginRecord) -> tuple[Any, Any]:
    """The class that a checkpoint needs, and its config.

    Raises:
        InputError: the plugin is not installed (names its distribution), is offered twice, can't
            be loaded, has no settings (an attention kernel), or refuses the config.
    """
    if not _rivals(group, kept.name):
        raise InputError(
            f"this checkpoint needs {kept.name!r} of group {group}, which "
            f"{kept.distribution or 'an unnamed package'} {kept.version} offered: install it"
        )
    cls = get(group, kept.name)
    if not hasattr(cls, "Config"):
        raise InputError(
            f"{kept.name!r} of group {group} has no settings, so no checkpoint can need it"
        )
    try:
        return cls, cls.Config.model_validate(kept.config)
    except ValidationError as error:
        raise InputError(
            f"{kept.name!r} of group {group} does not take this config, which "
            f"{kept.distribution or 'an unnamed package'} {kept.version} wrote: "
            f"{first_problem(error)}"
        ) from error


@functools.lru_cache
def _scan(group: str, path: tuple[str, ...]) -> tuple[Plugin, ...]:
    """All entry points of a group; a distribution found earlier on the path hides later copies."""
    found: list[Plugin] = []
    seen: set[str] = set()
    for folder in path:
        for distro, entries in _entries(group, folder or "."):
            # As package indexes spell it, since folders of one distribution may spell it otherwise.
            name = re.sub("[-_.]+", "-", distro.name).lower()
            if name not in seen:
                seen.add(name)
                found += [
                    Plugin(
                        group=group,
                        name=entry.name,
                        target=f"{entry.module_name}:{entry.object_name or ''}",
                        distribution=name,
                        version=_version(name, distro),
                    )
                    for entry in entries
                ]
    return tuple(found)


def _entries(
    group: str, folder: str
) -> Iterator[tuple[entrypoints.Distribution, list[entrypoints.EntryPoint]]]:
    """Each distribution below a folder, and its entry points in a group.

    Read file by file, so that here a malformed one costs itself only. Libraries that scan the path
    for their own plugins, as PyTorch does when imported, may still stop at it.
    """
    for kind in ("*.dist-info", "*.egg-info"):
        for file in sorted(Path(folder).glob(f"{kind}/entry_points.txt")):
            parser = entrypoints.CaseSensitiveConfigParser(delimiters=("=",))
            distro = entrypoints.Distribution.from_name_version(file.parent.stem)
            try:
                parser.read([file], encoding="utf-8")
                lines = parser[group] if parser.has_section(group) else {}
                entries = [
                    entrypoints.EntryPoint.from_string(lines[name], name, distro) for name in lines
                ]
            except Exception as error:  # the parser raises many types, and strangers write the file
                reason = f"{type(error).__name__}: {error}".splitlines()[0]
                warnings.warn(
                    f"ignoring the plugins of {distro.name}: {file} is malformed ({reason})",
                    stacklevel=2,
                )
                continue
            yield distro, entries


def _version(name: str, distro: entrypoints.Distribution) -> str:
    """Editable installations may carry no version in the folder's name."""
    if distro.version:
        return str(distro.version)
    try:
        # A folder without metadata has no version either.
        return importlib.metadata.version(name) or "unknown version"
    except (importlib.metadata.PackageNotFoundError, KeyError):
        return "unknown version"
