"""Weights on disk and in memory: written one by one, mapped or converted, never NaN."""

import json
import struct
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from plugins.ground.errors import InputError
from plugins.ground.saved import (
    WEIGHTS,
    fill,
    load_into,
    load_weights,
    outline,
    save_model,
    tensor_shapes,
    write_weights,
)

TENSORS = {
    "flag": torch.tensor(True),
    "half": torch.randn(3, 5).half(),
    "brain": torch.randn(7).bfloat16(),
    "wide": torch.randn(2, 2, 2, dtype=torch.float64),
    "plain": torch.randn(9, 4),
    "none": torch.empty(0, 3),
    "count": torch.tensor(-(1 << 40)),
    "über.weight": torch.tensor([1, 2, 255], dtype=torch.uint8),
}
LAYOUT = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in TENSORS.items()}


class Net(nn.Module):
    """A matrix, a count, and a ramp that no file holds."""

    count: Tensor
    ramp: Tensor

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.first = nn.Linear(width, width)
        self.layers = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(3))
        self.register_buffer("count", torch.tensor(5))
        self.register_buffer("ramp", torch.arange(float(width)), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x) + self.ramp
        for layer in self.layers:
            x = layer(x)
        return x


def outlined(width: int = 64) -> Net:
    with torch.device("meta"):
        return Net(width)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_model(tmp_path, "prior", {}, Net())
    return tmp_path


def change(folder: Path, name: str, value: float) -> None:
    tensors = {n: t.clone() for n, t in load_file(folder / WEIGHTS).items()}
    tensors[name].view(-1)[-1] = value
    save_file(tensors, folder / WEIGHTS)


def is_mapped(tensor: Tensor, path: Path) -> bool:
    """Whether a tensor's memory is that of the file."""
    if not Path("/proc/self/maps").exists():
        pytest.skip("this system does not say what is mapped")
    for line in Path("/proc/self/maps").read_text().splitlines():
        low, high = (int(end, 16) for end in line.split()[0].split("-"))
        if low <= tensor.data_ptr() < high:
            return line.endswith(str(path))
    return False


@pytest.mark.parametrize("order", [1, -1])
def test_what_is_written_can_be_read_by_everybody(tmp_path: Path, order: int) -> None:
    path = tmp_path / "new" / WEIGHTS
    write_weights(path, LAYOUT, [*TENSORS.items()][::order])
    for read in (load_file(path), load_weights(path.parent)):
        assert {name: tensor.dtype for name, tensor in read.items()} == {
            name: dtype for name, (_, dtype) in LAYOUT.items()
        }
        assert all(torch.equal(read[name], tensor) for name, tensor in TENSORS.items())
    assert tensor_shapes(path.parent) == LAYOUT
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    assert length % 8 == 0
    header = json.loads(content[8 : 8 + length])
    assert len(content) == 8 + length + max(e["data_offsets"][1] for e in header.values())


def test_tensors_are_taken_one_at_a_time(tmp_path: Path) -> None:
    earlier: list[weakref.ref[Tensor]] = []

    def tensors() -> Iterator[tuple[str, Tensor]]:
        for number in range(4):
            assert not any(ref() is not None for ref in earlier[:-1])
            made = torch.full((8,), float(number))
            earlier.append(weakref.ref(made))
            yield str(number), made

    write_weights(tmp_path / WEIGHTS, {str(n): ((8,), torch.float32) for n in range(4)}, tensors())
    assert load_weights(tmp_path)["3"].tolist() == [3.0] * 8


@pytest.mark.parametrize(
    "tensors",
    [
        {name: tensor for name, tensor in TENSORS.items() if name != "plain"},
        {**TENSORS, "further": torch.ones(1)},
        {**TENSORS, "plain": torch.ones(4, 9)},
        {**TENSORS, "plain": torch.ones(9, 4).half()},
    ],
    ids=["missing", "left over", "shape", "dtype"],
)
def test_other_tensors_than_announced_leave_no_file(
    tmp_path: Path, tensors: dict[str, Tensor]
) -> None:
    with pytest.raises(ValueError, match=r"in the layout|never came"):
        write_weights(tmp_path / WEIGHTS, LAYOUT, tensors.items())
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_the_old_weights(folder: Path, file_size_limit) -> None:  # type: ignore[no-untyped-def]
    before = (folder / WEIGHTS).read_bytes()
    with file_size_limit(1 << 10), pytest.raises(InputError, match="can't write"):
        save_model(folder, "prior", {}, Net())
    assert (folder / WEIGHTS).read_bytes() == before


def test_weights_are_the_file_where_nothing_is_converted(folder: Path) -> None:
    before = (folder / WEIGHTS).read_bytes()
    net = outlined()
    load_into(net, folder)
    state = net.state_dict()
    assert all(is_mapped(tensor, folder / WEIGHTS) for tensor in state.values())
    assert all(torch.equal(t, state[name]) for name, t in load_file(folder / WEIGHTS).items())
    # They can be trained none the less, and the file does not change.
    net.ramp = torch.arange(64.0)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    net(torch.ones(2, 64)).square().mean().backward()
    optimizer.step()
    assert not torch.equal(net.first.weight, load_file(folder / WEIGHTS)["first.weight"])
    assert (folder / WEIGHTS).read_bytes() == before


def test_a_mapped_model_can_be_saved_over_its_own_file(folder: Path) -> None:
    net = outlined()
    load_into(net, folder)
    before = (folder / WEIGHTS).read_bytes()
    with torch.no_grad():
        net.first.bias.add_(1)
    save_model(folder, "prior", {}, net)
    assert (folder / WEIGHTS).read_bytes() != before
    assert torch.equal(load_weights(folder)["first.bias"], net.first.bias)
    assert torch.equal(load_weights(folder)["first.weight"], net.first.weight)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_only_floating_weights_are_converted_and_no_map_stays(
    folder: Path, dtype: torch.dtype
) -> None:
    net = outlined()
    load_into(net, folder, dtype=dtype)
    assert {p.dtype for p in net.parameters()} == {dtype}
    assert net.count.dtype == torch.int64
    assert net.count == 5
    assert not any(is_mapped(p, folder / WEIGHTS) for p in net.parameters())
    assert torch.equal(net.first.weight, load_weights(folder)["first.weight"].to(dtype))
    assert all(p.requires_grad for p in net.parameters())


def test_without_a_dtype_each_tensor_gets_what_the_module_has(folder: Path) -> None:
    net = Net().to(torch.bfloat16)
    net.first.float()
    load_into(net, folder)
    assert net.first.weight.dtype == torch.float32
    assert net.layers[0].weight.dtype == torch.bfloat16


def test_what_no_file_holds_is_kept_in_the_dtype_asked_for(folder: Path) -> None:
    net = Net()
    outline(net, "cpu", torch.bfloat16)
    assert {p.device.type for p in net.parameters()} == {"meta"}
    assert torch.equal(net.ramp, torch.arange(64.0).bfloat16())
    load_into(net, folder, dtype=torch.bfloat16)
    assert net(torch.ones(1, 64).bfloat16()).isfinite().all()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [None, torch.float16])
def test_weights_that_are_no_numbers_are_named(
    folder: Path, value: float, dtype: torch.dtype | None
) -> None:
    change(folder, "layers.1.weight", value)
    message = rf"{WEIGHTS}: layers\.1\.weight holds NaN or infinity"
    with pytest.raises(InputError, match=message):
        load_into(outlined(), folder, dtype=dtype)
    with pytest.raises(InputError, match=r"layers\.1\.weight holds NaN or infinity"):
        fill(Net(), load_weights(folder), folder)


def test_large_weights_are_no_infinities(folder: Path) -> None:
    change(folder, "layers.0.weight", 3e38)
    load_into(outlined(), folder, dtype=torch.bfloat16)
    load_into(outlined(), folder)
    change(folder, "layers.0.weight", 70000.0)
    with pytest.raises(InputError, match=r"layers\.0\.weight is too large for torch\.float16"):
        load_into(outlined(), folder, dtype=torch.float16)


def test_skipped_weights_are_checked_but_not_read(folder: Path) -> None:
    change(folder, "layers.2.weight", float("nan"))
    net = outlined()
    load_into(net, folder, skip=("layers.1.", "layers.2."))
    assert [layer.weight.device.type for layer in net.layers] == ["cpu", "meta", "meta"]
    tensors = load_file(folder / WEIGHTS)
    tensors["layers.2.weight"] = torch.zeros(3)
    save_file(tensors, folder / WEIGHTS)
    with pytest.raises(InputError, match=r"layers\.2\.weight has shape \[3\], not \[64, 64\]"):
        load_into(outlined(), folder, skip=("layers.2.",))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda t: t.pop("first.bias"), r"first\.bias is missing"),
        (lambda t: t.update(more=torch.ones(1)), "more is left over"),
        (lambda t: t.update(count=torch.ones(())), r"count has type torch\.float32, not"),
        (
            lambda t: t.update({"first.bias": torch.ones(64, dtype=torch.int64)}),
            r"first\.bias has type torch\.int64, not torch\.float32",
        ),
        (
            lambda t: t.update({"first.bias": torch.ones(64).to(torch.float8_e5m2)}),
            r"first\.bias is of type F8_E5M2, which is not read",
        ),
    ],
)
def test_weights_of_another_module_are_refused(folder: Path, edit, message: str) -> None:  # type: ignore[no-untyped-def]
    tensors = load_file(folder / WEIGHTS)
    edit(tensors)
    save_file(tensors, folder / WEIGHTS)
    with pytest.raises(InputError, match=message):
        load_into(outlined(), folder)


@pytest.mark.parametrize("content", [None, b"not weights", b"\xff" * 64], ids=str)
def test_no_weights_at_all(folder: Path, content: bytes | None) -> None:
    if content is None:
        (folder / WEIGHTS).unlink()
    else:
        (folder / WEIGHTS).write_bytes(content)
    for read in (tensor_shapes, load_weights, lambda f: load_into(outlined(), f)):
        with pytest.raises(InputError, match=f"can't read weights .*{WEIGHTS}"):
            read(folder)


def test_a_file_that_was_cut_off_is_refused(folder: Path) -> None:
    whole = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(whole[:-100])
    with pytest.raises(InputError, match="can't read weights"):
        load_into(outlined(), folder)
