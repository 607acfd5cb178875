"""Which tracks are kept back from training, by patterns of their ids. It knows ids only."""

import fnmatch
from collections.abc import Sequence

from plugins.ground.errors import InputError


def split_ids(ids: Sequence[str], held_out: Sequence[str]) -> tuple[list[int], list[int]]:
    """Positions to train on and positions to keep back.

    Args:
        ids: of all tracks.
        held_out: shell patterns ("artist-*"); a track that fits one is kept back.

    Raises:
        InputError: a pattern fits no id, or nothing is left to train on.
    """
    for pattern in held_out:
        if not any(_fits(name, pattern) for name in ids):
            raise InputError(f"--held-out {pattern}: no track has an id like that")
    back = [i for i, name in enumerate(ids) if any(_fits(name, p) for p in held_out)]
    train = sorted({*range(len(ids))} - {*back})
    if not train:
        raise InputError("--held-out leaves no track to train on")
    return train, back


def _fits(name: str, pattern: str) -> bool:
    """Ids may hold brackets themselves, so a name always fits itself."""
    return name == pattern or fnmatch.fnmatchcase(name, pattern)
