"""What codes are: which streams, at what rates, from which codec.

It knows neither tensors nor files; everything that reads codes checks a `TokenSpec` first.
"""

from pydantic import BaseModel, ConfigDict, Field, model_validator

from plugins.ground.errors import InputError


class TokenStream(BaseModel):
    """One sequence of codes with its own rate and codebook.

    Names are free: "0", "1", "2" for the levels of a VQ-VAE, later "vocals/2" for a stem.
    """

    model_config = ConfigDict(frozen=True)

    name: str = Field(min_length=1)
    vocab_size: int = Field(ge=1, le=1 << 16)
    hop_length: int = Field(ge=1)
    """Audio samples for each code."""


class TokenSpec(BaseModel):
    """The streams that a codec makes from audio, finest first (paper section 3)."""

    model_config = ConfigDict(frozen=True)

    sample_rate: int = Field(ge=1)
    """Samples per second and channel."""
    channels: int = Field(ge=1)
    streams: tuple[TokenStream, ...] = Field(min_length=1)
    codec: str
    """Registry name of the codec."""
    fingerprint: str
    """Of the codec's config and weights: codes of another codec mean something else."""

    @model_validator(mode="after")
    def _streams_are_sound(self) -> "TokenSpec":
        names = [stream.name for stream in self.streams]
        if len(set(names)) != len(names):
            raise ValueError(f"two streams of one name: {names}")
        hops = [stream.hop_length for stream in self.streams]
        if hops != sorted(hops):
            raise ValueError(f"streams are not finest first: hops {hops}")
        return self

    def stream(self, name: str) -> TokenStream:
        """The stream of that name.

        Raises:
            InputError: there is none; lists those that exist.
        """
        for stream in self.streams:
            if stream.name == name:
                return stream
        have = ", ".join(stream.name for stream in self.streams)
        raise InputError(f"no stream {name!r}; there are: {have}")

    @property
    def coarsest_hop(self) -> int:
        """Samples per code of the coarsest stream."""
        return self.streams[-1].hop_length

    def rate(self, name: str) -> float:
        """Codes per second of a stream."""
        return self.sample_rate / self.stream(name).hop_length

    def require(self, other: "TokenSpec", ours: str, theirs: str) -> None:
        """Refuse codes of another codec.

        Args:
            other: the spec that is to agree with this one.
            ours: what this spec belongs to, for the message.
            theirs: what the other belongs to.

        Raises:
            InputError: they differ; names both.
        """
        if self != other:
            raise InputError(
                f"{theirs} holds codes of codec {other.codec} {other.fingerprint}, but {ours} "
                f"needs {self.codec} {self.fingerprint}: tokenize the audio again with that codec"
            )
