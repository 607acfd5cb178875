"""Embeddings against whole passes by hand, and everything that must not change a row."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from music import RATIO, SPEC, TINY, make_corpus
from safetensors.torch import load_file, save_file

import prior
from codec.corpus import Corpus, CorpusWriter
from conditioning.base import Window
from plugins import registry
from plugins.ground.errors import InputError
from prior.checkpoint import load_prior, save_prior
from prior.config import preset
from prior.embedding import (
    BYTES_PER_PART,
    CODES_PER_PART,
    WINDOWS_PER_PART,
    Stretch,
    plan,
)
from prior.features import MANIFEST
from prior.prior import Prior

Table = dict[str, np.ndarray]
WEIGHTS = "model.safetensors"
LYRICS = "row, row, row your boat, gently down the stream; life is but a dream"
ENCODER = {"width": 8, "depth": 2, "heads": 1, "blocks": 2}
LATE_MEMORY = ("row", "column", "previous", "memory", "row")
LONG = (40_000, 7, 33_000, 30_000, 35_000)
"""Codes of tracks that fill several parts."""


def embed_corpus(*args: Any, **settings: Any) -> Path:
    """With labels, unless a test says otherwise."""
    return prior.embed_corpus(*args, **{"labels": True, **settings})


def make_prior(folder: Path, conditioners: dict[str, Any], stream: str = "1", **set: Any) -> Path:
    """A prior with large random weights, so that its layers differ much."""
    records = []
    for name, config in conditioners.items():
        cls = registry.get(registry.CONDITIONERS, name)
        records.append(registry.record(registry.CONDITIONERS, name, cls.Config(**config)))
    torch.manual_seed(1)
    shape = {**TINY, "depth": 5, "init_scale": 8, **set}
    save_prior(Prior(preset("tiny", SPEC, stream, records, **shape)), folder)
    return folder


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, trained: Path) -> Path:
    """Tokens with lyrics, a prior for each kind of conditioning, and two models."""
    folder = tmp_path_factory.mktemp("home")
    rows = [{**row, "lyrics": LYRICS} for row in make_corpus(folder / "silent").tracks()]
    CorpusWriter(folder / "tokens", SPEC, settings={}).append(rows)
    for name in ("prior_0", "prior_1"):
        (folder / name).symlink_to(trained / name)
    labels = {"artist": {"names": ("a", "b")}, "timing": {"bins": 8}}
    make_prior(folder / "plain", {"artist": {"names": ("b",)}})
    make_prior(folder / "scaled", labels, res_scale=True)
    make_prior(folder / "prefix", {**labels, "lyrics_prefix": {"tokens": 16}})
    make_prior(
        folder / "memory",
        {**labels, "lyrics_memory": {"tokens": 16, "network": ENCODER}},
        patterns=LATE_MEMORY,
        res_scale=True,
    )
    return folder


PRIORS = ("prior_1", "prior_0", "plain", "scaled", "prefix", "memory")


def table(out: Path) -> Table:
    """All rows of a folder, `embedding` as [R, W]."""
    rows = pa.concat_tables(pq.read_table(path) for path in sorted(out.glob("*.parquet")))
    columns = {name: rows[name].to_numpy() for name in rows.column_names}
    return {**columns, "embedding": np.stack(list(columns["embedding"]))}


def by_hand(folder: Path, corpus: Corpus, layer: int) -> list[np.ndarray]:
    """The activations of each track, [N, W], by passes of the whole prior, one window at a time."""
    prior, made = load_prior(folder), []
    for row in corpus.tracks():
        codes = torch.from_numpy(row[f"codes_{prior.config.stream}"].astype(np.int64))
        vectors = []
        for start in range(0, len(codes), 32):
            prepared = prior.prepare(row, Window(start, row["num_samples"]))
            condition = prior.condition({name: t[None] for name, t in prepared.items()})
            with torch.inference_mode():
                hidden = prior(codes[None, start : start + 32], condition, upto=layer).hidden
            vectors.append(hidden[0, prior.prefix :].numpy())
        made.append(np.concatenate(vectors))
    return made


def close(one: np.ndarray, other: np.ndarray) -> bool:
    """Up to rounding, on the scale of the other."""
    return one.shape == other.shape and bool(abs(one - other).max() < 1e-5 * abs(other).max())


@pytest.mark.parametrize("name", PRIORS)
@pytest.mark.parametrize("layer", [0, 2])
def test_rows_are_those_of_whole_passes(home: Path, tmp_path: Path, name: str, layer: int) -> None:
    corpus = Corpus(home / "tokens")
    expected = by_hand(home / name, corpus, layer)
    hop, ids = (8 if name == "prior_0" else 32), corpus.ids()
    for pool in ("mean", "none"):
        out = embed_corpus(
            home / "tokens", home / name, tmp_path / pool, layer=layer, pool=pool, device="cpu"
        )
        assert out == tmp_path / pool
    means, codes = table(tmp_path / "mean"), table(tmp_path / "none")
    assert means["id"].tolist() == ids
    assert means["layer"].tolist() == [layer] * 4
    assert means["codes"].tolist() == [len(vectors) for vectors in expected]
    assert close(means["embedding"], np.stack([vectors.mean(0) for vectors in expected]))
    assert codes["id"].tolist() == [i for i, v in zip(ids, expected, strict=True) for _ in v]
    times = np.concatenate([np.arange(len(vectors)) * hop / 800 for vectors in expected])
    assert np.array_equal(codes["time"], times)
    assert close(codes["embedding"], np.concatenate(expected))


def test_layers_differ(home: Path, tmp_path: Path) -> None:
    tables = []
    for layer in (0, 1, 4):
        out = embed_corpus(home / "tokens", home / "scaled", tmp_path / str(layer), layer=layer)
        tables.append(table(out)["embedding"])
    assert not close(tables[0], tables[1])
    assert not close(tables[1], tables[2])


@pytest.mark.parametrize("pool", ["mean", "none"])
@pytest.mark.parametrize("name", ["prior_0", "prefix"])
def test_batch_size_changes_rounding_only(home: Path, tmp_path: Path, name: str, pool: Any) -> None:
    tables = []
    for size in (1, 3, 64):
        out = tmp_path / str(size)
        embed_corpus(home / "tokens", home / name, out, layer=1, pool=pool, batch_size=size)
        tables.append(table(out))
    for other in tables[1:]:
        assert all(np.array_equal(other[k], tables[0][k]) for k in other if k != "embedding")
        assert close(other["embedding"], tables[0]["embedding"])


@pytest.mark.parametrize("pool", ["mean", "none"])
def test_later_layers_are_not_read(home: Path, tmp_path: Path, pool: Any) -> None:
    clean = embed_corpus(home / "tokens", home / "plain", tmp_path / "c", layer=1, pool=pool)
    spoilt = tmp_path / "spoilt"
    spoilt.mkdir()
    weights = load_file(home / "plain" / WEIGHTS)
    for name, tensor in weights.items():
        if name.startswith(("transformer.layers.2", "transformer.layers.4")):
            weights[name] = torch.full_like(tensor, float("nan"))
    save_file(weights, spoilt / WEIGHTS)
    (spoilt / "config.json").write_bytes((home / "plain" / "config.json").read_bytes())
    out = embed_corpus(home / "tokens", spoilt, tmp_path / "s", layer=1, pool=pool)
    assert parquet(out) == parquet(clean)
    with pytest.raises(InputError, match=r"layers\.2.*NaN"):
        embed_corpus(home / "tokens", spoilt, tmp_path / "t", layer=2, pool=pool)


def parquet(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.glob("*.parquet"))}


@pytest.mark.parametrize("pool", ["mean", "none"])
def test_any_reader_opens_the_files(home: Path, tmp_path: Path, pool: Any) -> None:
    out = embed_corpus(home / "tokens", home / "prior_1", tmp_path / "e", layer=0, pool=pool)
    files = str(out / "*.parquet")
    rows = datasets.load_dataset(
        "parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache")
    )
    expected = table(out)
    assert rows["id"][:] == expected["id"].tolist()
    assert np.array_equal(np.asarray(rows["embedding"][:], np.float32), expected["embedding"])
    schema = pq.read_schema(out / "part-00000.parquet")
    own = {"layer": "int64", "codes": "int64"} if pool == "mean" else {"time": "double"}
    types = {"id": "string", **own, "embedding": "list<element: float>"}
    assert {field.name: str(field.type) for field in schema} == types


def test_the_manifest_says_what_is_there(home: Path, tmp_path: Path) -> None:
    out = embed_corpus(home / "tokens", home / "prior_1", tmp_path / "e", layer=1, pool="none")
    said = json.loads((out / MANIFEST).read_text())
    assert said["settings"].pop("prior") == _sha256(home / "prior_1" / WEIGHTS)
    assert said == {
        "format": 1,
        "settings": {
            "corpus": Corpus(home / "tokens").fingerprint,
            "stream": "1",
            "layer": 1,
            "pool": "none",
            "labels": True,
            "dtype": "float32",
            "width": 32,
        },
        "rows": 288,
        "without_codes": [],
        "parts": [{"file": "part-00000.parquet", "rows": 288}],
    }


def _sha256(path: Path) -> str:
    import hashlib

    return hashlib.sha256(path.read_bytes()).hexdigest()


def variant(home: Path, folder: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Path:
    """The corpus with every row changed."""
    rows = [change(row) for row in Corpus(home / "tokens").tracks()]
    CorpusWriter(folder, SPEC, settings={}).append(rows)
    return folder


def test_without_labels_all_labels_are_unknown(home: Path, tmp_path: Path) -> None:
    bare = variant(
        home, tmp_path / "bare", lambda r: {**r, "artist": "", "genre": "", "lyrics": ""}
    )
    strange = variant(home, tmp_path / "strange", lambda row: {**row, "artist": "nobody"})
    plainly = embed_corpus(bare, home / "prefix", tmp_path / "a", layer=1)
    kept = embed_corpus(home / "tokens", home / "prefix", tmp_path / "b", layer=1, labels=False)
    told = embed_corpus(home / "tokens", home / "prefix", tmp_path / "c", layer=1)
    assert parquet(plainly) == parquet(kept)
    assert not close(table(told)["embedding"], table(kept)["embedding"])
    with pytest.warns(UserWarning, match="'nobody'"):
        unknown = embed_corpus(strange, home / "plain", tmp_path / "d", layer=1)
    kept = embed_corpus(home / "tokens", home / "plain", tmp_path / "e", layer=1, labels=False)
    assert parquet(unknown) == parquet(kept)


def test_tracks_without_codes_are_left_out_and_listed(home: Path, tmp_path: Path) -> None:
    def silenced(row: dict[str, Any]) -> dict[str, Any]:
        empty = np.zeros(0, np.uint16)
        return {**row, "codes_1": empty} if row["id"] in ("track-0", "track-2") else row

    corpus = variant(home, tmp_path / "tokens", silenced)
    with pytest.warns(UserWarning, match=r"left out 2 tracks .* '1': 'track-0', 'track-2'"):
        out = embed_corpus(corpus, home / "plain", tmp_path / "e", layer=1)
    whole = embed_corpus(home / "tokens", home / "plain", tmp_path / "w", layer=1)
    assert table(out)["id"].tolist() == ["track-1", "track-3"]
    assert close(table(out)["embedding"], table(whole)["embedding"][1::2])
    said = json.loads((out / MANIFEST).read_text())
    assert said["without_codes"] == ["track-0", "track-2"]
    assert said["rows"] == 2


def test_half_precision(home: Path, tmp_path: Path) -> None:
    full = table(embed_corpus(home / "tokens", home / "scaled", tmp_path / "f", layer=4))
    out = embed_corpus(home / "tokens", home / "scaled", tmp_path / "h", layer=4, dtype="bfloat16")
    half, scale = table(out)["embedding"], abs(full["embedding"]).max()
    assert half.dtype == np.float32
    assert 1e-5 * scale < abs(half - full["embedding"]).max() < 0.05 * scale


def test_activations_out_of_range_are_refused(home: Path, tmp_path: Path) -> None:
    prior = load_prior(home / "plain")
    with torch.no_grad():  # each fits into float16, their sum does not
        prior.embedding.weight.fill_(4e4)
        prior.positions.fill_(4e4)
    save_prior(prior, tmp_path / "large")
    with pytest.raises(InputError, match=r"range of float16 on track 'track-0'.*--dtype bfloat16"):
        embed_corpus(home / "tokens", tmp_path / "large", tmp_path / "e", layer=0, dtype="float16")
    assert not parquet(tmp_path / "e")
    assert np.isfinite(
        table(embed_corpus(home / "tokens", tmp_path / "large", tmp_path / "f", layer=0))[
            "embedding"
        ]
    ).all()


@pytest.mark.parametrize("pool", ["mean", "none"])
@pytest.mark.parametrize(("step", "width"), [(32, 32), (8192, 4800), (8192, 1)])
def test_parts_hold_every_code_once_and_are_bounded(pool: Any, step: int, width: int) -> None:
    lengths = [3_000_000 * step // 8192, 0, 5, step, step + 1, *[7] * 3000, 900 * step]
    parts = list(plan(lengths, step, pool, width))
    assert len(parts) > 3
    flat = [stretch for part in parts for stretch in part]
    assert all(parts)
    expected = [
        Stretch(track, start, min(step, length - start))
        for track, length in enumerate(lengths)
        for start in range(0, length, step)
    ]
    assert flat == expected
    most = min(CODES_PER_PART, BYTES_PER_PART // (4 * width)) if pool == "none" else CODES_PER_PART
    for part in parts:
        if len({s.track for s in part} if pool == "mean" else part) > 1:
            assert sum(s.length for s in part) <= most
        assert len([s for s in part if s.track != part[-1].track]) < WINDOWS_PER_PART
    if pool == "mean":
        homes = [track for part in parts for track in {s.track for s in part}]
        assert len(homes) == len(set(homes))
    else:
        assert max(map(len, parts)) <= WINDOWS_PER_PART


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory, home: Path) -> Path:
    """The model and a corpus whose embeddings fill several parts."""
    folder = tmp_path_factory.mktemp("long")
    make_corpus(folder / "tokens", LONG)
    (folder / "prior_1").symlink_to(home / "plain")
    return folder


def process(folder: Path, line: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "prior.embed", *line.split()],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def everything(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir()}


def test_killed_and_started_again_the_bytes_are_the_same(long: Path, tmp_path: Path) -> None:
    out = tmp_path / "broken"
    line = f"tokens --model . --layer 1 --tell-labels --batch-size 32 --device cpu --out {out}"
    first = out / "part-00000.parquet"
    with process(long, line) as killed:
        while killed.poll() is None and not first.exists():
            time.sleep(0.001)
        killed.send_signal(signal.SIGKILL)
    assert killed.returncode == -signal.SIGKILL
    kept, stamp = everything(out), first.stat().st_mtime_ns
    assert len(json.loads(kept[MANIFEST])["parts"]) <= 1
    (out / ".part-00001.partial.parquet").write_bytes(b"half a part")
    with process(long, line) as again:
        _, said = again.communicate()
    assert again.returncode == 0, said
    assert len(json.loads(kept[MANIFEST])["parts"]) == 0 or first.stat().st_mtime_ns == stamp
    whole = embed_corpus(
        long / "tokens", long / "prior_1", tmp_path / "w", layer=1, batch_size=32, device="cpu"
    )
    assert len(parquet(whole)) == 3
    assert everything(out) == everything(whole)


def test_it_goes_on_after_any_part(long: Path, tmp_path: Path) -> None:
    def embed(out: Path) -> Path:
        return embed_corpus(
            long / "tokens", long / "prior_1", out, layer=0, pool="none", batch_size=64
        )

    whole, out = embed(tmp_path / "w"), tmp_path / "e"
    manifest = json.loads((whole / MANIFEST).read_text())
    embed(out)
    assert len(manifest["parts"]) > 3
    assert manifest["rows"] == sum(part["rows"] for part in manifest["parts"]) == sum(LONG)
    (out / "part-00002.parquet").unlink()
    stamps = {path.name: path.stat().st_mtime_ns for path in out.glob("*.parquet")}
    assert everything(embed(out)) == everything(whole)
    for name, stamp in stamps.items():
        assert (out / name).stat().st_mtime_ns == stamp


def test_finished_embeddings_need_no_model(home: Path, tmp_path: Path) -> None:
    out = embed_corpus(home / "tokens", home / "plain", tmp_path / "e", layer=1)
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    embed_corpus(home / "tokens", home / "plain", out, layer=1, batch_size=1)
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before


def test_bad_input_is_named_and_nothing_is_lost(home: Path, tmp_path: Path) -> None:
    good: dict[str, Any] = {"corpus": home / "tokens", "prior": home / "plain", "layer": 1}
    out = embed_corpus(**good, out=tmp_path / "e")
    before = everything(out)
    other = SPEC.model_copy(update={"fingerprint": "f" * 16})
    CorpusWriter(tmp_path / "foreign", other, settings={}).append([Corpus(home / "tokens")[0]])
    mute = variant(home, tmp_path / "mute", lambda row: {**row, "codes_1": np.zeros(0, np.uint16)})
    for changes, message in (
        ({"layer": 5}, "no layer 5: this prior's layers are 0 to 4"),
        ({"layer": -1}, "no layer -1"),
        ({"layer": 0}, "made with layer 1, not 0: choose another folder"),
        ({"pool": "none"}, "made with pool 'mean', not 'none'"),
        ({"pool": "max"}, "no pool 'max': give mean or none"),
        ({"labels": False}, "made with labels True, not False"),
        ({"dtype": "bfloat16"}, "made with dtype 'float32', not 'bfloat16'"),
        ({"prior": home / "scaled"}, "made with prior"),
        ({"corpus": home / "silent"}, "made with corpus"),
        ({"corpus": tmp_path / "foreign"}, r"vqvae ffffffffffffffff.*vqvae 0123456789abcdef"),
        ({"corpus": mute}, "no track of .*mute has codes of stream '1'"),
        ({"corpus": tmp_path}, "no token corpus in"),
        ({"prior": tmp_path}, "no prior in"),
        ({"device": "abacus"}, "no device 'abacus'"),
    ):
        with pytest.raises(InputError, match=message):
            embed_corpus(**{**good, **changes}, out=out)
    assert everything(out) == before
    with pytest.raises(InputError, match="something other than embeddings"):
        embed_corpus(**good, out=home / "tokens")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"format": 2}', "format 2, newer than 1"),
        ('{"format": 1}', r"damaged: settings: Field required"),
        ("[]", "damaged"),
        ("{", "not valid JSON"),
    ],
)
def test_other_manifests_are_refused(
    home: Path, tmp_path: Path, content: str, message: str
) -> None:
    (tmp_path / MANIFEST).write_text(content)
    with pytest.raises(InputError, match=message):
        embed_corpus(home / "tokens", home / "plain", tmp_path, layer=1)
    assert everything(tmp_path) == {MANIFEST: content.encode()}


def test_the_command_takes_the_stream_of_a_model(home: Path, tmp_path: Path) -> None:
    out = tmp_path / "e"
    with process(home, f"tokens --model . --layer 1 --stream 0 --out {out}") as run:
        _, said = run.communicate()
    assert run.returncode == 0, said
    assert table(out)["codes"].tolist() == [n * RATIO for n in (80, 64, 48, 96)]
    same = embed_corpus(home / "tokens", home / "prior_0", tmp_path / "s", layer=1, labels=False)
    assert everything(same) == everything(out)


def test_without_an_output_folder_it_is_beside_the_corpus(home: Path, tmp_path: Path) -> None:
    shutil.copytree(home / "tokens", tmp_path / "tokens")
    with process(home, f"{tmp_path / 'tokens'} --model . --layer 1") as run:
        assert run.wait() == 0
    same = embed_corpus(home / "tokens", home / "prior_1", tmp_path / "s", layer=1, labels=False)
    assert everything(tmp_path / "tokens-layer-1") == everything(same)


def test_one_line_and_status_2(home: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    lines = {
        "tokens --model . --layer 3 --out new": "layers are 0 to 2",
        "tokens --model . --layer 1 --stream 7 --out new": "no prior of stream '7'",
        f"tokens --model . --layer 1 --out {tmp_path}/thesis": "holds something other",
    }
    runs = {line: process(home, line) for line in lines}
    for line, run in runs.items():
        _, said = run.communicate()
        errors = [text for text in said.splitlines() if text.startswith("error: ")]
        assert run.returncode == 2, said
        assert len(errors) == 1, said
        assert lines[line] in errors[0]
        assert "Traceback" not in said
    assert not (home / "new").exists()
    assert (tmp_path / "thesis" / "chapter.txt").read_text() == "years of work"


def test_a_full_disk_leaves_whole_parts(
    home: Path, tmp_path: Path, file_size_limit: Callable[[int], Any]
) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    out = tmp_path / "e"
    with file_size_limit(2000), pytest.raises(InputError, match=r"can't write .*part-00000"):
        embed_corpus(home / "tokens", home / "plain", out, layer=1, pool="none")
    assert [path.name for path in out.iterdir()] == [MANIFEST]
    embed_corpus(home / "tokens", home / "plain", out, layer=1, pool="none")
    assert len(table(out)["id"]) == 288


def test_a_part_that_was_cut_is_made_again(home: Path, tmp_path: Path) -> None:
    out = embed_corpus(home / "tokens", home / "plain", tmp_path / "e", layer=1)
    before = everything(out)
    (out / "part-00000.parquet").write_bytes(before["part-00000.parquet"][:-9])
    embed_corpus(home / "tokens", home / "plain", out, layer=1)
    assert everything(out) == before


def test_weights_that_can_not_be_read_leave_nothing(home: Path, tmp_path: Path) -> None:
    shutil.copytree(home / "plain", tmp_path / "cut")
    weights = tmp_path / "cut" / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-9])
    for message in ("can't read weights", "can't read .*No such file"):
        with pytest.raises(InputError, match=message):
            embed_corpus(home / "tokens", tmp_path / "cut", tmp_path / "e", layer=1)
        assert not (tmp_path / "e").exists()
        weights.unlink(missing_ok=True)
