"""Hostile inputs to what needs PyTorch: folders of codecs and priors, the state of trainings,
published checkpoints, records of decoded audio.

Made and used as `targets` does it.
"""

import json
import random
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mutations import spoiled, spoiled_json
from pickles import WAYS, armed, repacked
from plumbing import Case, allowed, contents, laid_out

if TYPE_CHECKING:
    from codec.tokens import TokenSpec

GOLDEN = Path(__file__).parents[1] / "golden"
SHAPE = {"context": 32, "width": 16, "depth": 3, "heads": 1, "blocks": 4}
CODES_OF_16 = {"codes.width": 8, "codes.depth": 1}


def spec_of(streams: int) -> "TokenSpec":
    """Of a codec that is not there: streams "0", "1", ... of hops 4, 8, ..., 32 codes each."""
    from codec.tokens import TokenSpec, TokenStream

    made = [
        TokenStream(name=str(s), vocab_size=32, hop_length=4 << s)
        for s in range(streams)
    ]  # fmt: skip
    return TokenSpec(
        sample_rate=2000, channels=1, streams=tuple(made), codec="vqvae", fingerprint="0" * 16
    )


def make_codec(folder: Path) -> None:
    """A codec of random weights."""
    import torch

    from codec.checkpoint import save_codec
    from codec.config import VQVAEConfig
    from codec.vqvae import VQVAE

    torch.manual_seed(0)
    config = VQVAEConfig(
        sample_rate=2000,
        halvings=(2, 1),
        multipliers=(1, 1),
        width=4,
        depth=1,
        codebook_width=4,
        codebook_size=32,
    )
    save_codec(VQVAE(config), folder)


def make_tokens(folder: Path, spec: "TokenSpec") -> None:
    """Three tracks of random codes."""
    import numpy as np

    from codec.corpus import CorpusWriter

    rng = np.random.default_rng(0)
    rows = [
        {
            "id": f"{name}.wav",
            "num_samples": 800,
            "artist": f"artist {name}",
            **{
                f"codes_{s.name}": rng.integers(0, 32, 800 // s.hop_length)
                for s in spec.streams
            },
        }
        for name in "abc"
    ]  # fmt: skip
    CorpusWriter(folder, spec).append(rows)


def train(folder: Path, steps: int = 2) -> None:
    """A prior of the upper stream of folder/tokens, in folder/prior; goes on with one there."""
    from plugins.ground.options import TrainingOptions
    from prior.training import train_prior

    options = TrainingOptions(steps=steps, batch_size=2, warmup_steps=1, device="cpu")
    train_prior(
        folder / "tokens", folder / "prior", preset="tiny", set=SHAPE, options=options
    )  # fmt: skip


def _spoiled_file(name: str, content: bytes, rng: random.Random, marker: Path) -> bytes:
    """A file of a model or a training with something wrong in it."""
    if name.endswith((".json", ".jsonl")):
        return spoiled_json(content.decode().splitlines()[0] if "jsonl" in name else
                            content.decode(), "{}", rng)  # fmt: skip
    kind = rng.random()
    if name.endswith(".safetensors") and kind < 0.5:
        (size,) = struct.unpack("<Q", content[:8])
        header = spoiled_json(content[8 : 8 + size].decode(), "{}", rng)
        return struct.pack("<Q", len(header)) + header + content[8 + size :]
    if name.endswith((".pt", ".tar")) and content[:2] == b"PK":
        if kind < 0.2:
            way = rng.randrange(len(WAYS))
            return repacked(content, lambda plain: armed(plain, marker, way))
        if kind < 0.6:
            return repacked(content, lambda plain: spoiled(plain, content, rng))
    return spoiled(content, content[::-1], rng)


def codecs(folder: Path) -> Case:
    """Folders of codecs: `config.json` and `model.safetensors`."""
    from codec.checkpoint import load_codec
    from plugins.ground.model import codec_of

    make_codec(folder / "codec")
    sound = contents(folder / "codec")

    def case(rng: random.Random) -> None:
        name = rng.choice(sorted(sound))
        files = {**sound, name: _spoiled_file(name, sound[name], rng, folder / "escaped")}
        place = laid_out(folder / "case" / "codec", files)
        allowed(codec_of, place.parent)
        allowed(load_codec, place)

    return case


def priors(folder: Path) -> Case:
    """Folders of priors: `config.json` and `model.safetensors`."""
    from plugins.ground.model import priors_of
    from prior.checkpoint import load_prior

    make_tokens(folder / "tokens", spec_of(2))
    train(folder)
    sound = {n: c for n, c in contents(folder / "prior").items() if n.startswith(("conf", "model"))}

    def case(rng: random.Random) -> None:
        name = rng.choice(sorted(sound))
        files = {**sound, name: _spoiled_file(name, sound[name], rng, folder / "escaped")}
        place = laid_out(folder / "case", files)
        allowed(priors_of, place)
        allowed(load_prior, place)

    return case


def trainings(folder: Path) -> Case:
    """Trainings to go on with: `state.pt`, `training.json`, `metrics.jsonl` and the model."""
    make_tokens(folder / "tokens", spec_of(2))
    train(folder)
    sound = {n: c for n, c in contents(folder / "prior").items() if "tfevents" not in n}
    names = [*sorted(sound), "state.pt", "state.pt"]

    def case(rng: random.Random) -> None:
        name = rng.choice(names)
        marker = folder / "escaped"
        files = {**sound, name: _spoiled_file(name, sound[name], rng, marker)}
        laid_out(folder / "prior", files)
        allowed(train, folder, rng.choice((2, 3)))
        assert not marker.exists(), "a pickle was run"

    return case


def published(folder: Path) -> Case:
    """Published checkpoints to `convert`, those that would run code too."""
    import torch

    from plugins.openai.converting import convert

    codec = GOLDEN / "codec.pth.tar"
    top = GOLDEN / "top_unlabelled.pth.tar"
    sound = [(path.name, path.read_bytes()) for path in (codec, top)]
    for path in (codec, top):  # those are as they were published, before torch wrote zip files
        new = folder / f"new_{path.name}"
        torch.save(torch.load(path, weights_only=True), new)
        sound.append((path.name, new.read_bytes()))
    convert([codec], folder / "model")
    model = contents(folder / "model")

    def case(rng: random.Random) -> None:
        name, content = rng.choice(sound)
        marker = folder / "escaped"
        place = laid_out(folder / "case", {name: _spoiled_file(name, content, rng, marker)})
        out = place / "model"
        if name != codec.name:
            laid_out(out, model)
        before = contents(out)
        made = allowed(convert, [place / name], out)
        assert not marker.exists(), "a pickle was run"
        if made is None:
            assert contents(out) == before, "something is left of a conversion that failed"

    return case


def decoded(folder: Path) -> Case:
    """`decoded.json` of earlier decodings."""
    from codec.checkpoint import read_spec
    from codec.decoding import decode_corpus

    make_codec(folder / "codec")
    make_tokens(folder / "tokens", read_spec(folder / "codec"))
    out = folder / "out"
    decode_corpus(folder / "tokens", folder / "codec", out)
    sound = contents(out)
    outside = {path for path in folder.rglob("*") if not path.is_relative_to(out)}

    def case(rng: random.Random) -> None:
        name = "decoded.json"
        laid_out(out, {**sound, name: spoiled_json(sound[name].decode(), "{}", rng)})
        allowed(decode_corpus, folder / "tokens", folder / "codec", out)
        now = {path for path in folder.rglob("*") if not path.is_relative_to(out)}
        assert now == outside, f"written elsewhere: {now - outside}"
        assert json.loads((folder / "tokens" / "corpus.json").read_text())["format"] == 1

    return case


TARGETS: Mapping[str, Callable[[Path], Case]] = {
    "codecs": codecs,
    "priors": priors,
    "trainings": trainings,
    "published": published,
    "decoded": decoded,
}
