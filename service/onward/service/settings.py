"""The settings of a deployment, read from environment variables."""

import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    DirectoryPath,
    Field,
    PlainSerializer,
    SecretStr,
    ValidationError,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from onward.bundle.validation import message_of
from onward.service.duration import Duration, PositiveDuration
from onward.service.rate_limit import RateLimit
from onward.service.redis_client import SCHEMES, Address
from onward.service.sessions import MAX_EVENT_AGE, EventWeights

IN_MEMORY = "memory://"
_DIGEST = re.compile(r"[0-9a-f]{64}")
STORE_SCHEMES = (*SCHEMES, IN_MEMORY)


def _store_url(url: SecretStr) -> SecretStr:
    if not url.get_secret_value().startswith(STORE_SCHEMES):
        raise ValueError(f"begins with one of {', '.join(STORE_SCHEMES)}")
    if url.get_secret_value() != IN_MEMORY:
        Address.parse(url.get_secret_value())
    return url


def _digests(value: Any) -> Any:
    """Parse the digests of an environment variable, which are separated by commas."""
    if not isinstance(value, str):
        return value
    digests = tuple(part.strip().lower() for part in value.split(",")) if value.strip() else ()
    if not all(_DIGEST.fullmatch(digest) for digest in digests):
        raise ValueError("SHA-256 digests of keys, 64 hexadecimal digits each, comma between: see `onward-service key`")
    return digests


def _rate_limit(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    return RateLimit.parse(value.strip()) if value.strip() else None


def _rate_limit_text(limit: RateLimit | None) -> str:
    return "" if limit is None else str(limit)


def _event_weights(value: Any) -> Any:
    return EventWeights.parse(value) if isinstance(value, str) else value


def _none_if_empty(value: Any) -> Any:
    """Return None for the text of an empty environment variable."""
    return None if value == "" else value


def _path_text(path: Path | None) -> str:
    return "" if path is None else str(path)


class Settings(BaseSettings):
    """The SERVICE_* variables and REDIS_URL, read once; an unusable value stops the start.

    A duration is written in seconds (0.1) or by ISO 8601 (PT30M).
    """

    model_config = SettingsConfigDict(env_prefix="SERVICE_", frozen=True, populate_by_name=True)

    bundles: DirectoryPath = Field(description="Folder of bundles; its `current` link is the one served.")
    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: int = Field(default=8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    workers: int = Field(default=1, ge=1, le=256, description="Processes; one for each core.")
    redis_url: Annotated[SecretStr, AfterValidator(_store_url)] | None = Field(
        default=None,
        validation_alias="REDIS_URL",
        description="Session store: redis:// or unix://, or redis+sentinel://HOST:PORT,HOST:PORT/MASTER/0, or "
        "redis+cluster://HOST:PORT,HOST:PORT; rediss in place of redis encrypts; memory:// for this process alone.",
    )
    store_timeout: PositiveDuration = Field(
        default=timedelta(seconds=0.1), description="The longest that an answer waits for the session store."
    )
    session_ttl: PositiveDuration = Field(default=timedelta(minutes=30), description="Idle time that ends a session.")
    session_length: int = Field(default=50, ge=1, le=1000, description="Events of a session that are kept.")
    answer_ttl: Duration = Field(
        default=timedelta(minutes=30),
        description="How long an answer is kept, for its next pages, its explanation and the events that it led to; "
        "0 keeps none.",
    )
    event_log: Annotated[DirectoryPath | None, BeforeValidator(_none_if_empty), PlainSerializer(_path_text)] = Field(
        default=None,
        description="Folder to write every event and answer to, as JSON lines that `onward-training prepare` reads; "
        "none if it is not set. Nothing there is ever deleted.",
    )
    popularity_half_life: PositiveDuration = Field(
        default=timedelta(days=3), description="Time after which an event counts half as much for what is popular."
    )
    event_weights: Annotated[EventWeights, NoDecode, BeforeValidator(_event_weights), PlainSerializer(str)] = Field(
        default=EventWeights(),
        description="Weights of event types, as in share=2,skip=-1: above 0 the item enters the session, below 0 it is "
        "hidden from its answers, 0 does neither. By default view 1, cart 3, purchase 5, like 2, impression 0, "
        "dislike -1, any other 1.",
    )
    max_event_age: PositiveDuration = Field(
        default=MAX_EVENT_AGE, description="How long after it happened an event is still accepted."
    )
    reload_interval: PositiveDuration = Field(
        default=timedelta(seconds=1), description="Time between two checks of the `current` link."
    )
    shutdown_timeout: PositiveDuration = Field(
        default=timedelta(seconds=30), description="The longest that a stop waits for requests in flight."
    )
    max_in_flight: int = Field(
        default=256,
        ge=1,
        description="Requests that a worker handles at once; any more are refused at once (503), none is queued.",
    )
    body_timeout: PositiveDuration = Field(
        default=timedelta(seconds=10), description="The longest that a request's body may take to arrive (408)."
    )
    api_keys: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_digests), PlainSerializer(",".join)] = Field(
        default=(), description="SHA-256 digests of the keys that callers need (401, 403); empty admits all callers."
    )
    rate_limit: Annotated[
        RateLimit | None, NoDecode, BeforeValidator(_rate_limit), PlainSerializer(_rate_limit_text)
    ] = Field(
        default=None,
        description="Requests that a caller may make, as in 100/second, by key or else by client address (429). Each "
        "worker counts by itself, so W workers allow up to W times as many. Behind a proxy that is not on this "
        "machine, FORWARDED_ALLOW_IPS must name it, or all callers have its address.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="debug logs every request."
    )

    def environment(self) -> dict[str, str]:
        """Write the settings as the variables that they are read from, for worker processes."""
        values = self.model_dump(mode="json", exclude={"redis_url"})
        variables = {f"SERVICE_{name.upper()}": str(value) for name, value in values.items()}
        return variables if self.redis_url is None else variables | {"REDIS_URL": self.redis_url.get_secret_value()}


def describe(error: ValidationError) -> str:
    """Return one line that names the unusable setting, without its value, which may be a secret."""
    first = error.errors(include_url=False, include_input=False)[0]
    name = str(first["loc"][0]) if first["loc"] else "settings"
    variable = name if name == "REDIS_URL" else f"SERVICE_{name.upper()}"
    return f"{variable}: {message_of(first)}"
