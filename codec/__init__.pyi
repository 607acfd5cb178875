from .audio import read_audio, write_audio
from .base import Codec
from .checkpoint import load_codec, save_codec
from .config import PRESETS, VQVAEConfig
from .corpus import Corpus, CorpusWriter
from .decoding import decode_corpus
from .evaluating import evaluate_codec
from .tokenizing import tokenize_files
from .tokens import TokenSpec, TokenStream
from .training import TrainingOptions, train_codec
from .vqvae import VQVAE

__all__ = [
    "PRESETS",
    "VQVAE",
    "Codec",
    "Corpus",
    "CorpusWriter",
    "TokenSpec",
    "TokenStream",
    "TrainingOptions",
    "VQVAEConfig",
    "decode_corpus",
    "evaluate_codec",
    "load_codec",
    "read_audio",
    "save_codec",
    "tokenize_files",
    "train_codec",
    "write_audio",
]
