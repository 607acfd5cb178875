import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest
import torch

from codec.audio import write_audio
from codec.checkpoint import save_codec
from codec.corpus import Corpus, CorpusWriter
from codec.decoding import decode_corpus
from codec.tokenizing import tokenize_files
from codec.vqvae import VQVAE
from plugins.ground.errors import InputError
from plugins.report.charts import charts
from plugins.report.page import write_report
from plugins.report.pictures import (
    AUDIO_SIZE,
    MARK,
    Line,
    Scale,
    draw_audio,
    draw_curves,
)
from plugins.report.trainings import read_training, verdict

RATE = 22050
SONG = "sub dir/so#ng & 100%.wav"
HOSTILE = "</title><script>alert(1)</script>\"><img src=x onerror=alert(2)>&amp;'"
MINUS = "\N{MINUS SIGN}"
VOID = {"img", "link", "meta", "source"}


class Page(HTMLParser):
    """What a browser would see."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.open: list[str] = []
        self.text = ""
        self.source = path.read_text("utf-8")
        self.feed(self.source)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += data + "\n"

    def addresses(self, *names: str) -> list[str]:
        return [v or "" for n, v in self.attributes if n in (names or ("src", "href", "srcset"))]

    def files(self) -> set[Path]:
        """What the page refers to, each of it there and below the page's folder."""
        folder, found = self.path.parent.resolve(), set()
        for address in self.addresses():
            parts = urlsplit(address)
            assert not parts.scheme
            assert not parts.netloc
            if parts.path:
                file = (folder / unquote(parts.path)).resolve()
                assert file.is_relative_to(folder)
                assert file.is_file(), address
                found.add(file)
            else:
                assert ("id", parts.fragment) in self.attributes
        return found


@dataclass
class Run:
    """Folders of a run."""

    root: Path
    music: Path
    trainings: dict[str, Path]
    samples: dict[str, Path]
    audio: dict[str, Path]
    reconstructions: dict[str, Path] = field(default_factory=dict)

    def report(self, out: Path, **changes: Any) -> Page:
        options: dict[str, Any] = {
            "trainings": self.trainings,
            "samples": self.samples,
            "audio": self.audio,
            "reconstructions": self.reconstructions,
            "originals": self.music,
            **changes,
        }
        return Page(write_report(out, **options))


def tune(seconds: float, pitch: float) -> np.ndarray:
    time = np.arange(round(seconds * RATE)) / RATE
    notes = pitch * 2 ** (np.floor(time * 4) % 5 / 5)
    return (0.3 * np.sin(2 * np.pi * np.cumsum(notes) / RATE))[None].astype(np.float32)


def training(folder: Path, rows: list[dict[str, Any]], settings: Any = None) -> Path:
    folder.mkdir(parents=True)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "metrics.jsonl").write_text(text, "utf-8")
    if settings is not None:
        (folder / "training.json").write_text(json.dumps(settings), "utf-8")
    return folder


def prior_rows(bits: float, unigram: float = 8.0, steps: int = 300) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for step in range(10, steps + 1, 10):
        now = bits + 3 * 0.98**step
        rows.append({"step": step, "loss": now * np.log(2), "bits_per_code": now})
        if step % 100 == 0:
            held_out = {"bits_per_code": bits + 300 / step - 1, "unigram_bits_per_code": unigram}
            rows.append({"step": step, **{f"validation/{n}": v for n, v in held_out.items()}})
    return rows


def codec_rows() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for step in range(10, 210, 10):
        rows.append({"step": step, "loss": 5 / step, "spectral_convergence/0": 9 / step})
        if step % 100 == 0:
            held_out = {"spectral_convergence/0": 0.5, "spectral_convergence/1": 0.75}
            held_out |= {"codebook_perplexity/0": 77.0, "commitment/0": 0.0125}
            rows.append({"step": step, **{f"validation/{n}": v for n, v in held_out.items()}})
    return rows


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with real codes and audio of a codec that has learned nothing."""
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("run")
    write_audio(root / "music" / SONG, tune(3, 220), RATE)
    write_audio(root / "music" / "plain.wav", tune(1, 330), RATE)
    codec = VQVAE(VQVAE.Config.model_validate(VQVAE.presets["tiny"]))
    save_codec(codec.eval(), root / "codec")
    tokens = tokenize_files([str(root / "music")], root / "codec", root / "tokens")
    known = {row["id"]: row for row in tokens.tracks()}
    codes = {name: v for name, v in known[SONG].items() if name.startswith("codes_")}
    base = {"num_samples": known[SONG]["num_samples"], "artist": "Ann", "genre": "folk", **codes}
    free = [{**base, "id": "sample-0000"}, {**base, "id": "sample-0001", "lyrics": "la\nla"}]
    free[0]["tempo"] = 120
    prompt = {"prompt_id": SONG, "prompt_samples": RATE, "title": "Song"}
    primed = [{**base, **prompt, "id": "sample-0000"}]
    for name, rows in {"free": free, "primed": primed}.items():
        CorpusWriter(root / "samples" / name, tokens.spec).replace(rows)
        decode_corpus(root / "samples" / name, root / "codec", root / "audio" / name)
    decode_corpus(root / "tokens", root / "codec", root / "decoded")
    return Run(
        root,
        root / "music",
        {
            "Codec": training(root / "t" / "codec", codec_rows(), {"model": {"width": 32}}),
            "Prior": training(root / "t" / "prior", prior_rows(6)),
        },
        {"Free": root / "samples" / "free", "Primed": root / "samples" / "primed"},
        {"Free": root / "audio" / "free", "Primed": root / "audio" / "primed"},
        {"Codec alone": root / "decoded"},
    )


@pytest.fixture(scope="module")
def page(made: Run, tmp_path_factory: pytest.TempPathFactory) -> Page:
    return made.report(tmp_path_factory.mktemp("page") / "index.html", title="A run")


@pytest.fixture
def few(made: Run) -> Callable[..., dict[str, Any]]:
    """Options for a page of the primed samples only, with changes."""

    def options(**changes: Any) -> dict[str, Any]:
        one = {"samples": {"Primed": made.samples["Primed"]}, "trainings": {}}
        one |= {"audio": {"Primed": made.audio["Primed"]}, "reconstructions": {}}
        return {**one, **changes}

    return options


def test_the_page_is_whole_and_needs_nothing_else(page: Page, tmp_path: Path) -> None:
    files = page.files()
    assert {file.suffix for file in files} == {".png", ".wav"}
    assert len([t for t in page.tags if t == "audio"]) == 2 + 2 + 4
    assert "script" not in page.tags
    assert not {"link", "iframe", "object"} & set(page.tags)
    assert "url(" not in page.source
    assert "@import" not in page.source
    everything = {path for path in page.path.parent.resolve().rglob("*") if path.is_file()}
    assert everything == files | {page.path.resolve()}
    moved = tmp_path / "else where"
    shutil.copytree(page.path.parent, moved)
    assert len(Page(moved / "index.html").files()) == len(files)


def test_sections_are_in_the_contents_and_begin_in_plain_words(page: Page) -> None:
    anchors = [address for address in page.addresses("href") if address.startswith("#")]
    assert len(anchors) == 5
    for words in (
        "Made from nothing but the labels shown",
        "Each goes on from 1.0 s of music",
        "turned into codes and back, beside the original",
        "A codec, which turns audio into codes and back, trained for 200 steps.",
        "A prior, which predicts each code from those before it, trained for 300 steps.",
    ):
        assert words in page.text


def test_cards_carry_labels_lengths_and_lyrics(page: Page) -> None:
    lines = page.text.splitlines()
    for name, value in {"artist": "Ann", "genre": "folk", "tempo": "120", "title": "Song"}.items():
        assert lines[lines.index(name) + 1] == value
    assert lines[lines.index("length") + 1] == "3.0 s"
    assert "la\nla" in page.text
    assert "The sample, from stream 0" in lines


def test_a_primed_sample_stands_beside_the_music_it_goes_on_from(
    made: Run, tmp_path: Path, few: Callable[..., dict[str, Any]]
) -> None:
    page = made.report(tmp_path / "index.html", **few())
    assert f"the first 1.0 s of {SONG}" in page.text
    sample, real = (v for v in page.addresses("src") if ".wav" in v)
    copy = tmp_path / unquote(urlsplit(real).path)
    assert copy.read_bytes() == (made.music / SONG).read_bytes()
    assert (tmp_path / sample).read_bytes() == (
        made.audio["Primed"] / "sample-0000.wav"
    ).read_bytes()
    for name in ("primed-sample-0000-sample-0000", copy.stem and f"primed-sample-0000-{copy.stem}"):
        assert marked_at(tmp_path / "pictures" / f"{name}.png") == pytest.approx(1 / 3, abs=0.01)


def marked_at(picture: Path) -> float | None:
    """Where on the time axis the end of a prompt is marked, from 0 to 1."""
    import matplotlib.image

    pixels = (matplotlib.image.imread(picture)[..., :3] * 255).round()
    marker = np.array([int(MARK[i : i + 2], 16) for i in (1, 3, 5)])
    hits = (np.abs(pixels - marker).max(-1) <= 60).sum(0)
    if hits.max() < 50:
        return None
    left, right = 0.095 * AUDIO_SIZE[0], 0.96 * AUDIO_SIZE[0]
    return float((hits.argmax() + 0.5 - left) / (right - left))


def test_a_longer_original_plays_and_shows_only_the_stretch_of_the_sample(
    made: Run, tmp_path: Path, few: Callable[..., dict[str, Any]]
) -> None:
    row = next(Corpus(made.samples["Primed"]).tracks())
    short = {**row, "num_samples": 2 * RATE}
    CorpusWriter(tmp_path / "s", Corpus(made.samples["Primed"]).spec).replace([short])
    page = made.report(tmp_path / "p" / "i.html", **few(samples={"Primed": tmp_path / "s"}))
    (real,) = (v for v in page.addresses("src") if "#t=" in v)
    assert real.endswith("#t=0,2.000")
    assert "(its first 2.0 s)" in page.text


def test_audio_below_the_page_is_not_copied(made: Run, tmp_path: Path) -> None:
    shutil.copytree(made.root, tmp_path / "run")
    inside = tmp_path / "run"
    samples, audio = {"Free": inside / "samples" / "free"}, {"Free": inside / "audio" / "free"}
    page = Page(write_report(inside / "index.html", samples=samples, audio=audio))
    assert "audio/free/sample-0000.wav" in page.addresses("src")
    assert not (inside / "media").exists()
    page.files()


def test_hostile_texts_stay_texts(made: Run, tmp_path: Path) -> None:
    row = next(Corpus(made.samples["Primed"]).tracks())
    evil = dict.fromkeys(("id", "artist", "genre", "title", "lyrics", "mood", "prompt_id"), HOSTILE)
    CorpusWriter(tmp_path / "s", Corpus(made.samples["Primed"]).spec).replace([{**row, **evil}])
    decode_corpus(tmp_path / "s", made.root / "codec", tmp_path / "a")
    figures = [{"step": 1, f"validation/{HOSTILE}": 1.0, "loss": 2.0, "validation/$x$": 1.0}]
    page = made.report(
        tmp_path / "p" / "index.html",
        title=HOSTILE,
        trainings={HOSTILE: training(tmp_path / "t", figures, {HOSTILE: HOSTILE})},
        samples={HOSTILE: tmp_path / "s"},
        audio={HOSTILE: tmp_path / "a"},
        reconstructions={},
    )
    page.files()
    assert "script" not in page.tags
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert "x" not in page.addresses("src")
    assert page.text.count(HOSTILE) >= 10
    assert page.source.count("<title>") == 1


def test_a_prompt_can_not_reach_out_of_the_originals(
    made: Run, tmp_path: Path, few: Callable[..., dict[str, Any]]
) -> None:
    secret = tmp_path / "secret.wav"
    write_audio(secret, tune(3, 440), RATE)
    spec = Corpus(made.samples["Primed"]).spec
    row = next(Corpus(made.samples["Primed"]).tracks())
    for number, name in enumerate(("../secret.wav", str(secret), "a/../../secret.wav", "\0")):
        CorpusWriter(tmp_path / f"s{number}", spec).replace([{**row, "prompt_id": name}])
        (tmp_path / "music" / "a").mkdir(parents=True, exist_ok=True)
        out = tmp_path / f"p{number}" / "index.html"
        samples = {"Primed": tmp_path / f"s{number}"}
        page = made.report(out, **few(samples=samples, originals=tmp_path / "music"))
        assert "to compare it with" in page.text
        assert "secret.wav" not in "".join(path.name for path in page.files())


def test_again_gives_the_same_bytes_and_copies_nothing(
    made: Run, tmp_path: Path, few: Callable[..., dict[str, Any]]
) -> None:
    def state() -> dict[Path, bytes]:
        return {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}

    options = few(trainings=made.trainings)
    first = made.report(tmp_path / "index.html", **options)
    before, copies = state(), list((tmp_path / "media").iterdir())
    stamps = [path.stat().st_mtime_ns for path in copies]
    again = made.report(tmp_path / "index.html", **options)
    assert state() == before
    assert [path.stat().st_mtime_ns for path in copies] == stamps
    assert again.source == first.source
    made.report(tmp_path / "index.html", **few(title="Another"))
    assert "Another" in (tmp_path / "index.html").read_text("utf-8")


def test_a_run_that_fails_leaves_the_old_page(
    made: Run, tmp_path: Path, few: Callable[..., dict[str, Any]]
) -> None:
    page = made.report(tmp_path / "p" / "index.html", **few())
    shutil.copytree(made.audio["Primed"], tmp_path / "a")
    (tmp_path / "a" / "sample-0000.wav").write_bytes(b"no audio")
    with pytest.raises(InputError, match=r"sample-0000\.wav"):
        made.report(page.path, **few(audio={"Primed": tmp_path / "a"}))
    assert Page(page.path).source == page.source
    assert not list((tmp_path / "p").rglob("*.partial*"))


def test_what_is_not_there_yet_is_said(made: Run, tmp_path: Path) -> None:
    spec = Corpus(made.samples["Free"]).spec
    row = next(Corpus(made.samples["Free"]).tracks())
    half = {**row, "codes_0": row["codes_0"][: len(row["codes_0"]) // 2]}
    CorpusWriter(tmp_path / "half", spec).replace([half])
    CorpusWriter(tmp_path / "none", spec)
    shutil.copytree(made.audio["Free"], tmp_path / "gone")
    (tmp_path / "gone" / "sample-0001.wav").unlink()
    free = made.samples["Free"]
    page = made.report(
        tmp_path / "p" / "index.html",
        samples={"Half": tmp_path / "half", "None": tmp_path / "none", "Gone": free},
        audio={"Half": tmp_path / "nowhere", "Gone": tmp_path / "gone"},
        trainings={"New": training(tmp_path / "new", [])},
        reconstructions={},
    )
    assert "Not decoded yet: python -m codec.decode" in page.text
    assert "Not sampled to the end: stream 1 100%, stream 0 50%." in page.text
    assert "There are no samples yet." in page.text
    assert "Its audio, sample-0001.wav, is gone" in page.text
    assert "2 of the 3 below can't be heard yet." in page.text
    assert "There are no figures yet" in page.text
    page.files()


def test_originals_that_lack_are_said(
    made: Run, tmp_path: Path, few: Callable[..., dict[str, Any]]
) -> None:
    page = made.report(tmp_path / "a" / "index.html", **few(originals=None))
    assert "With --originals" in page.text
    (tmp_path / "music").mkdir()
    page = made.report(tmp_path / "b" / "index.html", **few(originals=tmp_path / "music"))
    assert f"There is no {SONG} among the originals" in page.text


def test_of_many_samples_some_are_shown(made: Run, tmp_path: Path) -> None:
    options = {"samples": {"Free": made.samples["Free"]}, "audio": {"Free": made.audio["Free"]}}
    options |= {"trainings": {}, "reconstructions": {}}
    page = made.report(tmp_path / "index.html", limit=1, **options)
    assert "sample-0000" in page.text
    assert "sample-0001" not in page.text
    assert "Not shown: 1 more." in page.text


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (prior_rows(6), "6.000 bits per code, 2.000 below the 8.000 of a unigram model"),
        (prior_rows(6), "the prior has learned which codes follow which."),
        (prior_rows(8.5), "8.500 bits per code, not below the 8.000 of a unigram model"),
        (prior_rows(8), "has not yet learned which codes follow which."),
        (prior_rows(6)[:5], "Nothing was held out"),
        ([], "no figures yet"),
        ([{"step": 5, "validation/bits_per_code": 3.0}], "no unigram model to compare"),
        ([{"step": s, "validation/bits_per_code": 2.0 + s} for s in (1, 2)], "lowest at step 1,"),
        (codec_rows(), f"0.500 ({MINUS}6.0 dB) from stream 0, 0.750 ({MINUS}2.5 dB) from stream 1"),
        (codec_rows()[:5], "Nothing was held out"),
    ],
)
def test_the_verdict_in_words(rows: list[dict[str, Any]], words: str, tmp_path: Path) -> None:
    assert words in verdict(read_training("x", training(tmp_path / "t", rows)))


def test_the_page_shows_held_out_figures_and_settings(page: Page) -> None:
    lines = page.text.splitlines()
    assert "Figures on held-out music, step 300" in lines
    at = lines.index("unigram bits per code")
    assert lines[at - 2 : at + 2] == ["bits per code", "6", "unigram bits per code", "8"]
    at = lines.index("spectral convergence")
    assert lines[at + 1 : at + 3] == [f"0.5 ({MINUS}6.0 dB)", f"0.75 ({MINUS}2.5 dB)"]
    assert lines[lines.index("model.width") + 1] == "32"
    assert "6.000 bits per code, 2.000 below" in page.text


def test_curves_of_a_prior_and_of_a_codec(made: Run) -> None:
    loss, bits = charts(read_training("Prior", made.trainings["Prior"]))
    assert [line.label for line in loss.lines] == ["training", "training, smoothed"]
    labels = {line.label: line for line in bits.lines}
    assert labels["held out"].points[-1] == (300, 6.0)
    assert labels["unigram model, held out"].points == [(10, 8.0), (300, 8.0)]
    titles = [chart.title for chart in charts(read_training("Codec", made.trainings["Codec"]))]
    assert titles == ["Loss", "Spectral convergence", "Use of the codebook"]


def test_a_strangers_figures_get_curves(tmp_path: Path) -> None:
    rows = [{"step": 1, "loss": 1.0, "note": "text", "flag": True, "validation/sharp_ness": 2.0}]
    run = read_training("x", training(tmp_path / "t", rows))
    assert [chart.title for chart in charts(run)] == ["Loss", "Sharp ness"]
    assert set(run.series) == {"loss", "validation/sharp_ness"}


def test_half_a_last_line_is_passed_over_and_another_is_not(tmp_path: Path) -> None:
    folder = training(tmp_path / "t", prior_rows(6))
    path = folder / "metrics.jsonl"
    text = path.read_text("utf-8")
    path.write_text(text + '{"step": 310, "lo', "utf-8")
    assert read_training("x", folder).last_step == 300
    path.write_text('{"step": 1\n' + text, "utf-8")
    with pytest.raises(InputError, match=r"metrics\.jsonl, line 1: no JSON object with a step"):
        read_training("x", folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"samples": {"Primed": "nowhere"}}, "nowhere"),
        ({"trainings": {"A": "nowhere"}}, r"training 'A': can't read .*No such file"),
        ({"originals": "nowhere"}, "--originals nowhere is no folder"),
        ({"audio": {"Else": "nowhere"}}, "--audio Else belongs to no --samples"),
        ({"reconstructions": {"A": "nowhere"}}, "nowhere holds no decoded audio"),
        ({"samples": {}, "audio": {}}, "nothing to report"),
        ({"out": "page.txt"}, r"give an \.html file"),
        ({"out": "theirs.html"}, "not a page of this command"),
        ({"out": "file/index.html"}, "file"),
    ],
)
def test_bad_input_is_one_line(
    changes: dict[str, Any],
    message: str,
    made: Run,
    tmp_path: Path,
    few: Callable[..., dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("theirs.html").write_text("<h1>Mine</h1>", "utf-8")
    Path("file").write_text("", "utf-8")
    options = {"out": "p/index.html", **few(**changes)}
    with pytest.raises(InputError, match=message) as caught:
        made.report(**options)
    assert "\n" not in str(caught.value)
    assert Path("theirs.html").read_text("utf-8") == "<h1>Mine</h1>"
    assert not Path("p/index.html").exists()


def test_without_matplotlib_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in [n for n in sys.modules if n.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(InputError, match=r"pip install 'jukebox-toolkit\[report\]'"):
        draw_curves(tmp_path / "c.png", [Line("a", [(0, 1)])], "", dark=False)


def test_the_command(made: Run, tmp_path: Path) -> None:
    out = tmp_path / "p" / "index.html"
    arguments = ["--out", str(out), "--title", "By hand", "--originals", str(made.music)]
    arguments += [f"--training=Top prior={made.trainings['Prior']}"]
    arguments += ["--training", f'"Codec, level 1"={made.trainings["Codec"]}']
    arguments += ["--samples", f"Primed={made.samples['Primed']}"]
    arguments += ["--audio", f"Primed={made.audio['Primed']}"]
    done = command(*arguments)
    assert (done.returncode, done.stdout.strip()) == (0, str(out))
    page = Page(out)
    page.files()
    for words in ("By hand", "Top prior", "Codec, level 1", "sample-0000"):
        assert words in page.text.splitlines()


def test_the_command_ends_in_one_line_for_bad_input(tmp_path: Path) -> None:
    done = command("--out", str(tmp_path / "i.html"), "--samples", f"A={tmp_path / 'nowhere'}")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "plugins.report.command", *arguments]
    return subprocess.run(words, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("samples", [1, 2, 500, 5000])
def test_short_audio_and_silence_can_be_drawn(samples: int, tmp_path: Path) -> None:
    for number, audio in enumerate((np.zeros(samples), np.ones(samples))):
        path = tmp_path / f"{number}.png"
        draw_audio(path, audio.astype(np.float32), RATE, Scale(RATE / 2), samples / RATE)
        assert marked_at(path) is None
    assert path.stat().st_size > 1000
