"""What the compiled kernel of SR-GNN reads, as training writes it and the service maps it.

Dimension key: D embedding, L items of a session, N rows (row 0 pads).
"""

from typing import Any, NamedTuple

ROW = 10
"""Length of a whole row of the table, in D: the vector, 3 for items after it, 3 for those before it, 3 for itself."""


class SRGNNArrays(NamedTuple):
    """The weights of one encoder, in the order in which they lie in the file; matrices are (from, to)."""

    cell_bias: Any
    last: Any
    last_bias: Any
    each: Any
    gate: Any
    hybrid: Any
    hybrid_bias: Any
    places: Any
    node: Any
    """From a vector to the rest of its row, with `node_bias`; None where the table has whole rows."""
    node_bias: Any

    @property
    def of_sessions(self) -> tuple[Any, ...]:
        """Those that a session is encoded with once there are whole rows: all but the last two."""
        return self[:-2]

    @classmethod
    def shapes(cls, dimension: int, length: int, *, tabled: bool) -> "SRGNNArrays":
        """The shape of each; of those that are not there, None."""
        return cls(
            cell_bias=(3 * dimension,),
            last=(dimension, dimension),
            last_bias=(dimension,),
            each=(dimension, dimension),
            gate=(dimension,),
            hybrid=(2 * dimension, dimension),
            hybrid_bias=(dimension,),
            places=(length, dimension),
            node=None if tabled else (dimension, (ROW - 1) * dimension),
            node_bias=None if tabled else ((ROW - 1) * dimension,),
        )
