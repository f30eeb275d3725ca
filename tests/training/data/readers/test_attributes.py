import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from onward.training.data.dataset import Dataset
from onward.training.data.readers.dialect import Dialect
from onward.training.errors import InputError
from onward.training.export.bundling import availability, json_attributes
from tests.training.data.conftest import START_MS, Prepare, log

EVENTS = log({"s1": "2 1 3"})


def attributes(prepared: Prepare, tmp_path: Path, name: str, content: str) -> list[dict[str, object]]:
    (tmp_path / name).write_text(content)
    return prepared(EVENTS, items=str(tmp_path / name)).attributes().to_dicts()


def test_attributes_are_in_the_order_of_rows(prepared: Prepare, tmp_path: Path) -> None:
    content = "item_id,title,price,available\n1,Mug,9.5,true\n2,Bowl,12,false\n9,Unseen,1,true\n"
    assert attributes(prepared, tmp_path, "items.csv", content) == [
        {"item_id": "2", "title": "Bowl", "price": 12.0, "available": False},
        {"item_id": "1", "title": "Mug", "price": 9.5, "available": True},
        {"item_id": "3", "title": None, "price": None, "available": None},
    ]


def test_items_without_events_are_counted_and_left_out(prepared: Prepare, tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text("item_id,title\n1,Mug\n8,Gone\n9,Gone too\n")
    dataset = prepared(EVENTS, items=str(tmp_path / "items.csv"))
    assert dataset.info.attributes_unused == 2
    assert dataset.item_ids() == ["2", "1", "3"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("items.jsonl", '{"product_id": 1, "title": "Mug"}\n{"product_id": 2, "title": "Bowl"}\n'),
        ("items.item", "item_id:token\ttitle:token_seq\n1\tMug\n2\tBowl\n"),
        ("items.tsv", "sku\ttitle\n1\tMug\n2\tBowl\n"),
    ],
)
def test_items_can_have_any_format(prepared: Prepare, tmp_path: Path, name: str, content: str) -> None:
    titles = [row["title"] for row in attributes(prepared, tmp_path, name, content)]
    assert titles == ["Bowl", "Mug", None]


def test_lists_are_kept_as_lists(prepared: Prepare, tmp_path: Path) -> None:
    items = pl.DataFrame({"item_id": [1, 2], "genres": [["x", "y"], []]})
    dataset = prepared(EVENTS, items=prepared.file(items, "items"))
    assert dataset.attributes()["genres"].to_list() == [[], ["x", "y"], None]


def test_rows_without_an_item_are_problems_and_the_first_of_duplicates_counts(
    prepared: Prepare, tmp_path: Path
) -> None:
    (tmp_path / "items.csv").write_text("item_id,title\n1,Mug\n,Nameless\n1,Mug again\n2\u0301\u0323,Not NFC\n")
    dataset = prepared(EVENTS, items=str(tmp_path / "items.csv"))
    assert dataset.attributes()["title"].to_list() == [None, "Mug", None]
    assert [str(problem) for problem in dataset.info.problems] == [
        "items.csv row 3: duplicate item (1)",
        "items.csv row 2: missing item id (1)",
        "items.csv row 4: unusable item id: "
        "an id may not have U+0323 where Unicode normalization (NFC) would change it (1)",
    ]


@pytest.mark.parametrize("item_ids", [["007", "08"], ["1e5", "2e5"], ["a b", "c d"], ["true", "false"]])
def test_ids_of_text_files_are_read_as_they_are(prepared: Prepare, tmp_path: Path, item_ids: list[str]) -> None:
    events = pl.DataFrame({"session_id": [1, 1], "item_id": item_ids, "timestamp": [START_MS, START_MS + 1]})
    (tmp_path / "items.csv").write_text(f"sku,title\n{item_ids[0]},Mug\n{item_ids[1]},Bowl\n")
    dataset = prepared(events, items=str(tmp_path / "items.csv"))
    assert dict(zip(dataset.item_ids(), dataset.attributes()["title"], strict=True)) == {
        item_ids[0]: "Mug",
        item_ids[1]: "Bowl",
    }


@pytest.mark.parametrize("truth", ["available\n1,1\n2,0\n", "available\n1,Yes\n2,no\n", "available\n1,True\n2,FALSE\n"])
def test_availability_is_boolean(prepared: Prepare, tmp_path: Path, truth: str) -> None:
    rows = attributes(prepared, tmp_path, "items.csv", "item_id," + truth)
    assert [row["available"] for row in rows] == [False, True, None]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("item_id,available\n1,maybe\n", "item 1: available is 'maybe'; write true or false"),
        ("item_id,popularity\n1,5\n", "a dataset has its own 'popularity'; rename that column"),
        ("what,title\n1,Mug\n", r"give --items-column \(the columns are what, title\)"),
        ("", "the first line is empty"),
    ],
)
def test_an_unusable_items_file_is_refused(prepared: Prepare, tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        attributes(prepared, tmp_path, "items.csv", content)


def items_file(prepared: Prepare, tmp_path: Path, name: str, content: str | bytes, **options: Any) -> Dataset:
    (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return prepared(EVENTS, items=str(tmp_path / name), **options)


def own_keys(dataset: Dataset) -> dict[str, dict[str, Any]]:
    return {row.pop("item_id"): row for row in json_attributes(dataset.attributes())}


def test_objects_are_flattened_and_an_item_has_its_own_keys_alone(prepared: Prepare, tmp_path: Path) -> None:
    rows = [
        {"item_id": "1", "details": {"Brand": "b", "size": {"cm": 5}}, "empty": {}, "tags": ["x", "y"]},
        {"item_id": "2", "details": {"Colour": "red"}, "variants": [{"sku": "2a"}, {"sku": "2b"}]},
        {"item_id": "3", "details": {}, "price": None},
    ]
    content = "\n".join(json.dumps(row) for row in rows)
    for name, text in (("items.jsonl", content), ("items.json", json.dumps(rows)), ("mark.jsonl", "\ufeff" + content)):
        assert own_keys(items_file(prepared, tmp_path, name, text)) == {
            "1": {"details.Brand": "b", "details.size.cm": 5, "tags": ["x", "y"]},
            "2": {"details.Colour": "red", "variants": ['{"sku": "2a"}', '{"sku": "2b"}']},
            "3": {},
        }


def test_structs_of_parquet_are_flattened(prepared: Prepare, tmp_path: Path) -> None:
    pl.DataFrame({"item_id": [1, 2], "details": [{"Brand": "b"}, None]}).write_parquet(tmp_path / "items.parquet")
    dataset = prepared(EVENTS, items=str(tmp_path / "items.parquet"))
    assert own_keys(dataset) == {"1": {"details.Brand": "b"}, "2": {}, "3": {}}


def test_columns_of_text_files_get_the_type_that_all_of_their_values_have(prepared: Prepare, tmp_path: Path) -> None:
    content = (
        "item_id,price,year,ean,code,new,serial\n"
        "1,9.5,1990,007,1e5,true,99999999999999999999\n"
        "2,,1991,008,2e5,False,1\n"
        "3,NULL,1992,009,3e5,,2\n"
    )
    assert own_keys(items_file(prepared, tmp_path, "items.csv", content)) == {
        "1": {"price": 9.5, "year": 1990, "ean": "007", "code": "1e5", "new": True, "serial": "99999999999999999999"},
        "2": {"year": 1991, "ean": "008", "code": "2e5", "new": False, "serial": "1"},
        "3": {"year": 1992, "ean": "009", "code": "3e5", "serial": "2"},
    }


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("$1,299.00", 1299.0),
        ("1.299,00 €", 1299.0),
        ("EUR 5", 5.0),
        ("1'299.50 CHF", 1299.5),
        ("12,5", 12.5),
        ("1,299", 1299.0),
        ("1,299,000", 1299000.0),
        ("-3.5", -3.5),
        ("free", None),
    ],
)
def test_prices_with_currency_are_numbers_when_asked(
    prepared: Prepare, tmp_path: Path, text: str, number: float | None
) -> None:
    rows = json.dumps({"item_id": "1", "price": text}) + "\n" + json.dumps({"item_id": "2", "price": "$1"})
    assert items_file(prepared, tmp_path, "items.jsonl", rows).attributes()["price"].to_list()[1] == text
    asked = items_file(prepared, tmp_path, "items.jsonl", rows, items_numbers=("price",))
    assert asked.attributes()["price"].to_list() == [1.0, number, None]


@pytest.mark.parametrize(
    ("column", "yes", "no"),
    [
        ("available", "Y", "n"),
        ("Available", "TRUE", "false"),
        ("availability", "in stock", "out of stock"),
        ("availability", "in_stock", "sold out"),
        ("availability", "https://schema.org/InStock", "https://schema.org/OutOfStock"),
        ("in_stock", "12", "0"),
        ("is available", "1.0", "0.0"),
    ],
)
def test_words_for_available_are_understood_and_said(
    prepared: Prepare, tmp_path: Path, column: str, yes: str, no: str
) -> None:
    dataset = items_file(prepared, tmp_path, "items.csv", f"item_id,{column}\n1,{yes}\n2,{no}\n3,\n")
    assert dataset.attributes()["available"].to_list() == [False, True, None]
    assert dataset.info.account is not None
    (remark,) = dataset.info.account.remarks
    assert remark.startswith(f"{column!r} says which items are available:")


def test_no_available_item_is_said_and_cannot_be_exported(prepared: Prepare, tmp_path: Path) -> None:
    dataset = items_file(prepared, tmp_path, "items.csv", "item_id,available\n1,false\n2,false\n3,false\n")
    assert dataset.info.account is not None
    assert dataset.info.account.remarks == (
        "no item is available: items.csv says so of all, so none can be recommended",
    )
    with pytest.raises(InputError, match=r"^no item is available, so none could be recommended"):
        availability(dataset.attributes())


def test_items_without_events_are_an_error_if_there_are_no_others(prepared: Prepare, tmp_path: Path) -> None:
    with pytest.raises(
        InputError,
        match=r"none of its items has an event: .* such as '2' and '1' of the events and 'x' and 'y' of items",
    ):
        items_file(prepared, tmp_path, "items.csv", "item_id,title\nx,Mug\ny,Bowl\n")


def test_few_items_with_attributes_are_worth_a_remark(prepared: Prepare, tmp_path: Path) -> None:
    dataset = items_file(prepared, tmp_path, "items.csv", "item_id,title\n1,Mug\n02,Bowl\n")
    assert dataset.info.account is not None
    assert dataset.info.account.remarks == (
        "only 1 of 3 items have attributes; compare the ids, such as '2' and '3' of the events and '02' of items.csv",
    )


def test_bytes_that_are_not_utf8_are_refused_with_their_place(prepared: Prepare, tmp_path: Path) -> None:
    content = "item_id,title\n1,Mug\n2,café\n".encode("latin-1")
    with pytest.raises(InputError, match=r"items.csv is not UTF-8: byte 25 \(0xe9, line 3\); give its --encoding"):
        items_file(prepared, tmp_path, "items.csv", content)
    read = items_file(prepared, tmp_path, "items.csv", content, dialect=Dialect(encoding="latin-1"))
    assert read.attributes()["title"].to_list() == ["café", "Mug", None]


def test_an_unclear_quote_mark_is_refused_with_its_line(prepared: Prepare, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"line 2: cannot tell whether its quote mark"):
        items_file(prepared, tmp_path, "items.csv", 'item_id,title\n1,"Mug\n2,Bowl\n')
    assert items_file(prepared, tmp_path, "items.csv", 'item_id,title\n1,19" TV\n').attributes()["title"][1] == '19" TV'
