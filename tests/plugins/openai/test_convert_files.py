"""What is read of files of `torch.save`: never their code, never half of one, never all."""

import json
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from made import GOLDEN, golden_hps, load, random_weights, save

from plugins.ground.errors import InputError
from plugins.openai.converting import convert
from plugins.openai.torchfile import Checkpoint, Weights

CODEC = GOLDEN / "codec.pth.tar"


class Malice:
    """Runs a command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (self.command,)


@pytest.mark.parametrize("legacy", [True, False])
@pytest.mark.parametrize("place", ["opt", "hps", "model"])
def test_code_is_not_run(legacy: bool, place: str, tmp_path: Path) -> None:
    weights, hps = load(CODEC)
    malice = Malice(f"touch {tmp_path}/ran")
    path = tmp_path / "codec.pth.tar"
    if place == "model":
        save(path, {**weights, "more": malice}, hps, legacy=legacy)  # type: ignore[dict-item]
    else:
        save(path, weights, legacy=legacy, **{"hps": hps, place: malice})
    with pytest.raises(InputError, match=r"codec.pth.tar wants to run (posix|nt).system "):
        convert([path], tmp_path / "model")
    assert [file.name for file in tmp_path.iterdir()] == ["codec.pth.tar"]


def test_a_bare_pickle_is_not_run(tmp_path: Path) -> None:
    path = tmp_path / "x.pth.tar"
    path.write_bytes(pickle.dumps(Malice(f"touch {tmp_path}/ran"), protocol=2))
    with pytest.raises(InputError, match=r"wants to run (posix|nt).system"):
        Checkpoint(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("legacy", [True, False])
@pytest.mark.parametrize("kept", [0, 3, 40, 5_000, 0.5, 0.95, -1])
def test_cut_off_anywhere(legacy: bool, kept: float, tmp_path: Path) -> None:
    weights, hps = load(CODEC)
    path = save(tmp_path / "codec.pth.tar", weights, hps, legacy=legacy)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole)) if isinstance(kept, float) else kept])
    with pytest.raises(InputError, match=r"codec.pth.tar is damaged, incomplete"):
        convert([path], tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_foreign_files(tmp_path: Path) -> None:
    path = tmp_path / "x.pth.tar"
    path.write_text("<html>Access denied</html>\n" * 50)
    with pytest.raises(InputError, match=r"x.pth.tar is damaged, incomplete, or not made by"):
        Checkpoint(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("song.txt", "la la")
    with pytest.raises(InputError, match="is damaged, incomplete, or not made by"):
        Checkpoint(path)
    for content in ([torch.ones(2)], {"weights": {}}, {"model": [1]}, {"model": {}}, 7):
        torch.save(content, path)
        with pytest.raises(InputError, match=r"x.pth.tar is (not a published|neither)"):
            convert([path], tmp_path / "model")
    torch.save({"model": {"prior.x_emb.weight": torch.ones(2), "name": "x"}}, path)
    with pytest.raises(InputError, match="'name' is no tensor"):
        Checkpoint(path)
    weights = {"module.k": torch.ones(2), "k": torch.ones(2)}
    with pytest.raises(InputError, match="holds k twice"):
        Checkpoint(save(path, weights))


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"can't read .*nowhere.pth: No such file"):
        Checkpoint(tmp_path / "nowhere.pth")
    with pytest.raises(InputError, match="can't read"):
        Checkpoint(tmp_path)


@pytest.mark.parametrize("legacy", [True, False])
def test_tensors_are_taken_as_they_are(legacy: bool, tmp_path: Path) -> None:
    weights, hps = load(GOLDEN / "top.pth.tar")
    path = save(tmp_path / "x.pth.tar", weights, hps, legacy=legacy, prefix="module.")
    checkpoint, kept = Checkpoint(path), Weights(path)
    assert list(checkpoint.stored) == list(weights)
    assert checkpoint.hps == hps
    for name, tensor in weights.items():
        taken = kept.take(name)
        assert torch.equal(taken, tensor)
        assert checkpoint.stored[name].dtype == taken.dtype == tensor.dtype
        assert checkpoint.stored[name].shape == taken.shape


MEASURE = """
import sys
from pathlib import Path
from plugins.openai import torchfile
from plugins.openai.converting import convert
torchfile.REMAP = 8 << 20
def peak():
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])
small, big, out, hps = sys.argv[1:]
convert([small], out)
convert([small.replace("codec", "warm")], out)
before = peak()
convert([big], out, hps)
print(peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's figures")
@pytest.mark.parametrize("legacy", [True, False])
def test_memory_holds_the_weights_once_or_less(legacy: bool, tmp_path: Path) -> None:
    hps = golden_hps("top", prior_width=960, prior_depth=6, n_ctx=512)
    big = save(tmp_path / "big.pth.tar", random_weights(hps, 2), hps, legacy=legacy)
    size = big.stat().st_size
    assert size > 64e6
    (tmp_path / "hps.json").write_text(json.dumps(hps))
    warm = golden_hps("top_unlabelled", level=0, cond_depth=1, cond_width=8, labels=False)
    (tmp_path / "codec.pth.tar").write_bytes(CODEC.read_bytes())
    save(tmp_path / "warm.pth.tar", random_weights(warm, 0), warm, legacy=legacy)
    files = [tmp_path / name for name in ("codec.pth.tar", "big.pth.tar", "model", "hps.json")]
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *map(str, files)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    largest = 960 * 960 * 4
    # A few maps' worth of pages, tensors under way, and what Python makes of a bigger model.
    allowed = (size if legacy else 8 << 20) + 6 * largest + (8 << 20)
    assert int(done.stdout.split()[-1]) < allowed
