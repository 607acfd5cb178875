"""What the toolkit expects of attention that owns parameters: its own definition, kept by all.

Shapes: B batch, H heads, T positions, D width of a head, Z null keys of the pattern.
"""

import itertools
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from pydantic import BaseModel
from torch import Tensor

from codec.tokens import TokenSpec, TokenStream
from plugins import registry
from plugins.testing.contract import ConfiguredContract, is_line, maybe_refused, refused
from plugins.testing.kernels import (
    BATCH,
    BLOCK,
    BLOCKS,
    CONTEXT,
    DEVICES,
    HEADS,
    OTHER_HEADS,
    OTHER_WIDTH,
    PATTERNS_OF_ALL_KINDS,
    WIDTH,
    Inputs,
    made,
    shown,
)
from prior.attention.base import AttentionRequest, LayerAttention, LayerSite
from prior.attention.cache import LayerCache
from prior.attention.pattern import SelfPattern
from prior.checkpoint import load_prior, save_prior
from prior.config import PriorConfig
from prior.engine import Engine
from prior.prior import Prior

SELF_PATTERNS = [pattern for pattern in PATTERNS_OF_ALL_KINDS if isinstance(pattern, SelfPattern)]
IN_A_PRIOR = ("dense", "row", "column", "previous", "summary", "spread")
SPEC = TokenSpec(
    sample_rate=8000,
    channels=1,
    streams=(TokenStream(name="0", vocab_size=24, hop_length=8),),
    codec="vqvae",
    fingerprint="0123456789abcdef",
)
every_pattern = pytest.mark.parametrize("pattern", SELF_PATTERNS, ids=shown)


class LayerAttentionContract(ConfiguredContract):
    """A subclass of `LayerAttention`.

    Tests over patterns skip those that it does not serve: it refuses them when it is built.
    """

    group = registry.ATTENTION
    tolerance: ClassVar[float] = 1e-5
    """Of values and gradients in float32, absolute and relative."""
    coarse_tolerance: ClassVar[float] = 0.03
    """In bfloat16."""

    @pytest.fixture(params=DEVICES)
    def device(self, request: pytest.FixtureRequest) -> str:
        """The CPU, and this machine's accelerator if it has one."""
        device: str = request.param
        return device

    def build(
        self,
        config: Any,
        pattern: SelfPattern,
        device: str,
        heads: int = HEADS,
        width: int = WIDTH,
    ) -> LayerAttention:
        """For one layer, with parameters that are not what they began as."""
        if reason := self._why_not(pattern, device):
            pytest.skip(reason)
        with maybe_refused():
            layer: LayerAttention = self.plugin(config, LayerSite(heads, width, pattern))
            layer.to(device)
            with torch.no_grad():
                for parameter in layer.parameters():  # some begin as zeros, which hide mistakes
                    parameter.add_(torch.randn_like(parameter), alpha=0.3)
            return layer.eval()
        pytest.skip(f"it does not serve {shown(pattern)}")

    def test_it_serves_a_pattern(self, made_config: BaseModel) -> None:
        """At least one in float32, or it says of which device it is."""
        served = [name for device in DEVICES for name in self._served(made_config, device)]
        reason = self._why_not(SELF_PATTERNS[0], DEVICES[0])
        assert served or reason, "it claims patterns, but can be built for none"

    @every_pattern
    def test_what_it_can_not_serve_it_refuses(
        self, made_config: BaseModel, pattern: SelfPattern
    ) -> None:
        """`why_not` says in a line what it will not be built for, on any machine."""
        dtypes = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
        devices = ("cpu", "cuda", "mps", "xpu")
        for other, dtype, grad in itertools.product(devices, dtypes, (False, True)):
            reason = self.plugin.why_not(AttentionRequest(other, dtype, pattern.name, grad))
            assert reason is None or is_line(reason)
        never = all(self._why_not(pattern, other) for other in devices)
        with refused() if never else maybe_refused():
            self.plugin(made_config, LayerSite(HEADS, WIDTH, pattern))

    @every_pattern
    def test_values_are_those_of_its_oracle(
        self, made_config: BaseModel, pattern: SelfPattern, device: str
    ) -> None:
        """At every length of the context, and the same numbers each time."""
        layer = self.build(made_config, pattern, device)
        for length in range(1, CONTEXT + 1):
            q, k, v = made(length, device)
            with torch.no_grad():
                mixed = layer(q, k, v, pattern)
                assert mixed.shape == q.shape
                assert mixed.dtype == q.dtype
                self._close(mixed, layer.oracle(q, k, v, pattern))
                assert torch.equal(layer(q, k, v, pattern), mixed)
                self._close(layer(q, k, v, pattern.at_most(length)), mixed)

    @every_pattern
    def test_gradients_are_those_of_its_oracle(
        self, made_config: BaseModel, pattern: SelfPattern, device: str
    ) -> None:
        """Of queries, keys, values and of every parameter that it has."""
        layer = self.build(made_config, pattern, device).train()
        self._same_gradients(layer, pattern, made(CONTEXT, device))

    @every_pattern
    def test_heads_may_be_of_another_number_and_width(
        self, made_config: BaseModel, pattern: SelfPattern, device: str
    ) -> None:
        """Values and gradients: the scale is that of the width that comes."""
        layer = self.build(made_config, pattern, device, OTHER_HEADS, OTHER_WIDTH)
        inputs = made(CONTEXT, device, OTHER_HEADS, OTHER_WIDTH)
        with torch.no_grad():
            self._close(layer(*inputs, pattern), layer.oracle(*inputs, pattern))
        self._same_gradients(layer.train(), pattern, inputs)

    def _same_gradients(self, layer: LayerAttention, pattern: SelfPattern, inputs: Inputs) -> None:
        names = ["q", "k", "v", *(name for name, _ in layer.named_parameters())]
        ours, exact = (
            _gradients(layer, function, pattern, inputs) for function in (layer, layer.oracle)
        )
        for name, one, other in zip(names, ours, exact, strict=True):
            assert (one is None) == (other is None), f"only one of them depends on {name}"
            if one is not None:
                assert one.isfinite().all()
                self._close(one, other)

    @every_pattern
    def test_no_query_looks_at_what_its_pattern_hides(
        self, made_config: BaseModel, pattern: SelfPattern, device: str
    ) -> None:
        """Least of all at later positions: samples would differ from what was trained."""
        layer = self.build(made_config, pattern, device)
        places = torch.arange(CONTEXT, device=device)
        seen = pattern.mask(places, places)
        q, k, v = (x.detach().requires_grad_() for x in made(CONTEXT, device))
        mixed = layer(q, k, v, pattern)
        for place in range(CONTEXT):
            total = mixed[:, :, place].sum()
            for told in torch.autograd.grad(total, (k, v), retain_graph=True, allow_unused=True):
                reached = torch.zeros_like(k) if told is None else told
                assert not reached[:, :, ~seen[place]].any(), f"position {place}"

    @every_pattern
    def test_one_step_after_another_gives_what_a_whole_pass_gives(
        self, made_config: BaseModel, pattern: SelfPattern, device: str
    ) -> None:
        """`step` against the caches that sampling keeps, after prompts of several lengths."""
        layer = self.build(made_config, pattern, device)
        q, k, v = made(CONTEXT, device)
        cache = LayerCache(
            pattern, BATCH, HEADS, WIDTH, kernel=layer, dtype=q.dtype, device=q.device
        )
        with torch.inference_mode():
            whole = layer(q, k, v, pattern)
            for prompt in (0, 2, BLOCK, CONTEXT - 1):
                cache.clear()
                ends = [*range(prompt or 1, CONTEXT + 1)]
                pieces = []
                for start, end in zip([0, *ends], ends, strict=False):
                    now = slice(start, end)
                    pieces.append(cache(q[:, :, now], k[:, :, now], v[:, :, now], pattern))
                self._close(torch.cat(pieces, 2), whole)

    @every_pattern
    def test_weights_are_those_that_it_mixes_by(
        self, made_config: BaseModel, pattern: SelfPattern, device: str
    ) -> None:
        """Where it gives any: what a query sees sums to 1, null keys included."""
        layer = self.build(made_config, pattern, device)
        q, k, v = made(CONTEXT, device)
        weights = None
        with torch.no_grad():
            with maybe_refused():
                weights = layer.weights(q, k, pattern)
            if weights is None:
                return
            assert weights.shape == (BATCH, HEADS, CONTEXT, pattern.nulls + CONTEXT)
            assert (weights >= 0).all()
            places = torch.arange(CONTEXT, device=device)
            sees = pattern.mask(places, places).any(1) | (pattern.nulls > 0)
            self._close(weights.sum(-1), sees.float().expand(BATCH, HEADS, CONTEXT))
            # A pass that records attention mixes by the weights.
            mixed = layer(q, k, v, pattern)
            self._close(weights[..., pattern.nulls :] @ v.to(weights.dtype), mixed)

    @every_pattern
    def test_items_of_a_batch_don_t_meet(
        self, made_config: BaseModel, pattern: SelfPattern, device: str
    ) -> None:
        """Nor does it write to what it is given."""
        layer = self.build(made_config, pattern, device)
        given = made(9, device)
        before = [x.clone() for x in given]
        with torch.no_grad():
            mixed = layer(*given, pattern)
            self._close(layer(*(x[:1] for x in given), pattern), mixed[:1])
        assert all(map(torch.equal, given, before))

    @every_pattern
    def test_bfloat16_where_it_claims_it(
        self, made_config: BaseModel, pattern: SelfPattern, device: str
    ) -> None:
        """Near what float32 gives for the same numbers."""
        if reason := self._why_not(pattern, device, torch.bfloat16):
            pytest.skip(reason)
        layer = self.build(made_config, pattern, device).bfloat16()
        q, k, v = (x.bfloat16() for x in made(9, device))
        with torch.no_grad():
            mixed = layer(q, k, v, pattern)
            assert mixed.dtype == torch.bfloat16
            exact = layer.float().oracle(q.float(), k.float(), v.float(), pattern)
        limit = self.coarse_tolerance
        torch.testing.assert_close(mixed.float(), exact, atol=limit, rtol=limit)

    def test_a_prior_is_saved_and_loaded_with_it(
        self, made_config: BaseModel, tmp_path: Path, device: str
    ) -> None:
        """Its name and settings are in the folder, its parameters among the weights."""
        prior = self.prior(made_config, device).eval()
        codes = torch.randint(24, (2, CONTEXT), device=device)
        save_prior(prior, tmp_path / "prior")
        again = load_prior(tmp_path / "prior", device)
        assert again.config == prior.config
        with torch.no_grad():
            assert torch.equal(again(codes).logits, prior(codes).logits)

    def test_a_prior_learns_with_it(self, made_config: BaseModel, device: str) -> None:
        """Every parameter gets a finite gradient, in a training in bfloat16 too."""
        prior = self.prior(made_config, device).train()
        codes = torch.randint(24, (2, CONTEXT), device=device)
        prior.loss(codes).backward()
        for name, parameter in prior.named_parameters():
            assert parameter.grad is not None, f"no gradient reaches {name}"
            assert parameter.grad.isfinite().all()
        requests = (
            AttentionRequest(device, torch.bfloat16, pattern, grad=True)
            for pattern in prior.config.patterns
        )
        if not any(map(self.plugin.why_not, requests)):
            with torch.autocast(device, torch.bfloat16):
                assert prior.loss(codes).isfinite()

    def test_a_prior_samples_what_it_was_trained_to_predict(
        self, made_config: BaseModel, device: str
    ) -> None:
        """Logits one code at a time are those of a whole pass."""
        prior = self.prior(made_config, device).eval()
        codes = torch.randint(24, (2, CONTEXT), device=device)
        engine = Engine(prior, batch=2)
        steps = [engine.prefill(codes[:, :3])]
        steps += [engine.step(codes[:, place]) for place in range(3, CONTEXT - 1)]
        with torch.inference_mode():
            whole = prior(codes).logits
        assert whole is not None
        limit = 10 * self.tolerance
        torch.testing.assert_close(
            torch.stack(steps, 1), whole[:, 3:].cpu(), atol=limit, rtol=limit
        )

    def prior(self, config: BaseModel, device: str) -> Prior:
        """A tiny prior with a layer of each pattern that is served."""
        served = [name for name in IN_A_PRIOR if name in self._served(config, device)]
        if not served:
            pytest.skip(f"on {device} it serves no pattern that needs no conditioner")
        return Prior(
            PriorConfig(
                context=CONTEXT,
                width=HEADS * WIDTH,
                depth=len(served),
                heads=HEADS,
                blocks=BLOCKS,
                patterns=tuple(served),
                attention_ratio=1.0,
                spec=SPEC,
                stream="0",
                vocab_size=24,
                attention=registry.record(self.group, self.name, config),
            )
        ).to(device)

    def _served(self, config: BaseModel, device: str) -> set[str]:
        """Names of patterns that it serves there and is built for."""
        served = set()
        for pattern in SELF_PATTERNS:
            if not self._why_not(pattern, device):
                with maybe_refused():
                    self.plugin(config, LayerSite(HEADS, WIDTH, pattern))
                    served.add(pattern.name)
        return served

    def _why_not(
        self, pattern: SelfPattern, device: str, dtype: torch.dtype = torch.float32
    ) -> str | None:
        request = AttentionRequest(device, dtype, pattern.name, grad=True)
        reason: str | None = self.plugin.why_not(request)
        return reason

    def _close(self, ours: Tensor, exact: Tensor) -> None:
        torch.testing.assert_close(ours, exact, atol=self.tolerance, rtol=self.tolerance)


def _gradients(
    layer: LayerAttention, function: Any, pattern: SelfPattern, given: Inputs
) -> list[Any]:
    """Of a sum that weighs every output differently, by q, k, v and the layer's parameters."""
    inputs = [x.detach().requires_grad_() for x in given]
    mixed = function(*inputs, pattern)
    weights = torch.linspace(-1, 1, mixed.numel(), device=mixed.device).view(mixed.shape)
    leaves = [*inputs, *layer.parameters()]
    return [*torch.autograd.grad((mixed * weights).sum(), leaves, allow_unused=True)]
