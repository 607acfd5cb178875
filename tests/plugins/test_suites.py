"""The suites of `plugins.testing`: sound plugins pass, each mistake fails the test for it."""

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import mutant_commands
import mutants
import pytest

from plugins import registry

ROOT = Path(__file__).parents[2]
KINDS = {
    registry.CODECS: (mutants.Faithful, "CodecContract", {}),
    registry.ATTENTION: (mutants.Naive, "KernelContract", {}),
    "": (mutants.Decay, "LayerAttentionContract", {}),
    registry.CONDITIONERS: (
        mutants.Mood,
        "ConditionerContract",
        {"track": {"mood": "merry"}, "others": ({"mood": "gay"}, {"mood": "sad"})},
    ),
    registry.ALIGNERS: (mutants.Even, "AlignerContract", {}),
    registry.COMMANDS: (mutant_commands.Polite, "CommandContract", {"wrong": [["--word", "4x"]]}),
}
SOUND = ["Decay", "Mood", "Even", "Polite"]
"""What the others are made of, but for those that are made of the toolkit's own plugins."""
BROKEN = {
    "Shortsighted": "test_tiles_give_what_a_whole_pass_gives",
    "Misnamed": "test_its_spec_is_sound",
    "Moody": "test_items_of_a_batch_don_t_meet",
    "Restless": "test_evaluation_changes_nothing",
    "Idle": "test_it_learns",
    "Forgetful": "test_a_resumed_training_goes_on_exactly",
    "Mute": "test_other_codes_sound_otherwise",
    "Prophet": "test_values_are_those_of_naive[row-nulls0-cpu]",
    "Loud": "test_values_are_those_of_naive[dense-nulls1-cpu]",
    "Detached": "test_gradients_are_those_of_naive[dense-nulls0-cpu]",
    "Wide": "test_bfloat16_where_it_claims_it[dense-nulls0-cpu]",
    "Meddler": "test_items_of_a_batch_don_t_meet[cpu]",
    "Blunt": "test_it_says_in_a_line_what_it_can_not_serve",
    "FixedScale": "test_heads_may_be_of_another_number_and_width[cpu]",
    "Headless": "test_heads_may_be_of_another_number_and_width[cpu]",
    "FixedBackward": "test_heads_may_be_of_another_number_and_width[cpu]",
    "Overflowing": "test_large_scores_stay_finite[cpu]",
    "Offhand": "test_inference_mode_changes_nothing[cpu]",
    "Doubtful": "test_float64_where_it_claims_it[cpu]",
    "Casting": "test_autocast_changes_nothing[cpu]",
    "FixedLayer": "test_heads_may_be_of_another_number_and_width[cpu-dense-nulls0]",
    "Sloppy": "test_values_are_those_of_its_oracle[cpu-dense-nulls0]",
    "Foreseeing": "test_no_query_looks_at_what_its_pattern_hides[cpu-dense-nulls0]",
    "Timeless": "test_one_step_after_another_gives_what_a_whole_pass_gives[cpu-dense-nulls0]",
    "Unweighed": "test_weights_are_those_that_it_mixes_by[cpu-dense-nulls0]",
    "Willing": "test_what_it_can_not_serve_it_refuses[spread-nulls0-spread1]",
    "Unlearning": "test_a_prior_learns_with_it[cpu]",
    "Flat": "test_it_announces_what_it_makes",
    "Silent": "test_it_announces_what_it_makes",
    "Double": "test_it_announces_what_it_makes",
    "Picky": "test_an_odd_label_is_unknown_or_refused[None]",
    "Nosy": "test_it_reads_what_it_says",
    "Eavesdropping": "test_it_reads_what_it_says",
    "Recognising": "test_it_reads_what_it_says",
    "Ragged": "test_every_item_has_the_same_layout",
    "Fickle": "test_preparing_is_a_function_of_track_window_and_rng",
    "Renumbering": "test_fit_keeps_numbers",
    "Stubborn": "test_adopt_makes_an_older_state_fit",
    "Deaf": "test_a_prior_learns_with_it",
    "Mixing": "test_the_same_batch_gives_the_same_condition",
    "Unsaved": "test_a_prior_is_saved_and_loaded_with_it",
    "Backwards": "test_words_come_in_order_and_within_the_track",
    "Late": "test_words_come_in_order_and_within_the_track",
    "Instant": "test_words_come_in_order_and_within_the_track",
    "Growing": "test_a_track_always_gets_the_same_words",
    "Crashing": "test_no_lyrics_are_a_reason[None]",
    "Chatty": "test_no_lyrics_are_a_reason['']",
    "Mapless": "test_its_map_is_one_to_look_at",
    "Loose": "test_a_setting_that_there_is_not_is_refused",
    "Heavy": "test_help_answers_at_once",
    "Curt": "test_help_explains_every_option",
    "Bare": "test_bad_input_is_one_line_and_status_2",
}


def mutant(name: str) -> type:
    """The class of that name."""
    found: type = getattr(mutants, name, None) or getattr(mutant_commands, name)
    return found


def kind_of(cls: type) -> tuple[str, str, dict[str, Any]]:
    """Group, suite, and what its suite needs."""
    for group, (base, suite, needs) in KINDS.items():
        if issubclass(cls, base):
            return group or registry.ATTENTION, suite, needs
    raise AssertionError(cls)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A distribution of the mutants, and a file of tests as their author would write it."""
    folder = tmp_path_factory.mktemp("site")
    info = folder / "mutants-1.0.dist-info"
    info.mkdir()
    for module in (mutants, mutant_commands):
        (folder / f"{module.__name__}.py").write_text(inspect.getsource(module))
    groups: dict[str, list[str]] = {}
    tests = ["from plugins.testing import *"]
    for name in [*SOUND, *BROKEN]:
        cls = mutant(name)
        group, suite, needs = kind_of(cls)
        groups.setdefault(group, []).append(f"{name} = {cls.__module__}:{name}")
        tests.append(f"class Test{name}({suite}):\n    name = {name!r}")
        tests += [f"    {key} = {value!r}" for key, value in needs.items()]
    entries = [f"[{group}]\n" + "\n".join(lines) for group, lines in groups.items()]
    (info / "entry_points.txt").write_text("\n".join(entries))
    (folder / "test_mutants.py").write_text("\n".join(tests))
    return folder


def python(site: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    path = os.pathsep.join(map(str, (site, ROOT)))
    return subprocess.run(
        [sys.executable, *words],
        capture_output=True,
        text=True,
        check=False,
        cwd=site,
        env={**os.environ, "PYTHONPATH": path},
    )


def run(site: Path, *tests: str) -> "subprocess.CompletedProcess[str]":
    """pytest on some of the tests."""
    quiet = ("-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--tb=short")
    return python(site, "-m", "pytest", *quiet, *(f"test_mutants.py::{test}" for test in tests))


def test_sound_plugins_pass(site: Path) -> None:
    done = run(site, *(f"Test{name}" for name in SOUND))
    assert done.returncode == 0, done.stdout
    passed = int(re.search(r"(\d+) passed", done.stdout)[1])  # type: ignore[index]
    assert passed > 200
    skipped = re.search(r"(\d+) skipped", done.stdout)
    assert skipped, "what Decay does not serve"
    assert int(skipped[1]) < passed / 5


def test_every_mistake_fails_the_test_for_it(site: Path) -> None:
    wanted = {f"Test{name}::{test}" for name, test in BROKEN.items()}
    done = run(site, *wanted)
    assert f"{len(wanted)} failed in" in done.stdout, done.stdout[-3000:]
    failed = set(re.findall(r"^FAILED test_mutants\.py::(\S+)", done.stdout, re.MULTILINE))
    assert failed == wanted
    assert "assert 'vqvae' == 'Misnamed'" in done.stdout, "a failure shows what was compared"


def test_without_pytest_there_is_one_clear_error(site: Path) -> None:
    done = python(site, "-c", "import sys; sys.modules['pytest'] = None; import plugins.testing")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "ImportError: plugins.testing needs pytest, which is not installed: pip install pytest"
    )
