"""The model of every peer but the plain one: a bundle's ONNX program and its FAISS index.

Dimension key: B sessions, L positions, D embedding, P padded dimension, C candidates, k results.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import onnxruntime
from numpy.typing import NDArray

BUNDLE, WEIGHTS, REDIS_URL, BATCH = "PEER_BUNDLE", "PEER_WEIGHTS", "REDIS_URL", "PEER_BATCH"
"""Environment variables: the bundle's folder, an eager encoder's weights, the session store, the largest batch."""
HOME = "PEER_HOME"
"""Environment variable: a folder for a server's files; also identifies all processes of the server."""
SESSION_LENGTH, SESSION_TTL_S = 50, 1800
MIN_LENGTH = 2
"""The shortest input that the program is exported for."""

Answer = dict[str, list[dict[str, Any]]]


class Model:
    """Answers queries about sessions of item ids, in the calling thread."""

    def __init__(self, folder: Path) -> None:
        manifest = json.loads((folder / "manifest.json").read_text())
        self._ids = ["", *(folder / "ids.txt").read_text().splitlines()]
        self._rows = {item_id: row for row, item_id in enumerate(self._ids)}
        self._encoder = onnxruntime.InferenceSession(folder / "encoder.onnx", _options(), ["CPUExecutionProvider"])
        self._index = faiss.read_index(str(folder / "index.faiss"), faiss.IO_FLAG_MMAP_IFC)
        if manifest["index"]["nprobe"] is not None:
            self._index.nprobe = manifest["index"]["nprobe"]
        if manifest["index"]["ef_search"] is not None:
            self._index.hnsw.efSearch = manifest["index"]["ef_search"]
        self._candidates_per_k: int = manifest["index"]["candidates_per_k"]
        self._vectors_N1D = np.load(folder / "vectors.npy", mmap_mode="r")
        faiss.omp_set_num_threads(1)

    @classmethod
    def from_environment(cls) -> "Model":
        return cls(Path(os.environ[BUNDLE]))

    def answers(self, sessions: Sequence[Sequence[str]], queries: Sequence[Mapping[str, Any]]) -> list[Answer]:
        """Answer a batch of queries by one run of the program and one search; each query gives its own k."""
        rows = [[self._rows[item_id] for item_id in session if item_id in self._rows] for session in sessions]
        items_BL = np.zeros((len(rows), max(MIN_LENGTH, *map(len, rows))), dtype=np.int64)
        for session, session_rows in enumerate(rows):
            items_BL[session, items_BL.shape[1] - len(session_rows) :] = session_rows
        interests_BD = self._encoder.run(None, {"items_BL": items_BL})[0][:, 0]
        scores_Bk, rows_Bk = self._nearest(interests_BD, max(query["k"] for query in queries))
        lists = zip(rows_Bk.tolist(), scores_Bk.tolist(), queries, strict=True)
        return [self._answer(rows[: query["k"]], scores[: query["k"]]) for rows, scores, query in lists]

    def _nearest(self, interests_BD: NDArray[np.float32], k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Search the index; with a quantized one, re-rank its candidates by their vectors."""
        queries_BP = np.zeros((len(interests_BD), self._index.d), dtype=np.float32)
        queries_BP[:, : interests_BD.shape[1]] = interests_BD
        scores_BC, ids_BC = self._index.search(queries_BP, k * self._candidates_per_k)
        rows_BC = ids_BC + 1
        if self._candidates_per_k == 1:
            return scores_BC, rows_BC
        scores_BC = np.einsum("bcd,bd->bc", self._vectors_N1D[rows_BC], interests_BD)
        best_Bk = np.argsort(-scores_BC, axis=1)[:, :k]
        return np.take_along_axis(scores_BC, best_Bk, axis=1), np.take_along_axis(rows_BC, best_Bk, axis=1)

    def _answer(self, rows: list[int], scores: list[float]) -> Answer:
        return {"items": [{"id": self._ids[row], "score": score} for row, score in zip(rows, scores, strict=True)]}


def batch_size() -> int:
    """Return the largest batch of queries."""
    return int(os.environ.get(BATCH, "1"))


def append(pipeline: Any, session_id: str, items: Sequence[str]) -> None:
    """Add four calls to a pipeline that append to a session and read it; the fourth reply is the session."""
    key = f"session:{session_id}"
    pipeline.rpush(key, *items)
    pipeline.ltrim(key, -SESSION_LENGTH, -1)
    pipeline.expire(key, SESSION_TTL_S)
    pipeline.lrange(key, 0, -1)


def _options() -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return options
