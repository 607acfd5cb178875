"""The example package's residual codec: stages at one rate, through the whole toolkit."""

import functools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from codec.audio import read_audio
from codec.checkpoint import load_codec, save_codec
from codec.corpus import Corpus
from codec.decoding import decode_corpus
from codec.evaluating import evaluate_codec
from codec.tokenizing import tokenize_files
from codec.training import train_codec
from plugins.ground.errors import InputError
from plugins.ground.options import TrainingOptions
from prior.options import SamplingOptions
from prior.sampling import sample_tokens
from prior.training import train_prior

SOURCES = Path(__file__).parents[1] / "example_plugin" / "src" / "jukebox_example"
MUSIC = Path(__file__).parents[2] / "examples" / "music"
RATE = 16000
SMALL = {"codebook_sizes": (32, 16, 16), "bands": 24, "width": 16, "depth": 1}
STAGES = ["stage3", "stage2", "stage1"]


@pytest.fixture(scope="module", autouse=True)
def package(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The package as an editable installation leaves it, for this module alone."""
    folder = tmp_path_factory.mktemp("installed")
    info = folder / "jukebox_example-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: jukebox-example\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text(
        "[jukebox.codecs]\nrvq = jukebox_example.codec:ResidualVQ\n"
    )
    (folder / "jukebox_example").symlink_to(SOURCES)
    sys.path.insert(0, str(folder))
    yield
    sys.path.remove(str(folder))
    for name in [name for name in sys.modules if name.partition(".")[0] == "jukebox_example"]:
        del sys.modules[name]


def build(**settings: Any) -> Any:
    from jukebox_example.codec import ResidualVQ

    torch.manual_seed(0)
    return ResidualVQ(ResidualVQ.Config(**{**SMALL, **settings}))


@functools.cache
def examples() -> torch.Tensor:
    """The first examples one after the other, [1, T]."""
    files = sorted(MUSIC.glob("*.ogg"))[:4]
    return torch.from_numpy(np.concatenate([read_audio(file, RATE, 1) for file in files], 1))


def music(seconds: float) -> torch.Tensor:
    """The beginning of the examples, [1, T]."""
    audio = examples()[:, : round(seconds * RATE)]
    assert audio.shape[1] == round(seconds * RATE)
    return audio.clone()


@pytest.fixture(scope="module")
def codec(package: None) -> Any:
    """Codebooks among the cepstra of real music, and a decoder that has begun to learn."""
    codec = build().train()
    clips = music(10).split(RATE, 1)
    codec.prepare_training(clips)
    optimizer = torch.optim.AdamW(codec.parameters(), lr=3e-3)
    for step in range(20):
        loss, _ = codec.training_step(clips[step % len(clips)][None])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return codec.eval()


def test_stages_share_a_rate_and_the_first_is_the_coarsest(codec):
    streams = codec.spec.streams
    assert [stream.name for stream in streams] == STAGES
    assert [stream.vocab_size for stream in streams] == [16, 16, 32]
    assert {stream.hop_length for stream in streams} == {codec.config.hop}
    codes = codec.encode(music(1)[None, :, : RATE - 1])
    assert {name: tuple(own.shape) for name, own in codes.items()} == dict.fromkeys(STAGES, (1, 24))
    assert min(int(own.min()) for own in codes.values()) >= 0
    assert all(int(own.max()) < codec.spec.stream(name).vocab_size for name, own in codes.items())


def test_tiles_change_no_code_and_no_sample(codec):
    tiling = codec.tiling
    assert tiling.length % codec.config.hop == tiling.halo % codec.config.hop == 0
    audio = music(2.2 * tiling.length / RATE)
    assert audio.shape[1] > 2 * tiling.length
    whole = codec.encode_tile(audio[None])
    tiled = codec.encode(audio[None])
    for name in STAGES:
        assert (whole[name] != tiled[name]).sum() <= 1  # entries that are equally near, if any
    in_blocks = codec.encode_blocks(audio.split(7001, 1))
    assert all(torch.equal(in_blocks[name], tiled[name][0]) for name in STAGES)
    heard = codec.decode(tiled)
    assert heard.shape == (1, 1, audio.shape[1] // codec.config.hop * codec.config.hop)
    with torch.inference_mode():
        at_once = codec.decode_tile(tiled)
    assert torch.allclose(heard, at_once, atol=1e-4)


def test_an_item_of_a_batch_is_coded_as_alone(codec):
    audio = music(6).view(3, 1, -1)
    together = codec.encode(audio)
    for item in range(3):
        alone = codec.encode(audio[item : item + 1])
        assert all(torch.equal(together[name][item], alone[name][0]) for name in STAGES)


def test_every_stage_codes_what_those_before_it_left(codec):
    audio = music(8)[None]
    _, figures = codec.training_step(audio)
    left = [float(figures[f"left_over/{name}"]) for name in reversed(STAGES)]
    assert left == sorted(left, reverse=True)
    assert left[-1] < 0.8 * left[0]
    codes = codec.encode(audio)
    used = {name: len(own.unique()) for name, own in codes.items()}
    assert used["stage1"] > 16
    assert min(used.values()) > 8


def test_the_first_stage_hears_vowels_and_no_pitch():
    """A vowel sung at two heights is coded more alike than two vowels at one height."""

    def sung(pitch: float, formants: tuple[float, ...]) -> np.ndarray:
        hertz = np.arange(1, int(6000 / pitch)) * pitch
        sizes = sum(1 / (1 + ((hertz - formant) / 120) ** 2) for formant in formants) + 0.01
        time = np.arange(2 * RATE) / RATE
        return 0.05 * (np.sin(2 * np.pi * hertz[:, None] * time) * sizes[:, None]).sum(0)

    vowels = ((300, 2300, 3000), (700, 1200, 2600), (350, 800, 2500), (500, 1800, 2500))
    heights = (98.0, 110.0, 123.5, 131.0)
    clips = [torch.from_numpy(sung(h, v)).float()[None] for v in vowels for h in heights]
    codec = build(bands=40, envelope=10, codebook_sizes=(4, 64))
    codec.prepare_training(clips)
    codec.eval()
    first = [int(codec.encode(clip[None])["stage1"][0].mode().values) for clip in clips]
    second = [int(codec.encode(clip[None])["stage2"][0].mode().values) for clip in clips]
    assert [len(set(first[i : i + 4])) for i in range(0, 16, 4)] == [1] * 4
    assert len(set(first)) == 4
    assert len(set(second)) > 8


def test_more_stages_are_closer_to_the_original(codec):
    audio = music(8)[None]
    _, figures = codec.training_step(audio)
    kept = [float(figures[f"spectral_convergence/{name}"]) for name in STAGES]
    assert kept[0] < kept[2] < 1.1
    assert torch.equal(codec.encode(audio)["stage1"], codec.encode(audio)["stage1"])


@pytest.mark.parametrize("names", [["stage2"], ["stage3", "stage1"], ["stage3", "stage2"]])
def test_a_stage_without_those_before_it_is_refused(codec, names):
    codes = codec.encode(music(1)[None])
    with pytest.raises(InputError, match="along with all stages before it"):
        codec.decode({name: codes[name] for name in names})


def test_silence_to_train_on_is_refused(package):
    with pytest.raises(InputError, match="silent"):
        build().prepare_training([torch.zeros(1, RATE)])


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"hop": 500}, "no multiple"),
        ({"envelope": 25}, "25 coefficients"),
        ({"window": 600}, "leaves out"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(package, settings, reason):
    with pytest.raises(ValueError, match=reason):
        build(**settings)


def test_a_saved_codec_codes_and_decodes_alike(codec, tmp_path):
    audio = music(2)[None]
    save_codec(codec, tmp_path / "codec")
    loaded = load_codec(tmp_path / "codec")
    codes = codec.encode(audio)
    assert all(torch.equal(own, codes[name]) for name, own in loaded.encode(audio).items())
    assert torch.equal(loaded.decode(codes), codec.decode(codes))


def test_the_whole_toolkit_serves_stages_of_one_rate(package, tmp_path):
    """Train, tokenize, evaluate, model, sample and decode."""
    folder = tmp_path / "music"
    folder.mkdir()
    for number, clip in enumerate(music(9).split(3 * RATE, 1)):
        soundfile.write(folder / f"{number}.wav", clip[0].numpy(), RATE)
    brief = TrainingOptions(steps=3, batch_size=2, device="cpu")
    train_codec(
        [str(folder)], tmp_path / "codec", codec="rvq", set=SMALL, held_out=["2*"], options=brief
    )
    corpus = tokenize_files(folder, tmp_path / "codec", tmp_path / "corpus")
    assert [s.name for s in corpus.spec.streams] == STAGES

    report = evaluate_codec(folder / "2.wav", tmp_path / "codec", device="cpu")
    assert list(report.streams) == STAGES
    assert all(figures.spectral_convergence_db is not None for figures in report.streams.values())

    settings = {"context": 32, "width": 32, "depth": 2, "heads": 2, "blocks": 4}
    for name, told in (("stage1", ["timing"]), ("stage2", ["codes"]), ("stage3", ["codes"])):
        train_prior(
            tmp_path / "corpus", tmp_path / "model" / f"prior_{name}", stream=name, preset="tiny",
            set=settings, conditioners=told, options=brief,
        )  # fmt: skip
    options = SamplingOptions(seconds=2.0, count=2, device="cpu")
    priors = [tmp_path / "model" / f"prior_{name}" for name in STAGES]
    samples = sample_tokens(priors[2:], tmp_path / "samples", options)
    assert [len(samples.codes(0, name)) for name in STAGES] == [0, 0, 50]
    rough = decode_corpus(
        tmp_path / "samples", tmp_path / "codec", tmp_path / "rough", device="cpu"
    )
    first = samples.codes(1, "stage1").copy()
    samples = sample_tokens(priors, tmp_path / "fine", options)
    assert [len(samples.codes(0, name)) for name in STAGES] == [50, 50, 50]
    assert np.array_equal(samples.codes(1, "stage1"), first)
    fine = decode_corpus(tmp_path / "fine", tmp_path / "codec", tmp_path / "heard", device="cpu")
    coarse = decode_corpus(
        tmp_path / "fine", tmp_path / "codec", tmp_path / "coarse", stream="stage1", device="cpu"
    )
    sounds = [[soundfile.read(file)[0] for file in files] for files in (rough, fine, coarse)]
    assert all(len(sound) == 2 * RATE for files in sounds for sound in files)
    assert np.array_equal(sounds[0][1], sounds[2][1])
    assert not np.allclose(sounds[1][1], sounds[2][1], atol=1e-3)
    assert Corpus(tmp_path / "fine").spec == corpus.spec
