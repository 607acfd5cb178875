"""Who finds best when each word is sung? Onset errors on words whose times are known.

`python benchmarks/lyrics.py --out out/lyrics [--model FOLDER] [--train]` makes songs that festival
sings (those of its examples, with intros, gaps and changes of tempo) and texts that espeak-ng
speaks, alone and over real music at several levels, lets every aligner that can work here align
them, and prints how far off the onsets are. Figures go to `results.json`, a picture to
`lyrics.png`, and songs to listen to with their words and alignment maps to `sung.html` and
`sung+10dB.html`.

The true times are kept from the aligners, but for `lrc`, which is given those of the lines, as
people who write .lrc files give them: its errors are those of interpolation. `attention` needs a
prior that has learned lyrics: one that is there (--model: a folder with `codec/` and a prior), or
--train makes one by the recipe of `lyrics_recipe.py`, in about an hour. Killed and started again,
all of it goes on where it was; words that were found count until OUT/words is deleted, also when
the code of an aligner has changed. Debian packages: festival, festvox-kallpc16k, espeak-ng.
"""

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import lyrics_recipe
import torch
from lyrics_errors import NEAR, Errors, errors, lrc
from lyrics_picture import Example, decibels, draw
from pydantic import Field
from rich.console import Console
from rich.table import Table
from singing import held_out as sung
from songs import Song, mixed
from speaking import held_out as spoken

from codec.checkpoint import save_codec
from codec.corpus import Corpus
from codec.tokenizing import tokenize_files
from codec.vqvae import VQVAE
from conditioning.aligning import align_corpus
from conditioning.maps import read_map
from plugins import registry
from plugins.ground.command import Command
from plugins.ground.errors import InputError
from plugins.ground.files import published, read_json, sha256_of, write_json
from plugins.ground.model import codec_of, prior_of
from plugins.ground.saved import WEIGHTS
from plugins.report.page import write_report

ALIGNERS = ("linear", "lrc", "pocketsphinx", "attention")
SHOWN = ("attention", "pocketsphinx", "lrc")
"""Whose words are shown, if they were measured; the first that there is."""
PAGE_SONGS, PAGE_LEVEL = 6, 10.0
"""On a page, and dB of the voice over the music on the second one."""
VOICES: dict[str, Callable[[Path], list[Song]]] = {"sung": sung, "spoken": spoken}


class Lyrics(Command):
    """Compare aligners on words whose times are known."""

    out: Path = Field(description="folder for songs, corpora, results and picture")
    model: Path | None = Field(None, description="model folder with a prior that reads lyrics")
    train: bool = Field(False, description="train such a model first, in OUT/model: about an hour")
    music: Path = Field(Path("examples/music"), description="what voices are mixed with")
    levels: list[float] = Field(
        [20.0, 10.0, 5.0, 0.0], description="of the voice over the music, in dB"
    )
    aligners: list[str] = Field(list(ALIGNERS), description="registry names")
    voices: list[Literal["sung", "spoken"]] = Field(
        ["sung", "spoken"], min_length=1, description="the first is shown on pages"
    )
    songs: int | None = Field(None, ge=1, description="of each voice at most (default: all)")

    def cli_cmd(self) -> None:
        """Make what is missing, measure, print."""
        model = lyrics_recipe.train(self.out / "model") if self.train else self.model
        if model is not None:  # said now, and not after an hour
            codec_of(model)
            prior_of(model)
        bench = Bench(self.out, model, self.music, self.voices, self.levels, self.songs)
        rows, lacking = bench.measure(self.aligners)
        if not rows:
            raise InputError(f"nothing can be measured here: {'; '.join(lacking.values())}")
        write_json(self.out / "results.json", results(rows, lacking, model))
        measured = {row.aligner for row in rows}
        shown = next((name for name in SHOWN if name in measured), "linear")
        draw(self.out / "lyrics.png", rows, bench.example(shown))
        console = Console()
        console.print(table(rows))
        for name, reason in lacking.items():
            console.print(f"{name}: not measured: {reason}", markup=False)
        for made in (self.out / "lyrics.png", *bench.pages(shown)):
            console.print(str(made), markup=False)


@dataclass(frozen=True)
class Setting:
    """A voice, alone or so many dB over music."""

    voice: str
    level: float | None = None

    def __str__(self) -> str:
        return self.voice + ("" if self.level is None else f"{self.level:+g}dB")


@dataclass(frozen=True)
class Row:
    """An aligner's errors in a setting."""

    aligner: str
    setting: Setting
    errors: Errors


@dataclass(frozen=True)
class Bench:
    """What is measured, and where it is kept."""

    out: Path
    model: Path | None
    music: Path
    voices: Sequence[str]
    levels: Sequence[float]
    most: int | None = None

    def measure(self, aligners: Sequence[str]) -> tuple[list[Row], dict[str, str]]:
        """All errors, and why aligners or voices that are missing are."""
        lacking = {name: reason for name in aligners if (reason := self._lacks(name))}
        rows = []
        for setting in self._settings(lacking):
            songs = self.songs(setting)
            truth = {song.file.name: [word["start"] for word in song.words] for song in songs}
            line = self.onsets("linear", setting)
            for name in aligners:
                if name not in lacking:
                    rows.append(Row(name, setting, errors(truth, self.onsets(name, setting), line)))
        return sorted(rows, key=lambda row: aligners.index(row.aligner)), lacking

    def _lacks(self, name: str) -> str | None:
        """Why an aligner can't work here."""
        if name == "attention" and self.model is None:
            return "needs a prior that has learned lyrics: --model FOLDER, or --train"
        try:
            return registry.get(registry.ALIGNERS, name).why_not()
        except InputError as error:
            return str(error)

    def _settings(self, lacking: dict[str, str]) -> Iterator[Setting]:
        for voice in self.voices:
            try:
                self.songs(Setting(voice))
            except InputError as error:
                lacking[voice] = str(error)
                continue
            yield from (Setting(voice, level) for level in (None, *self.levels))

    def songs(self, setting: Setting) -> list[Song]:
        """The songs of a setting; made if they are not there yet."""
        folder = self.out / "songs"
        alone = VOICES[setting.voice](folder / setting.voice)[: self.most]
        if setting.level is None:
            return alone
        name = f"{setting}-{self.most}" if self.most else str(setting)
        return mixed(alone, folder / name, self.music, setting.level)

    def onsets(self, aligner: str, setting: Setting) -> dict[str, list[float]]:
        """When each word begins by that aligner, by track; none for one that is not aligned."""
        corpus = Corpus(self._aligned(aligner, setting))
        return {row["id"]: [word["start"] for word in row["words"]] for row in corpus.tracks()}

    def _aligned(self, aligner: str, setting: Setting) -> Path:
        """A corpus with an aligner's words."""
        songs = self.songs(setting)
        looks = aligner == "attention"  # at codes, so that they must be the prior's
        kind = f"{aligner}-{self._prior}" if looks else aligner
        folder, done = self.out / "words" / kind / str(setting), "done.json"
        if (folder / done).exists() and read_json(folder / done) == [song.id for song in songs]:
            return folder
        codec = codec_of(self.model) if looks and self.model else self._plain_codec
        tokenize_files([song.file for song in songs], codec, folder)
        print(f"{aligner}, {setting}", file=sys.stderr)
        settings = {"model": self.model} if looks else {}
        audio = self._audio(aligner, setting, songs)
        with contextlib.redirect_stdout(sys.stderr):  # a line a song
            align_corpus(folder, aligner, settings, audio=audio, maps=looks)
        write_json(folder / done, [song.id for song in songs])
        return folder

    def _audio(self, aligner: str, setting: Setting, songs: Sequence[Song]) -> Path:
        """The folder that aligners who want one are given: recordings, or times of lines."""
        if aligner != "lrc":
            return songs[0].file.parent
        # Apart, since texts beside recordings go into token corpora, which others read.
        folder = self.out / "lines" / str(setting)
        for song in songs:
            with published(folder / f"{song.id}.lrc") as path:
                path.write_text(lrc(song.lyrics, [word["start"] for word in song.words]), "utf-8")
        return folder

    def example(self, aligner: str) -> Example | None:
        """What the picture shows an alignment map of: the song of median length."""
        setting = Setting(self.voices[0])
        try:
            songs = sorted(self.songs(setting), key=lambda song: len(song.words))
        except InputError:
            return None
        song = songs[len(songs) // 2]
        truth, name = [word["start"] for word in song.words], song.file.name
        line, found = (self.onsets(one, setting)[name] for one in ("linear", aligner))
        behind = read_map(self._aligned(aligner, setting), name, song.lyrics)
        return Example(song.id, song.lyrics, truth, line, aligner, found, behind)

    def pages(self, aligner: str) -> Iterator[Path]:
        """Songs to listen to, with an aligner's words and maps; a file each."""
        for level in (None, PAGE_LEVEL):
            setting = Setting(self.voices[0], level)
            try:
                audio = self.songs(setting)[0].file.parent
            except InputError:
                return
            yield write_report(
                self.out / f"{setting}.html",
                title=f"Words as they are {setting.voice}, {decibels(level)}",
                songs={f"Times by {aligner}": self._aligned(aligner, setting)},
                originals=audio,
                limit=PAGE_SONGS,
                one_file=True,
            )

    @cached_property
    def _prior(self) -> str:
        """What tells priors apart."""
        assert self.model is not None
        return sha256_of(prior_of(self.model) / WEIGHTS)[:8]

    @cached_property
    def _plain_codec(self) -> Path:
        """A codec for corpora whose codes nobody looks at."""
        folder = self.out / "plain_codec"
        if not folder.exists():
            torch.manual_seed(0)
            save_codec(VQVAE(VQVAE.Config.model_validate(VQVAE.presets["tiny"])).eval(), folder)
        return folder


def results(rows: Sequence[Row], lacking: Mapping[str, str], model: Path | None) -> dict[str, Any]:
    """What `results.json` holds."""
    return {
        "near_seconds": NEAR,
        "model": None if model is None else str(model),
        "rows": [
            {
                "aligner": row.aligner,
                "voice": row.setting.voice,
                "level_db": row.setting.level,
                **asdict(row.errors),
            }
            for row in rows
        ],
        "lacking": dict(lacking),
    }


def table(rows: Sequence[Row]) -> Table:
    """A row an aligner and setting."""
    columns = ("voice", "over music", "words", "mean", "median", f"within {NEAR} s", "not aligned")
    made = Table(title="Onset errors of words, in seconds")
    made.add_column("aligner", no_wrap=True)
    for name in columns:
        made.add_column(name, justify="left" if name == "voice" else "right")
    before = None
    for row in rows:
        if before and before != row.aligner:
            made.add_section()
        found = row.errors
        made.add_row(
            row.aligner if before != row.aligner else "",
            row.setting.voice,
            decibels(row.setting.level),
            str(found.words),
            f"{found.mean:.2f}",
            f"{found.median:.2f}",
            f"{found.near:.0%}",
            f"{found.unaligned:.0%}",
        )
        before = row.aligner
    return made


if __name__ == "__main__":
    Lyrics.main()
