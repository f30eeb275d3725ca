"""What is to be measured, as a command line says it."""

import json
from pathlib import Path
from typing import Any, NamedTuple, Self
from urllib.parse import urlsplit

from pydantic import ValidationError

from onward.bundle import Bundle, BundleError, Filter
from onward.bundle.validation import message_of
from onward.service.bench.api import Onward
from onward.service.bench.slo import Slo


class Unusable(ValueError):
    """An option that cannot be used; one line that names it and says why."""


class Wanted(NamedTuple):
    """What is asked of whom, and how fast it must be."""

    bundles: Path
    bundle: Bundle
    url: str | None
    """None for a service that is to be started."""
    slo: Slo
    api: Onward

    @classmethod
    def read(
        cls, bundles: Path, *, url: str | None = None, slo: str, condition: str | None = None, key: str | None = None
    ) -> Self:
        """Read the words. Raises Unusable."""
        try:
            objective = Slo.parse(slo)
        except ValueError as error:
            raise Unusable(f"--slo: {error}") from error
        host = "localhost" if url is None else _host(url)
        try:
            bundle = Bundle.load(bundles / "current", verify=False)
        except BundleError as error:
            raise Unusable(f"--bundles: {bundles}: {error}") from error
        api = Onward(filter=None if condition is None else read_filter(condition, bundle), host=host, key=key)
        return cls(bundles, bundle, None if url is None else url.rstrip("/"), objective, api)


def read_filter(condition: str, bundle: Bundle) -> dict[str, Any]:
    """Read a filter that the bundle's catalog can answer. Raises Unusable."""
    try:
        value: dict[str, Any] = json.loads(condition)
        faults = Filter.model_validate(value).check(bundle.catalog.schema)
    except json.JSONDecodeError as error:
        raise Unusable(f"--filter: no JSON: {error}") from error
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        raise Unusable(f"--filter: {_place(fault['loc'])}{message_of(fault)}") from error
    if faults:
        raise Unusable(f"--filter: {_place(faults[0].path)}{faults[0].message}")
    return value


def _place(path: tuple[str | int, ...]) -> str:
    return "".join(f"{part}: " for part in (".".join(map(str, path)),) if part)


def _host(url: str) -> str:
    try:
        parts = urlsplit(url)
        is_usable = parts.scheme in ("http", "https") and parts.hostname and parts.path in ("", "/") and parts.port != 0
    except ValueError:
        is_usable = False
    if not is_usable:
        raise Unusable(f"--url: {url!r} is no address of a service, as in http://127.0.0.1:8000")
    return parts.netloc
