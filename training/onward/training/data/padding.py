"""The row that stands left of a session shorter than its batch; no item has it."""

PADDING = 0
