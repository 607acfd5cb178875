"""The lyric prior that `lyrics.py --train` measures: its songs, its codec, its training.

Everything is the toolkit's own; the codec is the residual VQ of the example plugin, whose first
stage hears the shape of the mouth rather than pitch, so that its codes are close to phones
(`pip install tests/example_plugin`). The songs are random words over random tunes, alone: nothing
but the lyrics tells what is sung next. Killed and started again, it goes on where it was.
"""

from pathlib import Path

from singing import training as sung

from codec.tokenizing import tokenize_files
from codec.training import train_codec
from plugins import registry
from plugins.ground.errors import InputError
from plugins.ground.options import TrainingOptions
from prior.training import train_prior

SONGS = 2000
CODEC = "rvq"
CODEC_SETTINGS = {"hop": 800, "envelope": 16}
"""20 codes a second."""
CODEC_OPTIONS = TrainingOptions(steps=400, learning_rate=1e-3, device="cpu")
STREAM = "stage1"
HELD_OUT = ["train-0000*"]
"""Ten of the training's songs, to see whether it learns."""
SHAPE = {
    "context": 256,  # 12.8 s
    "width": 192,
    "depth": 6,
    "heads": 4,
    "blocks": 1,
    "patterns": ["dense", "memory"],
    "attention_ratio": 1,
    "mlp_ratio": 2,
    "init_scale": 3,
    "dropout": 0.1,
}
READING = {
    "lyrics_memory.tokens": 192,
    "lyrics_memory.loss_weight": 0,
    "lyrics_memory.network": {
        "width": 128,
        "depth": 2,
        "heads": 4,
        "blocks": 1,
        "patterns": ["dense"],
        "init_scale": 3,
        "attention_ratio": 1,
        "mlp_ratio": 2,
    },
    "timing.total_seconds": [0, 80],
    "timing.absolute_seconds": [0, 80],
}
OPTIONS = TrainingOptions(
    steps=6000,
    batch_size=16,
    learning_rate=1e-3,
    warmup_steps=200,
    device="cpu",
    save_every=250,
    evaluate_every=250,
    log_every=25,
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
    sung(folder / "songs", SONGS)
    songs = str(folder / "songs")
    train_codec(
        songs,
        folder / "codec",
        codec=CODEC,
        set=CODEC_SETTINGS,
        clip_seconds=2.0,
        options=CODEC_OPTIONS,
    )
    tokenize_files(songs, folder / "codec", folder / "tokens")
    train_prior(
        folder / "tokens",
        folder / f"prior_{STREAM}",
        stream=STREAM,
        preset="tiny",
        set=SHAPE,
        conditioners=["timing", "lyrics_memory"],
        conditioner_set=READING,
        held_out=HELD_OUT,
        options=OPTIONS,
    )
    return folder
