"""What the toolkit expects of an aligner: words in order, within the track, or a reason."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from pydantic import BaseModel

from codec.corpus import Corpus, CorpusWriter
from codec.rows import column_types
from codec.tokens import TokenSpec, TokenStream
from conditioning.aligning import align_corpus
from conditioning.base import Aligner, AlignmentMap, Word
from plugins import registry
from plugins.testing.contract import ConfiguredContract, is_line, maybe_refused

SPEC = TokenSpec(
    sample_rate=8000,
    channels=1,
    streams=(TokenStream(name="0", vocab_size=32, hop_length=200),),
    codec="vqvae",
    fingerprint="0123456789abcdef",
)
SECONDS = 12
LYRICS = "Here is a line\nand here the second\n\nand one more, the last: naïve"
ROUNDING = 1e-3
"""Seconds that a word may end behind the track."""


class AlignerContract(ConfiguredContract):
    """A subclass of `Aligner`.

    Where it needs a model, audio or other files, override `settings`, a fixture, and make them
    there; `track` says which track is aligned, and `spec` of what its codes are.
    """

    group = registry.ALIGNERS
    track: ClassVar[Mapping[str, Any]] = {}
    """Columns of a track that it can align, over those of one of 12 s with three lines."""
    spec: ClassVar[TokenSpec] = SPEC

    @pytest.fixture
    def labels(self) -> Mapping[str, Any]:
        """`track`; override this fixture where its columns must be made."""
        return self.track

    @pytest.fixture
    def song(self, labels: Mapping[str, Any]) -> dict[str, Any]:
        """The whole row of the track."""
        rate = self.spec.sample_rate
        samples = labels.get("num_samples", SECONDS * rate)
        codes = {
            f"codes_{s.name}": np.random.default_rng(0)
            .integers(s.vocab_size, size=samples // s.hop_length)
            .astype(np.uint16)
            for s in self.spec.streams
        }
        texts = {"artist": "", "genre": "", "title": "", "lyrics": LYRICS, "audio_sha256": ""}
        path = {"id": "song.wav", "path": "song.wav", "num_samples": samples, "words": []}
        return {**path, **texts, **codes, **labels}

    @pytest.fixture
    def aligner(self, made_config: BaseModel) -> Aligner:
        """As `conditioning.align` builds it; skips where this machine lacks what it needs."""
        if reason := self.plugin.why_not():
            pytest.skip(reason)
        made: Aligner = self.plugin(made_config)
        return made

    def test_it_says_in_a_line_what_a_machine_lacks(self) -> None:
        """`why_not`: what `jukebox plugins` shows."""
        reason = self.plugin.why_not()
        assert reason is None or is_line(reason)

    def test_words_come_in_order_and_within_the_track(
        self, aligner: Aligner, song: dict[str, Any]
    ) -> None:
        """All words of the lyrics, as white space separates them."""
        words = self._words(aligner, song)
        assert [word.text for word in words] == song["lyrics"].split()
        assert all(word.start <= word.end for word in words)
        lasting = [word for word in words if word.start < word.end]
        assert 2 * len(lasting) >= len(words), "most words take no time"
        starts = [word.start for word in words]
        assert starts == sorted(starts)
        assert starts[0] >= 0
        assert max(word.end for word in words) <= self._seconds(song) + ROUNDING
        assert all(0 <= word.confidence <= 1 for word in words)

    def test_a_track_always_gets_the_same_words(
        self, aligner: Aligner, song: dict[str, Any]
    ) -> None:
        """By the same aligner, after another track, and by another of the same settings."""
        words = self._words(aligner, song)
        aligner.align({**song, "id": "other", "lyrics": "something else"}, self.spec)
        assert aligner.align(song, self.spec) == words
        assert self.plugin(aligner.config).align(song, self.spec) == words

    def test_it_leaves_the_track_alone(self, aligner: Aligner, song: dict[str, Any]) -> None:
        """Rows are others' too."""
        before = dict(song)
        self._words(aligner, song)
        assert song.keys() == before.keys()
        assert all(song[name] is before[name] for name in song)

    @pytest.mark.parametrize("lyrics", ["", " \n\t\n", None], ids=repr)
    def test_no_lyrics_are_a_reason(
        self, aligner: Aligner, song: dict[str, Any], lyrics: str | None
    ) -> None:
        """In one line; there is nothing to look at then."""
        assert is_line(aligner.align({**song, "lyrics": lyrics}, self.spec))
        assert aligner.map is None

    @pytest.mark.parametrize("lyrics", ["♪", "🎤 … —", "你好 世界", "word " * 500])
    def test_any_lyrics_are_words_or_a_reason(
        self, aligner: Aligner, song: dict[str, Any], lyrics: str
    ) -> None:
        """In a script that it can't read, or more of them than can be sung."""
        self._check(aligner, {**song, "lyrics": lyrics})

    def test_any_track_is_words_or_a_reason(self, aligner: Aligner, song: dict[str, Any]) -> None:
        """One that is as good as empty, without codes, or whose audio is not there."""
        codes = {name: song[name][:0] for name in song if name.startswith("codes_")}
        for change in (codes, {"num_samples": 1, **codes}, {"path": ""}, {"path": "no/such.wav"}):
            with maybe_refused():
                self._check(aligner, {**song, **change})

    def test_its_map_is_one_to_look_at(self, aligner: Aligner, song: dict[str, Any]) -> None:
        """Where there is one: what each frame of the track has to do with each character."""
        self._words(aligner, song)
        if aligner.map is not None:
            assert isinstance(aligner.map, AlignmentMap)
            weights = np.asarray(aligner.map.weights)
            frames, tokens = weights.shape
            assert np.isfinite(weights).all()
            assert (weights >= 0).all()
            assert 0 < frames * aligner.map.seconds <= self._seconds(song) + aligner.map.seconds
            assert len(aligner.map.sources) == tokens
            assert list(aligner.map.sources) == sorted(aligner.map.sources)
            assert all(0 <= place < len(song["lyrics"]) for place in aligner.map.sources)

    def test_a_corpus_gets_its_words(
        self, aligner: Aligner, song: dict[str, Any], settings: Mapping[str, Any], tmp_path: Path
    ) -> None:
        """By `conditioning.align`, which keeps them beside the codes."""
        folder = tmp_path / "corpus"
        rows = [song, {**song, "id": "silent.wav", "lyrics": ""}]
        known = {"id", "path", "audio_sha256", "num_samples"}
        labels = [{n: v for n, v in row.items() if n not in known} for row in rows]
        further = [{n: v for n, v in row.items() if not n.startswith("codes_")} for row in labels]
        writer = CorpusWriter(folder, self.spec, {}, column_types(further))
        writer.append(rows)
        done = align_corpus(folder, self.name, settings)
        assert set(done.aligned) == {song["id"]}
        kept, silent = (track["words"] for track in Corpus(folder).tracks())
        assert [word["text"] for word in kept] == song["lyrics"].split()
        assert not silent

    def _check(self, aligner: Aligner, song: Mapping[str, Any]) -> None:
        """Words, in order and no others, or a reason."""
        words = aligner.align(song, self.spec)
        if isinstance(words, str):
            assert is_line(words)
        else:
            assert [word.text for word in words] == str(song["lyrics"]).split()
            assert [word.start for word in words] == sorted(word.start for word in words)

    def _words(self, aligner: Aligner, song: Mapping[str, Any]) -> list[Word]:
        words = aligner.align(song, self.spec)
        assert not isinstance(words, str), f"the track of this test has no words: {words}"
        return words

    def _seconds(self, song: Mapping[str, Any]) -> float:
        length: float = song["num_samples"] / self.spec.sample_rate
        return length
