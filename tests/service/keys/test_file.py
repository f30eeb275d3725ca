"""The file of keys: changed in one step by commands, readable by hand, and refused with the place of a fault."""

import stat
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

import pytest

from onward.service.keys import Key, KeysFileError, add_key, parse_expiry, read_keys, remove_key
from onward.service.tenants import MAX_TENANTS

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)


def key(name: str, **fields: object) -> Key:
    digest = sha256(name.encode()).hexdigest()
    return Key.model_validate({"name": name, "digest": digest, "scopes": frozenset(["recommend"]), **fields})


def test_a_new_file_is_readable_by_its_owner_alone(tmp_path: Path) -> None:
    file = tmp_path / "keys.jsonl"
    added = [key("shop", tenant="acme", expires=NOW), key("console", scopes=frozenset(["admin", "metrics"]))]
    for one in added:
        add_key(file, one)
    assert read_keys(file) == added
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["keys.jsonl"]


def test_a_change_keeps_the_mode_and_what_people_wrote(tmp_path: Path) -> None:
    file = tmp_path / "keys.jsonl"
    file.write_text(f"# the shop's own\n{key('shop').line}\n\n  {key('old').line}  \n# the end")
    file.chmod(0o640)
    link = tmp_path / "link"
    link.symlink_to(file)
    assert remove_key(link, "old") == key("old")
    add_key(link, key("new"))
    assert file.read_text() == f"# the shop's own\n{key('shop').line}\n\n# the end\n{key('new').line}\n"
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert link.is_symlink()


def test_concurrent_commands_lose_no_key(tmp_path: Path) -> None:
    file = tmp_path / "keys.jsonl"
    names = [f"key-{number}" for number in range(40)]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda name: add_key(file, key(name)), names))
    assert sorted(known.name for known in read_keys(file)) == sorted(names)


def test_a_name_is_given_once_and_revoked_once(tmp_path: Path) -> None:
    file = tmp_path / "keys.jsonl"
    add_key(file, key("shop"))
    with pytest.raises(KeysFileError, match="has a key of the name shop already"):
        add_key(file, key("shop", digest="0" * 64))
    remove_key(file, "shop")
    with pytest.raises(KeysFileError, match="has no key of the name shop"):
        remove_key(file, "shop")


GOOD = key("shop").line


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (["", GOOD, "{"], "line 3: Invalid JSON"),
        (["# fine", "[]"], "line 2: "),
        ([GOOD.replace("recommend", "everything")], "line 1: scopes.0: Input should be 'recommend'"),
        ([GOOD.replace('["recommend"]', "[]")], "line 1: scopes: "),
        ([GOOD.replace('"shop"', '"the shop"')], "line 1: name: "),
        ([GOOD.replace("}", ', "tenant": "Acme"}')], "line 1: tenant: "),
        ([GOOD.replace("}", ', "tennant": "acme"}')], "line 1: tennant: Extra inputs are not permitted"),
        ([GOOD.replace("}", ', "expires": "soon"}')], "line 1: expires: "),
        ([GOOD.replace("}", ', "expires": "2027-01-01T00:00:00"}')], "line 1: expires: .*timezone"),
        ([GOOD, key("other", digest=key("shop").digest).line], "line 2: an earlier line has this digest"),
        ([GOOD, key("shop", digest="0" * 64).line], "line 2: an earlier line has this name"),
        ([key(f"k{number}", tenant=f"t{number}").line for number in range(MAX_TENANTS + 1)], "more than 100 tenants"),
    ],
)
def test_a_fault_is_told_in_one_line_with_its_place_and_without_the_value(
    tmp_path: Path, lines: list[str], reason: str
) -> None:
    file = tmp_path / "keys.jsonl"
    file.write_text("\n".join(lines))
    with pytest.raises(KeysFileError, match=reason) as raised:
        read_keys(file)
    assert str(raised.value).startswith(str(file))
    assert "\n" not in str(raised.value)
    assert key("shop").digest not in str(raised.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(KeysFileError, match=r"none\.jsonl: No such file or directory"):
        read_keys(tmp_path / "none.jsonl")
    with pytest.raises(KeysFileError, match="Is a directory"):
        read_keys(tmp_path)
    with pytest.raises(KeysFileError, match=r"nowhere/keys\.jsonl: No such file or directory"):
        add_key(tmp_path / "nowhere" / "keys.jsonl", key("shop"))
    large = tmp_path / "large"
    large.write_bytes(b"\n" * (2**20 + 1))
    with pytest.raises(KeysFileError, match="longer than"):
        read_keys(large)


@pytest.mark.parametrize(
    ("text", "expires"),
    [
        ("90d", NOW + timedelta(days=90)),
        ("12h", NOW + timedelta(hours=12)),
        ("2027-03-01", datetime(2027, 3, 1, tzinfo=UTC)),
        ("2027-03-01T12:00:00+02:00", datetime(2027, 3, 1, 10, tzinfo=UTC)),
    ],
)
def test_an_expiry_is_a_period_or_a_date(text: str, expires: datetime) -> None:
    assert parse_expiry(text, NOW) == expires


@pytest.mark.parametrize("text", ["", "0d", "90", "d", "90 days", "-1d", "tomorrow"])
def test_another_expiry_is_refused_with_how_to_write_it(text: str) -> None:
    with pytest.raises(ValueError, match="90d"):
        parse_expiry(text, NOW)
