"""Windows of a corpus that is read as a stream: each once an epoch, shuffled, split by process."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from music import SPEC, TINY

from codec import rows, shards
from codec.corpus import Corpus, CorpusWriter
from plugins.ground.errors import InputError
from plugins.ground.options import TrainingOptions
from plugins.ground.saved import load_weights
from prior.checkpoint import load_prior
from prior.streaming import StreamedWindows
from prior.training import train_prior

LANES = 4
CONTEXT = TINY["context"]


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Corpus:
    """A corpus that counts as too large for memory: 3 shards, row groups of a few tracks."""
    monkeypatch.setattr(shards, "IN_MEMORY", 0)
    monkeypatch.setattr(rows, "CODES_PER_GROUP", 1500)
    rng = np.random.default_rng(0)
    writer = CorpusWriter(tmp_path / "tokens", SPEC)
    for shard in range(3):
        lengths = rng.integers(1, 160, 12)
        writer.append([
            {
                "id": f"{shard}-{number}",
                "num_samples": int(length) * 32,
                "artist": "ab"[number % 2],
                "codes_0": rng.integers(0, 24, 4 * length),
                "codes_1": rng.integers(0, 12, length),
            }
            for number, length in enumerate(lengths)
        ])  # fmt: skip
    return Corpus(tmp_path / "tokens", streaming=True)


@pytest.fixture
def windows(large: Corpus, trained: Path) -> StreamedWindows:
    prior = load_prior(trained / "prior_1")
    return StreamedWindows(large, prior, range(30), seed=0, lanes=LANES)


def test_rows_are_those_of_a_mapped_corpus_and_nothing_is_written(large: Corpus) -> None:
    before = sorted(large.folder.rglob("*"))
    mapped = Corpus(large.folder)
    for index in (0, 35, 7, -1, 20):
        ours, theirs = large[index], mapped[index]
        assert ours.keys() == theirs.keys()
        assert all(np.array_equal(ours[name], theirs[name]) for name in ours)
        assert large.metadata(index) == mapped.metadata(index)
    assert np.array_equal(large.lengths("1"), mapped.lengths("1"))
    assert large.lengths("1", [3, 1]).tolist() == mapped.lengths("1")[[3, 1]].tolist()
    assert len(large.groups) > 6
    covered = [row for number in range(len(large.groups)) for row in large.groups.rows(number)]
    assert covered == list(range(36))
    assert large.groups.sizes("1").sum() == mapped.lengths("1").sum()
    again = Corpus(large.folder, streaming=True)
    again[3]
    assert [p for p in before if p.suffix == ".arrow"] == []
    with pytest.raises(IndexError):
        large[36]


def test_an_epoch_has_about_each_window_once_in_another_order_each_time(
    windows: StreamedWindows,
) -> None:
    count = len(windows)
    first, second = ([windows.place(epoch * count + n) for n in range(count)] for epoch in range(2))
    epochs = [first, second]
    assert epochs[0] != epochs[1]
    lengths = windows.corpus.lengths("1")
    for epoch in epochs:
        seen = Counter(track for track, _ in epoch)
        assert set(seen) <= set(range(30))
        for track in range(30):
            whole = -(-int(lengths[track]) // CONTEXT)
            assert abs(seen[track] - whole) <= max(2, whole), track
        assert len(set(seen)) >= 27
    assert all(start + 1 <= max(1, lengths[track]) for track, start in epochs[0])


def test_items_are_functions_of_their_index(windows: StreamedWindows, large: Corpus) -> None:
    ahead = {index: windows(index) for index in range(40)}
    for index in (31, 5, 18):
        again = windows(index)
        assert all(torch.equal(again[name], ahead[index][name]) for name in again)
    item = ahead[7]
    track, start = windows.place(7)
    codes = large.codes(track, "1")[start : start + CONTEXT]
    assert item["codes"][: len(codes)].tolist() == codes.tolist()
    assert item["mask"].sum() == len(codes)


def test_a_process_reads_the_row_groups_of_its_own_lanes(
    windows: StreamedWindows, large: Corpus
) -> None:
    read: dict[int, set[int]] = {}
    for lane in range(LANES):
        groups = set()
        for index in range(lane, 12 * LANES, LANES):
            track = windows.place(index)[0]
            groups |= {n for n in range(len(large.groups)) if track in large.groups.rows(n)}
        read[lane] = groups
    total = set().union(*read.values())
    assert len(total) > max(map(len, read.values())) + 2  # none reads nearly all
    assert all(len(read[a] & read[b]) <= 1 for a in read for b in read if a < b)


def test_a_track_list_without_codes_is_refused(
    large: Corpus, trained: Path, tmp_path: Path
) -> None:
    CorpusWriter(tmp_path / "none", SPEC).append([{"id": "a", "num_samples": 9}])
    prior = load_prior(trained / "prior_1")
    with pytest.raises(InputError, match="have no codes of stream '1'"):
        StreamedWindows(Corpus(tmp_path / "none", True), prior, [0], seed=0, lanes=2)


def test_training_streams_resumes_and_learns(large: Corpus, tmp_path: Path) -> None:
    common = {"batch_size": 4, "device": "cpu", "log_every": 1, "anneal": "none"}
    for steps, out in ((8, "whole"), (4, "parts"), (8, "parts")):
        options = TrainingOptions(steps=steps, **common)
        train_prior(large.folder, tmp_path / out, preset="tiny", set=TINY, held_out=["2-*"],
                    streaming=True, options=options)  # fmt: skip
    whole, parts = (load_weights(tmp_path / name) for name in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert not (large.folder / ".mapped").exists()
    options = TrainingOptions(steps=9, **common)
    with pytest.raises(InputError, match="streaming True, not None"):
        train_prior(large.folder, tmp_path / "whole", preset="tiny", set=TINY, held_out=["2-*"],
                    options=options)  # fmt: skip


def test_workers_make_the_same_batches(large: Corpus, tmp_path: Path) -> None:
    for workers in (0, 2):
        options = TrainingOptions(steps=4, batch_size=4, device="cpu", workers=workers)
        train_prior(large.folder, tmp_path / f"{workers}", preset="tiny", set=TINY,
                    streaming=True, options=options)  # fmt: skip
    one, two = (load_weights(tmp_path / name) for name in ("0", "2"))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_memory_does_not_grow_with_the_corpus(tmp_path: Path) -> None:
    script = """
import resource, sys
import numpy as np
from codec.corpus import Corpus, CorpusWriter
from codec.tokens import TokenSpec, TokenStream
streams = (TokenStream(name="0", vocab_size=2048, hop_length=128),)
spec = TokenSpec(sample_rate=44100, channels=1, streams=streams, codec="vqvae", fingerprint="0")
folder, shards = sys.argv[1], int(sys.argv[2])
if shards:
    rng = np.random.default_rng(0)
    writer = CorpusWriter(folder, spec)
    for shard in range(shards):
        tracks = (rng.integers(0, 2048, 4_000_000) for _ in range(8))
        writer.append([{"id": f"{shard}-{n}", "codes_0": t} for n, t in enumerate(tracks)])
    print(0)
else:
    corpus = Corpus(folder, streaming=True)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert sum(int(corpus.codes(i, "0")[0]) for i in range(len(corpus))) > 0
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""

    def grown(shards: int) -> int:
        words = [sys.executable, "-c", script, str(tmp_path / "tokens"), str(shards)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(words, capture_output=True, text=True, check=True, env=environment)
        return int(done.stdout)

    grown(6)  # 384 MB of codes
    assert grown(0) < 300
    assert not (tmp_path / "tokens" / ".mapped").exists()
