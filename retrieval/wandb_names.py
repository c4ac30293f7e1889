"""Names that Weights & Biases takes."""

import hashlib
import re
import unicodedata

LONGEST = 128  # characters of a W&B name


def ascii_name(text: str) -> str:
    """The text as W&B takes it for a name: ASCII, at most LONGEST characters. A text that had to be changed ends in a
    hash of what it was, so that two texts keep two names."""
    plain = re.sub("[^ -~]", "", unicodedata.normalize("NFKD", text))  # accents are characters of their own there
    if plain == text and len(text) <= LONGEST:
        return text
    digest = hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:8]
    return f"{plain[: LONGEST - len(digest) - 1]}-{digest}".lstrip("-")
