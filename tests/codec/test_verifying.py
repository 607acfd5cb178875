"""Every kind of damage to a corpus is found and named, and there is a way out of it."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from codec.checkpoint import read_spec
from codec.corpus import Corpus, CorpusWriter
from codec.rows import schema
from codec.tokenizing import tokenize_files
from codec.tokens import TokenSpec, TokenStream
from codec.verify import VerifyCorpus
from codec.verifying import DAMAGED, verify_corpus
from plugins.ground.errors import InputError
from plugins.ground.files import sha256_of

SPEC = TokenSpec(
    sample_rate=8000,
    channels=1,
    streams=(
        TokenStream(name="0", vocab_size=65536, hop_length=4),
        TokenStream(name="1", vocab_size=100, hop_length=16),
    ),
    codec="vqvae",
    fingerprint="0123456789abcdef",
)


def row(name: str, **more: Any) -> dict[str, Any]:
    """A row with codes that depend on its name."""
    rng = np.random.default_rng(sum(name.encode()))
    codes = {"codes_0": rng.integers(0, 65536, 400), "codes_1": rng.integers(0, 100, 100)}
    words = [{"start": 0.5, "end": 1.0, "text": name}]
    return {"id": name, "artist": "Anna", "num_samples": 1600, **codes, "words": words, **more}


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A corpus of four shards, tracks a and b in the first, c, d, e in the others."""
    writer = CorpusWriter(tmp_path / "corpus", SPEC, {}, {"bpm": "int64"})
    for names in ("ab", "c", "d", "e"):
        writer.append([row(name, bpm=90) for name in names])
    return tmp_path / "corpus"


def paths(corpus: Path) -> list[Path]:
    """Of the shards, in order."""
    content = json.loads((corpus / "corpus.json").read_text())
    return [corpus / shard["file"] for shard in content["shards"]]


def rewritten(path: Path, **columns: list[Any]) -> None:
    """A shard again with other values, and its checksum in the manifest."""
    table = pq.read_table(path)
    for name, values in columns.items():
        place = table.schema.get_field_index(name)
        field = table.schema.field(name)
        table = table.set_column(place, field, pa.array(values, field.type))
    replaced(path, table)


def replaced(path: Path, table: pa.Table) -> None:
    before = sha256_of(path)
    pq.write_table(table, path)
    manifest = path.with_name("corpus.json")
    manifest.write_text(manifest.read_text().replace(before, sha256_of(path)))


def test_what_is_sound(written: Path) -> None:
    found, damaged = verify_corpus(written, SPEC)
    assert not damaged
    assert (len(found.manifest.shards), found.tracks, found.codes) == (4, 5, 5 * 500)
    before = sorted(written.iterdir())
    assert not verify_corpus(written, drop=True)[1]
    assert sorted(written.iterdir()) == before


def test_a_corpus_of_another_codec(written: Path) -> None:
    other = SPEC.model_copy(update={"fingerprint": "fedcba9876543210"})
    with pytest.raises(InputError, match=r"codec vqvae 0123456789abcdef.*fedcba9876543210"):
        verify_corpus(written, other)


def test_all_that_is_damaged_is_named(written: Path) -> None:
    first, _, third, fourth = paths(written)
    first.write_bytes(first.read_bytes()[:-100])
    third.unlink()
    fourth.write_bytes(fourth.read_bytes() + b"\0")
    found, damaged = verify_corpus(written)
    assert [reason.split()[1] for reason in damaged] == [str(p) for p in (first, third, fourth)]
    assert "is missing" in damaged[1]
    assert all(len(reason.splitlines()) == 1 for reason in damaged)
    assert found.tracks == 1


DAMAGES: list[tuple[dict[str, list[Any]], str]] = [
    ({"codes_1": [[1, 2, 100]]}, "column codes_1 leaves its codebook of 100"),
    ({"codes_0": [None]}, "column codes_0 lacks values"),
    ({"codes_0": [[1, None]]}, "column codes_0 lacks values"),
    ({"num_samples": [None]}, "column num_samples lacks values"),
    ({"num_samples": [-1]}, "num_samples is negative"),
    ({"artist": [None]}, "column artist lacks values"),
    ({"words": [[{"start": 1.0, "end": None, "text": "la"}]]}, "column words lacks values"),
    ({"id": [""]}, "a track has no id"),
    ({"id": [None]}, "column id lacks values"),
    ({"id": ["a"]}, r"it holds track 'a', as tracks-00000\S+ does"),
]


@pytest.mark.parametrize(("columns", "reason"), DAMAGES)
def test_rows_that_no_writer_writes(
    written: Path, columns: dict[str, list[Any]], reason: str
) -> None:
    path = paths(written)[1]
    rewritten(path, **columns)
    found, damaged = verify_corpus(written)
    assert len(damaged) == 1
    assert found.tracks == 4
    with pytest.raises(InputError, match=reason):
        raise InputError(damaged[0])
    with pytest.raises(InputError, match=r"damaged or cut off|two tracks of id"):
        Corpus(written)


def test_text_that_is_none(written: Path) -> None:
    path = paths(written)[1]
    table = pq.read_table(path)
    place = table.schema.get_field_index("title")
    raw = pa.StringArray.from_buffers(
        1, pa.array([0, 2], pa.int32()).buffers()[1], pa.py_buffer(b"\xff\xfe")
    )
    replaced(path, table.set_column(place, "title", raw))
    (reason,) = verify_corpus(written)[1]
    assert "UTF8" in reason
    with pytest.raises(InputError, match="damaged or cut off"):
        Corpus(written)


def test_two_tracks_of_one_id_in_a_shard(written: Path) -> None:
    rewritten(paths(written)[0], id=["a", "a"])
    (reason,) = verify_corpus(written)[1]
    assert "two tracks of one id" in reason


def test_a_row_group_larger_than_any_writer_makes(written: Path) -> None:
    path = paths(written)[1]
    one = pq.read_table(path)
    many = pa.concat_tables([one] * 1025).combine_chunks()
    ids = pa.array([str(number) for number in range(1025)])
    many = many.set_column(0, one.schema.field(0), ids)
    content = json.loads((written / "corpus.json").read_text())
    content["shards"][1]["rows"] = 1025
    (written / "corpus.json").write_text(json.dumps(content))
    replaced(path, many)
    (reason,) = verify_corpus(written)[1]
    assert "no writer puts 1,025 rows" in reason


@pytest.mark.parametrize("place", range(40))
def test_a_flipped_bit_is_met_wherever_it_is(written: Path, place: int) -> None:
    rng = np.random.default_rng(place)
    expected = [str(track) for track in Corpus(written).tracks()]
    path = paths(written)[0]
    content = bytearray(path.read_bytes())
    content[rng.integers(len(content))] ^= 1 << rng.integers(8)
    path.write_bytes(content)
    (reason,) = verify_corpus(written)[1]
    assert str(path) in reason
    try:
        found = [str(track) for track in Corpus(written).tracks()]
    except InputError as error:
        found = None
        said = str(error)
    # Headers have no checksum: where one of them was hit, the codes are met as they were.
    assert found == expected or (found is None and str(path) in said)


def test_pages_have_checksums(written: Path) -> None:
    """A bit in the codes, where nothing else would show it."""
    codes = np.random.default_rng(0).integers(0, 65536, 20_000)
    CorpusWriter(written, SPEC, {}).append([row("long", codes_0=codes)])
    path = paths(written)[4]
    content = bytearray(path.read_bytes())
    middle = content.find(b"PAR1", 4) // 2
    content[middle] ^= 1
    path.write_bytes(content)
    for streaming in (False, True):
        with pytest.raises(InputError, match=rf"shard {path} is damaged"):
            Corpus(written, streaming)
    with (
        pq.ParquetFile(path, page_checksum_verification=True) as file,
        pytest.raises(OSError, match="CRC"),
    ):
        file.read()


def test_going_on_without(written: Path) -> None:
    first, second, third, _ = paths(written)
    kept = second.read_bytes()
    first.write_bytes(b"PAR1")
    third.unlink()
    _, damaged = verify_corpus(written, drop=True)
    assert len(damaged) == 2
    assert Corpus(written).ids() == ["c", "e"]
    assert second.read_bytes() == kept
    aside = first.with_name(first.name + DAMAGED)
    assert aside.read_bytes() == b"PAR1"
    CorpusWriter(written, SPEC, {}).append([row("a", bpm=90), row("b", bpm=90)])
    again = paths(written)[2]
    again.write_bytes(b"PAR2")
    verify_corpus(written, drop=True)
    CorpusWriter(written, SPEC, {}).append([row("f")])
    left = {path.name: path.read_bytes() for path in written.glob(f"*{DAMAGED}")}
    assert sorted(left.values()) == [b"PAR1", b"PAR2"]
    assert Corpus(written).ids() == ["c", "e", "f"]


def test_a_sound_shard_that_is_listed_twice_stays(written: Path) -> None:
    content = json.loads((written / "corpus.json").read_text())
    content["shards"].append(content["shards"][1])
    (written / "corpus.json").write_text(json.dumps(content))
    assert len(verify_corpus(written, drop=True)[1]) == 1
    assert Corpus(written).ids() == ["a", "b", "c", "d", "e"]


def test_dropping_what_others_write(written: Path) -> None:
    paths(written)[0].write_bytes(b"")
    before = sorted(written.iterdir())
    program = (
        "import sys; from plugins.ground.files import FolderLock\n"
        "with FolderLock(sys.argv[1]): print(flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(written)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout
        other.stdout.readline()
        with pytest.raises(InputError, match="another process writes to"):
            verify_corpus(written, drop=True)
        assert sorted(written.iterdir()) == before
        assert len(verify_corpus(written)[1]) == 1  # which writes nothing


def test_the_tracks_are_coded_again(codec_folder: Path, music: Path, tmp_path: Path) -> None:
    out = tmp_path / "tokens"
    whole = tokenize_files(music, codec_folder, out, shard_tracks=2)
    expected = {track["id"]: track for track in whole.tracks()}
    path = paths(out)[1]
    path.write_bytes(path.read_bytes()[::-1])
    with pytest.raises(InputError, match=r"codec.verify --drop"):
        tokenize_files(music, codec_folder, out, shard_tracks=2)
    verify_corpus(out, read_spec(codec_folder), drop=True)
    again = tokenize_files(music, codec_folder, out, shard_tracks=2)
    for track in again.tracks():
        for name, value in expected.pop(track["id"]).items():
            assert np.array_equal(track[name], value) if "codes" in name else track[name] == value
    assert not expected
    assert not verify_corpus(out)[1]


def test_the_command(
    written: Path, codec_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*words: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            VerifyCorpus.main([str(word) for word in words])
        said = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        err = [line for line in said.err.splitlines() if not line.startswith("verifying")]
        return ended.value.code, said.out, "\n".join(err)

    status, out, err = run(written)
    assert (status, err) == (0, "")
    assert out == f"4 of 4 shards in {written} are sound: 5 tracks, 2,500 codes\n"
    status, out, err = run(written, "--codec", codec_folder)
    assert status == 2
    assert "holds codes of codec vqvae 0123456789abcdef" in err
    path = paths(written)[0]
    shutil.copy(path, tmp_path / "kept")
    path.write_bytes(path.read_bytes()[:100])
    status, out, err = run(written)
    assert status == 2
    assert out.splitlines()[0].startswith(f"shard {path} is damaged")
    assert out.splitlines()[1] == f"3 of 4 shards in {written} are sound: 3 tracks, 1,500 codes"
    assert err.startswith(f"error: 1 of 4 shards in {written} are damaged: ")
    assert len(err.splitlines()) == 1
    status, out, err = run(written, "--drop")
    assert status == 2
    assert "taken out" in err
    assert run(written)[0] == 0
    assert schema(SPEC, {"bpm": "int64"}).names == list(Corpus(written)[0])
