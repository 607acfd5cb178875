"""`python -m codec.evaluate`: how good a codec is on audio that it has not seen."""

from pathlib import Path

from pydantic import Field
from pydantic_settings import CliPositionalArg

from codec.config import EngineName
from plugins.ground.command import Command


class EvaluateCodec(Command):
    """Code and decode held-out audio, and say how well each stream keeps it and at what rate.

    Spectral convergence is in decibels (lower is better), the mean over tracks; perplexity is how
    many equally frequent entries would use the codebook as evenly.
    """

    audio: CliPositionalArg[list[str]] = Field(description="files, folders or globs")
    codec: Path | None = Field(None, description="folder of the codec")
    model: Path | None = Field(None, description="model folder, to take its codec")
    out: Path | None = Field(None, description="JSON file for the figures, with each track's own")
    device: str = Field("auto", description="auto, cpu, cuda or mps")
    engine: EngineName = Field("auto", description="how to compute: auto, eager or native")

    def cli_cmd(self) -> None:
        """Evaluate."""
        from codec.evaluating import evaluate_codec, show
        from plugins.ground.files import write_json
        from plugins.ground.model import chosen_codec

        codec = chosen_codec(self.codec, self.model)
        report = evaluate_codec(self.audio, codec, device=self.device, engine=self.engine)
        show(report)
        if self.out is not None:
            write_json(self.out, report.model_dump(mode="json"))


if __name__ == "__main__":
    EvaluateCodec.main()
