"""Changes of items since their bundle was exported."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class ItemChange:
    """How one item differs from its bundle; for a new item, all that is known about it.

    A later change of the item replaces this one, so it must repeat all differences. Dimension key: D embedding.
    """

    item_id: str
    sequence: int
    """Larger for later changes. A rebuilt bundle records the last one that it already includes."""
    attributes: Mapping[str, Any] = field(default_factory=dict)
    """Attributes that differ; None removes one."""
    available: bool | None = None
    """None keeps the bundle's availability; a new item is then available."""
    deleted: bool = False
    vector_D: NDArray[np.float32] | None = None
    """The vector of a new item; without one it is known but not recommendable yet."""

    @property
    def edits(self) -> bool:
        """Whether an attribute differs, including `available`."""
        return bool(self.attributes) or self.available is not None

    @property
    def patch(self) -> Mapping[str, Any]:
        """The attributes that differ, with `available` set to the changed availability; None removes an attribute."""
        return self.attributes if self.available is None else {**self.attributes, "available": self.available}

    @property
    def shown(self) -> bool:
        """Whether a new item may be shown."""
        return self.vector_D is not None and self.leaves_available(True)

    def leaves_available(self, before: bool) -> bool:
        """Return whether the item is available now, given whether it was available before the change."""
        return not self.deleted and (before if self.available is None else self.available)

    def applied_to(self, before: Mapping[str, Any]) -> dict[str, Any]:
        """Return the attributes after the change, given those before it."""
        return {name: value for name, value in {**before, **self.patch}.items() if value is not None}
