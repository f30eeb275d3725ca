"""What became of an item since its bundle was exported."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class ItemChange:
    """One item's difference to a bundle; for an item that the bundle does not have, all that is known of it.

    Dimension key: D embedding.
    """

    item_id: str
    sequence: int
    """Larger for what changed later. A bundle that was rebuilt names the last one that it holds already."""
    attributes: Mapping[str, Any] = field(default_factory=dict)
    """Attributes that differ; None removes one."""
    available: bool | None = None
    """None leaves it as it is; a new item is available."""
    deleted: bool = False
    vector_D: NDArray[np.float32] | None = None
    """Of a new item; without one it is known but not recommendable yet."""
