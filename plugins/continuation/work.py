"""The work behind `jukebox continue`: which function runs on which folder."""

import shutil
from pathlib import Path

from codec.audio import WRITERS
from codec.decoding import decode_corpus
from codec.tokenizing import tokenize_files
from plugins.continuation.command import Continue
from plugins.ground.errors import InputError
from plugins.ground.files import FolderLock, claim_folder, read_json, sha256_of, write_json
from plugins.ground.model import codec_of, priors_of
from prior.options import SamplingOptions
from prior.sampling import sample_tokens

TASK = "continue.json"


def continue_song(task: Continue) -> Path:
    """Write the song and its continuation.

    Returns:
        The audio file.

    Raises:
        InputError: no such song or model, a label that the priors don't know, an output file that
            exists or can't be of that format, or that another process makes.
    """
    out = task.out or Path(f"{task.song.stem}-continued.wav")
    suffix = out.suffix.lower()
    if suffix not in WRITERS:
        raise InputError(f"can't write {out}: give it one of the suffixes {', '.join(WRITERS)}")
    if out.exists():
        raise InputError(f"{out} is there already: move it away, or give another --out")
    codec, priors = codec_of(task.model), priors_of(task.model)
    work = out.with_name(f".{out.stem}.parts")
    with FolderLock(work):
        claim_folder(work, TASK, "an unfinished continuation")
        _make(task, codec, priors, work, out)
        shutil.rmtree(work)
    return out


def _make(task: Continue, codec: Path, priors: list[Path], work: Path, out: Path) -> None:
    """Tokens, samples and audio in `work`, and of the latter `out`."""
    _same_task(work, task)
    tokenize_files([str(task.song)], codec, work / "tokens", device=task.device)
    options = SamplingOptions(
        prompts=work / "tokens",
        seconds=task.seconds,
        prompt_seconds=task.prompt_seconds,
        artist=[task.artist] if task.artist else [],
        genre=[task.genre] if task.genre else [],
        temperature=task.temperature,
        seed=task.seed,
        device=task.device,
        dtype=task.dtype,
        int8=task.int8,
    )
    sample_tokens(priors, work / "samples", options)
    (made,) = decode_corpus(
        work / "samples", codec, work / "audio", format=out.suffix[1:].lower(), device=task.device
    )
    made.replace(out)


def _same_task(work: Path, task: Continue) -> None:
    """Keep what the parts are for, and throw parts for another task away."""
    wanted = {
        **task.model_dump(mode="json", exclude={"config", "device"}),
        "audio_sha256": sha256_of(task.song) if task.song.is_file() else None,
    }
    # Parts from before there was a choice of precision are of this one.
    before = {"dtype": "float32", "int8": False}
    if (work / TASK).exists() and {**before, **read_json(work / TASK)} != wanted:
        for part in ("tokens", "samples", "audio"):
            shutil.rmtree(work / part, ignore_errors=True)
    write_json(work / TASK, wanted)
