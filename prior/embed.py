"""`python -m prior.embed`: activations of a layer of a prior, as features of the music."""

from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import CliPositionalArg

from plugins.ground.command import Command


class Embed(Command):
    """Write the activations of a layer of a prior over a token corpus, as Parquet files.

    What a prior has learned of music serves other tasks: genre, mood, key (Castellon et al. 2021).
    A layer in the middle of the coarsest stream's prior, averaged over each track, is their choice.
    Tags that the features may have to predict do not go into them unless `--tell-labels` is given.
    Killed and started again with the same options, it goes on after the last part that it wrote.
    """

    corpus: CliPositionalArg[Path] = Field(description="token corpus")
    model: Path = Field(description="folder of the model, with prior_0/, prior_1/, ...")
    layer: int = Field(ge=0, description="layer whose output is taken, counted from 0")
    out: Path | None = Field(
        None, description="folder for the Parquet files (default: CORPUS-layer-N, beside CORPUS)"
    )
    pool: Literal["mean", "none"] = Field(
        "mean", description="mean: one row a track; none: one row a code"
    )
    stream: str | None = Field(None, description="stream of the prior (default: the coarsest)")
    tell_labels: bool = Field(
        False, description="tell the prior the tracks' artists, genres, lyrics"
    )
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="of weights and computation"
    )
    device: str = Field("auto", description="auto, cpu, cuda or mps")
    batch_size: int = Field(4, ge=1, description="windows of one context at a time")

    def cli_cmd(self) -> None:
        """Embed."""
        from plugins.ground.model import prior_of
        from prior.embedding import embed_corpus

        corpus = self.corpus.resolve()
        out = self.out or corpus.with_name(f"{corpus.name}-layer-{self.layer}")
        embed_corpus(
            self.corpus,
            prior_of(self.model, self.stream),
            out,
            layer=self.layer,
            pool=self.pool,
            labels=self.tell_labels,
            dtype=self.dtype,
            device=self.device,
            batch_size=self.batch_size,
        )
        print(f"embeddings in {out}")


if __name__ == "__main__":
    Embed.main()
