"""Duration fields of requests and settings: a number of seconds, or ISO 8601."""

import re
from datetime import timedelta
from typing import Annotated, Any

from pydantic import AfterValidator, ValidationError, ValidatorFunctionWrapHandler, WrapValidator

_NUMBER = re.compile(r"[0-9]+(\.[0-9]+)?")


def _parse(value: Any, parse_iso_8601: ValidatorFunctionWrapHandler) -> timedelta:
    is_number = isinstance(value, str) and _NUMBER.fullmatch(value)
    try:
        duration: timedelta = parse_iso_8601(float(value) if is_number else value)
    except ValidationError as error:
        raise ValueError("a duration is written in seconds or by ISO 8601, as in 90 or PT1M30S") from error
    if duration < timedelta(0):
        raise ValueError("a duration is 0 or more")
    return duration


def _require_positive(duration: timedelta) -> timedelta:
    if not duration:
        raise ValueError("a duration here is more than 0")
    return duration


Duration = Annotated[timedelta, WrapValidator(_parse)]
PositiveDuration = Annotated[Duration, AfterValidator(_require_positive)]
