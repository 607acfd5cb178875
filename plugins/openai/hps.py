"""Published hyper-parameters -> configs of ours.

A model a group of settings, with the published names as fields: what is missing, or what this
toolkit has not, is refused by that name. It knows no tensors and no files.
"""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from typing_extensions import Self

from codec.config import VQVAEConfig
from codec.tokens import TokenSpec
from conditioning.text import ALPHABETS
from plugins import registry
from plugins.ground.errors import InputError, first_problem
from plugins.openai.vocabulary import Vocabularies
from plugins.registry import PluginRecord
from prior.attention.orders import attention_order
from prior.config import PriorConfig

Hps = Mapping[str, Any]
"""Hyper-parameters by published name."""


class Incomplete(InputError):
    """Hyper-parameters lack some that decide what is computed."""


def _only(allowed: object) -> AfterValidator:
    def check(value: Any) -> Any:
        if value != allowed:
            raise ValueError(f"is {value!r}, but this toolkit has only {allowed!r}")
        return value

    return AfterValidator(check)


Off = Annotated[bool, _only(False)]

# Far beyond any model, but small enough that what they describe can be outlined and compared with
# what a file holds.
Size = Annotated[int, Field(le=1 << 24)]
Depth = Annotated[int, Field(le=1024)]
Ratio = Annotated[float, Field(le=1024)]
MOST_BLOCKS = 4096
"""Of a codec's encoders."""


class _Group(BaseModel):
    """Some of the hyper-parameters; the others are not looked at."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    @classmethod
    def of(cls, hps: Hps) -> Self:
        """Read them.

        Raises:
            Incomplete: one is missing.
            InputError: one can't be.
        """
        try:
            return cls.model_validate(dict(hps))
        except ValidationError as error:
            gaps = [e["loc"] for e in error.errors() if e["type"] == "missing"]
            missing = [str(place[0]) for place in gaps if len(place) == 1]
            if missing:
                raise Incomplete(f"hyper-parameters lack {', '.join(missing)}") from error
            raise InputError(f"hyper-parameter {first_problem(error)}") from error


class CodecHps(_Group):
    """Of a codec."""

    sr: Size
    levels: int
    downs_t: tuple[int, ...]
    strides_t: tuple[Annotated[int, _only(2)], ...] = ()
    hvqvae_multipliers: tuple[Depth, ...] | None = None
    l_bins: Size
    emb_width: Size
    width: Size
    depth: Depth
    m_conv: Ratio = 1.0
    dilation_growth_rate: Depth
    dilation_cycle: Size | None = None
    vqvae_reverse_decoder_dilation: bool
    use_bottleneck: Annotated[bool, _only(True)] = True
    # Of the training alone.
    l_mu: float | None = None
    revival_threshold: float | None = None
    commit: float | None = None
    loss_fn: str | None = None
    lmix_l1: float | None = None
    lmix_l2: float | None = None
    lmix_linf: float | None = None
    linf_k: Size | None = None
    spectral: float | None = None
    multispectral: float | None = None
    multispec_loss_n_fft: tuple[Size, ...] | None = None
    multispec_loss_hop_length: tuple[Size, ...] = ()
    multispec_loss_window_size: tuple[Size, ...] = ()

    def config(self) -> VQVAEConfig:
        """The codec.

        Raises:
            InputError: its settings contradict each other.
        """
        if len(self.downs_t) != self.levels:
            raise InputError(f"hyper-parameter downs_t: {self.downs_t} is not for {self.levels}")
        multipliers = self.hvqvae_multipliers or (1,) * self.levels
        blocks = self.depth * max(multipliers, default=1) * sum(self.downs_t) * self.levels
        if blocks > MOST_BLOCKS:
            raise InputError(
                f"hyper-parameter depth: is {self.depth}, which makes up to {blocks} residual "
                f"blocks, more than the {MOST_BLOCKS} that are taken"
            )
        resolutions = None
        if self.multispec_loss_n_fft is not None:
            sizes = (self.multispec_loss_hop_length, self.multispec_loss_window_size)
            resolutions = tuple(zip(self.multispec_loss_n_fft, *sizes, strict=False))
        training = {
            "ema_decay": self.l_mu,
            "restart_threshold": self.revival_threshold,
            "commit_weight": self.commit,
            "reconstruction": self.loss_fn,
            "lmix_l1": self.lmix_l1,
            "lmix_l2": self.lmix_l2,
            "lmix_linf": self.lmix_linf,
            "linf_k": self.linf_k,
            "spectral_weight": self.spectral,
            "multispectral_weight": self.multispectral,
            "resolutions": resolutions,
        }
        return _build(
            VQVAEConfig,
            sample_rate=self.sr,
            # Published codecs mix what they read to mono, whatever `channels` says.
            channels=1,
            halvings=self.downs_t,
            codebook_size=self.l_bins,
            codebook_width=self.emb_width,
            width=self.width,
            depth=self.depth,
            expansion=self.m_conv,
            multipliers=multipliers,
            dilation_growth=self.dilation_growth_rate,
            dilation_cycle=self.dilation_cycle,
            mirror_dilation=self.vqvae_reverse_decoder_dilation,
            **{name: value for name, value in training.items() if value is not None},
        )


class _Layers(_Group):
    """Of a transformer's layers."""

    width: Size
    depth: Depth
    heads: Size
    attn_order: int
    blocks: Size | None = None
    spread: Size | None = None
    m_attn: Ratio
    m_mlp: Ratio
    res_scale: bool
    init_scale: float = 1.0
    resid_dropout: float = 0.0

    def settings(self) -> dict[str, Any]:
        """As `LayersConfig` has them."""
        return {
            "width": self.width,
            "depth": self.depth,
            "heads": self.heads,
            "blocks": self.blocks or 1,
            "patterns": attention_order(self.attn_order),
            "spread": self.spread or 1,
            "attention_ratio": self.m_attn,
            "mlp_ratio": self.m_mlp,
            "res_scale": self.res_scale,
            "init_scale": self.init_scale,
            "dropout": self.resid_dropout,
        }


class _PriorLayers(_Layers):
    width: Size = Field(alias="prior_width")
    depth: Depth = Field(alias="prior_depth")


class _EncoderLayers(_Layers):
    model_config = ConfigDict(alias_generator=lambda name: f"prime_{name}")
    rel_attn: Off = False


class PriorHps(_Group):
    """Of a prior, but for its layers and for what only some priors have."""

    n_ctx: Size
    merged_decoder: bool = False
    copy_input: Off = False
    y_cond_as_bias: Off = False
    labels: bool
    n_tokens: Size = 0
    use_tokens: bool = False


class LabelHps(_Group):
    """Of artists and genres."""

    labels_v3: bool = False
    y_bins: tuple[Size, Size]
    """Rows of the tables of genres and artists."""
    max_bow_genre_size: Depth
    p_unk: float = 0.1

    def records(
        self, vocabularies: Vocabularies, rows: Mapping[str, int] | None = None
    ) -> list[PluginRecord]:
        """The conditioners on both.

        Args:
            vocabularies: names of labels.
            rows: of the tables that there are, if that is known; compared before names are made.

        Raises:
            InputError: a vocabulary does not fit its table, or `y_bins` is not of these tables.
        """
        rule = "v3" if self.labels_v3 else "v2"
        genres, artists = self.y_bins
        found = {"genre": genres, "artist": artists} if rows is None else rows
        if (found.get("genre"), found.get("artist")) != self.y_bins:
            raise InputError(
                f"hyper-parameter y_bins: is {self.y_bins}, but the tables of genres and artists "
                f"have {found.get('genre', 'no')} and {found.get('artist', 'no')} rows"
            )
        shared = {"rule": rule, "dropout": self.p_unk}
        genre = vocabularies.settings(rule, "genre", genres)
        return [
            conditioner("artist", **shared, **vocabularies.settings(rule, "artist", artists)),
            conditioner("genre", **shared, **genre, max_words=self.max_bow_genre_size),
        ]


class TimingHps(_Group):
    """Of a coarsest level's place in its track."""

    t_bins: Size
    min_duration: float
    max_duration: float

    def record(self) -> PluginRecord:
        """The conditioner on it."""
        return conditioner(
            "timing",
            bins=self.t_bins,
            total_seconds=(self.min_duration, self.max_duration),
            absolute_seconds=(0.0, self.max_duration),
        )


class UpperHps(_Group):
    """Of the codes above a finer level."""

    cond_width: Size
    cond_depth: Depth
    cond_dilation_growth_rate: Depth
    cond_dilation_cycle: Size | None = None
    cond_res_scale: bool
    cond_m_conv: Ratio = 1.0

    def record(self) -> PluginRecord:
        """The conditioner on them."""
        return conditioner(
            "codes",
            width=self.cond_width,
            depth=self.cond_depth,
            expansion=self.cond_m_conv,
            dilation_growth=self.cond_dilation_growth_rate,
            dilation_cycle=self.cond_dilation_cycle,
            res_scale=self.cond_res_scale,
        )


class LyricsHps(_Group):
    """Of lyrics."""

    labels_v3: bool = False
    n_tokens: Size
    n_vocab: Size
    single_enc_dec: bool = False
    prime_loss_fraction: float = 0.4

    def record(self, hps: Hps) -> PluginRecord:
        """The conditioner on them: in one sequence with the codes, or by an encoder of their own.

        Raises:
            InputError: the alphabet is not one of the published ones.
        """
        alphabet = "v3" if self.labels_v3 else "v2"
        characters = len(ALPHABETS[alphabet]) + 1
        if self.n_vocab != characters:
            raise InputError(
                f"hyper-parameter n_vocab: is {self.n_vocab}, but alphabet {alphabet} numbers its "
                f"characters to {characters}"
            )
        settings: dict[str, Any] = {
            "tokens": self.n_tokens,
            "vocabulary": f"openai-{alphabet}",
            "loss_weight": self.prime_loss_fraction,
        }
        if self.single_enc_dec:
            return conditioner("lyrics_prefix", **settings)
        network = _EncoderLayers.of(hps).settings()
        return conditioner("lyrics_memory", **settings, network=network)


def codec_config(hps: Hps) -> VQVAEConfig:
    """The codec that they describe.

    Raises:
        InputError: something is missing, or this toolkit has it not.
    """
    return CodecHps.of(hps).config()


def prior_config(
    hps: Hps,
    spec: TokenSpec,
    level: int,
    vocabularies: Vocabularies,
    rows: Mapping[str, int] | None = None,
) -> PriorConfig:
    """The prior that they describe.

    Args:
        hps: the hyper-parameters.
        spec: of its codec.
        level: which of the codec's streams it models, the finest being 0.
        vocabularies: names of labels.
        rows: of the tables of labels, as `LabelHps.records` takes them.

    Raises:
        InputError: something is missing, or this toolkit has it not.
    """
    own = PriorHps.of(hps)
    conditioners = LabelHps.of(hps).records(vocabularies, rows) if own.labels else []
    top = level == len(spec.streams) - 1
    if not top:
        conditioners.append(UpperHps.of(hps).record())
    elif own.labels:
        conditioners.append(TimingHps.of(hps).record())
    if own.use_tokens and own.n_tokens:
        conditioners.append(LyricsHps.of(hps).record(hps))
    stream = spec.streams[level]
    return _build(
        PriorConfig,
        **_PriorLayers.of(hps).settings(),
        context=own.n_ctx,
        spec=spec,
        stream=stream.name,
        vocab_size=stream.vocab_size,
        separate_embeddings=own.merged_decoder,
        condition_output=not own.merged_decoder,
        conditioners=tuple(conditioners),
    )


def conditioner(name: str, **settings: Any) -> PluginRecord:
    """A conditioner of that registry name with these settings.

    Raises:
        InputError: it is not installed, or refuses them.
    """
    cls = registry.get(registry.CONDITIONERS, name)
    return registry.record(registry.CONDITIONERS, name, _build(cls.Config, **settings))


def _build(cls: Any, **settings: Any) -> Any:
    try:
        return cls.model_validate(settings)
    except ValidationError as error:
        raise InputError(f"setting {first_problem(error)}") from error
