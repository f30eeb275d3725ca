"""Open an ONNX program: on the calling thread alone, without telemetry."""

import os
from pathlib import Path
from typing import Any, TypeAlias

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # its wheels send usage data unless this is set before the import

from onnxruntime import InferenceSession, SessionOptions  # read the variable on import

Session: TypeAlias = InferenceSession


def open_program(path: Path) -> Session:
    """Open a program. Raises any exception of onnxruntime, whose classes have no common base."""
    return Session(path, _options(), ["CPUExecutionProvider"])


def signature(program: Session) -> list[tuple[str, str, int]]:
    """Return the name, type and number of dimensions of each input and output."""
    values = (*program.get_inputs(), *program.get_outputs())
    return [(value.name, value.type, len(value.shape)) for value in values]


def first_line(error: Exception) -> str:
    """Return the first line of an error's message."""
    return str(error).strip().partition("\n")[0]


def _options() -> Any:
    options = SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.enable_mem_reuse = False  # reusing buffers between operations saves a few kilobytes for 2 to 4 % of a run
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.log_severity_level = 4  # fatal only: errors are raised as exceptions, and its log lines are not ours
    return options
