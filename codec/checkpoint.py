"""A folder and a codec: config and weights in, codec out; nothing pickled.

It knows no network: a codec is built by its registry name.
"""

from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ValidationError

from codec.base import Codec
from codec.tokens import TokenSpec
from plugins import registry
from plugins.ground import saved
from plugins.ground.errors import InputError

KIND = "codec"


def save_codec(codec: Codec, folder: Path | str) -> TokenSpec:
    """Publish a codec in a folder, which is made if missing.

    Returns:
        Its spec with the fingerprint, which the codec carries from now on as well.

    Raises:
        InputError: the codec could not be loaded again (as `require_registered`), or the folder
            can't be written.
    """
    require_registered(codec)
    record = registry.record(registry.CODECS, codec.spec.codec, codec.config)
    spec = _fingerprinted(codec)
    # The spec is beside it for those who ask which codec this is, but read no weights.
    config = {"codec": record.model_dump(mode="json"), "spec": spec.model_dump(mode="json")}
    saved.save_model(folder, KIND, config, codec)
    codec.spec = spec
    return spec


def load_codec(
    folder: Path | str, device: str | torch.device = "cpu", engine: str = "auto"
) -> Codec:
    """The codec of a folder, in evaluation mode.

    Args:
        folder: of the codec.
        device: for its weights.
        engine: as `Codec.use_engine`.

    Raises:
        InputError: no codec there, its plugin is not installed, weights and config disagree, or
            the engine can't serve it.
    """
    config = saved.load_config(folder, KIND)
    try:
        record = registry.PluginRecord.model_validate(config.get("codec"))
    except ValidationError as error:
        raise InputError(f"{Path(folder) / saved.CONFIG} does not say which codec it is") from error
    cls, settings = registry.restore(registry.CODECS, record)
    _check_size(cls, settings, folder)
    codec = build_codec(cls, settings)
    saved.fill(codec, saved.load_weights(folder), folder)
    codec.spec = _fingerprinted(codec)
    codec = codec.to(device).eval()
    codec.use_engine(engine)
    return codec


def _check_size(cls: Any, config: BaseModel, folder: Path | str) -> None:
    """Refuse a config that does not fit the weights before anything of its size is made.

    Raises:
        InputError: names the weights that are missing, left over or of another shape.
    """
    try:
        with torch.device("meta"):
            outline = cls(config)
    except Exception:  # some can only be built in earnest
        return
    saved.check_fit(outline, folder)


def build_codec(cls: Any, config: BaseModel) -> Codec:
    """A codec of that class, fresh.

    Raises:
        InputError: its class can't build it, or gives it no spec; names the distribution.
    """
    with registry.blaming(cls, "be built"):
        codec: Codec = cls(config)
        if not isinstance(codec.spec, TokenSpec):
            raise TypeError(f"its spec is a {type(codec.spec).__name__}, not a TokenSpec")
    return codec


def require_registered(codec: Codec) -> None:
    """Check that `spec.codec` is the name that the codec's class is registered by.

    Raises:
        InputError: nothing is registered by that name, or another class is, as happens to a
            subclass that leaves its parent's name in its spec.
    """
    name, cls = codec.spec.codec, type(codec)
    registered = registry.get(registry.CODECS, name)
    if registered is not cls:
        raise InputError(
            f"a folder of {cls.__qualname__} would be loaded as {registered.__qualname__}, which "
            f"is registered as {name!r}: set spec.codec to {cls.__qualname__}'s own registry name"
        )


def read_spec(folder: Path | str) -> TokenSpec:
    """The spec of the codec in a folder; reads the weights for the fingerprint.

    Raises:
        InputError: as `load_codec`.
    """
    return load_codec(folder).spec


def _fingerprinted(codec: Codec) -> TokenSpec:
    """Defaults are left out, so that a setting added later does not make old codes foreign."""
    config = codec.config.model_dump(mode="json", exclude_defaults=True)
    print_ = saved.fingerprint({"codec": codec.spec.codec, "config": config}, codec)
    return codec.spec.model_copy(update={"fingerprint": print_})
