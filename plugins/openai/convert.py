"""`python -m plugins.openai.convert`: published Jukebox checkpoints to a model folder."""

from pathlib import Path

from pydantic import Field
from pydantic_settings import CliPositionalArg

from plugins.ground.command import Command


class Convert(Command):
    """Make a model folder (codec/, prior_0/, prior_1/, ...) of published Jukebox checkpoints.

    Convert them all in one go or one after the other, the codec first: priors belong to it. What
    is in the folder already stays. Nothing pickled is ever run.
    """

    checkpoints: CliPositionalArg[list[Path]] = Field(
        description="vqvae.pth.tar, prior_level_0.pth.tar, ...: any of them"
    )
    out: Path = Field(description="model folder; made if missing")
    model: str | None = Field(
        None,
        description="5b, 5b_lyrics, 1b_lyrics, or a JSON file of hyper-parameters "
        "(default: what the checkpoints say themselves)",
    )
    labels: Path | None = Field(
        None,
        description="folder with v2_artist_ids.txt, v2_genre_ids.txt, v3_artist_ids.txt, "
        "v3_genre_ids.txt (default: those of an installed jukebox-infer, else numbers for names)",
    )

    def cli_cmd(self) -> None:
        """Convert."""
        from plugins.openai.converting import convert

        for folder in convert(self.checkpoints, self.out, self.model, self.labels):
            print(folder)


if __name__ == "__main__":
    Convert.main()
