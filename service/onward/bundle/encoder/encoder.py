"""Encode item rows as interests, by the exported ONNX program or by a compiled kernel that computes the same."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from onward.bundle.encoder.kernel import EMPTY_SESSION, Kernel, KernelUnavailable
from onward.bundle.files.manifest import BundleError, KernelInfo
from onward.bundle.files.program import Session, first_line, open_program, signature

ITEMS, USERS, INTERESTS = "items_BL", "users_B", "interests_BKD"
MIN_LENGTH = 2
"""The shortest input that a session-graph program is exported for; a session of one item is padded."""
BATCH = 16
"""Sessions encoded at once: in larger batches the padding costs more than batching saves."""
KERNEL_TOLERANCE = 1e-5
"""How much a kernel may differ from the program, relative to the largest number compared."""


EncodeAll = Callable[[Sequence[Sequence[int]], Sequence[int]], NDArray[np.float32]]


class Program:
    """An ONNX program from items_BL (int64 rows, oldest first, left-padded with 0) to interests_BKD (float32).

    A program that knows users also takes users_B: int64 rows, 0 for an unknown user. Thread-safe.
    """

    def __init__(self, session: Session, *, max_length: int) -> None:
        self._session = session
        self._takes_users = len(session.get_inputs()) > 1
        self._max_length = max_length

    @classmethod
    def load(cls, path: Path, *, max_length: int, takes_users: bool) -> "Program":
        """Load a program. Raises BundleError if its inputs or outputs differ, and any exception of onnxruntime."""
        program = cls(open_program(path), max_length=max_length)
        program._check_signature(path.name, takes_users=takes_users)
        return program

    def encode_all(self, sessions: Sequence[Sequence[int]], user_rows: Sequence[int]) -> NDArray[np.float32]:
        """See `Encoder.encode_all`.

        Batches of sessions of similar length make the program about three times as fast as one session at a time.
        """
        if not all(rows or user_row for rows, user_row in zip(sessions, user_rows, strict=True)):
            raise ValueError(EMPTY_SESSION)
        by_length = sorted(range(len(sessions)), key=lambda number: len(sessions[number]))
        batches = [by_length[start : start + BATCH] for start in range(0, len(by_length), BATCH)]
        encoded = [self._run([sessions[n] for n in batch], [user_rows[n] for n in batch]) for batch in batches]
        interests_BKD: NDArray[np.float32] = np.concatenate(encoded)[np.argsort(by_length)]
        return interests_BKD

    def _run(self, sessions: Sequence[Sequence[int]], user_rows: Sequence[int]) -> NDArray[np.float32]:
        recent = [rows[-self._max_length :] for rows in sessions]
        items_BL = np.zeros((len(recent), max(MIN_LENGTH, *map(len, recent))), dtype=np.int64)
        for session, rows in enumerate(recent):
            items_BL[session, items_BL.shape[1] - len(rows) :] = rows
        inputs = {ITEMS: items_BL}
        if self._takes_users:
            inputs[USERS] = np.array(user_rows, dtype=np.int64)
        interests_BKD: NDArray[np.float32] = self._session.run([INTERESTS], inputs)[0]
        return interests_BKD

    def _check_signature(self, name: str, *, takes_users: bool) -> None:
        users = [(USERS, "tensor(int64)", 1)] if takes_users else []
        if signature(self._session) != [(ITEMS, "tensor(int64)", 2), *users, (INTERESTS, "tensor(float)", 3)]:
            taken = f"{ITEMS} and {USERS}" if takes_users else ITEMS
            raise BundleError(f"{name}: not a program from int64 {taken} to float32 {INTERESTS}")


class Encoder:
    """Encodes with the bundle's ONNX program or, once `accelerate` has succeeded, with its compiled kernel.

    Thread-safe; each call runs in the thread that makes it.
    """

    def __init__(self, program: Program, *, items: int, max_length: int) -> None:
        self.items = items
        """The last row that the encoder knows."""
        self.engine: Literal["onnx", "kernel"] = "onnx"
        """The engine in use."""
        self.encode_all: EncodeAll = program.encode_all
        """Return interests_BKD of B sessions, given the item rows and the user row of each.

        A session's rows are in order, oldest first, and the last `max_length` are read. If the program knows users, a
        user row is that of the session's user, 0 for an unknown one. Raises ValueError for an empty session of an
        unknown user.
        """
        self._max_length = max_length

    @classmethod
    def load(
        cls, path: Path, *, items: int, dimension: int, interests: int, max_length: int, users: int = 0
    ) -> "Encoder":
        """Load the program and test it on the first and the last of `items` rows, and on the last of `users`.

        Raises BundleError if it cannot be loaded or does not return finite numbers of shape (interests, dimension).
        """
        try:
            program = Program.load(path, max_length=max_length, takes_users=users > 0)
            encoder = cls(program, items=items, max_length=max_length)
            trials = [encoder.encode([1, items] * max_length)]
            if users:
                trials += [encoder.encode([1, items] * max_length, users), encoder.encode([], users)]
        except BundleError:
            raise
        except Exception as error:  # the classes that onnxruntime raises have no common base
            raise BundleError(f"{path.name}: {first_line(error)}") from error
        for trial_KD in trials:
            if trial_KD.shape != (interests, dimension) or not np.isfinite(trial_KD).all():
                raise BundleError(f"{path.name}: gives no finite interests of shape {(interests, dimension)}")
        return encoder

    def encode(self, rows: Sequence[int], user_row: int = 0) -> NDArray[np.float32]:
        """Return interests_KD of one session; see `encode_all`."""
        interests_KD: NDArray[np.float32] = self.encode_all([rows], [user_row])[0]
        return interests_KD

    def accelerate(self, folder: Path, info: KernelInfo, *, sessions: Sequence[Sequence[int]]) -> None:
        """Compile or load the bundle's kernel, check it against the program, and encode with it from now on.

        Args:
            folder: the bundle's folder.
            info: the kernel's entry in the manifest.
            sessions: item rows of sessions for which kernel and program must return the same interests.

        Raises KernelUnavailable if the kernel cannot be loaded or differs; the program then keeps encoding.
        """
        try:
            kernel = Kernel.load(folder, info, items=self.items, max_length=self._max_length)
        except ImportError as error:
            raise KernelUnavailable("numba is not installed") from error
        except BundleError as error:
            raise KernelUnavailable(str(error)) from error
        except Exception as error:  # the classes that numba and LLVM raise have no common base
            raise KernelUnavailable(f"it does not compile: {first_line(error)}") from error
        for rows in sessions:
            expected_KD = self.encode(rows)
            difference = np.abs(kernel.encode_all([rows], [0])[0] - expected_KD).max()
            if not difference <= KERNEL_TOLERANCE * max(1.0, np.abs(expected_KD).max()):
                raise KernelUnavailable(f"it differs from the program by {difference:.1e} on a probe")
        self.encode_all, self.engine = kernel.encode_all, "kernel"
