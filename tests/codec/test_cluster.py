"""Tokenizing on a Ray cluster: the corpus of one process, whoever dies on the way."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import soundfile

from codec import cluster
from codec.checkpoint import load_codec
from codec.corpus import Corpus
from codec.sources import find_sources
from codec.tokenizing import tokenize_files
from plugins.ground.errors import InputError

ray = pytest.importorskip("ray")

ROOT = Path(__file__).parents[2]
SONGS = 48
WORK = '''
"""What actors of the tests do with files; here, since they must find it by name."""

import os
import signal
import time
from pathlib import Path


def die(codec, source):
    """The file's name; kills its process at every eighth file, the first time that it is read, and
    at one called "deadly" always.
    """
    mark = source.file.with_suffix(".mark")
    eighth = int(source.file.stem[:3]) % 8 == 0 and not mark.exists()
    mark.touch()
    if eighth or "deadly" in source.id:
        os.kill(os.getpid(), signal.SIGKILL)
    return source.id


def raise_at(codec, source):
    """Nothing; raises at one called "deadly"."""
    if "deadly" in source.id:
        raise KeyError(source.id)


def large(codec, source):
    """32 MiB, and a mark that says so."""
    source.file.with_suffix(".mark").touch()
    return bytes(1 << 25)
'''


@pytest.fixture(scope="module")
def short_folder() -> Iterator[Path]:
    """Paths of Ray's sockets must be short."""
    with tempfile.TemporaryDirectory(prefix="r", dir="/tmp", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def work(short_folder: Path) -> Iterator[str]:
    """Name of a module that actors can import; the address of the cluster that they run on is in
    the environment of nobody.
    """
    (short_folder / "ray_test_work.py").write_text(WORK)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")  # else it writes into the home folder
        patch.setenv("PYTHONPATH", str(short_folder))
        patch.syspath_prepend(short_folder)
        ray.init(
            "local", num_cpus=2, include_dashboard=False, _temp_dir=str(short_folder / "ray"),
            object_store_memory=1 << 29, log_to_driver=False,
        )  # fmt: skip
        try:
            yield "ray_test_work"
        finally:
            ray.shutdown()


@pytest.fixture
def codes(work: str, codec_folder: Path) -> Callable[..., Iterator[object]]:
    """Does a function of the module on all files of a folder, by two actors."""

    def do(name: str, folder: Path) -> Iterator[object]:
        function = getattr(sys.modules.get(work) or __import__(work), name)
        codec = load_codec(codec_folder)
        with cluster.workforce(function, codec, codec_folder, ("cpu", "auto"), 2) as code:
            yield from code(find_sources(folder))

    return do


def command(music: Path, codec_folder: Path, out: Path, *further: str) -> list[str]:
    words = [music, "--codec", codec_folder, "--out", out, "--engine", "ray", "--workers", 2]
    return [sys.executable, "-m", "codec.tokenize", *map(str, words), *further]


def start(words: list[str], **environment: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        words,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def noise(folder: Path, count: int, seconds: int = 1) -> Path:
    rng = np.random.default_rng(0)
    folder.mkdir(exist_ok=True)
    for number in range(count):
        samples = rng.uniform(-0.5, 0.5, 2000 * seconds)
        soundfile.write(folder / f"{number:03d}.wav", samples, 2000)
    return folder


def below(process: "subprocess.Popen[str]") -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def running(processes: list[psutil.Process], agents: bool = True) -> list[psutil.Process]:
    found = []
    for one in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            if one.status() != psutil.STATUS_ZOMBIE and (agents or "Agent" not in one.name()):
                found.append(one)
    return found


def until(condition: Callable[[], object], seconds: float = 150) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.05)


def test_the_corpus_of_one_process(
    music: Path, codec_folder: Path, tmp_path: Path, work: str
) -> None:
    (music / "bad.wav").touch()
    (music / "album" / "text.mp3").write_bytes(b"not music at all " * 100)
    tokenize_files(music, codec_folder, tmp_path / "one", shard_tracks=3)
    address = ray.get_runtime_context().gcs_address
    relative = Path(os.path.relpath(music, ROOT))
    words = command(relative, codec_folder, tmp_path / "many", "--shard-tracks", "3")
    with start(words, RAY_ADDRESS=address) as process:
        said, complaints = process.communicate()
    assert process.returncode == 0, complaints
    assert said.startswith(f"5 tracks in {tmp_path / 'many'}, 2 files skipped\n")
    assert all(line.startswith("tokenizing: ") for line in complaints.splitlines())
    assert contents(tmp_path / "many") == contents(tmp_path / "one")
    assert ray.is_initialized()
    assert ray.cluster_resources()["CPU"] == 2, "a cluster that was there must stay"


def test_actors_that_die_cost_time_and_a_file_that_always_kills_is_named(
    tmp_path: Path, codes: Callable[..., Iterator[object]]
) -> None:
    folder = noise(tmp_path / "music", 16)
    (folder / "012.wav").rename(folder / "012-deadly.wav")
    found: list[object] = []
    with pytest.raises(InputError, match=r"^actors died .* one of: \S*/012-deadly\.wav; leave"):
        found.extend(codes("die", folder))
    assert found == [f"{number:03d}.wav" for number in range(12)]


def test_what_the_work_raises_is_raised_here(
    tmp_path: Path, codes: Callable[..., Iterator[object]]
) -> None:
    folder = noise(tmp_path / "music", 3)
    (folder / "001.wav").rename(folder / "001-deadly.wav")
    with pytest.raises(KeyError, match=r"001-deadly\.wav"):
        list(codes("raise_at", folder))


def test_actors_do_not_run_far_ahead(
    tmp_path: Path, codes: Callable[..., Iterator[object]]
) -> None:
    """1.5 GiB of results, of which 256 MiB may wait."""
    folder = noise(tmp_path / "music", 48)
    results = codes("large", folder)
    next(results)
    done = [0]

    def settled() -> bool:
        time.sleep(2)
        done.append(len(list(folder.glob("*.mark"))))
        return done[-1] == done[-2]

    until(settled)
    assert 2 < done[-1] < 24
    assert sum(1 for _ in results) == 47


def test_killed_actors_and_a_killed_command(
    codec_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """First the whole command is killed, then, when it is run again, both its actors are."""
    monkeypatch.delenv(cluster.ADDRESS, raising=False)
    music, out = noise(tmp_path / "music", SONGS, seconds=300), tmp_path / "many"
    tokenize_files(music, codec_folder, tmp_path / "one", shard_tracks=4)
    with tempfile.TemporaryDirectory(prefix="r", dir="/tmp") as place:
        words = command(music, codec_folder, out, "--shard-tracks", "4")
        with start(words, RAY_TMPDIR=place) as process:
            until(lambda: (out / "corpus.json").exists() and len(Corpus(out)))
            others = below(process)
            process.kill()
        until(lambda: not running(others, agents=False))
        for agent in running(others):
            agent.kill()  # these look for a minute whether their node comes back
        left = len(Corpus(out))
        assert 0 < left < SONGS
        for folder in Path(place).iterdir():
            shutil.rmtree(folder)
        with start(words, RAY_TMPDIR=place) as process:
            until(lambda: len(Corpus(out)) > left)
            actors = [one for one in below(process) if "MapWorker" in one.name()]
            for actor in actors:
                actor.send_signal(signal.SIGKILL)
            assert actors
            assert len(Corpus(out)) < SONGS
            others = below(process)
            complaints = process.communicate()[1]
        assert process.returncode == 0, complaints
        assert all(line.startswith("tokenizing: ") for line in complaints.splitlines())
        assert not running(others)
        assert not list(Path(place).iterdir())
    assert contents(out) == contents(tmp_path / "one")


@pytest.mark.parametrize(
    ("program", "environment", "reason"),
    [
        ("import sys; sys.modules['ray'] = None; ", {}, "pip install 'jukebox-toolkit[ray]'"),
        ("", {cluster.ADDRESS: "127.0.0.1:1"}, "no Ray cluster at RAY_ADDRESS=127.0.0.1:1"),
    ],
)
def test_without_ray_or_a_cluster_there_is_one_line(
    program: str,
    environment: dict[str, str],
    reason: str,
    music: Path,
    codec_folder: Path,
    tmp_path: Path,
) -> None:
    program += "from codec.tokenize import Tokenize; Tokenize.main()"
    words = command(music, codec_folder, tmp_path / "out")
    with start([sys.executable, "-c", program, *words[3:]], **environment) as process:
        _, complaints = process.communicate()
    assert process.returncode == 2
    (line,) = complaints.splitlines()
    assert line.startswith("error: ")
    assert reason in line
    assert not (tmp_path / "out").exists()
