"""Training clips for a codec: which stretch of which file, as a tensor.

It knows audio files, not networks. Shapes: C channels, T samples of a clip.
"""

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from codec.audio import measure, read_audio
from plugins.ground.crops import Crops

CACHE_BYTES = 1 << 30


class AudioClips:
    """Clips of equal length from a set of audio files (paper section 5.1).

    Small sets are kept decoded in memory; of larger ones each clip is read when it is needed.

    Args:
        files: audio files of any format, rate and channel count.
        sample_rate: of the clips.
        channels: C of the clips.
        length: T of the clips, in samples; shorter files are padded with silence.
        seed: of order, shifts and blends.
        shift: start clips anywhere instead of at multiples of `length`.
        blend: mix the channels of a file with random weights instead of evenly.
    """

    def __init__(
        self,
        files: Sequence[Path],
        sample_rate: int,
        channels: int,
        length: int,
        *,
        seed: int = 0,
        shift: bool = True,
        blend: bool = False,
    ) -> None:
        self.files, self.sample_rate, self.channels = list(files), sample_rate, channels
        self.length, self.blend = length, blend
        self._shapes = [measure(file) for file in self.files]
        lengths = [round(shape.seconds * sample_rate) for shape in self._shapes]
        self.crops = Crops(lengths, length, seed=seed, shift=shift)
        native = sum(n * s.channels for n, s in zip(lengths, self._shapes, strict=True))
        self._whole = functools.cache(self._read) if 4 * native <= CACHE_BYTES else None

    def _read(self, track: int, start: float = 0.0, seconds: float | None = None) -> np.ndarray:
        """Samples of a file with the channels that it has."""
        channels = self._shapes[track].channels
        return read_audio(self.files[track], self.sample_rate, channels, start, seconds)

    def __call__(self, index: int) -> Tensor:
        """Clip `index`, [C, T] float32."""
        track, start = self.crops(index)
        if self._whole is not None:
            audio = self._whole(track)[:, start : start + self.length]
        else:
            rate = self.sample_rate
            audio = self._read(track, start / rate, self.length / rate)[:, : self.length]
        audio = self._mix(audio, self.crops.rng(index))
        return torch.from_numpy(np.pad(audio, ((0, 0), (0, self.length - audio.shape[1]))))

    def _mix(self, audio: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """From the file's channels to C: evenly, or with random convex weights (a blend)."""
        have = audio.shape[0]
        if self.blend and have > 1:
            weights = rng.dirichlet(np.ones(have), self.channels)
        elif have == self.channels:
            return audio
        else:
            weights = np.full((self.channels, have), 1 / have)
        return weights.astype(np.float32) @ audio
