"""SR-GNN with one propagation step, compiled by numba. Importing this module compiles it, or loads compiled code.

Dimension key: B sessions, A items of all of them, L items of one, M distinct ones, E edges between these, D embedding,
T numbers of a table row.

Source: Wu et al., "Session-based Recommendation with Graph Neural Networks", AAAI 2019; the precomputed table of items:
`onward.training.models.folded_srgnn`. The code consists of plain loops over numbers, which LLVM turns into vector
instructions; tanh is a quotient of polynomials for the same reason.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from onward.bundle.encoder.machine_code import compiled, njit, types

_float = np.float32
_ZERO, _HALF, _ONE = _float(0), _float(0.5), _float(1)
_SMALLEST = _float(1e-24)

# Minimax coefficients of tanh over +-_BOUND, where it rounds to +-1 in float32: odd powers 13 to 1 over even powers 6
# to 0. Source: Eigen, `ptanh_float`; its error is a few units in the last place.
_BOUND = _float(7.90531110763549805)
_P13, _P11 = _float(-2.76076847742355e-16), _float(2.00018790482477e-13)
_P9, _P7 = _float(-8.60467152213735e-11), _float(5.12229709037114e-08)
_P5, _P3, _P1 = _float(1.48572235717979e-05), _float(6.37261928875436e-04), _float(4.89352455891786e-03)
_Q6, _Q4 = _float(1.19825839466702e-06), _float(1.18534705686654e-04)
_Q2, _Q0 = _float(2.26843463243900e-03), _float(4.89352518554385e-03)

_OPTIONS: dict[str, Any] = {
    "fastmath": {"contract", "reassoc", "nsz", "arcp"},  # sums in any order; NaN and infinity keep their meaning
    "error_model": "numpy",
    "nogil": True,
}
_VECTOR = types.Array(types.float32, 1, "C", readonly=True)
_MATRIX = types.Array(types.float32, 2, "C", readonly=True)
_ROWS = types.Array(types.int64, 1, "C")
_SIGNATURE = types.void(
    _ROWS,  # items_A
    _ROWS,  # lengths_B
    _ROWS,  # table_rows_A
    _MATRIX,  # table
    types.int64,  # start
    _VECTOR,  # weights
    types.int64,  # size
    types.float32,  # scale
    types.int64,  # last_item
    types.Array(types.float32, 2, "C"),  # interests
    types.int64,  # first_column
)


def _tanh(x: Any) -> Any:
    x = min(max(x, -_BOUND), _BOUND)
    q = x * x
    p = _P13 * q + _P11
    p = p * q + _P9
    p = p * q + _P7
    p = p * q + _P5
    p = p * q + _P3
    p = p * q + _P1
    r = _Q6 * q + _Q4
    r = r * q + _Q2
    r = r * q + _Q0
    return x * p / r


tanh = njit(**_OPTIONS)(_tanh)


def _sigmoid(x: Any) -> Any:
    return _HALF + _HALF * tanh(_HALF * x)


sigmoid = njit(**_OPTIONS)(_sigmoid)


def _nodes(items_L: Any) -> Any:
    """Return the first position of each distinct item, (M,), and the node number of each position, (L,)."""
    length = len(items_L)
    first = np.empty(length, np.int64)
    node_L = np.empty(length, np.int64)
    count = 0
    for place in range(length):
        node = 0
        while node < count and items_L[first[node]] != items_L[place]:
            node += 1
        if node == count:
            first[count] = place
            count += 1
        node_L[place] = node
    return first[:count], node_L


nodes = njit(**_OPTIONS)(_nodes)


def _edges(node_L: Any, count: int) -> Any:
    """Return the distinct transitions between nodes: sources (E,), targets (E,), in-degrees and out-degrees (M,)."""
    seen = np.zeros((count, count), np.bool_)
    source, target = np.empty(len(node_L), np.int64), np.empty(len(node_L), np.int64)
    into, out_of = np.zeros(count, np.float32), np.zeros(count, np.float32)
    edges = 0
    for place in range(len(node_L) - 1):
        before, after = node_L[place], node_L[place + 1]
        if not seen[before, after]:
            seen[before, after] = True
            source[edges], target[edges] = before, after
            out_of[before] += _ONE
            into[after] += _ONE
            edges += 1
    return source[:edges], target[:edges], into, out_of


edges = njit(**_OPTIONS)(_edges)


def _step(first_M: Any, node_L: Any, table_rows_L: Any, table: Any, start: int, cell_bias: Any, size: int) -> Any:
    """Return the node states (M, D) after the propagation step, padded with zero rows to a multiple of 4."""
    source, target, into, out_of = edges(node_L, len(first_M))
    messages = np.empty((len(first_M), 3 * size), np.float32)
    for node in range(len(first_M)):
        for k in range(3 * size):
            messages[node, k] = cell_bias[k]
    for edge in range(len(source)):
        before, after = source[edge], target[edge]
        of_before = table[table_rows_L[first_M[before]], start + size : start + 4 * size]
        of_after = table[table_rows_L[first_M[after]], start + 4 * size : start + 7 * size]
        into_share, out_share = _ONE / into[after], _ONE / out_of[before]
        to_after, to_before = messages[after], messages[before]
        for k in range(3 * size):
            to_after[k] += into_share * of_before[k]
        for k in range(3 * size):
            to_before[k] += out_share * of_after[k]
    states = np.zeros((len(first_M) + -len(first_M) % 4, size), np.float32)
    for node in range(len(first_M)):
        row = table[table_rows_L[first_M[node]], start : start + 10 * size]
        message = messages[node]
        for k in range(size):
            reset = sigmoid(message[k] + row[7 * size + k])
            keep = sigmoid(message[size + k] + row[8 * size + k])
            new = tanh(message[2 * size + k] + reset * row[9 * size + k])
            states[node, k] = new + keep * (row[k] - new)
    return states


step = njit(**_OPTIONS)(_step)


def _product(left: Any, right: Any) -> Any:
    """Return left @ right, in blocks of 4 x 4 numbers of `left`, whose number of rows is a multiple of 4."""
    rows, inner = left.shape
    columns = right.shape[1]
    result = np.zeros((rows, columns), np.float32)
    whole = inner - inner % 4
    for row in range(0, rows, 4):
        to_0, to_1, to_2, to_3 = result[row], result[row + 1], result[row + 2], result[row + 3]
        of_0, of_1, of_2, of_3 = left[row], left[row + 1], left[row + 2], left[row + 3]
        for k in range(0, whole, 4):
            a_0, b_0, c_0, d_0 = of_0[k], of_0[k + 1], of_0[k + 2], of_0[k + 3]
            a_1, b_1, c_1, d_1 = of_1[k], of_1[k + 1], of_1[k + 2], of_1[k + 3]
            a_2, b_2, c_2, d_2 = of_2[k], of_2[k + 1], of_2[k + 2], of_2[k + 3]
            a_3, b_3, c_3, d_3 = of_3[k], of_3[k + 1], of_3[k + 2], of_3[k + 3]
            by_a, by_b, by_c, by_d = right[k], right[k + 1], right[k + 2], right[k + 3]
            for j in range(columns):
                a, b, c, d = by_a[j], by_b[j], by_c[j], by_d[j]
                to_0[j] += a_0 * a + b_0 * b + c_0 * c + d_0 * d
                to_1[j] += a_1 * a + b_1 * b + c_1 * c + d_1 * d
                to_2[j] += a_2 * a + b_2 * b + c_2 * c + d_2 * d
                to_3[j] += a_3 * a + b_3 * b + c_3 * c + d_3 * d
        for k in range(whole, inner):
            for j in range(columns):
                to_0[j] += of_0[k] * right[k, j]
                to_1[j] += of_1[k] * right[k, j]
                to_2[j] += of_2[k] * right[k, j]
                to_3[j] += of_3[k] * right[k, j]
    return result


product = njit(**_OPTIONS)(_product)


def _add_product(result: Any, vector: Any, matrix: Any) -> None:
    """Add vector @ matrix to `result`, four numbers of `vector` at a time."""
    whole = len(vector) - len(vector) % 4
    for k in range(0, whole, 4):
        a, b, c, d = vector[k], vector[k + 1], vector[k + 2], vector[k + 3]
        by_a, by_b, by_c, by_d = matrix[k], matrix[k + 1], matrix[k + 2], matrix[k + 3]
        for j in range(len(result)):
            result[j] += a * by_a[j] + b * by_b[j] + c * by_c[j] + d * by_d[j]
    for k in range(whole, len(vector)):
        for j in range(len(result)):
            result[j] += vector[k] * matrix[k, j]


add_product = njit(**_OPTIONS)(_add_product)


def _encode(
    items_A: NDArray[np.int64],
    lengths_B: NDArray[np.int64],
    table_rows_A: NDArray[np.int64],
    table: NDArray[np.float32],
    start: int,
    weights: NDArray[np.float32],
    size: int,
    scale: np.float32,
    last_item: int,
    interests: NDArray[np.float32],
    first_column: int,
) -> None:
    """Write the interests of B sessions of 1..P items each into D columns of `interests`.

    Args:
        items_A: catalog rows of the items, session after session, oldest first.
        lengths_B: number of items of each session.
        table_rows_A: the table row of each item.
        table: full rows; this encoder reads 10 D numbers of each from column `start`; see `kernel_arrays.ROW`.
        start: see `table`.
        weights: the arrays of `SRGNNArrays.of_sessions`, flat, followed by `positions` (P, D) times `each`.
        size: D.
        scale: the length that an interest is scaled to, 0 to leave it as it is.
        last_item: the last row of the catalog.
        interests: B rows; D columns from `first_column` on are written.
        first_column: see `interests`.

    Raises IndexError for an item outside 1..`last_item`, ValueError for lengths that do not go with the other arrays.
    """
    for item in items_A:
        if item < 1 or item > last_item:
            raise IndexError("an item that is not one of the catalog")
    if len(interests) != len(lengths_B) or interests.shape[1] < first_column + size:
        raise ValueError("interests do not have a row for each session and D columns")
    # Split the flat weights into their arrays.
    area = size * size
    cell_bias, begin = weights[: 3 * size], 3 * size
    last, begin = weights[begin : begin + area].reshape((size, size)), begin + area
    last_bias, begin = weights[begin : begin + size], begin + size
    each, begin = weights[begin : begin + area].reshape((size, size)), begin + area
    gate, begin = weights[begin : begin + size], begin + size
    hybrid, begin = weights[begin : begin + 2 * area].reshape((2 * size, size)), begin + 2 * area
    hybrid_bias, begin = weights[begin : begin + size], begin + size
    count = (len(weights) - begin) // (2 * size)
    positions = weights[begin : begin + count * size].reshape((count, size))
    attended_positions = weights[begin + count * size :].reshape((count, size))
    total = 0
    for length in lengths_B:
        if length < 1 or length > count:
            raise ValueError("a session is of 1 to max_length items")
        total += length
    if total != len(items_A) or total != len(table_rows_A):
        raise ValueError("the lengths do not add up to the number of items")
    begin = 0
    for session in range(len(lengths_B)):
        length = lengths_B[session]
        items_L, table_rows_L = items_A[begin : begin + length], table_rows_A[begin : begin + length]
        interest_D = interests[session, first_column : first_column + size]
        begin += length
        # The node states, and the query of the attention: the last item.
        first_M, node_L = nodes(items_L)
        states = step(first_M, node_L, table_rows_L, table, start, cell_bias, size)
        attended = product(states, each)
        last_D, query_D = np.empty(size, np.float32), np.empty(size, np.float32)
        for k in range(size):
            last_D[k] = states[node_L[length - 1], k] + positions[len(positions) - 1, k]
            query_D[k] = last_bias[k]
        add_product(query_D, last_D, last)
        # Soft attention over the positions.
        global_D = np.zeros(size, np.float32)
        for place in range(length):
            node, position = node_L[place], len(positions) - length + place
            attended_D, attended_position_D = attended[node], attended_positions[position]
            state_D, position_D = states[node], positions[position]
            share = _ZERO
            for k in range(size):
                share += gate[k] * sigmoid(query_D[k] + attended_D[k] + attended_position_D[k])
            for k in range(size):
                global_D[k] += share * (state_D[k] + position_D[k])
        # The interest: a linear map of attention and last item, scaled if scores are cosines.
        for k in range(size):
            interest_D[k] = hybrid_bias[k]
        add_product(interest_D, global_D, hybrid[:size])
        add_product(interest_D, last_D, hybrid[size:])
        if scale > _ZERO:
            square = _ZERO
            for k in range(size):
                square += interest_D[k] * interest_D[k]
            factor = scale / np.sqrt(max(square, _SMALLEST))
            for k in range(size):
                interest_D[k] *= factor


encode = compiled(_SIGNATURE, _encode, **_OPTIONS)
