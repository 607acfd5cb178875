from .base import Condition, Conditioner, Provides, Site, Window
from .codes import UpperCodes
from .fuse import fuse
from .labels import Artist, Genre
from .lyrics import LyricsMemory, LyricsPrefix
from .timing import Timing

__all__ = [
    "Artist",
    "Condition",
    "Conditioner",
    "Genre",
    "LyricsMemory",
    "LyricsPrefix",
    "Provides",
    "Site",
    "Timing",
    "UpperCodes",
    "Window",
    "fuse",
]
