"""The rule of ids: which texts may name an item, a session, a user, an event or an answer. See decision 33.

It is the same with every version of Python: it relies on properties that the Unicode Standard guarantees never to
change, and on Unicode 3.2, whose tables every Python has. This module needs the standard library alone, so that Spark
can send it to workers that have nothing else.
"""

import re
import unicodedata

MAX_ID_LENGTH = 128
"""In code points; in UTF-8 these are at most 512 bytes."""

REPLACEMENT_CHARACTER = "\ufffd"
"""What decoders put in place of bytes that are not UTF-8."""
_NONCHARACTERS = "\ufdd0-\ufdef" + "".join(chr(plane << 16 | last) for plane in range(17) for last in (0xFFFE, 0xFFFF))
_FORBIDDEN_IN_FILES = re.compile(f"[\0-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff{_NONCHARACTERS}]")
_KINDS = {
    "Cc": "a control character",
    "Cs": "a surrogate",
    "Zl": "a line separator",
    "Zp": "a paragraph separator",
    "Cf": "the byte order mark",
    "Cn": "a noncharacter",
}
"""What the forbidden characters of each general category are."""
_INERT = "\0"
"""A character that normalization neither changes nor combines with others."""


def is_valid_id(value: str) -> bool:
    """Return whether a text is an id: see `id_fault`."""
    return (value.isascii() and value.isprintable() and 0 < len(value) <= MAX_ID_LENGTH) or id_fault(value) is None


def checked_id(value: str) -> str:
    """Return a valid id. Raises ValueError for any other text, with the text of `id_fault`."""
    if value.isascii() and value.isprintable() and 0 < len(value) <= MAX_ID_LENGTH:
        return value
    if (fault := id_fault(value)) is not None:
        raise ValueError(fault)
    return value


def id_fault(value: str) -> str | None:
    """Return why a text is not an id, in one line; None if it is one.

    An id is 1 to 128 code points in Unicode normalization form C (NFC), without control characters, line and paragraph
    separators, surrogates, noncharacters, the byte order mark and the replacement character. Characters that are newer
    than Unicode 3.2 may stand anywhere: they count as unaffected by normalization.
    """
    if (fault := stored_id_fault(value)) is not None:
        return fault
    if REPLACEMENT_CHARACTER in value:
        return "an id may not have U+FFFD, which stands for bytes that were not UTF-8"
    if (place := _first_not_in_nfc(value)) is not None:
        return f"an id may not have U+{ord(value[place]):04X} where Unicode normalization (NFC) would change it"
    return None


def stored_id_fault(value: str) -> str | None:
    """Return why a text in a stored file is not an id; None if it is one, or was one by the rule of version 0.1.

    That rule also allowed the replacement character and texts that are not in NFC.
    """
    if not 0 < len(value) <= MAX_ID_LENGTH:
        return f"an id has 1 to {MAX_ID_LENGTH} characters"
    if (match := _FORBIDDEN_IN_FILES.search(value)) is not None:
        return f"an id may not have U+{ord(match[0]):04X}, {_KINDS[unicodedata.category(match[0])]}"
    return None


def _first_not_in_nfc(value: str) -> int | None:
    """Return the place of the first character of Unicode 3.2 that normalization would change, None if there is none.

    Every part of a text in NFC is in NFC. So only of a text that is not, by the tables of this Python, the characters
    that are newer than Unicode 3.2 need to be set aside.
    """
    if unicodedata.is_normalized("NFC", value):
        return None
    known = "".join(_INERT if unicodedata.ucd_3_2_0.category(char) == "Cn" else char for char in value)
    return next((end for end in range(len(known)) if not unicodedata.is_normalized("NFC", known[: end + 1])), None)
