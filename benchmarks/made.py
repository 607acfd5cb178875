"""The published codec with random weights that behave as trained ones do; it measures nothing."""

import torch
from arithmetic import CODEC
from music import music

from codec.config import VQVAEConfig
from codec.vqvae import VQVAE

SECONDS = 2
"""Of music that codebooks are taken from."""


def random_codec(config: VQVAEConfig = CODEC) -> VQVAE:
    """Codebooks hold what encoders make of music, as restarts would leave them: among entries that
    are all alike, every nearest one would be a tie, and looking for it another task.
    """
    torch.manual_seed(0)
    model = VQVAE(config).eval()
    audio = torch.from_numpy(music(SECONDS, config.sample_rate))[None, None]  # [1, 1, T]
    with torch.inference_mode():
        for encoder, quantizer in zip(model.encoders, model.quantizers, strict=True):
            vectors = encoder(audio)[0].T  # [N, W]
            drawn = torch.randint(len(vectors), (config.codebook_size,))
            quantizer.codebook.copy_(vectors[drawn])
            # Apart from one another where the same vector was drawn twice.
            quantizer.codebook.mul_(1 + 0.01 * torch.randn_like(quantizer.codebook))
            quantizer.initialised.fill_(True)
    return model
