"""The codec in C++ against the plain one, which is tried elsewhere."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import nn

from codec import native
from codec.checkpoint import load_codec, save_codec
from codec.config import PRESETS, ResidualConfig, VQVAEConfig
from codec.encdec import DecoderBlock, EncoderBlock
from codec.engine import EAGER, NATIVE, engine_for
from codec.quantize import nearest
from codec.resnet import ResidualBlock, ResidualStack
from codec.tokenizing import tokenize_files
from codec.vqvae import VQVAE
from plugins.ground import native as ground
from plugins.ground.errors import InputError

MUSIC = Path(__file__).parents[2] / "examples" / "music"
TINY = VQVAEConfig(**PRESETS["tiny"])

pytestmark = pytest.mark.skipif(native.library() is None, reason="no C++ compiler")

X86 = ground.platform.machine() in ("x86_64", "AMD64")
LEVELS = ["", "x86-64", "x86-64-v3"] if X86 else [""]


@pytest.fixture(params=LEVELS, ids=lambda level: level or "own")
def lanes(request, monkeypatch):
    """The C++ as this machine has it, and with the vectors of lesser ones."""
    if request.param:
        monkeypatch.setattr(ground, "_for_this_processor", lambda: (f"-march={request.param}",))
        ground.load.cache_clear()
    yield request.param
    ground.load.cache_clear()


def music(seconds: float) -> torch.Tensor:
    """The loud middle of an example, [1, 1, T], at half the rate that the file has."""
    with soundfile.SoundFile(sorted(MUSIC.glob("*.ogg"))[0]) as sound:
        sound.seek(sound.frames // 3)
        audio = sound.read(int(seconds * sound.samplerate), dtype="float32", always_2d=True)
    return torch.from_numpy(np.ascontiguousarray(audio.mean(1)[::2]))[None, None]


@pytest.fixture(scope="module")
def codec() -> VQVAE:
    """Trained for some steps on real music."""
    torch.manual_seed(0)
    model = VQVAE(TINY).train()
    batch = music(3)[..., : 4 * 8192].view(4, 1, 8192)
    model.prepare_training(batch)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(20):
        model.training_step(batch)[0].backward()
        optimizer.step()
        optimizer.zero_grad()
    for quantizer in model.quantizers:  # entries among the vectors that there are now
        quantizer.initialised.fill_(False)
    model.training_step(batch)
    return model.eval()


def both(module: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    assert native.why_not(module) is None
    with torch.inference_mode():
        return module(x), native.run(module, x)


def assert_alike(module: nn.Module, x: torch.Tensor) -> None:
    plain, fast = both(module, x)
    assert fast.shape == plain.shape
    if plain.numel():
        assert (fast - plain).abs().max() <= 1e-5 * plain.abs().max()


LAYERS = {
    "kernel 3": lambda: nn.Conv1d(5, 7, 3, padding=1),
    "kernel 1": lambda: nn.Conv1d(40, 3, 1),
    "no bias, no padding": lambda: nn.Conv1d(3, 33, 5, bias=False),
    "one channel out": lambda: nn.Conv1d(64, 1, 3, padding=1),
    "halving": lambda: nn.Conv1d(1, 64, 4, 2, 1),
    "stride 3": lambda: nn.Conv1d(6, 17, 5, 3, 2),
    "dilated": lambda: nn.Conv1d(8, 8, 3, padding=100, dilation=100),
    "doubling": lambda: nn.ConvTranspose1d(20, 31, 4, 2, 1),
    "block": lambda: ResidualBlock(12, 19, 9),
    "scaled stack": lambda: ResidualStack(ResidualConfig(width=32, depth=4, scaled=True)),
    "narrow stack": lambda: ResidualStack(ResidualConfig(width=6, depth=5, expansion=0.5)),
    "there and back": lambda: nn.Sequential(
        nn.ConvTranspose1d(4, 9, 4, 2, 1), nn.Conv1d(9, 5, 4, 2, 1), nn.Conv1d(5, 4, 7, 3, 3)
    ),
    "encoder": lambda: EncoderBlock(2, 5, 3, ResidualConfig(width=24, depth=3)),
    "decoder": lambda: DecoderBlock(5, 2, 3, ResidualConfig(width=24, depth=3, mirrored=True)),
}


@pytest.mark.parametrize("layer", LAYERS)
def test_every_layer_at_every_length(layer, lanes):
    module = LAYERS[layer]()
    first = next(m for m in module.modules() if isinstance(m, nn.Conv1d | nn.ConvTranspose1d))
    least = {"no bias, no padding": 5, "halving": 2, "encoder": 8}.get(layer, 1)
    for length in (*range(least, 16), 23, 48, 97, 777, 5000):
        assert_alike(module, torch.randn(2, first.in_channels, length))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"width": 7, "expansion": 1.3, "channels": 2, "codebook_width": 5},
        {"dilation_cycle": 2, "dilation_growth": 2, "mirror_dilation": False, "depth": 5},
    ],
)
def test_every_level_of_every_shape(settings, lanes):
    model = VQVAE(VQVAEConfig(**settings))
    for level, (encoder, decoder) in enumerate(zip(model.encoders, model.decoders, strict=True)):
        hop = model.config.hops[level]
        for codes in (1, 2, 50, 700):
            width = model.config.codebook_width
            assert_alike(encoder, torch.randn(1, model.config.channels, codes * hop + hop // 2))
            assert_alike(decoder, torch.randn(1, width, codes))


def test_what_is_not_a_number_stays_so():
    module = LAYERS["encoder"]()
    x = torch.randn(1, 2, 4000)
    x[0, 0, 2000] = torch.nan
    plain, fast = both(module, x)
    assert torch.equal(fast.isnan(), plain.isnan())
    assert plain.isnan().any()


def test_real_music_gives_the_same_codes_and_audio(codec, lanes):
    audio, codes = music(20), {}
    for engine in ("eager", "native"):
        codec.use_engine(engine)
        codes[engine] = codec.encode(audio)
    for level, name in enumerate(codes["eager"]):
        assert codes["eager"][name].unique().numel() > 30
        other = (codes["native"][name] != codes["eager"][name])[0].nonzero()[:, 0]
        assert len(other) <= 2
        plain, fast = (x[0].T[other].double() for x in both(codec.encoders[level], audio))
        entries = codec.quantizers[level].codebook.double()
        two = torch.cdist(plain, entries).topk(2, largest=False)
        first, second = entries[two.indices].unbind(1)
        # What the difference between the two vectors, of rounding, can do to squared distances.
        reach = 2 * (plain - fast).norm(dim=1) * (first - second).norm(dim=1)
        assert (two.values[:, 1] ** 2 - two.values[:, 0] ** 2 <= reach * 1.001).all()
        decoded = []
        for engine in ("eager", "native"):
            codec.use_engine(engine)
            decoded.append(codec.decode({name: codes["eager"][name]}))
        assert decoded[0].abs().max() > 0.01
        assert (decoded[0] - decoded[1]).abs().max() <= 1e-5


def test_neither_threads_nor_places_in_memory_change_a_bit():
    module = LAYERS["encoder"]()
    vectors, codebook = torch.randn(700, 24), torch.randn(100, 24)
    x = torch.randn(1, 2, 30_000)
    before, found = torch.get_num_threads(), []
    try:
        for threads, shift in ((1, 0), (2, 1), (3, 5), (5, 16)):
            torch.set_num_threads(threads)
            moved = torch.empty(x.numel() + shift)[shift:].view_as(x).copy_(x)
            found.append((native.run(module, moved), *native.two_nearest(codebook)(vectors)))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(other, found[0], strict=True))


def test_cutting_changes_no_bit(codec, monkeypatch):
    codec.use_engine("native")
    audio = music(15)
    codes = codec.encode(audio)
    with torch.inference_mode():
        whole = codec.encode_tile(audio)
    assert audio.shape[-1] > codec.tiling.length
    for name in codes:
        assert torch.equal(codes[name], whole[name])
        with torch.inference_mode():
            assert torch.equal(
                codec.decode({name: codes[name]}), codec.decode_tile({name: codes[name]})
            )


@pytest.mark.parametrize(("count", "width", "size"), [(1, 1, 2), (500, 5, 7), (97, 64, 2048)])
def test_the_nearest_and_how_near_the_second_is(count, width, size, lanes):
    vectors, codebook = torch.randn(count, width), torch.randn(size, width)
    codes, gaps = native.two_nearest(codebook)(vectors)
    distances = ((vectors.double()[:, None] - codebook.double()) ** 2).sum(-1)
    two = distances.topk(2, largest=False)
    assert torch.equal(codes, two.indices[:, 0])
    assert (gaps - (two.values[:, 1] - two.values[:, 0])).abs().max() <= 1e-3 * width**0.5


def test_ties_and_near_ties_go_to_the_first_as_ever(lanes):
    codebook = torch.randn(200, 16)
    codebook[100:] = codebook[:100]  # every entry twice
    codebook[50] += 1e-7
    vectors = codebook.repeat(3, 1) + torch.randn(600, 16) * 0.3
    vectors[:200] = (codebook[:1] + codebook[1:2]) / 2  # halfway
    far = 1000.0  # where digits are lost
    for offset in (0.0, far):
        plain = nearest(vectors + offset, codebook + offset)
        assert torch.equal(nearest(vectors + offset, codebook + offset, native.two_nearest), plain)
    assert (plain[200:] < 101).all()
    odd = torch.tensor([[torch.nan] * 16, [torch.inf] * 16])
    assert torch.equal(nearest(odd, codebook, native.two_nearest), nearest(odd, codebook))


@pytest.mark.parametrize("how", ["step", "data", "load", "move"])
def test_weights_that_change_are_seen(how):
    module, other = LAYERS["decoder"](), LAYERS["decoder"]()
    x = torch.randn(1, 5, 300)
    assert_alike(module, x)
    if how == "step":
        module(x).sum().backward()
        torch.optim.SGD(module.parameters(), 1e-2).step()
    elif how == "data":
        for parameter in module.parameters():
            parameter.data.mul_(1.5)
    elif how == "load":
        module.load_state_dict(other.state_dict())
    else:
        for parameter, new in zip(module.parameters(), other.parameters(), strict=True):
            parameter.data = new.data
    assert_alike(module, x)


def test_auto_is_native_where_that_can_be(codec):
    codec.use_engine("auto")
    with torch.inference_mode():
        assert engine_for("auto", codec.encoders) is NATIVE
        assert engine_for("eager", codec.encoders) is EAGER
        assert engine_for("auto", codec.train().encoders) is EAGER
        assert engine_for("auto", VQVAE(TINY).double().eval().encoders) is EAGER
    assert engine_for("auto", codec.eval().encoders) is EAGER, "gradients may be wanted"
    with pytest.raises(InputError, match="no engine 'fast'; there are: auto, eager, native"):
        codec.use_engine("fast")
    with pytest.raises(InputError, match=r"'native' can't compute this codec: .*float64 on cpu"):
        VQVAE(TINY).double().use_engine("native")


@pytest.mark.parametrize(
    "module",
    [
        nn.Conv1d(4, 4, 3, groups=2),
        nn.Conv1d(4, 4, 3, padding=1, padding_mode="reflect"),
        nn.Conv1d(4, 4, 3, padding="same"),
        nn.ConvTranspose1d(4, 4, 3, 2, 1),
        nn.ConvTranspose1d(4, 4, 4, 2, 1, output_padding=1),
        nn.Sequential(nn.Conv1d(4, 4, 3), nn.GELU()),
    ],
)
def test_what_it_can_t_compute_it_says(module):
    assert "it does not compute" in native.why_not(module)


def test_other_channels_than_weights_are_refused():
    with pytest.raises(ValueError, match="2 channels go in, not 3"):
        native.run(LAYERS["encoder"](), torch.randn(1, 3, 100))


def test_music_and_codes_go_through_workers(codec, tmp_path):
    soundfile.write(tmp_path / "a.wav", music(3)[0, 0].numpy(), 22050)
    soundfile.write(tmp_path / "b.wav", music(2)[0, 0].numpy(), 22050)
    save_codec(codec, tmp_path / "codec")
    kept = {}
    for engine, workers in (("eager", 1), ("native", 1), ("native", 2)):
        out = tmp_path / f"{engine}{workers}"
        files = [tmp_path / "a.wav", tmp_path / "b.wav"]
        corpus = tokenize_files(files, tmp_path / "codec", out, workers=workers, engine=engine)
        pairs = [(number, name) for number in range(len(corpus)) for name in ("0", "1")]
        kept[engine, workers] = [corpus.codes(*pair) for pair in pairs]
    first = kept.pop(("eager", 1))
    for other in kept.values():
        assert all(np.array_equal(a, b) for a, b in zip(other, first, strict=True))


ENCODE = """
import sys, warnings
import torch
from codec.checkpoint import load_codec
codec = load_codec(sys.argv[1])
audio = torch.load(sys.argv[2])
for _ in range(2):
    codes = codec.encode(audio)
torch.save(codes, sys.argv[3])
"""


@pytest.mark.parametrize("missing", [{"JUKEBOX_NATIVE": "0"}, {"PATH": ""}])
def test_without_a_compiler_codes_are_the_same(codec, missing, tmp_path):
    save_codec(codec, tmp_path / "codec")
    torch.save(music(3), tmp_path / "audio.pt")
    env = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), **missing}
    env |= {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    env.pop("CXX", None)
    command = [sys.executable, "-c", ENCODE, "codec", "audio.pt", "codes.pt"]
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("going on without native code, slower") == ("PATH" in missing)
    expected = load_codec(tmp_path / "codec", engine="native").encode(music(3))
    for name, codes in torch.load(tmp_path / "codes.pt").items():
        assert torch.equal(codes, expected[name])
    command = [sys.executable, "-m", "codec.tokenize", "a.wav", "--codec", "codec"]
    soundfile.write(tmp_path / "a.wav", music(1)[0, 0].numpy(), 22050)
    command += ["--out", "tokens", "--engine", "native"]
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("error: "))
    assert "engine 'native' can't compute this codec: there is no C++ to call" in line
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "tokens").exists()
