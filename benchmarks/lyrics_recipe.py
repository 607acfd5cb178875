"""The lyric prior that `lyrics.py --train` measures: its songs, its codec, its training.

Everything is the toolkit's own; the codec is the residual VQ of the example plugin, whose first
stage hears the shape of the mouth rather than pitch, so that its codes are close to phones
(`pip install tests/example_plugin`). The songs are random words over random tunes, alone: nothing
but the lyrics tells what is sung next. Reading is learned from songs of a few words, on which it
begins within some hundred steps, and goes on with longer ones. Killed and started again, it goes
on where it was. On one core: about 40 minutes, and 10 for the songs and their tokens.
"""

from pathlib import Path

from singing import training as sung

from codec.tokenizing import tokenize_files
from codec.training import train_codec
from plugins import registry
from plugins.ground.errors import InputError
from plugins.ground.options import TrainingOptions
from prior.training import train_prior

SONGS, SHORT = 2000, 4000
TINY = {2: 2050, 3: 1100, 4: 900}
"""Songs by seed: as many as festival sings before one at which it breaks."""
CODEC = "rvq"
CODEC_SETTINGS = {"hop": 800, "envelope": 16}
"""20 codes a second."""
CODEC_OPTIONS = TrainingOptions(steps=400, learning_rate=1e-3, device="cpu")
STREAM = "stage1"
SHAPE = {
    "context": 96,  # 4.8 s
    "width": 128,
    "depth": 6,
    "heads": 4,
    "blocks": 1,
    "patterns": ["dense", "memory"],
    "attention_ratio": 1,
    "mlp_ratio": 2,
    "init_scale": 3,
    "dropout": 0.05,
}
READING = {
    "lyrics_memory.tokens": 128,
    "lyrics_memory.loss_weight": 0,
    # Else most attention goes to the padding of short lyrics, and little is left for the text.
    "lyrics_memory.mask_padding": True,
    "lyrics_memory.network": {
        "width": 96,
        "depth": 2,
        "heads": 4,
        "blocks": 8,
        "patterns": ["row", "previous"],
        "init_scale": 3,
        "attention_ratio": 1,
        "mlp_ratio": 2,
    },
    "timing.total_seconds": [0, 80],
    "timing.absolute_seconds": [0, 80],
}
OFTEN = TrainingOptions(
    batch_size=32, device="cpu", save_every=250, evaluate_every=250, log_every=25
)
FIRST = OFTEN.model_copy(
    update={"steps": 750, "learning_rate": 1.5e-3, "warmup_steps": 200, "anneal": "none"}
)
THEN = OFTEN.model_copy(
    update={"steps": 6000, "learning_rate": 1.2e-3, "warmup_steps": 100, "anneal": "cosine"}
)


def train(folder: Path) -> Path:
    """Make the model, or what is missing of it.

    Args:
        folder: for `codec/`, `prior_<stream>/`, and what they are made from.

    Returns:
        The folder, as `--model` of commands.

    Raises:
        InputError: nobody sings here, or the codec's plugin is not installed.
    """
    if CODEC not in registry.plugins(registry.CODECS):
        raise InputError(
            f"no codec {CODEC!r} is installed: pip install tests/example_plugin brings it"
        )
    songs, codec = folder / "songs", folder / "codec"
    sung(songs / "long" / "train", SONGS)
    sung(songs / "long" / "short", SHORT, 1, "short")
    for seed, count in TINY.items():
        sung(songs / "tiny" / str(seed), count, seed, "tiny")
    train_codec(
        [str(songs / "long" / "train")],
        codec,
        codec=CODEC,
        set=CODEC_SETTINGS,
        clip_seconds=2.0,
        options=CODEC_OPTIONS,
    )
    for kind in ("tiny", "long"):
        tokenize_files([str(songs / kind)], codec, folder / "tokens" / kind)
    train_prior(
        folder / "tokens" / "tiny",
        folder / "first",
        stream=STREAM,
        preset="tiny",
        set=SHAPE,
        conditioners=["timing", "lyrics_memory"],
        conditioner_set=READING,
        held_out=["*train-0000*"],
        options=FIRST,
    )
    train_prior(
        folder / "tokens" / "long",
        folder / f"prior_{STREAM}",
        init=folder / "first",
        held_out=["train/train-0000*"],
        options=THEN,
    )
    return folder
