"""The published codec with random weights that behave as trained ones do; it measures nothing."""

import torch
from arithmetic import CODEC
from music import music

from codec.config import VQVAEConfig
from codec.vqvae import VQVAE

SECONDS = 6
"""Of music that codebooks are taken from: enough for the published ones."""


def random_codec(config: VQVAEConfig = CODEC) -> VQVAE:
    """Encoders spread their vectors as trained ones do, and codebooks hold some of them, as
    restarts would leave them: among entries that are nearly alike, every nearest one would be a
    tie, and looking for it another task.
    """
    torch.manual_seed(0)
    model = VQVAE(config).eval()
    audio = torch.from_numpy(music(SECONDS, config.sample_rate))[None, None]  # [1, 1, T]
    with torch.inference_mode():
        for encoder, quantizer in zip(model.encoders, model.quantizers, strict=True):
            vectors = encoder(audio)[0].T  # [N, W]
            mean, spread = vectors.mean(0), vectors.std(0)
            last = encoder[-1].conv_out
            last.weight.div_(spread[:, None, None])
            last.bias.sub_(mean).div_(spread)
            vectors = (vectors - mean) / spread
            quantizer.codebook.copy_(vectors[torch.randperm(len(vectors))[: config.codebook_size]])
            quantizer.initialised.fill_(True)
    return model
