"""Training clips for a codec: which stretch of which file, as a tensor.

It knows audio files, not networks. Shapes: C channels, T samples of a clip.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from codec.audio import AudioError, AudioShape, measure, read_audio
from plugins.ground.crops import Crops
from plugins.ground.errors import InputError

CACHE_BYTES = 1 << 30


class AudioClips:
    """Clips of equal length from a set of audio files (paper section 5.1).

    Small sets are kept decoded in memory; of larger ones each clip is read when it is needed.

    Args:
        files: audio files of any format, rate and channel count; those that can't be used are left
            out with one warning for all.
        sample_rate: of the clips.
        channels: C of the clips.
        length: T of the clips, in samples; shorter files are padded with silence.
        seed: of order, shifts and blends.
        shift: start clips anywhere instead of at multiples of `length`.
        blend: mix the channels of a file with random weights instead of evenly.

    Raises:
        InputError: not one file can be used; when a clip is read, its file turns out to be damaged
            (names it).
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
        self.sample_rate, self.channels = sample_rate, channels
        self.length, self.blend = length, blend
        self.files, self._shapes = _usable(files)
        lengths = [round(shape.seconds * sample_rate) for shape in self._shapes]
        self.crops = Crops(lengths, length, seed=seed, shift=shift)
        native = sum(n * s.channels for n, s in zip(lengths, self._shapes, strict=True))
        self._small = 4 * native <= CACHE_BYTES
        self._whole: dict[int, np.ndarray] = {}

    def __getstate__(self) -> dict[str, object]:
        """Without what is decoded, which other processes had better decode than be sent."""
        return {**vars(self), "_whole": {}}

    def _read(self, track: int, start: float = 0.0, seconds: float | None = None) -> np.ndarray:
        """Samples of a file with the channels that it has."""
        channels = self._shapes[track].channels
        try:
            return read_audio(self.files[track], self.sample_rate, channels, start, seconds)
        except AudioError as error:
            raise InputError(
                f"can't train on {error}: put a sound file in its place and start again, the "
                "training goes on from its last state"
            ) from error

    def __call__(self, index: int) -> Tensor:
        """Clip `index`, [C, T] float32."""
        track, start = self.crops(index)
        if self._small:
            if track not in self._whole:
                self._whole[track] = self._read(track)
            audio = self._whole[track][:, start : start + self.length]
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


def _usable(files: Sequence[Path]) -> tuple[list[Path], list[AudioShape]]:
    """Those of the files whose headers are sound, and what they hold; warns of the others.

    Raises:
        InputError: none is left.
    """
    found: list[Path] = []
    shapes: list[AudioShape] = []
    problems: list[AudioError] = []
    for file in files:
        try:
            shape = measure(file)
            if not shape.frames:
                raise AudioError(file, "holds no samples")
        except AudioError as error:
            problems.append(error)
        else:
            found.append(file)
            shapes.append(shape)
    if not found:
        first = f"; the first, {problems[0]}" if problems else ""
        raise InputError(f"none of {len(files)} audio files can be used{first}")
    if problems:
        warnings.warn(
            f"{len(problems)} of {len(files)} audio files can't be used and are left out; "
            f"the first, {problems[0]}",
            stacklevel=3,
        )
    return found, shapes
