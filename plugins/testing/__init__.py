"""Contract suites: what the toolkit expects of a plugin, as tests for its author to inherit.

One class for each kind of plugin. Name yours and give it settings that make it small, and pytest
runs the suite on it::

    from plugins.testing import ConditionerContract

    class TestTempo(ConditionerContract):
        name = "tempo"
        config = {"bins": 8}
        track = {"tempo": 120}

A suite finds the plugin through the registry, as commands do, so its package must be installed
(``pip install --editable .`` will do). The toolkit's own plugins pass the same suites. Nothing
else imports this package, and it is the only one that needs pytest.
"""

try:
    import pytest
except ModuleNotFoundError as missing:
    said = "plugins.testing needs pytest, which is not installed: pip install pytest"
    raise ImportError(said) from missing

# So that a failed assertion of a suite says what was compared, as one in a test file does.
pytest.register_assert_rewrite(
    f"{__name__}.aligners",
    f"{__name__}.codecs",
    f"{__name__}.commands",
    f"{__name__}.conditioners",
    f"{__name__}.contract",
    f"{__name__}.kernels",
    f"{__name__}.layers",
)

from plugins.testing.aligners import AlignerContract  # noqa: E402
from plugins.testing.codecs import CodecContract  # noqa: E402
from plugins.testing.commands import CommandContract  # noqa: E402
from plugins.testing.conditioners import ConditionerContract  # noqa: E402
from plugins.testing.kernels import KernelContract  # noqa: E402
from plugins.testing.layers import LayerAttentionContract  # noqa: E402

__all__ = [
    "AlignerContract",
    "CodecContract",
    "CommandContract",
    "ConditionerContract",
    "KernelContract",
    "LayerAttentionContract",
]
