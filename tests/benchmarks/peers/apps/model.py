"""What lies behind the server in every peer but the plain one: a bundle's ONNX program and its FAISS index.

Dimension key: B sessions, L positions, K interests (1), P padded dimension, D embedding.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import onnxruntime

BUNDLE, REDIS_URL, WEIGHTS = "PEER_BUNDLE", "REDIS_URL", "PEER_WEIGHTS"
"""The variables that name the bundle's folder, the session store and the file of an eager encoder's weights."""
SESSION_LENGTH, SESSION_TTL_S = 50, 1800
MIN_LENGTH = 2
"""The shortest input that the program is exported for."""

Answer = dict[str, list[dict[str, Any]]]


class Model:
    """Sessions of item ids -> answers, in the calling thread."""

    def __init__(self, folder: Path) -> None:
        manifest = json.loads((folder / "manifest.json").read_text())
        self._ids = ["", *(folder / "ids.txt").read_text().splitlines()]
        self._rows = {item_id: row for row, item_id in enumerate(self._ids)}
        self._encoder = onnxruntime.InferenceSession(folder / "encoder.onnx", _options(), ["CPUExecutionProvider"])
        self._index = faiss.read_index(str(folder / "index.faiss"), faiss.IO_FLAG_MMAP_IFC)
        if manifest["index"]["nprobe"] is not None:
            faiss.extract_index_ivf(self._index).nprobe = manifest["index"]["nprobe"]
        faiss.omp_set_num_threads(1)

    @classmethod
    def of_environment(cls) -> "Model":
        return cls(Path(os.environ[BUNDLE]))

    def answer(self, session: Sequence[str], k: int) -> Answer:
        return self.answers([session], k)[0]

    def answers(self, sessions: Sequence[Sequence[str]], k: int) -> list[Answer]:
        """One run of the program and one search for all sessions."""
        rows = [[self._rows[item_id] for item_id in session if item_id in self._rows] for session in sessions]
        items_BL = np.zeros((len(rows), max(MIN_LENGTH, *map(len, rows))), dtype=np.int64)
        for session, of_session in enumerate(rows):
            items_BL[session, items_BL.shape[1] - len(of_session) :] = of_session
        interests_BD = self._encoder.run(None, {"items_BL": items_BL})[0][:, 0]
        queries_BP = np.zeros((len(rows), self._index.d), dtype=np.float32)
        queries_BP[:, : interests_BD.shape[1]] = interests_BD
        scores_Bk, ids_Bk = self._index.search(queries_BP, k)
        return [
            {"items": [{"id": self._ids[i + 1], "score": score} for i, score in zip(found, scores, strict=True)]}
            for found, scores in zip(ids_Bk.tolist(), scores_Bk.tolist(), strict=True)
        ]


def append(pipeline: Any, peer: str, session_id: str, items: Sequence[str]) -> None:
    """Put into a pipeline what appends to a session and reads it: its replies are four, of which the last is wanted."""
    key = f"{peer}:{session_id}"
    pipeline.rpush(key, *items)
    pipeline.ltrim(key, -SESSION_LENGTH, -1)
    pipeline.expire(key, SESSION_TTL_S)
    pipeline.lrange(key, 0, -1)


def _options() -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return options
