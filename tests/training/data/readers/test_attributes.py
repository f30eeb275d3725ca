from pathlib import Path

import polars as pl
import pytest

from onward.training.errors import InputError
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
