"""The training loop on a small real problem: a noisy linear map with dropout."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from plugins.ground.errors import InputError
from plugins.ground.options import TrainingOptions
from plugins.ground.saved import load_weights, save_model
from plugins.ground.trainer import Task, schedule, train

OPTIONS = TrainingOptions(
    steps=12,
    batch_size=8,
    learning_rate=0.05,
    warmup_steps=3,
    save_every=5,
    evaluate_every=4,
    log_every=1,
    device="cpu",
)


class Regression(Task):
    def __init__(self, broken_from: int | None = None) -> None:
        torch.manual_seed(0)
        self.module = nn.Sequential(nn.Linear(4, 16), nn.Dropout(0.2), nn.Linear(16, 1))
        self.broken_from = broken_from
        self.asked: list[int] = []

    def item(self, index: int) -> Mapping[str, Tensor]:
        self.asked.append(index)
        x = torch.randn(4, generator=torch.Generator().manual_seed(index))
        y = x.sum() if self.broken_from is None or index < self.broken_from else x.sum() / 0
        return {"x": x, "y": y[None]}

    def loss(self, module: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        error = (module(batch["x"]) - batch["y"]).square().mean()
        return error, {"rms": error.detach().sqrt()}

    def evaluate(self, module: nn.Module) -> dict[str, float]:
        assert not module.training
        items = [self.item(10_000 + i) for i in range(16)]
        batch = {name: torch.stack([item[name] for item in items]) for name in ("x", "y")}
        return {"error": self.loss(module, batch)[0].item()}

    def save(self, module: nn.Module, folder: Path) -> None:
        save_model(folder, "regression", {}, module)


def figures(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_it_learns_and_writes_what_it_says(tmp_path: Path) -> None:
    train(Regression(), OPTIONS.model_copy(update={"steps": 60}), tmp_path, {"a": 1})
    kept = figures(tmp_path)
    held_out = [line["validation/error"] for line in kept if "validation/error" in line]
    assert held_out[-1] < 0.5 * held_out[0]
    assert [line["step"] for line in kept if "loss" in line] == list(range(1, 61))
    assert (tmp_path / "state.pt").exists()
    assert any(tmp_path.rglob("events.out.tfevents*"))


def test_resumed_training_ends_with_the_same_bytes(tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(Regression(), OPTIONS, whole, {"a": 1})
    for step in (3, 5, 10):
        with pytest.raises(KeyboardInterrupt):
            train(Interrupted(step), OPTIONS, parts, {"a": 1})
    train(Regression(), OPTIONS, parts, {"a": 1})
    assert (parts / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert figures(parts) == figures(whole)


def test_a_flipped_bit_in_the_state_is_refused_or_does_not_matter(tmp_path: Path) -> None:
    sound, more = tmp_path / "sound", OPTIONS.model_copy(update={"steps": 13})
    train(Regression(), OPTIONS, sound, {"a": 1})
    shutil.copytree(sound, tmp_path / "whole")
    train(Regression(), more, tmp_path / "whole", {"a": 1})
    expected = (tmp_path / "whole" / "model.safetensors").read_bytes()
    state, refused = (sound / "state.pt").read_bytes(), 0
    for number, place in enumerate(range(7, len(state), len(state) // 40)):
        out = shutil.copytree(sound, tmp_path / f"{number}")
        (out / "state.pt").write_bytes(flipped(state, place))
        try:
            train(Regression(), more, out, {"a": 1})
        except InputError:
            assert (out / "state.pt").read_bytes() == flipped(state, place)
            refused += 1
        else:
            assert (out / "model.safetensors").read_bytes() == expected
    assert refused > 10


def test_a_finished_training_makes_a_lost_model_again(tmp_path: Path) -> None:
    train(Regression(), OPTIONS, tmp_path, {"a": 1})
    model = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(model[:100])
    train(Regression(), OPTIONS, tmp_path, {"a": 1})
    assert (tmp_path / "model.safetensors").read_bytes() == model


def flipped(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


class Interrupted(Regression):
    """Broken off when it asks for the items of a step."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self.last = step * OPTIONS.batch_size

    def item(self, index: int) -> Mapping[str, Tensor]:
        if self.last <= index < 10_000:
            raise KeyboardInterrupt
        return super().item(index)


def test_a_finished_training_is_not_repeated(tmp_path: Path) -> None:
    train(Regression(), OPTIONS, tmp_path, {"a": 1})
    again = Regression()
    train(again, OPTIONS, tmp_path, {"a": 1})
    assert again.asked == []


def test_accumulation_sees_the_same_items_and_learns_the_same(tmp_path: Path) -> None:
    class Exact(Regression):
        def __init__(self) -> None:
            super().__init__()
            self.module = nn.Sequential(nn.Linear(4, 16), nn.Linear(16, 1))

    tasks = []
    for name, accumulate in (("one", 1), ("four", 4)):
        torch.manual_seed(1)
        tasks.append(Exact())
        options = OPTIONS.model_copy(update={"accumulate": accumulate})
        train(tasks[-1], options, tmp_path / name, {"a": accumulate})
    assert tasks[0].asked == tasks[1].asked
    one, four = load_weights(tmp_path / "one"), load_weights(tmp_path / "four")
    for name in one:
        assert torch.allclose(one[name], four[name], atol=1e-5)


def test_other_settings_are_refused_and_nothing_is_lost(tmp_path: Path) -> None:
    train(Regression(), OPTIONS, tmp_path, {"seed": 1, "steps": 12})
    before = (tmp_path / "state.pt").read_bytes()
    with pytest.raises(InputError, match=r"training with seed 1, not 2"):
        train(Regression(), OPTIONS, tmp_path, {"seed": 2, "steps": 12})
    assert (tmp_path / "state.pt").read_bytes() == before
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="holds something other"):
        train(Regression(), OPTIONS, other, {"seed": 1})
    assert [path.name for path in other.iterdir()] == ["thesis.txt"]


def test_a_damaged_state_is_named(tmp_path: Path) -> None:
    train(Regression(), OPTIONS, tmp_path, {"a": 1})
    state = tmp_path / "state.pt"
    state.write_bytes(state.read_bytes()[:100])
    with pytest.raises(InputError, match=r"can't resume from .*state\.pt"):
        train(Regression(), OPTIONS, tmp_path, {"a": 1})


def test_a_loss_that_is_not_finite_stops_before_the_weights_are_spoilt(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no longer finite at step 7"):
        train(Regression(broken_from=7 * 8), OPTIONS, tmp_path, {"a": 1})
    assert all(torch.isfinite(t).all() for t in load_weights(tmp_path).values())


def test_a_batch_that_cannot_be_split_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="can't be split into 3"):
        train(Regression(), OPTIONS.model_copy(update={"accumulate": 3}), tmp_path, {"a": 1})


def test_schedule() -> None:
    options = TrainingOptions(steps=110, warmup_steps=10, anneal="linear")
    assert schedule(0, options) == pytest.approx(0.1)
    assert schedule(9, options) == 1.0
    assert schedule(60, options) == pytest.approx(0.5)
    cosine = options.model_copy(update={"anneal": "cosine"})
    assert schedule(60, cosine) == pytest.approx(0.5)
    assert schedule(109, cosine) < 0.001
    assert schedule(109, options.model_copy(update={"anneal": "none"})) == 1.0


def test_a_run_that_never_began_can_be_corrected(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no longer finite at step 0"):
        train(Regression(broken_from=0), OPTIONS, tmp_path, {"learning_rate": 1})
    train(Regression(), OPTIONS, tmp_path, {"learning_rate": 2})
    assert (tmp_path / "model.safetensors").exists()
