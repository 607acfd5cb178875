"""Text from file names, tags and users. It does not know what the text says."""

import json
from typing import Any


def is_utf8(content: Any) -> bool:
    """Whether all text in JSON can be written as UTF-8; JSON may spell halves of characters."""
    try:
        json.dumps(content, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def utf8(text: str) -> str:
    """The text as UTF-8 can hold it: file names and tags may be of other encodings."""
    return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
