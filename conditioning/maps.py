"""Alignment maps beside a token corpus: what an aligner went by, as a small picture of each track.

A map lies in `CORPUS/maps/`, in a file named after its track's id, and is made to be looked at: it
is pooled to a size that a screen can show. It does not know who looks or who aligned. Shapes:
F frames, C tokens of the lyrics, R rows of a map (stretches of time), L its columns (of the text).
"""

import hashlib
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from conditioning.base import AlignmentMap
from plugins.ground.errors import InputError
from plugins.ground.files import published

MAPS = "maps"
LARGEST = 1500
"""Rows and columns at most."""
BRIGHTEST = 90
"""Percentile of the rows' greatest weights that is brightest, so that one spike leaves no dark
rest."""


@dataclass(frozen=True)
class Picture:
    """An alignment map as it is kept."""

    levels: np.ndarray
    """[R, L] uint8: time by place in the lyrics as they were written, evenly; 255 is most."""
    seconds: float
    """Of all rows together."""
    characters: int
    """Of the lyrics, as they were written."""


def map_file(corpus: Path | str, track: str) -> Path:
    """Where the map of a track is, if it has one."""
    name = hashlib.sha256(track.encode("utf-8", "surrogatepass")).hexdigest()[:32]
    return Path(corpus) / MAPS / f"{name}.npz"


def write_map(corpus: Path | str, track: str, lyrics: str, seen: AlignmentMap | None) -> None:
    """Keep the map of a track, in place of the one that it had; None: it has none any more.

    Args:
        corpus: folder of the token corpus.
        track: its id.
        lyrics: as they were written.
        seen: what the aligner went by.

    Raises:
        InputError: it can't be written, or its weights are not one for each frame and token.
    """
    path = map_file(corpus, track)
    if seen is not None and (seen.weights.ndim, *seen.weights.shape[1:]) != (2, len(seen.sources)):
        raise InputError(
            f"the aligner's map of {track} has weights of shape {[*seen.weights.shape]}: it needs "
            f"one for each frame and each of its {len(seen.sources)} tokens"
        )
    if seen is None:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise InputError(f"can't remove {path}: {error.strerror}") from error
        return
    made = pooled(seen, len(lyrics))
    with published(path) as partial, open(partial, "wb") as file:
        np.savez_compressed(
            file, levels=made.levels, seconds=made.seconds, characters=made.characters
        )


def read_map(corpus: Path | str, track: str, lyrics: str) -> Picture | None:
    """The map of a track; None if it has none.

    Raises:
        InputError: its file is damaged, or was made of other lyrics.
    """
    path = map_file(corpus, track)
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            found = {name: file[name] for name in ("levels", "seconds", "characters")}
        made = Picture(
            found["levels"], float(found["seconds"].item()), int(found["characters"].item())
        )
    except (OSError, EOFError, KeyError, ValueError, AttributeError, MemoryError) as error:
        raise _damaged(path, track) from error
    except (zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        raise _damaged(path, track) from error
    levels = made.levels
    if levels.dtype != np.uint8 or levels.ndim != 2 or not 0 < max(levels.shape) <= LARGEST:
        raise _damaged(path, track)
    if not 0 < made.seconds < np.inf or not levels.size:
        raise _damaged(path, track)
    if made.characters != len(lyrics):
        raise InputError(
            f"{path}, the alignment map of {track}, was made of other lyrics: "
            "align again with --again --maps, or remove it"
        )
    return made


def pooled(seen: AlignmentMap, characters: int) -> Picture:
    """A map as a picture: means over time, sums over the tokens of a stretch of text.

    Args:
        seen: F and C of any size.
        characters: of the lyrics as they were written.
    """
    frames, columns = len(seen.weights), max(1, min(LARGEST, characters))
    rows = max(1, min(LARGEST, frames))
    place = np.clip(np.asarray(seen.sources, int), 0, max(0, characters - 1))
    column = place * columns // max(1, characters)  # [C], never falls
    row = np.arange(frames) * rows // max(1, frames)  # [F], never falls
    levels = _summed(_summed(seen.weights, row, rows).T, column, columns).T
    levels /= np.maximum(np.bincount(row, minlength=rows), 1)[:, None]
    most = np.percentile(levels.max(1), BRIGHTEST) or levels.max() or 1.0
    shown = np.clip(levels * (255 / most), 0, 255).round().astype(np.uint8)
    return Picture(shown, max(frames, 1) * seen.seconds, characters)


def _summed(x: np.ndarray, groups: np.ndarray, count: int) -> np.ndarray:
    """Sums of neighbouring rows of one group, [F, ...] -> [count, ...]; 0 for a group of none."""
    total = np.zeros((count, *x.shape[1:]), np.float32)
    starts = np.flatnonzero(np.diff(groups, prepend=-1))
    if starts.size:
        total[groups[starts]] = np.add.reduceat(x, starts, axis=0)
    return total


def _damaged(path: Path, track: str) -> InputError:
    return InputError(
        f"{path}, the alignment map of {track}, is damaged: "
        "align again with --again --maps, or remove it"
    )
