"""The codebook: nearest entries, moving averages, restarts, and state that resumes exactly."""

import copy
import os
import socket
import subprocess
import sys

import numpy as np
import pytest
import torch

from codec.quantize import Quantizer, nearest


def filled(size: int = 8, width: int = 4, count: float = 5.0, **settings) -> Quantizer:
    """A codebook as if it had been trained."""
    quantizer = Quantizer(size, width, **settings)
    quantizer.codebook.normal_()
    quantizer.counts.fill_(count)
    quantizer.sums.copy_(quantizer.codebook * count)
    quantizer.initialised.fill_(True)
    return quantizer


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def test_the_nearest_entry_is_found():
    vectors, codebook = torch.randn(500, 16), torch.randn(64, 16)
    distances = ((vectors.double()[:, None] - codebook.double()) ** 2).sum(-1)
    assert torch.equal(nearest(vectors, codebook), distances.argmin(1))


def test_digits_lost_far_from_the_origin_change_no_code():
    codebook = torch.randn(256, 16) + 1000
    vectors = codebook[torch.randint(256, (2000,))] + torch.randn(2000, 16)
    distances = ((vectors.double()[:, None] - codebook.double()) ** 2).sum(-1)
    two = distances.topk(2, largest=False).values
    clear = two[:, 1] - two[:, 0] > 1e-5 * two[:, 0]
    product = torch.addmm(codebook.square().sum(1), vectors, codebook.T, alpha=-2).argmin(1)
    assert (product != distances.argmin(1))[clear].any(), "too easy: the plain product would do"
    assert torch.equal(nearest(vectors, codebook)[clear], distances.argmin(1)[clear])


def test_of_equal_entries_the_first_is_taken():
    codebook = torch.tensor([[3.0, 0.0], [1.0, 1.0], [0.0, 2.0], [1.0, 1.0], [1.0, 1.0]])
    assert nearest(torch.tensor([[1.0, 1.0], [1.1, 0.9]]), codebook).tolist() == [1, 1]
    assert nearest(torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 1.0], [1.0, 0.0]])).item() == 0


def test_many_vectors_in_pieces_give_the_same_codes(monkeypatch):
    vectors, codebook = torch.randn(300, 4), torch.randn(32, 4)
    whole = nearest(vectors, codebook)
    monkeypatch.setattr("codec.quantize.TABLE", 32 * 7)
    assert torch.equal(nearest(vectors, codebook), whole)
    assert nearest(vectors[:0], codebook).shape == (0,)


def test_one_update_is_the_papers_moving_average():
    quantizer = filled(decay=0.9, restart_threshold=0.0).train()
    before = copy.deepcopy(quantizer)
    x = torch.randn(3, 4, 50)
    out = quantizer(x)
    vectors = x.numpy().transpose(0, 2, 1).reshape(-1, 4).astype(np.float64)
    codes = out.codes.numpy().reshape(-1)
    for entry in range(8):
        own = vectors[codes == entry]
        count = 0.9 * 5 + 0.1 * len(own)
        sums = 0.9 * 5 * before.codebook[entry].numpy() + 0.1 * own.sum(0)
        np.testing.assert_allclose(quantizer.counts[entry], count, rtol=1e-6)
        np.testing.assert_allclose(quantizer.codebook[entry], sums / count, rtol=1e-5, atol=1e-6)
    assert torch.equal(out.codes, before.encode(x)), "quantises with the codebook before the update"


def test_the_gradient_passes_straight_through_and_commitment_pulls_to_the_entry():
    quantizer = filled().eval()
    x = torch.randn(2, 4, 9, requires_grad=True)
    out = quantizer(x)
    entries = quantizer.lookup(out.codes)
    torch.testing.assert_close(out.vectors.detach(), entries)
    (slope,) = torch.autograd.grad((out.vectors * 3).sum(), x, retain_graph=True)
    assert torch.equal(slope, torch.full_like(x, 3.0))
    (pull,) = torch.autograd.grad(out.commitment, x)
    torch.testing.assert_close(out.commitment, ((x - entries) ** 2).mean())
    torch.testing.assert_close(pull, 2 * (x.detach() - entries) / x.numel())


def test_an_entry_that_falls_out_of_use_restarts_at_a_vector_of_the_batch():
    quantizer = filled(count=1.005).train()
    quantizer.codebook[3:] = 100 + torch.arange(5.0)[:, None]  # far from every vector
    quantizer.sums.copy_(quantizer.codebook * 1.005)
    x = torch.randn(2, 4, 400)
    out = quantizer(x)
    assert out.metrics["restarts"] == 5
    vectors = x.transpose(1, 2).reshape(-1, 4)
    for entry in range(3, 8):
        assert (vectors == quantizer.codebook[entry]).all(1).any()
        assert quantizer.counts[entry] == 1.0
        assert torch.equal(quantizer.sums[entry], quantizer.codebook[entry])
    assert quantizer.codebook[3:].unique(dim=0).shape[0] == 5
    assert quantizer.counts[:3].min() > 1.0
    assert not (vectors == quantizer.codebook[0]).all(1).any()


def test_threshold_zero_never_restarts_and_keeps_unused_entries():
    quantizer = filled(count=0.0, restart_threshold=0.0).train()
    quantizer.codebook[7] = 1e3
    out = quantizer(torch.randn(1, 4, 30))
    assert out.metrics["restarts"] == 0
    assert torch.equal(quantizer.codebook[7], torch.full((4,), 1e3))
    assert quantizer.codebook.isfinite().all()


def test_the_first_batch_initialises_and_a_small_one_is_repeated_with_noise():
    x = torch.randn(1, 4, 100)
    quantizer = Quantizer(16, 4, decay=1 - 1e-9).train()
    quantizer(x)
    gaps = (quantizer.codebook[:, None] - x[0].T).norm(dim=2).min(1).values
    assert quantizer.initialised
    assert gaps.max() < 1e-6
    assert quantizer.codebook.unique(dim=0).shape[0] == 16
    few = Quantizer(16, 4, decay=1 - 1e-9).train()
    few(x[..., :3])
    gaps = (few.codebook[:, None] - x[0, :, :3].T).norm(dim=2).min(1).values
    assert 0 < gaps.max() < 0.05
    assert few.codebook.unique(dim=0).shape[0] == 16


def test_evaluation_changes_nothing():
    quantizer = filled().eval()
    before = copy.deepcopy(quantizer.state_dict())
    out = quantizer(torch.randn(2, 4, 60))
    assert "restarts" not in out.metrics
    assert all(torch.equal(t, before[name]) for name, t in quantizer.state_dict().items())


def test_training_goes_on_exactly_from_a_state_dict():
    batches = torch.randn(6, 2, 4, 40)
    whole = Quantizer(16, 4).train()
    for batch in batches[:3]:
        whole(batch)
    state, generator = copy.deepcopy(whole.state_dict()), torch.get_rng_state()
    for batch in batches[3:]:
        whole(batch)
    resumed = Quantizer(16, 4).train()
    resumed.load_state_dict(state)
    torch.set_rng_state(generator)
    for batch in batches[3:]:
        resumed(batch)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_codebooks_stay_exact_under_autocast():
    quantizer = filled(64, 16).train()
    twin = copy.deepcopy(quantizer)
    x = torch.randn(2, 16, 300)
    with torch.autocast("cpu", torch.bfloat16):
        half = quantizer(x)
    full = twin(x)
    assert torch.equal(half.codes, full.codes)
    assert torch.equal(quantizer.codebook, twin.codebook)


def test_figures_say_how_the_codebook_is_used():
    quantizer = filled(8, 2).eval()
    quantizer.codebook.copy_(torch.arange(8.0)[:, None].expand(8, 2))
    x = torch.tensor([0.0, 0.0, 1.0, 2.0]).expand(1, 2, 4)
    metrics = quantizer(x).metrics
    expected = -(0.5 * np.log(0.5) + 2 * 0.25 * np.log(0.25))
    assert metrics["codebook_used"] == 3
    assert metrics["codebook_entropy"].item() == pytest.approx(expected, abs=1e-6)
    assert metrics["codebook_perplexity"].item() == pytest.approx(np.exp(expected), rel=1e-6)


WORKER = """
import sys, torch, torch.distributed as dist
from codec.quantize import Quantizer
rank, folder = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", rank=rank, world_size=2)
torch.manual_seed(rank)
batches = torch.load(f"{folder}/batches.pt", weights_only=True)
for name, threshold in (("plain", 0.0), ("restarting", 40.0)):
    quantizer = Quantizer(8, 4, restart_threshold=threshold).train()
    quantizer.load_state_dict(torch.load(f"{folder}/{name}.pt", weights_only=True))
    for batch in batches:
        quantizer(batch[rank : rank + 1])
    torch.save(quantizer.state_dict(), f"{folder}/{name}-{rank}.pt")
fresh = Quantizer(8, 4).train()
fresh(batches[0][rank : rank + 1])
torch.save(fresh.state_dict(), f"{folder}/fresh-{rank}.pt")
dist.destroy_process_group()
"""


def test_two_processes_keep_one_codebook(tmp_path):
    batches = torch.randn(3, 2, 4, 50)
    torch.save(batches, tmp_path / "batches.pt")
    for name in ("plain", "restarting"):
        torch.save(filled(count=41.0).state_dict(), tmp_path / f"{name}.pt")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    env |= {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", WORKER]
    running = [subprocess.Popen([*command, str(r), str(tmp_path)], env=env) for r in (0, 1)]
    assert [process.wait(120) for process in running] == [0, 0]
    for name in ("plain", "restarting", "fresh"):
        first, second = (
            torch.load(tmp_path / f"{name}-{rank}.pt", weights_only=True) for rank in (0, 1)
        )
        assert all(torch.equal(first[key], second[key]) for key in first), name
    alone = Quantizer(8, 4, restart_threshold=0.0).train()
    alone.load_state_dict(torch.load(tmp_path / "plain.pt", weights_only=True))
    for batch in batches:
        alone(batch)
    together = torch.load(tmp_path / "plain-1.pt", weights_only=True)
    torch.testing.assert_close(together["codebook"], alone.codebook)
