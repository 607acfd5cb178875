"""Lyrics on the page: their words with times, and what a browser makes of them."""

import html
import http.server
import json
import os
import queue
import re
import shutil
import signal
import subprocess
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from codec.audio import write_audio
from codec.corpus import Corpus, CorpusWriter
from codec.decoding import decode_corpus
from codec.tokenizing import tokenize_files
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


PROBE = """
<script>
(async () => {
  const audio = document.querySelector("audio[id]"), said = [];
  const lit = () => [...document.querySelectorAll("[aria-current]")].map((w) => w.textContent);
  const after = (act) => new Promise((done) => {
    audio.addEventListener("seeked", () => setTimeout(done, 50), { once: true });
    act();
  });
  if (audio.readyState < 1) await new Promise((r) => audio.addEventListener("loadedmetadata", r));
  for (const time of [0.3, 0.1, 0.5, 0.8, 1.2, 1.7, 1.95]) {
    await after(() => { audio.currentTime = time; });
    said.push([time, ...lit()]);
  }
  await after(() => document.querySelectorAll("[data-start]")[3].click());
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
  await fetch("WHERE", { method: "POST", mode: "no-cors", body: JSON.stringify(said) });
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
def test_a_browser_lights_the_word_that_is_sung(run: Path, tmp_path: Path) -> None:
    page = tmp_path / "index.html"
    songs(run, page)
    *sought, clicked, played = hear(page, tmp_path / "browser")
    first, no_time, third, fourth, fifth = (text for _, _, text in WORDS)
    assert sought == [
        [0.3, first], [0.1], [0.5], [0.8, third], [1.2, fourth], [1.7, fifth], [1.95]
    ]  # fmt: skip
    assert clicked == [1, fourth]
    assert played[:2] == [first, third]
    assert no_time not in played
