"""What pydantic found wrong, in words."""

from pydantic_core import ErrorDetails


def message_of(fault: ErrorDetails) -> str:
    """Say what is wrong: what a rule of ours says as it says it, anything else as pydantic does."""
    return str(fault["ctx"]["error"]) if fault["type"] == "value_error" else fault["msg"]
