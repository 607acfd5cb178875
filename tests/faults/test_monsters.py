"""Small files that stand for enormous things: each is read piece by piece or refused in one line,
in a process whose memory at its peak is measured.
"""

import json
import os
import struct
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from safetensors.numpy import save_file

sys.path.insert(0, str(Path(__file__).parent))
from counting import count

from codec.corpus import CorpusWriter
from codec.rows import schema
from codec.tokens import TokenSpec, TokenStream
from plugins.ground.files import sha256_of

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="peaks of memory are Linux's")

MUCH = 150 << 20
"""Bytes that a program may take beside what its imports take."""
SPEC = TokenSpec(
    sample_rate=2000,
    channels=1,
    streams=(TokenStream(name="0", vocab_size=32, hop_length=4),),
    codec="vqvae",
    fingerprint="0" * 16,
)
# Runs a program, and tells how much memory it took beside what was imported.
RUNNER = """
import re, sys
from pathlib import Path
from plugins.ground.errors import InputError
{imports}
def figure(name):
    return int(re.search(name + r":\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) << 10
Path("/proc/self/clear_refs").write_text("5")
before = figure("VmRSS")
try:
    {program}
except InputError as error:
    print("error:", error)
print("peak", figure("VmHWM") - before)
"""


@dataclass
class Ended:
    said: str
    peak: int
    """Bytes."""


def run(imports: str, program: str) -> Ended:
    """Run a line of Python after some imports."""
    done = subprocess.run(
        [sys.executable, "-c", RUNNER.format(imports=imports, program=program)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    count("hostile inputs", 1, int(done.returncode != 0))
    assert done.returncode == 0, done.stderr
    *said, peak = done.stdout.splitlines()
    return Ended("\n".join(said), int(peak.removeprefix("peak ")))


def refused(imports: str, program: str, reason: str) -> None:
    """It says why in one line, and takes little memory for that."""
    ended = run(imports, program)
    assert ended.said.startswith("error: ")
    assert len(ended.said.splitlines()) == 1
    assert reason in ended.said
    assert ended.peak < MUCH


def test_a_header_that_promises_four_gigabytes(tmp_path: Path) -> None:
    path = tmp_path / "long.wav"
    soundfile.write(path, np.zeros(490), 8000, "PCM_16")
    content = bytearray(path.read_bytes())
    assert len(content) == 1024
    content[4:8] = content[40:44] = struct.pack("<I", 0xFFFFFFF0)
    path.write_bytes(content)
    ended = run(
        "from codec.audio import measure, read_audio",
        f"print(measure({str(path)!r}).frames <= 490, read_audio({str(path)!r}).shape)",
    )
    assert ended.said.endswith("(1, 490)")
    assert ended.peak < MUCH


def test_an_hour_of_silence_in_a_few_kilobytes(tmp_path: Path) -> None:
    path = tmp_path / "silence.flac"
    with soundfile.SoundFile(path, "w", 8000, 2, "PCM_16", format="FLAC") as file:
        for _ in range(3600):
            file.write(np.zeros((8000, 2)))
    assert 1000 * path.stat().st_size < 2 * 2 * 8000 * 3600 * 1.1
    ended = run(
        "from codec.audio import read_blocks",
        f"print(sum(block.shape[1] for block in read_blocks({str(path)!r}, 8000, 1)))",
    )
    assert ended.said == str(8000 * 3600)
    assert ended.peak < MUCH


def shard_of(folder: Path, rows: int, codes: int) -> Path:
    """A corpus of one shard, a row group of rows that have so many equal codes each."""
    folder.mkdir()
    columns = schema(SPEC, {})
    text = {name: pa.array([""] * rows) for name in columns.names if name != "id"}
    offsets = np.arange(rows + 1, dtype=np.int64) * codes
    values = pa.array(np.zeros(rows * codes, np.uint16))
    arrays = {
        **text,
        "id": pa.array([f"track {number}" for number in range(rows)]),
        "num_samples": pa.array([4 * codes] * rows),
        "codes_0": pa.ListArray.from_arrays(
            offsets.astype(np.int32), values, type=columns.field("codes_0").type
        ),
        "words": pa.array([[]] * rows, columns.field("words").type),
    }
    table = pa.table([arrays[name] for name in columns.names], schema=columns)
    path = folder / "tracks-00000.parquet"
    with pq.ParquetWriter(path, columns, compression="zstd") as writer:
        writer.write_table(table, row_group_size=rows)
    manifest = {
        "format": 1,
        "spec": SPEC.model_dump(mode="json"),
        "shards": [{"file": path.name, "rows": rows, "sha256": sha256_of(path)}],
    }
    (folder / "corpus.json").write_text(json.dumps(manifest))
    return path


def test_a_shard_that_expands_to_a_gigabyte(tmp_path: Path) -> None:
    path = shard_of(tmp_path / "tokens", 6, 100_000_000)
    assert path.stat().st_size < 1 << 20
    for imports, program in (
        ("from codec.corpus import Corpus", "Corpus({})"),
        ("from codec.corpus import Corpus", "Corpus({}, streaming=True)"),
    ):
        refused(imports, program.format(repr(str(path.parent))), "600,000,000 codes")
    ended = run(
        "from codec.verifying import verify_corpus",
        f"print(verify_corpus({str(path.parent)!r})[1][0])",
    )
    assert "600,000,000 codes" in ended.said
    assert ended.peak < MUCH


def test_many_codes_that_a_writer_may_write_are_read_a_group_at_a_time(tmp_path: Path) -> None:
    rows = ({"id": f"{n}", "num_samples": 4, "codes_0": np.zeros(1 << 20)} for n in range(120))
    folder = tmp_path / "tokens"
    CorpusWriter(folder, SPEC).append(
        {**row, "codes_0": row["codes_0"].astype(np.uint16)} for row in rows
    )
    assert sum(p.stat().st_size for p in folder.iterdir()) < 1 << 20
    ended = run(
        "from codec.verifying import verify_corpus",
        f"print(verify_corpus({str(folder)!r})[0].codes)",
    )
    assert ended.said == str(120 << 20)
    assert ended.peak < MUCH


def test_a_zip_bomb_as_a_published_checkpoint(tmp_path: Path) -> None:
    plain = tmp_path / "plain.pth.tar"
    torch.save({"model": {"prior.x_emb.weight": torch.zeros(1 << 26)}}, plain)
    with zipfile.ZipFile(plain) as file:
        parts = {entry.filename: file.read(entry) for entry in file.infolist()}
    plain.unlink()
    for name, blown in (("weights", "/data/0"), ("pickle", "/data.pkl")):
        path = tmp_path / f"{name}.pth.tar"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
            for member, content in parts.items():
                more = bytes(1 << 28) if member.endswith("/data.pkl") else b""
                file.writestr(member, content + more if member.endswith(blown) else content)
        assert path.stat().st_size < 8 << 20
        refused(
            "from plugins.openai.converting import convert",
            f"convert([{str(path)!r}], {str(tmp_path / 'model')!r})",
            path.name,
        )
        assert not (tmp_path / "model").exists()


def test_a_header_of_weights_that_promises_terabytes(tmp_path: Path, codec_folder: Path) -> None:
    folder = tmp_path / "codec"
    folder.mkdir()
    (folder / "config.json").write_bytes((codec_folder / "config.json").read_bytes())
    big = {"dtype": "F32", "shape": [1 << 20, 1 << 20], "data_offsets": [0, 1 << 42]}
    header = json.dumps({"weight": big}).encode()
    files = {
        "claimed": struct.pack("<Q", len(header)) + header + bytes(64),
        "endless": struct.pack("<Q", 1 << 42) + b"{}",
    }
    for content in files.values():
        (folder / "model.safetensors").write_bytes(content)
        refused(
            "from codec.checkpoint import load_codec",
            f"load_codec({str(folder)!r})",
            "model.safetensors",
        )


def test_a_config_of_a_codec_of_terabytes(tmp_path: Path, codec_folder: Path) -> None:
    config = json.loads((codec_folder / "config.json").read_text())
    config["codec"]["config"]["width"] = 1 << 16
    save_file({"weight": np.zeros(3, np.float32)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(config))
    refused(
        "from codec.checkpoint import load_codec",
        f"load_codec({str(tmp_path)!r})",
        "do not fit its config",
    )


@pytest.mark.parametrize("opened", ["[", '{"format":'])
def test_json_that_is_nested_a_hundred_thousand_deep(tmp_path: Path, opened: str) -> None:
    deep = opened * 100_000
    (tmp_path / "music").mkdir()
    soundfile.write(tmp_path / "music" / "a.wav", np.zeros(10), 8000)
    for name in ("corpus.json", "config.json", "music/metadata.jsonl"):
        (tmp_path / name).write_text(deep)
    place = repr(str(tmp_path))
    for imports, program in (
        ("from codec.corpus import Corpus", f"Corpus({place})"),
        ("from plugins.ground.saved import load_config", f"load_config({place}, 'codec')"),
        ("from codec.sources import find_sources", f"find_sources({place} + '/music')"),
        (
            "from plugins.ground.command import _read_config",
            f"_read_config({place} + '/config.json')",
        ),
    ):
        refused(imports, program, ".json")


def test_a_folder_of_links_that_go_round_in_circles(tmp_path: Path) -> None:
    music = tmp_path / "music"
    for here in (music, music / "a", music / "a" / "b"):
        here.mkdir(parents=True)
        for number in range(8):
            (here / f"up{number}").symlink_to(music, target_is_directory=True)
        (here / "itself").symlink_to(here / "itself")
        (here / "itself.wav").symlink_to(here / "itself.wav")
    soundfile.write(music / "a" / "b" / "song.wav", np.zeros(10), 8000)
    ended = run(
        "from codec.sources import find_sources",
        f"print([source.path for source in find_sources({str(music)!r}) if 'song' in source.path])",
    )
    assert len(eval(ended.said)) == 1
    assert ended.said.endswith("song.wav']")
    assert ended.peak < MUCH
