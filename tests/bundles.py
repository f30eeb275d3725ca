"""Build small real bundles without torch: random item vectors and an ONNX program that averages them."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import faiss
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from onward.bundle import (
    ENCODER,
    INDEX,
    VECTORS,
    Bundle,
    Catalog,
    Defaults,
    IndexInfo,
    Manifest,
    NearestSessionsInfo,
    RepeatsInfo,
    Retention,
    Users,
    pad_dimension,
    publish,
    stage,
    write_manifest,
    write_stored_sessions,
)
from onward.training.data.session_index import index_sessions
from tests.training.corpora import sessions

CANDIDATES, NEIGHBOURS = 60, 25
"""Of nearest sessions."""


def item_ids(prefix: str, count: int) -> list[str]:
    return [f"{prefix}{number}" for number in range(1, count + 1)]


def write_files(
    folder: Path,
    ids: Sequence[str],
    *,
    dimension: int = 12,
    interests: int = 1,
    index: str = "Flat",
    nprobe: int | None = None,
    exclude_seen: bool | Literal["last"] = False,
    available: NDArray[np.bool_] | None = None,
    popularity: NDArray[np.float32] | None = None,
    attributes: Sequence[Mapping[str, Any]] | None = None,
    users: Sequence[str] = (),
    model: str = "mean",
    seed: int = 0,
    vectors_ND: NDArray[np.float32] | None = None,
    folded_changes: int = 0,
    past_sessions: Sequence[Sequence[int]] = (),
    session_weight: float = 1.0,
    repeat_share: float = 0.0,
    repeats: Sequence[float] = (),
) -> Manifest:
    """Write every file of a bundle except the manifest; return the manifest, without probes.

    Past sessions are of rows, the oldest first; they vote if there are any.
    """
    random = np.random.default_rng(seed)
    dimension = dimension if vectors_ND is None else vectors_ND.shape[1]
    vectors_N1D = random.normal(size=(len(ids) + 1, dimension)).astype(np.float32)
    vectors_N1D[0] = 0
    if vectors_ND is not None:
        vectors_N1D[1:] = vectors_ND
    np.save(folder / VECTORS, vectors_N1D)
    rotations_KDD = [np.eye(dimension), *np.linalg.qr(random.normal(size=(interests - 1, dimension, dimension)))[0]]
    users_U1D = random.normal(size=(len(users) + 1, dimension)).astype(np.float32)
    users_U1D[0] = 0
    program = mean_encoder(vectors_N1D, np.array(rotations_KDD, dtype=np.float32), users_U1D)
    onnx.save(program, folder / ENCODER)
    Users.write(folder, users)
    kinds = Catalog.write(
        folder,
        ids,
        np.arange(len(ids) + 1, 0, -1, dtype=np.float32) if popularity is None else popularity,
        ({} for _ in ids) if attributes is None else attributes,
        np.ones(len(ids) + 1, dtype=np.bool_) if available is None else available,
    )
    info = IndexInfo(
        description=index, nprobe=nprobe, padded_dimension=-(-dimension // 16) * 16, recall_at_20=1.0, queries=1
    )
    write_index(folder / INDEX, vectors_N1D, info)
    nearest = None
    if past_sessions:
        stored, counted = index_sessions([sessions(*map(list, past_sessions))], len(ids), CANDIDATES)
        write_stored_sessions(folder, stored)
        nearest = NearestSessionsInfo(
            sessions=len(stored.items_offsets) - 1,
            counted_sessions=counted,
            items=len(ids),
            last_events=4,
            candidates=CANDIDATES,
            neighbours=NEIGHBOURS,
            place_power=1,
            match="linear",
            rarity_base=0,
            rarity_factor=1,
            repeat_share=repeat_share,
            weight=session_weight,
        )
    return Manifest(
        model=model,
        recipe="",
        data_fingerprint="none",
        created=datetime.now(UTC),
        metrics={"recall@20": 0.5},
        items=len(ids),
        dimension=dimension,
        users=len(users),
        attributes=kinds,
        interests=interests,
        folded_changes=folded_changes,
        max_length=10,
        defaults=Defaults(exclude_seen=exclude_seen),
        nearest_sessions=nearest,
        repeats=RepeatsInfo(bonuses=tuple(repeats)) if repeats else None,
        index=info,
    )


def write_index(path: Path, vectors_N1D: NDArray[np.float32], info: IndexInfo) -> None:
    vectors_NP = pad_dimension(vectors_N1D[1:], info.padded_dimension)
    index = faiss.index_factory(info.padded_dimension, info.description, faiss.METRIC_INNER_PRODUCT)
    index.train(vectors_NP)
    index.add(vectors_NP)
    faiss.write_index(index, str(path))


def add_probes(folder: Path, manifest: Manifest, ids: Sequence[str], users: Sequence[str] = ()) -> Manifest:
    """Write the manifest with probes of three short sessions and of a user; return it for `publish`."""
    write_manifest(folder, manifest)
    bundle = Bundle.load(folder, verify=False)
    sessions = [ids[:1], ids[1:3], ids[2:8]]
    probes = [bundle.probe(session, 5) for session in sessions]
    if users:
        probes.append(bundle.probe(ids[:2], 5, user_id=users[-1]))
    probed = manifest.model_copy(update={"probes": tuple(probes)})
    write_manifest(folder, probed)
    return probed


def make_bundle(folder: Path, ids: Sequence[str], **options: Any) -> Bundle:
    """Write a complete bundle into `folder` and load it; options as in write_files."""
    folder.mkdir(parents=True, exist_ok=True)
    add_probes(folder, write_files(folder, ids, **options), ids, options.get("users", ()))
    return Bundle.load(folder)


def publish_bundle(
    bundles: Path,
    ids: Sequence[str],
    *,
    keep: int = 5,
    recent: timedelta = timedelta(0),
    make_live: bool = True,
    **options: Any,
) -> str:
    """Publish a new bundle and return its digest; options as in write_files."""
    with stage(bundles) as folder:
        manifest = add_probes(folder, write_files(folder, ids, **options), ids, options.get("users", ()))
        return publish(folder, manifest, bundles, retention=Retention(keep, recent), make_live=make_live)


def mean_encoder(
    vectors_N1D: NDArray[np.float32], rotations_KDD: NDArray[np.float32], users_U1D: NDArray[np.float32]
) -> onnx.ModelProto:
    """Build a program whose interest k is the items' mean vector plus the user's, rotated by the k-th matrix."""
    interests, dimension, _ = rotations_KDD.shape
    takes_users = len(users_U1D) > 1
    constants = {
        "vectors": vectors_N1D,
        "user_vectors": users_U1D,
        "one": np.array(1, dtype=np.float32),
        "padding": np.array(0, dtype=np.int64),
        "axis": np.array([1], dtype=np.int64),
        "rotations": rotations_KDD.transpose(1, 0, 2).reshape(dimension, interests * dimension),
        "shape": np.array([-1, interests, dimension], dtype=np.int64),
    }
    nodes = [
        helper.make_node("Gather", ["vectors", "items_BL"], ["vectors_BLD"]),
        helper.make_node("ReduceSum", ["vectors_BLD", "axis"], ["sum_BD"], keepdims=0),
        helper.make_node("Greater", ["items_BL", "padding"], ["valid_BL"]),
        helper.make_node("Cast", ["valid_BL"], ["count_BL"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["count_BL", "axis"], ["item_count_B1"], keepdims=1),
        helper.make_node("Max", ["item_count_B1", "one"], ["length_B1"]),
        helper.make_node("Div", ["sum_BD", "length_B1"], ["mean_BD"]),
        *([helper.make_node("Gather", ["user_vectors", "users_B"], ["user_BD"])] if takes_users else []),
        helper.make_node("Sum", ["mean_BD", "user_BD"] if takes_users else ["mean_BD"], ["query_BD"]),
        helper.make_node("MatMul", ["query_BD", "rotations"], ["rotated"]),
        helper.make_node("Reshape", ["rotated", "shape"], ["interests_BKD"]),
    ]
    graph = helper.make_graph(
        nodes,
        "mean",
        [
            helper.make_tensor_value_info("items_BL", TensorProto.INT64, ["B", "L"]),
            *([helper.make_tensor_value_info("users_B", TensorProto.INT64, ["B"])] if takes_users else []),
        ],
        [helper.make_tensor_value_info("interests_BKD", TensorProto.FLOAT, ["B", interests, dimension])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
