from .aligning import align_corpus
from .base import (
    Aligner,
    AuxiliaryLoss,
    Condition,
    Conditioner,
    LyricsReader,
    Provides,
    Site,
    Window,
    Word,
)
from .codes import UpperCodes
from .fuse import fuse
from .labels import Artist, Genre
from .linear import LinearAligner
from .lrc import LrcAligner
from .lyrics import LyricsMemory, LyricsPrefix
from .timing import Timing

__all__ = [
    "Aligner",
    "Artist",
    "AuxiliaryLoss",
    "Condition",
    "Conditioner",
    "Genre",
    "LinearAligner",
    "LrcAligner",
    "LyricsMemory",
    "LyricsPrefix",
    "LyricsReader",
    "Provides",
    "Site",
    "Timing",
    "UpperCodes",
    "Window",
    "Word",
    "align_corpus",
    "fuse",
]
