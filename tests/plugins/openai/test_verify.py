"""The golden cases pass, in-process and as a command; whatever is wrong with them is named."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from plugins.openai.comparison import Row
from plugins.openai.verify import Verify
from plugins.openai.verifying import verify

GOLDEN = Path(__file__).parents[2] / "golden"
RESULTS = {
    "codes", "logits", "loss", "gen_loss", "prime_loss", "greedy", "greedy_primed", "sampled",
    "sampled_primed", "alignment_attention", "audio", "codebook_after", "commit_loss", "entropy",
    "usage", "decoded_0", "decoded_1", "decoded_2",
}  # fmt: skip


def copied(folder: Path, *names: str) -> Path:
    """A folder of some of the golden files."""
    folder.mkdir()
    for name in names:
        for path in GOLDEN.glob(name):
            shutil.copy(path, folder)
    return folder


def change(path: Path, **arrays: Any) -> None:
    """Replace arrays of a file; None takes one out."""
    with np.load(path) as file:
        kept = {**file, **arrays}
    np.savez(path, **{name: array for name, array in kept.items() if array is not None})


def failed(folder: Path) -> list[str]:
    return [f"{row.case} {row.what}" for row in verify(folder) if not row.passed]


def run(folder: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "plugins.openai.verify", str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return verify(GOLDEN)


def test_everything_that_the_reference_computed_comes_out_again(rows: list[Row]) -> None:
    assert [row for row in rows if not row.passed] == []


def test_no_array_is_passed_over(rows: list[Row]) -> None:
    seen = {(row.case.removesuffix(".npz").removesuffix("_expected"), row.what) for row in rows}
    for path in GOLDEN.glob("*.npz"):
        case = path.stem.removesuffix("_expected")
        with np.load(path) as arrays:
            expected = {n for n in arrays if n in RESULTS or n.startswith(("loss_", "metric_"))}
        expected -= {"codes"} if "logits" in expected else {"audio"} if case == "codec" else set()
        assert {what for name, what in seen if name == case} >= expected


def test_every_kind_of_case_is_found(rows: list[Row]) -> None:
    names = {p.name.removesuffix(".pth.tar") for p in GOLDEN.glob("*.pth.tar")}
    alone = {"codebook_update.npz", "windowed_expected.npz", "lyric_windows.json", "text.json"}
    assert {row.case for row in rows} == names | alone


def test_as_a_command() -> None:
    before = {path: path.stat().st_mtime_ns for path in GOLDEN.iterdir()}
    done = run(GOLDEN)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 failed" in done.stdout
    assert {path: path.stat().st_mtime_ns for path in GOLDEN.iterdir()} == before


def test_a_changed_number_is_named(tmp_path: Path) -> None:
    folder = copied(tmp_path / "few", "top.pth.tar", "top_expected.npz", "codec.pth.tar")
    logits = np.load(GOLDEN / "top_expected.npz")["logits"]
    logits[1, 5, 7] += 2e-4
    change(folder / "top_expected.npz", logits=logits)
    done = run(folder)
    assert done.returncode == 1
    wrong = [line for line in done.stdout.splitlines() if "FAIL" in line]
    assert [line.split()[:4] for line in wrong] == [
        ["top", "logits", "0.0002", "0.0001"],
        ["top", "logits,", "naive", "attention"],
    ]
    assert done.stdout.endswith("2 failed: top logits, top logits, naive attention\n")


def plus(amount: float) -> Callable[[Any], Any]:
    """Adds to the first entry."""

    def alter(array: Any) -> Any:
        added = np.zeros_like(array)
        added.flat[0] = amount
        return array + added

    return alter


@pytest.mark.parametrize(
    ("case", "array", "alter"),
    [
        ("lyrics_separate", "greedy", plus(1)),
        ("lyrics_separate", "sampled_primed", plus(-1)),
        ("lyrics_separate", "alignment_attention", plus(2e-4)),
        ("lyrics_single", "prime_loss", plus(2e-3)),
        ("lyrics_single", "sampled", None),
        ("top", "gen_loss", plus(1e-3)),
        ("top", "something", lambda _: np.zeros(3)),
        ("top_summary", "loss", lambda loss: loss[None]),
    ],
)
def test_one_array_that_is_wrong_missing_or_new(
    tmp_path: Path, case: str, array: str, alter: Callable[[Any], Any] | None
) -> None:
    folder = copied(tmp_path / "few", f"{case}.pth.tar", f"{case}_expected.npz")
    with np.load(folder / f"{case}_expected.npz") as arrays:
        changed = alter(arrays.get(array)) if alter else None
    change(folder / f"{case}_expected.npz", **{array: changed})
    assert failed(folder) == [f"{case} {array}"]


def test_wrong_arrays_of_a_codec(tmp_path: Path) -> None:
    folder = copied(tmp_path / "few", "codec.pth.tar", "codec_expected.npz")
    with np.load(folder / "codec_expected.npz") as arrays:
        decoded, linf = arrays["decoded_1"], arrays["metric_linf_linf_loss"]
    changed = {"decoded_1": plus(2e-4)(decoded), "metric_linf_linf_loss": plus(1e-3)(linf)}
    change(folder / "codec_expected.npz", codes_0=None, **changed)
    named = ["codes_0", "decoded_1", "metric_linf_linf_loss"]
    assert failed(folder) == [f"codec {name}" for name in named]


@pytest.mark.parametrize("levels", [1, 2])
def test_a_codec_of_fewer_levels(tmp_path: Path, levels: int) -> None:
    """Levels don't know each other, so the reference's own numbers stay right for the rest."""
    folder = copied(tmp_path / "few", "codec_expected.npz")
    saved = torch.load(GOLDEN / "codec.pth.tar", weights_only=True)
    kept = [str(level) for level in range(levels)]
    saved["model"] = {
        name: tensor
        for name, tensor in saved["model"].items()
        if re.findall(r"(?:encoders|decoders|bottleneck\.level_blocks)\.(\d+)", name)[0] in kept
    }
    for name in ("downs_t", "strides_t", "hvqvae_multipliers"):
        saved["hps"][name] = saved["hps"][name][:levels]
    saved["hps"]["levels"] = levels
    torch.save(saved, folder / "codec.pth.tar")
    with np.load(folder / "codec_expected.npz") as arrays:
        wanted = {f"{what}_{level}" for what in ("codes", "decoded") for level in kept}
        change(
            folder / "codec_expected.npz",
            **{name: None for name in arrays if name not in {"audio", *wanted}},
        )
    rows = verify(folder)
    assert {row.what for row in rows if row.passed} == wanted | {"conversion"}
    assert len(rows) == 2 * levels + 1


def test_windowed_samples_that_differ_are_named(tmp_path: Path) -> None:
    names = ("codec.pth.tar", "top.pth.tar", "upsampler_*.pth.tar", "windowed_expected.npz")
    folder = copied(tmp_path / "few", *names)
    with np.load(folder / "windowed_expected.npz") as arrays:
        codes = plus(1)(arrays["codes_1"])
    change(folder / "windowed_expected.npz", codes_1=codes)
    assert failed(folder) == ["windowed_expected.npz codes_1"]


@pytest.mark.parametrize(
    "names",
    [
        ["text.json"],
        ["lyric_windows.json", "codebook_update.npz"],
        ["top_summary.pth.tar", "top_summary_expected.npz"],
        ["upsampler_1*"],
        ["codec.pth.tar", "upsampler_0*"],
    ],
)
def test_a_folder_with_a_few_of_the_files(tmp_path: Path, names: list[str]) -> None:
    rows = verify(copied(tmp_path / "few", *names))
    assert rows
    assert [row for row in rows if not row.passed] == []


def test_what_can_not_be_computed_fails_and_hides_nothing(tmp_path: Path) -> None:
    names = ("top.pth.tar", "windowed_expected.npz", "upsampler_0_expected.npz", "text.json")
    folder = copied(tmp_path / "few", *names)
    (folder / "damaged.pth.tar").write_bytes((GOLDEN / "codec.pth.tar").read_bytes()[:5000])
    (folder / "codebook_update.npz").write_bytes(b"PK\3\4")
    rows = verify(folder)
    lines = {row.case: row.note for row in rows if not row.passed}
    assert set(lines) == {
        "damaged", "codebook_update.npz", "upsampler_0_expected.npz", "windowed_expected.npz"
    }  # fmt: skip
    assert "damaged" in lines["damaged"]
    assert "there is no upsampler_0.pth.tar" in lines["upsampler_0_expected.npz"]
    assert "needs a codec" in lines["windowed_expected.npz"]
    assert {row.case for row in rows if row.passed} == {"top", "text.json"}


def test_hyper_parameters_beside_a_checkpoint(tmp_path: Path) -> None:
    folder = copied(tmp_path / "few", "codec.*", "codec_expected.npz")
    assert failed(folder) == []
    told = json.loads((folder / "codec.json").read_text())
    told["hps"] |= {"l_mu": 0.5, "more": 1}
    (folder / "codec.json").write_text(json.dumps(told))
    (row,) = [row for row in verify(folder) if not row.passed]
    assert row.what == "hyper-parameters"
    assert row.note.endswith("disagree on l_mu, more")


def test_bad_folders_end_with_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    alone = copied(tmp_path / "alone", "codec.pth.tar", "codec.json")
    empty = copied(tmp_path / "empty", "codec.pth.tar")
    (empty / "text.json").write_text("{}")
    for folder in (tmp_path, tmp_path / "none", GOLDEN / "README.md", alone, empty):
        with pytest.raises(SystemExit) as ended:
            Verify.main([str(folder)])
        assert ended.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ")
        assert str(folder) in line
