"""`jukebox plugins`: what is installed, from whom, and whether it can be used.

It knows groups and names, and which of them can say why they can't be used, not what plugins do.
"""

import sys
from dataclasses import astuple, dataclass, fields
from typing import Any

from plugins import registry
from plugins.ground.command import Command
from plugins.ground.errors import InputError

READY = "ready"
WIDE = 1000
"""Columns to print where there is no terminal to fit into."""


@dataclass(frozen=True)
class Row:
    """One plugin of the table."""

    name: str
    group: str
    distribution: str
    version: str
    state: str
    """`READY`, or why it can't be used."""


def listing() -> list[Row]:
    """Every plugin of every group, each imported and asked whether it works; sorted in a group."""
    rows = []
    for group in registry.GROUPS:
        offers = sorted(registry.offers(group), key=lambda plugin: plugin.name)
        for plugin in offers:
            rivals = [o.distribution for o in offers if o.name == plugin.name and o != plugin]
            rows.append(
                Row(
                    name=plugin.name,
                    group=group,
                    distribution=plugin.distribution,
                    version=plugin.version,
                    state=f"{' and '.join(rivals)} offers this name too: uninstall one"
                    if rivals
                    else _state(plugin),
                )
            )
    return rows


def _state(plugin: registry.Plugin) -> str:
    try:
        found = plugin.load()
    except InputError as error:
        return _one_line("can't be loaded", error.__cause__)
    try:
        reason = _why_not(plugin.group, found)
    except (Exception, SystemExit) as error:  # whatever a stranger's class raises
        return _one_line("can't be asked whether it works here", error)
    return READY if reason is None else " ".join(f"not here: {reason}".split())


def _one_line(what: str, error: BaseException | None) -> str:
    return " ".join(f"{what}: {type(error).__name__}: {error}".split())


def _why_not(group: str, found: Any) -> str | None:
    """Why a plugin that was loaded can't be used on this machine; None if it can.

    Attention is asked about sampling in float32.
    """
    if group == registry.ALIGNERS:
        reason: str | None = found.why_not()
        return reason
    if group == registry.ATTENTION:
        import torch

        from plugins.ground.device import pick_device
        from prior.attention.base import AttentionKernel, AttentionRequest

        device = pick_device("auto").type
        request = AttentionRequest(device, torch.float32, "dense", grad=False)
        asked = found() if issubclass(found, AttentionKernel) else found
        reason = asked.why_not(request)
        return reason
    return None


class ListPlugins(Command):
    """List the plugins that are installed, and whether they can be used on this machine."""

    def cli_cmd(self) -> None:
        """Print the table."""
        from rich.console import Console
        from rich.table import Table

        table = Table(box=None, pad_edge=False)
        for field in fields(Row):
            table.add_column(field.name, overflow="fold")
        for row in listing():
            table.add_row(*astuple(row))
        width = None if sys.stdout.isatty() else WIDE
        Console(width=width, markup=False, emoji=False, highlight=False).print(table)


if __name__ == "__main__":
    ListPlugins.main()
