"""The side of `peers.py` that is compared with: models of transformers, with random weights.

`python peers_worker.py THREADS`, in an environment that has torch and transformers 4.57.6 and
nothing of this toolkit; it answers on stdin and stdout as `serving` says. It knows that side's
public classes and how they are called, not their code. Models are as they come: in float32, by the
means that they offer themselves. Shapes: B batch, P codes of a prompt, T samples or codes.
"""

import importlib
import os
import sys
import time
from typing import Any

os.environ.setdefault("TQDM_DISABLE", "1")  # a progress bar would cost it time

import numpy as np
import torch
import transformers
from serving import Answer, Run, serve
from tasks import Settings, model_tasks, timed
from torch import nn

JUKEBOX = "transformers.models.deprecated.jukebox"


def main(threads: int) -> None:
    """Answer until there are no more questions."""
    transformers.logging.set_verbosity_error()
    works = {work.__name__: work for work in (encode, decode, sample, codec, musicgen)}
    serve({**works, **model_tasks(_prior, lambda model, codes: model(codes)[0])}, threads)


# Jukebox


def encode(settings: Settings) -> Run:
    """All levels of the published VQ-VAE."""
    model = _vqvae()
    audio = torch.from_numpy(np.load(settings["audio"]))[None, :, None]  # [1, T, 1]
    return timed(lambda: model.encode(audio))


def decode(settings: Settings) -> Run:
    """Level 0 of the published VQ-VAE."""
    model = _vqvae()
    codes = torch.randint(2048, (1, settings["codes"]))
    return timed(lambda: model.decode([codes], start_level=0, end_level=1))


def _vqvae() -> Any:
    configuration = importlib.import_module(f"{JUKEBOX}.configuration_jukebox")
    modeling = importlib.import_module(f"{JUKEBOX}.modeling_jukebox")
    torch.manual_seed(0)
    model = modeling.JukeboxVQVAE(configuration.JukeboxVQVAEConfig()).eval()
    for name, buffer in model.named_buffers():
        if name.endswith("codebook"):
            buffer.normal_()
    return model


CHUNK = 32
"""Codes of a prompt that go in at a time: what that side's whole model samples with by default."""


def sample(settings: Settings) -> Run:
    """Until the first code after a prompt, and so many more from there."""
    model, count = _prior(settings["shape"]).eval(), settings["count"]
    prompt = torch.randint(2048, (settings["batch"], settings["prompt"]))
    stamps: list[float] = []
    model.fc_proj_out.register_forward_hook(lambda *_: stamps.append(time.perf_counter()))

    def run() -> Answer:
        stamps.clear()
        started = time.perf_counter()
        stop = prompt.shape[1] + 1 + count
        model.primed_sample(len(prompt), prompt, sample_tokens=stop, chunk_size=CHUNK)
        return {"fill": stamps[0] - started, "steps": stamps[count] - stamps[0]}

    return run


def _prior(shape: Settings) -> Any:
    """The transformer of a prior without conditioners, whose patterns are row, column, previous."""
    configuration = importlib.import_module(f"{JUKEBOX}.configuration_jukebox")
    modeling = importlib.import_module(f"{JUKEBOX}.modeling_jukebox")
    config = configuration.JukeboxPriorConfig(
        hidden_size=shape["width"],
        num_layers=shape["depth"],
        n_heads=shape["heads"],
        blocks=shape["blocks"],
        n_ctx=shape["context"],
        attention_pattern="raw_column_previous_row_attention",
        attn_res_scale=True,
        mask=True,
        music_vocab_size=2048,
        metadata_conditioning=False,
        merged_decoder=False,
        nb_relevant_lyric_tokens=0,
        is_encoder_decoder=False,
        encoder_config=None,
        level=0,
    )
    torch.manual_seed(0)
    model = modeling.JukeboxPrior(config).prior
    with torch.no_grad():
        for tensor in model.parameters():  # some are memory as it was found
            _ = tensor.normal_(std=0.02) if tensor.ndim > 1 else tensor.zero_()
        for module in model.modules():
            if isinstance(module, nn.LayerNorm):
                module.weight.fill_(1)
    return model


# Others of like size


def codec(settings: Settings) -> Run:
    """EnCodec or DAC: encode, then decode what came out."""
    name = settings["model"]
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**settings["config"])
    model = getattr(transformers, f"{name}Model")(config).eval()
    audio = torch.from_numpy(np.load(settings["audio"]))[None, None]  # [1, 1, T]

    def run() -> Answer:
        with torch.no_grad():
            started = time.perf_counter()
            made = model.encode(audio)
            encoded = time.perf_counter()
            if name == "Dac":
                model.decode(audio_codes=made.audio_codes)
            else:
                model.decode(made.audio_codes, made.audio_scales)
            decoded = time.perf_counter()
        times = {"encode": encoded - started, "decode": decoded - encoded}
        return {**times, "parameters": _size(model)}

    return run


def musicgen(settings: Settings) -> Run:
    """The decoder of MusicGen alone: steps that each give a code of every codebook."""
    torch.manual_seed(0)
    model = transformers.MusicgenForCausalLM(
        transformers.MusicgenDecoderConfig(**settings["config"])
    ).eval()
    batch, books = settings["batch"], model.config.num_codebooks
    given = torch.randint(model.config.vocab_size, (batch * books, settings["prompt"] + 1))

    def run() -> Answer:
        with torch.inference_mode():
            made = model(input_ids=given, use_cache=True)
            started = time.perf_counter()
            for _ in range(settings["count"]):
                chances = made.logits[:, -1].softmax(-1)
                codes = torch.multinomial(chances, 1)
                made = model(codes, past_key_values=made.past_key_values, use_cache=True)
            return {"steps": time.perf_counter() - started, "parameters": _size(model)}

    return run


def _size(model: nn.Module) -> float:
    """Parameters, but for attention to another sequence, which has no work here."""
    named = model.named_parameters()
    return sum(tensor.numel() for name, tensor in named if "encoder_attn" not in name)


if __name__ == "__main__":
    main(int(sys.argv[1]))
