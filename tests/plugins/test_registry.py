"""Plugins of real distributions: folders on the path, as an installer leaves them."""

import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict

from plugins import registry
from plugins.ground.errors import InputError

GROUP = registry.CONDITIONERS
BUILT_IN = {"artist", "genre", "timing", "codes"}

GOOD = """
from conditioning.base import Conditioner
from pydantic import BaseModel, ConfigDict, Field

class Whole(Conditioner):
    class Config(BaseModel):
        model_config = ConfigDict(frozen=True, extra="forbid")
        bins: int = Field(8, ge=1)
        names: tuple[str, ...] = ()
    provides = None
    def prepare(self, track, window, rng=None):
        return {}
    def forward(self, batch):
        return None

class Tempo(Whole):
    class Inner(Whole):
        pass
"""
WRONG = """
from conditioning.base import Conditioner
from pydantic import BaseModel

def function():
    pass

class Other(BaseModel):
    pass

class Unfinished(Conditioner):
    Config = Other
    provides = None

class Unset(Conditioner):
    provides = prepare = forward = None

class Oddly(Unset):
    Config = dict
"""


class Site:
    """A folder of distributions on the path."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def distribution(self, info: str, entry_points: str | bytes, metadata: str | None = None):
        folder = self.folder / info
        folder.mkdir(parents=True)
        text = entry_points if isinstance(entry_points, bytes) else entry_points.encode()
        (folder / "entry_points.txt").write_bytes(text)
        if metadata is not None:
            name = "METADATA" if info.endswith("dist-info") else "PKG-INFO"
            (folder / name).write_text(metadata)

    def module(self, name: str, source: str) -> None:
        (self.folder / f"{name}.py").write_text(source)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield Site(tmp_path)
    for name in set(sys.modules) - before:
        if (tmp_path / f"{name}.py").exists():
            del sys.modules[name]


def entry(name: str, target: str, group: str = GROUP) -> str:
    return f"[{group}]\n{name} = {target}\n"


def test_built_ins_come_in_by_the_same_door():
    found = registry.plugins(GROUP)
    assert set(found) >= BUILT_IN
    assert list(found) == sorted(found)
    assert {found[name].distribution for name in BUILT_IN} == {"jukebox-toolkit"}
    assert registry.get(GROUP, "artist").__name__ == "Artist"


def test_a_plugin_is_found_without_being_imported_then_loaded(site):
    site.distribution("tempo_kit-1.2.dist-info", entry("tempo", "tempo_module:Tempo"))
    site.module("tempo_module", GOOD)
    plugin = registry.plugins(GROUP)["tempo"]
    assert (plugin.distribution, plugin.version) == ("tempo-kit", "1.2")
    assert "tempo_module" not in sys.modules
    assert registry.get(GROUP, "tempo") is sys.modules["tempo_module"].Tempo
    assert "tempo" not in registry.plugins(registry.CODECS)


def test_attributes_may_be_dotted(site):
    site.distribution("kit-1.dist-info", entry("inner", "dotted_module:Tempo.Inner"))
    site.module("dotted_module", GOOD)
    assert registry.get(GROUP, "inner").__qualname__ == "Tempo.Inner"


@pytest.mark.parametrize(
    ("source", "target", "reason"),
    [
        ("import no_such_thing_at_all", "broken_module:X", "No module named"),
        ("1 / 0", "broken_module:X", "ZeroDivisionError"),
        ("raise SystemExit(3)", "broken_module:X", "SystemExit: 3"),
        ("raise RuntimeError('one\\n\\ntwo')", "broken_module:X", "RuntimeError: one two"),
        ("def", "broken_module:X", "SyntaxError"),
        ("", "broken_module:X", "no attribute 'X'"),
        ("", "broken_module", "names no class: write module:Class"),
        ("", "absent_module:X", "No module named 'absent_module'"),
    ],
)
def test_a_broken_plugin_harms_only_who_asks_for_it(site, source, target, reason):
    site.distribution("broken_kit-0.3.dist-info", entry("broken", target))
    site.module("broken_module", source)
    assert set(registry.plugins(GROUP)) >= {"broken", *BUILT_IN}
    assert registry.get(GROUP, "timing").__name__ == "Timing"
    with pytest.raises(InputError, match=r"'broken' of group .* broken-kit 0\.3") as caught:
        registry.get(GROUP, "broken")
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("function", "must be a subclass of conditioning.base.Conditioner"),
        ("Other", "must be a subclass of conditioning.base.Conditioner"),
        ("Unfinished", "lacks forward, prepare"),
        ("Unset", "lacks Config, a pydantic model of its settings"),
        ("Oddly", "lacks Config, a pydantic model of its settings"),
    ],
)
def test_what_is_not_what_the_group_holds_is_refused(site, target, reason):
    site.distribution("odd_kit-0.3.dist-info", entry("odd", f"odd_module:{target}"))
    site.module("odd_module", WRONG)
    with pytest.raises(InputError) as caught:
        registry.get(GROUP, "odd")
    assert str(caught.value) == (
        f"'odd' of group {GROUP} from odd-kit 0.3 is not what that group holds: "
        f"odd_module:{target} {reason}"
    )


def test_a_group_may_hold_two_kinds(site):
    text = entry("odd", "odd_module:function", registry.ATTENTION)
    site.distribution("odd_kit-0.3.dist-info", text)
    site.module("odd_module", WRONG)
    with pytest.raises(InputError) as caught:
        registry.get(registry.ATTENTION, "odd")
    for base in ("AttentionKernel", "LayerAttention"):
        assert f"prior.attention.base.{base}" in str(caught.value)


def test_a_class_is_traced_to_its_distribution(site):
    text = entry("direct", "origin_module:Tempo") + "again = origin_front:Renamed\n"
    site.distribution("kit-1.dist-info", text + "broken = origin_front:Nothing\n")
    site.module("origin_module", GOOD)
    site.module("origin_front", "from origin_module import Whole as Renamed")
    tempo = registry.get(GROUP, "direct")
    assert registry.origin(tempo) == f"'direct' of group {GROUP} from kit 1"
    assert registry.origin(tempo.__base__) == "origin_module.Whole"  # its front is not imported
    front = registry.get(GROUP, "again")
    assert front is tempo.__base__
    assert registry.origin(front) == f"'again' of group {GROUP} from kit 1"


@pytest.mark.parametrize(
    "text",
    [
        "[jukebox.conditioners\nx = y:z\n",
        "no section = at:all\n",
        "[jukebox.conditioners]\nx = y:z\nx = y:w\n",
        "[jukebox.conditioners]\nx = not an entry point\n",
        "[jukebox.conditioners]\nx = %(nothing)s:z\n",
        b"\xff\xfe[jukebox.conditioners]\nx = y:z\n",
    ],
)
def test_a_malformed_file_costs_itself_only_and_is_named(site, text):
    site.distribution("aaa_kit-1.dist-info", entry("first", "m:A"))
    site.distribution("mal_kit-2.dist-info", text)
    site.distribution("zzz_kit-3.dist-info", entry("last", "m:Z"))
    with pytest.warns(UserWarning, match="mal_kit.*malformed") as caught:
        found = registry.plugins(GROUP)
    assert len(caught) == 1
    assert "\n" not in str(caught[0].message)
    assert set(found) >= {"first", "last", *BUILT_IN}
    assert "x" not in found


def test_a_sound_path_gives_no_warning(site):
    site.distribution("kit-1.dist-info", entry("console", "m:f", "console_scripts"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert set(registry.plugins(GROUP)) >= BUILT_IN


def test_two_plugins_of_one_name_are_refused_and_both_distributions_named(site):
    site.distribution("one_kit-1.dist-info", entry("twin", "m:A"))
    site.distribution("two_kit-1.dist-info", entry("twin", "m:A"))
    with pytest.raises(InputError, match=r"'twin'.*one-kit.*two-kit.*uninstall"):
        registry.get(GROUP, "twin")
    with pytest.warns(UserWarning, match=r"'twin'.*one-kit.*two-kit"):
        assert set(registry.plugins(GROUP)) >= BUILT_IN
    twins = [plugin for plugin in registry.offers(GROUP) if plugin.name == "twin"]
    assert [plugin.distribution for plugin in twins] == ["one-kit", "two-kit"]


def test_nobody_may_take_the_name_of_a_built_in(site):
    site.distribution("rival-1.dist-info", entry("artist", "m:A"))
    with pytest.raises(InputError, match=r"'artist'.*rival.*jukebox-toolkit"):
        registry.get(GROUP, "artist")
    with pytest.warns(UserWarning, match=r"'artist'.*rival"):
        assert registry.get(GROUP, "timing").__name__ == "Timing"


def test_one_name_in_two_groups_is_no_clash(site):
    text = entry("both", "m:A") + entry("both", "m:B", registry.CODECS)
    site.distribution("kit-1.dist-info", text)
    assert registry.plugins(GROUP)["both"].target == "m:A"
    assert registry.plugins(registry.CODECS)["both"].target == "m:B"


def test_a_copy_earlier_on_the_path_hides_later_ones(tmp_path, monkeypatch):
    for place, version in (("first", "2.0"), ("second", "1.0")):
        copy = Site(tmp_path / place)
        text = entry("kept", f"m:{place}") + (entry("dropped", "m:X") if version == "1.0" else "")
        text = text.replace(f"\n[{GROUP}]", "")
        copy.distribution(f"kit-{version}.dist-info", text)
    monkeypatch.setattr(sys, "path", [str(tmp_path / "first"), str(tmp_path / "second"), *sys.path])
    found = registry.plugins(GROUP)
    assert (found["kept"].target, found["kept"].version) == ("m:first", "2.0")
    assert "dropped" not in found


def test_a_copy_that_offers_nothing_in_a_group_hides_later_ones_too(tmp_path, monkeypatch):
    Site(tmp_path / "new").distribution("kit-2.dist-info", entry("x", "m:x", registry.CODECS))
    Site(tmp_path / "old").distribution("kit-1.dist-info", entry("x", "m:x"))
    monkeypatch.setattr(sys, "path", [str(tmp_path / "new"), str(tmp_path / "old"), *sys.path])
    assert "x" not in registry.plugins(GROUP)


def test_an_editable_install_seen_twice_is_one_plugin(tmp_path, monkeypatch):
    # The source folder has an egg-info, site-packages a dist-info; they may spell the name apart.
    Site(tmp_path / "src").distribution("My.Kit.egg-info", entry("x", "m:x"), "Version: 0.9\n")
    Site(tmp_path / "lib").distribution("my_kit-0.9.dist-info", entry("x", "m:x"))
    monkeypatch.setattr(sys, "path", [str(tmp_path / "src"), str(tmp_path / "lib"), *sys.path])
    plugin = registry.plugins(GROUP)["x"]
    assert (plugin.distribution, plugin.version) == ("my-kit", "0.9")


def test_the_version_of_an_editable_install_is_read_from_its_metadata(site):
    metadata = "Metadata-Version: 2.1\nName: eggy\nVersion: 4.5\n"
    site.distribution("eggy.egg-info", entry("egg", "m:A"), metadata)
    assert registry.plugins(GROUP)["egg"].version == "4.5"


def test_a_distribution_without_metadata_has_an_unknown_version(site):
    site.distribution("bare_egg.egg-info", entry("bare", "m:A"))
    assert registry.plugins(GROUP)["bare"].version == "unknown version"


def test_a_failed_look_up_lists_the_names_and_the_nearest():
    with pytest.raises(InputError) as caught:
        registry.get(GROUP, "artits")
    message = str(caught.value)
    assert all(name in message for name in BUILT_IN)
    assert "did you mean 'artist'?" in message
    assert "install" in message
    with pytest.raises(InputError) as caught:
        registry.get(GROUP, "zzzzzz")
    assert "did you mean" not in str(caught.value)


def test_an_empty_group_says_what_to_install():
    with pytest.raises(InputError, match="install"):
        registry.get("jukebox.nothing-of-the-kind", "x")


# Records


def test_a_record_round_trips_through_json(site):
    site.distribution("tempo_kit-1.2.dist-info", entry("tempo", "record_module:Tempo"))
    site.module("record_module", GOOD)
    cls = registry.get(GROUP, "tempo")
    config = cls.Config(bins=3, names=("a", "ロック"))
    kept = registry.record(GROUP, "tempo", config)
    assert (kept.name, kept.distribution, kept.version) == ("tempo", "tempo-kit", "1.2")
    again = registry.PluginRecord.model_validate_json(kept.model_dump_json())
    assert again == kept
    assert registry.restore(GROUP, again) == (cls, config)


def test_a_built_in_round_trips():
    cls = registry.get(GROUP, "genre")
    config = cls.Config(names=("rock", "pop"), max_words=2)
    kept = registry.record(GROUP, "genre", config)
    assert kept.distribution == "jukebox-toolkit"
    assert registry.restore(GROUP, kept) == (cls, config)


def test_a_missing_plugin_is_named_with_its_distribution():
    kept = registry.PluginRecord(name="gone", distribution="gone-kit", version="7.1", config={})
    with pytest.raises(InputError, match=r"needs 'gone'.*gone-kit 7\.1.*install"):
        registry.restore(GROUP, kept)


def test_a_plugin_that_two_offer_is_not_called_missing(site):
    site.distribution("rival-1.dist-info", entry("artist", "m:A"))
    kept = registry.PluginRecord(name="artist", distribution="rival", version="1")
    with pytest.raises(InputError, match=r"'artist'.*rival and jukebox-toolkit.*uninstall"):
        registry.restore(GROUP, kept)


def test_a_config_that_the_installed_version_refuses_names_the_field_and_who_wrote_it():
    kept = registry.PluginRecord(
        name="genre", distribution="jukebox-toolkit", version="0.0.1", config={"max_words": 0}
    )
    with pytest.raises(InputError, match=r"'genre'.*jukebox-toolkit 0.0.1.*max_words.*greater"):
        registry.restore(GROUP, kept)


def test_a_class_that_no_distribution_offers_has_a_record_without_one():
    class Config(BaseModel):
        model_config = ConfigDict(frozen=True)
        width: int = 4

    kept = registry.record(GROUP, "home-made", Config())
    assert (kept.distribution, kept.version, kept.config) == ("", "", {"width": 4})
    with pytest.raises(InputError, match="an unnamed package"):
        registry.restore(GROUP, kept)


@pytest.mark.parametrize("name", ["a.b", "a/b", "a,b", "a b"])
def test_a_name_that_can_t_be_used_is_refused(site, name):
    site.distribution("kit-1.dist-info", entry(name, "named_module:Whole"))
    site.module("named_module", GOOD)
    with pytest.raises(InputError, match=r"from kit 1: a name can't be empty or hold"):
        registry.get(GROUP, name)


def test_a_target_without_a_class_is_refused(site):
    site.distribution("kit-1.dist-info", entry("bare", "bare_module"))
    with pytest.raises(InputError, match="bare_module names no class: write module:Class"):
        registry.get(GROUP, "bare")
