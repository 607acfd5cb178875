"""`python -m plugins.report.command`: one page to hear and judge a run."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from plugins.ground.command import Command

Name = Annotated[str, Field(min_length=1)]


class Report(Command):
    """Make a web page of a run: samples to hear and look at, and how the models learned.

    Lyrics whose words have times (jukebox align) light up as they are sung, beside a map of when
    each word is sung; align --maps keeps what the aligner went by, and the map shows that too.
    The page, its pictures and the audio it plays are one folder that can be moved or zipped and
    opened anywhere, or with --one-file a single file. Run again, it is written anew. A name that
    holds a comma goes in quotes: --training '"Prior, level 1"=FOLDER'.
    """

    out: Path = Field(description="the page, an .html file")
    title: str = Field("Report of a run", description="title of the page")
    training: dict[Name, Path] = Field(
        default_factory=dict, description="folders of trainings: --training NAME=FOLDER, repeated"
    )
    samples: dict[Name, Path] = Field(
        default_factory=dict,
        description="token corpora of samples: --samples NAME=FOLDER, repeated",
    )
    audio: dict[Name, Path] = Field(
        default_factory=dict,
        description="decoded audio of the samples of that name: --audio NAME=FOLDER, repeated",
    )
    songs: dict[Name, Path] = Field(
        default_factory=dict,
        description="token corpora of real music, played from --originals: --songs NAME=FOLDER",
    )
    reconstructions: dict[Name, Path] = Field(
        default_factory=dict,
        description="audio decoded from tokenized originals: --reconstructions NAME=FOLDER",
    )
    originals: Path | None = Field(
        None, description="folder of the music that was tokenized, to hear beside the rest"
    )
    limit: int = Field(100, ge=1, description="samples to show of each name at most")
    one_file: bool = Field(
        False, description="put pictures and audio into the page, so that it is the only file"
    )

    def cli_cmd(self) -> None:
        """Write the page."""
        from plugins.report.page import write_report

        page = write_report(
            self.out,
            title=self.title,
            trainings=self.training,
            samples=self.samples,
            audio=self.audio,
            songs=self.songs,
            reconstructions=self.reconstructions,
            originals=self.originals,
            limit=self.limit,
            one_file=self.one_file,
        )
        print(page)


if __name__ == "__main__":
    Report.main()
