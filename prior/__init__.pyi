from .checkpoint import load_prior, save_prior
from .config import PRESETS, PriorConfig
from .embedding import embed_corpus
from .engine import Engine
from .options import SamplingOptions
from .prior import Output, Prior
from .sampling import sample_tokens
from .training import TrainingOptions, train_prior

__all__ = [
    "PRESETS",
    "Engine",
    "Output",
    "Prior",
    "PriorConfig",
    "SamplingOptions",
    "TrainingOptions",
    "embed_corpus",
    "load_prior",
    "sample_tokens",
    "save_prior",
    "train_prior",
]
