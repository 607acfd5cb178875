"""Bad plugins of real distributions, met by commands as processes: one line that names the
distribution, status 2, and nothing there is lost.
"""

import json
from pathlib import Path

import numpy as np
import pytest
from harness import Ended, Starter

from codec.corpus import CorpusWriter
from codec.tokens import TokenSpec, TokenStream

SPEC = TokenSpec(
    sample_rate=800,
    channels=1,
    streams=(TokenStream(name="0", vocab_size=12, hop_length=8),),
    codec="vqvae",
    fingerprint="0123456789abcdef",
)
SHAPE = {"context": 16, "width": 16, "depth": 2, "heads": 1, "blocks": 4, "patterns": ["dense"]}
ENTRY_POINTS = {
    "rival_kit-2": "[jukebox.conditioners]\ntwin = a:b\n",
    "bad_kit-1.3": """
[jukebox.conditioners]
twin = bad_things:Twin
absent = no_such_module:Plain
wrong = bad_things:Naive
plain = bad_things:Plain
flat = bad_things:Flat
alone = bad_things:Alone
wide = bad_things:Wide
more = bad_things:More
nothing = bad_things:Nothing
crowd = bad_things:Crowd
raising = bad_things:Raising
listing = bad_things:Listing
ragged = bad_things:Ragged
unfit = bad_things:Unfit
unbuilt = bad_things:Unbuilt
tempo = bad_things:Tempo

[jukebox.attention]
liar = bad_things:Liar
cutter = bad_things:Cutter
""",
}
THINGS = '''
import itertools
import torch
from conditioning.base import Condition, Conditioner, Provides
from prior.attention.kernels import Naive
from pydantic import BaseModel, ConfigDict

class Config(BaseModel):
    model_config = ConfigDict(extra="forbid")

class Plain(Conditioner):
    """A sound one, but for what it does with labels that somebody typed."""
    Config = Config
    announced = Provides(start=True)

    def __init__(self, config, site):
        super().__init__(config, site)
        self.start = torch.nn.Parameter(torch.zeros(site.width))

    @property
    def provides(self):
        return self.announced

    def prepare(self, track, window, rng=None):
        return {"one": torch.tensor(1)}

    def made(self, batch):
        return self.start.expand(len(batch["one"]), 1, -1)

    def forward(self, batch):
        return Condition(start=self.made(batch))

    def check(self, track):
        [label["colour"] for label in track.values()]

class Flat(Plain):
    def made(self, batch):
        return super().made(batch)[:, 0]

class Alone(Plain):
    def made(self, batch):
        return super().made(batch)[:1]

class Wide(Plain):
    def made(self, batch):
        return super().made(batch).double()

class More(Plain):
    def forward(self, batch):
        return Condition(start=self.made(batch), position=self.made(batch))

class Nothing(Plain):
    def forward(self, batch):
        return {"start": self.made(batch)}

class Crowd(Plain):
    announced = Provides(prefix=4, prefix_vocab=3)
    def forward(self, batch):
        return Condition(prefix=batch["one"][:, None] * torch.arange(4))

class Raising(Plain):
    def prepare(self, track, window, rng=None):
        return {"one": torch.tensor(track["artist"]["name"])}

class Listing(Plain):
    def prepare(self, track, window, rng=None):
        return {"one": [1]}

class Ragged(Plain):
    lengths = itertools.count()
    def prepare(self, track, window, rng=None):
        return {"one": torch.zeros(next(self.lengths))}

class Unfit(Plain):
    @classmethod
    def fit(cls, config, tracks):
        return {track["mood"] for track in tracks}

class Unbuilt(Plain):
    def __init__(self, config, site):
        raise RuntimeError("no\\nroom")

class Tempo(Plain):
    reads = ("artist", "tempo")

class Liar(Naive):
    """It says that it can serve everything."""
    def __call__(self, q, k, v, pattern):
        raise NotImplementedError("operator is not\\nthere")

class Cutter(Naive):
    def __call__(self, q, k, v, pattern):
        return super().__call__(q, k, v, pattern)[:, :, :-1]
'''
TRAIN = (
    f"prior.train tokens --preset tiny --set {json.dumps(SHAPE, separators=(',', ':'))} "
    "--steps 1 --batch-size 2 --device cpu"
)
LIE = "'liar' of group jukebox.attention from bad-kit 1.3 can't serve pattern 'dense'"
MADE = "from bad-kit 1.3 made"
SAMPLE = "prior.sample new/0 --seconds 0.1 --device cpu"
SOUND = [
    f"{TRAIN} --conditioners plain",
    f"{TRAIN} --conditioners tempo".replace("tokens", "timed"),
]
"""What makes the priors new/0 and new/1."""
CASES = {
    f"{TRAIN} --conditioners twin": (
        "two plugins are named 'twin' in jukebox.conditioners: of bad-kit and rival-kit; uninstall"
    ),
    f"{TRAIN} --conditioners absent": (
        "from bad-kit 1.3 can't be loaded: ModuleNotFoundError: No module named 'no_such_module'"
    ),
    f"{TRAIN} --conditioners wrong": (
        "from bad-kit 1.3 is not what that group holds: bad_things:Naive must be a subclass of "
        "conditioning.base.Conditioner"
    ),
    f"{TRAIN} --conditioners flat": (
        f"{MADE} [2, 16] torch.float32 as its start, but announced [2, 1, 16] torch.float32"
    ),
    f"{TRAIN} --conditioners alone": f"{MADE} [1, 1, 16] torch.float32 as its start, but",
    f"{TRAIN} --conditioners wide": f"{MADE} [2, 1, 16] torch.float64 as its start, but",
    f"{TRAIN} --conditioners more": "as its position, but announced nothing",
    f"{TRAIN} --conditioners nothing": f"{MADE} a dict, not a Condition",
    f"{TRAIN} --conditioners crowd": (
        f"{MADE} a prefix of tokens 0 to 3, but announced 3 kinds: 0 to 2"
    ),
    f"{TRAIN} --conditioners raising": (
        "from bad-kit 1.3 can't prepare track 'track-1': TypeError: string indices must be"
    ),
    f"{TRAIN} --conditioners raising --workers 1": "can't prepare track 'track-1': TypeError",
    f"{TRAIN} --conditioners listing": "bad-kit 1.3 prepared 'one': a list, not a tensor",
    f"{TRAIN} --conditioners ragged": "all need the same names, shapes and dtypes",
    f"{TRAIN} --conditioners unfit": (
        "from bad-kit 1.3 can't be fitted to the labels of the corpus: KeyError: 'mood'"
    ),
    f"{TRAIN} --conditioners unbuilt": "from bad-kit 1.3 can't be built: RuntimeError: no room",
    f"{TRAIN} --conditioners tempo": (
        "from bad-kit 1.3 reads 'tempo', a column that tokens lacks: give 'tempo' in metadata.json"
    ),
    "prior.train tokens --init new/1 --steps 1 --device cpu": (
        "from bad-kit 1.3 reads 'tempo', a column that tokens lacks: give 'tempo' in metadata.json"
    ),
    f"{TRAIN} --conditioners timing --attention liar": LIE,
    f"{TRAIN} --conditioners timing --attention cutter": "from bad-kit 1.3 can't serve",
    f"{SAMPLE} --prompts tokens --prompt-seconds 0.1 --attention liar": LIE,
    f"{SAMPLE} --label mood=merry": "from bad-kit 1.3 can't read these labels: TypeError",
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus without tempi and one that has them, and a folder for the path."""
    folder = tmp_path_factory.mktemp("home")
    codes = np.arange(60, dtype=np.uint16) % 12
    rows = [
        {"id": f"track-{n}", "num_samples": 480, "artist": "a" * n, "codes_0": codes}
        for n in (1, 2)
    ]
    CorpusWriter(folder / "tokens", SPEC, {}).append(rows)
    timed = [{**row, "tempo": 120} for row in rows]
    CorpusWriter(folder / "timed", SPEC, {}, {"tempo": "int64"}).append(timed)
    for name, text in ENTRY_POINTS.items():
        info = folder / "site" / f"{name}.dist-info"
        info.mkdir(parents=True)
        (info / "entry_points.txt").write_text(text)
    (folder / "site" / "bad_things.py").write_text(THINGS)
    return folder


@pytest.fixture(scope="module")
def done(home: Path) -> dict[str, Ended]:
    """What came of each command line, the first of which make priors for the others."""
    starter = Starter(home / "site")
    done = {}
    for number, line in enumerate([*SOUND, *CASES]):
        done[line] = starter.run([*line.split(), "--out", f"new/{number}"], home)
    starter.close()
    return done


def test_a_sound_plugin_works_beside_bad_ones(home: Path, done: dict[str, Ended]) -> None:
    for number, line in enumerate(SOUND):
        assert done[line].error == ""
        config = json.loads((home / "new" / str(number) / "config.json").read_text())
        (kept,) = config["conditioners"]
        assert (kept["distribution"], kept["version"]) == ("bad-kit", "1.3")


@pytest.mark.parametrize("line", CASES, ids=lambda line: " ".join(line.split()[-2:]))
def test_one_line_and_status_2(done: dict[str, Ended], line: str) -> None:
    found = done[line]
    assert CASES[line] in found.error
    assert found.err.endswith(f"{found.error}\n")


def test_nothing_is_written_that_could_be_taken_for_a_model(
    home: Path, done: dict[str, Ended]
) -> None:
    made = [*(home / "new").rglob("*.safetensors"), *(home / "new").rglob("*.parquet")]
    assert {path.parent.name for path in made} == {"0", "1"}
