"""Alignment maps: what is kept of them, and files that are none."""

import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from codec.corpus import CorpusWriter
from codec.tokens import TokenSpec, TokenStream
from conditioning.aligning import align_corpus
from conditioning.base import AlignmentMap
from conditioning.maps import LARGEST, map_file, pooled, read_map, write_map
from plugins.ground.errors import InputError

LYRICS = "la le\n\nli"


def diagonal(frames: int, tokens: int, sources: list[int], seconds: float = 0.5) -> AlignmentMap:
    weights = np.full((frames, tokens), 0.01, np.float32)
    weights[np.arange(frames), np.arange(frames) * tokens // frames] = 0.8
    return AlignmentMap(weights, seconds, sources)


def test_a_small_map_is_kept_as_it_is(tmp_path: Path) -> None:
    read = [i for i, letter in enumerate(LYRICS) if letter.isalpha()]  # six of nine characters
    write_map(tmp_path, "a/b é", LYRICS, diagonal(12, 6, read))
    found = read_map(tmp_path, "a/b é", LYRICS)
    assert found is not None
    assert (found.seconds, found.characters, found.levels.shape) == (6.0, 9, (12, 9))
    assert found.levels.argmax(1).tolist() == [read[i // 2] for i in range(12)]
    assert found.levels[:, [2, 5, 6]].max() == 0  # nothing was read of spaces
    assert found.levels.max() == 255
    assert 0 < found.levels[0, 8] < 10
    assert [path.name for path in (tmp_path / "maps").iterdir()] == [
        map_file(tmp_path, "a/b é").name
    ]
    assert read_map(tmp_path, "another", LYRICS) is None


@pytest.mark.parametrize(("frames", "tokens"), [(7000, 4000), (1501, 1), (3, 2 * LARGEST)])
def test_a_large_map_is_pooled_and_its_path_stays_where_it_was(frames: int, tokens: int) -> None:
    made = pooled(diagonal(frames, tokens, list(range(tokens)), 0.025), tokens)
    rows, columns = made.levels.shape
    assert max(rows, columns) <= LARGEST
    assert (rows, columns) == (min(frames, LARGEST), min(tokens, LARGEST))
    assert made.seconds == pytest.approx(frames * 0.025)
    where = made.levels.argmax(1) / columns
    assert np.abs(where - np.arange(rows) / rows).max() <= max(1 / rows, 2 / columns)


def test_several_bytes_of_a_character_are_one_place() -> None:
    # Two characters of two and three bytes; the second gets the more, spread over its bytes.
    seen = AlignmentMap(np.array([[0.2, 0.2, 0.2, 0.2, 0.2]], np.float32), 1.0, [0, 0, 1, 1, 1])
    assert pooled(seen, 2).levels.tolist() == [[170, 255]]


def test_maps_without_frames_or_weight_are_dark() -> None:
    assert pooled(AlignmentMap(np.zeros((0, 2), np.float32), 1.0, [0, 1]), 2).levels.max() == 0
    assert pooled(AlignmentMap(np.zeros((4, 0), np.float32), 1.0, []), 3).levels.shape == (4, 3)


def test_a_track_that_has_no_map_any_more(tmp_path: Path) -> None:
    write_map(tmp_path, "a", LYRICS, diagonal(4, 2, [0, 1]))
    write_map(tmp_path, "b", LYRICS, diagonal(4, 2, [0, 1]))
    write_map(tmp_path, "a", LYRICS, None)
    write_map(tmp_path, "a", LYRICS, None)
    assert read_map(tmp_path, "a", LYRICS) is None
    assert read_map(tmp_path, "b", LYRICS) is not None


def archive(path: Path, **arrays: object) -> None:
    with open(path, "wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def bomb(path: Path) -> None:
    """The header of an array that no machine can hold."""
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000000, 900), }"
    header += b" " * (63 - (len(header) + 10) % 64) + b"\n"
    content = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("levels.npy", content)


GOOD = {"levels": np.ones((2, 2), np.uint8), "seconds": 1.0, "characters": 9}
BROKEN = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("no map"),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:200]),
    "bits": lambda path: path.write_bytes(path.read_bytes().replace(b"\x00", b"\x01")),
    "folder": lambda path: (path.unlink(), path.mkdir()),
    "pickled": lambda path: archive(path, **{**GOOD, "levels": np.array([print], object)}),
    "less": lambda path: archive(path, levels=GOOD["levels"]),
    "deep": lambda path: archive(path, **{**GOOD, "levels": np.ones((2, 2, 2), np.uint8)}),
    "float": lambda path: archive(path, **{**GOOD, "levels": np.ones((2, 2))}),
    "wide": lambda path: archive(path, **{**GOOD, "levels": np.ones((LARGEST + 1, 2), np.uint8)}),
    "none": lambda path: archive(path, **{**GOOD, "levels": np.ones((0, 2), np.uint8)}),
    "no time": lambda path: archive(path, **{**GOOD, "seconds": np.nan}),
    "two times": lambda path: archive(path, **{**GOOD, "seconds": np.ones(2)}),
    "bomb": bomb,
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_damaged_file_is_named_with_what_to_do(tmp_path: Path, how: str) -> None:
    write_map(tmp_path, "a", LYRICS, diagonal(40, 9, list(range(9))))
    BROKEN[how](map_file(tmp_path, "a"))
    with pytest.raises(InputError, match=r"\.npz, the alignment map of a, is damaged: align aga"):
        read_map(tmp_path, "a", LYRICS)


def test_a_map_of_other_lyrics_is_refused(tmp_path: Path) -> None:
    write_map(tmp_path, "a", LYRICS, diagonal(4, 2, [0, 1]))
    with pytest.raises(InputError, match="was made of other lyrics: align again with --again"):
        read_map(tmp_path, "a", "something else")


def test_weights_of_another_shape_than_the_tokens(tmp_path: Path) -> None:
    for shape in [(4, 3), (4,), (4, 2, 1)]:
        seen = AlignmentMap(np.ones(shape, np.float32), 1.0, [0, 1])
        with pytest.raises(InputError, match=r"map of a has weights of shape \[4.* its 2 tokens"):
            write_map(tmp_path, "a", LYRICS, seen)
    assert read_map(tmp_path, "a", LYRICS) is None


def test_where_no_map_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "maps").write_text("a file")
    for seen in (diagonal(4, 2, [0, 1]), None):
        with pytest.raises(InputError, match=r"can't (write|remove) \S+npz"):
            write_map(tmp_path, "a", LYRICS, seen)


SEER = """
import numpy as np
from pydantic import BaseModel
from conditioning.base import Aligner, AlignmentMap, Word

class Seer(Aligner):
    class Config(BaseModel):
        blind: str = ""

    def align(self, track, spec):
        self.map = None
        if track["id"] == self.config.blind:
            return "it is dark"
        if "quick" not in track["lyrics"]:
            weights = np.full((4, len(track["lyrics"])), len(track["id"]), np.float32)
            self.map = AlignmentMap(weights, 0.5, range(len(track["lyrics"])))
        return [Word(0.0, 1.0, word, 1.0) for word in track["lyrics"].split()]
"""


def test_maps_are_kept_when_asked_and_go_with_their_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "site" / "seer-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "entry_points.txt").write_text("[jukebox.aligners]\nseer = seer_module:Seer\n")
    (tmp_path / "site" / "seer_module.py").write_text(SEER)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.delitem(sys.modules, "seer_module", raising=False)
    stream = TokenStream(name="0", vocab_size=4, hop_length=10)
    spec = TokenSpec(
        sample_rate=1000, channels=1, streams=(stream,), codec="vqvae", fingerprint="0" * 16
    )
    codes = np.zeros(200, np.uint16)
    lyrics = {"a": LYRICS, "b": LYRICS, "c": "quick words"}
    CorpusWriter(tmp_path / "tokens", spec).append(
        {"id": name, "path": name, "num_samples": 2000, "codes_0": codes, "lyrics": text}
        for name, text in lyrics.items()
    )

    def kept() -> list[str]:
        return [n for n, text in lyrics.items() if read_map(tmp_path / "tokens", n, text)]

    align_corpus(tmp_path / "tokens", "seer")
    assert kept() == []
    align_corpus(tmp_path / "tokens", "seer", maps=True)
    assert kept() == []  # they have words, and none of them was aligned again
    align_corpus(tmp_path / "tokens", "seer", maps=True, again=True)
    assert kept() == ["a", "b"]  # of c, the aligner has none
    align_corpus(tmp_path / "tokens", "seer", {"blind": "a"}, again=True)
    assert kept() == ["a"]  # whose words are still those of before
