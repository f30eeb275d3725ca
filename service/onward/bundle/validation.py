"""Readable messages for pydantic's validation errors."""

from pydantic_core import ErrorDetails


def message_of(fault: ErrorDetails) -> str:
    """Return the message of one error: of a ValueError that a validator raised, its own text, else pydantic's."""
    return str(fault["ctx"]["error"]) if fault["type"] == "value_error" else fault["msg"]
