"""The network of the VQ-VAE: what it sees, and that cutting long audio changes nothing."""

import math
import weakref
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from pydantic import ValidationError

from codec.base import Codec
from codec.config import PRESETS, ResidualConfig, VQVAEConfig
from codec.encdec import DecoderBlock, EncoderBlock
from codec.losses import Bandwidth
from codec.resnet import ResidualStack
from codec.tiles import Tiling
from codec.tokens import TokenSpec, TokenStream
from codec.vqvae import VQVAE
from plugins.ground.errors import InputError

MUSIC = Path(__file__).parents[2] / "examples" / "music"
TINY = VQVAEConfig(**PRESETS["tiny"])
DEEP = VQVAEConfig(
    halvings=(2, 1), depth=3, multipliers=(2, 1), width=8, codebook_width=4, codebook_size=32
)
CYCLED = VQVAEConfig(
    halvings=(3, 2, 2),
    depth=3,
    multipliers=(2, 1, 1),
    dilation_growth=2,
    dilation_cycle=2,
    mirror_dilation=False,
    width=4,
    codebook_width=4,
    codebook_size=16,
)
CONFIGS = pytest.mark.parametrize("config", [TINY, DEEP, CYCLED], ids=["tiny", "deep", "cycled"])


def music(seconds: float, channels: int = 1) -> torch.Tensor:
    """The loud middle of an example, [C, T], at the rate that the file has."""
    file = sorted(MUSIC.glob("*.ogg"))[0]
    with soundfile.SoundFile(file) as sound:
        sound.seek(sound.frames // 3)
        audio = sound.read(int(seconds * 22050), dtype="float32", always_2d=True)
    mono = audio.mean(1)
    return torch.from_numpy(np.stack([mono, audio[:, 0]][:channels]))


def trained(config: VQVAEConfig) -> VQVAE:
    """A codec whose codebooks lie among the vectors of real music."""
    torch.manual_seed(0)
    codec = VQVAE(config).train()
    clip = music(3, config.channels)[None]
    codec.prepare_training(clip)
    codec.training_step(clip)
    return codec.eval()


@pytest.fixture(scope="module")
def codec() -> VQVAE:
    return trained(TINY)


def positive(module: torch.nn.Module) -> torch.nn.Module:
    """Weights that let every path through: no ReLU closes, nothing cancels."""
    for parameter in module.parameters():
        parameter.data = torch.rand_like(parameter, dtype=torch.float64) / 8 + 0.05
    return module


@CONFIGS
def test_an_encoder_sees_exactly_its_reach(config):
    for level, encoder in enumerate(VQVAE(config).encoders):
        hop, reach = config.hops[level], config.encoder_reach(level)
        number = reach // hop + 2
        audio = torch.rand(1, 1, (2 * number + 1) * hop, dtype=torch.float64, requires_grad=True)
        positive(encoder)(audio)[0, 0, number].backward()
        seen = audio.grad[0, 0].nonzero()
        assert seen.min() == number * hop - reach
        assert seen.max() == (number + 1) * hop - 1 + reach


@CONFIGS
def test_a_decoder_sees_exactly_its_reach(config):
    for level, decoder in enumerate(VQVAE(config).decoders):
        hop, reach = config.hops[level], config.decoder_reach(level)
        first = reach // hop + 2
        shape = (1, config.codebook_width, 2 * first + 1)
        entries = torch.rand(shape, dtype=torch.float64, requires_grad=True)
        audio = positive(decoder)(entries)
        assert audio.shape[-1] == shape[-1] * hop
        audio[0, 0, first * hop : (first + 1) * hop].sum().backward()
        seen = entries.grad[0, 0].nonzero()
        assert seen.min() * hop == first * hop - reach
        assert (seen.max() + 1) * hop == (first + 1) * hop + reach


@CONFIGS
def test_a_sample_beyond_the_halo_changes_no_bit_and_one_within_does(config):
    torch.manual_seed(1)
    model = VQVAE(config)
    halo, hop = model.tiling.halo, config.hops[-1]
    assert halo >= config.halo > halo - hop
    start = halo + hop
    audio = torch.randn(1, 1, start + 4 * hop)
    far, near = audio.clone(), audio.clone()
    far[..., start - halo - 1] += 100.0
    near[..., start - 1] += 100.0
    with torch.no_grad():
        for encoder, own in zip(model.encoders, config.hops, strict=True):
            whole = encoder(audio)[..., start // own :]
            assert torch.equal(encoder(far)[..., start // own :], whole)
            assert not torch.equal(encoder(near)[..., start // own :], whole)


def test_tiles_give_the_codes_of_a_whole_pass(codec):
    audio = music(20)
    assert audio.shape[1] > 3 * codec.tiling.length
    cut = codec.encode(audio[None])
    with torch.no_grad():
        whole = codec.encode_tile(audio[None])
    for level, (name, codes) in enumerate(cut.items()):
        assert codes.shape == (1, audio.shape[1] // TINY.hops[level])
        assert codes.unique().numel() > 30
        with torch.no_grad():
            vectors = codec.encoders[level](audio[None])[0].T.double()
        other = (codes != whole[name])[0].nonzero()[:, 0]
        distances = torch.cdist(vectors[other], codec.quantizers[level].codebook.double())
        two = distances.topk(2, largest=False).values
        assert (two[:, 1] - two[:, 0] <= 1e-5 * two[:, 0]).all()
        decoded = codec.decode({name: codes})
        with torch.no_grad():
            assert (decoded - codec.decode_tile({name: codes})).abs().max() <= 1e-5


@pytest.mark.parametrize("sizes", [(1, 7, 31, 40_000), (300_000, 5), (131_072, 1_408)])
def test_blocks_of_any_size_give_the_same_codes(codec, sizes):
    audio = music(15)
    blocks, at, turn = [], 0, 0
    while at < audio.shape[1]:
        size = sizes[turn % len(sizes)]
        blocks.append(audio[:, at : at + size])
        at, turn = at + size, turn + 1
    expected = codec.encode(audio[None])
    for name, codes in codec.encode_blocks(iter(blocks)).items():
        assert torch.equal(codes, expected[name][0])


def test_a_batch_gives_each_item_the_codes_that_it_has_alone(codec):
    audio = music(14)[:, : 2 * 150_000].view(2, 1, -1)
    together = codec.encode(audio)
    for b in range(2):
        alone = codec.encode(audio[b : b + 1])
        assert all(torch.equal(together[name][b], alone[name][0]) for name in together)
    decoded = codec.decode(together)
    alone = codec.decode({name: codes[1:] for name, codes in together.items()})
    assert torch.equal(decoded[1:], alone)


def test_decoded_tiles_join_to_the_decoded_whole(codec):
    codes = codec.encode(music(15)[None])
    for name in ("0", "1"):
        tiles = list(codec.decode_blocks({name: codes[name][0]}))
        assert len(tiles) == 3
        assert torch.equal(torch.cat(tiles, 1), codec.decode({name: codes[name]})[0])


def test_the_finest_stream_given_is_decoded(codec):
    codes = codec.encode(music(2)[None])
    finest = codec.decode({"0": codes["0"]})
    assert torch.equal(codec.decode(codes), finest)
    assert finest.shape == (1, 1, codes["0"].shape[1] * 32)
    assert codec.decode({"1": codes["1"]}).shape == (1, 1, codes["1"].shape[1] * 128)


@pytest.mark.parametrize("total", [0, 1, 31, 32, 127, 128, 200])
def test_short_audio_gives_as_many_codes_as_fit(codec, total):
    codes = codec.encode(torch.randn(1, 1, total))
    assert {name: c.shape for name, c in codes.items()} == {
        "0": (1, total // 32),
        "1": (1, total // 128),
    }
    assert all(c.dtype == torch.int64 for c in codes.values())
    assert codec.decode(codes).shape == (1, 1, total // 32 * 32)


def test_no_items_and_no_blocks_give_no_codes(codec):
    assert codec.encode(torch.zeros(0, 1, 500))["1"].shape == (0, 0)
    assert codec.encode_blocks([])["0"].shape == (0,)
    assert codec.decode({"0": torch.zeros(0, 0, dtype=torch.long)}).shape == (0, 1, 0)


def test_two_channels_and_double_precision_are_coded(codec):
    stereo = trained(TINY.model_copy(update={"channels": 2}))
    audio = music(8, channels=2)
    codes = stereo.encode(audio[None].double())
    assert torch.equal(codes["1"], stereo.encode(audio[None])["1"])
    assert stereo.decode(codes).shape == (1, 2, codes["0"].shape[1] * 32)


def test_codes_and_audio_may_enter_a_graph(codec):
    codes = codec.encode(music(1)[None])
    table = torch.nn.Embedding(512, 3)
    table(codes["0"]).sum().backward()
    audio = next(codec.decode_blocks({"0": codes["0"][0]}))
    (audio * torch.ones(1, requires_grad=True)).sum().backward()
    assert not torch.is_inference_mode_enabled()


def test_coding_in_training_mode_moves_no_codebook(codec):
    before = {name: t.clone() for name, t in codec.state_dict().items()}
    codec.train().encode(music(1)[None])
    codec.eval().training_step(music(1)[None])
    assert all(torch.equal(t, before[name]) for name, t in codec.state_dict().items())


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        ({}, "no codes to decode"),
        ({"5": torch.zeros(1, 4, dtype=torch.long)}, "no stream '5'; there are: 0, 1"),
        ({"0": torch.full((1, 4), 512)}, "stream '0' holds codes outside of its codebook of 512"),
        ({"1": torch.full((1, 4), -1)}, "stream '1' holds codes outside"),
        ({"0": torch.zeros(4, dtype=torch.long)}, r"codes must be \[batch, codes\]"),
    ],
)
def test_wrong_codes_are_refused(codec, codes, message):
    with pytest.raises(InputError, match=message):
        codec.decode(codes)


def test_wrong_audio_is_refused(codec):
    with pytest.raises(InputError, match=r"audio must be \[batch, channels, samples\]"):
        codec.encode(torch.zeros(1, 500))
    with pytest.raises(InputError, match="this codec codes 1 channels"):
        codec.encode(torch.zeros(1, 2, 500))
    with pytest.raises(InputError, match="shorter than a code"):
        codec.training_step(torch.zeros(1, 1, 100))


class Sums(Codec):
    """A codec whose code is the sum of its hop and both neighbours; records what it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("place", torch.zeros(1))
        stream = TokenStream(name="sum", vocab_size=1 << 16, hop_length=4)
        self.spec = TokenSpec(
            sample_rate=100, channels=1, streams=(stream,), codec="sums", fingerprint=""
        )
        self.seen: list[int] = []

    tiling = Tiling(length=40, halo=4)

    def encode_tile(self, audio):
        self.seen.append(audio.shape[-1])
        hops = audio[0, 0, : audio.shape[-1] // 4 * 4].view(-1, 4).sum(1)
        padded = torch.nn.functional.pad(hops, (1, 1))
        return {"sum": (padded[:-2] + padded[1:-1] + padded[2:]).long()[None]}

    def decode_tile(self, codes):
        return codes["sum"].float().repeat_interleave(4, 1)[None]

    def training_step(self, audio):
        raise NotImplementedError


def test_a_stream_of_blocks_is_coded_as_it_comes_and_forgotten():
    codec, audio = Sums(), torch.arange(1000.0)[None] % 50
    alive: list[weakref.ref] = []
    held = []

    def blocks():
        for at in range(0, 1000, 10):
            due = max(0, (at - 4) // 40)  # every tile whose halo has come
            assert len(codec.seen) == due
            block = audio[:, at : at + 10].clone()
            held.append(sum(ref() is not None for ref in alive))
            alive.append(weakref.ref(block))
            yield block
            del block

    codes = codec.encode_blocks(blocks())["sum"]
    assert max(held) <= 6  # of 100 blocks: a tile, its halos and the block at hand
    assert torch.equal(codes, codec.encode_tile(audio[None])["sum"][0])
    assert codec.seen[:3] == [44, 48, 48]


def test_shapes_of_a_level_follow_its_halvings():
    residual = ResidualConfig(width=6, depth=2)
    assert EncoderBlock(3, 5, 3, residual)(torch.randn(2, 3, 64)).shape == (2, 5, 8)
    assert DecoderBlock(5, 7, 3, residual)(torch.randn(2, 5, 8)).shape == (2, 7, 64)


@pytest.mark.parametrize(
    ("settings", "dilations"),
    [
        ({"depth": 4}, (1, 3, 9, 27)),
        ({"depth": 4, "mirrored": True}, (27, 9, 3, 1)),
        ({"depth": 5, "dilation_cycle": 2}, (1, 3, 1, 3, 1)),
        ({"depth": 3, "dilation_growth": 1}, (1, 1, 1)),
    ],
)
def test_dilations_grow_cycle_and_mirror(settings, dilations):
    config = ResidualConfig(width=2, **settings)
    assert config.dilations == dilations
    stack = ResidualStack(config)
    assert tuple(block.dilated.dilation[0] for block in stack.blocks) == dilations


def test_blocks_widen_between_their_convolutions():
    block = ResidualStack(ResidualConfig(width=6, depth=1, expansion=1.5)).blocks[0]
    assert block.dilated.weight.shape == (9, 6, 3)
    assert block.pointwise.weight.shape == (6, 9, 1)


def test_scaled_branches_count_one_over_the_root_of_the_depth():
    x = torch.randn(1, 4, 20)
    plain = ResidualStack(ResidualConfig(width=4, depth=1))
    scaled = ResidualStack(ResidualConfig(width=4, depth=4, dilation_growth=1, scaled=True))
    for block in scaled.blocks[1:]:
        torch.nn.init.zeros_(block.pointwise.weight)
        torch.nn.init.zeros_(block.pointwise.bias)
    scaled.blocks[0].load_state_dict(plain.blocks[0].state_dict())
    torch.testing.assert_close(scaled(x) - x, (plain(x) - x) / math.sqrt(4))


def test_a_few_steps_on_music_lower_the_loss_and_every_weight_learns():
    torch.manual_seed(0)
    model = VQVAE(TINY).train()
    batch = music(2)[:, : 4 * 4096].view(4, 1, 4096)
    model.prepare_training(batch)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    losses = []
    for _ in range(25):
        loss, figures = model.training_step(batch)
        loss.backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    for name in ("spectral_convergence", "codebook_used", "codebook_perplexity", "restarts"):
        assert {f"{name}/0", f"{name}/1"} <= figures.keys()
    assert all(figure.ndim == 0 and not figure.requires_grad for figure in figures.values())


def test_the_loss_is_the_weighted_sum_over_levels(codec):
    weights = {"spectral_weight": 0.5, "multispectral_weight": 2.0, "commit_weight": 3.0}
    model = VQVAE(TINY.model_copy(update=weights)).eval()
    model.load_state_dict(codec.state_dict())
    model.set_bandwidth(Bandwidth(0.1, 0.02, 40.0))
    loss, f = model.training_step(music(1)[None])
    terms = {"reconstruction": 1, "spectral": 0.5, "multispectral": 2, "commitment": 3}
    expected = sum(w * f[f"{term}/{level}"] for term, w in terms.items() for level in (0, 1))
    torch.testing.assert_close(loss.detach(), expected)
    mixed = f["l2/0"] + 0.02 * f["linf/0"]
    torch.testing.assert_close(f["reconstruction/0"], mixed)


def test_presets_are_valid_and_shaped_as_published():
    jukebox = VQVAE(VQVAEConfig(**PRESETS["jukebox"]))
    codebooks = sum(quantizer.codebook.numel() for quantizer in jukebox.quantizers)
    count = codebooks + sum(p.numel() for p in jukebox.parameters())
    assert round(count / 1e6) == 2
    assert [s.hop_length for s in jukebox.spec.streams] == [8, 32, 128]
    assert [s.vocab_size for s in jukebox.spec.streams] == [2048] * 3
    small, tiny = VQVAEConfig(**PRESETS["small"]), VQVAEConfig(**PRESETS["tiny"])
    assert small.hops == (8, 32, 128)
    assert tiny.hops == (32, 128)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"halvings": (3, 0)}, "each level must halve at least once"),
        ({"multipliers": (1, 1)}, r"multipliers=\(1, 1\) must be 3 positive numbers"),
        ({"halvings": (9, 9), "multipliers": (1, 1)}, "at most 16 halvings"),
        ({"codebook_size": 1 << 17}, "less than or equal to 65536"),
        ({"resolutions": ((512, 50, 600),)}, "1 <= hop <= window <= n_fft"),
        ({"lmix_l2": 0.0, "lmix_linf": 0.0}, "lmix needs a positive weight"),
        ({"reconstruction": "l3"}, "'l1', 'l2', 'linf' or 'lmix'"),
        ({"depht": 3}, "Extra inputs"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        VQVAEConfig(**settings)
