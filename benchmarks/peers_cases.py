"""What is asked of both sides, and what an answer means; it knows no processes.

The shapes are the published codec and the priors of `arithmetic`. Every case is what both sides do
alike: priors have no conditioners, the first codes of a prompt are given, draws are plain.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arithmetic import (
    CODEC,
    SHAPES,
    decode_operations,
    encode_operations,
    prior_bytes,
    prior_config,
    prior_operations,
)

AUDIO = "seconds of audio a second"
CODES = "codes a second"
OPTIMISER = {"lr": 1e-4, "fused": True}
CLIP = 1.0
SECONDS = {False: 20.0, True: 0.25}
"""Of audio, by whether it must be quick."""
SMALLER = {"width": 256, "depth": 3, "context": 512}
"""A large prior, if it must be quick."""
RATES = (44100, 24000)
"""Of that audio."""


@dataclass(frozen=True)
class Request:
    """A task of one side."""

    task: str
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Question:
    """What a row says of the answers to a case."""

    name: str
    measure: str
    """Which measurement."""
    amount: float = 1
    """Units done in that time."""
    unit: str = ""
    side: str = "ours"
    """Whose of ours."""
    operations: float = 0
    """Done in that time, for the share of the limit."""
    read: float = 0
    """Bytes of weights in that time."""
    model: str = "Jukebox"
    """What the peer is."""


@dataclass(frozen=True)
class Case:
    """Requests that take turns, and what their answers say."""

    sides: Mapping[str, Request]
    """"peer" and one or more of ours."""
    questions: tuple[Question, ...]
    repeats: int


def jukebox_cases(quick: bool, audio: Mapping[int, Path]) -> list[Case]:
    """Beside the same model of the other side.

    Args:
        quick: small ones.
        audio: files of float32 samples by their rate.
    """
    large = {**SHAPES["large"], **(SMALLER if quick else {})}
    tiny = {**SHAPES["tiny"], **({"context": 64, "blocks": 8} if quick else {})}
    train = {**SHAPES["train"], **({"depth": 3, "context": 256} if quick else {})}
    count, prompt, repeats = (4, 64, 1) if quick else (48, 4096, 3)
    return [
        *codec_cases(SECONDS[quick], audio[CODEC.sample_rate], repeats),
        steps_case("large_prior_1", large, 1, 8, count, repeats, int8="large_prior_1_int8"),
        steps_case("large_prior_8", large, 8, 8, count, repeats),
        steps_case(
            "large_prior_1_later",
            large,
            1,
            prompt,
            count,
            min(2, repeats),
            int8="large_prior_1_int8_later",
            fill="cache_fill",
        ),
        forward_case(large, repeats),
        steps_case("tiny_prior", tiny, 1, 8, tiny["context"] - 9, repeats),
        *training_cases(train, 2, repeats),
    ]


def codec_cases(seconds: float, audio: Path, repeats: int) -> list[Case]:
    """Code and decode."""
    codes = round(seconds * CODEC.sample_rate) // CODEC.hops[0]
    done = codes * CODEC.hops[0] / CODEC.sample_rate
    kinds = {
        "encode": ({"audio": str(audio)}, seconds, encode_operations()),
        "decode": ({"codes": codes}, done, decode_operations(0)),
    }
    return [
        Case(
            _both(kind, settings),
            (Question(kind, "seconds", amount, AUDIO, operations=operations * amount),),
            repeats,
        )
        for kind, (settings, amount, operations) in kinds.items()
    ]


def steps_case(
    name: str,
    shape: Mapping[str, int],
    batch: int,
    prompt: int,
    count: int,
    repeats: int,
    int8: str = "",
    fill: str = "",
) -> Case:
    """Codes, one after another.

    Args:
        name: of the question.
        shape: of the prior.
        batch: items at a time.
        prompt: codes before the first.
        count: codes of each item that are timed, after the first.
        repeats: turns.
        int8: the question of int8 weights on our side, if that is asked.
        fill: the question of how fast the prompt goes in, if that is asked.
    """
    config = prior_config("large", **shape)
    settings = {"shape": shape, "batch": batch, "prompt": prompt, "count": count}
    sides, done = _both("sample", settings), batch * count
    operations = prior_operations(config)
    used = {"operations": operations * done, "read": prior_bytes(config) * count}
    questions = [Question(name, "steps", done, CODES, **used)]
    if int8:
        sides["int8"] = Request("sample", {**settings, "int8": True})
        used["read"] = prior_bytes(config, layers=1) * count
        questions.append(Question(int8, "steps", done, CODES, side="int8", **used))
    if fill:
        work = operations * batch * prompt
        questions.append(Question(fill, "fill", batch * prompt, CODES, operations=work))
    return Case(sides, tuple(questions), repeats)


def forward_case(shape: Mapping[str, int], repeats: int) -> Case:
    """A whole window at once."""
    codes = shape["context"]
    work = prior_operations(prior_config("large", **shape)) * codes
    question = Question("teacher_forced", "seconds", codes, CODES, operations=work)
    return Case(_both("forward", {"shape": shape, "codes": codes}), (question,), repeats)


def training_cases(shape: Mapping[str, int], batch: int, repeats: int) -> list[Case]:
    """A step of training: forward, backward, AdamW."""
    settings = {"shape": shape, "batch": batch, "optimiser": OPTIMISER, "clip": CLIP}
    work = 3 * prior_operations(prior_config("train", **shape)) * batch * shape["context"]
    speed = Question("training_speed", "seconds", 1, "steps a second", operations=work)
    memory = Question("training_memory", "bytes", unit="MiB")
    return [
        Case(_both("train", settings), (speed,), repeats),
        Case(_both("train_memory", settings), (memory,), 1),  # the same every time
    ]


def other_cases(quick: bool, audio: Mapping[int, Path]) -> list[Case]:
    """Beside other models of like size: other architectures, other rates of codes.

    Args:
        quick: small ones.
        audio: files of float32 samples by their rate.
    """
    repeats = 1 if quick else 3
    ours = Request("codec", {"audio": str(audio[CODEC.sample_rate])})
    models = {
        "Encodec": (24000, {"num_filters": 10, "hidden_size": 64, "codebook_dim": 64}),
        "Dac": (
            44100,
            {"encoder_hidden_size": 10, "decoder_hidden_size": 160, "sampling_rate": 44100},
        ),
    }
    seconds = SECONDS[quick]
    cases = []
    for name, (rate, config) in models.items():
        settings = {"model": name, "config": config, "audio": str(audio[rate])}
        questions = tuple(
            Question(f"{name.lower()}_{kind}", kind, seconds, AUDIO, model=name)
            for kind in ("encode", "decode")
        )
        cases.append(Case({"ours": ours, "peer": Request("codec", settings)}, questions, repeats))
    return [*cases, *(_musicgen(quick, batch, repeats) for batch in (1, 8))]


def _musicgen(quick: bool, batch: int, repeats: int) -> Case:
    depth, count = (2, 4) if quick else (18, 48)
    config = {"num_hidden_layers": depth, "ffn_dim": 2048, "max_position_embeddings": 8192}
    asked = {"batch": batch, "prompt": 8, "count": count}
    shape = {**SHAPES["large"], **(SMALLER if quick else {})}
    question = Question(f"musicgen_{batch}", "steps", count, "steps a second", model="MusicGen")
    sides = {
        "ours": Request("sample", {**asked, "shape": shape}),
        "peer": Request("musicgen", {**asked, "config": config}),
    }
    return Case(sides, (question,), repeats)


def _both(task: str, settings: Mapping[str, Any]) -> dict[str, Request]:
    return {"ours": Request(task, settings), "peer": Request(task, settings)}
