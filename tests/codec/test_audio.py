"""Audio files in every format, honest and broken."""

import struct
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

from codec.audio import AudioError, measure, read_audio, read_blocks, write_audio
from plugins.ground.errors import InputError

MUSIC = Path(__file__).parents[2] / "examples" / "music"
SONG = MUSIC / "maxstack-coherence.ogg"
RAW = struct.pack("<8h", *range(0, 800, 100))


def wav(
    data: bytes, rate: int = 8000, channels: int = 1, kind: int = 1, bits: int = 16, size: int = -1
) -> bytes:
    """A WAV file whose header says what it is told to."""
    size = len(data) if size < 0 else size
    width = channels * bits // 8
    form = struct.pack("<IHHIIHH", 16, kind, channels, rate, rate * width % 2**32, width, bits)
    head = b"RIFF" + struct.pack("<I", min(36 + size, 2**32 - 1)) + b"WAVEfmt " + form
    return head + b"data" + struct.pack("<I", size) + data


def noise(samples: int, channels: int = 2, seed: int = 0) -> np.ndarray:
    """Some [C, T] within full scale."""
    return np.random.default_rng(seed).uniform(-0.5, 0.5, (channels, samples)).astype(np.float32)


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3", "opus"])
def test_formats_come_back(tmp_path: Path, suffix: str) -> None:
    t = np.arange(48000) / 48000
    audio = np.stack([0.5 * np.sin(2 * np.pi * 440 * t), 0.25 * np.sin(2 * np.pi * 550 * t)])
    path = tmp_path / f"a.{suffix}"
    write_audio(path, audio.astype(np.float32), 48000)
    shape = measure(path)
    assert (shape.sample_rate, shape.channels, shape.seconds) == (48000, 2, 1.0)
    back = read_audio(path)
    assert back.dtype == np.float32
    assert back.shape == (2, 48000)
    tolerance = 1e-4 if suffix in ("wav", "flac") else 0.1
    assert np.abs(back - audio)[:, 5000:-5000].max() < tolerance


def test_blocks_of_any_size_make_the_same_audio() -> None:
    for rate, channels in ((22050, 1), (16000, 2), (48000, 1)):
        whole = read_audio(SONG, rate, channels, duration=5)
        assert whole.shape == (channels, 5 * rate)
        for block in (1000, 4321, 10**9):
            blocks = list(read_blocks(SONG, rate, channels, block, duration=5))
            assert all(b.shape[1] == block for b in blocks[:-1])
            assert np.array_equal(np.concatenate(blocks, 1), whole)


def test_resampling_is_that_of_the_whole(tmp_path: Path) -> None:
    audio = noise(200_000)
    soundfile.write(tmp_path / "a.wav", audio.T, 44100, "FLOAT")
    for rate in (22050, 48000, 8000, 44101):
        expected = soxr.resample(audio.T, 44100, rate).T
        assert np.array_equal(read_audio(tmp_path / "a.wav", rate), expected)


@pytest.mark.parametrize("rate", [None, 22050, 48000, 16000])
@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3", "opus"])
def test_a_stretch_is_what_the_whole_has_there(
    tmp_path: Path, suffix: str, rate: int | None
) -> None:
    path = tmp_path / f"a.{suffix}"
    write_audio(path, noise(300_000, 1), 48000)
    whole = read_audio(path, rate)
    rate = rate or 48000
    for start in (0.01, 1.7, 3.0, 5.9, 6.2):
        first = round(start * rate)
        part = read_audio(path, rate, None, start, 0.2)
        expected = whole[:, first : first + round(0.2 * rate)]
        assert abs(part.shape[1] - expected.shape[1]) <= 1
        both = min(part.shape[1], expected.shape[1])
        assert np.abs(part[:, :both] - expected[:, :both]).max() < 1e-5
    assert read_audio(path, rate, start=7.0, duration=1).shape == (1, 0)


def test_real_music_is_found_at_its_end() -> None:
    whole = read_audio(SONG)
    for start in (29.5, 29.95):
        first = round(start * 22050)
        assert np.array_equal(read_audio(SONG, start=first / 22050), whole[:, first:])


def test_channels(tmp_path: Path) -> None:
    audio = noise(1000, 4)
    soundfile.write(tmp_path / "a.wav", audio.T, 8000, "FLOAT")
    mean = audio.mean(0, keepdims=True)
    assert np.array_equal(read_audio(tmp_path / "a.wav", channels=4), audio)
    assert np.allclose(read_audio(tmp_path / "a.wav", channels=1), mean, atol=1e-7)
    assert np.allclose(read_audio(tmp_path / "a.wav", channels=2), np.repeat(mean, 2, 0), atol=1e-7)
    soundfile.write(tmp_path / "m.wav", audio[0], 8000, "FLOAT")
    assert np.array_equal(read_audio(tmp_path / "m.wav", channels=3), np.stack([audio[0]] * 3))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty file"),
        (b"no music here " * 50, "not audio"),
        (wav(RAW)[:30], "not audio, or its header is damaged"),
        (wav(b""), "holds no samples"),
        (wav(RAW, rate=0), "no valid sample rate"),
        (wav(RAW, channels=0), "header is damaged"),
        (wav(bytes(2000), channels=100), "claims 100 channels"),
        (wav(struct.pack("<4f", 0, float("nan"), 0, 0), kind=3, bits=32), "NaN or infinity"),
        (wav(struct.pack("<4f", 0, 0, 0, float("inf")), kind=3, bits=32), "NaN or infinity"),
        (wav(RAW, rate=2**31 - 1), "too short for one sample at 8000 Hz"),
    ],
)
def test_what_is_no_audio_says_why(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "bad.wav"
    path.write_bytes(content)
    with pytest.raises(AudioError, match=reason) as caught:
        read_audio(path, 8000, 1)
    assert str(path) in str(caught.value)
    assert str(path) not in caught.value.reason
    assert "\n" not in str(caught.value)


def test_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match="no such file"):
        read_audio(tmp_path / "missing.wav")
    with pytest.raises(AudioError, match="is not a file"):
        read_audio(tmp_path)


@pytest.mark.parametrize("size", [100_000, 2**32 - 1])
def test_a_length_that_is_a_lie_is_not_believed(tmp_path: Path, size: int) -> None:
    (tmp_path / "a.wav").write_bytes(wav(RAW, size=size))
    assert read_audio(tmp_path / "a.wav").shape == (1, 8)


def test_flac_of_unknown_length(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    write_audio(path, noise(150_000), 44100)
    whole = read_audio(path)
    content = bytearray(path.read_bytes())
    content[21] &= 0xF0  # the 36 bits of STREAMINFO that count samples: 0 is unknown
    content[22:26] = bytes(4)
    path.write_bytes(content)
    assert np.array_equal(read_audio(path), whole)
    assert measure(path).frames == 150_000
    assert np.array_equal(read_audio(path, start=1.0, duration=0.5), whole[:, 44100:66150])


def test_mp3_that_ends_early_is_as_long_as_it_is(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.mp3"
    write_audio(path, noise(200_000, 1), 44100)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    claimed = measure(path).frames
    real = read_audio(path).shape[1]
    assert 0 < real < claimed
    assert read_audio(path, start=(real + 20_000) / 44100).shape == (1, 0)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("suffix", ["flac", "mp3"])
def test_damage_further_on_is_named(
    tmp_path: Path, suffix: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / f"a.{suffix}"
    write_audio(path, noise(400_000, 1), 44100)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 5000] = bytes(5000)  # random ones may look like frames of MP3
    path.write_bytes(content)
    with pytest.raises(AudioError, match=r"damaged after \d+\.\d s"):
        read_audio(path)
    assert capfd.readouterr().err == "", "the decoder's own remarks must not reach the user"


def test_above_full_scale(tmp_path: Path) -> None:
    loud = 1.5 * np.sin(np.arange(20_000) / 20)[None].astype(np.float32)
    soundfile.write(tmp_path / "a.wav", loud[0], 16000, "FLOAT")
    assert np.array_equal(read_audio(tmp_path / "a.wav"), loud)
    write_audio(tmp_path / "b.wav", loud, 16000)
    assert np.abs(read_audio(tmp_path / "b.wav") - loud.clip(-1, 1)).max() < 1e-4
    write_audio(tmp_path / "c.mp3", loud, 16000)
    assert np.abs(read_audio(tmp_path / "c.mp3")).max() > 1.2


def test_writing_blocks(tmp_path: Path) -> None:
    audio = noise(100_001)
    write_audio(tmp_path / "a.flac", audio, 44100)
    cuts = (audio[:, i : i + 777] for i in range(0, 100_001, 777))
    write_audio(tmp_path / "b.flac", cuts, 44100)
    assert (tmp_path / "a.flac").read_bytes() == (tmp_path / "b.flac").read_bytes()


@pytest.mark.parametrize(("suffix", "rate"), [("opus", 48000), ("mp3", 44100)])
def test_formats_of_fixed_rates_are_resampled(tmp_path: Path, suffix: str, rate: int) -> None:
    write_audio(tmp_path / f"a.{suffix}", noise(33_000, 1), 33_000)
    assert measure(tmp_path / f"a.{suffix}").sample_rate == rate
    assert abs(measure(tmp_path / f"a.{suffix}").seconds - 1) < 0.01


@pytest.mark.parametrize(
    ("name", "audio", "reason"),
    [
        ("a.xyz", noise(10), "suffix must be one of"),
        ("a.wav", np.zeros((1, 0), np.float32), "no samples"),
        ("a.wav", np.full((1, 9), np.nan, np.float32), "NaN or infinity"),
        ("a.mp3", noise(100, 3), "can't write"),
    ],
)
def test_what_cant_be_written(tmp_path: Path, name: str, audio: np.ndarray, reason: str) -> None:
    (tmp_path / name).write_bytes(b"precious")
    with pytest.raises(InputError, match=reason):
        write_audio(tmp_path / name, audio, 44100)
    assert [p.name for p in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_bytes() == b"precious"


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3", "opus"])
def test_a_full_disk(
    tmp_path: Path, suffix: str, file_size_limit: Callable[[int], AbstractContextManager[None]]
) -> None:
    path = tmp_path / f"a.{suffix}"
    write_audio(path, noise(100_000, 1), 48000)
    size = path.stat().st_size
    path.write_bytes(b"precious")
    # Full in the middle, and full at the very last bytes, which encoders write as they close.
    for limit in (size // 2, size - 50):
        with file_size_limit(limit), pytest.raises(InputError, match=r"can't write .*too large"):
            write_audio(path, noise(100_000, 1), 48000)
        assert path.read_bytes() == b"precious"
        assert [p.name for p in tmp_path.iterdir()] == [path.name]
