"""Word times from attention: the path on matrices with known times, then real priors."""

import itertools
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from codec.corpus import Corpus, CorpusWriter
from codec.tokens import TokenSpec, TokenStream
from conditioning.align import Align
from conditioning.base import Window, Word
from conditioning.lyrics import LyricsMemory, LyricsPrefix
from plugins import registry
from plugins.attention_aligner.aligner import AttentionAligner
from plugins.attention_aligner.looking import Head, attention
from plugins.attention_aligner.path import SKIPPED, Lattice, Sung, best_path, best_score, sung_words
from plugins.attention_aligner.times import timed_words
from plugins.ground.errors import InputError
from plugins.openai.converting import convert
from prior.checkpoint import save_prior
from prior.config import PriorConfig, preset
from prior.prior import Prior

GOLDEN = Path(__file__).parent.parent / "golden"
CHARACTERS = 120
"""That the frames of `singing` see at a time."""


@dataclass
class Singing:
    """Attention as a prior might give it, and when each word is really sung."""

    attention: np.ndarray  # [F, C]
    even: float
    words: list[tuple[int, int]]
    times: list[tuple[int, int]]


def singing(seed: int, sharp: float, skipped: tuple[int, ...] = (), intro: int = 200) -> Singing:
    """Eighty words with pauses; a part of the attention, `sharp`, follows them, half as much goes
    wherever the same line is written, and the rest is noise. The song begins with silence.
    """
    rng = np.random.default_rng(seed)
    lengths = [*rng.integers(1, 9, 20)] * 4  # one line, four times
    ends = np.cumsum([n + 1 for n in lengths])
    words = [(int(end - n - 1), int(end - 1)) for n, end in zip(lengths, ends, strict=True)]
    line, count = int(ends[19]), int(ends[-1])
    at, times = [-1] * intro, []
    for number, (start, stop) in enumerate(words):
        if number not in skipped:
            frames = int((stop - start) * rng.uniform(3, 7))
            times.append((len(at), len(at) + frames))
            at += (start + np.arange(frames) * (stop - start) // frames).tolist()
        else:
            times.append((len(at), len(at)))
        at += [-1] * int(rng.integers(0, 40) * (rng.random() < 0.3))
    at += [-1] * 50
    attention = np.zeros((len(at), count), np.float32)
    for frame, char in enumerate(at):
        first = min(max(0, count * frame // len(at) - CHARACTERS // 2), count - CHARACTERS)
        noise = rng.exponential(1, CHARACTERS)
        row = (1 - 1.5 * sharp * (char >= 0)) * noise / noise.sum()
        if char >= 0:
            for number in range(4):
                twin = char % line + number * line - first
                if 0 <= twin < CHARACTERS:
                    row[twin] += sharp * (1 if twin + first == char else 0.5)
        attention[frame, first : first + CHARACTERS] = row
    return Singing(attention, 1 / CHARACTERS, words, times)


@pytest.mark.parametrize("sharp", [0.5, 0.2, 0.1])
def test_the_path_finds_words_through_noise_silence_and_repeated_lines(sharp: float) -> None:
    song = singing(0, sharp)
    found = sung_words(song.attention, song.even, song.words)
    assert all(found)
    starts = [word.first - start for word, (start, _) in zip(found, song.times, strict=True)]
    ends = [word.last + 1 - end for word, (_, end) in zip(found, song.times, strict=True)]
    assert np.abs([starts, ends]).mean() < 1.5
    assert np.abs([starts, ends]).max() <= 15  # frames, of the 900 that a line lasts
    mean = np.mean([word.confidence for word in found])
    assert 0.9 * sharp < mean < sharp + 0.15


def test_words_that_are_not_sung_are_passed_over() -> None:
    left_out = (*range(20, 26), 50)
    song = singing(1, 0.5, skipped=left_out)
    found = sung_words(song.attention, song.even, song.words)
    # Where the same line is sung at another place, a word of it may be heard in the gap.
    passed_over = {number for number, word in enumerate(found) if word is None}
    assert passed_over <= set(left_out)
    assert len(passed_over) >= 5
    errors = [
        word.first - start for word, (start, _) in zip(found, song.times, strict=True) if word
    ]
    assert np.abs(errors).mean() < 1.5


def test_attention_to_nothing_makes_no_words_or_unsure_ones() -> None:
    even = np.full((300, 200), 1 / 200, np.float32)
    words = [(4 * n, 4 * n + 3) for n in range(50)]
    assert not any(sung_words(even, 1 / 200, words))
    noise = np.random.default_rng(0).exponential(1 / 200, (300, 200)).astype(np.float32)
    found = sung_words(noise, 1 / 200, words)
    assert np.mean([word.confidence if word else 0 for word in found]) < 0.03


def gain(song: Singing, attention: np.ndarray) -> float:
    cuts = [0, len(attention) // 2, len(attention)]
    return Lattice.of(attention, song.even, song.words).gain(cuts)


def test_what_goes_through_the_lyrics_gains_and_what_is_only_sharp_does_not() -> None:
    made = [singing(2, sharp) for sharp in (0.5, 0.2, 0.1, 0.05, 0.0)]
    gains = [gain(song, song.attention) for song in made]
    assert gains == sorted(gains, reverse=True)
    assert gains[3] > 2 * 80 > 20 * abs(gains[4])  # nats for 80 words
    song, noise = made[0], made[4].attention
    spot, jumping = noise.copy(), noise.copy()
    spot[:, 33] += 0.5
    where = np.random.default_rng(0).integers(0, noise.shape[1], len(noise))
    jumping[np.arange(len(noise)), where] += 0.5
    for other in (spot, jumping, song.attention[::-1]):
        assert gain(song, other) < 0.1 * gains[0]


@pytest.mark.parametrize("waits_at", [4, 5])
def test_a_word_does_not_begin_while_its_beginning_is_waited_for(waits_at: int) -> None:
    """Two lines of one word; between them the newline is looked at, or what is sung next."""
    attention = np.full((60, 9), 0.01, np.float32)
    seen = [(5, 7, 0), (7, 9, 1), (9, 13, 2), (20, 50, waits_at), (50, 54, 6), (54, 60, 8)]
    for first, behind, token in seen:
        attention[first:behind, token] = 0.9
    sung = sung_words(attention, 1 / 9, [(0, 4), (5, 9)])
    assert all(sung)
    assert (
        np.abs([word.first - first for word, first in zip(sung, (5, 50), strict=True)]).max() <= 3
    )
    assert np.abs([word.last - last for word, last in zip(sung, (12, 59), strict=True)]).max() <= 1


def total(path: Sequence[int], scores: np.ndarray, costs: np.ndarray) -> float:
    skipped = sum(costs[before + 1 : state].sum() for before, state in itertools.pairwise(path))
    skipped += costs.max() if costs[path[-1] + 1 :].any() else 0
    return float(sum(scores[frame, state] for frame, state in enumerate(path)) - skipped)


def test_the_path_is_the_best_of_all() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        scores = 2 * rng.standard_normal((4, 5))
        costs = rng.choice([0.0, 1.0, SKIPPED], 5)
        paths = [p for p in np.ndindex(5, 5, 5, 5) if list(p) == sorted(p)]
        best = max(total(path, scores, costs) for path in paths)
        assert total(best_path(scores, costs).tolist(), scores, costs) == pytest.approx(best)
        assert best_score(scores, costs) == pytest.approx(best)


def test_words_that_were_passed_over_lie_between_the_others() -> None:
    sung = [None, Sung(2, 3, 0.5), None, None, Sung(8, 9, 0.25), Sung(10, 10, 1.0), None]
    words = timed_words([*"abcdefg"], sung, 0.5, 5.25)
    assert [(word.start, word.end) for word in words] == [
        (1, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 5.25), (5.25, 5.25)
    ]  # fmt: skip
    assert [word.confidence for word in words] == [0, 0.5, 0, 0, 0.25, 1, 0]


# Priors whose attention follows by construction

HOP, RATE, CONTEXT, SEEN = 200, 8000, 64, 64
LETTERS = "abcdefghijklmnopqrstuvwxyz"
SILENCE = 31
SPEC = TokenSpec(
    sample_rate=RATE,
    channels=1,
    streams=(TokenStream(name="0", vocab_size=32, hop_length=HOP),),
    codec="vqvae",
    fingerprint="0123456789abcdef",
)


def song(
    seed: int, words: int = 25, silence: int = 0
) -> tuple[dict[str, Any], list[tuple[float, float]]]:
    """A track whose codes name the letter that is sung, and times of words.

    A place's query knows the code before it, a position of the lyrics the letter before its own;
    so these are what attention can compare.
    """
    rng = np.random.default_rng(seed)
    lyrics = " ".join("".join(rng.choice([*LETTERS], n)) for n in rng.integers(2, 7, words))
    lyrics = f"\N{EIGHTH NOTE} {lyrics} d\u00e9j\u00e0 vu"
    codes, times = [SILENCE] * (silence + int(rng.integers(20, 50))), []
    for word in lyrics.replace("\u00e9", "e").replace("\u00e0", "a").split()[1:]:
        codes += [SILENCE] * int(rng.integers(2, 5))
        begins = len(codes)
        for letter in word:
            codes += [LETTERS.index(letter)] * int(rng.integers(2, 5))
        times.append((begins * HOP / RATE, len(codes) * HOP / RATE))
        codes += [SILENCE] * int(rng.integers(0, 4) ** 2)
    codes += [SILENCE] * 20
    row = {
        "id": f"song-{seed}",
        "num_samples": len(codes) * HOP + 99,
        "lyrics": lyrics,
        "codes_0": np.array(codes, np.uint16),
    }
    return row, times


def following(folder: Path, design: str, name: str | None = None) -> Path:
    """A model whose last lyric layer's head 1 attends to characters equal to the code before.

    Args:
        folder: of the model.
        design: memory or prefix.
        name: of a conditioner that reads lyrics so; the toolkit's own by default.
    """
    network = {"width": 64, "depth": 1, "heads": 1, "blocks": 1, "patterns": ["dense"]}
    settings = {"tokens": SEEN} | ({"network": network} if design == "memory" else {})
    name = name or f"lyrics_{design}"
    cls = registry.get(registry.CONDITIONERS, name)
    record = registry.record(registry.CONDITIONERS, name, cls.Config.model_validate(settings))
    config = PriorConfig(
        context=CONTEXT,
        width=64,
        depth=4,
        heads=2,
        blocks=4,
        patterns=("dense", design),
        attention_ratio=1.0,
        spec=SPEC,
        stream="0",
        vocab_size=32,
        conditioners=(record,),
    )
    prior = Prior(config)
    lyrics: Any = prior.conditioners[name]
    alphabet = lyrics.config.alphabet
    characters = torch.zeros(len(alphabet) + 1, 64)
    for number, char in enumerate(LETTERS):
        characters[alphabet.index(char) + 1, number] = 1
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.zero_()
        for norm in (m for m in prior.modules() if isinstance(m, torch.nn.LayerNorm)):
            norm.weight.fill_(1)
        codes = torch.eye(32, 64)
        codes[SILENCE] = 0
        prior.embedding.weight[-32:] = codes
        attention: Any = prior.transformer.layers[-1].attention
        follows = torch.eye(64).roll(32, 0)  # the second head reads the first half of the vectors
        if design == "memory":
            lyrics.embedding.weight.copy_(characters)
            lyrics.projection.weight.copy_(torch.eye(64))
            attention.query.weight.copy_(follows)
            attention.memory.weight[:64] = follows
        else:
            prior.embedding.weight[:-32] = characters
            attention.qkv.weight[:128] = torch.cat([follows, follows])
    save_prior(prior, folder / "prior_0")
    return folder


@pytest.fixture(scope="module", params=["memory", "prefix"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return following(tmp_path_factory.mktemp(request.param), request.param)


def aligner(model: Path, **settings: Any) -> AttentionAligner:
    return AttentionAligner(AttentionAligner.Config(model=model, device="cpu", **settings))


def assert_ordered(words: list[Word], length: float) -> None:
    """Times don't fall and lie within the track."""
    times = [time for word in words for time in (word.start, word.end)]
    assert times == sorted(times)
    assert 0 <= times[0] <= times[-1] <= length
    assert all(0 <= word.confidence <= 1 for word in words)


@pytest.mark.parametrize("settings", [{}, {"head": 1, "hop_fraction": 0.3}, {"dtype": "bfloat16"}])
@pytest.mark.parametrize("seed", [0, 1])
def test_words_get_their_times_from_attention(
    model: Path, seed: int, settings: dict[str, Any]
) -> None:
    row, times = song(seed)
    assert len(row["codes_0"]) > 5 * CONTEXT
    assert len(row["lyrics"]) > 1.5 * SEEN
    words = aligner(model, **settings).align(row, SPEC)
    assert not isinstance(words, str)
    assert [word.text for word in words] == row["lyrics"].split()
    assert_ordered(words, row["num_samples"] / RATE)
    first, *sung = words
    assert first == Word(sung[0].start, sung[0].start, "\N{EIGHTH NOTE}", 0.0)
    starts = [word.start - start for word, (start, _) in zip(sung, times, strict=True)]
    ends = [word.end - end for word, (_, end) in zip(sung, times, strict=True)]
    code = HOP / RATE
    assert np.abs(starts).mean() < 1.5 * code  # the code before a place is what its query knows
    assert np.abs(ends).mean() < 2 * code
    assert np.abs([starts, ends]).max() < 5 * code
    assert np.mean([word.confidence for word in sung]) > 0.2


def test_a_corpus_gets_its_words_by_the_command(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [song(seed)[0] for seed in (0, 1)]
    CorpusWriter(tmp_path / "tokens", SPEC, {}).append(rows)
    with pytest.raises(SystemExit) as ended:
        Align.main([str(tmp_path / "tokens"), "--model", str(model), "--device", "cpu"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    for row, found in zip(rows, Corpus(tmp_path / "tokens").tracks(), strict=True):
        words = aligner(model).align(row, SPEC)
        assert [(w["start"], w["end"], w["text"]) for w in found["words"]] == [
            (pytest.approx(word.start), pytest.approx(word.end), word.text) for word in words
        ]
        mean = np.mean([word.confidence for word in words])
        assert f"{row['id']}: 28 words, mean confidence {mean:.2f}, 1 of them not found" in said


def test_the_head_that_follows_is_found(model: Path) -> None:
    row, _ = song(0)
    assert aligner(model).align(row, SPEC) == aligner(model, head=1).align(row, SPEC)
    reason = aligner(model, head=0).align(row, SPEC)
    assert reason == "no head that reads lyrics follows its words"
    assert aligner(model, layer=1).align(row, SPEC) == reason


def test_windows_of_lyrics_follow_the_words_that_were_found(tmp_path: Path) -> None:
    """Behind a long silence the straight line shows words that are not sung yet."""
    model = following(tmp_path, "memory")
    row, times = song(3, words=40, silence=300)
    missed = []
    for passes in (1, 3):
        words = aligner(model, passes=passes).align(row, SPEC)
        assert not isinstance(words, str)
        pairs = zip(words[1:], times, strict=True)
        missed.append(sum(abs(word.start - start) > 0.3 for word, (start, _) in pairs))
    assert missed[0] > 5
    assert missed[1] < missed[0] / 2


def test_words_that_a_track_has_do_not_matter(model: Path) -> None:
    row, _ = song(0)
    wrong = [{"start": 0.0, "end": 0.1, "text": text} for text in row["lyrics"].split()]
    made = aligner(model)
    assert made.align({**row, "words": wrong}, SPEC) == made.align(row, SPEC)


STRANGE = """
from conditioning.base import LyricsReader
from conditioning.lyrics import LyricsPrefix

class Strange(LyricsReader):
    Config = LyricsPrefix.Config

    def __init__(self, config, site):
        super().__init__(config, site)
        self.inner = LyricsPrefix(config, site)
        self.provides = self.inner.provides
        self.prepare, self.excerpt = self.inner.prepare, self.inner.excerpt

    provides = prepare = excerpt = None

    def forward(self, batch):
        return self.inner(batch)
"""


def test_a_strangers_reader_of_lyrics_is_looked_at_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "strange-1.0.dist-info"
    info.mkdir()
    (info / "entry_points.txt").write_text("[jukebox.conditioners]\nstrange = strange:Strange\n")
    (tmp_path / "strange.py").write_text(STRANGE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "strange", raising=False)
    row, _ = song(1)
    words = aligner(following(tmp_path / "strange", "prefix", "strange")).align(row, SPEC)
    assert words == aligner(following(tmp_path / "own", "prefix")).align(row, SPEC)
    assert not isinstance(words, str)


def test_tracks_shorter_than_a_window_and_samples_that_are_not_finished(model: Path) -> None:
    row, times = song(0)
    for count in (1, 40, CONTEXT, CONTEXT + 1, 200):
        part = {**row, "codes_0": row["codes_0"][:count]}
        whole = {"total_seconds": row["num_samples"] / RATE}
        for shown, settings in ((part, {}), ({**part, "num_samples": count * HOP}, whole)):
            words = aligner(model, head=1, **settings).align(shown, SPEC)
            heard = sum(start < count * HOP / RATE - 0.1 for start, _ in times)
            if heard and not isinstance(words, str):
                assert_ordered(words, count * HOP / RATE)
                assert sum(word.confidence > 0 for word in words) == pytest.approx(heard, abs=1)
            else:
                assert heard <= 1


def test_tracks_that_can_not_be_aligned_get_a_reason(model: Path) -> None:
    row, _ = song(0)
    made = aligner(model)
    none = np.zeros(0, np.uint16)
    for change, reason in (
        ({"lyrics": " \n"}, "it has no lyrics"),
        ({"lyrics": "\N{EIGHTH NOTE}"}, "its lyrics have no character that the prior reads"),
        ({"codes_0": none}, "it has no codes of stream 0"),
    ):
        assert made.align({**row, **change}, SPEC) == reason
    other = SPEC.model_copy(update={"fingerprint": "f" * 16})
    with pytest.raises(InputError, match=r"the corpus holds codes of codec vqvae ffff"):
        made.align(row, other)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layer": 0}, r"layer 0 of \S+prior_0 reads no lyrics; there are: (0, )?1, (2, )?3"),
        ({"layer": 4}, r"layer 4 of \S+prior_0 reads no lyrics; there are: (0, )?1, (2, )?3"),
        ({"head": 2}, r"no head 2 in \S+prior_0: layers have heads 0 to 1"),
        ({"head": -1}, r"no head -1"),
        ({"stream": "1"}, r"no prior of stream '1'; there are: 0"),
    ],
)
def test_settings_that_the_model_refuses(
    model: Path, settings: dict[str, Any], message: str
) -> None:
    if settings == {"layer": 0} and "prefix" in str(model):
        settings = {"layer": -1}
        message = message.replace("layer 0", "layer -1")
    with pytest.raises(InputError, match=message):
        aligner(model, **settings)


# The published shapes


@pytest.mark.parametrize("case", ["lyrics_separate", "lyrics_single"])
def test_attention_is_the_references_and_gives_ordered_times(case: str, tmp_path: Path) -> None:
    convert([GOLDEN / "codec.pth.tar", GOLDEN / f"{case}.pth.tar"], tmp_path / "model")
    expected = np.load(GOLDEN / f"{case}_expected.npz")
    made = aligner(tmp_path / "model", layer=int(expected["alignment_layer"]))
    spec, reader = made.prior.config.spec, made.reading.reader
    assert isinstance(reader, LyricsMemory | LyricsPrefix)
    alphabet = reader.config.alphabet
    for number, labels in enumerate(expected["labels"].tolist()):
        total, offset, _, artist, *genres = labels[:7]
        codes = expected["codes"][number]
        track = {
            "artist": str(artist),
            "genre": " ".join(str(genre) for genre in genres if genre >= 0),
            "lyrics": "".join(alphabet[token - 1] for token in labels[7:]),
            "codes_2": codes.astype(np.uint16),
            "num_samples": 128 * len(codes),
        }
        window = Window(offset // 128, total)
        found = attention(made.prior, made.reading, track, window, codes, made.heads)
        np.testing.assert_allclose(found, expected["alignment_attention"][number], atol=1e-4)
        words = made.align(track, spec)
        if not isinstance(words, str):  # random weights follow nothing, or anything
            assert [word.text for word in words] == track["lyrics"].split()
            assert_ordered(words, 64 * 128 / 44100)


@pytest.mark.parametrize(
    ("name", "depth", "settings", "layers"),
    [
        ("5b_lyrics", 79, {}, [18, 28, 38, 48, 58, 68, 78]),
        ("5b_lyrics", 20, {}, [18]),
        ("1b_lyrics", 72, {}, [15, 31, 47, 63]),
        ("5b_lyrics", 79, {"layer": 68, "head": 2}, [68]),
        ("1b_lyrics", 72, {"layer": 15}, [15]),
    ],
)
def test_published_shapes_are_looked_at_where_they_look_at_lyrics(
    name: str, depth: int, settings: dict[str, int], layers: list[int], tmp_path: Path
) -> None:
    design = "memory" if name == "5b_lyrics" else "prefix"
    network = {"width": 4, "depth": 1, "heads": 1, "blocks": 1}
    lyrics = {"tokens": 16} | ({"network": network} if design == "memory" else {})
    cls = registry.get(registry.CONDITIONERS, f"lyrics_{design}")
    config = cls.Config.model_validate(lyrics)
    record = registry.record(registry.CONDITIONERS, f"lyrics_{design}", config)
    small = {"context": 16, "width": 16, "heads": 4, "blocks": 4, "depth": depth}
    prior = Prior(preset(name, SPEC, "0", [record], **small))
    save_prior(prior, tmp_path / "prior_0")
    made = aligner(tmp_path, **settings)
    numbers = [settings["head"]] if "head" in settings else range(4)
    assert made.heads == [Head(layer, head) for layer in layers for head in numbers]
    assert len(made.prior.transformer.layers) == layers[-1] + 1


def test_a_prior_without_lyrics_is_refused(tmp_path: Path) -> None:
    save_prior(Prior(preset("tiny", SPEC, "0", width=16)), tmp_path / "prior_0")
    with pytest.raises(InputError, match=r"prior_0 reads no lyrics \(it is told nothing\)"):
        aligner(tmp_path)
