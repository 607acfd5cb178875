"""Token corpora on disk: what comes back, what is refused, and what survives."""

import json
import math
import pickle
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from codec import shards
from codec.corpus import Corpus, CorpusWriter
from codec.rows import Skipped, column_types
from codec.tokens import TokenSpec, TokenStream
from plugins.ground.errors import InputError

SPEC = TokenSpec(
    sample_rate=8000,
    channels=1,
    streams=(
        TokenStream(name="0", vocab_size=65536, hop_length=4),
        TokenStream(name="vocals/1", vocab_size=100, hop_length=16),
    ),
    codec="vqvae",
    fingerprint="0123456789abcdef",
)
WORDS = [{"start": 0.5, "end": 1.0, "text": "hé"}, {"start": 1.0, "end": 1.25, "text": "lo"}]


def row(name: str, count: int = 400, **more: Any) -> dict[str, Any]:
    """A row with codes that depend on its name."""
    rng = np.random.default_rng(sum(name.encode()))
    return {
        "id": name,
        "path": name,
        "audio_sha256": "",
        "num_samples": 4 * count,
        "artist": "Å",
        "genre": "",
        "title": "",
        "lyrics": "",
        "codes_0": rng.integers(0, 65536, count).astype(np.uint16),
        "codes_vocals/1": rng.integers(0, 100, count // 4).astype(np.uint16),
        "words": [],
        **more,
    }


def assert_rows(found: Any, expected: list[dict[str, Any]]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert set(one) == set(other)
        for name, value in other.items():
            if name.startswith("codes_"):
                assert one[name].dtype == np.uint16
                assert np.array_equal(one[name], value)
            else:
                assert one[name] == value


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A corpus of two shards, two rows and one."""
    writer = CorpusWriter(tmp_path / "corpus", SPEC, {"made_by": "test"})
    writer.append([row("a", words=WORDS), row("b", 0)], [Skipped(path="x", reason="empty file")])
    writer.append(iter([row("c", lyrics="la la\nla")]))
    return tmp_path / "corpus"


@pytest.mark.parametrize("mapped", [False, True])
def test_rows_come_back(written: Path, mapped: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "IN_MEMORY", 0 if mapped else 1 << 28)
    expected = [row("a", words=WORDS), row("b", 0), row("c", lyrics="la la\nla")]
    corpus = Corpus(written)
    assert corpus.spec == SPEC
    assert corpus.settings == {"made_by": "test"}
    assert corpus.skipped == (Skipped(path="x", reason="empty file"),)
    assert (len(corpus), corpus.ids()) == (3, ["a", "b", "c"])
    assert_rows(corpus.tracks(), expected)
    assert_rows([corpus[i] for i in (0, 1, -1)], expected)
    assert "codes_0" not in corpus.metadata(2)
    assert corpus.metadata(2)["lyrics"] == "la la\nla"
    assert corpus.lengths("0").tolist() == [400, 0, 400]
    assert corpus.lengths("vocals/1").tolist() == [100, 0, 100]
    assert np.array_equal(corpus.codes(2, "0", 100, 300), expected[2]["codes_0"][100:300])
    assert (written / shards.MAPPED).exists() == mapped
    with pytest.raises(IndexError):
        corpus[3]
    with pytest.raises(InputError, match=r"no stream '7'; there are: 0, vocals/1"):
        corpus.codes(0, "7")
    again = pickle.loads(pickle.dumps(corpus))
    assert_rows([again[i] for i in range(3)], expected)
    corpus.verify()


def test_codes_larger_than_memory_stay_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "IN_MEMORY", 0)
    rows = [row(name, 2_000_000) for name in "abc"]
    writer = CorpusWriter(tmp_path, SPEC)
    for one in rows:
        writer.append([one])
    Corpus(tmp_path).lengths("0")  # makes the files that are mapped
    before = pa.total_allocated_bytes()
    corpus = Corpus(tmp_path)
    views = [corpus[i]["codes_0"] for i in range(3)]
    window = corpus.codes(1, "0", 1_000_000, 1_008_192)
    assert pa.total_allocated_bytes() - before < 100_000, "12 MB of codes must not be read"
    assert np.array_equal(window, rows[1]["codes_0"][1_000_000:1_008_192])
    assert not any(view.flags.owndata or view.flags.writeable for view in views)


def test_a_folder_that_cant_be_written_is_mapped_elsewhere(
    written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "IN_MEMORY", 0)
    (written / shards.MAPPED).write_text("in the way")
    assert_rows([Corpus(written)[0]], [row("a", words=WORDS)])
    assert (written / shards.MAPPED).read_text() == "in the way"


def test_any_parquet_reader_opens_all_shards_together(tmp_path: Path) -> None:
    labels = [{"bpm": 90}, {"mood": "calm", "bpm": 99.5}, {"live": True, "tags": ["x", 1]}]
    writer = CorpusWriter(tmp_path / "c", SPEC, columns=column_types(labels))
    for number, label in enumerate(labels):
        writer.append([row(str(number), **label)])
    files = sorted(str(p) for p in (tmp_path / "c").glob("*.parquet"))
    opened = datasets.load_dataset(
        "parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache")
    )
    assert opened["bpm"] == [90.0, 99.5, None]
    assert opened["mood"] == [None, "calm", None]
    assert opened["live"] == [None, None, True]
    assert opened["tags"] == [None, None, '["x", 1]']
    codes = opened.with_format("arrow")[0:1].column("codes_0")
    assert codes.type.value_type == pa.uint16()
    assert codes[0].values.to_numpy().tolist() == row("0")["codes_0"].tolist()


def test_columns_that_come_later_are_in_every_shard(tmp_path: Path) -> None:
    writer = CorpusWriter(tmp_path, SPEC, columns={"bpm": "int64", "year": "int64"})
    writer.append([row("a", bpm=90, year=1999)], [Skipped(path="x", reason="y")])
    later = CorpusWriter(tmp_path, SPEC, columns={"bpm": "double", "year": "string"})
    later.append([row("b", bpm=1.5, year="MM")])
    last = CorpusWriter(tmp_path, SPEC, columns={"mood": "bool"})
    last.append([row("c", mood=True)])
    corpus = Corpus(tmp_path)
    assert_rows(
        corpus.tracks(),
        [
            row("a", bpm=90.0, year="1999", mood=None),
            row("b", bpm=1.5, year="MM", mood=None),
            row("c", bpm=None, year=None, mood=True),
        ],
    )
    assert len(corpus.skipped) == 1
    assert len(names(tmp_path)) == 4


def test_equal_rows_make_equal_bytes(tmp_path: Path) -> None:
    for folder in ("one", "other"):
        writer = CorpusWriter(tmp_path / folder, SPEC)
        writer.append(row(f"{i}" * 3, 30_000) for i in range(50))
        writer.append([row("last")])
    one, other = tmp_path / "one", tmp_path / "other"
    assert names(one) == names(other)
    assert all((one / n).read_bytes() == (other / n).read_bytes() for n in names(one))
    assert pq.ParquetFile(sorted(one.glob("*.parquet"))[0]).metadata.num_row_groups == 2


def test_replacing_all_rows(tmp_path: Path) -> None:
    writer = CorpusWriter(tmp_path, SPEC, {"seed": 1})
    for count in (0, 8, 16):
        writer.replace([row("s0", count, prompt="p", tempo=7), row("s1", 4 * count)])
        assert len(names(tmp_path)) == 2
        reader = Corpus(tmp_path)
        expected = [row("s0", count, prompt="p", tempo=7)]
        expected += [row("s1", 4 * count, prompt=None, tempo=None)]
        assert_rows(reader.tracks(), expected)
    assert len(CorpusWriter(tmp_path, SPEC, {"seed": 1})) == 2
    assert len(names(tmp_path)) == 2


def test_words_of_some_tracks_of_one_shard(
    written: Path, file_size_limit: Callable[[int], AbstractContextManager[None]]
) -> None:
    writer = CorpusWriter(written, SPEC, {"made_by": "test"})
    before, untouched = Corpus(written), sorted(written.glob("tracks-00001-*"))
    for _ in range(2):
        writer.set_words(0, {"b": WORDS, "a": [], "c": WORDS})
        after = Corpus(written)
        assert_rows(
            after.tracks(), [row("a"), row("b", 0, words=WORDS), row("c", lyrics="la la\nla")]
        )
        # Whoever works on the tracks may go on.
        assert after.fingerprint == before.fingerprint
    assert after.skipped == before.skipped
    assert sorted(written.glob("tracks-00001-*")) == untouched
    assert len(names(written)) == 3
    after.verify()
    with pytest.raises(InputError, match="no list of start"):
        writer.set_words(0, {"a": "la"})
    with file_size_limit(100), pytest.raises(InputError, match="can't write a shard"):
        writer.set_words(0, {"a": WORDS})
    assert_rows(Corpus(written).tracks(), list(after.tracks()))
    writer.append([row("d")])
    assert Corpus(written).ids() == ["a", "b", "c", "d"]
    assert Corpus(written).fingerprint != before.fingerprint


def test_what_a_kill_leaves_is_whole_and_cleaned_up(written: Path) -> None:
    before = names(written)
    (written / "tracks-00002-0123.parquet").write_bytes(b"published, but not in corpus.json")
    (written / ".tracks.partial.77.parquet").write_bytes(b"half a shard")
    (written / ".corpus.partial.json").write_bytes(b"{")
    assert Corpus(written).ids() == ["a", "b", "c"]
    writer = CorpusWriter(written, SPEC, {"made_by": "test"})
    assert names(written) == before
    writer.append([row("d")])
    assert Corpus(written).ids() == ["a", "b", "c", "d"]


def test_a_full_disk_leaves_the_corpus_as_it_was(
    written: Path, file_size_limit: Callable[[int], AbstractContextManager[None]]
) -> None:
    writer = CorpusWriter(written, SPEC, {"made_by": "test"})
    before = names(written)
    for write in (writer.append, writer.replace):
        with file_size_limit(10_000), pytest.raises(InputError, match="can't write a shard"):
            write([row("long", 100_000)])
        assert names(written) == before
        Corpus(written).verify()
    writer.append([row("long", 100_000)])
    assert len(Corpus(written)) == 4


BAD_ROWS = [
    ({"id": ""}, "has no id"),
    ({"path": "x"}, "has no id"),
    ({"id": "a"}, "two tracks of id 'a'"),
    ({"id": "n", "codes_vocals/1": [100]}, "leaves its codebook of 100"),
    ({"id": "n", "codes_0": [-1]}, "leaves its codebook"),
    ({"id": "n", "codes_0": [0.5]}, "one row of integers"),
    ({"id": "n", "codes_0": [[1]]}, "one row of integers"),
    ({"id": "n", "mood": "calm"}, "unknown column 'mood'"),
    ({"id": "n", "words": [{"start": 1}]}, "no list of start, end"),
    ({"id": "n", "words": "hello"}, "no list of start, end"),
    ({"id": "n", "words": [*WORDS, {**WORDS[0], "start": math.nan}]}, "track 'n' has a word whose"),
    ({"id": "n", "words": [{**WORDS[0], "end": math.inf}]}, "track 'n' has a word whose start or"),
    ({"id": "n", "words": [{**WORDS[0], "end": 1e300}]}, "track 'n' has a word whose start or end"),
]


@pytest.mark.parametrize(("bad", "reason"), BAD_ROWS)
def test_rows_that_are_refused(written: Path, bad: dict[str, Any], reason: str) -> None:
    writer = CorpusWriter(written, SPEC, {"made_by": "test"})
    before = (written / "corpus.json").read_bytes(), names(written)
    with pytest.raises(InputError, match=reason):
        writer.append([row("good"), bad])
    assert ((written / "corpus.json").read_bytes(), names(written)) == before
    writer.append([row("good")])
    assert Corpus(written).ids() == ["a", "b", "c", "good"]


def test_two_new_rows_of_one_id(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="two tracks of id 'a'"):
        CorpusWriter(tmp_path, SPEC).append([row("a"), row("a")])


@pytest.mark.parametrize("name", ["id", "num_samples", "codes_9"])
def test_metadata_named_like_a_column_of_ours(name: str) -> None:
    with pytest.raises(InputError, match=f"metadata column '{name}'.*rename"):
        column_types([{name: "x"}])


def test_text_that_utf8_cant_hold(tmp_path: Path) -> None:
    CorpusWriter(tmp_path, SPEC).append([{"id": "a", "artist": "\ud800", "genre": ["x", "y"]}])
    track = Corpus(tmp_path).metadata(0)
    assert "\ud800" not in track["artist"]
    assert track["genre"] == "x; y"


def test_two_writers_at_once(written: Path) -> None:
    one, other = (CorpusWriter(written, SPEC, {"made_by": "test"}) for _ in range(2))
    one.append([row("d")])
    with pytest.raises(InputError, match="another process writes to"):
        other.append([row("e")])
    assert Corpus(written).ids() == ["a", "b", "c", "d"]


def test_nothing_is_mixed(written: Path, tmp_path: Path) -> None:
    other = SPEC.model_copy(update={"fingerprint": "fedcba9876543210"})
    with pytest.raises(InputError, match=r"0123456789abcdef.*needs vqvae fedcba9876543210"):
        CorpusWriter(written, other, {"made_by": "test"})
    with pytest.raises(InputError, match=r"made with made_by 'test', not 'other'"):
        CorpusWriter(written, SPEC, {"made_by": "other"})
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "song.txt").write_text("mine")
    with pytest.raises(InputError, match="something other than a token corpus"):
        CorpusWriter(tmp_path / "mine", SPEC)
    assert names(tmp_path / "mine") == {"song.txt"}


def test_abandoning(written: Path, tmp_path: Path) -> None:
    CorpusWriter(written, SPEC, {"made_by": "test"}).abandon()
    assert len(Corpus(written)) == 3
    writer = CorpusWriter(tmp_path / "empty", SPEC)
    assert len(Corpus(tmp_path / "empty")) == 0
    writer.abandon()
    assert not (tmp_path / "empty").exists()


def edit(written: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads((written / "corpus.json").read_text())
    change(content)
    (written / "corpus.json").write_text(json.dumps(content))


BROKEN: list[tuple[Callable[[dict[str, Any]], Any], str]] = [
    (lambda c: c.update(format=2), "corpus format 2, newer than 1: update"),
    (lambda c: c.pop("format"), "no format version"),
    (lambda c: c.pop("spec"), r"corpus.json is damaged: spec"),
    (
        lambda c: c["shards"][1].update(rows=2),
        r"tracks-00001\S+ is .*it has 1 rows, .*says 2",
    ),
    (lambda c: c["shards"][0].update(file="../x.parquet"), "corpus.json is damaged: shards.0.file"),
    (lambda c: c.update(columns={"bpm": "int64"}), r"tracks-00000\S+ is .*other columns"),
    (lambda c: c["shards"].append(c["shards"][0]), "two tracks of id 'a'"),
]


@pytest.mark.parametrize(("change", "reason"), BROKEN)
def test_manifests_that_are_refused(
    written: Path, change: Callable[[dict[str, Any]], Any], reason: str
) -> None:
    edit(written, change)
    with pytest.raises(InputError, match=reason):
        Corpus(written)


@pytest.mark.parametrize("damage", ["missing", "cut", "emptied", "garbled"])
def test_damaged_shards_are_named(written: Path, damage: str) -> None:
    shard = sorted(written.glob("*.parquet"))[1]
    content = shard.read_bytes()
    if damage == "missing":
        shard.unlink()
    else:
        keep = {"cut": content[: len(content) // 2], "emptied": b"", "garbled": content[::-1]}
        shard.write_bytes(keep[damage])
    for opening in (lambda: Corpus(written), lambda: CorpusWriter(written, SPEC)):
        with pytest.raises(InputError, match=rf"shard {shard} is (missing|damaged)") as caught:
            opening()
        assert "\n" not in str(caught.value)


def test_bytes_that_changed_are_found(written: Path) -> None:
    corpus = Corpus(written)
    shard = sorted(written.glob("*.parquet"))[0]
    content = bytearray(shard.read_bytes())
    content[200] ^= 1
    shard.write_bytes(content)
    with pytest.raises(InputError, match=rf"shard {shard} is damaged"):
        corpus.verify()


def test_what_is_no_corpus(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no token corpus in"):
        Corpus(tmp_path)
    (tmp_path / "corpus.json").write_text("{not json")
    with pytest.raises(InputError, match="is not valid JSON"):
        Corpus(tmp_path)
    (tmp_path / "corpus.json").write_text("[]")
    with pytest.raises(InputError, match="no format version"):
        Corpus(tmp_path)


def test_a_corpus_can_be_read_while_a_sampler_replaces_it(tmp_path: Path) -> None:
    """Another process replaces all rows as fast as it can; every reading is one of its states."""
    folder = tmp_path / "corpus"
    CorpusWriter(folder, SPEC, {}).replace([row("a", 4), row("b", 4)])
    program = (
        "import sys\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from test_corpus import SPEC, row\n"
        "from codec.corpus import CorpusWriter\n"
        f"writer = CorpusWriter({str(folder)!r}, SPEC, {{}})\n"
        "for count in range(8, 2000, 4):\n"
        "    writer.replace([row('a', count), row('b', count)])\n"
    )
    with subprocess.Popen([sys.executable, "-c", program]) as writer:
        lengths = set()
        while writer.poll() is None:
            corpus = Corpus(folder)
            first, second = corpus.tracks()
            assert len(first["codes_0"]) == len(second["codes_0"])
            assert_rows([first], [row("a", len(first["codes_0"]))])
            lengths.add(len(first["codes_0"]))
    assert writer.returncode == 0
    assert len(lengths) > 10
