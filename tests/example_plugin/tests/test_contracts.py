"""What the toolkit expects of plugins, held against those of this package."""

from typing import ClassVar

from plugins.testing import (
    AlignerContract,
    CodecContract,
    CommandContract,
    ConditionerContract,
    LayerAttentionContract,
)


class TestResidualVQ(CodecContract):
    name = "rvq"
    config: ClassVar = {"codebook_sizes": (16, 32, 32), "bands": 20, "width": 8, "depth": 1}


class TestRelative(LayerAttentionContract):
    name = "relative"
    config: ClassVar = {"max_distance": 5}


class TestTempo(ConditionerContract):
    name = "tempo"
    config: ClassVar = {"bins": 8}
    track: ClassVar = {"tempo": 120}
    others: ClassVar = ({"tempo": 77.5}, {"tempo": "180"})


class TestSyllables(AlignerContract):
    name = "syllables"
    config: ClassVar = {"intro": 1.5}


class TestCodeUsage(CommandContract):
    name = "code-usage"
    wrong: ClassVar = ([], ["no/such/corpus"], ["one", "two"])
