"""Options that every training command has. No torch import; it knows no model."""

from typing import Literal

from pydantic import BaseModel, Field

# What may differ between two runs of one training without making it another training.
FREE = {
    *("steps", "save_every", "evaluate_every", "log_every", "workers", "device", "shard", "dry_run")
}


class TrainingOptions(BaseModel):
    """How to train; what is trained is the command's own."""

    steps: int = Field(10_000, ge=1, description="optimiser steps in all")
    batch_size: int = Field(8, ge=1, description="items per step over all processes")
    accumulate: int = Field(1, ge=1, description="split each batch into this many passes")
    learning_rate: float = Field(3e-4, gt=0, le=100, description="peak learning rate")
    warmup_steps: int = Field(100, ge=0, description="steps of linear warm-up")
    anneal: Literal["none", "linear", "cosine"] = Field(
        "cosine", description="how the learning rate falls to 0 after warm-up"
    )
    weight_decay: float = Field(0.01, ge=0, description="of AdamW, on matrices only")
    beta2: float = Field(0.95, gt=0, lt=1, description="second-moment decay of AdamW")
    clip_norm: float = Field(1.0, gt=0, description="largest gradient norm")
    ema_decay: float = Field(0.99, ge=0, lt=1, description="moving average of the weights")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="auto: bfloat16 where the device computes with it, else float32"
    )
    device: Literal["auto", "cpu"] = Field("auto", description="auto: the accelerator, if any")
    seed: int = Field(0, ge=0, lt=1 << 32, description="of initial weights, data order and dropout")
    workers: int = Field(0, ge=0, description="processes that prepare batches")
    save_every: int = Field(500, ge=1, description="steps between two resumable states")
    evaluate_every: int = Field(500, ge=1, description="steps between two evaluations")
    log_every: int = Field(10, ge=1, description="steps between two entries of metrics.jsonl")
    shard: bool = Field(
        False,
        description="of several processes each holds only its part of weights, gradients and "
        "optimiser state (FSDP2)",
    )
    dry_run: bool = Field(False, description="say what it would cost, then stop")
