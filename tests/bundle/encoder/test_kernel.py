"""The compiled kernel refuses sessions whose lengths do not go with its other arrays."""

from math import prod

import numpy as np
import pytest

from onward.bundle import TABLE, WEIGHTS
from onward.bundle.encoder.kernel import Kernel
from onward.bundle.encoder.kernel_arrays import ROW, SRGNNArrays
from onward.bundle.files.manifest import KernelInfo, KernelPart

pytest.importorskip("numba")

ITEMS, DIMENSION, MAX_LENGTH = 9, 4, 3
ROWS = np.array([1, 2, 3, 4], dtype=np.int64)


@pytest.fixture(scope="module", params=[True, False], ids=["full rows", "vectors alone"])
def kernel(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Kernel:
    folder, tabled = tmp_path_factory.mktemp("kernel"), bool(request.param)
    random = np.random.default_rng(1)
    width = (ROW if tabled else 1) * DIMENSION
    np.save(folder / TABLE, random.normal(size=(ITEMS + 1, width)).astype(np.float32))
    shapes = [shape for shape in SRGNNArrays.shapes(DIMENSION, MAX_LENGTH, tabled=tabled) if shape is not None]
    np.save(folder / WEIGHTS, random.normal(size=sum(map(prod, shapes))).astype(np.float32))
    info = KernelInfo(model="srgnn", parts=(KernelPart(dimension=DIMENSION, tabled=tabled, scale=None),))
    return Kernel.load(folder, info, items=ITEMS, max_length=MAX_LENGTH)


def write(kernel: Kernel, lengths: list[int], shape: tuple[int, int]) -> np.ndarray:
    interests = np.full(shape, np.nan, dtype=np.float32)
    kernel.write(ROWS, np.array(lengths, dtype=np.int64), interests)
    return interests


def test_lengths_that_add_up_to_the_items_are_encoded(kernel: Kernel) -> None:
    assert np.isfinite(write(kernel, [1, 3], (2, DIMENSION))).all()


@pytest.mark.parametrize("lengths", [[4], [0, 1, 3], [1, 3, 0], [-1, 2, 3]])
def test_a_session_that_is_empty_or_too_long_is_refused(kernel: Kernel, lengths: list[int]) -> None:
    with pytest.raises(ValueError, match="a session is of 1 to max_length items"):
        write(kernel, lengths, (len(lengths), DIMENSION))


@pytest.mark.parametrize("lengths", [[], [3], [2, 3]])
def test_lengths_that_do_not_add_up_to_the_items_are_refused(kernel: Kernel, lengths: list[int]) -> None:
    with pytest.raises(ValueError, match="the lengths do not add up to the number of items"):
        write(kernel, lengths, (len(lengths), DIMENSION))


@pytest.mark.parametrize("shape", [(1, DIMENSION), (3, DIMENSION), (2, DIMENSION - 1)])
def test_interests_of_another_shape_are_refused(kernel: Kernel, shape: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="interests do not have a row for each session and D columns"):
        write(kernel, [1, 3], shape)
