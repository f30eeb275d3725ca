"""What became of an item since its bundle was exported."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class ItemChange:
    """One item's difference to a bundle; for an item that the bundle does not have, all that is known of it.

    A later change of the item takes the place of this one, so it repeats what still differs.
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

    @property
    def edits(self) -> bool:
        """Whether an attribute differs, `available` among them."""
        return bool(self.attributes) or self.available is not None

    @property
    def patch(self) -> Mapping[str, Any]:
        """Attributes that differ, of which `available` agrees with the availability; None removes one."""
        return self.attributes if self.available is None else {**self.attributes, "available": self.available}

    @property
    def shown(self) -> bool:
        """Whether a new item may be shown."""
        return self.vector_D is not None and self.leaves_available(True)

    def leaves_available(self, before: bool) -> bool:
        """Whether an item that was available or not is so now."""
        return not self.deleted and (before if self.available is None else self.available)

    def applied_to(self, before: Mapping[str, Any]) -> dict[str, Any]:
        """The attributes of an item that had these."""
        return {name: value for name, value in {**before, **self.patch}.items() if value is not None}
