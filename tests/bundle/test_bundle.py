"""A bundle that is not exactly what was exported is refused, by the name of the file and the reason."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onward.bundle import INDEX, MANIFEST, VECTORS, Bundle, BundleError, read_manifest, write_manifest
from onward.bundle.files.manifest import (
    AVAILABLE,
    ENCODER_DATA,
    IDS,
    MAX_MANIFEST_BYTES,
    POPULARITY,
    REQUIRED_FILES,
)
from onward.bundle.probes import same_top
from tests.bundles import item_ids, make_bundle, write_files, write_index

IDS_OF_ITEMS = item_ids("a", 30)
EVERY_FILE = sorted(REQUIRED_FILES)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    make_bundle(folder, IDS_OF_ITEMS, index="IVF4,SQfp16", nprobe=2)
    return folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "copy"))


def refusal(folder: Path, *, verify: bool = True) -> str:
    with pytest.raises(BundleError) as refused:
        Bundle.load(folder, verify=verify)
    message = str(refused.value)
    assert "\n" not in message
    return message


def vouch_for_the_files(folder: Path) -> None:
    """Complete the manifest anew, as an exporter would that wrote these very files."""
    write_manifest(folder, read_manifest(folder)[0])


def change_manifest(folder: Path, **changes: Any) -> None:
    content = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(content | changes))


def test_a_whole_bundle_loads_by_its_folder_and_by_a_link_to_it(folder: Path, tmp_path: Path) -> None:
    link = tmp_path / "current"
    link.symlink_to(folder.name)
    assert Bundle.load(link).digest == Bundle.load(folder).digest


@pytest.mark.parametrize("name", EVERY_FILE)
@pytest.mark.parametrize("position", range(8))
def test_a_flipped_bit_is_refused_by_the_files_name(folder: Path, name: str, position: int) -> None:
    content = bytearray((folder / name).read_bytes())
    content[len(content) * position // 8] ^= 1 << position
    (folder / name).write_bytes(content)
    assert refusal(folder).startswith(f"{name}: its SHA-256")


@pytest.mark.parametrize("name", EVERY_FILE)
@pytest.mark.parametrize("keep", [lambda size: 0, lambda size: 1, lambda size: size - 1])
@pytest.mark.parametrize("verify", [True, False])
def test_a_truncated_file_is_refused_by_its_name(
    folder: Path, name: str, keep: Callable[[int], int], verify: bool
) -> None:
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: keep(len(content))])
    assert refusal(folder, verify=verify).startswith(f"{name}: ")


@pytest.mark.parametrize("name", [*EVERY_FILE, MANIFEST])
def test_a_missing_file_is_refused_by_its_name(folder: Path, name: str) -> None:
    (folder / name).unlink()
    assert refusal(folder).startswith(f"{name}: ")


@pytest.mark.parametrize("name", [*EVERY_FILE, MANIFEST])
def test_a_link_in_place_of_a_file_is_refused(folder: Path, tmp_path: Path, name: str) -> None:
    (folder / name).rename(tmp_path / "elsewhere")
    (folder / name).symlink_to(tmp_path / "elsewhere")
    assert refusal(folder) == f"{name}: not a regular file"


@pytest.mark.parametrize("name", ["notes.txt", "weights.pkl", ENCODER_DATA, ".hidden"])
def test_a_file_that_the_manifest_does_not_list_is_refused(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"surplus")
    assert refusal(folder) == f"{name}: not listed in {MANIFEST}"


def test_a_file_no_bundle_has_is_refused_even_if_the_manifest_lists_it(folder: Path) -> None:
    files = json.loads((folder / MANIFEST).read_text())["files"]
    change_manifest(folder, files=files | {"../../etc/passwd": {"size": 1, "sha256": "0" * 64}})
    assert refusal(folder) == "../../etc/passwd: no file of a bundle"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"format_version": 2}, "format_version"),
        ({"unheard_of": 1}, "unheard_of"),
        ({"items": 0}, "items"),
        ({"items": 10**12}, VECTORS),
        ({"items": 29}, VECTORS),
        ({"dimension": 13}, "document"),
        ({"metric": "l2"}, "metric"),
        ({"metrics": {"recall@20": "NaN"}}, "metrics.recall@20"),
        ({"created": "2026-01-01T00:00:00"}, "created"),
    ],
)
def test_a_manifest_that_says_something_else_is_refused_by_the_field(
    folder: Path, changes: dict[str, Any], field: str
) -> None:
    change_manifest(folder, **changes)
    assert field in refusal(folder)


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff", b'{"format_version": 1'])
def test_a_manifest_that_is_none_is_refused(folder: Path, content: bytes) -> None:
    (folder / MANIFEST).write_bytes(content)
    assert refusal(folder).startswith(f"{MANIFEST}: ")


def test_a_huge_manifest_is_refused_before_it_is_read(folder: Path) -> None:
    with (folder / MANIFEST).open("r+b") as file:
        file.truncate(MAX_MANIFEST_BYTES + 1)
    assert "more than" in refusal(folder)


def test_a_folder_named_by_another_digest_is_refused(folder: Path) -> None:
    renamed = folder.rename(folder.with_name("0" * 64))
    assert refusal(renamed).startswith(f"{MANIFEST}: its SHA-256 is ")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_vectors_that_are_no_numbers_are_refused(folder: Path, value: float) -> None:
    vectors_N1D = np.load(folder / VECTORS)
    vectors_N1D[7, 3] = value
    np.save(folder / VECTORS, vectors_N1D)
    vouch_for_the_files(folder)
    assert refusal(folder).startswith(f"{VECTORS}: holds NaN")


@pytest.mark.parametrize(
    ("name", "array"),
    [
        (VECTORS, np.zeros((31, 12), dtype=np.float64)),
        (VECTORS, np.zeros((31, 12), dtype=np.float32, order="F")),
        (VECTORS, np.zeros((30, 12), dtype=np.float32)),
        (AVAILABLE, np.ones(31, dtype=np.int64)),
        (AVAILABLE, np.ones(31, dtype=np.bool_)),
        (POPULARITY, np.full(31, -1, dtype=np.float32)),
        (POPULARITY, np.full(31, np.nan, dtype=np.float32)),
        (POPULARITY, np.array([None] * 31)),
    ],
)
def test_an_array_of_another_type_shape_or_meaning_is_refused(folder: Path, name: str, array: Any) -> None:
    np.save(folder / name, array)
    vouch_for_the_files(folder)
    assert refusal(folder).startswith(f"{name}: ")


@pytest.mark.parametrize(
    "ids",
    [
        IDS_OF_ITEMS[:-1],
        [*IDS_OF_ITEMS[:-1], "a1"],
        [*IDS_OF_ITEMS[:-1], "two words"],
        [*IDS_OF_ITEMS[:-1], ""],
        [*IDS_OF_ITEMS[:-1], "x" * 129],
        [*IDS_OF_ITEMS[:-1], "tab\there"],
        [*IDS_OF_ITEMS[:-1], "\u00e9" * 129],
        [*IDS_OF_ITEMS[:-1], "no-break\u00a0space"],
        [*IDS_OF_ITEMS[:-1], "\udcff"],
        ["\u00e9", "\u00e9", *IDS_OF_ITEMS[2:]],
    ],
)
def test_ids_that_are_not_one_for_each_row_are_refused(folder: Path, ids: list[str]) -> None:
    (folder / IDS).write_text("".join(f"{item_id}\n" for item_id in ids), errors="surrogateescape")
    vouch_for_the_files(folder)
    assert refusal(folder).startswith(f"{IDS}: ")


def test_an_index_of_other_vectors_is_refused_by_the_probes(folder: Path) -> None:
    manifest = read_manifest(folder)[0]
    write_index(folder / INDEX, np.random.default_rng(9).normal(size=(31, 12)).astype(np.float32), manifest.index)
    vouch_for_the_files(folder)
    assert refusal(folder) == f"probe 0: {INDEX} gives other items or scores than at export"


def test_an_encoder_that_answers_otherwise_is_refused_by_the_probes(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    write_files(tmp_path / "other", IDS_OF_ITEMS, seed=1)
    shutil.copy(tmp_path / "other" / "encoder.onnx", folder / "encoder.onnx")
    vouch_for_the_files(folder)
    assert refusal(folder) == "probe 0: encoder.onnx gives other interests than at export"


def test_a_bundle_without_probes_is_refused(folder: Path) -> None:
    change_manifest(folder, probes=[])
    assert "no probes" in refusal(folder)


@pytest.mark.parametrize(
    ("index", "nprobe"),
    [("HNSW8", None), ("Flat", 4), ("IVF4,Flat", None), ("IVF4,Flat", 5), ("PCA16,Flat", None), ("IVF4,SQ8,RFlat", 2)],
)
def test_an_index_the_service_cannot_search_with_exclusions_is_refused(
    tmp_path: Path, index: str, nprobe: int | None
) -> None:
    manifest = write_files(tmp_path, IDS_OF_ITEMS, index=index, nprobe=nprobe)
    write_manifest(tmp_path, manifest)
    assert refusal(tmp_path, verify=False).startswith(f"{INDEX}: ")


def test_a_program_that_is_no_encoder_is_refused(folder: Path) -> None:
    (folder / "encoder.onnx").write_bytes(b"not a program")
    vouch_for_the_files(folder)
    assert refusal(folder).startswith("encoder.onnx: ")


@pytest.mark.parametrize("changes", [{"interests": 2}, {"dimension": 11}])
def test_a_program_of_other_dimensions_is_refused(tmp_path: Path, changes: dict[str, int]) -> None:
    manifest = write_files(tmp_path, IDS_OF_ITEMS)
    if "dimension" in changes:
        np.save(tmp_path / VECTORS, np.load(tmp_path / VECTORS)[:, :11].copy())
    write_manifest(tmp_path, manifest.model_copy(update=changes))
    assert refusal(tmp_path, verify=False).startswith("encoder.onnx: gives no finite interests of shape")


@pytest.mark.parametrize(("factor", "loads"), [(1 + 5e-4, True), (1 + 5e-3, False)])
def test_a_probe_allows_for_rounding_and_no_more(folder: Path, factor: float, loads: bool) -> None:
    probes = json.loads((folder / MANIFEST).read_text())["probes"]
    probes[0]["top"][0]["score"] *= factor
    change_manifest(folder, probes=probes)
    if loads:
        assert Bundle.load(folder).manifest.items == len(IDS_OF_ITEMS)
    else:
        assert refusal(folder).startswith("probe 0: ")


def test_items_of_equal_score_may_change_places_in_a_probe(folder: Path) -> None:
    probe = Bundle.load(folder).manifest.probes[0]
    first, second, *others = probe.top
    assert not same_top((second, first, *others), probe.top)
    second = second.model_copy(update={"score": first.score * (1 - 1e-4)})
    assert same_top((second, first, *others), (first, second, *others))


def test_an_item_that_ties_with_the_last_may_take_its_place_in_a_probe(folder: Path) -> None:
    *others, last = Bundle.load(folder).manifest.probes[0].top
    assert same_top((*others, last.model_copy(update={"item_id": "another"})), (*others, last))
    assert not same_top((others[0].model_copy(update={"item_id": "another"}), *others[1:], last), (*others, last))
