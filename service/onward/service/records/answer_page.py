"""AnswerPage: an answer in the form in which stores keep it, about 145 bytes for 20 items.

Item ids are written as rows of the bundle that answered; ids that have no row there have row 0 and stand as text in the
rest. The parts of a page, all integers little-endian:

    format, flags, time (48 bits of ms), first 8 bytes of the bundle's digest, k (0 if not set), number of items, number
    of session items, source (255 if they differ), rows of the items and session items, scores, [a byte for each
    source], [interests], [ranking details], [numbers of purchased, hidden and excluded items, and their rows], [version
    of the live catalog], [length and JSON of the rest]

The parts in brackets are there if their flag is set. A list of integers is the number of bytes of each and then the
integers, but of three bytes the lowest of each, then the next, then the highest. A list of scores begins with the way
it is written.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from operator import sub
from struct import Struct
from struct import error as StructError
from typing import Any, NamedTuple, Protocol, get_args

from pydantic import TypeAdapter
from pydantic_core import to_json
from typing_extensions import TypedDict

from onward.bundle import RankingDetails, RetrievedItems, Source
from onward.service.records.answers import Answer, page_id

FORMAT = 1
DIGEST_DIGITS = 16
"""Digits of a bundle's digest that a page names it by."""
MANY_SOURCES = 255
TEXTS = "texts"
PLAIN_EXTRAS = ("user_id", "scenario", "scenario_version", "variant")

_HAS_MARKS, _HAS_CHANGES, _HAS_INTERESTS, _HAS_DETAILS, _HAS_EXTRAS, _IS_ENCODED = (1 << bit for bit in range(6))
_HEAD = Struct("<BBIH8sBBHB")
_MARKS = Struct("<HHH")
_CHANGES = Struct("<Q")
_LENGTH = Struct("<I")
_FALLING, _SINGLE, _DOUBLE, _PALETTE = range(4)
"""Ways to write scores: as differences of their bits, as 32-bit or 64-bit numbers, or as places among few values."""
THREE_BYTES = 3
MAX_FALLING_BYTES = 500
"""So many differences of less than 24 bits cannot add up to more than 31 bits."""
SIGN_BIT = 0x80
"""In the last byte of a number."""
_CODES = "BBH I"
"""Formats of integers by their number of bytes; three bytes have none."""
_WIDTHS = tuple([bytes((width,)) for width in range(5)])
_SINGLE_WAY, _FALLING_WAY = bytes((_SINGLE,)), bytes((_FALLING,))
_OPTIONS_APART = frozenset(("k", "exclude"))
_SOURCES: tuple[Source, ...] = get_args(Source)
_SOURCE_CODES = {source: code for code, source in enumerate(_SOURCES)}


class MalformedPage(ValueError):
    """Bytes that are not pages of an answer."""


class ItemRows(Protocol):
    """The catalog of a bundle: its ids by row, and rows by id. Rows beyond `items` are not the bundle's own."""

    items: int

    def __len__(self) -> int:
        """Return the largest row."""
        ...

    def rows(self, item_ids: Sequence[str]) -> Sequence[int | None]:
        """Return the row of each id, None if there is none."""
        ...


class _Extras(TypedDict, total=False):
    """The rest of a page."""

    user_id: str
    scenario: str
    scenario_version: int
    variant: str
    options: dict[str, Any]
    texts: list[str]


_EXTRAS = TypeAdapter(_Extras)


@dataclass(slots=True)
class AnswerPage:
    """A page that was read, but for the ids of its items, which its bundle knows."""

    made_ms: int
    bundle: str
    """The first digits of the bundle's digest."""
    rows: Sequence[int]
    counts: Sequence[int]
    """Numbers of items, session items, purchased, hidden and excluded items among the rows."""
    scores: tuple[float, ...]
    sources: tuple[Source, ...]
    interests: tuple[int | None, ...]
    details: tuple[RankingDetails | None, ...]
    changes_version: int
    k: int
    extras: Mapping[str, Any]

    def answer(self, root_id: str, number: int, digest: str, item_ids: Callable[[Sequence[int]], list[str]]) -> Answer:
        """Return the answer.

        Args:
            root_id: the id of its first page.
            number: the number of this page, from 0.
            digest: the whole digest of its bundle.
            item_ids: returns the ids of rows of that bundle.

        Raises MalformedPage.
        """
        items, session_items, purchased, hidden, excluded = self._ids(item_ids)
        options = dict(self.extras.get("options", {}))
        if self.k:
            options["k"] = self.k
        if excluded:
            options["exclude"] = list(excluded)
        return Answer(
            page_id(root_id, number),
            self.made_ms,
            digest,
            RetrievedItems(items, self.scores, self.sources, self.interests, self.details),
            session_items,
            purchased,
            hidden,
            options=options,
            changes_version=self.changes_version,
            root_id=root_id if number else None,
            **{name: self.extras[name] for name in PLAIN_EXTRAS if name in self.extras},
        )

    def _ids(self, item_ids: Callable[[Sequence[int]], list[str]]) -> list[tuple[str, ...]]:
        """Return the ids of the items, session items, purchased, hidden and excluded items."""
        texts = iter(self.extras.get(TEXTS, ()))
        try:
            known = iter(item_ids([row for row in self.rows if row]))
            ids = iter([next(known) if row else next(texts) for row in self.rows])
            return [tuple([next(ids) for _ in range(count)]) for count in self.counts]
        except (IndexError, StopIteration, UnicodeDecodeError) as error:
            raise MalformedPage("the page names rows or texts that are not there") from error


def write_page(answer: Answer, catalog: ItemRows) -> bytes:
    """Return an answer as a page; `catalog` is that of the bundle that answered."""
    items, options, made_ms = answer.items, answer.options, answer.made_ms
    item_ids, sources, interests = items.item_ids, items.sources, items.interests
    rows, texts = _rows(item_ids + answer.session_items, catalog)
    flags, parts = 0, [b"", _scores(items.scores)]
    code = _SOURCE_CODES[sources[0]] if sources else 0
    if sources and sources.count(sources[0]) != len(sources):
        code = MANY_SOURCES
        parts.append(bytes(map(_SOURCE_CODES.__getitem__, sources)))
    if interests.count(0) == len(interests):
        flags |= _IS_ENCODED
    elif interests.count(None) != len(interests):
        flags |= _HAS_INTERESTS
        parts.append(_optional_integers(interests, least=0))
    if items.details:
        flags |= _HAS_DETAILS
        parts.append(_details(items.details))
    if answer.purchased or answer.hidden or "exclude" in options:
        flags |= _HAS_MARKS
        marks = answer.purchased, answer.hidden, tuple(options.get("exclude", ()))
        marked_rows, marked_texts = _rows(sum(marks, ()), catalog)
        parts += (_MARKS.pack(*map(len, marks)), _integers(marked_rows, catalog.items))
        texts = [*texts, *marked_texts]
    if answer.changes_version:
        flags |= _HAS_CHANGES
        parts.append(_CHANGES.pack(answer.changes_version))
    if texts or answer.user_id or answer.scenario or answer.variant or options.keys() - _OPTIONS_APART:
        flags |= _HAS_EXTRAS
        extras = to_json(_extras(answer, texts))
        parts += (_LENGTH.pack(len(extras)), extras)
    parts[0] = _HEAD.pack(
        FORMAT,
        flags,
        made_ms & 0xFFFFFFFF,
        made_ms >> 32,
        _digest(answer.bundle),
        options.get("k", 0),
        len(item_ids),
        len(answer.session_items),
        code,
    ) + _integers(rows, catalog.items)
    return b"".join(parts)


def read_pages(content: bytes) -> list[AnswerPage]:
    """Read pages that follow each other. Raises MalformedPage."""
    reader = _Reader(content)
    pages = []
    try:
        while not reader.is_at_end:
            pages.append(_read_page(reader))
    except (StructError, ValueError, LookupError, TypeError) as error:
        raise MalformedPage("not the pages of an answer") from error
    return pages


class _Reader:
    """Takes parts of bytes, one after another."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._place = 0

    @property
    def is_at_end(self) -> bool:
        return self._place >= len(self._content)

    def take(self, size: int) -> bytes:
        """Return the next bytes. Raises ValueError if there are fewer."""
        part = self._content[self._place : self._place + size]
        if len(part) < size:
            raise ValueError("the content ends within a part")
        self._place += size
        return part

    def unpack(self, form: Struct) -> tuple[Any, ...]:
        return form.unpack(self.take(form.size))


def _read_page(reader: _Reader) -> AnswerPage:
    version, flags, low_ms, high_ms, digest, k, items, session_items, code = reader.unpack(_HEAD)
    if version != FORMAT:
        raise ValueError("another format")
    rows = _read_integers(reader, items + session_items)
    scores = _read_scores(reader, items)
    codes = reader.take(items) if code == MANY_SOURCES else bytes([code]) * items
    interests: tuple[int | None, ...] = (0 if flags & _IS_ENCODED else None,) * items
    if flags & _HAS_INTERESTS:
        interests = _read_optional_integers(reader, items, least=0)
    details = _read_details(reader, items) if flags & _HAS_DETAILS else ()
    marks = reader.unpack(_MARKS) if flags & _HAS_MARKS else (0, 0, 0)
    marked_rows = _read_integers(reader, sum(marks)) if flags & _HAS_MARKS else ()
    (changes_version,) = reader.unpack(_CHANGES) if flags & _HAS_CHANGES else (0,)
    extras: Mapping[str, Any] = {}
    if flags & _HAS_EXTRAS:
        extras = _EXTRAS.validate_json(reader.take(*reader.unpack(_LENGTH)))
    return AnswerPage(
        made_ms=low_ms | high_ms << 32,
        bundle=digest.hex(),
        rows=rows + marked_rows,
        counts=(items, session_items, *marks),
        scores=scores,
        sources=tuple([_SOURCES[code] for code in codes]),
        interests=interests,
        details=details,
        changes_version=changes_version,
        k=k,
        extras=extras,
    )


def _rows(ids: Sequence[str], catalog: ItemRows) -> tuple[Sequence[int], Sequence[str]]:
    """Return the row of each id, 0 for one that is not the bundle's own, and those ids."""
    rows, last = catalog.rows(ids), catalog.items
    if None not in rows and len(catalog) == last:
        return rows, ()  # type: ignore[return-value]  # no row is None
    own = [row if row and row <= last else 0 for row in rows]
    return own, [item_id for item_id, row in zip(ids, own, strict=True) if not row]


def _extras(answer: Answer, texts: Sequence[str]) -> dict[str, Any]:
    """Return what few answers have."""
    extras = {name: value for name in PLAIN_EXTRAS if (value := getattr(answer, name)) is not None}
    options = {name: value for name, value in answer.options.items() if name not in _OPTIONS_APART}
    return extras | ({"options": options} if options else {}) | ({TEXTS: texts} if texts else {})


@cache
def _digest(digest: str) -> bytes:
    return bytes.fromhex(digest[:DIGEST_DIGITS])


class _Layout(NamedTuple):
    """The parts of a number of scores."""

    floats: Struct
    differences_bytes: int
    mask: int
    """Selects as many bytes of an integer."""


@cache
def _layout(scores: int) -> _Layout:
    size = max(0, 4 * scores - 4)
    return _Layout(_form("f", scores), size, (1 << 8 * size) - 1)


@cache
def _form(code: str, count: int) -> Struct:
    return Struct(f"<{count}{code}")


def _integers(values: Sequence[int], largest: int) -> bytes:
    """Write integers of 0..`largest`, which is below 2^32."""
    width = (largest.bit_length() + 7) // 8
    if width == THREE_BYTES:
        content = _form("I", len(values)).pack(*values)
        return _WIDTHS[width] + content[::4] + content[1::4] + content[2::4]
    return _WIDTHS[width] + _form(_CODES[width], len(values)).pack(*values)


def _read_integers(reader: _Reader, count: int) -> tuple[int, ...]:
    (width,) = reader.take(1)
    return _read_planes(reader, count) if width == THREE_BYTES else reader.unpack(_form(_CODES[width], count))


def _read_planes(reader: _Reader, count: int) -> tuple[int, ...]:
    """Read integers of three bytes: the lowest byte of each, then the next, then the highest."""
    content = bytearray(4 * count)
    for place in range(THREE_BYTES):
        content[place::4] = reader.take(count)
    return _form("I", count).unpack(content)


def _optional_integers(values: Sequence[int | None], *, least: int) -> bytes:

    numbers = [0 if value is None else value - least + 1 for value in values]
    return _integers(numbers, max(numbers, default=0))


def _read_optional_integers(reader: _Reader, count: int, *, least: int) -> tuple[int | None, ...]:
    return tuple([value + least - 1 if value else None for value in _read_integers(reader, count)])


def _scores(values: tuple[float, ...]) -> bytes:
    """Write scores exactly, in the shortest way."""
    count = len(values)
    floats, size, mask = _layout(count)
    try:
        single = floats.pack(*values)
        is_exact = floats.unpack(single) == values
    except OverflowError:
        is_exact = False
    if not is_exact:
        return _palette(values) or bytes((_DOUBLE,)) + _form("d", count).pack(*values)
    # The bits of positive numbers, read as integers, fall as the numbers do. All differences are one difference of two
    # long integers: while the numbers fall nothing is borrowed, and where one rises the highest byte is not 0. That the
    # last number is positive rules out that one before it is negative, as they fall by less than 24 bits.
    bits = int.from_bytes(single, "little")
    falls = ((bits & mask) - (bits >> 32)).to_bytes(size + 1, "little", signed=True)
    if falls[3::4].count(0) * 4 == size < MAX_FALLING_BYTES and size and single[-1] < SIGN_BIT:
        return _FALLING_WAY + single[:4] + falls[:size:4] + falls[1::4] + falls[2::4]
    return _SINGLE_WAY + single


def _palette(values: Sequence[float]) -> bytes:
    """Write values of which few differ; empty if that would not be shorter."""
    palette = {value: place for place, value in enumerate(dict.fromkeys(values))}
    if 2 * len(palette) > len(values) or len(palette) > 255:
        return b""
    places = [palette[value] for value in values]
    return b"".join(
        [bytes((_PALETTE, len(palette))), _form("d", len(palette)).pack(*palette), _integers(places, len(palette) - 1)]
    )


def _read_scores(reader: _Reader, count: int) -> tuple[float, ...]:
    (way,) = reader.take(1)
    if way == _FALLING:
        (first,) = _form("I", 1).unpack(reader.take(4))
        bits = accumulate(_read_planes(reader, count - 1), sub, initial=first)
        return _form("f", count).unpack(_form("I", count).pack(*bits))
    if way == _PALETTE:
        palette = reader.unpack(_form("d", reader.take(1)[0]))
        return tuple([palette[place] for place in _read_integers(reader, count)])
    return reader.unpack(_form("d" if way == _DOUBLE else "f", count))


def _details(details: Sequence[RankingDetails | None]) -> bytes:
    """Write ranking details; those of an item that has none are not written."""
    given = [detail for detail in details if detail is not None]
    base_scores: tuple[float, ...]
    log_boosts: tuple[float, ...]
    ranks: tuple[int | None, ...]
    base_scores, log_boosts, ranks = zip(*given, strict=True) if given else ((), (), ())
    is_given = bytes([detail is not None for detail in details])
    return b"".join([is_given, _scores(base_scores), _scores(log_boosts), _optional_integers(ranks, least=1)])


def _read_details(reader: _Reader, count: int) -> tuple[RankingDetails | None, ...]:
    is_given = reader.take(count)
    given = sum(is_given)
    base_scores, log_boosts = _read_scores(reader, given), _read_scores(reader, given)
    details = map(RankingDetails, base_scores, log_boosts, _read_optional_integers(reader, given, least=1))
    return tuple([next(details) if present else None for present in is_given])
