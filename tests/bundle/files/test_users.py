"""Bundles whose encoder knows users, and bundles that are refused because of their users."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onward.bundle import (
    ENCODER,
    MANIFEST,
    USERS,
    Bundle,
    BundleError,
    Options,
    SessionView,
    read_manifest,
    write_manifest,
)
from tests.bundles import item_ids, make_bundle

ITEMS, PEOPLE = item_ids("a", 30), item_ids("user-", 4)
SESSION = SessionView(["a1", "a2"])


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    make_bundle(folder, ITEMS, users=PEOPLE)
    return folder


@pytest.fixture
def folder(complete: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(complete, tmp_path / "copy"))


@pytest.fixture(scope="module")
def bundle(complete: Path) -> Bundle:
    return Bundle.load(complete)


def refusal(folder: Path) -> str:
    with pytest.raises(BundleError) as refused:
        Bundle.load(folder)
    return str(refused.value)


def change_manifest(folder: Path, **changes: Any) -> None:
    content = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(content | changes))


def test_a_known_user_changes_the_answer_and_an_unknown_one_does_not(bundle: Bundle) -> None:
    anonymous = bundle.retrieve(SESSION, Options(10))
    known, unknown = (bundle.retrieve(SESSION, Options(10), user_id=user_id) for user_id in ("user-2", "nobody"))
    assert (anonymous.user, known.user, unknown.user) == (None, "known", "unknown")
    assert anonymous.items == unknown.items != known.items
    interests_1D = bundle.encoder.encode([1, 2], 2)
    assert [item.score for item in known.items] == pytest.approx(
        np.sort((bundle.vectors_N1D[1:] @ interests_1D.T)[:, 0])[:-11:-1].tolist(), abs=1e-5
    )


@pytest.mark.parametrize("session", [[], ["no such item"]])
def test_a_known_user_without_a_known_item_is_answered_by_the_encoder(bundle: Bundle, session: list[str]) -> None:
    known, unknown = (
        bundle.retrieve(SessionView(session), Options(5), user_id=user_id) for user_id in ("user-1", "nobody")
    )
    assert {item.source for item in known.items} == {"encoder"}
    assert {item.source for item in unknown.items} == {"popular"}
    assert (known.user, unknown.user) == ("known", "unknown")


def test_an_encoder_of_sessions_alone_ignores_users(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path, ITEMS)
    assert bundle.retrieve(SESSION, Options(5), user_id="user-1") == bundle.retrieve(SESSION, Options(5))
    assert {item.source for item in bundle.retrieve(SessionView(), Options(5), user_id="user-1").items} == {"popular"}


def test_an_older_manifest_without_a_users_field_is_read(tmp_path: Path) -> None:
    make_bundle(tmp_path, ITEMS)
    content = json.loads((tmp_path / MANIFEST).read_text())
    del content["users"]
    for probe in content["probes"]:
        del probe["user_id"]
    (tmp_path / MANIFEST).write_text(json.dumps(content))
    assert Bundle.load(tmp_path).manifest.users == 0


def test_an_empty_session_of_an_unknown_user_has_no_interests(bundle: Bundle) -> None:
    with pytest.raises(ValueError, match="empty session of an unknown user"):
        bundle.encoder.encode([])


@pytest.mark.parametrize(
    "ids", [PEOPLE[:-1], [*PEOPLE, "one-more"], [*PEOPLE[:-1], "user-1"], [*PEOPLE[:-1], "two\u2028lines"]]
)
def test_missing_repeated_or_invalid_user_ids_are_refused(folder: Path, ids: list[str]) -> None:
    (folder / USERS).write_text("".join(f"{user_id}\n" for user_id in ids))
    write_manifest(folder, read_manifest(folder)[0])
    assert refusal(folder).startswith(f"{USERS}: ")


def test_a_missing_users_file_is_refused(folder: Path) -> None:
    (folder / USERS).unlink()
    assert refusal(folder) == f"{USERS}: No such file or directory in {folder}"
    files = {
        name: entry for name, entry in json.loads((folder / MANIFEST).read_text())["files"].items() if name != USERS
    }
    change_manifest(folder, files=files)
    assert refusal(folder) == f"{USERS}: missing"


def test_a_users_file_is_refused_if_the_manifest_has_no_users(folder: Path) -> None:
    change_manifest(folder, users=0)
    assert refusal(folder) == f"{USERS}: not a file of a bundle"


def test_a_program_without_a_user_input_is_refused_if_the_bundle_has_users(folder: Path, tmp_path: Path) -> None:
    make_bundle(tmp_path / "other", ITEMS)
    shutil.copy(tmp_path / "other" / ENCODER, folder / ENCODER)
    write_manifest(folder, read_manifest(folder)[0])
    assert refusal(folder) == f"{ENCODER}: not a program from int64 items_BL and users_B to float32 interests_BKD"


def test_a_program_that_knows_fewer_users_is_refused(folder: Path) -> None:
    (folder / USERS).write_text("".join(f"{user_id}\n" for user_id in [*PEOPLE, "one-more"]))
    change_manifest(folder, users=5)
    write_manifest(folder, read_manifest(folder)[0])
    assert refusal(folder).startswith(f"{ENCODER}: ")


def test_a_probe_of_a_missing_user_is_refused(folder: Path) -> None:
    (folder / USERS).write_text("".join(f"{user_id}\n" for user_id in [*PEOPLE[:-1], "another"]))
    write_manifest(folder, read_manifest(folder)[0])
    assert refusal(folder) == f"probe 3: its user is not in {USERS}"
