"""What the toolkit expects of an attention kernel: what `naive` computes, wherever it serves.

Shapes: B batch, H heads, T queries, K keys, D width of a head.
"""

import itertools
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from plugins import registry
from plugins.ground.device import pick_device
from plugins.testing.contract import Contract, is_line
from prior.attention.base import AttentionKernel, AttentionRequest
from prior.attention.kernels import Naive
from prior.attention.pattern import PATTERNS, Pattern, Unfolded, make_pattern

BATCH, HEADS, WIDTH = 2, 3, 16
OTHER_HEADS, OTHER_WIDTH = 1, 24
BLOCK, BLOCKS = 4, 3
CONTEXT = BLOCK * BLOCKS
LENGTHS = (1, 3, 4, 7, 9, 12)
"""T: within a block, whole blocks, and no whole number of them."""
DEVICES = sorted({"cpu", pick_device("auto").type})
NAIVE = Naive()
Inputs = tuple[Tensor, Tensor, Tensor]
"""Queries, keys and values."""


@dataclass(frozen=True)
class Thirds(Unfolded):
    """A pattern that only its mask tells anything about, as a stranger might bring one."""

    name = "contract-thirds"

    def mask(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Every third key up to the query's own position."""
        return (keys % 3 == 0) & (keys <= queries[:, None])


PATTERNS_OF_ALL_KINDS: list[Pattern] = [
    *(cls(BLOCK, BLOCKS, nulls) for cls in PATTERNS.values() for nulls in (0, 1, 3)),
    *(make_pattern(name, CONTEXT, BLOCKS, prefix=2, spread=3) for name in ("summary", "spread")),
    make_pattern("prefix", CONTEXT, BLOCKS, prefix=5),
    *(Thirds(BLOCK, BLOCKS, nulls) for nulls in (0, 1)),
]
LONG = [make_pattern(name, 96 * 7, 7, prefix=50, spread=5) for name in PATTERNS]


def shown(pattern: Pattern) -> str:
    """A pattern in a test's name."""
    extras = {"spread", "seen"} & set(vars(pattern))
    more = "".join(f"-{name}{getattr(pattern, name)}" for name in sorted(extras))
    return f"{pattern.name}-nulls{pattern.nulls}{more}"


class KernelContract(Contract):
    """A subclass of `AttentionKernel`."""

    group = registry.ATTENTION
    tolerance: ClassVar[float] = 1e-5
    """Of values and gradients in float32, absolute and relative."""
    coarse_tolerance: ClassVar[float] = 0.03
    """In bfloat16."""

    @pytest.fixture
    def kernel(self) -> AttentionKernel:
        """Built without arguments, as the toolkit builds it."""
        made: AttentionKernel = self.plugin()
        return made

    def test_its_rank_is_a_number(self, kernel: AttentionKernel) -> None:
        """ "auto" takes the highest that can serve."""
        assert isinstance(kernel.rank, int)

    def test_it_says_in_a_line_what_it_can_not_serve(self, kernel: AttentionKernel) -> None:
        """`why_not` has an answer to every request, on machines that lack the device too."""
        dtypes = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
        for device, dtype, pattern, grad in itertools.product(
            ("cpu", "cuda", "mps", "xpu"), dtypes, (*PATTERNS, Thirds.name), (False, True)
        ):
            reason = kernel.why_not(AttentionRequest(device, dtype, pattern, grad))
            assert reason is None or is_line(reason)

    @pytest.mark.parametrize("device", DEVICES)
    @pytest.mark.parametrize("pattern", PATTERNS_OF_ALL_KINDS, ids=shown)
    def test_values_are_those_of_naive(
        self, kernel: AttentionKernel, pattern: Pattern, device: str
    ) -> None:
        """At every length of the context, and the same numbers each time."""
        if claims(kernel, pattern, device):
            for length in LENGTHS:
                q, k, v = made(length, device=device)
                mixed = kernel(q, k, v, pattern)
                assert mixed.shape == q.shape
                assert mixed.dtype == q.dtype
                self._close(mixed, NAIVE(q, k, v, pattern))
                assert torch.equal(kernel(q, k, v, pattern), mixed)

    @pytest.mark.parametrize("device", DEVICES)
    @pytest.mark.parametrize("pattern", PATTERNS_OF_ALL_KINDS, ids=shown)
    def test_gradients_are_those_of_naive(
        self, kernel: AttentionKernel, pattern: Pattern, device: str
    ) -> None:
        """Of queries, keys and values; finite where a query sees nothing, too."""
        if claims(kernel, pattern, device, grad=True):
            for length in LENGTHS:
                inputs = made(length, device=device)
                for ours, exact in zip(
                    gradients(kernel, inputs, pattern),
                    gradients(NAIVE, inputs, pattern),
                    strict=True,
                ):
                    assert ours.isfinite().all()
                    self._close(ours, exact)

    @pytest.mark.parametrize("device", DEVICES)
    def test_heads_may_be_of_another_number_and_width(
        self, kernel: AttentionKernel, device: str
    ) -> None:
        """Values and gradients: the scale is that of the width that comes."""
        inputs = made(9, device, OTHER_HEADS, OTHER_WIDTH)
        for pattern in claimed(kernel, device):
            self._close(kernel(*inputs, pattern), NAIVE(*inputs, pattern))
        for pattern in claimed(kernel, device, grad=True):
            ours, exact = (gradients(each, inputs, pattern) for each in (kernel, NAIVE))
            for one, other in zip(ours, exact, strict=True):
                self._close(one, other)

    @pytest.mark.parametrize("device", DEVICES)
    def test_large_scores_stay_finite(self, kernel: AttentionKernel, device: str) -> None:
        """Of some hundreds, whose exponentials overflow unless the maximum is subtracted."""
        q, k, v = made(9, device)
        limit = 10 * self.tolerance  # such scores are rounded more coarsely
        for pattern in claimed(kernel, device):
            mixed, exact = (each(100 * q, k, v, pattern) for each in (kernel, NAIVE))
            torch.testing.assert_close(mixed, exact, atol=limit, rtol=limit)

    @pytest.mark.parametrize("device", DEVICES)
    def test_inference_mode_changes_nothing(self, kernel: AttentionKernel, device: str) -> None:
        """Samplers run in it."""
        for pattern in claimed(kernel, device):
            with torch.inference_mode():
                q, k, v = made(9, device)
                self._close(kernel(q, k, v, pattern), NAIVE(q, k, v, pattern))

    @pytest.mark.parametrize("device", DEVICES)
    def test_float64_where_it_claims_it(self, kernel: AttentionKernel, device: str) -> None:
        """In float64 too the values are those of naive."""
        for pattern in claimed(kernel, device, torch.float64):
            q, k, v = (x.double() for x in made(9, device))
            self._close(kernel(q, k, v, pattern), NAIVE(q, k, v, pattern))

    @pytest.mark.parametrize("device", DEVICES)
    def test_autocast_changes_nothing(self, kernel: AttentionKernel, device: str) -> None:
        """Trainings in bfloat16 run in it."""
        q, k, v = (x.bfloat16() for x in made(9, device))
        for pattern in claimed(kernel, device, torch.bfloat16):
            with torch.autocast(device, torch.bfloat16):
                mixed = kernel(q, k, v, pattern)
            assert mixed.dtype == torch.bfloat16
            self._near(mixed, NAIVE(q.float(), k.float(), v.float(), pattern))

    @pytest.mark.parametrize("device", DEVICES)
    @pytest.mark.parametrize("keys", [1, 5, 20])
    def test_a_memory_has_as_many_keys_as_it_has(
        self, kernel: AttentionKernel, keys: int, device: str
    ) -> None:
        """T and K differ: queries read another sequence."""
        pattern = PATTERNS["memory"](BLOCK, BLOCKS)
        if claims(kernel, pattern, device):
            (q, _, _), (_, k, v) = made(10, device=device), made(keys, device=device)
            self._close(kernel(q, k, v, pattern), NAIVE(q, k, v, pattern))

    @pytest.mark.parametrize("device", DEVICES)
    @pytest.mark.parametrize("pattern", LONG, ids=shown)
    def test_values_are_those_of_naive_at_length(
        self, kernel: AttentionKernel, pattern: Pattern, device: str
    ) -> None:
        """Long enough to be computed in tiles, and no whole number of anything."""
        if claims(kernel, pattern, device):
            q, k, v = made(600, device=device)
            self._close(kernel(q, k, v, pattern), NAIVE(q, k, v, pattern))

    @pytest.mark.parametrize("device", DEVICES)
    @pytest.mark.parametrize("pattern", PATTERNS_OF_ALL_KINDS, ids=shown)
    def test_bfloat16_where_it_claims_it(
        self, kernel: AttentionKernel, pattern: Pattern, device: str
    ) -> None:
        """Near what float32 gives for the same numbers, in values and gradients."""
        for grad in (False, True):
            if not claims(kernel, pattern, device, torch.bfloat16, grad=grad):
                continue
            q, k, v = (x.bfloat16() for x in made(9, device=device))
            exact = (q.float(), k.float(), v.float())
            mixed = kernel(q, k, v, pattern)
            assert mixed.dtype == torch.bfloat16
            self._near(mixed, NAIVE(*exact, pattern))
            if grad:
                for ours, true in zip(
                    gradients(kernel, (q, k, v), pattern),
                    gradients(NAIVE, exact, pattern),
                    strict=True,
                ):
                    self._near(ours, true)

    @pytest.mark.parametrize("device", DEVICES)
    def test_a_query_that_sees_nothing_gets_zeros(
        self, kernel: AttentionKernel, device: str
    ) -> None:
        """As those of the first block, where a layer looks at the block before."""
        pattern = PATTERNS["previous"](BLOCK, BLOCKS)
        if claims(kernel, pattern, device):
            assert not kernel(*made(9, device=device), pattern)[:, :, :BLOCK].any()

    @pytest.mark.parametrize("device", DEVICES)
    def test_items_of_a_batch_don_t_meet(self, kernel: AttentionKernel, device: str) -> None:
        """Nor does it write to what it is given."""
        for name in PATTERNS:
            pattern = PATTERNS[name](BLOCK, BLOCKS)
            if claims(kernel, pattern, device):
                q, k, v = made(9, device=device)
                before = [x.clone() for x in (q, k, v)]
                mixed = kernel(q, k, v, pattern)
                assert all(map(torch.equal, (q, k, v), before))
                for x in (q, k, v):
                    x[1:] += 1
                self._close(kernel(q, k, v, pattern)[:1], mixed[:1])

    def _close(self, ours: Tensor, exact: Tensor) -> None:
        torch.testing.assert_close(ours, exact, atol=self.tolerance, rtol=self.tolerance)

    def _near(self, ours: Tensor, exact: Tensor) -> None:
        ours, limit = ours.float(), self.coarse_tolerance
        torch.testing.assert_close(ours, exact, atol=limit, rtol=limit)


def claims(
    kernel: AttentionKernel,
    pattern: Pattern,
    device: str,
    dtype: torch.dtype = torch.float32,
    grad: bool = False,
) -> bool:
    """Whether a kernel says that it can serve this; what it does not claim is not asked of it."""
    return kernel.why_not(AttentionRequest(device, dtype, pattern.name, grad)) is None


def claimed(
    kernel: AttentionKernel, device: str, dtype: torch.dtype = torch.float32, grad: bool = False
) -> list[Pattern]:
    """One pattern of each kind that a kernel says it can serve."""
    patterns = [cls(BLOCK, BLOCKS) for cls in PATTERNS.values()]
    return [pattern for pattern in patterns if claims(kernel, pattern, device, dtype, grad)]


def made(length: int, device: str = "cpu", heads: int = HEADS, width: int = WIDTH) -> Inputs:
    """Queries, keys and values [B, H, T, D] as projections leave them: views of [B, T, 3, H, D]."""
    generator = torch.Generator().manual_seed(length)
    x = torch.randn(BATCH, length, 3, heads, width, generator=generator).to(device)
    q, k, v = x.permute(2, 0, 3, 1, 4).unbind(0)
    return q, k, v


def gradients(kernel: AttentionKernel, inputs: Inputs, pattern: Pattern) -> list[Tensor]:
    """Of a sum that weighs every output differently, by queries, keys and values."""
    q, k, v = (x.detach().requires_grad_() for x in inputs)
    mixed = kernel(q, k, v, pattern).float()
    weights = torch.linspace(-1, 1, mixed.numel(), device=mixed.device).view(mixed.shape)
    return [*torch.autograd.grad((mixed * weights).sum(), (q, k, v))]
