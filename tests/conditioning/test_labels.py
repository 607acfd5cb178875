"""Artist and genre: names to numbers to vectors."""

import warnings

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from codec.tokens import TokenStream
from conditioning.base import Provides, Site, Window
from conditioning.labels import Artist, Genre, names_by_number
from plugins.ground.errors import InputError

WIDTH = 6
SITE = Site(WIDTH, 8, 44100, TokenStream(name="0", vocab_size=16, hop_length=8))
WINDOW = Window(0, 44100)


def artist(*names: str, **settings) -> Artist:
    return Artist(Artist.Config(names=names, **settings), SITE)


def genre(*names: str, **settings) -> Genre:
    return Genre(Genre.Config(names=names, **settings), SITE)


def numbers(conditioner, text, rng=None) -> list[int]:
    prepared = conditioner.prepare({conditioner.what: text}, WINDOW, rng)
    assert list(prepared) == [conditioner.what]
    assert prepared[conditioner.what].dtype == torch.int64
    return prepared[conditioner.what].tolist()


# Numbers


def test_names_are_numbered_from_one_and_looked_up_however_they_are_written():
    model = artist("The Beatles", "Björk")
    assert numbers(model, "the  BEATLES") == [1]
    assert numbers(model, "BJÖRK ") == [2]


@pytest.mark.parametrize("text", ["", None, "  ", "unknown", "Unknown"])
def test_an_empty_label_is_unknown_silently(text):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert numbers(artist("a"), text) == [0]
        assert numbers(genre("a"), text) == [0, -1, -1, -1, -1]
        artist("a").check({"artist": text})
        genre("a").check({"genre": text})
    assert artist("a").prepare({}, WINDOW)["artist"].tolist() == [0]


def test_genre_words_are_padded_and_cut():
    model = genre(*"abcdef")
    assert numbers(model, "B; a") == [2, 1, -1, -1, -1]
    assert numbers(model, "f e d c b a") == [6, 5, 4, 3, 2]
    assert numbers(genre(*"abc", max_words=1), "c b") == [3]


def test_published_rules_look_names_up_as_published():
    assert numbers(artist("alan_jackson", "ac_dc", rule="v2"), "AC/DC") == [2]
    assert numbers(genre("hip", "hop", rule="v2"), "Hip-Hop Hip") == [1, 2, 1, -1, -1]
    assert numbers(artist("beyoncé", "ac/dc", rule="v3"), "AC/DC") == [2]
    assert numbers(genre("hip", "hip-hop; rap", rule="v3", max_words=1), "Hip-Hop; Rap") == [2]


@pytest.mark.parametrize("rule", ["plain", "v2", "v3"])
@pytest.mark.parametrize("text", ["", None, " \t", "Unknown"])
def test_an_empty_label_is_unknown_under_every_rule(rule, text):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for model in (artist("a", rule=rule), genre("a", rule=rule)):
            assert numbers(model, text)[0] == 0
            model.check({model.what: text})


def test_unknown_words_leave_room_for_known_ones():
    with pytest.warns(UserWarning, match="unknown"):
        assert numbers(genre("rock", max_words=2), "swamp bayou rock") == [1, -1]


def test_an_unknown_label_is_zero_with_one_warning_for_each_vocabulary():
    model, other = artist("a", "b"), genre("a")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert [numbers(model, name) for name in ("x y", "z", "a")] == [[0], [0], [1]]
        assert len(caught) == 1
        assert numbers(other, "u v") == [0, -1, -1, -1, -1]
        assert len(caught) == 2
    assert "'x y'" in str(caught[0].message)
    assert "artist" in str(caught[0].message)
    assert "'u', 'v'" in str(caught[1].message)
    assert "genre" in str(caught[1].message)


def test_check_passes_known_labels():
    artist("Björk").check({"artist": "björk"})
    genre("hip", "hop").check({"genre": "Hip-Hop"})


def test_check_names_the_nearest_and_how_many_there_are():
    model = artist("The Beatles", "The Beach Boys", "Björk")
    with pytest.raises(InputError) as caught:
        model.check({"artist": "The Beetles"})
    message = str(caught.value)
    assert "'the beetles'" in message
    assert "'the beatles'" in message
    assert "björk" not in message
    assert "knows 3" in message
    assert "\n" not in message


def test_check_lists_every_unknown_genre_word():
    with pytest.raises(InputError, match=r"'rokc' \(nearest: 'rock'\); 'zzz' \(nothing") as caught:
        genre("rock", "pop").check({"genre": "pop rokc zzz"})
    assert "knows 2" in str(caught.value)


def test_check_refuses_more_words_than_are_used():
    with pytest.raises(InputError, match="3 words, but this prior takes 2"):
        genre(*"abc", max_words=2).check({"genre": "a b c"})


# Numbers in place of names


def test_names_by_number_fill_the_table():
    pairs = [("unknown", 0), ("abba", 2), ("agnetha", 2), ("nobody", 0), ("311", 5), ("zz", 3)]
    names = names_by_number(pairs, 8)
    assert names == ("1", "abba", "zz", "4", "311", "6", "7")
    model = artist(*names, rule="v2")
    assert model.table.num_embeddings == 8
    looked_up = {text: numbers(model, text) for text in ("1", "ABBA", "311", "7")}
    assert looked_up == {"1": [1], "ABBA": [2], "311": [5], "7": [7]}


def test_a_number_that_is_the_name_of_another_leaves_it_the_name():
    names = names_by_number([("3", 1)], 5)
    assert names == ("3", "2", "number_3", "4")
    for rule in ("v2", "v3"):
        model = artist(*names, rule=rule)
        assert numbers(model, "3") == [1]
        assert numbers(model, "number_3") == [3]


@pytest.mark.parametrize("number", [-1, 4])
def test_a_list_of_another_table_is_refused(number):
    with pytest.raises(InputError, match=f"'abba' has number {number}, .* rows 0 to 3"):
        names_by_number([("abba", number)], 4)


def test_a_vocabulary_without_names_takes_numbers_and_says_so():
    model = artist(*names_by_number([], 5), rule="v3", named=False)
    assert numbers(model, "4") == [4]
    model.check({"artist": "4"})
    with pytest.raises(InputError, match=r"'abba' .* numbers, 1 to 4, .*--labels FOLDER") as caught:
        model.check({"artist": "ABBA"})
    assert "\n" not in str(caught.value)
    grown = Artist.fit(model.config, [{"artist": "ABBA"}, {"artist": "2"}])
    assert grown.names == ("1", "2", "3", "4", "abba")
    assert numbers(Artist(grown, SITE), "Abba") == [5]
    with pytest.raises(InputError, match="1 to 4, "):
        Artist(grown, SITE).check({"artist": "9"})


# Dropout


def test_labels_are_dropped_as_often_as_configured_and_only_in_training():
    model = genre("rock", dropout=0.25)
    rng = np.random.default_rng(0)
    dropped = [numbers(model, "rock", rng) == [0, -1, -1, -1, -1] for _ in range(2000)]
    assert 0.22 < np.mean(dropped) < 0.28
    assert all(numbers(model, "rock") == [1, -1, -1, -1, -1] for _ in range(50))


def test_dropout_of_zero_and_one():
    rng = np.random.default_rng(0)
    assert {numbers(artist("a", dropout=0), "a", rng)[0] for _ in range(50)} == {1}
    assert {numbers(artist("a", dropout=1), "a", rng)[0] for _ in range(50)} == {0}


def test_the_same_rng_drops_the_same_labels_whether_known_or_not():
    def drawn(text: str) -> list[float]:
        rng = np.random.default_rng(5)
        for _ in range(20):
            numbers(artist("a"), text, rng)
        return rng.random(3).tolist()

    def labels() -> list[list[int]]:
        rng = np.random.default_rng(7)
        return [numbers(artist("a", dropout=0.5), "a", rng) for _ in range(40)]

    assert labels() == labels()
    assert drawn("a") == drawn("")


# Vectors


def test_a_start_is_the_row_of_the_artist():
    model = artist("a", "b")
    assert model.provides == Provides(start=True)
    start = model({"artist": torch.tensor([[2], [0]])}).start
    assert start.shape == (2, 1, WIDTH)
    assert torch.equal(start[:, 0], model.table.weight[[2, 0]])


def test_a_start_is_the_sum_of_the_rows_of_the_words():
    model = genre(*"abc", max_words=3)
    batch = [model.prepare({"genre": text}, WINDOW)["genre"] for text in ("c a", "b", "")]
    start = model({"genre": torch.stack(batch)}).start
    rows = model.table.weight
    assert start.shape == (3, 1, WIDTH)
    torch.testing.assert_close(start[:, 0], torch.stack([rows[3] + rows[1], rows[2], rows[0]]))


def test_gradients_reach_the_rows_that_were_used_and_no_others():
    model = genre(*"abc", max_words=2)
    model({"genre": torch.tensor([[3, -1], [1, 3]])}).start.sum().backward()
    assert model.table.weight.grad[:, 0].tolist() == [0, 1, 0, 2]


def test_rows_start_small():
    torch.manual_seed(0)
    assert 0.005 < artist(*map(str, range(500))).table.weight.std() < 0.02


# Vocabularies


def test_fit_appends_new_names_in_sorted_order_and_keeps_the_old_numbers():
    config = Artist.Config(names=("Zappa", "Björk"), dropout=0.3)
    tracks = [{"artist": a} for a in ("Кино", "ABBA", "björk", "", None, "abba ", "unknown")]
    grown = Artist.fit(config, tracks)
    assert grown.names == ("Zappa", "Björk", "abba", "кино")
    assert grown.dropout == 0.3
    assert Artist.fit(config, reversed(tracks)) == grown
    assert Artist.fit(grown, tracks) == grown


def test_fit_appends_names_in_the_form_of_the_rule():
    tracks = [{"artist": "AC/DC", "genre": "Hip-Hop"}, {"artist": "311", "genre": "Pop"}]
    old = ("311", "pop")
    for rule, artists, genres in (
        ("v2", ("ac_dc",), ("hip", "hop")),
        ("v3", ("ac/dc",), ("hip-hop",)),
    ):
        assert Artist.fit(Artist.Config(names=old, rule=rule), tracks).names == old + artists
        grown = Genre.fit(Genre.Config(names=old, rule=rule), tracks).names
        assert grown == old + tuple(sorted(genres))


def test_fit_of_genres_takes_words():
    grown = Genre.fit(Genre.Config(names=("rock",)), [{"genre": "Hip-Hop/Rap"}, {"genre": "Rock"}])
    assert grown.names == ("rock", "hip", "hop", "rap")
    assert numbers(Genre(grown, SITE), "rap hop") == [4, 3, -1, -1, -1]


@pytest.mark.parametrize("rule", ["plain", "v3"])
def test_every_fitted_label_is_known(rule):
    names = ["Ⅷ", "İstanbul", "㎒", "ﬁ", "ß", "Straße", "Σίσυφος", "a\u0301b", "R&B"]
    tracks = [{"artist": name, "genre": name} for name in names]
    for cls in (Artist, Genre):
        model = cls(cls.fit(cls.Config(rule=rule), tracks), SITE)
        for track in tracks:
            model.check(track)
            assert numbers(model, track[cls.what])[0] > 0


def test_a_grown_vocabulary_keeps_its_rows_and_starts_new_ones_as_unknown():
    old = artist("a", "b")
    grown = Artist(Artist.fit(old.config, [{"artist": "c"}, {"artist": "d"}]), SITE)
    grown.load_state_dict(grown.adopt(old.state_dict()))
    assert torch.equal(grown.table.weight[:3], old.table.weight)
    assert torch.equal(grown.table.weight[3:], old.table.weight[:1].expand(2, -1))
    with torch.no_grad():  # rows of their own: training one leaves the others alone
        grown.table.weight[3] += 1
    assert torch.equal(grown.table.weight[4], old.table.weight[0])


def test_a_vocabulary_that_did_not_grow_adopts_its_table_unchanged():
    model = genre("a")
    assert torch.equal(model.adopt(model.state_dict())["table.weight"], model.table.weight)


def test_a_table_of_a_larger_vocabulary_does_not_fit():
    state = artist("a").adopt(artist("a", "b").state_dict())
    with pytest.raises(RuntimeError, match="size mismatch"):
        artist("a").load_state_dict(state)


def test_configs_round_trip_and_are_strict():
    config = Genre.Config(names=("ロック", "a"), max_words=2)
    assert Genre.Config.model_validate_json(config.model_dump_json()) == config
    for bad in ({"dropout": 1.5}, {"max_words": 0}, {"rule": "guess"}, {"nams": ()}):
        with pytest.raises(ValidationError):
            Genre.Config.model_validate(bad)
