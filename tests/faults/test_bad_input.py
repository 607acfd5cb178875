"""Bad input to the commands, as processes: one line, status 2, and nothing there is lost."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from harness import contents, starter
from safetensors.torch import load_file, save_file

from codec.checkpoint import load_codec, save_codec
from codec.corpus import Corpus
from codec.tokenizing import tokenize_files
from plugins.ground.options import TrainingOptions
from prior.training import train_prior


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, codec_folder: Path) -> Path:
    """Two songs, their tokens, a prior, and a second codec."""
    folder = tmp_path_factory.mktemp("home")
    rng = np.random.default_rng(0)
    for name in ("one", "two"):
        soundfile.write(folder / f"{name}.wav", 0.1 * rng.standard_normal(8000), 2000)
    tokenize_files([str(folder / "*.wav")], codec_folder, folder / "tokens")
    options = TrainingOptions(steps=2, batch_size=2, device="cpu")
    shape = {"context": 32, "width": 16, "depth": 3, "heads": 1, "blocks": 4}
    train_prior(folder / "tokens", folder / "prior", preset="tiny", set=shape, options=options)
    (folder / "codec").symlink_to(codec_folder)
    other = load_codec(codec_folder)
    with torch.no_grad():
        other.quantizers[0].codebook.add_(1.0)  # type: ignore[union-attr,operator,index]
    save_codec(other, folder / "other")
    for model, codec in (("model", "codec"), ("mixed", "other"), ("broken", "codec")):
        shutil.copytree(folder / codec, folder / model / "codec")
        shutil.copytree(folder / "prior", folder / model / "prior_1")
    weights = load_file(folder / "broken" / "prior_1" / "model.safetensors")
    weights["transformer.layers.1.mlp.0.weight"][3, 3] = torch.nan
    save_file(weights, folder / "broken" / "prior_1" / "model.safetensors")
    (folder / "thesis").mkdir()
    (folder / "thesis" / "chapter.txt").write_text("years of work")
    (folder / "empty.wav").touch()
    (folder / "notes.wav").write_text("not audio at all, " * 20)
    (folder / "cut.flac").write_bytes(b"fLaC" + bytes(30))
    sung = tmp_path_factory.mktemp("sung", numbered=False)
    shutil.copy(folder / "one.wav", sung)
    (sung / "one.lrc").write_text("[ti:One]\n[00:01.00]la\nwithout a time\n")
    return folder


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("codec.tokenize nothing.wav --codec codec --out new", "nothing.wav"),
        ("codec.tokenize empty.wav --codec codec --out new", "empty"),
        ("codec.tokenize notes.wav cut.flac --codec codec --out new", "none of 2 files"),
        ("codec.tokenize one.wav --codec thesis --out new", "no codec in thesis"),
        ("codec.tokenize one.wav --codec codec --out thesis", "holds something other"),
        ("codec.tokenize one.wav --codec other --out tokens", "holds codes of codec"),
        ("codec.train empty.wav --out new --steps 1 --preset tiny", "empty"),
        ("codec.train one.wav --out new --preset huge", "no preset 'huge'"),
        ("codec.train one.wav --out thesis --preset tiny --steps 1", "holds something other"),
        ("codec.train one.wav --out new --preset tiny --batch-size 0", "--batch-size"),
        ("codec.evaluate notes.wav --codec codec", "notes.wav"),
        ("codec.decode tokens --codec other --out new", "holds codes of codec"),
        ("codec.decode thesis --codec codec --out new", "no token corpus in thesis"),
        ("prior.train thesis --out new", "no token corpus in thesis"),
        ("prior.train tokens --out thesis --preset tiny", "holds something other"),
        ("prior.sample thesis --out new", "no prior in thesis"),
        ("prior.sample prior --out new --prompts tokens --prompt-seconds 99", "longer than track"),
        ("prior.sample prior --out new --artist Nobody", "unknown artist"),
        ("prior.sample prior --out tokens --seconds 1", "made with"),
        ("plugins.continuation.command one.wav --model thesis", "is no model"),
        ("codec.tokenize one.wav --codec codec --model model --out new", "give either --codec or"),
        ("codec.decode tokens --model mixed --out new", "mixes parts of different models"),
        ("prior.sample --out new", "give either folders of priors or --model"),
        ("prior.sample --model broken --out new", "transformer.layers.1.mlp.0.weight holds NaN"),
        ("prior.sample prior --out new --lyrics empty.wav", "lyrics empty.wav are empty"),
        ("codec.tokenize ../sung --codec codec --out new", "one.lrc:3: "),
        ("prior.sample prior --out new --lyrics ../sung/one.lrc", "one.lrc:3: "),
        ("conditioning.align tokens --aligner linear", "has lyrics"),
        ("prior.train tokens --out new --preset tiny --attention xformers", "can't serve"),
        ("prior.sample prior --out new --dtype int8", "--dtype"),
        ("prior.sample prior --out new --engine fast", "no engine 'fast'; there are: auto, eager"),
        ("prior.sample prior --out new --engine graphs", "cpu has no CUDA graphs"),
        ("prior.sample prior --out new --engine native --dtype float16", "not in torch.float16"),
        ("prior.train tokens --model model --stream 0 --out new", "no prior of stream '0'"),
    ],
)
def test_one_line_and_status_2(home: Path, line: str, message: str) -> None:
    before = contents(home)
    assert message in starter().run(line.split(), home).error
    after = contents(home)
    assert {path: after.get(path) for path in before} == before


def test_bad_files_in_a_folder_are_skipped_with_their_reasons(home: Path, tmp_path: Path) -> None:
    words = ["codec.tokenize", ".", "--codec", "codec", "--out", tmp_path / "new"]
    run = starter().run(words, home)
    assert run.error == ""
    corpus = Corpus(tmp_path / "new")
    assert corpus.ids() == ["one.wav", "two.wav"]
    assert {s.path for s in corpus.skipped} == {"empty.wav", "notes.wav", "cut.flac"}
    assert all(s.reason and s.reason in run.out for s in corpus.skipped)
