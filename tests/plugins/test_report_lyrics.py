"""Lyrics on the page: their words with times, the map of them, and what a browser makes of it."""

import base64
import html
import http.server
import json
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest

from codec.audio import write_audio
from codec.corpus import Corpus, CorpusWriter
from codec.decoding import decode_corpus
from codec.tokenizing import tokenize_files
from conditioning.base import AlignmentMap
from conditioning.maps import map_file, write_map
from plugins.ground.errors import InputError
from plugins.report.page import write_report

LYRICS = 'One <two>\n"three"  four\n\nfive'
WORDS = [(0.25, 0.5, "One"), (0.5, 0.5, "<two>"), (0.75, 1.0, '"three"'), (1.0, 1.5, "four")]
WORDS.append((1.5, 1.9, "five"))
BROWSER = shutil.which("chromium") or shutil.which("google-chrome") or ""


def aligned(**more: Any) -> dict[str, Any]:
    words = [{"start": start, "end": end, "text": text} for start, end, text in WORDS]
    return {"lyrics": LYRICS, "words": words, **more}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, codec_folder: Path) -> Path:
    """A folder with music/, tokens/ of it with words, samples/ with words, and their audio/."""
    folder = tmp_path_factory.mktemp("run")
    for name in ("song.wav", "other.wav"):
        time = np.arange(16000) / 8000  # browsers play nothing slower than 3 kHz
        sound = 0.3 * np.sin(2 * np.pi * 220 * time)[None].astype(np.float32)
        write_audio(folder / "music" / name, sound, 8000)
    labels = json.dumps({"file_name": "song.wav", "lyrics": LYRICS})
    (folder / "music" / "metadata.jsonl").write_text(labels, "utf-8")
    tokens = tokenize_files([str(folder / "music")], codec_folder, folder / "tokens")
    writer = CorpusWriter(folder / "tokens", tokens.spec, tokens.settings)
    writer.set_words(0, {"song.wav": aligned()["words"]})
    codes = {k: v for k, v in tokens[0].items() if k.startswith("codes_")}
    prompt = {"prompt_id": "song.wav", "prompt_samples": 2000}
    rows = [
        {"id": "sample-0000", "num_samples": 4000, **codes, **aligned(), **prompt},
        {"id": "sample-0001", "num_samples": 4000, **codes, "lyrics": LYRICS, **prompt},
    ]
    CorpusWriter(folder / "samples", tokens.spec, {}).replace(rows)
    decode_corpus(folder / "samples", codec_folder, folder / "audio")
    return folder


def songs(run: Path, out: Path, **changes: Any) -> str:
    options: dict[str, Any] = {"songs": {"Songs": run / "tokens"}, "originals": run / "music"}
    return write_report(out, **{**options, **changes}).read_text("utf-8")


def spans(page: str) -> list[tuple[float, float, str]]:
    found = re.findall(r'<span data-start="([\d.]+)" data-end="([\d.]+)">(.*?)</span>', page)
    return [(float(start), float(end), html.unescape(text)) for start, end, text in found]


def test_words_of_real_music_have_their_times_and_a_player(run: Path, tmp_path: Path) -> None:
    page = songs(run, tmp_path / "index.html")
    assert spans(page) == WORDS
    (lyrics,) = re.findall(r'<p class="lyrics" data-audio="([^"]+)">(.*?)</p>', page, re.DOTALL)
    assert html.unescape(re.sub("<.*?>", "", lyrics[1])) == LYRICS
    players = dict(re.findall(r'<audio (?:id="([^"]+)" )?controls [^>]*src="([^"]+)"', page))
    assert players[lyrics[0]] == "media/song.wav"
    assert (tmp_path / "media" / "song.wav").read_bytes() == (
        run / "music" / "song.wav"
    ).read_bytes()
    assert page.count("<script>") == 1
    assert "http" not in page


def test_words_of_a_sample_belong_to_the_sample(run: Path, tmp_path: Path) -> None:
    page = write_report(
        tmp_path / "index.html",
        samples={"Samples": run / "samples"},
        audio={"Samples": run / "audio"},
        originals=run / "music",
    ).read_text("utf-8")
    assert spans(page) == WORDS  # of the first; the second has none
    (player,) = re.findall(r'data-audio="([^"]+)"', page)
    (source,) = re.findall(rf'<audio id="{player}" [^>]*src="([^"]+)"', page)
    assert source == "media/sample-0000.wav"
    assert page.count("<audio") == 4
    assert page.count("<summary>Lyrics</summary>") == 1


def test_without_words_or_audio_lyrics_are_plain(run: Path, tmp_path: Path) -> None:
    page = write_report(tmp_path / "a" / "index.html", samples={"Samples": run / "samples"})
    text = page.read_text("utf-8")
    assert "<script" not in text
    assert not spans(text)
    assert text.count(html.escape(LYRICS)) == 2
    (tmp_path / "empty").mkdir()
    text = songs(run, tmp_path / "b" / "index.html", originals=tmp_path / "empty")
    assert "There is no song.wav among the originals" in text
    assert not spans(text)
    with pytest.raises(InputError, match=r"--songs Songs are played from .*: give --originals"):
        songs(run, tmp_path / "c" / "index.html", originals=None)


def test_words_that_another_program_split_otherwise(run: Path, tmp_path: Path) -> None:
    tokens = Corpus(run / "tokens")
    split = [{"start": 0.0, "end": 0.5, "text": "One two"}, {"start": 1, "end": 2, "text": "four"}]
    row = {**next(tokens.tracks()), "id": "song.wav", "lyrics": LYRICS, "words": split}
    CorpusWriter(tmp_path / "tokens", tokens.spec, {}).append([row])
    page = songs(run, tmp_path / "p" / "index.html", songs={"Songs": tmp_path / "tokens"})
    assert [text for _, _, text in spans(page)] == ["One two", "four"]


def bars(page: str) -> list[tuple[str, float, float, int, int]]:
    """Text, start, length, first character and characters of each bar of the maps."""
    found = re.findall(
        r'<rect x="([\d.]+)" width="([\d.]+)" y="(\d+)" height="(\d+)"><title>(.*?)</title>', page
    )
    return [
        (html.unescape(title), float(x), float(width), int(y), int(height))
        for x, width, y, height, title in found
    ]


def test_the_map_has_a_bar_for_each_word_where_it_is_in_time_and_text(
    run: Path, tmp_path: Path
) -> None:
    page = songs(run, tmp_path / "index.html")
    player, box = re.findall(r'data-map="([^"]+)".*?viewBox="0 0 ([^"]+)"', page)[0]
    assert f'<audio id="{player}"' in page
    assert box == f"2.000 {len(LYRICS)}"
    assert f'<line class="straight" x1="0" y1="0" x2="2.000" y2="{len(LYRICS)}">' in page
    shown = bars(page)
    assert len(shown) == len(WORDS)
    for (start, end, word), (title, x, width, y, height) in zip(WORDS, shown, strict=True):
        assert title == f"{word}, {start:.1f} s"
        assert (x, width) == (start, pytest.approx(end - start))
        assert LYRICS[y : y + height] == word
    labels = re.findall(r'<span style="top:[^"]*">(.*?)</span>', page)
    assert [html.unescape(label) for label in labels] == ["One <two>", '"three" four', "five"]
    assert "<image" not in page  # nobody kept what the aligner went by


def kept(run: Path, folder: Path) -> Path:
    """A corpus as in the run, with a map in which each character is looked at for as long."""
    shutil.copytree(run / "tokens", folder)
    weights = np.eye(len(LYRICS), dtype=np.float32)
    write_map(folder, "song.wav", LYRICS, AlignmentMap(weights, 0.1, range(len(LYRICS))))
    return folder


def test_what_the_aligner_went_by_is_behind_the_bars(run: Path, tmp_path: Path) -> None:
    tokens = kept(run, tmp_path / "tokens")
    page = songs(run, tmp_path / "p" / "index.html", songs={"Songs": tokens})
    ((address, width, height),) = re.findall(
        r'<image href="([^"]+)" width="([^"]+)" height="([^"]+)" preserveAspectRatio="none">', page
    )
    assert (float(width), int(height)) == (pytest.approx(0.1 * len(LYRICS)), len(LYRICS))
    pixels = matplotlib.image.imread(tmp_path / "p" / address)[..., :3].sum(2)
    assert pixels.shape == (len(LYRICS), len(LYRICS))
    assert np.array_equal(pixels > 2, np.eye(len(LYRICS), dtype=bool))
    assert page.index("<image") < page.index("<rect")
    assert "what the aligner went by" in page


def test_words_split_otherwise_have_bars_but_nothing_behind(run: Path, tmp_path: Path) -> None:
    tokens = kept(run, tmp_path / "tokens")
    split = [{"start": 0.0, "end": 0.5, "text": "One two"}, {"start": 1, "end": 2, "text": "four"}]
    writer = CorpusWriter(tokens, Corpus(tokens).spec, Corpus(tokens).settings)
    writer.set_words(0, {"song.wav": split})
    page = songs(run, tmp_path / "p" / "index.html", songs={"Songs": tokens})
    assert bars(page) == [("One two, 0.0 s", 0.0, 0.5, 0, 7), ("four, 1.0 s", 1.0, 1.0, 8, 4)]
    assert "<image" not in page


def test_a_damaged_map_is_one_line_and_no_page(run: Path, tmp_path: Path) -> None:
    tokens = kept(run, tmp_path / "tokens")
    path = map_file(tokens, "song.wav")
    path.write_bytes(path.read_bytes()[:100])
    arguments = ["--songs", f"S={tokens}", "--originals", str(run / "music")]
    done = subprocess.run(
        [sys.executable, "-m", "plugins.report.command", "--out", f"{tmp_path}/i.html", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {path}, the alignment map of song.wav, is damaged: ")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "i.html").exists()


def test_one_file_holds_everything(run: Path, tmp_path: Path) -> None:
    tokens = kept(run, tmp_path / "tokens")
    out = tmp_path / "p" / "index.html"
    page = songs(run, out, songs={"Songs": tokens}, one_file=True)
    assert list(out.parent.iterdir()) == [out]
    addresses = re.findall(r' (?:src|href|srcset)="([^"]+)"', page)
    held = [address for address in addresses if not address.startswith("#")]
    assert all(address.startswith("data:") for address in held)
    kinds = sorted(address.split(";")[0] for address in held)
    assert kinds == ["data:audio/wav"] * 2 + ["data:image/png"] * 3
    sounds = [base64.b64decode(a.split(",")[1]) for a in held if a.startswith("data:audio")]
    assert (run / "music" / "song.wav").read_bytes() in sounds
    assert "this one file" in page
    songs(run, out)  # its own page again, as a folder
    assert (out.parent / "media" / "song.wav").exists()


PROBE = """
<script>
(async () => {
  const audio = document.querySelector("audio[id]"), said = [], marked = [];
  const lit = () => [...document.querySelectorAll("[aria-current]")].map((w) => w.textContent);
  const chart = document.querySelector(".map svg"), box = chart.getBoundingClientRect();
  const head = () => {
    const place = document.querySelector(".playhead").getBoundingClientRect();
    return (place.left + place.width / 2 - box.left) / box.width;
  };
  const bright = () => [...document.querySelectorAll(".now title")].map((t) => t.textContent);
  const after = (act) => new Promise((done) => {
    audio.addEventListener("seeked", () => setTimeout(done, 50), { once: true });
    act();
  });
  if (audio.readyState < 1) await new Promise((r) => audio.addEventListener("loadedmetadata", r));
  for (const time of [0.3, 0.1, 0.5, 0.8, 1.2, 1.7, 1.95]) {
    await after(() => { audio.currentTime = time; });
    said.push([time, ...lit()]);
    marked.push([head(), ...bright()]);
  }
  await after(() => document.querySelectorAll("[data-start]")[3].click());
  said.push([audio.currentTime, ...lit()]);
  await after(() => chart.dispatchEvent(new MouseEvent(
    "click", { clientX: box.left + 0.325 * box.width, clientY: box.bottom - 2, bubbles: true }
  )));
  said.push([audio.currentTime, ...lit()]);
  audio.muted = true;
  const seen = [];
  await after(() => { audio.currentTime = 0; });
  const watch = setInterval(() => seen.push(...lit()), 20);
  await audio.play();
  await new Promise((done) => setTimeout(done, 1400));
  audio.pause();
  clearInterval(watch);
  said.push([...new Set(seen)]);
  await fetch("WHERE", { method: "POST", mode: "no-cors", body: JSON.stringify([said, marked]) });
})();
</script>
"""


def hear(page: Path, profile: Path) -> Any:
    """What the probe in a page tells, opened as a file in a browser."""
    told: queue.Queue[bytes] = queue.Queue()

    class Ear(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.put(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Ear) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        probe = PROBE.replace("WHERE", f"http://127.0.0.1:{server.server_port}/")
        text = page.read_text("utf-8").replace("</body>", f"{probe}</body>")
        page.write_text(text, "utf-8")
        options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}"]
        options += ["--autoplay-policy=no-user-gesture-required", "--remote-debugging-port=0"]
        words = [BROWSER, *options, page.as_uri()]
        with subprocess.Popen(words, stderr=subprocess.DEVNULL, start_new_session=True) as browser:
            try:
                return json.loads(told.get(timeout=60))
            finally:
                os.killpg(browser.pid, signal.SIGKILL)
                server.shutdown()


@pytest.mark.skipif(not BROWSER, reason="no browser here")
@pytest.mark.parametrize("one_file", [False, True])
def test_a_browser_lights_the_word_that_is_sung_and_marks_it_on_the_map(
    run: Path, tmp_path: Path, one_file: bool
) -> None:
    page = tmp_path / "index.html"
    songs(run, page, one_file=one_file)
    (*sought, clicked, pointed, played), marked = hear(page, tmp_path / "browser")
    first, no_time, third, fourth, fifth = (text for _, _, text in WORDS)
    times = [0.3, 0.1, 0.5, 0.8, 1.2, 1.7, 1.95]
    lit = [[first], [], [], [third], [fourth], [fifth], []]
    assert sought == [[time, *words] for time, words in zip(times, lit, strict=True)]
    assert [head for head, *_ in marked] == [pytest.approx(time / 2, abs=0.01) for time in times]
    assert [[title.split(",")[0] for title in titles] for _, *titles in marked] == lit
    assert clicked == [1, fourth]
    assert pointed == [pytest.approx(0.65, abs=0.02)]  # no word there
    assert played[:2] == [first, third]
    assert no_time not in played
