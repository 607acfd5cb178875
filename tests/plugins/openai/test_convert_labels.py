"""Names of labels: from a folder, from an installed distribution, else numbers."""

import sys
from pathlib import Path

import pytest
from made import GOLDEN, golden_hps, load, random_weights, save

from conditioning.base import Window
from plugins.ground.errors import InputError
from plugins.openai.converting import convert
from plugins.openai.vocabulary import DISTRIBUTION
from prior.checkpoint import load_prior

CODEC, TOP = GOLDEN / "codec.pth.tar", GOLDEN / "top.pth.tar"
ARTISTS = "unknown;0\nvarious;0\n;0\nthe_beatles;1\nbj_rk;2\na;b;299\n"
GENRES = "unknown;0\nrock;7\npop;8\n"


def lists(folder: Path, rule: str = "v2") -> Path:
    """A folder of short lists."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{rule}_artist_ids.txt").write_text(ARTISTS)
    (folder / f"{rule}_genre_ids.txt").write_text(GENRES)
    return folder


@pytest.fixture(autouse=True)
def _no_lists_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever this machine has."""
    monkeypatch.setattr("plugins.openai.vocabulary.DISTRIBUTION", f"no-{DISTRIBUTION}")


def test_names_from_a_folder(tmp_path: Path) -> None:
    (folder,) = convert([CODEC, TOP], tmp_path / "model", labels=lists(tmp_path / "lists"))[1:]
    prior = load_prior(folder)
    window = Window(start=0, total=441_000)
    track = {"artist": "The Beatles", "genre": "Pop Rock"}
    for conditioner in prior.conditioners.values():
        conditioner.check(track)
    batch = prior.prepare(track, window, None)
    assert batch["artist/artist"].tolist() == [1]
    assert batch["genre/genre"].tolist() == [8, 7, -1]
    prior.conditioners.artist.check({"artist": "298"})  # nobody has this number's name
    with pytest.raises(InputError, match="unknown artist"):
        prior.conditioners.artist.check({"artist": "beagles"})


def test_numbers_without_lists(tmp_path: Path) -> None:
    (folder,) = convert([CODEC, TOP], tmp_path / "model")[1:]
    prior = load_prior(folder)
    batch = prior.prepare({"artist": "37", "genre": "5"}, Window(start=0, total=441_000), None)
    assert batch["artist/artist"].tolist() == [37]
    with pytest.raises(InputError, match=r"numbers, 1 to 299.*--labels"):
        prior.conditioners.artist.check({"artist": "The Beatles"})


def test_the_other_rule(tmp_path: Path) -> None:
    hps = golden_hps("top", labels_v3=True, y_bins=(9, 300), max_bow_genre_size=1)
    top = save(tmp_path / "top.pth.tar", random_weights(hps, 2), hps)
    with pytest.raises(InputError, match=r"can't read .*v3_genre_ids.txt"):
        convert([CODEC, top], tmp_path / "model", labels=lists(tmp_path / "lists"))
    assert not (tmp_path / "model").exists()
    labels = lists(tmp_path / "lists", "v3")
    (folder,) = convert([CODEC, top], tmp_path / "model", labels=labels)[1:]
    artist, genre = load_prior(folder).config.conditioners[:2]
    assert artist.config["rule"] == genre.config["rule"] == "v3"
    assert genre.config["names"] == ["1", "2", "3", "4", "5", "6", "rock", "pop"]


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("a;1\nb;300\n", r"v2_artist_ids.txt: 'b' has number 300"),
        ("a;1\nb\n", r"line 2: 'b' is not NAME;NUMBER"),
        ("a;-1\n", r"line 1: 'a;-1' is not NAME;NUMBER"),
    ],
)
def test_lists_that_can_not_be(text: str, part: str, tmp_path: Path) -> None:
    labels = lists(tmp_path / "lists")
    (labels / "v2_artist_ids.txt").write_text(text)
    with pytest.raises(InputError, match=part):
        convert([CODEC, TOP], tmp_path / "model", labels=labels)
    assert not (tmp_path / "model").exists()


def test_no_folder_of_lists(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no folder of label lists"):
        convert([CODEC], tmp_path / "model", labels=tmp_path / "nowhere")


def test_names_from_an_installed_distribution(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, package = tmp_path / "site", tmp_path / "site" / "jukebox_infer"
    lists(package / "data" / "ids")
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    info = site / "jukebox_infer-9.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: jukebox-infer\nVersion: 9\n")
    (info / "RECORD").write_text(
        "".join(f"{f.relative_to(site)},,\n" for f in site.rglob("*") if f.is_file())
    )
    monkeypatch.setattr("plugins.openai.vocabulary.DISTRIBUTION", DISTRIBUTION)
    monkeypatch.setattr(sys, "path", [str(site), *sys.path])
    (folder,) = convert([CODEC, TOP], tmp_path / "model")[1:]
    artist = load_prior(folder).config.conditioners[0]
    assert artist.config["named"]
    assert artist.config["names"][:3] == ["the_beatles", "bj_rk", "3"]
    assert "jukebox_infer" not in sys.modules
    # A prior of other labels than the published ones has numbers.
    weights, hps = load(TOP)
    weights["y_emb.artist_emb.emb.weight"] = weights["y_emb.artist_emb.emb.weight"][:200]
    path = save(tmp_path / "other.pth.tar", weights, {**hps, "y_bins": (120, 200)})
    with pytest.warns(UserWarning, match="numbers instead of artist names"):
        (folder,) = convert([CODEC, path], tmp_path / "other")[1:]
    assert load_prior(folder).config.conditioners[0].config["names"][0] == "1"
