"""Lists of words as people write them."""


def words(text: str, between: str | None = None) -> list[str]:
    """The words of a text, or what stands between separators."""
    return text.split(between)
