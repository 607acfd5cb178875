"""C++ compiled on first use: kept, told apart, made by several at once, and never needed."""

import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from plugins.ground import native

pytestmark = pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")

SOURCE = """
#include "native.h"
using namespace native;
extern "C" int lanes() { return LANES; }
extern "C" float added(const float* x) { return sum(load(x)); }
extern "C" int64_t counted(int threads, int64_t many, int64_t group) {
    std::atomic<int64_t> all{0};
    Barrier barrier(threads);
    together(threads, [&](int thread) {
        for (int turn = 0; turn < 50; ++turn) {
            const Share share(many, thread, threads, group);
            for (int64_t i = share.start; i < share.stop; ++i) all += i;
            barrier.wait();
        }
    });
    return all;
}
"""


@pytest.fixture(autouse=True)
def _afresh(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.delenv(native.SWITCH, raising=False)
    monkeypatch.setattr(native.tempfile, "tempdir", str(tmp_path))
    native.load.cache_clear()
    yield
    native.load.cache_clear()


@pytest.fixture
def source(tmp_path) -> Path:
    path = tmp_path / "room" / "sums.cpp"
    path.parent.mkdir()
    path.write_text(SOURCE)
    return path


def kept(tmp_path) -> list[str]:
    folder = tmp_path / "cache" / "jukebox-toolkit"
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


@pytest.mark.timeout(60)
def test_threads_that_sleep_are_woken_on_a_machine_that_is_busy(source):
    library = loaded(source)
    for _ in range(60):  # more threads than cores: some always sleep
        assert library.counted(8, 100, 1) == 50 * sum(range(100))


def loaded(source):
    """As a new process would."""
    native.load.cache_clear()
    return native.load(source)


def warned(source) -> str:
    with pytest.warns(UserWarning, match="going on without native code, slower") as caught:
        assert loaded(source) is None
    assert native.load(source) is None, "and only once"
    (one,) = caught
    return str(one.message)


def test_what_it_is_made_of(source):
    made = loaded(source)
    made.added.restype, made.counted.restype = native.ctypes.c_float, native.ctypes.c_int64
    lanes = made.lanes()
    assert lanes in (4, 8, 16)
    assert made.added((native.ctypes.c_float * lanes)(*range(lanes))) == sum(range(lanes))
    for threads, many, group in ((1, 10, 1), (3, 100, 7), (5, 3, 1), (2, 0, 4)):
        wide = [native.ctypes.c_int64(number) for number in (many, group)]
        assert made.counted(threads, *wide) == 50 * sum(range(many))


def test_it_is_compiled_once(source, tmp_path, monkeypatch):
    assert loaded(source) is not None
    (name,) = kept(tmp_path)
    assert name.startswith("room-sums-")
    monkeypatch.setattr(native, "_built", lambda *at: at[-1] if at[-1].exists() else None)
    assert loaded(source) is not None
    assert kept(tmp_path) == [name]


def test_another_source_or_processor_is_another_library(source, tmp_path, monkeypatch):
    assert loaded(source).lanes() < 100
    source.write_text(SOURCE.replace("return LANES", "return 100 + LANES"))
    assert loaded(source).lanes() > 100
    monkeypatch.setattr(native, "_processor", lambda: "another one of the same cache")
    assert loaded(source).lanes() > 100
    assert len(kept(tmp_path)) == 3


def test_a_header_beside_it_counts(source, tmp_path):
    source.write_text(SOURCE + '#include "more.h"\n')
    for number in (1, 2):
        content = f'extern "C" int more() {{ return {number}; }}\n'
        (source.parent / "more.h").write_text(content)
        assert loaded(source).more() == number
    assert len(kept(tmp_path)) == 2


def test_what_does_not_compile_says_where(source, tmp_path):
    source.write_text(SOURCE + "int broken() { return nowhere; }\n")
    message = warned(source)
    assert "could not compile sums.cpp" in message
    assert "nowhere" in message
    assert "\n" not in message
    assert kept(tmp_path) == [], "nothing half made stays"


@pytest.mark.parametrize("missing", [{"PATH": ""}, {"CXX": "no-such-compiler"}])
def test_no_compiler(source, missing, monkeypatch):
    for name, value in missing.items():
        monkeypatch.setenv(name, value)
    assert "no C++ compiler" in warned(source)


def test_switched_off_it_says_nothing(source, tmp_path, monkeypatch):
    monkeypatch.setenv(native.SWITCH, "0")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert loaded(source) is None
    assert kept(tmp_path) == []


def test_a_cache_that_can_t_be_written_is_passed_over(source, tmp_path):
    (tmp_path / "cache").write_text("a file where a folder would be")
    assert loaded(source) is not None
    (folder,) = tmp_path.glob("jukebox-toolkit-*")
    assert len(list(folder.iterdir())) == 1
    shutil.rmtree(folder)
    folder.write_text("here too")
    assert "can't keep what was compiled" in warned(source)


def test_somebody_else_s_cache_is_not_trusted(source, tmp_path, monkeypatch):
    uid = os.getuid()
    assert loaded(source) is not None, "there is something that could be loaded"
    monkeypatch.setattr(native, "_user", lambda: uid + 1)
    assert "belongs to somebody else" in warned(source)


def test_two_processes_at_once(source, tmp_path):
    program = (
        "import sys; from pathlib import Path; from plugins.ground import native\n"
        "assert native.load(Path(sys.argv[1])).lanes() in (4, 8, 16)"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    command = [sys.executable, "-W", "error", "-c", program, str(source)]
    running = [subprocess.Popen(command, env=env) for _ in range(3)]
    assert [process.wait(120) for process in running] == [0, 0, 0]
    assert len(kept(tmp_path)) == 1
