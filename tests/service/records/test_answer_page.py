"""A page holds an answer exactly, in few bytes."""

import struct
from dataclasses import fields as dataclass_fields
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic_core import to_json

from onward.bundle import RankingDetails, RetrievedItem, RetrievedItems
from onward.service.records.answer_page import MalformedPage, read_pages, write_page
from onward.service.records.answers import Answer, page_id
from tests.service.records.answer_ids import new_answer_id
from tests.service.records.catalogs import CATALOG, DIGEST, LETTERS, LetterCatalog

ROOT_ID = new_answer_id("visitor")
EVERY_FIELD = Answer(
    page_id(ROOT_ID, 3),
    1_795_000_000_000,
    DIGEST,
    RetrievedItems(
        ("b", "not there", "a"),
        (0.1, 2.0, -1.5),
        ("encoder", "pinned", "popular"),
        (3, None, 0),
        (RankingDetails(0.1, 0.5, 2), None, RankingDetails(0.0, 0.0, None)),
    ),
    session_items=("c", "日本"),
    purchased=("c", "d"),
    hidden=("z-1",),
    user_id="u",
    options={"k": 2, "exclude": ["e", "unknown"], "filter": {"attribute": "price", "range": {"max": 3}}},
    changes_version=2**53,
    scenario="home",
    scenario_version=1,
    variant="b",
    root_id=ROOT_ID,
)

singles = st.floats(width=32, allow_nan=False)
scores = singles | st.floats(allow_nan=False) | st.floats(0.125, 9, width=32)
item_ids = st.sampled_from(LETTERS) | st.sampled_from(["new-1", "new-2", "日本", "-", "xyz"])
optional_names = st.none() | st.sampled_from(["b", "home", "日本"])
details = st.builds(
    RankingDetails, scores, st.sampled_from([0.0, 0.6931471805599453, -2.5]), st.none() | st.integers(1, 9)
)
retrieved_items = st.builds(
    RetrievedItem,
    item_ids,
    scores,
    st.sampled_from(["encoder", "popular", "similar", "pinned"]),
    st.none() | st.integers(0, 300),
    st.none(),
)


@st.composite
def answers(draw: st.DrawFn) -> Answer:
    items = draw(st.lists(retrieved_items, max_size=100))
    if draw(st.booleans()):
        items = sorted(items, key=lambda item: -item.score)
    if draw(st.booleans()):
        items = [item._replace(source="encoder", interest=0) for item in items]
    columns = RetrievedItems.of(items) if items else RetrievedItems()
    is_ranked = draw(st.booleans())
    if items and is_ranked:
        columns = replace(columns, details=tuple([draw(st.none() | details) for _ in items]))
    options: dict[str, Any] = {}
    if draw(st.booleans()):
        options["k"] = draw(st.integers(1, 100))
    if draw(st.booleans()):
        options["exclude"] = draw(st.lists(item_ids, min_size=1, max_size=3))
    if draw(st.booleans()):
        options |= {"diversity": 0.5, "pin": [{"id": "a", "position": 1}]}
    number = draw(st.integers(0, 99))
    return Answer(
        page_id(ROOT_ID, number),
        draw(st.integers(0, 2**48 - 1)),
        DIGEST,
        columns,
        session_items=tuple(draw(st.lists(item_ids, max_size=60))),
        purchased=tuple(draw(st.lists(item_ids, max_size=3))),
        hidden=tuple(draw(st.lists(item_ids, max_size=3))),
        user_id=draw(optional_names),
        options=options,
        changes_version=draw(st.integers(0, 2**60)),
        scenario=draw(optional_names),
        scenario_version=draw(st.none() | st.integers(1, 5)),
        variant=draw(optional_names),
        root_id=ROOT_ID if number else None,
    )


def read(content: bytes, catalog: LetterCatalog, *numbers: int) -> list[Answer]:
    pages = read_pages(content)
    return [page.answer(ROOT_ID, number, DIGEST, catalog.item_ids) for page, number in zip(pages, numbers, strict=True)]


@settings(deadline=None)
@given(answers(), st.sampled_from([LETTERS, LETTERS * 20, LETTERS * 5_000]))
def test_a_page_is_read_as_it_was_written(answer: Answer, letters: str) -> None:
    if answer.scenario is None:
        answer.scenario_version = None
    catalog = LetterCatalog(letters, new=["new-1", "new-2"])
    content = write_page(answer, catalog)
    number = int(answer.id[-2:], 16)
    assert read(content, catalog, number) == [answer]
    assert read(content * 2, catalog, number, number) == [answer] * 2


def test_every_field_is_kept_but_the_items_of_earlier_pages() -> None:
    assert read(write_page(EVERY_FIELD, CATALOG), CATALOG, 3) == [EVERY_FIELD]
    names = {field.name for field in dataclass_fields(Answer)} - {"shown_before"}
    assert all(getattr(EVERY_FIELD, name) for name in names)


@pytest.mark.parametrize("catalog_size", [200, 60_000, 16_000_000])
def test_a_page_of_20_items_takes_few_bytes(catalog_size: int) -> None:
    class Catalog(LetterCatalog):
        items = catalog_size

        def __init__(self) -> None: ...

        def __len__(self) -> int:
            return self.items

        def rows(self, item_ids: Any) -> list[int | None]:
            return [catalog_size - number for number in range(len(item_ids))]

    fall = [struct.unpack("f", struct.pack("f", 2 - 0.03 * rank))[0] for rank in range(20)]
    items = RetrievedItems(tuple("a" * 20), tuple(fall), ("encoder",) * 20, (0,) * 20)
    answer = Answer(ROOT_ID, 1_795_000_000_000, DIGEST, items, tuple("b" * 10), options={"k": 20})
    bytes_per_row = {200: 1, 60_000: 2, 16_000_000: 3}[catalog_size]
    assert len(write_page(answer, Catalog())) <= 85 + 30 * bytes_per_row


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_foreign_bytes_are_malformed(content: bytes) -> None:
    try:
        pages = read_pages(content)
        for page in pages:
            page.answer(ROOT_ID, 0, DIGEST, CATALOG.item_ids)
    except MalformedPage:
        return
    assert not content or content[0] == 1


@pytest.mark.parametrize(
    "extras",
    [[1], 1, {"options": 1}, {"options": [1]}, {"texts": 1}, {"texts": [1, 2]}, {"user_id": 1}, {"scenario": {}}],
)
def test_a_page_whose_rest_has_other_types_is_malformed(extras: Any) -> None:
    content = write_page(replace(EVERY_FIELD, user_id="here"), CATALOG)
    (page,) = read_pages(content)
    rest = to_json(extras)
    head = content[: -len(to_json(page.extras)) - 4]
    with pytest.raises(MalformedPage):
        read_pages(head + struct.pack("<I", len(rest)) + rest)


def test_a_page_that_was_cut_or_names_missing_rows_is_malformed() -> None:
    content = write_page(EVERY_FIELD, CATALOG)
    for size in range(1, len(content)):
        with pytest.raises(MalformedPage):
            read_pages(content[:size])
    (page,) = read_pages(content)
    with pytest.raises(MalformedPage):
        page.answer(ROOT_ID, 3, DIGEST, LetterCatalog("ab").item_ids)
