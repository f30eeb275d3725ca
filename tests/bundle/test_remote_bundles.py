"""Bundles at an address: a real S3 server, and memory:// for what no server is needed for."""

import json
import secrets
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from onward.bundle import Bundle, BundleError, current_digest, publish, read_manifest, stage
from onward.bundle.files.manifest import MANIFEST, VECTORS
from onward.bundle.published import elsewhere_mark
from onward.bundle.release_state import ReleaseState
from onward.bundle.releases import Conflict, Retention, activate, list_releases, protect, remove, roll_back
from onward.bundle.remote_bundles import (
    RemoteBundles,
    beside_live,
    bundle_to_roll_back_to,
    live_bundle,
    no_bundle,
    one_bundle,
    working_copy,
)
from onward.bundle.storage import Address, ObjectStore
from tests.bundles import item_ids, publish_bundle
from tests.s3_server import BUCKET, S3Server, s3_server

IDS = item_ids("a", 10)
ALL = Retention(keep=10)


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    with s3_server(monkeypatch) as server:
        yield server


@pytest.fixture
def address(request: pytest.FixtureRequest) -> Address:
    """An address in memory; in S3 for tests that are marked with `on_both`."""
    if getattr(request, "param", "memory") == "s3":
        request.getfixturevalue("s3")
        return Address("s3", BUCKET, "bundles")
    return Address("memory", secrets.token_hex(4), "bundles")


on_both = pytest.mark.parametrize("address", ["s3", "memory"], indirect=True)


def published(address: Address, *, seed: int = 0, make_live: bool = True) -> str:
    with working_copy(address) as folder:
        return publish_bundle(folder, IDS, seed=seed, make_live=make_live)


def states(address: Address) -> dict[str, str]:
    with working_copy(address) as folder:
        return {release.digest: release.state for release in list_releases(folder)}


def live(address: Address) -> str | None:
    return RemoteBundles(address).read().state.live


@on_both
def test_bundles_are_published_listed_activated_rolled_back_and_removed(address: Address) -> None:
    first = published(address)
    second = published(address, seed=1, make_live=False)
    assert states(address) == {first: "live", second: "staged"}
    with working_copy(address, one_bundle(second[:8])) as folder:
        assert not (folder / first / MANIFEST).exists()  # only what is needed is fetched
        activate(folder, second, retention=ALL)
    assert states(address) == {second: "live", first: "retired"}
    with working_copy(address, bundle_to_roll_back_to) as folder:
        assert roll_back(folder, retention=ALL) == first
    assert live(address) == first
    with working_copy(address) as folder:
        protect(folder, second, protected=True)
    with working_copy(address) as folder, pytest.raises(BundleError, match="is protected"):
        remove(folder, second, recent=ALL.recent * 0)
    with working_copy(address) as folder:
        protect(folder, second, protected=False)
        remove(folder, second, recent=ALL.recent * 0)
    assert states(address) == {first: "live", second: "removed"}
    names = [found.name for found in ObjectStore(address).list()]
    assert not [name for name in names if name.startswith(second)]
    with working_copy(address, live_bundle) as folder:
        assert Bundle.load(folder / "current").digest == first


def test_the_manifest_is_uploaded_after_the_files_and_current_last(s3: S3Server) -> None:
    digest = published(Address("s3", BUCKET, "bundles"))
    written = [path.rpartition("/")[2] for method, path in s3.requests if method == "PUT"]
    assert written[-2:] == [MANIFEST, "current"]
    assert len(written) > 8
    assert f"/{BUCKET}/bundles/{digest}/{MANIFEST}" in [path for _method, path in s3.requests]


def test_a_single_bundle_has_an_address_too(address: Address) -> None:
    digest = published(address)
    with working_copy(address / digest) as folder:
        assert Bundle.load(folder).digest == digest
    assert states(address) == {digest: "live"}


def test_the_same_bundle_can_be_published_again(address: Address) -> None:
    first, second = published(address), published(address, seed=1)
    with working_copy(address, one_bundle(first)) as folder, stage(folder) as staging:
        manifest = read_manifest(folder / first)[0]
        for name in manifest.files:
            shutil.copy(folder / first / name, staging / name)
        shutil.rmtree(folder / first)
        (folder / first).mkdir()
        elsewhere_mark(folder, first).touch()
        assert publish(staging, manifest, folder) == first
    assert states(address) == {first: "live", second: "retired"}


@on_both
def test_a_stale_publisher_is_refused_and_its_bundle_kept_as_a_staged_one(address: Address) -> None:
    first = published(address)
    copy = working_copy(address)
    late = publish_bundle(copy.__enter__(), IDS, seed=2)
    early = published(address, seed=1)
    with pytest.raises(Conflict) as refused:
        copy.__exit__(None, None, None)
    assert str(refused.value) == (
        f"current: another publisher has made {early[:12]} live since this command began; {late[:12]} is published, "
        "but staged, not live: compare it with the live one, and activate it"
    )
    assert states(address) == {early: "live", late: "staged", first: "retired"}
    with working_copy(address, beside_live(late)) as folder:
        activate(folder, late)
    assert live(address) == late


@on_both
def test_a_change_of_what_another_has_changed_is_refused(address: Address) -> None:
    digest = published(address, make_live=False)
    copy = working_copy(address)
    remove(copy.__enter__(), digest)
    with working_copy(address, one_bundle(digest)) as other:
        activate(other, digest)
    with pytest.raises(Conflict, match="nothing was changed, look again"):
        copy.__exit__(None, None, None)
    assert states(address) == {digest: "live"}
    with working_copy(address, live_bundle) as folder:
        Bundle.load(folder / "current")


def test_changes_of_different_bundles_are_both_kept(address: Address) -> None:
    first = published(address)
    with working_copy(address) as folder:
        second = publish_bundle(folder, IDS, seed=1, make_live=False)
        third = published(address, seed=2)
    assert states(address) == {third: "live", second: "staged", first: "retired"}


def test_of_many_publishers_at_once_one_makes_its_bundle_live_and_none_is_lost(s3: S3Server) -> None:
    address, count = Address("s3", BUCKET, "bundles"), 6
    together, conflicts = threading.Barrier(count), []

    def publish_one(seed: int) -> None:
        try:
            with working_copy(address) as folder:
                publish_bundle(folder, IDS, seed=seed)
                together.wait()
        except Conflict as error:
            conflicts.append(str(error))

    threads = [threading.Thread(target=publish_one, args=(seed,)) for seed in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(conflicts) == count - 1
    assert sorted(states(address).values()) == ["live", *["staged"] * (count - 1)]


@pytest.mark.parametrize("conflicts", [1, 4])
def test_writes_that_s3_refuses_because_they_come_at_once_are_tried_again(s3: S3Server, conflicts: int) -> None:
    address = Address("s3", BUCKET, "bundles")
    s3.conflicts = conflicts
    first = published(address)
    s3.conflicts = conflicts
    second = published(address, seed=1)
    assert s3.conflicts == 0
    assert states(address) == {second: "live", first: "retired"}


def test_what_fails_is_not_published(address: Address) -> None:
    first = published(address)
    copy = working_copy(address)
    publish_bundle(copy.__enter__(), IDS, seed=1)
    copy.__exit__(RuntimeError, RuntimeError(), None)
    assert states(address) == {first: "live"}


@on_both
def test_a_damaged_file_is_named(address: Address, tmp_path: Path) -> None:
    digest = published(address)
    store = ObjectStore(address / digest)
    content = store.read(VECTORS).content
    store.write(VECTORS, content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(BundleError, match=f"^{VECTORS}: its SHA-256 is not"), working_copy(address, live_bundle):
        pass
    store.write(VECTORS, content[:-1])
    with pytest.raises(BundleError, match=f"^{VECTORS}: {len(content) - 1} bytes, not"):
        RemoteBundles(address).fetch(digest, tmp_path / digest)


@on_both
@pytest.mark.parametrize("name", [MANIFEST, VECTORS])
def test_a_torn_upload_is_refused(address: Address, name: str, tmp_path: Path) -> None:
    digest = published(address)
    ObjectStore(address / digest).delete([name])
    with pytest.raises(BundleError, match=f"^{name}: missing at {address}/{digest}"):
        RemoteBundles(address).fetch(digest, tmp_path / digest)


def test_a_fetch_goes_on_where_one_before_it_failed(address: Address, tmp_path: Path) -> None:
    digest = published(address)
    remote, store = RemoteBundles(address), ObjectStore(address / digest)
    content = store.read(VECTORS).content
    store.write(VECTORS, bytes(len(content)))
    with pytest.raises(BundleError):
        remote.fetch(digest, tmp_path / digest)
    store.write(VECTORS, content)
    kept = {file.name: file.stat().st_mtime_ns for file in (tmp_path / digest).iterdir()}
    remote.fetch(digest, tmp_path / digest)
    written = {file.name for file in (tmp_path / digest).iterdir() if file.stat().st_mtime_ns != kept[file.name]}
    assert written == {VECTORS, MANIFEST}
    assert Bundle.load(tmp_path / digest).digest == digest


def test_manifests_with_foreign_names_write_no_file(tmp_path: Path) -> None:
    address = Address("memory", "foreign", "bundles")
    digest = published(address)
    store = ObjectStore(address / digest)
    document = json.loads(store.read(MANIFEST).content)
    document["files"]["../vectors.npy"] = document["files"][VECTORS]
    manifest = json.dumps(document).encode()
    store.write(MANIFEST, manifest)
    with pytest.raises(BundleError, match="damaged"):
        RemoteBundles(address).fetch(digest, tmp_path / digest)
    single = Address("memory", "foreign", "single")
    ObjectStore(single).write(MANIFEST, manifest)
    with pytest.raises(BundleError, match=r"^\.\./vectors\.npy"), working_copy(single):
        pass


@pytest.mark.parametrize(
    ("content", "fault"),
    [(b"0" * 64, "current: "), (b'{"live": "../x"}', "is not the digest"), (b'{"format_version": 2}', "current: ")],
)
def test_a_foreign_current_is_refused(content: bytes, fault: str) -> None:
    address = Address("memory", "foreign-current", "bundles")
    ObjectStore(address).write("current", content)
    with pytest.raises(BundleError, match=fault), working_copy(address):
        pass


def test_fields_of_a_later_version_are_kept() -> None:
    address = Address("memory", "later", "bundles")
    digest = published(address)
    store = ObjectStore(address)
    later = store.read("current").content.replace(b'"format_version"', b'"later": 1, "format_version"')
    store.write("current", later.replace(b'"present"', b'"newer": 2, "present"'))
    with working_copy(address) as folder:
        protect(folder, digest, protected=True)
    content = store.read("current").content
    assert b'"later": 1' in content
    assert b'"newer": 2' in content


@pytest.mark.parametrize(
    ("refusal", "says"), [("ExpiredToken", "ExpiredToken"), ("InvalidAccessKeyId", "InvalidAccessKeyId")]
)
def test_refused_credentials_are_one_line(s3: S3Server, refusal: str, says: str) -> None:
    s3.refusal = refusal
    with pytest.raises(BundleError) as refused, working_copy(Address("s3", BUCKET, "bundles")):
        pass
    assert says in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1


def test_an_outage_while_publishing_leaves_the_releases_as_they_were(s3: S3Server) -> None:
    address = Address("s3", BUCKET, "bundles")
    first = published(address)
    copy = working_copy(address, no_bundle)
    publish_bundle(copy.__enter__(), IDS, seed=1)
    s3.stop()
    with pytest.raises(BundleError, match="the object store does not answer"):
        copy.__exit__(None, None, None)
    s3.start()
    assert states(address) == {first: "live"}


def test_an_answer_that_was_lost_is_no_conflict() -> None:
    """The store has written, and the client, which was told nothing, tries again."""
    address = Address("memory", "lost", "bundles")
    published(address)
    remote = RemoteBundles(address)
    base = remote.read()
    mine = base.state.model_copy(update={"later": 1})
    ObjectStore(address).write("current", mine.content())
    remote.swap(base, mine)
    assert remote.read().state == ReleaseState.parse(mine.content())


def test_a_folder_of_this_machine_is_itself(tmp_path: Path) -> None:
    with working_copy(tmp_path) as folder:
        assert folder == tmp_path
        digest = publish_bundle(folder, IDS)
    assert current_digest(tmp_path) == digest


def test_the_rules_of_the_gate_are_fetched() -> None:
    address = Address("memory", "rules", "bundles")
    ObjectStore(address).write("gate.toml", b"[accuracy]\n")
    with working_copy(address) as folder:
        assert (folder / "gate.toml").read_bytes() == b"[accuracy]\n"
