"""Whatever is not reported as dropped is in the dataset, identical, whatever the format and the damage of a file."""

import bz2
import csv
import gzip
import io
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from onward.bundle import id_fault
from onward.training.data.dataset import Dataset
from onward.training.data.preparation.prepare import prepare
from onward.training.data.preparation.prepare_options import Preparation, SplitKind
from onward.training.data.readers.dialect import DEFAULT_NULLS, Dialect
from onward.training.data.readers.ids import SPACES
from onward.training.data.readers.polars_engine import PolarsEngine
from onward.training.errors import InputError
from tests.training.data.conftest import START_MS, Outcome, log

FIELDS = ("session_id", "item_id", "title", "timestamp")
EXAMPLES = 30
Row = tuple[str, str, str, str]


PLAIN = Dialect()


@dataclass(frozen=True)
class Written:
    """The bytes of a file, its name and how it is read."""

    name: str
    content: bytes
    dialect: Dialect = PLAIN


def usable(text: str) -> bool:
    return (
        text.strip(SPACES) == text and text not in DEFAULT_NULLS and id_fault(text) is None and not text.endswith(".0")
    )


def texts(excluded: str, encoding: str = "utf-8") -> st.SearchStrategy[str]:
    characters = st.characters(codec=encoding, exclude_categories=["Cc", "Cs", "Zl", "Zp"], exclude_characters=excluded)
    return st.text(
        st.one_of(st.sampled_from(sorted(set("ab01'\"|,; .e-\\NA") - set(excluded))), characters), max_size=8
    )


@st.composite
def rows(
    draw: st.DrawFn, excluded: str = "", titles: st.SearchStrategy[str] | None = None, encoding: str = "utf-8"
) -> list[Row]:
    """Rows with ids of any kind that an encoding can write, of which no two are equal."""
    ids, others = texts(excluded, encoding).filter(usable), texts(excluded, encoding)
    drawn = draw(st.lists(st.tuples(ids, ids, others if titles is None else titles), min_size=2, max_size=12))
    return [(session, item, title, str(START_MS + 1 + n)) for n, (session, item, title) in enumerate(drawn)]


def delimited(rows: Sequence[Row], separator: str, *, quote_all: bool, end: str) -> str:
    buffer = io.StringIO()
    if quote_all:
        writer = csv.writer(buffer, delimiter=separator, quoting=csv.QUOTE_ALL, lineterminator=end)
    else:
        writer = csv.writer(buffer, delimiter=separator, lineterminator=end)
    writer.writerows([FIELDS, *rows])
    return buffer.getvalue()


def zipped(name: str, content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"folder/{name}", content)
    return buffer.getvalue()


def zstandard(content: bytes) -> bytes:
    """Return a frame of Zstandard (RFC 8878) with one block, which is not compressed: Python 3.11 has no writer."""
    single_segment_of_8_bytes, last_raw_block = 0b11100000, len(content) << 3 | 1
    size, block = len(content).to_bytes(8, "little"), last_raw_block.to_bytes(3, "little")
    return b"\x28\xb5\x2f\xfd" + bytes([single_segment_of_8_bytes]) + size + block + content


PACKINGS: Mapping[str, Callable[[str, bytes], tuple[str, bytes]]] = {
    "plain": lambda name, content: (name, content),
    "gzip": lambda name, content: (f"{name}.gz", gzip.compress(content)),
    "bzip2": lambda name, content: (f"{name}.bz2", bz2.compress(content)),
    "zip": lambda name, content: ("log.zip", zipped(name, content)),
    "Zstandard": lambda name, content: (f"{name}.zst", zstandard(content)),
}
ENCODINGS = {
    "utf-8": (b"", "utf-8"),
    "utf-8 with a mark": (b"", "utf-8-sig"),
    "utf-16 little": (BOM_UTF16_LE, "utf-16-le"),
    "utf-16 big": (BOM_UTF16_BE, "utf-16-be"),
    "cp1252": (b"", "cp1252"),
    "latin-1": (b"", "latin-1"),
}


def is_utf8(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


@st.composite
def csv_files(draw: st.DrawFn) -> tuple[list[Row], Written]:
    """Files with quoting, of any packing and encoding; one that is no Unicode is named, and no UTF-8 by chance."""
    separator = draw(st.sampled_from(",;|\t"))
    packing, (mark, encoding) = (
        draw(st.sampled_from(sorted(PACKINGS))),
        ENCODINGS[draw(st.sampled_from(list(ENCODINGS)))],
    )
    assume(packing != "Zstandard" or encoding.startswith("utf-8"))
    named = encoding if encoding in ("cp1252", "latin-1") else draw(st.sampled_from([None, "cp1252"]))
    codec = encoding if encoding in ("cp1252", "latin-1") else "utf-8"
    titles = st.one_of(texts("", codec), st.just("two\nlines"), st.just('5", "'), st.just('""'))
    content = draw(rows(titles=titles, encoding=codec))
    end = draw(st.sampled_from(["\n", "\r\n"]))
    text = delimited(content, separator, quote_all=draw(st.booleans()), end=end)
    plain = mark + text.encode(encoding)
    assume(codec == "utf-8" or text.isascii() or not is_utf8(plain))
    return content, Written(*PACKINGS[packing]("log.csv", plain), Dialect(encoding=named))


def unquoted(content: Sequence[Row], name: str, separator: str, end: str, dialect: Dialect) -> Written:
    text = end.join(separator.join(row) for row in [FIELDS, *content])
    return Written(name, text.encode(), dialect)


@st.composite
def plain_files(draw: st.DrawFn) -> tuple[list[Row], Written]:
    """Files without quoting: quote marks are text."""
    name, separator, dialect = draw(
        st.sampled_from(
            [
                ("log.tsv", "\t", Dialect()),
                ("log.inter", "\t", Dialect()),
                ("log.csv", ",", Dialect(quote="")),
                ("log.csv", "::", Dialect(separator="::")),
                ("log.txt", "\x01", Dialect(separator="\x01")),
            ]
        )
    )
    content = draw(rows(excluded=separator + ":" * (separator == "::")))
    end = draw(st.sampled_from(["\n", "\r\n"]))
    written = unquoted(content, name, separator, end, dialect)
    return content, replace(written, content=written.content + draw(st.sampled_from(["", end])).encode())


@st.composite
def json_files(draw: st.DrawFn) -> tuple[list[Row], Written]:
    content = draw(rows())
    ascii_only = draw(st.booleans())
    objects = [dict(zip(FIELDS, row, strict=True)) for row in content]
    lines = [json.dumps(value, ensure_ascii=ascii_only) for value in objects]
    text = f"[{','.join(lines)}]" if draw(st.booleans()) else "\n".join(lines)
    pack = PACKINGS[draw(st.sampled_from(sorted(PACKINGS)))]
    return content, Written(*pack("log.json", text.encode()))


@st.composite
def parquet_files(draw: st.DrawFn) -> tuple[list[Row], Written]:
    content = draw(rows())
    frame = pl.DataFrame(content, schema=FIELDS, orient="row")
    kind = draw(st.sampled_from([pl.String, pl.Categorical, pl.Binary]))
    buffer = io.BytesIO()
    frame.with_columns(pl.col("item_id").cast(kind)).write_parquet(buffer)
    return content, Written("log.parquet", buffer.getvalue())


def prepared(folder: Path, written: Written) -> Dataset:
    (folder / written.name).write_bytes(written.content)
    preparation = Preparation(split=SplitKind.GIVEN, min_support=1, min_length=1, validation=0, dialect=written.dialect)
    padding = folder / "padding.parquet"  # so that there is an example, whatever is left of the file
    pl.DataFrame({"session_id": ["_pad"] * 2, "item_id": ["_a", "_b"], "timestamp": [START_MS] * 2}).write_parquet(
        padding
    )
    prepare([str(folder / written.name), str(padding)], folder / "out", preparation, PolarsEngine)
    return Dataset.open(folder / "out")


def events_of(dataset: Dataset) -> list[tuple[str, str, str]]:
    events = pl.read_parquet(dataset.folder / "train.parquet").filter(pl.col("session_id") != "_pad")
    columns = events.select("session_id", "item_id", pl.col("timestamp_ms").cast(pl.String))
    return sorted(columns.rows())


def expected(content: Sequence[Row]) -> list[tuple[str, str, str]]:
    return sorted((session, item, moment) for session, item, _, moment in content)


QUOTE_MARKS: list[Row] = [
    (session, item, title, str(START_MS + 1 + n))
    for n, (session, item, title) in enumerate([('"a', "b", '"c'), ("d", '"e"', '""'), ("f", 'g"', '"')])
]


@given(st.one_of(csv_files(), plain_files(), json_files(), parquet_files()))
@example((QUOTE_MARKS, unquoted(QUOTE_MARKS, "log.txt", "\x01", "\n", Dialect(separator="\x01"))))
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_row_of_a_sound_file_is_in_the_dataset(file: tuple[list[Row], Written]) -> None:
    content, written = file
    with TemporaryDirectory() as folder:
        dataset = prepared(Path(folder), written)
        assert events_of(dataset) == expected(content)
        assert dataset.info.dropped == {}


def cut_off(content: bytes, place: float) -> bytes:
    return content[: int(len(content) * place)]


def flipped(content: bytes, place: float) -> bytes:
    at = int((len(content) - 1) * place)
    return content[:at] + bytes([content[at] ^ 0x15]) + content[at + 1 :]


def with_quote(content: bytes, place: float) -> bytes:
    at = int(len(content) * place)
    return content[:at] + b'"' + content[at:]


def without_line_end(content: bytes, place: float) -> bytes:
    at = content.find(b"\n", int(len(content) * place))
    return content if at < 0 else content[:at] + content[at + 1 :]


DAMAGE: Mapping[str, Callable[[bytes, float], bytes]] = {
    "cut off": cut_off,
    "a flipped byte": flipped,
    "a lone quote mark": with_quote,
    "a lost line end": without_line_end,
}


@pytest.mark.parametrize("damage", DAMAGE)
@given(st.one_of(csv_files(), plain_files(), json_files()), st.floats(0.3, 0.99))
@settings(max_examples=EXAMPLES // 2, deadline=None, suppress_health_check=list(HealthCheck))
def test_the_parts_of_the_account_of_a_damaged_file_add_up(
    damage: str, file: tuple[list[Row], Written], place: float
) -> None:
    """A damaged file is refused, or no more rows than the damaged ones differ, and every row is accounted for."""
    content, written = file
    broken = Written(written.name, DAMAGE[damage](written.content, place), written.dialect)
    with TemporaryDirectory() as folder:
        try:
            dataset = prepared(Path(folder), broken)
        except InputError:
            return
        account = dataset.info.account
        assert account is not None
        assert account.rows == account.kept + sum(loss.events for loss in account.losses)
        if damage == "cut off":
            assert len(set(events_of(dataset)) - set(expected(content))) <= 1
        else:
            assert account.rows - 2 >= len(content) - 1
            assert len(set(expected(content)) - set(events_of(dataset))) <= 2


@given(rows(), st.data())
@settings(max_examples=EXAMPLES // 2, deadline=None, suppress_health_check=list(HealthCheck))
def test_bad_rows_are_counted_by_reason(content: list[Row], data: st.DataObject) -> None:
    bad = {
        "missing session id": ("", "a", "t", str(START_MS)),
        "missing item id": ("s", "NULL", "t", str(START_MS)),
        "missing time": ("s", "a", "t", "nan"),
        "unreadable time": ("s", "a", "t", "yesterday"),
        "time before 1990": ("s", "a", "t", "17"),
        "more fields than the header has columns": ("s", "a", "t", str(START_MS), "x"),
    }
    added = data.draw(st.lists(st.sampled_from(list(bad)), max_size=5))
    lines: list[Sequence[str]] = [*content, *(bad[kind] for kind in added)]
    shuffled = data.draw(st.permutations(lines))
    buffer = io.StringIO()
    csv.writer(buffer).writerows([FIELDS, *shuffled])
    with TemporaryDirectory() as folder:
        dataset = prepared(Path(folder), Written("log.csv", buffer.getvalue().encode()))
        assert events_of(dataset) == expected(content)
        assert dataset.info.dropped == {kind: added.count(kind) for kind in sorted(set(added))}


@pytest.mark.parametrize("split", [SplitKind.TEMPORAL, SplitKind.LEAVE_ONE_OUT, SplitKind.BY_USER, SplitKind.GIVEN])
def test_the_parts_of_every_split_add_up(tmp_path: Path, split: SplitKind) -> None:
    sessions = {f"s{n:02}": " ".join("abcdefghij"[(n * n + k) % 10] for k in range(n % 9 + 1)) for n in range(60)}
    log({**sessions, "rare": "x y z a b c"}).write_parquet(tmp_path / "log.parquet")
    preparation = Preparation(split=split, min_support=3, min_length=max(3, split.min_length or 0), test_share=0.3)
    info = prepare([str(tmp_path / "log.parquet")], tmp_path / "out", preparation, PolarsEngine)
    assert info.account is not None
    assert info.account.rows == info.account.kept + sum(loss.events for loss in info.account.losses)
    assert all(loss.option for loss in info.account.losses)
    rare = next(loss for loss in info.account.losses if loss.reason == "of rare items")
    assert (rare.items, rare.events) == (3, 3)


def test_the_account_names_files_columns_and_options(onward_training: Callable[..., Outcome], tmp_path: Path) -> None:
    folder = tmp_path / "log"
    folder.mkdir()
    (folder / "a.csv").write_text(
        "sku,sid,ts\na,1,31.12.2023 10:00\nb,1,31.12.2023 10:01\nb,2,\nc,3,1.1.2024 9:00\na,3,1.1.2024 9:05\n"
    )
    (folder / "notes.md").write_text("x")
    (folder / ".b.csv").write_text("x")
    outcome = onward_training(
        "prepare", folder, "--out", tmp_path / "d", "--split", "given", "--validation", 0, "--time-column", "ts"
    )
    assert outcome.code == 0, outcome.err
    assert outcome.out.splitlines()[:8] == [
        "columns: session 'sid' (guessed), item 'sku' (guessed), time 'ts' (given)",
        "times: %d/%m/%Y, or with a clock behind it",
        "train: 4 events, 2 sessions, 3 items, 2 examples",
        "read: 5 rows of 1 files",
        "ignored: .b.csv (hidden)",
        "ignored: notes.md (no known format (.md))",
        "dropped: 1 events, missing time: a.csv row 3",
        "kept: 4 of 5 events; 2 sessions and 3 items before the drops of short sessions and rare items",
    ]


def test_sigterm_removes_the_temporary_folder(tmp_path: Path) -> None:
    log({f"s{n}": "a b c d e" for n in range(20_000)}).write_parquet(tmp_path / "log.parquet")
    os.mkfifo(tmp_path / "more.csv")  # a file that never comes to an end
    command = [
        "-m",
        "onward.training",
        "prepare",
        tmp_path / "log.parquet",
        tmp_path / "more.csv",
        "--out",
        tmp_path / "d",
    ]
    process = subprocess.Popen([sys.executable, *map(str, command)], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".d.*/scratch")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 128 + signal.SIGTERM
    assert sorted(file.name for file in tmp_path.iterdir()) == ["log.parquet", "more.csv"]
