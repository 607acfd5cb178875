"""HTML as nested calls that escape every text they are given. It knows no page."""

import html
from collections.abc import Iterable
from typing import TypeAlias

VOID = {"img", "link", "meta", "source"}


class Markup(str):
    """Text that is HTML already; only `tag` and `join` make it from what others wrote."""

    __slots__ = ()


Content: TypeAlias = "str | Iterable[Content] | None"


def escape(text: str) -> Markup:
    """Any text as HTML."""
    return Markup(html.escape(text, quote=True))


def join(*parts: Content) -> Markup:
    """Parts one after the other: texts are escaped, Markup is not, None is left out."""
    return Markup("".join(_flat(parts)))


def tag(name: str, *parts: Content, **attributes: str | bool | None) -> Markup:
    """An element with its contents.

    Args:
        name: of the element.
        parts: contents, as for `join`.
        attributes: a trailing underscore is dropped (`class_`), others become hyphens; True
            gives one without a value, None and False none at all.
    """
    given = "".join(
        f" {key.rstrip('_').replace('_', '-')}"
        + ("" if value is True else f'="{html.escape(value, quote=True)}"')
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    return Markup(f"<{name}{given}>" + ("" if name in VOID else f"{join(*parts)}</{name}>"))


def _flat(parts: Iterable[Content]) -> Iterable[str]:
    for part in parts:
        if isinstance(part, str):
            yield part if isinstance(part, Markup) else escape(part)
        elif part is not None:
            yield from _flat(part)
