"""Print a digest of which texts are ids, to compare Pythons with different Unicode tables. No imports but the rule's.

Run as `python id_verdicts.py PATH_OF_id_rule.py`.
"""

import hashlib
import importlib.util
import sys
from collections.abc import Callable, Iterator

COMPOSED, COMBINING = range(0x00C0, 0x0250), range(0x0300, 0x0370)
SCRIPTS_SINCE_3_2 = [range(0x1B00, 0x1B80), range(0x11000, 0x11F60), range(0x105C0, 0x10600), range(0x16D40, 0x16D80)]
NEW_MARKS = [0x0358, 0x08CA, 0x1ACF, 0x1DFA, 0x1E08F, 0x10EFD, 0x113CE, 0x1E6E3]
EMOJI = [0x1F6DC, 0x1FA89, 0x1FAE9, 0x1F9FF, 0x1FACD, 0x200D, 0xFE0F, 0x200C]


def texts() -> Iterator[str]:
    """Yield code points between letters, and texts of marks and letters of all ages in any order."""
    for code in (*range(0x20000), *range(0x20000, 0x110000, 97), *range(0x2FFFE, 0x110000, 0x10000)):
        yield f"a{chr(code)}b"
    special = [*COMBINING, *NEW_MARKS, *EMOJI]
    for code in [*range(0x0041, 0x005B), *COMPOSED, *(code for script in SCRIPTS_SINCE_3_2 for code in script)]:
        for mark in special[:: 1 if code < 0x0250 else 7]:
            yield chr(code) + chr(mark)
    for script in SCRIPTS_SINCE_3_2:
        for code in script:
            for other in script[::41]:
                yield chr(code) + chr(other)
    state = 1
    for _ in range(50_000):  # a linear congruential generator: random.Random may change between versions
        text = ""
        for _ in range(5):
            state = (state * 6_364_136_223_846_793_005 + 1_442_695_040_888_963_407) % 2**64
            text += chr(
                (0x61, special[(state >> 40) % len(special)], 0xAC00 + (state >> 40) % 0x2BA4)[(state >> 33) % 3]
            )
        yield text


def digest(id_fault: Callable[[str], "str | None"]) -> str:
    """Return a digest of what is wrong with each text."""
    summed = hashlib.sha256()
    for text in texts():
        summed.update(f"{id_fault(text)}\n".encode())
    return summed.hexdigest()[:16]


if __name__ == "__main__":
    spec = importlib.util.spec_from_file_location("id_rule", sys.argv[1])
    assert spec is not None and spec.loader is not None  # noqa: PT018
    id_rule = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(id_rule)
    sys.stdout.write(digest(id_rule.id_fault))
