"""The notation of rate limits."""

import pytest

from onward.service.rate_limit import RateLimit


def test_a_limit_is_parsed_and_written() -> None:
    assert str(RateLimit.parse("100/second")) == "100/second"
    assert RateLimit.parse("5/minute").period_s == 60


@pytest.mark.parametrize("text", ["", "100", "0/second", "-1/second", "1.5/second", "1/fortnight", "1/second;2/day"])
def test_an_invalid_limit_is_rejected(text: str) -> None:
    with pytest.raises(ValueError, match="as in 100/second"):
        RateLimit.parse(text)
