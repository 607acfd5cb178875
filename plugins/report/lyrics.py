"""Lyrics on a page: where their words have times, they light up as they are sung.

It knows words and elements of a page, not whose recording is played.
"""

import re
from collections.abc import Sequence

from plugins.report.markup import Markup, join, tag
from plugins.report.recordings import TimedWord

SCRIPT = """
for (const lyrics of document.querySelectorAll("[data-audio]")) {
  const audio = document.getElementById(lyrics.dataset.audio);
  const words = [...lyrics.querySelectorAll("[data-start]")];
  const time = (word, name) => Number(word.dataset[name]);
  let lit = null;
  function show() {
    const now = audio.currentTime;
    const sung = words.find((w) => time(w, "start") <= now && now < time(w, "end")) ?? null;
    if (sung === lit) return;
    lit?.removeAttribute("aria-current");
    sung?.setAttribute("aria-current", "true");
    lit = sung;
    if (sung) follow(sung);
  }
  function follow(word) {
    const box = lyrics.getBoundingClientRect(), place = word.getBoundingClientRect();
    if (place.top >= box.top && place.bottom <= box.bottom) return;
    const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    const top = lyrics.scrollTop + place.top - box.top - box.height / 3;
    lyrics.scrollTo({ top, behavior: still ? "auto" : "smooth" });
  }
  function play() {
    show();
    if (!audio.paused) requestAnimationFrame(play);
  }
  audio.addEventListener("play", play);
  audio.addEventListener("timeupdate", show);
  audio.addEventListener("seeked", show);
  lyrics.addEventListener("click", (event) => {
    const word = event.target.closest("[data-start]");
    if (word) audio.currentTime = time(word, "start");
  });
}
"""
"""Marks the current word of each element with `data-audio`, the id of its player, and seeks to a
word that is clicked."""

STYLE = """
.lyrics [data-start] { cursor: pointer; border-radius: .25rem; }
.lyrics [data-start]:hover { background: var(--chip); }
.lyrics [aria-current] {
  background: var(--accent); color: var(--paper); box-shadow: 0 0 0 .12rem var(--accent);
}
@media (prefers-reduced-motion: no-preference) {
  .lyrics [data-start] { transition: background .12s, color .12s, box-shadow .12s; }
}
@media (min-width: 60rem) {
  .sung { display: grid; grid-template-columns: minmax(0, 7fr) minmax(0, 4fr); gap: 0 1.5rem; }
  .sung > * { grid-column: 1 / -1; }
  .sung > .recordings { grid-column: 1; grid-template-columns: minmax(0, 1fr); }
  .sung > details { grid-column: 2; }
  .sung .lyrics { max-height: 42rem; }
}
"""


def shown_lyrics(
    text: str, words: Sequence[TimedWord] = (), player: str | None = None
) -> Markup | None:
    """An element to unfold; None without lyrics.

    Args:
        text: the lyrics.
        words: theirs, with times.
        player: id of the audio element that the times belong to, if it is on the page.
    """
    if player is not None and words:
        hint = "Lyrics. Each word lights up as it is sung; click one to go there"
        lines = tag("p", _spans(text, words), class_="lyrics", data_audio=player)
        return tag("details", tag("summary", hint), lines, open=True)
    if not text.strip():
        return None
    return tag("details", tag("summary", "Lyrics"), tag("p", text, class_="lyrics"))


def _spans(text: str, words: Sequence[TimedWord]) -> Markup:
    """The words, and between them what is between them in the text."""
    pieces = re.split(r"(\S+)", text)
    if pieces[1::2] != [word.text for word in words]:  # somebody's who splits words otherwise
        pieces = [" "] * (2 * len(words) + 1)
    pieces[1::2] = [
        tag("span", word.text, data_start=f"{word.start:.3f}", data_end=f"{word.end:.3f}")
        for word in words
    ]
    return join(pieces)
