"""Ids for property tests: any text that the rule allows, more often with what has a meaning somewhere on its way."""

from hypothesis import strategies as st

from onward.bundle import is_valid_id

PARTS = [
    *" /%+&=?#;:,.\"'\\|{}[]<>~^`$*-_",
    "%2F",
    "%25",
    "\u00a0",
    "\u3000",
    "\u200d",
    "\u200c",
    "\u202e",
    "\u00e9",
    "\u0358",
    "\U0001f468\u200d\U0001f469",
    "\U0001fae9",
    "\U0001faef",
    "\U0010fffd",
    ":merge",
    "similar",
    "null",
    "NA",
    "007",
    "1e5",
    "x",
]
DOTS = (".", "..")
"""Ids that no path can hold: clients remove them from URLs."""

ids = (
    (st.lists(st.sampled_from(PARTS) | st.characters(), min_size=1, max_size=12).map("".join))
    .map(lambda text: text[:128])
    .filter(is_valid_id)
)
