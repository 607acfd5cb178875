"""The alignment map: lyrics from top to bottom, time from left to right, each word a bar in both.

Behind the bars is what the aligner went by, if that was kept. It knows words and places in a text,
not whose recording is played or how pictures are drawn.
"""

import re
from collections.abc import Iterator, Sequence

import numpy as np

from plugins.report.markup import Markup, join, tag
from plugins.report.recordings import TimedWord

SCRIPT = """
for (const map of document.querySelectorAll("[data-map]")) {
  const audio = document.getElementById(map.dataset.map);
  const chart = map.querySelector("svg"), head = map.querySelector(".playhead");
  const length = chart.viewBox.baseVal.width;
  const at = (bar, name) => Number(bar.getAttribute(name));
  const bars = [...map.querySelectorAll("rect")];
  function show() {
    const now = audio.currentTime;
    head.style.transform = `translateX(${Math.min(now, length)}px)`;
    let sung = bars.find((b) => at(b, "x") <= now && now < at(b, "x") + at(b, "width"));
    for (const bar of bars) bar.classList.toggle("now", bar === sung);
  }
  function play() {
    show();
    if (!audio.paused) requestAnimationFrame(play);
  }
  audio.addEventListener("play", play);
  audio.addEventListener("timeupdate", show);
  audio.addEventListener("seeked", show);
  chart.addEventListener("click", (event) => {
    const bar = event.target.closest("rect"), box = chart.getBoundingClientRect();
    const there = ((event.clientX - box.left) / box.width) * length;
    audio.currentTime = bar ? at(bar, "x") : there;
  });
}
"""
"""Moves the playhead of each element with `data-map`, the id of its player, brightens the bar of
the current word, and seeks to where somebody clicks."""

STYLE = """
.map { position: relative; margin: .5rem 4% 0 9.5%; font-size: .75rem; line-height: 1; }
.map svg {
  display: block; width: 100%; height: 100%; cursor: pointer; border-radius: .45rem;
  background: #14151c; overflow: hidden;
}
.map rect, .map line { vector-effect: non-scaling-stroke; }
.map rect { fill: #5fe3ff; stroke: #5fe3ff; stroke-width: 1.5px; }
.map image ~ rect { fill-opacity: .12; stroke-width: 1.2px; }
.map rect:hover, .map rect.now { fill: #fff; fill-opacity: .9; stroke: #fff; stroke-width: 3px; }
.straight { stroke: #fff; stroke-width: 1.2px; stroke-dasharray: 5 5; opacity: .6; }
.playhead { stroke: #ff7ab8; stroke-width: 2px; pointer-events: none; }
.map span {
  position: absolute; transform: translateY(-50%); pointer-events: none; white-space: nowrap;
  overflow: hidden; text-overflow: ellipsis; color: #f2f3f7; padding: .1rem .3rem;
  text-shadow: 0 0 3px #000, 0 0 3px #000, 0 0 6px #000;
}
.map b {
  position: absolute; right: 100%; top: 50%; color: var(--quiet); font-weight: 400;
  font-size: .8rem; white-space: nowrap; writing-mode: vertical-rl;
  transform: translateY(-50%) rotate(180deg); padding: 0 0 0 .5rem;
}
.key {
  margin: .5rem 4% 0 9.5%; font-size: .82rem; color: var(--quiet); display: flex;
  flex-wrap: wrap; gap: .2rem 1.1rem; list-style: none; padding: 0;
}
.key i {
  display: inline-block; width: 1.5rem; height: .6rem; margin-right: .4rem; border-radius: .15rem;
  vertical-align: baseline;
}
.key .bar { background: #12a5c6; }
.key .dashes { height: .3rem; border-top: 2px dashed var(--quiet); border-radius: 0; }
.key .glow { background: linear-gradient(90deg, #000004, #51127c, #b73779, #fc8961, #fcfdbf); }
"""

LINE_HEIGHT = 1.3
"""Of a line of the lyrics, in rem."""
LABEL_HEIGHT = 0.85
"""Of its label."""
LOWEST, HIGHEST = 20.0, 32.0
"""Height of a map, in rem."""
PHRASE = 48
"""Characters of a label at most, where a line of the lyrics is longer."""


def alignment_map(
    text: str,
    words: Sequence[TimedWord],
    player: str,
    seconds: float,
    behind: tuple[str, float] | None = None,
) -> Markup:
    """A map of when each word is sung.

    Args:
        text: the lyrics.
        words: theirs, with times.
        player: id of the audio element that the times belong to.
        seconds: width of the map.
        behind: address of a picture of what the aligner went by, as high as the lyrics, and how
            many seconds it is wide; None: there is none.
    """
    seconds, places = max(seconds, 1e-3), word_places(text, words)
    if places is None:  # somebody's who splits words otherwise
        text, behind = " ".join(word.text for word in words), None
        ends = np.cumsum([len(word.text) + 1 for word in words]).tolist()
        places = [(end - len(w.text) - 1, end - 1) for end, w in zip(ends, words, strict=True)]
    height = f"{max(len(text), 1)}"
    lines = list(_labels(text, words, places, seconds))
    rem = min(HIGHEST, max(LOWEST, LINE_HEIGHT * len(lines)))
    chart = tag(
        "svg",
        _image(behind, height),
        tag("line", class_="straight", x1="0", y1="0", x2=f"{seconds:.3f}", y2=height),
        [_bar(word, *place) for word, place in zip(words, places, strict=True)],
        tag("line", class_="playhead", x1="0", x2="0", y1="0", y2=height),
        viewBox=f"0 0 {seconds:.3f} {height}",
        preserveAspectRatio="none",
        role="img",
        aria_label="Alignment map: time across, lyrics down",
    )
    shown = _spaced(lines, LABEL_HEIGHT / rem)
    named = tag("b", "lyrics, first to last")
    plot = tag(
        "div", chart, named, shown, class_="map", data_map=player, style=f"height:{rem:g}rem"
    )
    return join(plot, _key(behind is not None))


def word_places(text: str, words: Sequence[TimedWord]) -> list[tuple[int, int]] | None:
    """First character of each word in a text and the one behind its last; None if the text has
    other words than these."""
    found = list(re.finditer(r"\S+", text))
    if [one.group() for one in found] != [word.text for word in words]:
        return None
    return [one.span() for one in found]


def _bar(word: TimedWord, first: int, behind: int) -> Markup:
    return tag(
        "rect",
        tag("title", f"{word.text}, {word.start:.1f} s"),
        x=f"{word.start:.3f}",
        width=f"{max(0.0, word.end - word.start):.3f}",
        y=str(first),
        height=str(behind - first),
    )


def _image(behind: tuple[str, float] | None, height: str) -> Markup | None:
    if behind is None:
        return None
    address, width = behind
    return tag(
        "image", href=address, width=f"{width:.3f}", height=height, preserveAspectRatio="none"
    )


def _labels(
    text: str, words: Sequence[TimedWord], places: Sequence[tuple[int, int]], seconds: float
) -> Iterator[tuple[float, Markup]]:
    """A label for each phrase, beside its bars where there is more room; and its height, 0 to 1."""
    for first, behind in _phrases(text, places):
        middle = (places[first][0] + places[behind - 1][1]) / 2 / len(text)
        start = min(word.start for word in words[first:behind]) / seconds
        end = max(word.end for word in words[first:behind]) / seconds
        side, room = ("left", end) if 1 - end > start else ("right", 1 - start)
        room = min(max(room, 0.0), 0.95)
        top = f"clamp(.5rem,{middle:.2%},100% - .5rem)"
        style = f"top:{top};{side}:{room:.2%};max-width:{1 - room:.2%}"
        yield middle, tag("span", " ".join(w.text for w in words[first:behind]), style=style)


def _phrases(text: str, places: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """First word and the one behind the last of each line, and of each part of a long one."""
    first = 0
    for number in range(1, len(places) + 1):
        ended = number == len(places) or "\n" in text[places[number - 1][1] : places[number][0]]
        if ended or places[number][1] - places[first][0] > PHRASE:
            yield first, number
            first = number


def _spaced(labels: Sequence[tuple[float, Markup]], least: float) -> list[Markup]:
    """Those that are not on top of the one before."""
    shown, last = [], -least
    for place, label in labels:
        if place - last >= least:
            shown.append(label)
            last = place
    return shown


def _key(attention: bool) -> Markup:
    """What is what."""
    entries = [
        ("bar", "a word, where it was found"),
        ("dashes", "all words evenly over the song"),
    ]
    if attention:
        entries.append(("glow", "what the aligner went by, faint to strong"))
    return tag(
        "ul",
        [tag("li", tag("i", class_=name), meaning) for name, meaning in entries],
        class_="key",
    )
