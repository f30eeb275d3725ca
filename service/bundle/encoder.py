"""Item rows -> interests, by the exported program."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.bundle.manifest import BundleError

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # its wheels report to their maker unless this is set by now

import onnxruntime  # it reads the variable as it is imported

MIN_LENGTH = 2  # the shortest input a session-graph program is exported for; a shorter session gets one more padding


class Encoder:
    """An ONNX program from items_BL (int64 rows, oldest first, left-padded with 0) to interests_BKD (float32).

    Safe to use from several threads at once; each call runs in the thread that makes it.
    """

    def __init__(self, session: onnxruntime.InferenceSession, *, max_length: int) -> None:
        self._session = session
        self._input = session.get_inputs()[0].name
        self._output = session.get_outputs()[0].name
        self._max_length = max_length

    @classmethod
    def load(cls, path: Path, *, items: int, dimension: int, interests: int, max_length: int) -> "Encoder":
        """Load and try the program on the first and the last of `items` rows.

        Raises BundleError where it can't be loaded or does not give finite (1, interests, dimension) numbers.
        """
        try:
            encoder = cls(
                onnxruntime.InferenceSession(path, _options(), ["CPUExecutionProvider"]), max_length=max_length
            )
            encoder._check_signature(path.name)
            trial_KD = encoder.encode([1, items] * max_length)
        except BundleError:
            raise
        except Exception as error:  # onnxruntime raises classes of its own, without a common base, for each fault
            raise BundleError(f"{path.name}: {_first_line(error)}") from error
        if trial_KD.shape != (interests, dimension) or not np.isfinite(trial_KD).all():
            raise BundleError(f"{path.name}: gives no finite interests of shape {(interests, dimension)}")
        return encoder

    def encode(self, rows: Sequence[int]) -> NDArray[np.float32]:
        """Return interests_KD of a session: its rows, oldest first, of which the last `max_length` count.

        Raises ValueError for an empty session.
        """
        if not rows:
            raise ValueError("an empty session has no interests")
        recent = rows[-self._max_length :]
        items_BL = np.zeros((1, max(MIN_LENGTH, len(recent))), dtype=np.int64)
        items_BL[0, -len(recent) :] = recent
        interests_KD: NDArray[np.float32] = self._session.run([self._output], {self._input: items_BL})[0][0]
        return interests_KD

    def _check_signature(self, name: str) -> None:
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        signature = [(value.name, value.type, len(value.shape)) for value in (*inputs, *outputs)]
        if signature != [("items_BL", "tensor(int64)", 2), ("interests_BKD", "tensor(float)", 3)]:
            raise BundleError(f"{name}: not a program from int64 items_BL to float32 interests_BKD")


def _options() -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.log_severity_level = 4  # faults come as exceptions; the library's own lines are no part of our log
    return options


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
