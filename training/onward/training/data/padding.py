"""The padding row: it fills a batch to the left of shorter sessions, and no item has it."""

PADDING = 0
