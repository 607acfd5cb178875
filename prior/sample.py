"""`python -m prior.sample`: new codes from priors; ancestral, windowed, primed, on and upwards."""

from pathlib import Path

from pydantic import Field
from pydantic_settings import CliPositionalArg

from plugins.ground.command import Command
from prior.options import SamplingOptions


class Sample(SamplingOptions, Command):
    """Sample a token corpus from priors, coarsest stream first.

    Without prompts the samples start from nothing. With `--prompts` each goes on from a track of
    another corpus: from real music tokenized before, or from earlier samples (`--seconds 0` then
    only fills in the finer streams that they lack). What is sampled so far can be decoded at any
    time; killed and started again with the same options, it goes on where it stopped.
    """

    priors: CliPositionalArg[list[Path]] = Field(
        default_factory=list, description="folders of priors, in any order"
    )
    model: Path | None = Field(None, description="model folder, to take its priors instead")
    streams: list[str] = Field(
        default_factory=list, description="streams to sample with the priors of --model (all)"
    )
    out: Path = Field(description="folder for the samples, a token corpus")
    dry_run: bool = Field(False, description="say what it would cost, then stop")

    def cli_cmd(self) -> None:
        """Sample."""
        from plugins.ground.model import chosen_priors
        from plugins.ground.trainer import show_cost
        from prior.job import sampling_cost
        from prior.sampling import sample_tokens

        priors = chosen_priors(self.priors, self.model, self.streams)
        if self.dry_run:
            show_cost(sampling_cost(priors, self))
        else:
            sample_tokens(priors, self.out, self)


if __name__ == "__main__":
    Sample.main()
