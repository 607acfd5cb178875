"""What hostile inputs are tried on: audio, corpora, metadata, lyrics, configs; the targets that
need PyTorch are `targets_of_models`.

A target is a function of a scratch folder that makes sound files, and gives a function that tries
one case: that spoils one of them, and uses it in every way. It does not know how cases are run.
"""

import contextlib
import io
import random
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import targets_of_models as models
from mutations import spoiled, spoiled_json, spoiled_text
from plumbing import Case, allowed, laid_out

MUSIC = {
    ".wav": (("WAV", "PCM_16"), ("WAV", "FLOAT"), ("WAV", "IMA_ADPCM"), ("WAVEX", "PCM_24")),
    ".flac": (("FLAC", "PCM_16"), ("FLAC", "PCM_24")),
    ".ogg": (("OGG", "VORBIS"),),
    ".opus": (("OGG", "OPUS"),),
    ".mp3": (("MP3", "MPEG_LAYER_III"),),
    ".aiff": (("AIFF", "PCM_16"), ("AIFF", "FLOAT")),
    ".au": (("AU", "PCM_16"), ("AU", "ULAW")),
    ".caf": (("CAF", "PCM_16"), ("CAF", "ALAC_16")),
    ".w64": (("W64", "PCM_16"),),
    ".rf64": (("RF64", "PCM_16"),),
}
LYRICS = """[ti:One]
[ar:Anna]
[offset:+250]
[00:01.00]la <00:01.50>la [5:30pm]
[Chorus]

[00:02.00][00:09.5]<00:02.10>lo <00:02.90>lu
"""


def audio(folder: Path) -> Case:
    """Audio files of every kind: measured, read to the end, read from the middle, their tags."""
    import mutagen
    import numpy as np
    import soundfile
    from mutagen.id3 import ID3, TPE1, USLT

    from codec.audio import measure, read_blocks
    from codec.sources import read_tags

    sound = 0.3 * np.random.default_rng(0).standard_normal((3000, 2))
    sounds = []
    for suffix, kinds in MUSIC.items():
        for number, (kind, subtype) in enumerate(kinds):
            path = folder / f"{number}{suffix}"
            soundfile.write(path, sound, 8000, subtype, format=kind)
            if suffix == ".mp3":
                tags = ID3()
                tags.add(TPE1(text="Anna"))
                tags.add(USLT(text=LYRICS))
                tags.save(path)
            elif suffix in (".flac", ".ogg", ".opus"):
                tagged = mutagen.File(path)
                tagged.update({"artist": ["Anna"], "lyrics": [LYRICS]})
                tagged.save()
            sounds.append((suffix, path.read_bytes()))

    def read(path: Path, *form: int, **stretch: float) -> None:
        for block in read_blocks(path, *form, **stretch):
            assert block.dtype == np.float32
            assert np.isfinite(block).all()
            assert 0 < block.shape[1] <= 1 << 16
            assert block.shape[0] == (form[1] if form else block.shape[0])

    def case(rng: random.Random) -> None:
        suffix, content = rng.choice(sounds)
        path = folder / f"case{suffix}"
        path.write_bytes(spoiled(content, rng.choice(sounds)[1], rng))
        allowed(measure, path)
        allowed(read, path)
        allowed(read, path, start=rng.choice((0.1, 0.374, 1e6)), duration=0.1)
        allowed(read, path, 11025, 1, start=rng.uniform(0, 0.4), duration=0.05)
        read_tags(path)

    return case


def corpora(folder: Path) -> Case:
    """Token corpora: read to the last row in every way, verified, mended, written to."""
    import numpy as np
    import pyarrow.parquet as pq

    from codec import shards
    from codec.corpus import Corpus, CorpusWriter
    from codec.verifying import verify_corpus
    from plugins.ground.files import sha256_of

    spec = models.spec_of(2)
    rng = np.random.default_rng(0)

    def row(name: str, count: int) -> dict[str, Any]:
        codes = {f"codes_{s}": rng.integers(0, 32, count // (s + 1)) for s in range(2)}
        words = [{"start": 0.5, "end": 1.0, "text": "la"}]
        named = {"id": name, "path": name, "artist": "Anna", "lyrics": "la", "bpm": 90}
        return {**named, "num_samples": 4 * count, "words": words, **codes}

    columns = {"bpm": "int64", "mood": "string"}
    made = folder / "made"
    writer = CorpusWriter(made, spec, {"made_by": "test"}, columns)  # type: ignore[arg-type]
    writer.append([row("a", 300), row("b", 0)])
    writer.append([row("c", 80)])
    # The same again as other programs write it: no checksums, so that damage reaches further in.
    plain = folder / "plain"
    shutil.copytree(made, plain)
    manifest = (plain / "corpus.json").read_text()
    for path in plain.glob("*.parquet"):
        before = sha256_of(path)
        table = pq.read_table(path)
        pq.write_table(table, path, compression=rng.choice(["none", "zstd"]))
        manifest = manifest.replace(before, sha256_of(path))
    (plain / "corpus.json").write_text(manifest)
    sound = [{p.name: p.read_bytes() for p in place.iterdir()} for place in (made, plain)]

    def read(place: Path, streaming: bool) -> None:
        corpus = Corpus(place, streaming)
        for track in corpus.tracks():
            assert all(track[f"codes_{s}"].max(initial=0) < 32 for s in range(2))
        for number in range(len(corpus)):
            assert corpus[number]["id"] == corpus.metadata(number)["id"]
            corpus.codes(number, corpus.spec.streams[0].name, 3, 9)
        corpus.lengths(corpus.spec.streams[-1].name)

    def write(place: Path) -> None:
        CorpusWriter(place, spec, {"made_by": "test"}, columns).append(  # type: ignore[arg-type]
            [row("new", 40)]
        )

    def case(rng: random.Random) -> None:
        files = dict(rng.choice(sound))
        name, other = rng.choice(sorted(files)), rng.choice(sorted(files))
        content = files[name]
        if name == "corpus.json":
            files[name] = spoiled_json(content.decode(), "{}", rng)
        else:
            files[name] = spoiled(content, files[other], rng)
        place = laid_out(folder / "case", files)
        shards.IN_MEMORY = rng.choice((1 << 28, 0))
        streaming = rng.random() < 0.5
        opened = allowed(read, place, streaming)
        found = allowed(verify_corpus, place)
        if name != "corpus.json" and files[name] != content:
            assert found is not None
            assert found[1], "codec.verify found nothing"
        if found is not None and not found[1]:
            assert opened is not None, "codec.verify found nothing in what can't be read"
        if rng.random() < 0.5 and allowed(verify_corpus, place, drop=True) is not None:
            read(place, streaming)
        allowed(write, place)

    return case


def mapped(folder: Path) -> Case:
    """The copies of shards that are mapped into memory."""
    import numpy as np

    from codec import shards
    from codec.corpus import Corpus, CorpusWriter

    spec = models.spec_of(2)
    codes = {f"codes_{s}": np.arange(300) % 32 for s in range(2)}
    made = folder / "made"
    named = {"num_samples": 1200, "artist": "Anna", "lyrics": "la " * 20}
    CorpusWriter(made, spec).append([{"id": name, **named, **codes} for name in "abc"])
    shards.IN_MEMORY = 0
    Corpus(made).lengths("0")
    (path,) = (made / shards.MAPPED).iterdir()
    content = path.read_bytes()

    def read() -> None:
        corpus = Corpus(made)
        for number in range(len(corpus)):
            assert len(corpus[number]["codes_0"]) >= 0
        corpus.lengths("1")

    def case(rng: random.Random) -> None:
        path.write_bytes(spoiled(content, content, rng))
        allowed(read)

    return case


def metadata(folder: Path) -> Case:
    """`metadata.jsonl`, `metadata.csv` and text beside audio, up to the corpus that holds them."""
    import numpy as np
    import soundfile

    from codec.corpus import Corpus, CorpusWriter
    from codec.rows import column_types
    from codec.sources import find_sources

    spec = models.spec_of(1)
    soundfile.write(folder / "made.wav", np.zeros(100), 8000)
    sound = (folder / "made.wav").read_bytes()
    lines = (
        '{"file_name": "a.wav", "artist": "Anna", "bpm": 120, "live": true}\n'
        '{"file_name": "b.wav", "title": "One", "bpm": 90.5, "moods": ["calm", "dark"]}\n'
    )
    table = 'file_name,artist,title\na.wav,Anna,"One, two"\nb.wav,Bert,Three\n'

    def jsonl(rng: random.Random) -> dict[str, bytes]:
        if rng.random() < 0.4:
            return {"metadata.jsonl": spoiled_text(lines, table, rng)}
        parts = [spoiled_json(line, "{}", rng) for line in lines.splitlines()]
        return {"metadata.jsonl": b"\n".join(parts)}

    kinds: tuple[Callable[[random.Random], dict[str, bytes]], ...] = (
        jsonl,
        lambda rng: {"metadata.csv": spoiled_text(table, lines, rng)},
        lambda rng: {"a.lrc": spoiled_text(LYRICS, lines, rng)},
        lambda rng: {"a.txt": spoiled_text("la la\nla", LYRICS, rng)},
    )

    def code(place: Path) -> None:
        """What `codec.tokenize` does, but for the codes."""
        sources = find_sources(place)
        columns = column_types(source.metadata for source in sources)
        rows = [{**source.metadata, "id": source.id, "path": source.path} for source in sources]
        out = place / "tokens"
        CorpusWriter(out, spec, {}, columns).append({**row, "codes_0": [1, 2]} for row in rows)
        corpus = Corpus(out)
        assert corpus.ids() == [source.id for source in sources]
        for track in corpus.tracks():
            assert set(columns) <= set(track)

    def case(rng: random.Random) -> None:
        files = {"a.wav": sound, "b.wav": sound, **rng.choice(kinds)(rng)}
        allowed(code, laid_out(folder / "case", files))

    return case


def lyrics(folder: Path) -> Case:
    """`.lrc` files, and tags that look like them."""
    from plugins.ground.files import read_text
    from plugins.ground.lrc import parse_lrc, plain_text, timed_words, without_times

    path = folder / "case.lrc"

    def read() -> None:
        text = read_text(path)
        without_times(text)
        lines = parse_lrc(text, path.name)
        words = timed_words(lines)
        assert [word.text for word in words] == plain_text(lines).split()
        assert all(0 <= word.start <= word.end for word in words)

    def case(rng: random.Random) -> None:
        path.write_bytes(spoiled_text(LYRICS, '{"file_name": "a.wav"}', rng))
        allowed(read)

    return case


def configs(folder: Path) -> Case:
    """`--config` files of commands, TOML and JSON: status 0, or 2 with one line on stderr."""
    from codec.tokenize import Tokenize
    from codec.train import TrainCodec
    from codec.verify import VerifyCorpus
    from plugins.ground.command import Command
    from prior.sample import Sample

    options: Mapping[type[Command], tuple[str, str]] = {
        VerifyCorpus: (
            'corpus = "tokens"\ncodec = "codec"\ndrop = false\n',
            '{"corpus": "tokens", "codec": "codec", "drop": false}',
        ),
        Tokenize: (
            'audio = ["none.wav"]\nout = "new"\ncodec = "codec"\nworkers = 1\n',
            '{"audio": ["none.wav"], "out": "new", "codec": "codec", "shard_tracks": 4}',
        ),
        TrainCodec: (
            'audio = ["none.wav"]\nout = "new"\nsteps = 3\nbatch-size = 2\n[set]\nwidth = 8\n',
            '{"audio": ["none.wav"], "out": "new", "steps": 3, "set": {"width": 8}}',
        ),
        Sample: (
            'priors = ["none"]\nout = "new"\nseconds = 2.5\nlabel = {mood = "calm"}\n',
            '{"priors": ["none"], "out": "new", "temperature": 0.9, "count": 2}',
        ),
    }

    def case(rng: random.Random) -> None:
        command = rng.choice(list(options))
        kind = rng.randrange(2)
        text = options[command][kind]
        path = folder / ("case.toml", "case.json")[kind]
        spoil = spoiled_text if kind == 0 else spoiled_json
        path.write_bytes(spoil(text, options[TrainCodec][kind], rng))
        with (
            contextlib.redirect_stderr(io.StringIO()) as err,
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.suppress(SystemExit),
        ):
            command.main(["--config", str(path)])
        said = err.getvalue().splitlines()
        assert len(said) == 1, said
        assert said[0].startswith("error: ")
        assert len(said[0]) > len("error: ")

    return case


TARGETS: Mapping[str, Callable[[Path], Case]] = {
    "audio": audio,
    "corpora": corpora,
    "mapped": mapped,
    "metadata": metadata,
    "lyrics": lyrics,
    "configs": configs,
    **models.TARGETS,
}
