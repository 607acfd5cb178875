"""Audio files to float32 samples and back: decoding, resampling, channels.

It knows WAV, FLAC, MP3, Vorbis and Opus through libsndfile, and neither codes nor networks.
Shapes: C channels, T samples of a file, n samples of a block.
"""

import contextlib
import itertools
import math
import os
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr

from plugins.ground.errors import InputError
from plugins.ground.files import published

BLOCK = 1 << 16
"""Samples per channel that are decoded at a time."""
MAX_CHANNELS = 64
UNKNOWN_LENGTH = 1 << 48
"""A header that claims more frames than this does not know how many there are."""
ROLL = 4096
"""Samples of the lower rate that a resampler is fed ahead of where its output is wanted."""
VORBIS_TAIL = 1 << 19
"""Frames at the end of a Vorbis file that are reached by decoding, not by seeking."""

WRITERS = {
    ".wav": ("WAV", "PCM_16"),
    ".flac": ("FLAC", "PCM_16"),
    ".ogg": ("OGG", "VORBIS"),
    ".opus": ("OGG", "OPUS"),
    ".mp3": ("MP3", "MPEG_LAYER_III"),
}
WRITER_RATES = {
    ".opus": (8000, 12000, 16000, 24000, 48000),
    ".mp3": (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000),
}


class AudioError(InputError):
    """One audio file can't be used; `reason` says why without naming the file."""

    def __init__(self, path: Path | str, reason: str) -> None:
        super().__init__(path, reason)
        self.path, self.reason = path, reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


@dataclass(frozen=True)
class AudioShape:
    """What a file holds at its own rate."""

    sample_rate: int
    channels: int
    frames: int

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return self.frames / self.sample_rate


def measure(path: Path | str) -> AudioShape:
    """Rate, channels and length of a file by its header; decodes it where that names no length.

    Raises:
        AudioError: it is missing, empty or not audio.
    """
    with _opened(path) as file:
        frames = file.frames
        if frames >= UNKNOWN_LENGTH:
            frames = sum(len(block) for block in _decoded(file, path))
        return AudioShape(file.samplerate, file.channels, frames)


def read_blocks(
    path: Path | str,
    sample_rate: int | None = None,
    channels: int | None = None,
    block: int = BLOCK,
    start: float = 0.0,
    duration: float | None = None,
) -> Iterator[np.ndarray]:
    """Decode a file piece by piece; memory does not grow with its length.

    What comes out does not depend on `block`, and a stretch is what the whole file has there.
    Several channels become one by their mean, one becomes several by copying; other counts are
    copies of the mean. MP3 and Opus may exceed full scale and are left as decoded.

    Args:
        path: an audio file.
        sample_rate: to resample to; the file's own if None.
        channels: C; the file's own if None.
        block: n, samples per block; the last may be shorter.
        start: where to begin, in seconds.
        duration: how much to read, in seconds; to the end if None.

    Yields:
        float32 [C, n].

    Raises:
        AudioError: it is missing, empty, not audio, damaged, or holds no samples, NaN or infinity.
    """
    with _opened(path) as file:
        rate = sample_rate or file.samplerate
        into = channels or file.channels
        first = round(start * rate)
        count = None if duration is None else round(duration * rate)
        skip = _seek(file, first, rate)
        frames = _decoded(file, path)
        if into != file.channels:
            frames = (block.mean(axis=1, keepdims=True) for block in frames)
        if rate != file.samplerate:
            frames = _resampled(frames, file.samplerate, rate)
        empty = True
        for piece in regroup(_cut(frames, skip, count), block):
            empty = False
            copies = into if piece.shape[1] == 1 else 1
            yield np.repeat(piece.T, copies, axis=0)
        if empty and first == 0 and count != 0:
            short = f"too short for one sample at {rate} Hz" if file.frames else "holds no samples"
            raise AudioError(path, short)


def read_audio(
    path: Path | str,
    sample_rate: int | None = None,
    channels: int | None = None,
    start: float = 0.0,
    duration: float | None = None,
) -> np.ndarray:
    """Decode a file, or a stretch of it, at once; arguments as for `read_blocks`.

    Returns:
        float32 [C, T]; T falls short of `duration` where the file ends, down to 0.

    Raises:
        AudioError: as for `read_blocks`.
    """
    blocks = list(read_blocks(path, sample_rate, channels, start=start, duration=duration))
    if not blocks:
        return np.zeros((channels or measure(path).channels, 0), np.float32)
    return np.concatenate(blocks, axis=1)


def write_audio(
    path: Path | str, audio: np.ndarray | Iterable[np.ndarray], sample_rate: int
) -> None:
    """Publish audio in the format of the path's suffix (a key of `WRITERS`).

    Integer formats are clipped at full scale. Opus and MP3 have fixed rates: other audio is
    resampled to the next higher of them, or to the highest.

    Args:
        path: of the file.
        audio: [C, T], or blocks [C, n] of it; numbers in [-1, 1] are within full scale.
        sample_rate: of the audio.

    Raises:
        InputError: no such format, no samples, NaN or infinity, or the disk is full.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in WRITERS:
        raise InputError(f"can't write {path}: the suffix must be one of {', '.join(WRITERS)}")
    rates = WRITER_RATES.get(suffix, (sample_rate,))
    rate = next((rate for rate in rates if rate >= sample_rate), rates[-1])
    blocks: Iterable[np.ndarray] = [audio] if isinstance(audio, np.ndarray) else audio
    frames = _checked((np.asarray(block, np.float32).T for block in blocks), path)
    if rate != sample_rate:
        frames = _resampled(frames, sample_rate, rate)
    with published(path) as partial:
        try:
            _encode(partial, regroup(frames, BLOCK >> 2), rate, suffix)
        except soundfile.LibsndfileError as error:
            raise InputError(f"can't write {path}: {_words(error)}") from error


class _Stream(soundfile.SoundFile):
    """A file that is read in order: not cut at the length that its header claims."""

    def seekable(self) -> bool:
        """Say no: the base class would then seek after each read, which a false length breaks."""
        return False


@contextlib.contextmanager
def _opened(path: Path | str) -> Iterator[soundfile.SoundFile]:
    """Open a file, or say why not.

    Raises:
        AudioError: it is missing, empty, not audio, or has no sensible rate or channel count.
    """
    path = Path(path)
    try:
        if not path.is_file():
            raise AudioError(path, "is not a file" if path.exists() else "no such file")
        if path.stat().st_size == 0:
            raise AudioError(path, "empty file")
        with open(path, "rb"), _silenced():
            file = _Stream(path)
    except OSError as error:
        raise AudioError(path, f"can't be read: {error.strerror}") from error
    except soundfile.LibsndfileError as error:
        reason = _words(error)
        if "SF_INFO" in reason:  # what libsndfile says to a sample rate of 0
            raise AudioError(path, "its header gives no valid sample rate") from error
        raise AudioError(path, f"not audio, or its header is damaged ({reason})") from error
    with file:
        if file.channels > MAX_CHANNELS:
            raise AudioError(path, f"claims {file.channels} channels; {MAX_CHANNELS} is the most")
        yield file


def _words(error: soundfile.LibsndfileError) -> str:
    """What libsndfile says, without the path and the frills."""
    return error.error_string.strip().rstrip(".").removeprefix("Error : ")


def _decoded(file: soundfile.SoundFile, path: Path | str) -> Iterator[np.ndarray]:
    """Frames [n, C] from where the file stands to where decoding really ends."""
    quiet = _silenced if file.format == "MP3" else contextlib.nullcontext
    done = 0
    while True:
        try:
            with quiet():
                frames = file.read(BLOCK, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            after = done / file.samplerate
            raise AudioError(path, f"damaged after {after:.1f} s ({_words(error)})") from error
        if not len(frames):
            return
        if not np.isfinite(frames).all():
            raise AudioError(path, f"has NaN or infinity after {done / file.samplerate:.1f} s")
        done += len(frames)
        yield frames


def _seek(file: soundfile.SoundFile, first: int, rate: int) -> int:
    """Go so far ahead of sample `first` (at `rate`) that a resampler has settled by then.

    Returns:
        how many samples at `rate` to drop. Both rates have a sample where the file then stands,
        so that the stretch falls on the grid of the whole.
    """
    common = math.gcd(file.samplerate, rate)
    period, produced = file.samplerate // common, rate // common
    roll = 0 if rate == file.samplerate else ROLL * max(1, rate // file.samplerate)
    # Within the last page of a Vorbis file libsndfile lands beside the mark.
    last = file.frames - (VORBIS_TAIL if file.subtype == "VORBIS" else 0)
    periods = max(0, min((first - roll) // produced, last // period))
    if periods:
        try:
            file.seek(periods * period)
        except soundfile.LibsndfileError:  # the header claims more than there is
            try:
                file.seek(0)
            except soundfile.LibsndfileError as error:
                raise AudioError(file.name, f"damaged ({_words(error)})") from error
            return first
    return first - periods * produced


def _resampled(frames: Iterable[np.ndarray], source: int, target: int) -> Iterator[np.ndarray]:
    """Frames [n, C] at another rate, piece by piece."""
    stream = None
    # A file may claim any rate: pieces must be small on both sides.
    size = max(1, min(BLOCK, BLOCK * source // target))
    for block in regroup(frames, size):
        if stream is None:
            stream = soxr.ResampleStream(source, target, block.shape[1], dtype="float32")
            nothing = np.zeros((0, block.shape[1]), np.float32)
        yield stream.resample_chunk(np.ascontiguousarray(block))
    if stream is not None:
        yield stream.resample_chunk(nothing, last=True)


def _cut(frames: Iterable[np.ndarray], skip: int, count: int | None) -> Iterator[np.ndarray]:
    """Frames [n, C] without the first `skip`, and no more than `count`."""
    for block in frames:
        if count is not None and count <= 0:
            return
        dropped = min(skip, len(block))
        skip -= dropped
        block = block[dropped:] if count is None else block[dropped : dropped + count]
        count = None if count is None else count - len(block)
        yield block


def regroup(frames: Iterable[np.ndarray], size: int) -> Iterator[np.ndarray]:
    """The same frames [n, C] in blocks of `size`, the last maybe shorter, none empty."""
    held: list[np.ndarray] = []
    have = 0
    for block in frames:
        while have + len(block) >= size:
            taken = size - have
            yield np.concatenate([*held, block[:taken]]) if held else block[:taken]
            held, have, block = [], 0, block[taken:]
        if len(block):
            held.append(block)
            have += len(block)
    if held:
        yield np.concatenate(held)


def _checked(frames: Iterable[np.ndarray], path: Path) -> Iterator[np.ndarray]:
    """The same frames [n, C], refused where they are no audio."""
    empty = True
    for block in frames:
        if not np.isfinite(block).all():
            raise InputError(f"can't write {path}: the audio has NaN or infinity in it")
        empty &= not block.size
        yield block
    if empty:
        raise InputError(f"can't write {path}: there are no samples")


class _Sink:
    """A file for libsndfile to write to, which keeps the error that libsndfile would swallow."""

    def __init__(self, path: Path) -> None:
        self.file = open(path, "w+b", buffering=0)  # noqa: SIM115  closed by `_encode`
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        """Write all of it or, on a full disk, say that nothing could be written."""
        view = memoryview(data)
        try:
            while view and self.error is None:
                view = view[self.file.write(view) :]
        except OSError as error:
            self.error = error
        return 0 if self.error else len(data)

    def read(self, size: int) -> bytes:
        """Bytes from where the file stands."""
        return self.file.read(size)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move."""
        return self.file.seek(offset, whence)

    def tell(self) -> int:
        """Where the file stands."""
        return self.file.tell()


def _encode(path: Path, frames: Iterator[np.ndarray], rate: int, suffix: str) -> None:
    """Write frames [n, C]; an error of the disk is raised as it is."""
    kind, subtype = WRITERS[suffix]
    first = next(frames)
    sink = _Sink(path)
    with sink.file:
        try:
            with soundfile.SoundFile(sink, "w", rate, first.shape[1], subtype, None, kind) as out:
                for block in itertools.chain([first], frames):
                    if subtype.startswith("PCM"):
                        block = np.clip(block, -1.0, 1.0)
                    out.write(block)
        except (soundfile.LibsndfileError, AssertionError):  # the latter is how short writes show
            if sink.error is None:
                raise
        if sink.error is not None:
            raise sink.error


_silence = threading.Lock()


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    """Keep libmpg123, which prints its remarks on damaged files, from the process's stderr."""
    with _silence, contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # there may be no stderr
            kept = os.dup(2)
            stack.callback(os.close, kept)
            nowhere = os.open(os.devnull, os.O_WRONLY)
            stack.callback(os.close, nowhere)
            stack.callback(os.dup2, kept, 2)
            os.dup2(nowhere, 2)
        yield
