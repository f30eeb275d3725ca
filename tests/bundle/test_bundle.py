"""A bundle that differs from its export is refused with the name of the file and the reason."""

import errno
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from onward.bundle import (
    INDEX,
    MANIFEST,
    QUERIES,
    TABLE,
    VECTORS,
    WEIGHTS,
    Bundle,
    BundleError,
    read_manifest,
    write_manifest,
)
from onward.bundle.encoder.kernel_arrays import ROW, SRGNNArrays
from onward.bundle.files.manifest import (
    AVAILABLE,
    ENCODER_DATA,
    IDS,
    MAX_MANIFEST_BYTES,
    POPULARITY,
    REQUIRED_FILES,
    KernelInfo,
    KernelPart,
)
from tests.bundles import item_ids, make_bundle, write_files, write_index

IDS_OF_ITEMS = item_ids("a", 30)
EVERY_FILE = sorted(REQUIRED_FILES)


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    make_bundle(folder, IDS_OF_ITEMS, index="IVF4,SQfp16", nprobe=2)
    return folder


@pytest.fixture
def folder(complete: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(complete, tmp_path / "copy"))


def refusal(folder: Path, *, verify: bool = True) -> str:
    with pytest.raises(BundleError) as refused:
        Bundle.load(folder, verify=verify)
    message = str(refused.value)
    assert "\n" not in message
    return message


def update_manifest(folder: Path) -> None:
    """Update the sizes and hashes of the manifest to the present files."""
    write_manifest(folder, read_manifest(folder)[0])


def change_manifest(folder: Path, **changes: Any) -> None:
    content = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(content | changes))


def test_a_bundle_is_loaded_from_its_folder_or_from_a_link_to_it(folder: Path, tmp_path: Path) -> None:
    link = tmp_path / "current"
    link.symlink_to(folder.name)
    assert Bundle.load(link).digest == Bundle.load(folder).digest


@pytest.mark.parametrize("name", EVERY_FILE)
@pytest.mark.parametrize("position", range(8))
def test_a_flipped_bit_is_refused_with_the_name_of_the_file(folder: Path, name: str, position: int) -> None:
    content = bytearray((folder / name).read_bytes())
    content[len(content) * position // 8] ^= 1 << position
    (folder / name).write_bytes(content)
    assert refusal(folder).startswith(f"{name}: its SHA-256")


@pytest.mark.parametrize("name", EVERY_FILE)
@pytest.mark.parametrize("keep", [lambda size: 0, lambda size: 1, lambda size: size - 1])
@pytest.mark.parametrize("verify", [True, False])
def test_a_truncated_file_is_refused_with_its_name(
    folder: Path, name: str, keep: Callable[[int], int], verify: bool
) -> None:
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: keep(len(content))])
    assert refusal(folder, verify=verify).startswith(f"{name}: ")


@pytest.mark.parametrize("name", [*EVERY_FILE, MANIFEST])
def test_a_missing_file_is_refused_with_its_name(folder: Path, name: str) -> None:
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


def test_a_file_of_unknown_name_is_refused_even_if_the_manifest_lists_it(folder: Path) -> None:
    files = json.loads((folder / MANIFEST).read_text())["files"]
    change_manifest(folder, files=files | {"../../etc/passwd": {"size": 1, "sha256": "0" * 64}})
    assert refusal(folder) == "../../etc/passwd: not a file of a bundle"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"format_version": 2}, "format_version"),
        ({"unheard_of": 1}, "unheard_of"),
        ({"items": 0}, "items"),
        ({"items": 10**12}, "items"),
        ({"items": 10**9}, VECTORS),
        ({"max_length": 10**9}, "max_length"),
        ({"max_length": 1001}, "max_length"),
        ({"interests": 10**9}, "interests"),
        ({"users": 10**12}, "users"),
        ({"folded_changes": 10**300}, "folded_changes"),
        ({"dimension": 10**9}, "dimension"),
        ({"items": 29}, VECTORS),
        ({"dimension": 13}, "document"),
        ({"metric": "l2"}, "metric"),
        ({"metrics": {"recall@20": "NaN"}}, "metrics.recall@20"),
        ({"created": "2026-01-01T00:00:00"}, "created"),
    ],
)
def test_an_invalid_manifest_is_refused_with_the_name_of_the_field(
    folder: Path, changes: dict[str, Any], field: str
) -> None:
    change_manifest(folder, **changes)
    assert field in refusal(folder)


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff", b'{"format_version": 1'])
def test_a_manifest_that_is_no_json_object_is_refused(folder: Path, content: bytes) -> None:
    (folder / MANIFEST).write_bytes(content)
    assert refusal(folder).startswith(f"{MANIFEST}: ")


def test_a_huge_manifest_is_refused_before_it_is_read(folder: Path) -> None:
    with (folder / MANIFEST).open("r+b") as file:
        file.truncate(MAX_MANIFEST_BYTES + 1)
    assert "more than" in refusal(folder)


def test_every_damaged_manifest_is_refused_within_little_memory_or_harmless(tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    make_bundle(folder, IDS_OF_ITEMS, attributes=[{"price": 1.0}] * 30, users=["u1", "u2"], interests=2)
    command = [sys.executable, "-m", "tests.bundle.damaged_manifests", str(folder)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]


def test_a_folder_named_by_another_digest_is_refused(folder: Path) -> None:
    renamed = folder.rename(folder.with_name("0" * 64))
    assert refusal(renamed).startswith(f"{MANIFEST}: its SHA-256 is ")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_vectors_that_are_not_finite_are_refused(folder: Path, value: float) -> None:
    vectors_N1D = np.load(folder / VECTORS)
    vectors_N1D[7, 3] = value
    np.save(folder / VECTORS, vectors_N1D)
    update_manifest(folder)
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
        (AVAILABLE, np.array([0] + [2] * 30, dtype=np.uint8).view(np.bool_)),
    ],
)
def test_an_array_of_wrong_type_shape_or_values_is_refused(folder: Path, name: str, array: Any) -> None:
    np.save(folder / name, array)
    update_manifest(folder)
    assert refusal(folder).startswith(f"{name}: ")


@pytest.mark.parametrize(
    "array",
    [
        np.full((3, 1, 12), np.nan, dtype=np.float32),
        np.zeros((3, 2, 12), dtype=np.float32),
        np.zeros((3, 1, 12), dtype=np.float64),
    ],
)
def test_stored_queries_of_wrong_type_shape_or_values_are_refused(folder: Path, array: Any) -> None:
    np.save(folder / QUERIES, array)
    update_manifest(folder)
    assert refusal(folder).startswith(f"{QUERIES}: ")


def test_an_attribute_column_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    make_bundle(folder, IDS_OF_ITEMS, attributes=[{"price": 1.0}] * 30)
    values = np.load(folder / "attribute_0_values.npy")
    values[3] = np.nan
    np.save(folder / "attribute_0_values.npy", values)
    update_manifest(folder)
    assert refusal(folder).startswith("attribute_0_values.npy: holds NaN")


@pytest.mark.parametrize("name", [TABLE, WEIGHTS])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_table_or_weights_of_a_kernel_that_are_not_finite_are_refused(folder: Path, name: str, value: float) -> None:
    part = KernelPart(dimension=12, tabled=True, scale=None)
    shapes = SRGNNArrays.shapes(12, 10, tabled=True)
    count = sum(prod(shape) for shape in shapes if shape is not None)
    arrays = {TABLE: np.zeros((31, ROW * 12), dtype=np.float32), WEIGHTS: np.zeros(count, dtype=np.float32)}
    arrays[name].reshape(-1)[-1] = value
    for file, array in arrays.items():
        np.save(folder / file, array)
    manifest = read_manifest(folder)[0].model_copy(update={"kernel": KernelInfo(model="srgnn", parts=(part,))})
    write_manifest(folder, manifest)
    assert refusal(folder).startswith(f"{name}: holds NaN")
    arrays[name].reshape(-1)[-1] = 0
    np.save(folder / name, arrays[name][:-1])
    write_manifest(folder, manifest)
    assert refusal(folder).startswith(f"{name}: float32 ")


def test_a_file_that_may_not_be_read_is_refused_with_its_name(folder: Path) -> None:
    def deny(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and str(arguments[0]).endswith(VECTORS) and denies:
            raise PermissionError(errno.EACCES, "Permission denied", str(arguments[0]))

    denies = True
    sys.addaudithook(deny)  # the tests may run as root, whom no mode keeps from reading
    try:
        assert refusal(folder) == f"{VECTORS}: Permission denied"
    finally:
        denies = False


def test_a_loop_of_links_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    assert refusal(tmp_path / "a").startswith("a: ")


@pytest.mark.parametrize(
    "ids",
    [
        IDS_OF_ITEMS[:-1],
        [*IDS_OF_ITEMS[:-1], "a1"],
        [*IDS_OF_ITEMS[:-1], "two\u2028lines"],
        [*IDS_OF_ITEMS[:-1], ""],
        [*IDS_OF_ITEMS[:-1], "x" * 129],
        [*IDS_OF_ITEMS[:-1], "tab\there"],
        [*IDS_OF_ITEMS[:-1], "\u00e9" * 129],
        [*IDS_OF_ITEMS[:-1], "next\u0085line"],
        [*IDS_OF_ITEMS[:-1], "\udcff"],
        ["\u00e9", "\u00e9", *IDS_OF_ITEMS[2:]],
    ],
)
def test_missing_repeated_or_invalid_ids_are_refused(folder: Path, ids: list[str]) -> None:
    (folder / IDS).write_text("".join(f"{item_id}\n" for item_id in ids), errors="surrogateescape")
    update_manifest(folder)
    assert refusal(folder).startswith(f"{IDS}: ")


def test_the_probes_detect_an_index_of_other_vectors(folder: Path) -> None:
    manifest = read_manifest(folder)[0]
    write_index(folder / INDEX, np.random.default_rng(9).normal(size=(31, 12)).astype(np.float32), manifest.index)
    update_manifest(folder)
    assert refusal(folder) == f"probe 0: {INDEX} gives other items or scores than at export"


def test_the_probes_detect_another_encoder(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    write_files(tmp_path / "other", IDS_OF_ITEMS, seed=1)
    shutil.copy(tmp_path / "other" / "encoder.onnx", folder / "encoder.onnx")
    update_manifest(folder)
    assert refusal(folder) == "probe 0: encoder.onnx gives other interests than at export"


@pytest.mark.parametrize(("factor", "loads"), [(1, True), (1 + 5e-3, False)])
def test_probes_whose_items_were_scored_only_by_the_interests_that_found_them_are_reproduced(
    tmp_path: Path, factor: float, loads: bool
) -> None:
    bundle = make_bundle(tmp_path, item_ids("a", 400), interests=4, index="IVF8,Flat", nprobe=1)
    probes = [probe.model_dump(mode="json") for probe in bundle.manifest.probes]
    index = faiss.read_index(str(tmp_path / INDEX))
    lower = 0
    for probe in probes:
        interests_KD = np.array(probe["interests"], dtype=np.float32)
        scores_Kk, ids_Kk = index.search(np.pad(interests_KD, ((0, 0), (0, index.d - 12))), 100)
        found = sorted(zip(ids_Kk.ravel().tolist(), scores_Kk.ravel().tolist(), strict=True), key=lambda pair: pair[1])
        best = {number: score for number, score in found if number >= 0}
        top = sorted(best.items(), key=lambda pair: -pair[1])[:100]
        vectors_CD = bundle.vectors_N1D[[number + 1 for number, _ in top]]
        lower += int(np.count_nonzero((vectors_CD @ interests_KD.T).max(axis=1) > np.array([s for _, s in top]) + 0.1))
        probe["top"] = [{"item_id": f"a{number + 1}", "score": score * factor} for number, score in top]
    assert lower > 0
    change_manifest(tmp_path, probes=probes)
    if loads:
        assert Bundle.load(tmp_path).manifest.items == 400
    else:
        assert refusal(tmp_path) == f"probe 0: {INDEX} gives other items or scores than at export"


def test_a_bundle_without_probes_is_refused(folder: Path) -> None:
    change_manifest(folder, probes=[])
    assert "no probes" in refusal(folder)


@pytest.mark.parametrize(
    ("index", "nprobe"),
    [("HNSW8", None), ("Flat", 4), ("IVF4,Flat", None), ("IVF4,Flat", 5), ("PCA16,Flat", None), ("IVF4,SQ8,RFlat", 2)],
)
def test_an_index_of_an_unsupported_kind_is_refused(tmp_path: Path, index: str, nprobe: int | None) -> None:
    manifest = write_files(tmp_path, IDS_OF_ITEMS, index=index, nprobe=nprobe)
    write_manifest(tmp_path, manifest)
    assert refusal(tmp_path, verify=False).startswith(f"{INDEX}: ")


def test_a_kernel_is_refused_if_the_bundle_has_users(tmp_path: Path) -> None:
    make_bundle(tmp_path, IDS_OF_ITEMS, users=["user-1", "user-2"])
    part = {"dimension": 12, "tabled": True, "scale": None}
    change_manifest(tmp_path, kernel={"model": "srgnn", "parts": [part]})
    assert refusal(tmp_path) == f"{MANIFEST}: document: users is 2, but a kernel encodes sessions alone"


def test_a_program_that_is_no_encoder_is_refused(folder: Path) -> None:
    (folder / "encoder.onnx").write_bytes(b"not a program")
    update_manifest(folder)
    assert refusal(folder).startswith("encoder.onnx: ")


@pytest.mark.parametrize("changes", [{"interests": 2}, {"dimension": 11}])
def test_a_program_with_other_dimensions_is_refused(tmp_path: Path, changes: dict[str, int]) -> None:
    manifest = write_files(tmp_path, IDS_OF_ITEMS)
    if "dimension" in changes:
        np.save(tmp_path / VECTORS, np.load(tmp_path / VECTORS)[:, :11].copy())
    write_manifest(tmp_path, manifest.model_copy(update=changes))
    assert refusal(tmp_path, verify=False).startswith("encoder.onnx: gives no finite interests of shape")


@pytest.mark.parametrize(("factor", "loads"), [(1 + 5e-4, True), (1 + 5e-3, False)])
def test_a_probe_tolerates_rounding_only(folder: Path, factor: float, loads: bool) -> None:
    probes = json.loads((folder / MANIFEST).read_text())["probes"]
    probes[0]["top"][0]["score"] *= factor
    change_manifest(folder, probes=probes)
    if loads:
        assert Bundle.load(folder).manifest.items == len(IDS_OF_ITEMS)
    else:
        assert refusal(folder).startswith("probe 0: ")
