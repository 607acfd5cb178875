"""Options of sampling. No torch import; it knows no network."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field

# What may differ between two runs that make the same samples.
FREE = {"batch_size", "device", "attention", "engine"}


class SamplingOptions(BaseModel):
    """What to sample, and how."""

    seconds: float = Field(
        20.0, ge=0, le=1e6, description="new music, in seconds, behind any prompt"
    )
    count: int | None = Field(
        None, ge=1, description="samples (default: one for each prompt, or 1)"
    )
    artist: list[str] = Field(
        default_factory=list, description="artist of each sample, used in turn"
    )
    genre: list[str] = Field(default_factory=list, description="genre of each sample, used in turn")
    lyrics: Path | None = Field(
        None, description="text file (UTF-8), or .lrc with times: the lyrics of every sample"
    )
    label: dict[str, str] = Field(
        default_factory=dict, description="other metadata, for every sample: --label tempo=120"
    )
    prompts: Path | None = Field(
        None, description="token corpus to go on from: real music, or earlier samples"
    )
    prompt_ids: list[str] = Field(
        default_factory=list, description="tracks to take (default: all, in order)"
    )
    prompt_seconds: float | None = Field(
        None, gt=0, le=1e6, description="how much of each track to keep (default: all of it)"
    )
    prompt_streams: list[str] = Field(
        default_factory=list, description="streams to keep of the prompts (default: all)"
    )
    total_seconds: float | None = Field(
        None, gt=0, le=1e6, description="length that the prior is told, if above the sample's own"
    )
    temperature: float = Field(0.98, ge=0.001, description="flattens or sharpens the choice")
    top_k: int = Field(0, ge=0, description="choose among the k likeliest codes; 0: all")
    top_p: float = Field(0.0, ge=0, le=1, description="choose among the likeliest p; 0: all")
    hop_fractions: list[float] = Field(
        default_factory=list,
        description="new part of each further window, by stream, finest first "
        "(default: 0.125 at the coarsest, else 0.5)",
    )
    seed: int = Field(0, ge=0, lt=1 << 32, description="of all draws")
    batch_size: int = Field(8, ge=1, description="samples at a time")
    attention: str = Field("auto", description="attention kernel, by registry name")
    device: str = Field("auto", description="auto, cpu, cuda or mps")
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="of the weights: half of float32's memory, and other samples"
    )
    int8: bool = Field(
        False, description="keep layers' weights in 8 bits: less memory, faster, other samples"
    )
    engine: str = Field(
        "auto",
        description="who computes code after code: eager, native (a CPU's, compiled on first use), "
        "graphs (CUDA) or compiled; auto takes the fastest",
    )
