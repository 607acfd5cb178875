"""Figures of codecs: spectral convergence, codebook use, bit rates."""

import math

import pytest
import torch

from codec.config import VQVAEConfig
from codec.losses import STANDARD, spectrogram
from codec.metrics import (
    bits_per_second,
    codebook_use,
    convergence,
    count_codes,
    decibels,
    spectral_convergence,
)
from codec.vqvae import token_spec
from plugins.ground.errors import InputError


def tone(hertz: float, amplitude: float = 0.5) -> torch.Tensor:
    t = torch.arange(12_000) / 22050
    return amplitude * torch.sin(2 * math.pi * hertz * t)[None, None]


def test_spectral_convergence_runs_from_a_copy_to_silence_and_beyond():
    target = tone(440)
    for output, expected in ((target, 0), (0 * target, 1), (0.9 * target, 0.1)):
        got = spectral_convergence([(target, output)]).item()
        assert got == pytest.approx(expected, rel=1e-4)
    disjoint = spectral_convergence([(target, tone(3000))]).item()
    assert disjoint == pytest.approx(math.sqrt(2), rel=0.02)


def test_spectral_convergence_is_each_items_own_and_nan_for_silence():
    batch = torch.cat([tone(440), tone(440), torch.zeros(1, 1, 12_000)])
    output = torch.cat([0.5 * tone(440), tone(440), tone(440)])
    got = spectral_convergence([(batch, output)])
    expected = torch.tensor([0.5, 0.0, math.nan], dtype=torch.float64)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4, equal_nan=True)
    assert spectral_convergence([]).isnan().all()
    spectra = (spectrogram(audio, STANDARD) for audio in (batch, output))
    assert convergence(*spectra).tolist() == pytest.approx([0.5, 0, 0], abs=1e-5)


def test_stretches_weigh_as_loud_as_they_are():
    loud, quiet = tone(440, 0.4), tone(440, 0.3)
    got = spectral_convergence([(loud, loud), (quiet, 0 * quiet)]).item()
    assert got == pytest.approx(0.3 / 0.5, rel=1e-4)


def test_decibels():
    got = decibels(torch.tensor([1.0, 0.1, 10.0, 0.0]))
    torch.testing.assert_close(got, torch.tensor([0.0, -20.0, 20.0, -200.0]))


def test_an_even_codebook_has_its_size_as_perplexity():
    use = codebook_use(torch.full((16,), 3.0))
    assert use.used == 16
    assert use.entropy.item() == pytest.approx(math.log(16), rel=1e-5)
    assert use.perplexity.item() == pytest.approx(16, rel=1e-5)
    one = codebook_use(torch.tensor([0.0, 7.0, 0.0]))
    assert one.used == 1
    assert one.perplexity.item() == pytest.approx(1, abs=1e-5)
    assert codebook_use(torch.zeros(4)).used == 0


def test_codes_are_counted():
    codes = torch.tensor([[0, 3, 3], [1, 3, 0]])
    assert count_codes(codes, 5).tolist() == [2, 1, 0, 3, 0]


def test_bit_rates_of_the_published_codec():
    spec = token_spec(VQVAEConfig())
    assert bits_per_second(spec, "2") == pytest.approx(344.53125 * 11)
    assert bits_per_second(spec, "0") == pytest.approx(5512.5 * 11)
    assert bits_per_second(spec, "1", entropy=math.log(4)) == pytest.approx(1378.125 * 2)
    with pytest.raises(InputError, match="no stream '3'"):
        bits_per_second(spec, "3")
