"""A mirror follows its address, verifies what it fetches, and stays as it is whatever fails."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from onward.bundle import Bundle, current_digest
from onward.bundle.files.manifest import MANIFEST, VECTORS
from onward.bundle.mirror import Mirror, MirrorError, MirrorState, PullProblem, mirror_state
from onward.bundle.releases import list_releases, roll_back
from onward.bundle.remote_bundles import bundle_to_roll_back_to, working_copy
from onward.bundle.storage import Address, ObjectStore
from tests.bundles import item_ids, publish_bundle
from tests.s3_server import BUCKET, S3Server, s3_server

IDS = item_ids("a", 10)
ADDRESS = Address("s3", BUCKET, "bundles")


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    with s3_server(monkeypatch) as server:
        yield server


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[Mirror]:
    one = Mirror(ADDRESS, tmp_path / "mirror", keep=2)
    with one.held():
        yield one


def published(seed: int, address: Address = ADDRESS) -> str:
    with working_copy(address) as folder:
        return publish_bundle(folder, IDS, seed=seed)


def known(mirror: Mirror) -> MirrorState:
    state = mirror_state(mirror.folder)
    assert state is not None
    return state


def test_it_follows_the_address_and_keeps_the_last_bundles(s3: S3Server, mirror: Mirror) -> None:
    assert mirror.pull().bundle is None
    assert current_digest(mirror.folder) is None
    digests = [published(0)]
    assert mirror.pull().bundle == digests[0]
    assert Bundle.load(mirror.folder / "current").digest == digests[0]
    for seed in (1, 2):
        digests.append(published(seed))
        assert mirror.pull().bundle == digests[-1]
    assert [release.digest for release in list_releases(mirror.folder)] == digests[:0:-1]
    with working_copy(ADDRESS, bundle_to_roll_back_to) as folder:
        roll_back(folder, retention=None)
    count = len(s3.requests)
    assert mirror.pull().bundle == digests[1]
    assert len(s3.requests) == count + 1  # it is here already
    states = {release.digest: release.state for release in list_releases(mirror.folder)}
    assert states == {digests[1]: "live", digests[2]: "retired"}
    assert list_releases(mirror.folder)[0].activated is not None


def test_a_look_that_finds_nothing_new_is_one_small_request(s3: S3Server, mirror: Mirror) -> None:
    published(0)
    mirror.pull()
    count, before = len(s3.requests), known(mirror).read_at
    assert mirror.pull()[::2] == (None, None)
    assert len(s3.requests) == count + 1
    assert known(mirror).read_at > before


@pytest.mark.parametrize("damage", ["changed", "shorter", "missing file", "missing manifest", "foreign manifest"])
def test_a_damaged_bundle_is_refused_and_fetched_again_when_it_is_whole(tmp_path: Path, damage: str) -> None:
    address = Address("memory", damage, "bundles")
    mirror = Mirror(address, tmp_path)
    first = published(0, address)
    mirror.pull()
    second = published(1, address)
    store = ObjectStore(address / second)
    name = MANIFEST if "manifest" in damage else VECTORS
    content = store.read(name).content
    if damage.startswith("missing"):
        store.delete([name])
    else:
        store.write(name, content[:-1] if damage == "shorter" else bytes([content[0] ^ 1]) + content[1:])
    pulled = mirror.pull()
    assert pulled.bundle is None
    assert pulled.problem is not None
    assert pulled.problem.bundle == second
    assert pulled.problem.reason.startswith(f"{name}: ")
    assert known(mirror).status.problem == pulled.problem
    assert current_digest(mirror.folder) == first
    mirror._not_before_s = 0
    store.write(name, content)
    assert mirror.pull().bundle == second
    assert known(mirror).status.problem is None


def test_a_bundle_that_was_refused_is_not_fetched_at_each_look(s3: S3Server, mirror: Mirror) -> None:
    digest = published(0)
    ObjectStore(ADDRESS / digest).delete([VECTORS])
    refused = mirror.pull().problem
    count = len(s3.requests)
    assert mirror.pull().problem == refused
    assert len(s3.requests) == count + 1
    second = published(1)
    assert mirror.pull().bundle == second  # another one is fetched at once


@pytest.mark.parametrize("fault", ["outage", "ExpiredToken", "AccessDenied"])
def test_an_outage_is_said_and_over_when_it_is(s3: S3Server, mirror: Mirror, fault: str) -> None:
    first = published(0)
    mirror.pull()
    read_at = known(mirror).read_at
    if fault == "outage":
        s3.stop()
    else:
        s3.refusal = fault
    says = "does not answer" if fault == "outage" else fault
    problem = mirror.pull().problem
    assert problem is not None
    assert (problem.bundle, says in problem.reason) == ("current", True)
    assert current_digest(mirror.folder) == first
    assert known(mirror) == MirrorState(known(mirror).status, read_at)
    assert known(mirror).status.problem == problem
    s3.refusal = None
    if fault == "outage":
        s3.start()
    second = published(1)
    assert mirror.pull().bundle == second
    assert known(mirror).status.problem is None


def test_an_outage_in_the_midst_of_a_fetch_goes_on_later(
    s3: S3Server, mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = published(0)
    download = ObjectStore.download

    def until_vectors(self: ObjectStore, name: str, file: Path, size: int | None = None) -> None:
        if name == VECTORS:
            s3.stop()
        download(self, name, file, size)

    with monkeypatch.context() as patched:
        patched.setattr(ObjectStore, "download", until_vectors)
        problem = mirror.pull().problem
    assert problem is not None
    assert problem.bundle == digest
    s3.start()
    mirror._not_before_s = 0
    assert mirror.pull().bundle == digest


def test_a_new_process_goes_on_with_the_folder(s3: S3Server, tmp_path: Path) -> None:
    digest = published(0)
    for expected in (digest, None):
        mirror = Mirror(ADDRESS, tmp_path / "mirror")
        with mirror.held():
            count = len(s3.requests)
            assert mirror.pull().bundle == expected
    assert len(s3.requests) == count + 1


def test_a_full_disk_is_a_problem_of_the_bundle(s3: S3Server, mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = published(0)
    monkeypatch.setattr(
        ObjectStore, "download", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    assert mirror.pull().problem == PullProblem(bundle=digest, reason="No space left on device")


def test_a_folder_is_held_by_one_process_and_is_no_folder_of_publishers(mirror: Mirror, tmp_path: Path) -> None:
    other = Mirror(ADDRESS, mirror.folder).held()
    with pytest.raises(MirrorError, match="another process pulls into it"):
        other.__enter__()
    publish_bundle(tmp_path / "bundles", IDS)
    foreign = Mirror(ADDRESS, tmp_path / "bundles").held()
    with pytest.raises(MirrorError, match="bundles are published there"):
        foreign.__enter__()


def test_other_folders_are_no_mirrors(tmp_path: Path) -> None:
    assert mirror_state(tmp_path) is None
    (tmp_path / ".pull.json").write_text("torn")
    assert mirror_state(tmp_path) is None
