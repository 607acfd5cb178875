"""Text from file names, tags and users. It does not know what the text says."""


def utf8(text: str) -> str:
    """The text as UTF-8 can hold it: file names and tags may be of other encodings."""
    return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
