"""`python -m prior.train`: a prior of one stream from a token corpus."""

from pathlib import Path
from typing import Any

from pydantic import Field
from pydantic_settings import CliPositionalArg

from plugins.ground.command import Command
from plugins.ground.options import TrainingOptions


class TrainPrior(TrainingOptions, Command):
    """Train a prior on a token corpus: a top prior, or an upsampler of any other stream.

    Killed and started again with the same options, it goes on from the last saved state and ends
    with the same model.
    """

    corpus: CliPositionalArg[Path] = Field(description="token corpus")
    out: Path = Field(description="folder for the prior")
    stream: str | None = Field(None, description="stream to model (default: the coarsest)")
    preset: str | None = Field(
        None,
        description="shape: 5b_lyrics, 1b_lyrics, 5b, upsampler, small or tiny (default: small)",
    )
    set: dict[str, Any] = Field(
        default_factory=dict,
        description="settings over the preset's: --set width=512, or JSON: "
        """--set '{"patterns": ["row", "column"]}'""",
    )
    conditioners: list[str] | None = Field(
        None,
        description="what the prior is told (default: artist, genre, and timing at the coarsest "
        "stream or codes of the stream above)",
    )
    conditioner_set: dict[str, Any] = Field(
        default_factory=dict,
        description="settings of conditioners: --conditioner-set codes.width=64",
    )
    init: Path | None = Field(
        None, description="prior to start from; its vocabularies grow by the corpus's labels"
    )
    model: Path | None = Field(
        None, description="model folder, to start from its prior of --stream"
    )
    held_out: list[str] = Field(
        default_factory=list, description="ids (patterns) of tracks that are only evaluated on"
    )
    attention: str = Field(
        "auto",
        description="how to attend, by registry name: a kernel, or attention that has parameters "
        "of its own, which then belongs to the prior",
    )
    attention_set: dict[str, Any] = Field(
        default_factory=dict,
        description="settings of attention that has parameters of its own: --attention-set "
        "max_distance=64",
    )
    recompute: bool = Field(
        False, description="gradient checkpointing: compute layers twice to hold less memory"
    )
    streaming: bool = Field(
        False,
        description="read a corpus that is too large for memory from its shards, in a shuffled "
        "order, without a copy on the disk that can be mapped",
    )

    def cli_cmd(self) -> None:
        """Train."""
        from plugins.ground.errors import InputError
        from plugins.ground.model import prior_of
        from prior.training import train_prior

        init, stream = self.init, self.stream
        if self.model is not None:
            if init is not None:
                raise InputError("give either --init or --model")
            init, stream = prior_of(self.model, stream), None
        train_prior(
            self.corpus,
            self.out,
            stream=stream,
            preset=self.preset,
            set=self.set,
            conditioners=self.conditioners,
            conditioner_set=self.conditioner_set,
            init=init,
            held_out=self.held_out,
            attention=self.attention,
            attention_set=self.attention_set,
            recompute=self.recompute,
            streaming=self.streaming,
            options=self,
        )


if __name__ == "__main__":
    TrainPrior.main()
