"""`jukebox plugins`: what is installed, from whom, and whether it can be used.

It knows groups and names, not what the plugins do.
"""

import sys
from dataclasses import astuple, dataclass, fields

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
    """Every plugin of every group, each imported to see whether it can be; sorted in a group."""
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
        plugin.load()
    except InputError as error:
        cause = error.__cause__ or error
        return " ".join(f"can't be loaded: {type(cause).__name__}: {cause}".split())
    return READY


class ListPlugins(Command):
    """List the plugins that are installed, and whether they can be loaded."""

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
