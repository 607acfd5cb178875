"""Lyrics: which characters belong to a window, and what each design makes of them."""

import json
import math
import sys
import warnings
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from codec.tokens import TokenSpec, TokenStream
from conditioning.base import Provides, Site, Window
from conditioning.lyrics import LyricsMemory, LyricsPrefix, lyric_window, token_sung
from conditioning.text import ALPHABETS, clean
from plugins import registry
from plugins.ground.errors import InputError
from prior.config import preset
from prior.prior import Prior, site_of

GOLDEN = Path(__file__).parents[1] / "golden"
STREAM = TokenStream(name="0", vocab_size=16, hop_length=8)
SPEC = TokenSpec(sample_rate=44100, channels=1, streams=(STREAM,), codec="vqvae", fingerprint="f")
CONTEXT, WIDTH, TOKENS = 64, 32, 24
SITE = site_of(preset("tiny", SPEC, "0", context=CONTEXT, width=WIDTH, depth=1))
SMALL = {"width": 24, "depth": 3, "heads": 2, "blocks": 4}
SAMPLES = CONTEXT * STREAM.hop_length


def memory(site: Site = SITE, **settings) -> LyricsMemory:
    given = {"tokens": TOKENS, "network": SMALL, **settings}
    return LyricsMemory(LyricsMemory.Config(**given), site)


def prefix(**settings) -> LyricsPrefix:
    return LyricsPrefix(LyricsPrefix.Config(**{"tokens": 8, **settings}), SITE)


def read(conditioner, lyrics: str | None, start=0, total=SAMPLES, **more) -> list[int]:
    prepared = conditioner.prepare({"lyrics": lyrics, **more}, Window(start, total))
    assert list(prepared) == ["tokens"]
    assert prepared["tokens"].dtype == torch.int64
    return prepared["tokens"].tolist()


# Windows


@pytest.mark.parametrize("case", json.loads((GOLDEN / "lyric_windows.json").read_text()))
def test_windows_are_the_published_ones(case):
    tokens, indices = lyric_window(
        range(1, case["n_chars"] + 1),
        case["n_tokens"],
        case["total_length"],
        case["offset"],
        case["duration"],
    )
    assert tokens == case["tokens"]
    assert indices == case["indices"]


@given(
    count=st.integers(0, 60),
    size=st.integers(1, 40),
    total=st.integers(1, 1000),
    offset=st.integers(0, 1000),
    duration=st.integers(1, 1000),
)
def test_a_window_is_the_stretch_around_its_midpoint_or_the_nearest(
    count, size, total, offset, duration
):
    tokens, indices = lyric_window(range(1, count + 1), size, total, offset, duration)
    assert len(tokens) == len(indices) == size
    missing = max(0, size - count)
    assert tokens == [index + 1 for index in indices]  # padding: 0 and -1
    assert indices[:missing] == [-1] * missing
    held = indices[missing:]
    assert held == list(range(held[0], held[0] + len(held))) if held else count == 0
    middle = count * (offset + Fraction(duration, 2)) / total
    if size // 2 <= middle <= count - (size + 1) // 2:
        assert held[size // 2] == math.floor(middle)
    elif held:
        assert held[0] == 0 if middle < size // 2 or missing else held[-1] == count - 1


def test_the_last_window_has_the_last_characters_and_an_unknown_length_does_no_harm():
    assert lyric_window(range(1, 101), 10, 1000, 990, 400)[0] == list(range(91, 101))
    assert lyric_window([5, 6], 4, 0, 0, 8) == ([0, 0, 5, 6], [-1, -1, 0, 1])
    assert lyric_window([], 3, 10, 0, 5) == ([0, 0, 0], [-1, -1, -1])


def test_a_window_of_codes_is_one_of_samples():
    model = prefix(alphabet="".join(map(chr, range(100, 1100))), transliterate="none", tokens=10)
    lyrics = "".join(map(chr, range(100, 1100)))
    # Codes 64 to 127 of 640 have their middle at 0.15 of the track: character 150 of 1000.
    assert read(model, lyrics, start=64, total=640 * STREAM.hop_length) == list(range(146, 156))
    assert read(model, lyrics, start=0, total=640 * STREAM.hop_length) == list(range(46, 56))


# Windows that follow the words

WORDS = [
    {"start": 10.0, "end": 14.0, "text": "abcd"},
    {"start": 20.0, "end": 21.0, "text": "efg"},
    {"start": 20.5, "end": 22.0, "text": "hi"},
]
TEXT = "abcd efg\nhi"


@pytest.mark.parametrize(
    ("seconds", "token"),
    [(0, 0), (10, 0), (11, 1), (13.9, 3), (14, 4), (17, 4), (17.1, 4), (20, 5), (20.5, 6),
     (20.99, 7), (21.5, 10), (22, 11), (99, 11)],
)  # fmt: skip
def test_the_token_that_is_sung_lies_between_the_times_of_words(seconds, token):
    assert token_sung(seconds, TEXT, range(len(TEXT)), WORDS) == token


def test_words_of_which_nothing_is_read_take_no_place():
    lyrics = "la ♪ la"
    sources = clean(lyrics, ALPHABETS["v3"], "anyascii").sources
    words = [
        {"start": time, "end": time + 1.0, "text": text}
        for time, text in zip((0.0, 2.0, 4.0), lyrics.split(), strict=True)
    ]
    assert [token_sung(t, lyrics, sources, words) for t in (0.5, 2.0, 3.0, 4.5)] == [1, 3, 3, 5]


def test_words_that_are_not_the_lyrics_are_no_guide():
    sources = range(len(TEXT))
    assert token_sung(11, TEXT, sources, []) is None
    assert token_sung(11, TEXT, sources, WORDS[:2]) is None
    assert token_sung(11, TEXT + " more", sources, WORDS) is None
    assert token_sung(11, TEXT.upper(), sources, WORDS) is None
    assert token_sung(11, "", (), []) is None


@pytest.mark.parametrize("edge", ["start", "end"])
@pytest.mark.parametrize("time", [float("nan"), float("inf"), -float("inf"), None])
def test_times_that_are_no_numbers_are_no_guide(edge, time):
    words = [WORDS[0], {**WORDS[1], edge: time}, WORDS[2]]
    assert token_sung(11, TEXT, range(len(TEXT)), words) is None


@given(
    edges=st.lists(st.floats(0, 100), min_size=8, max_size=8),
    seconds=st.lists(st.floats(-10, 200), min_size=2, max_size=9),
)
def test_later_windows_never_go_back_however_words_overlap(edges, seconds):
    texts = "one two three four"
    words = [
        {"start": start, "end": end, "text": text}
        for start, end, text in zip(edges[::2], edges[1::2], texts.split(), strict=True)
    ]
    tokens = [token_sung(s, texts, range(len(texts)), words) for s in sorted(seconds)]
    assert tokens == sorted(tokens)
    assert all(0 <= token <= len(texts) for token in tokens)


def test_windows_follow_the_words_and_without_them_the_straight_line():
    """A song of 100 words, all of them sung in its last tenth."""
    lyrics = " ".join(f"{n:03d}" for n in range(100))
    rate, hop = SITE.sample_rate, STREAM.hop_length
    total = 1000 * rate
    words = [
        {"start": 900.0 + n, "end": 901.0 + n, "text": text}
        for n, text in enumerate(lyrics.split())
    ]

    def window(seconds: float, **more) -> str:
        start = round(seconds * rate / hop) - CONTEXT // 2
        tokens = read(prefix(), lyrics, start, total, **more)
        return "".join(ALPHABETS["v3"][token - 1] for token in tokens)

    assert window(450) == " 044 045"
    assert window(450, words=words) == "000 001 "
    assert window(950.1, words=words) == "049 050 "
    assert window(950.1, words=words[:-1]) == window(950.1) == window(950.1, words=None)
    assert window(1000, words=words) == " 098 099"


# Reading lyrics


@pytest.mark.parametrize("lyrics", ["", None])
def test_no_lyrics_are_zeros(lyrics):
    assert read(prefix(), lyrics) == [0] * 8
    assert prefix().prepare({}, Window(0, 1))["tokens"].tolist() == [0] * 8
    prefix().check({"lyrics": lyrics})
    prefix().check({})


def test_short_lyrics_are_padded_in_front_and_cleaned():
    assert read(prefix(), "Ça☃\\b") == [0, 0, 0, 0, 3, 27, 78, 28]
    assert read(prefix(alphabet="v2"), "a+b") == [0, 0, 0, 0, 0, 27, 70, 28]
    assert read(prefix(alphabet="éa", transliterate="none"), "ae\u0301x") == [0] * 6 + [2, 1]


def test_training_and_sampling_read_alike():
    item = {"lyrics": "la la"}
    drawn = prefix().prepare(item, Window(0, SAMPLES), np.random.default_rng(0))
    assert drawn["tokens"].tolist() == read(prefix(), "la la")


def test_an_excerpt_leads_back_to_the_original_lyrics():
    model, lyrics = prefix(tokens=6), "Что? ☃ Ещё!"
    excerpt = model.excerpt({"lyrics": lyrics}, Window(0, SAMPLES))
    assert excerpt.tokens == read(model, lyrics)
    cleaned = clean(lyrics, ALPHABETS["v3"], "anyascii")
    assert cleaned.text == "Chto?  Eshche!"
    assert excerpt.sources == cleaned.sources
    read_text = [cleaned.text[i] for i in excerpt.indices]
    assert excerpt.tokens == [ALPHABETS["v3"].index(c) + 1 for c in read_text]
    assert "".join(read_text) == "?  Esh"
    assert [lyrics[excerpt.sources[i]] for i in excerpt.indices] == list("?  Ещщ")


def test_lyrics_of_which_nothing_is_left_are_refused():
    prefix().check({"lyrics": "Привет, мир"})
    with pytest.raises(InputError, match="'Привет мир' have no character") as caught:
        prefix(transliterate="none").check({"lyrics": "Привет мир\n"})
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="no character"):
        prefix().check({"lyrics": "☃"})


def test_a_missing_unidecode_is_missed_when_the_conditioner_is_built(monkeypatch):
    monkeypatch.setitem(sys.modules, "unidecode", None)
    with pytest.raises(InputError, match="Unidecode is not installed"):
        prefix(transliterate="unidecode")


@pytest.mark.parametrize("kind", [prefix, memory])
def test_bytes_read_every_script(kind):
    model = kind(vocabulary="utf8", tokens=16)
    lyrics = "Привет, 🎵"
    expected = [byte + 1 for byte in lyrics.encode()]
    assert read(model, lyrics) == expected[1:17]  # inside of the first letter and of the last
    assert read(model, "e\u0301") == [0] * 14 + [0xC3 + 1, 0xA9 + 1]
    assert model.kinds == 257
    model.check({"lyrics": "☃"})
    model.check({"lyrics": ""})
    condition = model({"tokens": torch.tensor([read(model, lyrics)])})
    part = condition.prefix if kind is prefix else condition.memory
    assert part.shape[:2] == (1, 16)


def test_an_excerpt_of_bytes_leads_back_to_the_characters():
    model, lyrics = prefix(vocabulary="utf8", tokens=5), "ё♪"
    excerpt = model.excerpt({"lyrics": lyrics}, Window(0, SAMPLES))
    assert [lyrics[excerpt.sources[i]] for i in excerpt.indices] == list("ёё♪♪♪")


# Vocabularies


def test_vocabularies_are_given_by_name_and_kept_by_name():
    for name, alphabet in (("openai-v2", "v2"), ("openai-v3", "v3")):
        config = LyricsPrefix.Config(vocabulary=name)
        assert config.alphabet == ALPHABETS[alphabet]
        assert config.model_dump()["vocabulary"] == name
    assert LyricsPrefix.Config().vocabulary == "openai-v3"
    assert LyricsPrefix.Config(vocabulary="utf8").alphabet == ""
    with pytest.raises(ValidationError, match="no 'utf-8', but openai-v2, openai-v3, utf8"):
        LyricsPrefix.Config(vocabulary="utf-8")


@pytest.mark.parametrize(
    ("alphabet", "vocabulary"),
    [("v2", "openai-v2"), ("v3", "openai-v3"), *((ALPHABETS[v], f"openai-{v}") for v in ALPHABETS)],
)
def test_configs_from_before_there_were_vocabularies_are_read(alphabet, vocabulary):
    config = LyricsMemory.Config.model_validate({"tokens": 8, "alphabet": alphabet})
    assert config == LyricsMemory.Config(tokens=8, vocabulary=vocabulary)
    grown = LyricsMemory.Config.model_validate({"alphabet": ALPHABETS["v3"] + "é"})
    assert (grown.alphabet, grown.tokens) == (ALPHABETS["v3"] + "é", 512)
    chosen = LyricsMemory.Config.model_validate({"alphabet": alphabet, "vocabulary": "utf8"})
    assert chosen.vocabulary == "utf8"


def test_fit_appends_new_characters_in_sorted_order_and_keeps_the_old_numbers():
    config = LyricsPrefix.Config(tokens=4, alphabet="ba", transliterate="none")
    tracks = [{"lyrics": "яа\\\r"}, {"lyrics": "e\u0301ab"}, {"lyrics": None}, {}]
    grown = LyricsPrefix.fit(config, tracks)
    assert grown.alphabet == "ba\néая"  # noqa: RUF001
    assert LyricsPrefix.fit(grown, tracks) == grown
    assert read(LyricsPrefix(grown, SITE), "яб\\é") == [0, 6, 3, 4]


def test_a_newline_that_the_alphabet_lacks_is_no_control_character():
    config = LyricsPrefix.Config(alphabet="ab", transliterate="none")
    assert LyricsPrefix.fit(config, [{"lyrics": "a\tb\nc\x00\x85"}]).alphabet == "ab\t\nc"


@pytest.mark.parametrize(
    "settings",
    [{"transliterate": "anyascii"}, {"transliterate": "unidecode"},
     {"transliterate": "none", "vocabulary": "utf8"}],
)  # fmt: skip
def test_a_vocabulary_that_needs_no_more_stays(settings):
    config = LyricsMemory.Config(**settings)
    assert LyricsMemory.fit(config, [{"lyrics": "Привет"}]) is config


def test_the_most_frequent_of_very_many_characters_are_added():
    rare, common = "".join(map(chr, range(0x4E00, 0x4E00 + 600))), chr(0x7000)
    others = "".join(map(chr, range(0x6000, 0x6000 + 500)))
    tracks = [{"lyrics": others * 2 + rare}, {"lyrics": common * 3}]
    config = LyricsPrefix.Config(transliterate="none")
    with pytest.warns(UserWarning, match="hold 1101 characters"):
        grown = LyricsPrefix.fit(config, tracks)
    new = grown.alphabet.removeprefix(config.alphabet)
    assert new == "".join(sorted(common + others + rare[:499]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        LyricsPrefix.fit(config, [{"lyrics": others}])


def test_a_grown_alphabet_keeps_its_rows_and_starts_new_ones_as_unknown():
    old = memory(alphabet="ab", transliterate="none")
    grown = LyricsMemory(LyricsMemory.fit(old.config, [{"lyrics": "dc"}]), SITE)
    grown.load_state_dict(grown.adopt(old.state_dict()))
    for name in ("embedding", "output"):
        before, after = getattr(old, name).weight, getattr(grown, name).weight
        assert torch.equal(after[:3], before)
        assert torch.equal(after[3:], before[:1].expand(2, -1))
    tokens = torch.tensor([[0] * (TOKENS - 2) + [1, 2]])
    torch.testing.assert_close(grown.encode(tokens), old.encode(tokens))
    same = old.adopt(old.state_dict())
    assert all(torch.equal(tensor, same[name]) for name, tensor in old.state_dict().items())


def test_configs_round_trip_and_are_strict():
    config = LyricsMemory.Config(alphabet="яé\n", network={"width": 64})
    assert LyricsMemory.Config.model_validate_json(config.model_dump_json()) == config
    assert (config.network["width"], config.network["depth"]) == (64, 18)
    assert LyricsMemory.Config().network["width"] == 1280
    assert (LyricsMemory.Config().tokens, LyricsPrefix.Config().tokens) == (512, 384)
    assert LyricsPrefix.Config(alphabet="v2").alphabet == ALPHABETS["v2"]
    for bad in (
        {"tokens": 0},
        {"alphabet": "aba"},
        {"alphabet": ""},
        {"vocabulary": {"characters": "aba"}},
        {"vocabulary": "abc"},
        {"transliterate": "guess"},
        {"loss_weight": -1},
        {"network": {"context": 8}},
        {"netwrk": {}},
    ):
        with pytest.raises(ValidationError):
            LyricsMemory.Config.model_validate(bad)


# The prefix


def test_a_prefix_is_the_tokens():
    model = prefix(loss_weight=0.3)
    assert model.provides == Provides(prefix=8, prefix_vocab=79, prefix_weight=0.3)
    tokens = torch.tensor([read(model, "abc"), read(model, "")])
    condition = model({"tokens": tokens})
    assert torch.equal(condition.prefix, tokens)
    assert condition.memory is None
    assert not list(model.parameters())


# The memory


def published() -> LyricsMemory:
    """The reference's lyric encoder of the golden case, its tensors under our names."""
    kept = torch.load(GOLDEN / "lyrics_separate.pth.tar", weights_only=True)["model"]
    model = memory(alphabet="v2")
    inside = {
        "attention_norm": "ln_0",
        "attention.qkv": "attn.c_attn",
        "attention.out": "attn.c_proj",
        "mlp_norm": "ln_1",
        "mlp.0": "mlp.c_fc",
        "mlp.2": "mlp.c_proj",
    }
    theirs = {
        "start": "prime_prior.start_token",
        "positions": "prime_prior.pos_emb.pos_emb",
        "embedding.weight": "prime_prior.x_emb.weight",
        "output.weight": "prime_x_out.weight",
    }
    ends = {"projection": "prime_state_proj", "norm": "prime_state_ln"}
    for layer in range(SMALL["depth"]):
        at = f"prime_prior.transformer._attn_mods.{layer}."
        ends |= {f"transformer.layers.{layer}.{k}": at + v for k, v in inside.items()}
    state = {name: kept[other] for name, other in theirs.items()}
    for name, other in ends.items():
        if "norm" in name:
            state |= {f"{name}.{end}": kept[f"{other}.{end}"] for end in ("weight", "bias")}
        else:
            state |= {f"{name}.weight": kept[f"{other}.w"].T, f"{name}.bias": kept[f"{other}.b"]}
    model.load_state_dict(state)
    return model


def test_the_loss_is_the_references():
    expected = np.load(GOLDEN / "lyrics_separate_expected.npz")
    tokens = torch.from_numpy(expected["labels"])[:, -TOKENS:].long()
    with torch.no_grad():
        (loss,) = published()({"tokens": tokens}).losses
    assert (loss.name, loss.positions, loss.weight) == ("lyrics", TOKENS, 0.4)
    bits = loss.mean.item() / math.log(2)
    assert bits == pytest.approx(float(expected["prime_loss"]), rel=1e-4)


def test_a_memory_is_normed_and_predicts_its_own_tokens():
    model = memory(loss_weight=0.2)
    assert model.provides == Provides(memory=TOKENS)
    tokens = torch.randint(0, 79, (3, TOKENS), generator=torch.Generator().manual_seed(0))
    condition = model({"tokens": tokens})
    assert condition.memory.shape == (3, TOKENS, WIDTH)
    torch.testing.assert_close(condition.memory.mean(-1), torch.zeros(3, TOKENS), atol=1e-5, rtol=0)
    assert (condition.start, condition.position, condition.prefix) == (None, None, None)
    logits = F.linear(condition.memory, model.output.weight)
    expected = -logits.log_softmax(-1).gather(-1, tokens[..., None]).mean()
    torch.testing.assert_close(condition.losses[0].mean, expected)
    assert condition.losses[0].weight == 0.2


def test_padding_may_be_masked():
    tokens = torch.tensor([read(memory(), "la la"), read(memory(), "")])
    assert memory()({"tokens": tokens}).memory_mask is None
    mask = memory(mask_padding=True)({"tokens": tokens}).memory_mask
    assert mask.dtype == torch.bool
    assert mask.tolist() == [[False] * (TOKENS - 5) + [True] * 5, [False] * TOKENS]


@pytest.mark.parametrize("lyrics", ["la la", ""])
def test_a_prior_that_masks_padding_does_not_look_at_it(lyrics):
    settings = {"tokens": TOKENS, "network": SMALL, "mask_padding": True}
    config = LyricsMemory.Config(**settings)
    record = registry.record(registry.CONDITIONERS, "lyrics_memory", config)
    shape = {"context": CONTEXT, "width": WIDTH, "depth": 2, "patterns": ("row", "memory")}
    prior = Prior(preset("tiny", SPEC, "0", (record,), **shape))
    batch = prior.prepare({"lyrics": lyrics}, Window(0, SAMPLES))
    condition = prior.condition({name: tensor[None] for name, tensor in batch.items()})
    with torch.no_grad():
        output = prior(torch.zeros(1, CONTEXT, dtype=torch.int64), condition, record=[1])
    seen = output.attention[1][0].sum((0, 1)) > 0  # [S]
    assert seen.tolist() == [False] * (TOKENS - len(lyrics)) + [True] * len(lyrics)
    assert output.logits.isfinite().all()


def test_a_position_knows_the_characters_before_it_only():
    model = published()
    tokens = torch.randint(1, 80, (1, TOKENS), generator=torch.Generator().manual_seed(1))
    for place in (0, 7, TOKENS - 1):
        other = tokens.clone()
        other[0, place] = 0
        differs = (model.encode(tokens) != model.encode(other)).any(-1)[0].tolist()
        assert not any(differs[: place + 1])
        assert all(differs[place + 1 : place + 2])


def test_gradients_reach_every_parameter():
    model = memory()
    condition = model({"tokens": torch.randint(0, 79, (2, TOKENS))})
    (condition.losses[0].mean + condition.memory.square().mean()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_a_memory_needs_a_transformer_that_fits():
    lending_none = Site(WIDTH, CONTEXT, 44100, STREAM)
    with pytest.raises(InputError, match="lends none"):
        memory(lending_none)
    with pytest.raises(InputError, match=r"network over 24 tokens: .*folded into 5 blocks"):
        memory(network={**SMALL, "blocks": 5})
    with pytest.raises(InputError, match=r"no setting 'dept'.* did you mean depth"):
        memory(network={**SMALL, "dept": 5})
