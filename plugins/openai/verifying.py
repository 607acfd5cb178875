"""Golden cases found in a folder by their files, each checked by what knows its kind.

It knows the layout of such a folder and which case needs which checkpoints, no arrays.
"""

import json
import math
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from codec.checkpoint import save_codec
from codec.vqvae import VQVAE
from plugins.ground.errors import InputError
from plugins.ground.files import read_json
from plugins.openai.codec_cases import codebook_rows, codec_rows
from plugins.openai.comparison import Arrays, Expected, Row
from plugins.openai.converting import CODEC, CODEC_SIGN, convert
from plugins.openai.hps import codec_config
from plugins.openai.models import Model
from plugins.openai.names import SHOWN
from plugins.openai.prior_cases import prior_rows, windowed_rows
from plugins.openai.text_cases import lyric_rows, text_rows
from plugins.openai.torchfile import Checkpoint
from plugins.openai.vocabulary import Vocabularies

CHECKPOINT, EXPECTED = ".pth.tar", "_expected.npz"
CODEBOOK, WINDOWED = "codebook_update.npz", "windowed_expected.npz"
LYRICS, TEXT = "lyric_windows.json", "text.json"
TOP, UPSAMPLER = "top", "upsampler_"
"""Names of the priors of windowed sampling; an upsampler's goes on with its level."""
CONVERSION, HPS = "conversion", "hyper-parameters"
"""Rows of a checkpoint that compare nothing that it computes."""
WIDE = 1000
"""Columns to print where there is no terminal to fit into."""


def verify(folder: Path | str) -> list[Row]:
    """Compare everything in a folder of golden cases.

    Args:
        folder: checkpoints and what is expected of them; it is only read.

    Returns:
        A row for each comparison; a case that can't be computed is a row that fails.

    Raises:
        InputError: no such folder, or nothing in it to compare with.
    """
    with tempfile.TemporaryDirectory() as work:
        golden = Golden(Path(folder), Path(work))
        rows = [row for case in golden.cases for row in golden.rows(case)]
    if all(row.passed and row.what in (CONVERSION, HPS) for row in rows):
        raise _nothing(folder)
    return rows


class Golden:
    """A folder of golden cases.

    Args:
        folder: that holds them.
        work: an empty folder for converted models and samples.

    Raises:
        InputError: no such folder, or nothing in it to compare with.
    """

    def __init__(self, folder: Path, work: Path) -> None:
        self.folder, self.work = folder, work
        try:
            files = sorted(path.name for path in folder.iterdir())
        except OSError as error:
            raise InputError(f"can't read {folder}: {error.strerror}") from error
        self.checkpoints = [f.removesuffix(CHECKPOINT) for f in files if f.endswith(CHECKPOINT)]
        known = [f for f in files if f.endswith(EXPECTED) or f in (CODEBOOK, LYRICS, TEXT)]
        alone = [f for f in known if f.removesuffix(EXPECTED) not in self.checkpoints]
        self.codecs = [name for name in self.checkpoints if self._is_codec(name)]
        self.cases = [*self.checkpoints, *alone]
        """Checkpoints by name, and the files that belong to none."""
        if not known:  # said before large checkpoints are converted for nothing
            raise _nothing(folder)

    def rows(self, case: str) -> Iterator[Row]:
        """The comparisons of one of `cases`; one that fails if it can't be computed at all."""
        try:
            yield from self._rows(case)
        except Exception as error:  # a case may hold anything, and must not hide the others
            kind = "" if isinstance(error, InputError) else f"{type(error).__name__}: "
            yield Row(case, "all of it", note=f"{kind}{error}")

    def _rows(self, case: str) -> Iterator[Row]:
        if case in self.checkpoints:
            yield from self._checkpoint_rows(case)
        elif case == WINDOWED:
            model, samples = self._windowed_model(), self.work / "samples"
            yield from windowed_rows(case, model, self._arrays(case), samples)
        elif case == CODEBOOK:
            yield from codebook_rows(case, self._arrays(case))
        elif case == LYRICS:
            yield from lyric_rows(case, self._json(case))
        elif case == TEXT:
            yield from text_rows(case, self._json(case))
        else:
            raise InputError(f"there is no {case.removesuffix(EXPECTED)}{CHECKPOINT}")

    def _checkpoint_rows(self, case: str) -> Iterator[Row]:
        if (self.folder / f"{case}.json").exists():
            yield self._hps_row(case)
        converted = self._converted([case], self.work / case)[-1]
        yield Row(case, CONVERSION, difference=0, note=converted.name)
        if not (self.folder / f"{case}{EXPECTED}").exists():
            return
        check = codec_rows if converted.name == CODEC else prior_rows
        yield from check(case, converted, self._arrays(f"{case}{EXPECTED}"))

    def _hps_row(self, case: str) -> Row:
        """Hyper-parameters beside a checkpoint against its own."""
        told, own = self._json(f"{case}.json"), Checkpoint(self._path(case)).hps or {}
        told = told.get("hps", told) if isinstance(told, dict) else told
        if not isinstance(told, dict):
            raise InputError(f"{case}.json is no table of hyper-parameters")
        own = json.loads(json.dumps(own, default=repr))  # as a file can say them
        names = [*told, *(name for name in own if name not in told)]
        wrong = [n for n in names if n not in told or n not in own or told[n] != own[n]]
        note = (
            f"{case}.json and the checkpoint disagree on {', '.join(wrong[:SHOWN])}"
            if wrong
            else ""
        )
        return Row(case, HPS, difference=len(wrong), note=note)

    def _converted(self, cases: Sequence[str], out: Path) -> list[Path]:
        """Checkpoints and their codec as a model folder; its parts, the codec first."""
        codec = [] if set(cases) & set(self.codecs) else self.codecs[:1]
        if not self.codecs:
            # What a prior computes does not depend on its codec's weights.
            hps = Checkpoint(self._path(cases[0])).hps
            save_codec(VQVAE(codec_config(hps or {})), out / CODEC)
        return convert([self._path(name) for name in (*codec, *cases)], out)

    def _windowed_model(self) -> Path:
        """A model of the codec, the prior called `TOP` and a prior for each finer level."""
        if TOP not in self.checkpoints or not self.codecs:
            raise InputError(f"it needs a codec, {TOP}{CHECKPOINT} and the upsamplers")
        levels = {name: self._level(name) for name in self.checkpoints}
        chosen = [TOP]
        for level in range(levels[TOP]):
            named = f"{UPSAMPLER}{level}"
            others = [name for name in levels if levels[name] == level]
            chosen += [named] if named in others else others[:1]
        self._converted(chosen, self.work / "model")
        return self.work / "model"

    def _level(self, name: str) -> int:
        """Of a prior; -1 for what is none."""
        if name in self.codecs:
            return -1
        try:
            return Model(None, Vocabularies()).level(Checkpoint(self._path(name)))
        except InputError:
            return -1

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}{CHECKPOINT}"

    def _is_codec(self, name: str) -> bool:
        try:
            return CODEC_SIGN in Checkpoint(self._path(name)).stored
        except InputError:  # it will be said when it is converted
            return False

    def _arrays(self, name: str) -> Arrays:
        try:
            with np.load(self.folder / name) as arrays:
                return Expected(arrays)
        except Exception as error:  # numpy and zipfile raise whatever a damaged file leads to
            raise InputError(f"{name} is damaged: {error}") from error

    def _json(self, name: str) -> Any:
        return read_json(self.folder / name)


def _nothing(folder: Path | str) -> InputError:
    return InputError(f"{folder} holds nothing to compare with: no NAME{EXPECTED} with arrays")


def show(rows: Sequence[Row]) -> None:
    """Print a table, and how many of its rows failed."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in ("case", "what", "difference", "tolerance", "verdict", "note"):
        table.add_column(column, overflow="fold")
    for row in rows:
        difference = "" if math.isnan(row.difference) else f"{row.difference:.2g}"
        verdict, style = ("ok", "") if row.passed else ("FAIL", "red")
        note = " ".join(row.note.split())
        cells = (row.case, row.what, difference, str(row.tolerance), verdict, note)
        table.add_row(*cells, style=style)
    width = None if sys.stdout.isatty() else WIDE
    console = Console(width=width, markup=False, emoji=False, highlight=False)
    console.print(table)
    failed = [f"{row.case} {row.what}" for row in rows if not row.passed]
    console.print(f"{len(rows)} comparisons, {len(failed)} failed" + ": " * bool(failed), end="")
    console.print(", ".join(failed))
