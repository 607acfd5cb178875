"""Folders of songs and mixes, with noise for a voice."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest
import songs
from songs import RATE, Draft, Part, Song, assemble, loudness, mixed, publish, read_songs

from codec.audio import read_audio
from plugins.ground.errors import InputError

MUSIC = Path(__file__).parents[2] / "examples" / "music"


def noise(name: str) -> Draft:
    """Two lines of noise, one second a word."""
    rng = np.random.default_rng(int(name))
    voice = rng.normal(0, 0.3, 2 * RATE).astype(np.float32)
    times = [(0.0, 1.0), (1.0, 2.0)]
    parts = [Part(1.5, voice, ["One", name], times), Part(0.25, voice, ["Two", name], times)]
    return assemble(f"song {name}", "nobody", parts, 0.5)


def make(names: Sequence[str]) -> Iterable[Draft]:
    return map(noise, names)


def made(folder: Path, count: int) -> list[Song]:
    return publish(folder, {"kind": "noise"}, [str(n) for n in range(count)], make)


def test_lines_come_after_their_silences() -> None:
    draft = noise("7")
    assert len(draft.audio) == (1.5 + 2 + 0.25 + 2 + 0.5) * RATE
    assert draft.lyrics == "One 7\nTwo 7"
    assert [word["start"] for word in draft.words] == [1.5, 2.5, 3.75, 4.75]
    assert [word["text"] for word in draft.words] == draft.lyrics.split()
    assert loudness(draft.audio, draft.words) == pytest.approx(songs.LOUDNESS, rel=1e-4)
    assert not draft.audio[: 3 * RATE // 2].any()


def test_a_folder_gives_back_its_songs_and_hides_the_truth(tmp_path: Path) -> None:
    first = made(tmp_path, 2)
    assert [song.id for song in first] == ["0", "1"]
    assert read_songs(tmp_path) == first
    assert first[1].words == noise("1").words
    rows = [json.loads(line) for line in (tmp_path / "metadata.jsonl").read_text().splitlines()]
    assert [set(row) for row in rows] == [{"file_name", "title", "artist", "lyrics"}] * 2
    audio = read_audio(first[1].file)
    np.testing.assert_allclose(audio[0], noise("1").audio, atol=2**-15)


def test_a_killed_run_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(songs, "BATCH", 2)
    asked: list[str] = []

    def dying(names: Sequence[str]) -> Iterable[Draft]:
        for name in names:
            asked.append(name)
            if asked == ["0", "1", "2", "3"]:
                raise KeyboardInterrupt
            yield noise(name)

    names = [str(n) for n in range(5)]
    with pytest.raises(KeyboardInterrupt):
        publish(tmp_path, {"kind": "noise"}, names, dying)
    assert [song.id for song in read_songs(tmp_path)] == ["0", "1"]
    publish(tmp_path, {"kind": "noise"}, names, dying)
    assert asked == ["0", "1", "2", "3", "2", "3", "4"]
    assert read_songs(tmp_path) == made(tmp_path, 5)


def test_a_folder_of_another_recipe_is_refused(tmp_path: Path) -> None:
    made(tmp_path / "songs", 1)
    with pytest.raises(InputError, match="another recipe"):
        publish(tmp_path / "songs", {"kind": "other"}, ["0"], make)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    with pytest.raises(InputError, match="holds something other"):
        made(tmp_path / "mine", 1)


@pytest.mark.parametrize("snr", [20.0, 0.0])
def test_music_is_as_far_below_the_voice_as_asked(tmp_path: Path, snr: float) -> None:
    alone = made(tmp_path / "alone", 2)
    mixes = mixed(alone, tmp_path / "mixed", MUSIC, snr)
    assert [(m.id, m.lyrics, m.words) for m in mixes] == [(s.id, s.lyrics, s.words) for s in alone]
    for mix, song in zip(mixes, alone, strict=True):
        both, voice = (read_audio(s.file)[0].astype(np.float64) for s in (mix, song))
        assert np.abs(both).max() <= songs.PEAK + 2**-15
        gain = (both @ voice) / (voice @ voice)
        music = both - gain * voice
        ratio = 20 * np.log10(loudness(gain * voice, song.words) / loudness(music, song.words))
        assert ratio == pytest.approx(snr, abs=0.3)
        assert np.abs(music[: RATE // 2]).max() > 1e-4, "music plays in the intro"


def test_a_mix_depends_on_its_song_alone(tmp_path: Path) -> None:
    alone = made(tmp_path / "alone", 3)
    all_three = mixed(alone, tmp_path / "all", MUSIC, 5.0)
    last = mixed(alone[2:], tmp_path / "last", MUSIC, 5.0)
    assert last[0].file.read_bytes() == all_three[2].file.read_bytes()


def test_a_folder_without_music_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no music"):
        mixed(made(tmp_path / "alone", 1), tmp_path / "mixed", tmp_path / "empty", 0.0)
