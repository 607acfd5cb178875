"""`python -m conditioning.align`: when each word of the lyrics is sung, into a token corpus."""

from pathlib import Path
from typing import Any

from pydantic import Field
from pydantic_settings import CliPositionalArg

from plugins.ground.command import Command


class Align(Command):
    """Find out when each word is sung, for every track of a token corpus that has lyrics.

    The times go into the corpus, in its column `words`. Tracks that have them are passed over, so
    that the same command goes on where it was cut off. `jukebox report` makes a page on which the
    words light up as they are sung.
    """

    corpus: CliPositionalArg[Path] = Field(description="token corpus, of real music or of samples")
    aligner: str = Field(
        "attention",
        description="who finds them, by registry name: linear (evenly over the track), lrc (times "
        "that .lrc files give), pocketsphinx (English, by ear), attention (by a prior that reads "
        "lyrics), or a plugin",
    )
    audio: Path | None = Field(
        None, description="folder of the corpus's music, for aligners that listen; also of .lrc"
    )
    fallback: str = Field(
        "linear",
        description="who gives times to tracks that the aligner can't align; none: they get none",
    )
    model: Path | None = Field(
        None, description="folder with a prior that reads lyrics (prior_2/, ...), for attention"
    )
    stream: str | None = Field(None, description="stream of the prior (default: the coarsest)")
    layer: int | None = Field(
        None,
        description="layer whose attention is read (default: found)",
    )
    head: int | None = Field(None, description="head of that layer (default: found)")
    device: str | None = Field(None, description="auto, cpu, cuda or mps (default: auto)")
    dtype: str | None = Field(
        None, description="float32, bfloat16 or float16 to compute in (default: float32)"
    )
    set: dict[str, Any] = Field(
        default_factory=dict, description="further settings of the aligner: --set name=value"
    )
    again: bool = Field(False, description="also tracks that have words already")
    maps: bool = Field(
        False,
        description="keep pictures of what the aligner went by in the corpus's folder maps/, for "
        "the page of jukebox report",
    )

    def cli_cmd(self) -> None:
        """Align."""
        from conditioning.aligning import align_corpus

        names = ("model", "stream", "layer", "head", "device", "dtype")
        given = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        align_corpus(
            self.corpus,
            self.aligner,
            {**given, **self.set},
            audio=self.audio,
            fallback=None if self.fallback == "none" else self.fallback,
            again=self.again,
            maps=self.maps,
        )


if __name__ == "__main__":
    Align.main()
