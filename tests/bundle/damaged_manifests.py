"""Load a bundle with thousands of damaged manifests, in a process of little memory: `python -m ... FOLDER`.

Each must load or be refused with a BundleError; any other exception ends the process with its traceback.
"""

import json
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onward.bundle import MANIFEST, Bundle, BundleError

EXAMPLES = 400
EXTRA_BYTES = 512 * 2**20
"""Address space that loading may take."""

huge = st.integers(5, 400).map(lambda digits: 10**digits)
numbers = st.one_of(
    st.integers(-3, 3), st.integers(-(2**70), 2**70), huge, st.sampled_from([2**31, 2**32, 2**53, 10**9])
)
scalars = st.one_of(numbers, st.floats(), st.text(max_size=20), st.booleans(), st.none())
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner))


def places(value: Any, *path: Any) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every part of a JSON document but the whole."""
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, part in parts:
        yield (*path, name)
        yield from places(part, *path, name)


def damaged(document: Any, path: tuple[Any, ...], value: Any, *, deletes: bool) -> Any:
    """Return the document with one part replaced or deleted."""
    copy = json.loads(json.dumps(document))
    holder = copy
    for name in path[:-1]:
        holder = holder[name]
    if deletes:
        del holder[path[-1]]
    else:
        holder[path[-1]] = value
    return copy


def main(folder: Path) -> None:
    """Damage the manifest in `folder` again and again."""
    document = json.loads((folder / MANIFEST).read_text())
    Bundle.load(folder)  # imports and maps what every load needs
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + EXTRA_BYTES, used + EXTRA_BYTES))
    all_places = sorted(places(document), key=lambda path: (len(path), str(path)))
    by_depth = st.integers(1, 5).flatmap(
        lambda depth: st.sampled_from([path for path in all_places if len(path) <= depth])
    )

    @settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(by_depth, values, st.booleans())
    def is_loaded_or_refused(path: tuple[Any, ...], value: Any, deletes: bool) -> None:
        (folder / MANIFEST).write_text(json.dumps(damaged(document, path, value, deletes=deletes)))
        try:
            Bundle.load(folder)
        except BundleError as error:
            if "\n" in str(error):
                raise ValueError("more than one line") from error

    is_loaded_or_refused()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
