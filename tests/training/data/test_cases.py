"""Files of the kinds that people have, each with the same log: prepared whole, or refused in a line that says why.

The log: 40 sessions of 5 events on 8 items; session s begins with item 3s mod 8 and goes up by one, wrapping.
"""

import bz2
import gzip
import json
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from onward.training.data.dataset import Dataset
from tests.training.data.conftest import Outcome

Command = Callable[..., Outcome]
Writer = Callable[[Path], object]
OPTIONS = ("--min-support", 1, "--test-share", 0.3)
START_S = 1_700_000_001


@dataclass(frozen=True)
class Click:
    session: int
    place: int
    item: int

    @property
    def time_s(self) -> int:
        return START_S + 10_000 * self.session + 7 * self.place

    def time(self, pattern: str) -> str:
        return datetime.fromtimestamp(self.time_s, UTC).strftime(pattern)


LOG = [Click(session, place, (3 * session + place) % 8) for session in range(40) for place in range(5)]


def lines(header: str | None, row: Callable[[Click], str], clicks: Sequence[Click] = LOG) -> str:
    head = [] if header is None else [header]
    return "\n".join([*head, *map(row, clicks)]) + "\n"


def csv(item: str = "i{}", clicks: Sequence[Click] = LOG) -> str:
    return lines("session_id,item_id,timestamp", lambda c: f"s{c.session:02},{item.format(c.item)},{c.time_s}", clicks)


def timed(pattern: str) -> str:
    return lines("session_id,item_id,timestamp", lambda c: f"s{c.session:02},i{c.item},{c.time(pattern)}")


def titled(title: Callable[[Click], str], separator: str = ",") -> str:
    header = separator.join(("session_id", "item_id", "title", "timestamp"))
    return lines(header, lambda c: separator.join((f"s{c.session:02}", f"i{c.item}", title(c), str(c.time_s))))


def jsonl(row: Callable[[Click], dict[str, Any]]) -> str:
    return lines(None, lambda c: json.dumps(row(c)))


def plain_row(c: Click) -> dict[str, Any]:
    return {"session_id": f"s{c.session:02}", "item_id": f"i{c.item}", "timestamp": c.time_s}


def text(content: str) -> Writer:
    return lambda path: path.write_text(content)


def packed(content: bytes) -> Writer:
    return lambda path: path.write_bytes(content)


def frame(**columns: Any) -> pl.DataFrame:
    rows = {"session_id": [f"s{c.session:02}" for c in LOG], "timestamp": [c.time_s for c in LOG]}
    return pl.DataFrame({**rows, **columns})


def folder(**files: str) -> Writer:
    def write(path: Path) -> None:
        for name, content in files.items():
            file = path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content)

    return write


def zipped(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/part-1.csv", csv(clicks=LOG[:100]))
        archive.writestr("a/part-2.csv", csv(clicks=LOG[100:]))
        archive.writestr("__MACOSX/a/._part-1.csv", "\0\1")


def damaged_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("log.csv", csv())
    content = path.read_bytes()
    path.write_bytes(content[:60] + b"\xff" * 40 + content[100:])


def zstandard(path: Path) -> None:
    pl.DataFrame({"line": csv().splitlines()}).write_csv(
        path, include_header=False, quote_style="never", compression="zstd"
    )


def otto(path: Path) -> None:
    events = {
        s: [{"aid": c.item, "ts": c.time_s * 1000, "type": "clicks"} for c in LOG if c.session == s] for s in range(40)
    }
    path.write_text("".join(json.dumps({"session": s, "events": list_}) + "\n" for s, list_ in events.items()))


HALVES = {"a.csv": csv(clicks=LOG[:100]), "b.csv": csv(clicks=LOG[100:])}
STRAY = {(10, 3), (24, 2)}

WHOLE: dict[str, tuple[Writer, Sequence[object]]] = {
    "stray-quotes.csv": (text(titled(lambda c: 'TV 55"' if (c.session, c.place) in STRAY else "thing")), ()),
    "one-stray-quote.csv": (text(titled(lambda c: 'TV 55"' if (c.session, c.place) == (10, 3) else "thing")), ()),
    "quoted-and-stray.csv": (text(titled(lambda c: 'TV 55"' if c.item == 2 else '"a, ""b"""')), ()),
    "lines-in-quotes.csv": (text(titled(lambda c: f'"first\nsecond, {c.item}\n"')), ()),
    "open-quotes.tsv": (text(titled(lambda c: '"Till the end' if c.item == 3 else "song", "\t")), ()),
    "inches.tsv": (text(titled(lambda c: '19" TV' if c.item % 3 == 0 else "thing", "\t")), ()),
    "carriage-returns.csv": (packed(csv().replace("\n", "\r").encode()), ()),
    "windows.csv": (packed(csv().replace("\n", "\r\n").encode()), ()),
    "utf-16.csv": (packed(csv("é{}").encode("utf-16")), ()),
    "latin.csv": (packed(csv("é{}").encode("latin-1")), ("--encoding", "latin-1")),
    "spreadsheet.csv": (text("sep=^\n" + csv().replace(",", "^")), ()),
    "float-times.csv": (text(lines("sid,sku,ts", lambda c: f"s{c.session:02},i{c.item},{c.time_s:.9e}")), ()),
    "pipes.csv": (text(csv().replace(",", "|")), ()),
    "carets.csv": (text(csv().replace(",", "^")), ("--separator", "^")),
    "double-colons.csv": (text(csv().replace(",", "::")), ("--separator", "::")),
    "apostrophes.csv": (text(titled(lambda c: "'a, b'")), ("--quote", "'")),
    "zeros.csv": (text(csv("010877000{}")), ()),
    "exponents.csv": (text(csv("{}e5")), ()),
    "spaced.csv": (text(csv(" {}")), ()),
    "no-header.csv": (text(csv().partition("\n")[2]), ("--columns", "session_id,item_id,timestamp")),
    "slot.csv": (
        text(
            lines(
                "session_id,item_id,timestamp,position",
                lambda c: f"s{c.session:02},i{c.item},{c.time_s},{5 - c.place}",
            )
        ),
        (),
    ),
    "upper": (folder(**{"B.CSV": HALVES["b.csv"], "a.csv": HALVES["a.csv"]}), ()),
    "hidden": (folder(**{**HALVES, "._a.csv": "\0\0", "_SUCCESS": "", ".crc/x.csv": "a,b\n1,2\n"}), ()),
    "empty-part": (folder(**{**HALVES, "aa.csv": "", "ab.csv": "\n"}), ()),
    "header-only-part": (folder(**{**HALVES, "aa.csv": "session_id,item_id,timestamp\n"}), ()),
    "hive": (folder(**{"dt=2024-01-01/p.csv": HALVES["a.csv"], "dt=2024-01-02/p.csv": HALVES["b.csv"]}), ()),
    "other-order": (
        folder(
            **{
                "a.csv": HALVES["a.csv"],
                "b.jsonl": "".join(json.dumps(plain_row(c)) + "\n" for c in LOG[100:150]),
                "c.tsv": lines("ts\tsku\tsid", lambda c: f"{c.time_s}\ti{c.item}\ts{c.session:02}", LOG[150:]),
            }
        ),
        (),
    ),
    "utc.csv": (text(timed("%Y-%m-%d %H:%M:%S UTC")), ()),
    "postgres.csv": (text(timed("%Y-%m-%d %H:%M:%S.123+00")), ()),
    "rails.csv": (text(timed("%Y-%m-%d %H:%M:%S +0000")), ()),
    "us.csv": (text(timed("%m/%d/%Y %I:%M:%S %p")), ()),
    "european.csv": (text(timed("%d.%m.%Y %H:%M:%S")), ()),
    "slashes.csv": (text(timed("%Y/%m/%d %H:%M:%S")), ()),
    "compact.csv": (text(timed("%Y%m%d%H%M%S")), ()),
    "weekday.csv": (text(timed("%a %b %d %H:%M:%S +0000 %Y")), ()),
    "apache.csv": (text(timed("%d/%b/%Y:%H:%M:%S +0000")), ("--time-format", "%d/%b/%Y:%H:%M:%S %z")),
    "big-numbers.jsonl": (text(jsonl(lambda c: plain_row(c) | {"item_id": 99999999999999999990 + c.item})), ()),
    "nested.jsonl": (
        text(jsonl(lambda c: {"session_id": c.session, "item": {"id": c.item}, "timestamp": c.time_s})),
        ("--item-column", "item.id"),
    ),
    "mark.jsonl": (text("\ufeff" + jsonl(plain_row)), ()),
    "array.json": (text(json.dumps([plain_row(c) for c in LOG])), ()),
    "object.json": (text(json.dumps({"status": "ok", "events": [plain_row(c) for c in LOG]}, indent=2)), ()),
    "indented.json": (text(json.dumps([plain_row(c) for c in LOG], indent=2)), ()),
    "otto.jsonl": (otto, ()),
    "packed.csv.gz": (packed(gzip.compress(csv().encode())), ()),
    "packed.csv.bz2": (packed(bz2.compress(csv().encode())), ()),
    "packed.csv.zst": (zstandard, ()),
    "packed.jsonl.gz": (packed(gzip.compress(jsonl(plain_row).encode())), ()),
    "packed.zip": (zipped, ()),
    "decimal.parquet": (
        frame(item_id=pl.Series([Decimal(c.item) for c in LOG], dtype=pl.Decimal(38, 0))).write_parquet,
        (),
    ),
    "decimal-places.parquet": (
        frame(item_id=pl.Series([Decimal(c.item) for c in LOG], dtype=pl.Decimal(12, 2))).write_parquet,
        (),
    ),
    "binary.parquet": (frame(item_id=[f"é{c.item}".encode() for c in LOG]).write_parquet, ()),
    "dictionary.parquet": (
        frame(item_id=pl.Series([f"i{c.item}" for c in LOG], dtype=pl.Categorical)).write_parquet,
        (),
    ),
    "large-integers.parquet": (
        frame(item_id=pl.Series([2**64 - 9 + c.item for c in LOG], dtype=pl.UInt64)).write_parquet,
        (),
    ),
    "struct.parquet": (frame(product=[{"sku": c.item, "name": "n"} for c in LOG]).write_parquet, ()),
    "amazon.json": (
        text(
            jsonl(
                lambda c: (
                    {"reviewerID": f"s{c.session:02}", "asin": f"B{c.item}", "overall": 5.0}
                    | {"unixReviewTime": c.time_s, "reviewTime": "11 14, 2023"}
                )
            )
        ),
        (),
    ),
}


@pytest.mark.parametrize("name", WHOLE)
def test_the_whole_log_is_read(onward_training: Command, tmp_path: Path, name: str) -> None:
    write, options = WHOLE[name]
    path = tmp_path / name
    write(path)
    outcome = onward_training("prepare", path, "--out", tmp_path / "dataset", *OPTIONS, *options)
    assert outcome.code == 0, outcome.err
    info = Dataset.open(tmp_path / "dataset").info
    assert info.account is not None
    counts = (info.account.rows, info.account.kept, info.account.sessions, info.account.items)
    assert counts == (200, 200, 40, 8)
    first, *others = sessions_of(Dataset.open(tmp_path / "dataset"))
    ids = {item: number for number, item in enumerate([*first, *others[0][2:]])}
    assert [[ids[item] for item in items] for items in (first, *others)] == [
        [(3 * session + place) % 8 for place in range(5)] for session in range(40)
    ]


def sessions_of(dataset: Dataset) -> Iterator[list[str]]:
    """The items of every session, in order of time."""
    for part in ("train", "validation", "test"):
        events = pl.read_parquet(dataset.folder / f"{part}.parquet")
        yield from events.group_by("session_id", maintain_order=True).agg("item_id")["item_id"].to_list()


REFUSED: dict[str, tuple[Writer, Sequence[object], str]] = {
    "open.csv": (
        text(titled(lambda c: '"Till the end' if (c.session, c.place) == (2, 1) else "song")),
        (),
        "line 13: cannot tell whether its quote mark",
    ),
    "swallowing.csv": (
        text(titled(lambda c: {(2, 1): '"The end', (2, 3): 'the end"'}.get((c.session, c.place), "song"))),
        (),
        "line 13: cannot tell whether its quote mark",
    ),
    "closed-within.csv": (text(titled(lambda c: '"a" b' if c.session == 3 else "x")), (), "line 17: cannot tell"),
    "quoted-header.tsv": (text(lines('"session_id"\t"item_id"', lambda c: '"a"\t"b"')), (), "give --quote"),
    "no-header.csv": (text(csv().partition("\n")[2]), (), "there is no header: the first line is 's00,i0,1700000001'"),
    "ambiguous.csv": (
        text(csv().replace("1700", "").replace("timestamp\n", "timestamp\ns,i,01/02/2023 10:00\n", 1)),
        (),
        "cannot tell whether the day or the month comes first in times such as '01/02/2023 10:00'; give --time-format",
    ),
    "nested.jsonl": (
        text(jsonl(lambda c: {"session_id": c.session, "item": {"id": c.item}, "timestamp": c.time_s})),
        (),
        "give --item-column, such as --item-column item.id",
    ),
    "object.jsonl": (
        text(jsonl(lambda c: {"session_id": c.session, "item": {"id": c.item}, "timestamp": c.time_s})),
        ("--item-column", "item"),
        "there is no column 'item'; it holds objects; name a path: item.id",
    ),
    "broken.csv.gz": (packed(gzip.compress(csv().encode())[:-40]), (), "cannot be read"),
    "broken.csv.zst": (packed(b"\x28\xb5\x2f\xfd\x04"), (), "cannot be read"),
    "packed.csv": (packed(gzip.compress(csv().encode())), (), "it is packed by gzip (.gz), no text"),
    "other-times.csv": (
        text(timed("%d/%m/%y %H:%M")),
        (),
        "its times are written like '14/11/23 22:13'; see --time-format",
    ),
    "indented.jsonl": (
        text("".join(json.dumps(plain_row(c), indent=1) for c in LOG)),
        (),
        "there is no JSON object in it: write one a line, or one array of them",
    ),
    "damaged.zip": (damaged_zip, (), "cannot be unpacked (Error -3 while decompressing data"),
    "book.xlsx": (packed(b"PK\3\4"), (), "a spreadsheet cannot be read; save it as CSV"),
    "log.feather": (
        packed(b"ARROW1"),
        (),
        "jsonl, recbole, diginetica, yoochoose, movielens, mind, else save it as CSV",
    ),
    "page.csv": (text("<!DOCTYPE html><html>Sign in</html>\n<p>\n"), (), "delete what stands before the header"),
    "commented.csv": (text("# of the shop\n" + csv()), (), "the first line has no columns, '# of the shop'"),
    "clock.csv": (text(timed("%H:%M:%S")), (), "its times are written like '22:13:21'; see --time-format"),
    "broken.zip": (packed(b"PK\3\4"), (), "cannot be unpacked (File is not a zip file); pack it anew"),
    "broken-array.json": (text("[" + json.dumps(plain_row(LOG[0])) + ","), (), "the JSON array cannot be read"),
    "many-in-one.csv": (
        text(lines("session_id,items,timestamp", lambda c: f"{c.session},{c.item} 7,{c.time_s}")),
        (),
        "column 'items' may hold several items; give --item-separator",
    ),
    "other-encoding.csv": (packed(b"session_id,item_id\n1,\x81\n"), ("--encoding", "cp1252"), "give its --encoding"),
    "narrow.csv": (
        text("1,2\n"),
        ("--columns", "session_id,item_id,timestamp"),
        "the first line has 2 fields, not the 3",
    ),
    "different": (
        folder(**{"a.csv": csv(), "b.csv": "session_id,item_id\n1,2\n"}),
        (),
        "a temporal split needs times",
    ),
    "nothing": (folder(**{"a.pdf": "x", ".b.csv": "x"}), (), "no file of this folder can be read (.b.csv: hidden;"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_told_is_refused_in_one_line(onward_training: Command, tmp_path: Path, name: str) -> None:
    write, options, message = REFUSED[name]
    write(tmp_path / name)
    outcome = onward_training("prepare", tmp_path / name, "--out", tmp_path / "dataset", *OPTIONS, *options)
    assert outcome.code == 2
    assert message in outcome.err.splitlines()[-1]
    assert not (tmp_path / "dataset").exists()
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_many_small_files_are_read_as_few(onward_training: Command, tmp_path: Path) -> None:
    parts = {f"{n:03}.csv": csv(clicks=LOG[2 * n : 2 * n + 2]) for n in range(100)}
    parts["010.csv"] = parts["010.csv"].rstrip("\n")
    parts["020.csv"] = "\ufeff" + parts["020.csv"]
    parts["030.csv"] = parts["030.csv"].replace("\n", "\r\n")
    parts["040.csv"] += "s99,,17\n"
    parts["050.csv"] = "session_id,item_id,timestamp\n"
    parts["060.csv"] += "\ns99,i0\n"
    folder(**parts)(tmp_path / "log")
    outcome = onward_training("prepare", tmp_path / "log", "--out", tmp_path / "dataset", *OPTIONS)
    assert outcome.code == 0, outcome.err
    info = Dataset.open(tmp_path / "dataset").info
    assert info.account is not None
    assert (info.account.rows, info.account.kept) == (201, 198)
    assert [str(problem) for problem in info.problems] == [
        "040.csv row 3: missing item id (1)",
        "060.csv row 4: missing time (1)",
    ]
    assert info.dropped == {"missing item id": 1, "empty line": 1, "missing time": 1}
