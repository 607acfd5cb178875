"""Can be imported, but holds nothing that a group takes."""

from torch import nn


class Wrong(nn.Module):
    """No conditioner: it has the methods of none."""


def function() -> None:
    """No command."""
