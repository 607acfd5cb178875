"""What the toolkit expects of a codec: codes that depend on nothing but the audio.

Shapes: B batch, C channels, T samples, N codes of a stream (T // hop).
"""

import copy
import math
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from pydantic import BaseModel
from torch import Tensor

from codec.base import Codec
from codec.checkpoint import load_codec, save_codec
from codec.tiles import Tiling
from plugins import registry
from plugins.testing.contract import (
    ConfiguredContract,
    differing,
    is_line,
    maybe_refused,
    refused,
)

SHORTEST_CLIP = 1 << 14
CLIPS = 4
DIFFERENT = 0.005
"""Share of the codes that may change with where audio is cut: those nearly as near to another
entry of the codebook."""
SAME_AUDIO = 1e-4
"""What decoded audio may change by, at full scale 1."""


class CodecContract(ConfiguredContract):
    """A subclass of `Codec`."""

    group = registry.CODECS

    def audio(self, codec: Codec, samples: int, seed: int = 0) -> Tensor:
        """[C, T] at full scale 1: tones that rise and fall over noise, other ones for each seed.

        Override it if your codec is for other sounds.
        """
        generator = torch.Generator().manual_seed(seed)
        spec = codec.spec
        time = torch.arange(samples) / spec.sample_rate
        sound = 0.02 * torch.randn(spec.channels, samples, generator=generator)
        for partial in range(1, 5):
            low, rate = torch.rand(2, spec.channels, 1, generator=generator)
            pitch = (0.01 + 0.03 * low) * partial * spec.sample_rate
            sound += 0.1 * torch.sin(math.tau * (pitch * time + torch.sin(7 * rate * time)))
        return sound

    @pytest.fixture
    def fresh(self, made_config: BaseModel) -> Codec:
        """Built from its config, and shown some clips, as before the first step of a training."""
        codec: Codec = self.plugin(made_config)
        codec.prepare_training(clip for clip in self._clips(codec))
        return codec

    @pytest.fixture
    def codec(self, fresh: Codec, monkeypatch: pytest.MonkeyPatch) -> Codec:
        """Trained for a step and in evaluation mode; cut into tiles as short as its halo lets."""
        fresh.train()
        fresh.training_step(self._batch(fresh))
        hop, halo = fresh.spec.coarsest_hop, fresh.tiling.halo
        short = Tiling(max(4, -(-halo // (2 * hop))) * hop, halo)
        monkeypatch.setattr(type(fresh), "tiling", short)
        return fresh.eval()

    @pytest.fixture
    def sound(self, codec: Codec) -> Tensor:
        """[1, C, T] of several tiles, and no whole number of codes."""
        tiling, hop = codec.tiling, codec.spec.coarsest_hop
        samples = 2 * (tiling.length + tiling.halo) + 3 * hop + hop // 2 + 1
        return self.audio(codec, samples, seed=9)[None]

    def test_its_spec_is_sound(self, made_config: BaseModel) -> None:
        """Streams, finest first, whose hops and tiles fit one another; its own registry name."""
        codec: Codec = self.plugin(made_config)
        spec, tiling = codec.spec, codec.tiling
        assert spec.codec == self.name, "spec.codec is the name that the codec is registered by"
        assert spec.fingerprint == ""
        assert codec.config == made_config
        assert all(spec.coarsest_hop % stream.hop_length == 0 for stream in spec.streams)
        assert tiling.length > 0
        assert tiling.halo >= 0
        assert tiling.length % spec.coarsest_hop == tiling.halo % spec.coarsest_hop == 0

    def test_audio_of_any_length_becomes_as_many_codes_as_fit(self, codec: Codec) -> None:
        """[B, T // hop] int64 of the codebook, in every stream."""
        hop = codec.spec.coarsest_hop
        for samples in (0, 1, hop - 1, hop, 2 * hop + hop // 2, 40 * hop + 1):
            codes = codec.encode(self.audio(codec, samples)[None])
            assert set(codes) == {stream.name for stream in codec.spec.streams}
            for stream in codec.spec.streams:
                found = codes[stream.name]
                assert found.shape == (1, samples // stream.hop_length)
                assert found.dtype == torch.int64
                assert ((found >= 0) & (found < stream.vocab_size)).all()

    def test_codes_become_audio(self, codec: Codec, sound: Tensor) -> None:
        """[B, C, N x hop] float32, finite, from any stream along with all that are coarser."""
        codes = codec.encode(sound)
        names = [stream.name for stream in codec.spec.streams]
        for place, stream in enumerate(codec.spec.streams):
            audio = codec.decode({name: codes[name] for name in names[place:]})
            count = codes[stream.name].shape[1]
            assert audio.shape == (1, codec.spec.channels, count * stream.hop_length)
            assert audio.dtype == torch.float32
            assert audio.isfinite().all()
            with maybe_refused():  # some need the others
                assert codec.decode({stream.name: codes[stream.name]}).shape == audio.shape
        nothing = {name: stream[:, :0] for name, stream in codes.items()}
        assert codec.decode(nothing).shape == (1, codec.spec.channels, 0)

    def test_codes_tell_sounds_apart(self, codec: Codec) -> None:
        """In every stream."""
        clips = [self.audio(codec, SHORTEST_CLIP, seed) for seed in range(CLIPS)]
        for codes in codec.encode(torch.stack(clips)).values():
            assert codes.unique().numel() > 1

    def test_other_codes_sound_otherwise(self, codec: Codec, sound: Tensor) -> None:
        """What is decoded depends on the codes."""
        codes = codec.encode(sound)
        sizes = {stream.name: stream.vocab_size for stream in codec.spec.streams}
        others = {name: (stream + 1) % sizes[name] for name, stream in codes.items()}
        assert not torch.equal(codec.decode(others), codec.decode(codes))

    def test_tiles_give_what_a_whole_pass_gives(self, codec: Codec, sound: Tensor) -> None:
        """Cutting changes nothing, so the halo is as wide as what the network sees."""
        with torch.inference_mode():
            whole = codec.encode_tile(sound)
        codes = codec.encode(sound)
        for name, found in codes.items():
            different, count = int((found != whole[name]).sum()), found.numel()
            assert different <= 1 + DIFFERENT * count, f"stream {name}: {different} of {count}"
        with torch.inference_mode():
            audio = codec.decode_tile(codes)
        assert (codec.decode(codes) - audio).abs().max() <= SAME_AUDIO

    def test_audio_may_come_in_blocks_of_any_size(self, codec: Codec, sound: Tensor) -> None:
        """Bit for bit: a file is read piece by piece."""
        expected = codec.encode(sound)
        for sizes in ((1, 777, 31), (codec.tiling.length + 1, 5), (sound.shape[-1],)):
            blocks, at, turn = [], 0, 0
            while at < sound.shape[-1]:
                size = sizes[turn % len(sizes)] if turn < 60 else sound.shape[-1]
                blocks.append(sound[0, :, at : at + size])
                at, turn = at + size, turn + 1
            codes = codec.encode_blocks(iter(blocks))
            assert differing(codes, {name: stream[0] for name, stream in expected.items()}) == []

    def test_audio_may_be_decoded_tile_by_tile(self, codec: Codec, sound: Tensor) -> None:
        """Bit for bit: a file is written piece by piece."""
        codes = codec.encode(sound)
        whole = codec.decode(codes)[0]
        tiles = [*codec.decode_blocks({name: stream[0] for name, stream in codes.items()})]
        assert len(tiles) > 1
        assert torch.equal(torch.cat(tiles, 1), whole)

    def test_items_of_a_batch_don_t_meet(self, codec: Codec, sound: Tensor) -> None:
        """Bit for bit, and the same each time."""
        both = torch.cat([sound, sound.flip(-1)])
        before = both.clone()
        codes = codec.encode(both)
        assert torch.equal(both, before)
        for place in range(2):
            alone = codec.encode(both[place : place + 1])
            assert differing(alone, _item(codes, place)) == []
        assert torch.equal(codec.decode(codes)[:1], codec.decode(_item(codes, 0)))

    def test_clips_to_prepare_by_are_left_as_they_are(self, made_config: BaseModel) -> None:
        """`prepare_training` looks at clips [C, T], once each."""
        codec: Codec = self.plugin(made_config)
        clips = self._clips(codec)
        before = [clip.clone() for clip in clips]
        codec.prepare_training(iter(clips))
        assert all(map(torch.equal, clips, before))
        state = codec.state_dict().values()
        assert all(tensor.isfinite().all() for tensor in state if tensor.is_floating_point())

    def test_it_learns(self, fresh: Codec) -> None:
        """A finite scalar loss, finite scalar figures, and a gradient for every parameter."""
        fresh.train()
        batch = self._batch(fresh)
        for _ in range(CLIPS):
            loss, figures = fresh.training_step(batch)
            assert loss.ndim == 0
            loss.backward()
            for name, figure in {"loss": loss, **figures}.items():
                assert figure.ndim == 0, name
                assert figure.isfinite(), name
        for name, parameter in fresh.named_parameters():
            if parameter.requires_grad:
                assert parameter.grad is not None, f"no gradient reaches {name}"
                assert parameter.grad.isfinite().all(), name

    def test_a_resumed_training_goes_on_exactly(self, fresh: Codec) -> None:
        """All that a training changes besides parameters lies in buffers that are saved."""
        fresh.train()
        torch.manual_seed(1)
        fresh.training_step(self._batch(fresh))
        resumed: Codec = self.plugin(fresh.config).train()
        resumed.load_state_dict(fresh.state_dict())
        batch, losses = self._batch(fresh, first=CLIPS), []
        for codec in (fresh, resumed):
            torch.manual_seed(2)
            losses.append(codec.training_step(batch)[0])
        assert losses[0] == losses[1], "it knows something that is not in its state"
        assert differing(resumed.state_dict(), fresh.state_dict()) == []

    def test_evaluation_changes_nothing(self, codec: Codec) -> None:
        """A training step in evaluation mode is a measurement: the same each time."""
        before = {name: tensor.clone() for name, tensor in codec.state_dict().items()}
        one, other = (codec.training_step(self._batch(codec))[0] for _ in range(2))
        assert differing(codec.state_dict(), before) == []
        assert one == other

    def test_it_is_saved_and_loaded(self, codec: Codec, sound: Tensor, tmp_path: Path) -> None:
        """In a folder, with equal codes and equal audio, and a fingerprint of its own."""
        kept = save_codec(codec, tmp_path / "codec")
        again = load_codec(tmp_path / "codec")
        assert again.spec == codec.spec == kept
        assert kept.fingerprint
        codes = codec.encode(sound)
        assert differing(again.encode(sound), codes) == []
        assert torch.equal(again.decode(codes), codec.decode(codes))

    def test_it_can_be_copied(self, codec: Codec, sound: Tensor) -> None:
        """For the moving average of the weights."""
        assert differing(copy.deepcopy(codec).encode(sound), codec.encode(sound)) == []

    def test_it_can_be_built_without_memory(self, made_config: BaseModel) -> None:
        """On PyTorch's meta device, as dry runs do."""
        with torch.device("meta"):
            self.plugin(made_config)

    def test_audio_of_another_shape_is_refused(self, codec: Codec) -> None:
        """Another number of channels, or no batch."""
        hop, channels = codec.spec.coarsest_hop, codec.spec.channels
        for shape in ((1, channels + 1, 4 * hop), (4 * hop,), (channels, 4 * hop)):
            with refused():
                codec.encode(torch.zeros(shape))

    def test_codes_of_another_codec_are_refused(self, codec: Codec) -> None:
        """Outside of the codebook, of a stream that there is not, of two batches, or none."""
        good = {s.name: torch.zeros(1, 4, dtype=torch.long) for s in codec.spec.streams}
        finest = codec.spec.streams[0]
        for wrong in (
            {finest.name: torch.full((1, 4), finest.vocab_size)},
            {finest.name: torch.full((1, 4), -1)},
            {"no such stream": good[finest.name]},
            {finest.name: torch.zeros(4, dtype=torch.long)},
        ):
            with refused():
                codec.decode({**good, **wrong})
        with refused():
            codec.decode({})

    def test_presets_are_configs(self) -> None:
        """Each is one of `Config`, and has a name in a line."""
        for name, settings in self.plugin.presets.items():
            assert is_line(name)
            self.plugin.Config.model_validate(settings)

    def _clips(self, codec: Codec, first: int = 0) -> list[Tensor]:
        hop = codec.spec.coarsest_hop
        samples = -(-max(SHORTEST_CLIP, 16 * hop) // hop) * hop
        return [self.audio(codec, samples, seed) for seed in range(first, first + CLIPS)]

    def _batch(self, codec: Codec, first: int = 0) -> Tensor:
        return torch.stack(self._clips(codec, first))


def _item(codes: Mapping[str, Tensor], place: int) -> dict[str, Tensor]:
    """The codes of one item, as a batch."""
    return {name: stream[place : place + 1] for name, stream in codes.items()}
