r"""What may be said of how a file of text is written: the sign between its fields, its encoding.

No decoder of Python's is taken that makes bytes of bytes, or cannot go on after bytes that are
no text.
"""

from __future__ import annotations

import codecs

from tidemill.foundation.errors import InvalidInput

_NO_DELIMITERS = '\0\r\n"'


def delimiter_of(said: str) -> str:
    r"""Returns the sign between CSV fields; ``\t`` may be two characters, as a shell passes it.

    Raises:
        InvalidInput: it is not one ASCII character, or ends a line, or is a quote.
    """
    sign = "\t" if said == "\\t" else said
    if len(sign) != 1 or not sign.isascii() or sign in _NO_DELIMITERS:
        raise InvalidInput(
            f"delimiter is {said[:40]!r}",
            remedy="Give one ASCII character that is no quote and no line end; \\t is a tab.",
        )
    return sign


def decoder_of(encoding: str) -> codecs.IncrementalDecoder:
    """Returns what decodes text of an encoding and goes on after bytes that are none.

    Raises:
        InvalidInput: no encoding of text has that name, or it cannot go on so.
    """
    try:
        sample = "id".encode(encoding)  # refused where it is no encoding of text
        decode = codecs.getincrementaldecoder(encoding)
        if decode("surrogateescape").decode(sample, final=True) == "id":
            return decode("surrogateescape")
    except (LookupError, ValueError):  # a UnicodeError is a ValueError
        pass
    raise InvalidInput(
        f"encoding {encoding[:40]!r} is not known as one of text",
        remedy="Use utf-8, latin-1, cp1252, …",
    )
