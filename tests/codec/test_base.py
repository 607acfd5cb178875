"""A stranger's codec that breaks its word: one line that says whose it is."""

from typing import Any

import pytest
import torch
from pydantic import BaseModel

from codec.base import Codec
from codec.checkpoint import build_codec
from codec.tiles import Tiling
from codec.tokens import TokenSpec, TokenStream
from codec.training import CodecTask
from plugins.ground.errors import InputError

HOPS = {"fine": 4, "coarse": 8}


class Settings(BaseModel):
    fault: str = ""


class Shaky(Codec):
    """Sound, but for its fault."""

    Config = Settings
    tiling = Tiling(16, 8)

    def __init__(self, config: Settings) -> None:
        super().__init__()
        self.config = config
        self.weight = torch.nn.Parameter(torch.ones(()))
        if config.fault == "init":
            raise RuntimeError("no\nroom")
        if config.fault != "no spec":
            streams = (TokenStream(name=n, vocab_size=9, hop_length=hop) for n, hop in HOPS.items())
            self.spec = TokenSpec(
                sample_rate=800, channels=1, streams=tuple(streams), codec="shaky", fingerprint=""
            )

    def encode_tile(self, audio: torch.Tensor) -> Any:
        made: dict[str, Any] = {
            name: torch.ones(1, audio.shape[-1] // hop, dtype=torch.long)
            for name, hop in HOPS.items()
        }
        fine = made["fine"]
        faults = {
            "few": {**made, "fine": fine[:, 1:]},
            "many": {**made, "fine": torch.cat([fine, fine], 1)},
            "floats": {**made, "fine": fine.float()},
            "absent": {"fine": fine},
            "list": [fine],
        }
        return faults.get(self.config.fault, made)

    def decode_tile(self, codes: Any) -> Any:
        audio = torch.zeros(1, 1, codes["fine"].shape[1] * HOPS["fine"])
        faults = {"short": audio[..., 1:], "flat": audio[0], "whole": audio.long(), "none": None}
        return faults.get(self.config.fault, audio)

    def training_step(self, audio: torch.Tensor) -> Any:
        loss = self.weight * audio.mean()
        faults = {
            "alone": loss,
            "wide": (loss[None], {}),
            "number": (loss, {"x": 1.0}),
            "row": (loss, {"x": loss[None]}),
            "counted": (loss.long(), {}),
        }
        return faults.get(self.config.fault, (loss, {"loss": loss}))

    def prepare_training(self, clips: Any) -> None:
        raise KeyError("clip")


class Clips:
    crops = (0,)


def shaky(fault: str = "") -> Codec:
    return build_codec(Shaky, Settings(fault=fault))


@pytest.mark.parametrize("samples", [0, 3, 16, 43, 50])
def test_a_sound_one_may_end_anywhere(samples: int) -> None:
    codes = shaky().encode(torch.zeros(1, 1, samples))
    assert {name: made.shape[1] for name, made in codes.items()} == {
        name: samples // hop for name, hop in HOPS.items()
    }
    assert shaky().decode(codes).shape == (1, 1, samples // 4 * 4)


@pytest.mark.parametrize("fault", ["init", "no spec"])
def test_what_can_t_be_built(fault: str) -> None:
    with pytest.raises(InputError, match=r"Shaky can't be built: .+") as caught:
        shaky(fault)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("fault", ["few", "many", "floats", "absent", "list"])
def test_codes_that_its_tile_did_not_ask_for(fault: str) -> None:
    with pytest.raises(InputError, match=r"Shaky can't encode audio: .*encode_tile"):
        shaky(fault).encode(torch.zeros(1, 1, 50))


@pytest.mark.parametrize("fault", ["short", "flat", "whole", "none"])
def test_audio_that_its_codes_did_not_ask_for(fault: str) -> None:
    codes = shaky().encode(torch.zeros(1, 1, 50))
    with pytest.raises(InputError, match=r"Shaky can't decode codes: .*decode_tile"):
        shaky(fault).decode(codes)


@pytest.mark.parametrize("fault", ["alone", "wide", "number", "row", "counted"])
def test_a_loss_that_is_none(fault: str) -> None:
    codec = shaky(fault)
    task = CodecTask(codec, Clips(), None)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"Shaky can't take a training step: .*training_step"):
        task.loss(codec, {"audio": torch.zeros(1, 1, 16)})


def test_a_preparation_that_raises() -> None:
    with pytest.raises(InputError, match=r"Shaky can't prepare its training: KeyError"):
        CodecTask(shaky(), Clips(), None).prepare()  # type: ignore[arg-type]
