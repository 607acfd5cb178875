"""The work behind `jukebox continue`: which function runs on which folder."""

import shutil
from pathlib import Path

from codec.decoding import decode_corpus
from codec.tokenizing import tokenize_files
from plugins.continuation.command import Continue
from plugins.ground.errors import InputError
from prior.options import SamplingOptions
from prior.sampling import sample_tokens


def continue_song(task: Continue) -> Path:
    """Write the song and its continuation.

    Returns:
        The audio file.

    Raises:
        InputError: no such song or model, or a label that the priors don't know.
    """
    out = task.out or task.song.with_name(f"{task.song.stem}-continued.wav")
    codec, priors = parts_of(task.model)
    work = out.with_name(f"{out.stem}.parts")
    tokenize_files([str(task.song)], codec, work / "tokens", workers=1)
    options = SamplingOptions(
        prompts=work / "tokens",
        seconds=task.seconds,
        prompt_seconds=task.prompt_seconds,
        artist=[task.artist],
        genre=[task.genre],
        temperature=task.temperature,
        seed=task.seed,
        device=task.device,
    )
    sample_tokens(priors, work / "samples", options)
    suffix = out.suffix.removeprefix(".") or "wav"
    (made,) = decode_corpus(work / "samples", codec, work / "audio", format=suffix)
    made.replace(out)
    shutil.rmtree(work)
    return out


def parts_of(model: Path) -> tuple[Path, list[Path]]:
    """The codec and the priors of a model folder.

    Raises:
        InputError: it lacks one.
    """
    codec, priors = model / "codec", sorted(model.glob("prior_*"))
    if not codec.is_dir() or not priors:
        raise InputError(f"{model} is no model: it needs codec/ and prior_0/, prior_1/, ...")
    return codec, priors
