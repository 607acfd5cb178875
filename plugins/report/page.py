"""The page: sections of cards and curves, in plain words, for a person to hear and judge a run.

It knows how things are laid out; what they are comes from `trainings` and `recordings`, how they
are drawn from `pictures`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

from codec.audio import read_audio
from plugins.ground.errors import InputError
from plugins.ground.files import FolderLock
from plugins.ground.progress import Progress
from plugins.report import alignment, lyrics
from plugins.report.charts import Chart, charts
from plugins.report.markup import Content, Markup, join, tag
from plugins.report.pictures import (
    AUDIO_SIZE,
    CURVES_SIZE,
    Scale,
    draw_audio,
    draw_curves,
    draw_map,
)
from plugins.report.recordings import (
    Card,
    Group,
    Originals,
    Recording,
    read_reconstructions,
    read_samples,
    read_songs,
)
from plugins.report.site import GENERATOR, Site
from plugins.report.style import STYLE
from plugins.report.trainings import (
    CONVERGENCE,
    Training,
    decibels,
    read_training,
    stream_label,
    summary,
    verdict,
)

Folders: TypeAlias = Mapping[str, Path | str] | Mapping[str, Path]

HIGHEST = 22050.0
"""No spectrogram goes higher, in hertz."""


def write_report(
    out: Path | str,
    *,
    title: str = "Report of a run",
    trainings: Folders | None = None,
    samples: Folders | None = None,
    audio: Folders | None = None,
    songs: Folders | None = None,
    reconstructions: Folders | None = None,
    originals: Path | str | None = None,
    limit: int = 100,
    one_file: bool = False,
) -> Path:
    """Write a page, its pictures, and copies of audio that lies elsewhere.

    Args:
        out: the .html file; its folder then holds all that the page needs.
        title: of the page.
        trainings: folders of trainings by name.
        samples: token corpora by name.
        audio: decoded audio of the samples of that name.
        songs: token corpora of real music by name, played from the originals.
        reconstructions: decoded audio of tokenized originals by name.
        originals: folder of the music that was tokenized.
        limit: samples to show of each name at most.
        one_file: the page itself holds all that it needs.

    Returns:
        The page.

    Raises:
        InputError: something named is missing or can't be used, or `out` is another's page.
    """
    site, found = Site(out, one_file), Originals(None if originals is None else Path(originals))
    decoded = {name: Path(folder) for name, folder in (audio or {}).items()}
    for name in decoded:
        if name not in (samples or {}):
            raise InputError(f"--audio {name} belongs to no --samples of that name")
    groups = [
        read_samples(name, Path(folder), decoded.get(name), found, limit)
        for name, folder in (samples or {}).items()
    ]
    groups += [
        read_songs(name, Path(folder), found, limit) for name, folder in (songs or {}).items()
    ]
    groups += [
        read_reconstructions(name, Path(folder), found, limit)
        for name, folder in (reconstructions or {}).items()
    ]
    runs = [read_training(n, f) for n, f in (trainings or {}).items()]
    if not groups and not runs:
        raise InputError(
            "nothing to report: give --training, --samples, --songs or --reconstructions"
        )
    with FolderLock(site.folder):
        _Page(site, title, groups, runs).write()
    return site.page


class _Page:
    """A page in the making."""

    def __init__(self, site: Site, title: str, groups: list[Group], runs: list[Training]) -> None:
        self.site, self.title, self.groups, self.runs = site, title, groups, runs
        heard = [r for group in groups for card in group.cards for r in card.recordings]
        top = max((r.sample_rate / 2 for r in heard), default=HIGHEST)
        self.scale = Scale(min(top, HIGHEST))
        self.charts = [charts(run) for run in runs]
        total = len(heard) + sum(map(len, self.charts))
        self.progress = Progress(total, "drawing", "pictures")
        self._drawn: dict[tuple[Path, float, float], str] = {}

    def write(self) -> None:
        """Draw, copy, and publish."""
        with self.progress:
            named = [(group.name, self._group(group)) for group in self.groups]
            parts = zip(self.runs, self.charts, strict=True)
            named += [(run.name, self._training(run, drawn)) for run, drawn in parts]
        anchors = [self.site.name("section", name) for name, _ in named]
        sections = [
            tag("section", tag("h2", name), content, id=anchor)
            for anchor, (name, content) in zip(anchors, named, strict=True)
        ]
        contents = tag(
            "ul",
            [
                tag("li", tag("a", name, href=f"#{anchor}"))
                for anchor, (name, _) in zip(anchors, named, strict=True)
            ],
        )
        head = tag(
            "header",
            tag("h1", self.title),
            tag("p", self._lead(), class_="lead"),
            tag("nav", contents, aria_label="Contents"),
        )
        cards = [card for group in self.groups for card in group.cards]
        sung = any(card.sung and card.words for card in cards)
        script = tag("script", Markup(lyrics.SCRIPT + alignment.SCRIPT)) if sung else None
        self.site.publish(
            document(self.title, join(head, tag("main", sections), self._footer(), script))
        )

    def _lead(self) -> str:
        cards = [card for group in self.groups for card in group.cards]
        silent = sum(not card.audible for card in cards)
        parts = []
        if self.groups:
            parts.append(
                "Each sample has a player and a picture: its waveform, and below it which "
                "frequencies (upwards) sound when (to the right); the brighter, the louder. All "
                "pictures share one scale of frequency and loudness."
            )
        if any(card.sung and card.words for card in cards):
            parts.append(
                "Under a picture, on the same axis of time, the alignment map shows when each word "
                "is sung, from the first at the top to the last; click it to go there."
            )
        if silent:
            parts.append(f"{silent} of the {len(cards)} below can't be heard yet.")
        if self.runs:
            parts.append("Curves show how each model learned, and how it does on unseen music.")
        return " ".join(parts)

    def _footer(self) -> Markup:
        parts = "this one file" if self.site.one_file else "one folder: move it whole"
        return tag("footer", f"Written by jukebox report. Page, pictures and audio are {parts}.")

    def _group(self, group: Group) -> Markup:
        left = f"Not shown: {group.left_out} more." if group.left_out else None
        return join(
            tag("p", group.intro),
            tag("p", left) if left else None,
            tag("div", [self._card(group, card) for card in group.cards], class_="cards"),
        )

    def _card(self, group: Group, card: Card) -> Markup:
        labels = [tag("div", tag("dt", n), tag("dd", v)) for n, v in card.labels.items()]
        timed = card.sung and card.words
        player = self.site.name("player", group.name, card.heading) if timed else None
        heard = [
            self._recording(group, card, recording, player if recording is card.sung else None)
            for recording in card.recordings
        ]
        return tag(
            "article",
            tag("h3", card.heading),
            tag("dl", labels, class_="labels") if labels else None,
            [tag("p", note, class_="note") for note in card.notes],
            tag("div", heard, class_="recordings") if heard else None,
            lyrics.shown_lyrics(card.lyrics, card.words, player),
            class_="wide" if len(heard) > 1 else "wide sung" if player else None,
        )

    def _recording(
        self, group: Group, card: Card, recording: Recording, player: str | None
    ) -> Markup:
        address = self.site.address(recording.file)
        caption = recording.caption
        if recording.seconds < recording.length - 0.05:
            # A media fragment: the player stops where the picture does.
            address += f"#t=0,{recording.seconds:.3f}"
            caption += f" (its first {recording.seconds:.1f} s)"
        picture = self._picture(group, card, recording)
        image = _image(picture, f"Waveform and spectrogram of {card.heading}", AUDIO_SIZE)
        return tag(
            "figure",
            tag("figcaption", caption),
            tag("audio", id=player, controls=True, preload="metadata", src=address),
            # Browsers open no address that holds a file.
            image if self.site.one_file else tag("a", image, href=picture),
            self._map(group, card, recording, player) if player else None,
        )

    def _map(self, group: Group, card: Card, recording: Recording, player: str) -> Markup:
        behind = None
        if card.map is not None:
            path = self.site.picture(group.name, card.heading, "map")
            draw_map(path, card.map.levels.T)
            behind = self.site.address(path), card.map.seconds
        return alignment.alignment_map(card.lyrics, card.words, player, recording.seconds, behind)

    def _picture(self, group: Group, card: Card, recording: Recording) -> str:
        """Address of the picture of a recording; the same stretch is drawn once."""
        key = (recording.file, recording.seconds, recording.prompt_seconds)
        if key not in self._drawn:
            path = self.site.picture(group.name, card.heading, recording.file.stem)
            heard = read_audio(recording.file, None, 1, duration=recording.seconds or None)[0]
            draw_audio(
                path,
                heard,
                recording.sample_rate,
                self.scale,
                recording.seconds,
                recording.prompt_seconds,
            )
            self._drawn[key] = self.site.address(path)
        self.progress.advance()
        return self._drawn[key]

    def _training(self, run: Training, drawn: list[Chart]) -> Markup:
        standing = {True: " good", False: " bad", None: ""}[run.beats_unigram]
        return join(
            tag("p", summary(run)),
            tag("p", verdict(run), class_=f"verdict{standing}"),
            tag("div", [self._chart(run, chart) for chart in drawn], class_="curves"),
            held_out_table(run),
            settings_table(run),
        )

    def _chart(self, run: Training, chart: Chart) -> Markup:
        addresses = []
        for dark in (False, True):
            path = self.site.picture(run.name, chart.title, "dark" if dark else "light")
            draw_curves(path, chart.lines, chart.unit, dark)
            addresses.append(self.site.address(path))
        self.progress.advance()
        light, dark_one = addresses
        return tag(
            "figure",
            tag("figcaption", tag("strong", chart.title), f". {chart.meaning}"),
            tag(
                "picture",
                tag("source", srcset=dark_one, media="(prefers-color-scheme: dark)"),
                _image(light, f"{run.name}: {chart.title} over training steps", CURVES_SIZE),
            ),
        )


def held_out_table(run: Training) -> Markup | None:
    """The last held-out figures: a row for each, a column for each stream; None without any."""
    groups = run.groups()
    if not groups:
        return None
    streams = sorted({stream for figures in groups.values() for stream in figures})
    named = streams != [""]
    step = max(points[-1][0] for figures in groups.values() for points in figures.values())
    head = [tag("th", stream_label(s) if s else "", scope="col") for s in streams]
    rows = []
    for figure, figures in groups.items():
        cells = [tag("td", _number(figure, figures.get(stream))) for stream in streams]
        rows.append(tag("tr", tag("th", words(figure), scope="row"), cells))
    table = tag(
        "table",
        tag("caption", f"Figures on held-out music, step {step:g}"),
        tag("thead", tag("tr", tag("th", "figure", scope="col"), head)) if named else None,
        tag("tbody", rows),
    )
    return tag("div", table, class_="scroll")


def settings_table(run: Training) -> Markup | None:
    """What the training was started with, folded away; None if that is not known."""
    rows = [tag("tr", tag("th", n, scope="row"), tag("td", v)) for n, v in run.settings.items()]
    if not rows:
        return None
    table = tag("table", tag("tbody", rows), class_="settings")
    return tag("details", tag("summary", "Settings"), tag("div", table, class_="scroll"))


def words(figure: str) -> str:
    """A figure's name for people."""
    return figure.replace("_", " ")


def document(title: str, body: Content) -> str:
    """A whole page."""
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name_="viewport", content="width=device-width, initial-scale=1"),
        Markup(GENERATOR),
        tag("title", title),
        tag("style", Markup(STYLE + lyrics.STYLE + alignment.STYLE)),
    )
    return f"<!doctype html>\n{tag('html', head, tag('body', body), lang='en')}\n"


def _number(figure: str, points: list[tuple[float, float]] | None) -> str:
    if points is None:
        return ""
    value = points[-1][1]
    shown = f"{value:.4g}".replace("-", "\N{MINUS SIGN}")
    return f"{shown} ({decibels(value)})" if figure == CONVERGENCE else shown


def _image(address: str, alt: str, size: tuple[int, int]) -> Markup:
    return tag("img", src=address, alt=alt, width=str(size[0]), height=str(size[1]), loading="lazy")
