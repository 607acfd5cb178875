"""Checkpoints of random weights in the published format, of any shape."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from codec.tokens import TokenSpec
from codec.vqvae import token_spec
from plugins.openai.hps import codec_config, prior_config
from plugins.openai.names import published_layout
from plugins.openai.vocabulary import Vocabularies

GOLDEN = Path(__file__).parents[2] / "golden"


def golden_hps(name: str, **changes: Any) -> dict[str, Any]:
    """The hyper-parameters of a golden case, some of them changed."""
    return {**json.loads((GOLDEN / f"{name}.json").read_text())["hps"], **changes}


TWO_LEVELS = {
    "levels": 2,
    "downs_t": (2, 3),
    "strides_t": (2, 2),
    "hvqvae_multipliers": (1, 2),
    "l_bins": 24,
}
"""Another codec than that of the golden cases: hops 4 and 32."""


def codec_spec(hps: Mapping[str, Any]) -> TokenSpec:
    return token_spec(codec_config(hps))


def random_weights(
    hps: Mapping[str, Any], level: int | None = None, half: bool = False
) -> dict[str, Tensor]:
    """Named weights of the codec of these hyper-parameters, or of its prior of a level.

    With `half`, dense layers of priors have half precision.
    """
    config = (
        codec_config(hps)
        if level is None
        else prior_config(hps, codec_spec(hps), level, Vocabularies())
    )
    weights = {
        name: 0.1 * torch.randn(shape, dtype=torch.half if half and name[-2:] == ".w" else None)
        for name, shape in published_layout(config).items()
    }
    if level is not None and not hps["merged_decoder"]:
        weights["prior.x_out.weight"] = weights["prior.x_emb.weight"]
    return weights


def save(
    path: Path,
    weights: Mapping[str, Tensor],
    hps: Mapping[str, Any] | None = None,
    *,
    legacy: bool = False,
    prefix: str = "",
    **more: Any,
) -> Path:
    """Publish a checkpoint; `legacy` is how old versions of torch saved."""
    model = {prefix + name: tensor for name, tensor in weights.items()}
    content = {"model": model, "step": 1, "hps": hps, "opt": None, **more}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights and hyper-parameters of a checkpoint."""
    content = torch.load(path, weights_only=True)
    return content["model"], content["hps"]
