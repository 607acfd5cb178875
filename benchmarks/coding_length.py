"""Time and memory of coding or decoding audio of one length; a process of `coding.py`.

`python coding_length.py encode|decode ENGINE SECONDS THREADS` prints them as JSON. Audio comes in
blocks, as `codec.tokenize` reads it, and goes out in tiles, as `codec.decode` writes it, so what is
held is what the codec itself holds, and the codes.
"""

import json
import resource
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from arithmetic import CODEC
from costs import peak, seconds
from made import random_codec
from music import blocks

from codec.vqvae import VQVAE

MIB = 1 << 20
WATCHED = 60
"""Seconds of audio up to which the allocator is watched."""


def main(what: str, engine: str, length: float, threads: int) -> None:
    """Measure once, after a second of audio that is not counted."""
    torch.set_num_threads(threads)
    model = random_codec()
    model.use_engine(engine)
    prepare = {"encode": _encode, "decode": _decode}[what]
    prepare(model, min(1, length))()
    work, before = prepare(model, length), _resident()
    taken, resident = seconds(work, model.device), _resident()
    codes = sum(round(length * CODEC.sample_rate) // hop * 2 for hop in CODEC.hops)
    answer = {
        "taken": taken,
        "speed": length / taken,
        "grown_mib": (resident - before) / MIB,
        "resident_mib": resident / MIB,
        "allocator_mib": _allocated(model, prepare, length),
        "codes_mib": codes / MIB if what == "encode" else 0,
    }
    print(json.dumps(answer))


def _allocated(model: VQVAE, prepare: Callable[..., Callable[[], object]], length: float) -> object:
    """MiB of PyTorch's allocator at most; not for long audio, since watching it takes memory too.

    C++ has memory of its own, which this does not see.
    """
    return peak(prepare(model, length), model.device) / MIB if length <= WATCHED else ""


def _encode(model: VQVAE, length: float) -> Callable[[], object]:
    pieces = (torch.from_numpy(block)[None] for block in blocks(length, CODEC.sample_rate))
    kept = bytearray()

    def work() -> None:
        for part in model.encode_stream(pieces):
            for codes in part.values():
                kept.extend(codes.numpy().astype(np.uint16).tobytes())

    return work


def _decode(model: VQVAE, length: float) -> Callable[[], object]:
    count = round(length * CODEC.sample_rate) // CODEC.hops[0]
    codes = torch.randint(CODEC.codebook_size, (count,))
    return lambda: [None for _ in model.decode_blocks({"0": codes})]


def _resident() -> int:
    """Most bytes of memory that this process ever held.

    What the system says of usage counts a process' parent too, from before it began; its own peak
    is in a file, where there is one.
    """
    status = Path("/proc/self/status")
    if status.exists():
        lines = status.read_text("utf-8").splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4]))
