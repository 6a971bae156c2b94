"""Which form of answer a client wants, from `?output=` or the Accept header."""

from __future__ import annotations

from service.errors import MalformedRequest, NotAcceptable
from service.formats import FORMATS
from service.formats.format import Format

JSON = "json"
SAME = "same"
WRITABLE = tuple(f for f in FORMATS if f.write is not None)
FILES = (*(f.name for f in WRITABLE), SAME)
WORDS = (JSON, *FILES)


def choose(output: str | None, accepted: list[str], source: Format) -> Format | None:
    """Return the format of the answer; None stands for the JSON answer.

    Args:
        output: the word in `?output=`, or None.
        accepted: media types of the Accept header, best first.
        source: format of the user's file.

    Raises:
        MalformedRequest: the word is not one of WORDS, or `same` is asked of a format that takes no labels.
        NotAcceptable: the Accept header leaves no answer that the service can give.
    """
    if output is not None:
        return _by_word(output, source)
    for media_type in accepted or ["*/*"]:
        if media_type in ("*/*", "application/*", "application/json"):
            return None
        for known in WRITABLE:
            if media_type in known.media_types:
                return known
    types = ["application/json", *(f.media_types[0] for f in WRITABLE)]
    raise NotAcceptable(f"the Accept header allows no answer that there is; there are: {', '.join(types)}")


def choose_file(word: str, source: Format) -> Format:
    """Return the format of a labelled file.

    Args:
        word: one of FILES.
        source: format of the user's file.

    Raises:
        MalformedRequest: the word is not one of FILES, or `same` is asked of a format that takes no labels.
    """
    if word not in FILES:
        raise MalformedRequest(f"cloud={word} is unknown; choose one of: {', '.join(FILES)}")
    if word == SAME:
        return _same("cloud", source)
    return next(known for known in WRITABLE if known.name == word)


def _by_word(word: str, source: Format) -> Format | None:
    if word == JSON or (word == SAME and source.name == JSON):
        return None
    if word == SAME:
        return _same("output", source)
    for known in WRITABLE:
        if known.name == word:
            return known
    raise MalformedRequest(f"output={word} is unknown; choose one of: {', '.join(WORDS)}")


def _same(option: str, source: Format) -> Format:
    if source.annotate is None and source.write is None:
        others = ", ".join(word for word in (WORDS if option == "output" else FILES) if word != SAME)
        raise MalformedRequest(f"{option}=same: {source.title} takes no labels; choose one of: {others}")
    return source
