"""Layout of the arrays that the compiled SR-GNN kernel reads: training writes them, the service maps them.

Dimension key: D embedding, L items of a session, N rows (row 0 pads).
"""

from typing import Any, NamedTuple

ROW = 10
"""Length of a full table row in multiples of D: the item's vector, 3 for items after it, 3 for items before it, 3 for
itself."""


class SRGNNArrays(NamedTuple):
    """The weights of one encoder, in the order in which the file stores them; matrices are (from, to)."""

    cell_bias: Any
    """The bias of messages between nodes: D numbers each for reset gate, update gate and candidate state."""
    last: Any
    """Attention: the matrix that the last item is multiplied by, with `last_bias`."""
    last_bias: Any
    each: Any
    """Attention: the matrix that each item is multiplied by."""
    gate: Any
    """Attention: the vector that turns the sigmoid of the sum of both into a weight."""
    hybrid: Any
    """The matrix from attention and last item to the interest, with `hybrid_bias`."""
    hybrid_bias: Any
    positions: Any
    """Position embeddings, the most recent position last; zeros if the encoder has none."""
    node: Any
    """The matrix from an item's vector to the rest of its row, with `node_bias`; None if the table has full rows."""
    node_bias: Any

    @property
    def of_sessions(self) -> tuple[Any, ...]:
        """The weights that encode a session from full rows: all but the last two."""
        return self[:-2]

    @classmethod
    def shapes(cls, dimension: int, length: int, *, tabled: bool) -> "SRGNNArrays":
        """Return the shape of each array, None for an array that the file does not have."""
        return cls(
            cell_bias=(3 * dimension,),
            last=(dimension, dimension),
            last_bias=(dimension,),
            each=(dimension, dimension),
            gate=(dimension,),
            hybrid=(2 * dimension, dimension),
            hybrid_bias=(dimension,),
            positions=(length, dimension),
            node=None if tabled else (dimension, (ROW - 1) * dimension),
            node_bias=None if tabled else ((ROW - 1) * dimension,),
        )
