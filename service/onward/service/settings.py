"""The settings of a deployment, read from environment variables."""

import difflib
import re
from collections.abc import Iterable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    PlainValidator,
    PositiveInt,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from onward.bundle.storage import Address as StorageAddress
from onward.bundle.storage import local_path, place_of
from onward.bundle.validation import message_of
from onward.service.duration import Duration, PositiveDuration
from onward.service.rate_limit import RateLimit
from onward.service.redis_client import SCHEMES, Address
from onward.service.sessions import MAX_EVENT_AGE, EventWeights

PREFIX = "SERVICE_"
IGNORE = "SERVICE_IGNORE"
"""Names of variables that begin like settings and are none, separated by commas."""
IN_MEMORY = "memory://"
MIN_KEY_LENGTH = 16
_OF_KUBERNETES = re.compile(
    r"SERVICE_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)=.*"
    r"|SERVICE_PORT=(tcp|udp|sctp)://.*"
)
_OF_REGISTRIES = re.compile(r"SERVICE_(\d+_)?(NAME|TAGS|ID|ATTRS|REGION|CHECK_\w+)")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_ORIGIN = re.compile(r"https?://[a-z0-9.\-\[\]:]+")
_ROOT_PATH = re.compile(r"(/[A-Za-z0-9._~-]+)+")
STORE_SCHEMES = (*SCHEMES, IN_MEMORY)
Access = Literal["open", "key", "off"]


def _require_store_url(url: SecretStr) -> SecretStr:
    if not url.get_secret_value().startswith(STORE_SCHEMES):
        raise ValueError(f"must begin with one of {', '.join(STORE_SCHEMES)}")
    if url.get_secret_value() != IN_MEMORY:
        Address.parse(url.get_secret_value())
    return url


def _parse_digests(value: Any) -> Any:
    """Parse a comma-separated list of digests. Raises ValueError if one is not a SHA-256 digest."""
    if not isinstance(value, str):
        return value
    digests = tuple(part.strip().lower() for part in value.split(",")) if value.strip() else ()
    if not all(_DIGEST.fullmatch(digest) for digest in digests):
        raise ValueError(
            "SHA-256 digests of keys, 64 hexadecimal digits each, separated by commas: see `onward-service key`"
        )
    return digests


def _parse_rate_limit(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    return RateLimit.parse(value.strip()) if value.strip() else None


def _rate_limit_text(limit: RateLimit | None) -> str:
    return "" if limit is None else str(limit)


def _parse_origins(value: Any) -> Any:
    """Parse a comma-separated list of origins. Raises ValueError if one is not an origin."""
    if not isinstance(value, str):
        return value
    origins = tuple(part.strip() for part in value.split(",")) if value.strip() else ()
    if not all(origin == "*" or _ORIGIN.fullmatch(origin) for origin in origins):
        raise ValueError("origins as a browser sends them, as in https://shop.example:8443, without a path; or *")
    return origins


def _require_root_path(path: str) -> str:
    if path and not _ROOT_PATH.fullmatch(path):
        raise ValueError("a path that begins with a slash and does not end with one, as in /recommender")
    return path


def _parse_event_weights(value: Any) -> Any:
    return EventWeights.parse(value) if isinstance(value, str) else value


def _none_if_empty(value: Any) -> Any:
    """Convert the empty text of an environment variable to None."""
    return None if value == "" else value


def _text_or_empty(value: timedelta | int | None) -> str:
    return "" if value is None else str(value.total_seconds() if isinstance(value, timedelta) else value)


EMPTY_IF_NONE = PlainSerializer(_text_or_empty)


def _local_path(value: Any) -> Any:
    """Parse a path of this machine; the empty text of an environment variable is None. Raises ValueError."""
    return local_path(value) if isinstance(value, (str, Path)) and value != "" else _none_if_empty(value)


def _folder_or_address(value: Any) -> Path | StorageAddress:
    """Parse the path of a folder that exists, or an address. Raises ValueError."""
    place = place_of(value)
    if isinstance(place, Path) and not place.is_dir():
        raise ValueError("Path does not point to a directory")
    return place


def _optional_folder_or_address(value: Any) -> Path | StorageAddress | None:
    return None if value is None or value == "" else _folder_or_address(value)


def _require_folder(path: Path | None) -> Path | None:
    if path is not None and not path.is_dir():
        raise ValueError("Path does not point to a directory")
    return path


def _place_text(place: Path | StorageAddress | None) -> str:
    return "" if place is None else str(place)


LOCAL_PATH = BeforeValidator(_local_path)


def _require_long_key(key: SecretStr | None) -> SecretStr | None:
    if key is not None and len(key.get_secret_value()) < MIN_KEY_LENGTH:
        raise ValueError(f"must have {MIN_KEY_LENGTH} or more characters, as of `openssl rand -hex 32`")
    return key


def _secret(value: SecretStr | None) -> str:
    return "" if value is None else value.get_secret_value()


def _path_text(path: Path | None) -> str:
    return "" if path is None else str(path)


class SecretFileError(Exception):
    """A secret cannot be read from its file: the message says in one line why."""


class UnknownSetting(Exception):
    """A SERVICE_* variable is not a setting: the message says in one line what to do."""


EVENT_LOG_OPTIONS = ("event_log_spool", "event_log_max_age", "event_log_max_bytes", "event_log_key", "event_log_sync")


class Settings(BaseSettings):
    """The SERVICE_* variables and REDIS_URL, read once; the service does not start with an invalid value.

    A duration is a number of seconds (0.1) or in ISO 8601 format (PT30M).
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, populate_by_name=True)

    bundles: Annotated[Path | StorageAddress, PlainValidator(_folder_or_address), PlainSerializer(str)] = Field(
        description="Folder of bundles; its `current` link is the one served. Or the folder of a single bundle. Or an "
        "address, such as s3://shop/bundles, which bundles are pulled from once every SERVICE_RELOAD_INTERVAL."
    )
    pull_into: Annotated[Path | None, LOCAL_PATH, PlainSerializer(_path_text)] = Field(
        default=None,
        description="Folder that bundles of an address are pulled into, of this service alone; by default a temporary "
        "one, which is empty after a restart. The last 3 stay.",
    )
    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: int = Field(default=8000, ge=0, le=65535, description="Port to listen on; 0 chooses a free one.")
    uds: Annotated[Path | None, LOCAL_PATH, PlainSerializer(_path_text)] = Field(
        default=None, description="Path of a unix socket to listen on, instead of host and port."
    )
    root_path: Annotated[str, AfterValidator(_require_root_path)] = Field(
        default="", description="Prefix that a proxy removes from paths, as in /recommender; /docs needs it."
    )
    workers: int = Field(default=1, ge=1, le=256, description="Number of worker processes; use one per core.")
    redis_url: Annotated[SecretStr, AfterValidator(_require_store_url)] | None = Field(
        default=None,
        validation_alias="REDIS_URL",
        description="Session store: redis:// or unix://, or redis+sentinel://HOST:PORT,HOST:PORT/MASTER/0, or "
        "redis+cluster://HOST:PORT,HOST:PORT; rediss in place of redis encrypts; memory:// for this process alone.",
    )
    store_timeout: PositiveDuration = Field(
        default=timedelta(seconds=0.1), description="Longest time that an answer waits for the session store."
    )
    timeout: PositiveDuration = Field(
        default=timedelta(seconds=1),
        description="Longest time for an answer, unless the request has a `timeout_ms`; after it, popular or "
        "similar items are the answer, marked `deadline`.",
    )
    session_ttl: PositiveDuration = Field(default=timedelta(minutes=30), description="Idle time that ends a session.")
    session_length: int = Field(default=50, ge=1, le=1000, description="Number of events that are kept of a session.")
    answer_ttl: Duration = Field(
        default=timedelta(minutes=30),
        description="How long an answer is kept, for its next pages, its explanation and attribution of events; 0 "
        "keeps none.",
    )
    copy_bundles: bool = Field(
        default=True,
        description="Whether to serve from private copies of bundles in the temporary folder (TMPDIR), which all "
        "workers share; without, published files must never be changed in place, or the service is killed.",
    )
    event_log: Annotated[
        Path | StorageAddress | None, PlainValidator(_optional_folder_or_address), PlainSerializer(_place_text)
    ] = Field(
        default=None,
        description="Folder to write every event and answer to, as JSON lines that `onward-training prepare` reads; "
        "by default none. The service does not start if it cannot write there. Or an address that files are uploaded "
        "to when they are closed, such as s3://shop/events.",
    )
    event_log_spool: Annotated[
        Path | None, LOCAL_PATH, AfterValidator(_require_folder), PlainSerializer(_path_text)
    ] = Field(
        default=None,
        description="With an address as event log: folder of this machine where its files are written, and wait until "
        "they are uploaded. It must outlive a restart, and is of one service at a time.",
    )
    event_log_max_age: Annotated[PositiveDuration | None, BeforeValidator(_none_if_empty), EMPTY_IF_NONE] = Field(
        default=None,
        description="Age at which files of the event log are deleted; by default never. A file holds up to an hour.",
    )
    event_log_max_bytes: Annotated[PositiveInt | None, BeforeValidator(_none_if_empty), EMPTY_IF_NONE] = Field(
        default=None,
        description="Size of the event log, of each tenant's by itself, beyond which its oldest files are deleted; by "
        "default none.",
    )
    event_log_key: Annotated[
        SecretStr | None, BeforeValidator(_none_if_empty), AfterValidator(_require_long_key), PlainSerializer(_secret)
    ] = Field(
        default=None,
        description="Secret of 16 or more characters: the event log then names sessions and users by keyed hashes; by "
        "default by their ids.",
    )
    event_log_sync: Annotated[Duration | None, BeforeValidator(_none_if_empty), EMPTY_IF_NONE] = Field(
        default=None,
        description="Interval at which files of the event log are synced to disk, 0 for each write (once a second); by "
        "default only when they are closed.",
    )
    popularity_half_life: PositiveDuration = Field(
        default=timedelta(days=3), description="Time after which an event counts half as much towards popularity."
    )
    event_weights: Annotated[EventWeights, NoDecode, BeforeValidator(_parse_event_weights), PlainSerializer(str)] = (
        Field(
            default=EventWeights(),
            description="Weights of event types, as in share=2,skip=-1: above 0 the item enters the session, below 0 "
            "it is hidden from the session's answers, 0 does neither. By default view 1, cart 3, purchase 5, like 2, "
            "impression 0, dislike -1, any other 1.",
        )
    )
    max_event_age: PositiveDuration = Field(
        default=MAX_EVENT_AGE, description="Maximum age at which an event is accepted."
    )
    reload_interval: PositiveDuration = Field(
        default=timedelta(seconds=1), description="Interval at which the `current` link is checked for a new bundle."
    )
    drain_delay: Duration = Field(
        default=timedelta(0),
        description="Time from SIGTERM until the port is closed, in which requests are still taken and the service is "
        "not ready, so that load balancers take it out of use.",
    )
    shutdown_timeout: PositiveDuration = Field(
        default=timedelta(seconds=30), description="Longest time that a shutdown waits for requests in flight."
    )
    max_in_flight: int = Field(
        default=256,
        ge=1,
        description="Maximum number of concurrent requests of a worker; others are refused at once (503), not queued. "
        "The worker lowers it, to no less than 32, while requests wait for the processor.",
    )
    max_connections: int = Field(
        default=4096,
        ge=1,
        description="Maximum number of open connections of a worker, at most its file descriptors; beyond it the one "
        "that waits longest for a request is closed.",
    )
    keep_alive: PositiveDuration = Field(
        default=timedelta(seconds=75),
        description="Longest time that a connection stays open without a request; longer than that of a load balancer "
        "in front of the service, or it will meet closed connections.",
    )
    head_timeout: PositiveDuration = Field(
        default=timedelta(seconds=10),
        description="Longest time that a request's headers may take to arrive, or the first byte on a new connection "
        "(408).",
    )
    body_timeout: PositiveDuration = Field(
        default=timedelta(seconds=10), description="Longest time that a request's body may take to arrive (408)."
    )
    write_timeout: PositiveDuration = Field(
        default=timedelta(seconds=10),
        description="Longest time that a caller may leave its answers unread before the connection is cut.",
    )
    max_url: int = Field(default=16 * 2**10, ge=1024, description="Maximum length of a URL, in bytes (414).")
    max_headers: int = Field(
        default=32 * 2**10, ge=1024, description="Maximum length of the URL and all headers, in bytes (431)."
    )
    max_body: int = Field(
        default=2**20,
        ge=1024,
        le=2**30,
        description="Maximum length of a body, in bytes, also after decompression (413).",
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_parse_origins), PlainSerializer(",".join)] = (
        Field(
            default=(),
            description="Origins whose scripts may call the service from a browser, separated by commas, as in "
            "https://shop.example; * for all; empty for none. Their beacons are accepted as events.",
        )
    )
    api_keys: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_parse_digests), PlainSerializer(",".join)] = Field(
        default=(),
        description="SHA-256 digests of the keys of which callers must send one (401, 403); empty admits everyone.",
    )
    keys_file: Annotated[Path | None, LOCAL_PATH, PlainSerializer(_path_text)] = Field(
        default=None,
        description="File of keys with names, scopes, tenants and expiry, that `onward-service key create` writes; "
        "changes apply while the service runs.",
    )
    audit_log: Annotated[Path | None, LOCAL_PATH, PlainSerializer(_path_text)] = Field(
        default=None, description="File to append each change to: who, what, before and after; none by default."
    )
    metrics_access: Access = Field(
        default="open", description="Who may read /metrics: open, key (one with the scope metrics), off."
    )
    docs_access: Access = Field(
        default="open", description="Who may read /docs and /openapi.json: open, key (any), off."
    )
    recall_sample: int = Field(
        default=1000,
        ge=0,
        description="One answer in so many is compared with an exact search in spare time, for the metrics of recall; "
        "0 for none.",
    )
    console: Literal["on", "off"] = Field(
        default="on", description="Whether /console shows a page for people; its data take a key as the API does."
    )
    rate_limit: Annotated[
        RateLimit | None, NoDecode, BeforeValidator(_parse_rate_limit), PlainSerializer(_rate_limit_text)
    ] = Field(
        default=None,
        description="Rate limit of a caller, identified by key or else by client address, as in 100/second (429). Each "
        "worker counts by itself unless SERVICE_RATE_LIMIT_SCOPE says otherwise. Behind a proxy that is not on this "
        "machine, FORWARDED_ALLOW_IPS must name it, or all callers share its address.",
    )
    rate_limit_scope: Literal["worker", "deployment"] = Field(
        default="worker",
        description="Where requests count against the rate limit: worker, in each by itself, so that W workers allow "
        "up to W times as many; deployment, in the store of REDIS_URL, for all workers and replicas together.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="debug logs every request."
    )

    @model_validator(mode="after")
    def _keys_where_asked(self) -> Self:
        if "key" in (self.metrics_access, self.docs_access) and not self.api_keys and self.keys_file is None:
            name = "METRICS" if self.metrics_access == "key" else "DOCS"
            raise ValueError(f"{PREFIX}{name}_ACCESS=key needs keys: set SERVICE_KEYS_FILE or SERVICE_API_KEYS")
        return self

    @model_validator(mode="after")
    def _rate_limit_where_scoped(self) -> Self:
        if self.rate_limit_scope == "deployment" and self.rate_limit is None:
            raise ValueError(f"{PREFIX}RATE_LIMIT_SCOPE=deployment is of a rate limit: set {PREFIX}RATE_LIMIT, too")
        return self

    @model_validator(mode="after")
    def _event_log_where_described(self) -> Self:
        if self.event_log is None:
            for name in EVENT_LOG_OPTIONS:
                if getattr(self, name) is not None:
                    raise ValueError(
                        f"{PREFIX}{name.upper()} is of an event log: set {PREFIX}EVENT_LOG, its folder, or unset this"
                    )
        if isinstance(self.event_log, StorageAddress) and self.event_log_spool is None:
            raise ValueError(
                f"{PREFIX}EVENT_LOG is an address: set {PREFIX}EVENT_LOG_SPOOL, where files wait for the upload"
            )
        if isinstance(self.event_log, Path) and self.event_log_spool is not None:
            raise ValueError(f"{PREFIX}EVENT_LOG_SPOOL is of an event log at an address; unset it for one in a folder")
        return self

    @property
    def event_log_folder(self) -> Path | None:
        """The folder that files of the event log are written to."""
        return self.event_log_spool if isinstance(self.event_log, StorageAddress) else self.event_log

    @property
    def bundles_folder(self) -> Path:
        """The folder of bundles, of a worker: `serve` pulls those of an address into a folder."""
        if isinstance(self.bundles, StorageAddress):
            raise ValueError(f"{self.bundles}: is an address; `onward-service serve` pulls from it into a folder")
        return self.bundles

    def environment(self) -> dict[str, str]:
        """Return the settings as environment variables for worker processes."""
        values = self.model_dump(mode="json", exclude={"redis_url"})
        variables = {f"SERVICE_{name.upper()}": str(value) for name, value in values.items()}
        return variables if self.redis_url is None else variables | {"REDIS_URL": self.redis_url.get_secret_value()}


def secrets_from_files(environment: Mapping[str, str], names: Iterable[str]) -> dict[str, str]:
    """Return those of the variables that are given as files, as in SERVICE_API_KEYS_FILE=/run/secrets/keys.

    Raises SecretFileError if a file cannot be read, or if its variable is given too.
    """
    secrets = {}
    for name in names:
        if path := environment.get(f"{name}_FILE"):
            if environment.get(name):
                raise SecretFileError(f"{name} and {name}_FILE are both given: unset one of them")
            try:
                secrets[name] = Path(path).read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError) as error:
                reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
                raise SecretFileError(f"{name}_FILE: {reason}: {path}") from error
    return secrets


def foreign_variables(environment: Mapping[str, str]) -> list[str]:
    """Return the SERVICE_* variables that are not settings but belong to another program, and are to be ignored.

    These are what Kubernetes sets for a service that is named `service`, what service registries read, and the names in
    SERVICE_IGNORE. Raises UnknownSetting for any other variable that is not a setting.
    """
    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields if name != "redis_url"}
    ignored = {name.strip() for name in environment.get(IGNORE, "").split(",")}
    foreign = []
    for name, value in sorted(environment.items()):
        if not name.startswith(PREFIX) or name == IGNORE:
            continue
        if _OF_KUBERNETES.fullmatch(f"{name}={value}") or _OF_REGISTRIES.fullmatch(name) or name in ignored:
            foreign.append(name)
        elif name not in known:
            nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
            raise UnknownSetting(
                f"{name}: there is no such setting; the nearest is {nearest}. If it belongs to another program: "
                f"{IGNORE}={name}"
            )
    return foreign


def describe(error: ValidationError) -> str:
    """Describe in one line which setting is invalid, without its value, which may be a secret."""
    first = error.errors(include_url=False, include_input=False)[0]
    if not first["loc"]:  # of several settings together
        return message_of(first)
    name = str(first["loc"][0])
    variable = name if name == "REDIS_URL" else f"SERVICE_{name.upper()}"
    return f"{variable}: {message_of(first)}"
