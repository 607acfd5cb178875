"""The whole road on the music in `examples/music`: `python examples/demo.py out/demo`.

Trains a tiny codec, a tiny top prior and a tiny upsampler for a few minutes, samples six seconds
or more in three ways for two artists, decodes them, and writes a page to listen and look at. It
only runs the toolkit's own commands, which it prints; run again, each goes on from what is done.
"""

import shlex
import subprocess
import sys
import time
from pathlib import Path

MUSIC = Path(__file__).parent / "music"
HELD_OUT = ["maxstack-by-product.ogg", "obsidian-shell-fear.ogg"]
ARTISTS = ["Maxstack", "Obsidian Shell"]
GENRES = ["electronic", "gothic metal"]

# Small numbers for two CPU cores and a few minutes; a real training takes days.
CODEC_STEPS, TOP_STEPS, UPSAMPLER_STEPS = 900, 500, 350
SMALLER = ["--set", "width=192", "--set", "depth=6"]
TOP_CONTEXT = 1152  # 6.7 s at 172 codes per second: six seconds in one window


def main(out: Path) -> None:
    """Run every step."""
    started = time.monotonic()
    model, tokens = out / "model", out / "tokens"
    train(model, tokens)
    sample(model, tokens, out)
    report(model, out)
    print(f"\n{out / 'index.html'} is ready after {time.monotonic() - started:.0f} s: open it")


def train(model: Path, tokens: Path) -> None:
    """Codec, tokens, priors."""
    often = ["--save-every", "100", "--evaluate-every", "100", "--warmup-steps", "50"]
    held_out = [f"--held-out={name}" for name in HELD_OUT]
    run("codec.train", MUSIC, "--out", model / "codec", "--preset", "tiny",
        "--clip-seconds", 0.37, "--steps", CODEC_STEPS, "--learning-rate", 2e-3,
        *often, *held_out)  # fmt: skip
    run("codec.tokenize", MUSIC, "--codec", model / "codec", "--out", tokens)
    run("codec.evaluate", *[MUSIC / name for name in HELD_OUT], "--codec", model / "codec",
        "--out", model / "codec-evaluation.json")  # fmt: skip
    run("prior.train", tokens, "--out", model / "prior_1", "--stream", "1", "--preset", "tiny",
        *SMALLER, "--set", f"context={TOP_CONTEXT}", "--steps", TOP_STEPS, "--batch-size", 4,
        "--learning-rate", 1e-3, *often, *held_out)  # fmt: skip
    run("prior.train", tokens, "--out", model / "prior_0", "--stream", "0", "--preset", "tiny",
        *SMALLER, "--steps", UPSAMPLER_STEPS, "--batch-size", 4, "--learning-rate", 1e-3,
        *often, *held_out)  # fmt: skip


def sample(model: Path, tokens: Path, out: Path) -> None:
    """Three ways for two artists: one window, several windows, and on from real music."""
    priors = [model / "prior_1", model / "prior_0"]
    labels = [f"--artist={a}" for a in ARTISTS] + [f"--genre={g}" for g in GENRES]
    prompts = ["--prompts", tokens, "--prompt-seconds", 4]
    prompts += [f"--prompt-ids={name}" for name in HELD_OUT]
    ways = {
        "ancestral": ["--count", 2, "--seconds", 6.5, *labels],
        "windowed": ["--count", 2, "--seconds", 10, *labels],
        "primed": ["--seconds", 6, *prompts],
    }
    for way, options in ways.items():
        samples = out / "samples" / way
        run("prior.sample", *priors, "--out", samples, *options)
        run("codec.decode", samples, "--codec", model / "codec", "--out", out / "audio" / way)


def report(model: Path, out: Path) -> None:
    """The page."""
    sections = [
        option
        for way in ("ancestral", "windowed", "primed")
        for option in (
            f"--samples={way.capitalize()}={out / 'samples' / way}",
            f"--audio={way.capitalize()}={out / 'audio' / way}",
        )
    ]
    run("plugins.report.command", "--out", out / "index.html", "--title", "A first song",
        "--training", f"Codec={model / 'codec'}", "--training", f"Top prior={model / 'prior_1'}",
        "--training", f"Upsampler={model / 'prior_0'}", *sections,
        "--originals", MUSIC)  # fmt: skip


def run(module: str, *arguments: object) -> None:
    """Run a command as a person would, and stop if it fails."""
    words = ["-m", module, *map(str, arguments)]
    print(f"\n$ python {shlex.join(words)}", flush=True)
    status = subprocess.run([sys.executable, *words], check=False).returncode
    if status:
        sys.exit(status)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "out/demo"))
