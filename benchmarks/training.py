"""What does a training step of a prior cost, and what does it save to keep less for the way back?

`python benchmarks/training.py [--width 512] [--depth 16] [--context 2048] [--batch 2]
[--precision float32] [--quick]` takes a prior of 15 million parameters and measures a step (loss,
gradients, clipping, AdamW) of four kinds, in turn in one process: `plain`, as automatic
differentiation has it, which keeps the input of every operation; `lean`, which is what
`prior.train` does, and which makes norms, activations and logits again; `recompute`, as
`prior.train --recompute` does, which computes whole layers again; and `long`, that at twice the
context.

It prints seconds, codes per second, and the most memory that PyTorch's allocator had handed out
during a step, beyond weights and optimiser state: gradients and activations. The same goes to
`training.csv` and `training.png` in `--out`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from measuring import Benchmark, figure, in_turn, peak, write_csv
from pydantic import Field
from rich.console import Console
from rich.table import Table
from torch import Tensor

from codec.config import VQVAEConfig
from codec.vqvae import token_spec
from plugins.ground.device import pick_device
from prior.config import PriorConfig
from prior.prior import Prior

VOCABULARY = 2048


@dataclass(frozen=True)
class Kind:
    """A way to train."""

    name: str
    plain: bool = False
    recompute: bool = False
    longer: int = 1
    """Times the context."""


KINDS = (
    Kind("plain", plain=True),
    Kind("lean"),
    Kind("recompute", recompute=True),
    Kind("recompute, long", recompute=True, longer=2),
)


class Training(Benchmark):
    """Compare what training steps cost."""

    width: int = Field(512, ge=4, description="of the prior")
    depth: int = Field(16, ge=1, description="layers")
    heads: int = Field(4, ge=1, description="attention heads")
    context: int = Field(2048, ge=1, description="codes")
    block: int = Field(64, ge=1, description="codes of a block that attention is folded into")
    batch: int = Field(2, ge=1, description="windows per step")
    precision: Literal["float32", "bfloat16"] = Field("float32", description="to compute in")

    def cli_cmd(self) -> None:
        """Measure, print and publish."""
        device = pick_device(self.device)
        priors = {kind: self._prior(kind).to(device) for kind in KINDS}
        steps = {kind: self._step(prior, kind, device) for kind, prior in priors.items()}
        seconds = in_turn(steps, self.repeats, device)
        rows = [
            {
                "kind": kind.name,
                "parameters": sum(p.numel() for p in priors[kind].parameters()),
                "context": priors[kind].config.context,
                "batch": self.batch,
                "seconds": seconds[kind],
                "codes_per_second": self.batch * priors[kind].config.context / seconds[kind],
                "peak_bytes": peak(step, device),
            }
            for kind, step in steps.items()
        ]
        _show(rows)
        write_csv(self.out / "training.csv", rows)
        with figure(self.out / "training.png") as drawn:
            for axes, column, title in zip(
                drawn.subplots(1, 2, sharey=True),
                ("codes_per_second", "peak_bytes"),
                ("codes per second", "MiB above weights and optimiser"),
                strict=True,
            ):
                scale = 2**20 if column == "peak_bytes" else 1
                values = [row[column] / scale for row in rows]
                axes.bar_label(axes.barh([row["kind"] for row in rows], values), fmt="%.0f")
                axes.set_title(title)
                axes.margins(x=0.15)
            axes.invert_yaxis()  # both, since they share it

    def _prior(self, kind: Kind) -> Prior:
        small = {"width": 32, "depth": 3, "context": 256, "block": 32} if self.quick else {}
        shape = {name: getattr(self, name) for name in ("width", "depth", "context", "block")}
        shape |= small
        context = shape["context"] * kind.longer
        torch.manual_seed(0)
        prior = Prior(
            PriorConfig(
                spec=token_spec(VQVAEConfig(codebook_size=VOCABULARY)),
                stream="2",
                vocab_size=VOCABULARY,
                width=shape["width"],
                depth=shape["depth"],
                heads=self.heads,
                context=context,
                blocks=context // shape["block"],
                res_scale=True,
            )
        )
        prior.use_recomputation(kind.recompute)
        if kind.plain:
            for module in prior.modules():
                module.register_forward_hook(lambda *_: None)  # which all is called plainly for
        return prior

    def _step(self, prior: Prior, kind: Kind, device: torch.device) -> Callable[[], None]:
        codes = torch.randint(VOCABULARY, (self.batch, prior.config.context), device=device)
        return training_step(prior, kind, codes, half=self.precision == "bfloat16")


def training_step(prior: Prior, kind: Kind, codes: Tensor, *, half: bool) -> Callable[[], None]:
    """A step on codes [B, T]: loss, gradients, clipping, AdamW; `half`: under autocast."""
    optimizer = torch.optim.AdamW(prior.parameters(), lr=1e-4, fused=True)
    loss = _plain_loss if kind.plain else Prior.loss

    def step() -> None:
        with torch.autocast(codes.device.type, torch.bfloat16, enabled=half):
            surprise = loss(prior, codes)
        surprise.backward()
        torch.nn.utils.clip_grad_norm_(prior.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def _plain_loss(prior: Prior, codes: Tensor) -> Tensor:
    logits = prior(codes).logits
    return F.cross_entropy(logits.flatten(0, 1).float(), codes.flatten())


def _show(rows: list[Mapping[str, Any]]) -> None:
    plain = rows[0]
    title = f"A prior of {plain['parameters'] / 1e6:.1f} million parameters"
    columns = ("kind", "context", "seconds", "/ plain", "codes / s", "MiB", "/ plain")
    table = Table(*columns, title=title)
    for row in rows:
        table.add_row(
            row["kind"],
            f"{row['context']}",
            f"{row['seconds']:.3f}",
            f"{row['seconds'] / plain['seconds']:.2f}",
            f"{row['codes_per_second']:.0f}",
            f"{row['peak_bytes'] / 2**20:.1f}",
            f"{row['peak_bytes'] / plain['peak_bytes']:.2f}",
        )
    Console().print(table)


if __name__ == "__main__":
    Training.main()
