"""The options of a capacity measurement, parsed from the command line."""

import json
from pathlib import Path
from typing import Any, NamedTuple, Self
from urllib.parse import urlsplit

from pydantic import ValidationError

from onward.bundle import Bundle, BundleError, Filter, PublishedBundles
from onward.bundle.validation import message_of
from onward.service.bench.load_generator.api import Onward
from onward.service.bench.slo import Slo


class OptionError(ValueError):
    """An unusable option; the message is one line that names the option."""


class BenchOptions(NamedTuple):
    """What to measure, and the objective."""

    bundles: Path
    bundle: Bundle
    url: str | None
    """None to start a service."""
    slo: Slo
    api: Onward

    @classmethod
    def parse(
        cls, bundles: Path, *, url: str | None = None, slo: str, condition: str | None = None, key: str | None = None
    ) -> Self:
        """Parse the options and load the bundle. Raises OptionError."""
        try:
            objective = Slo.parse(slo)
        except ValueError as error:
            raise OptionError(f"--slo: {error}") from error
        host = "localhost" if url is None else _host(url)
        try:
            bundle = Bundle.load(PublishedBundles(bundles).current_folder(), verify=False)
        except BundleError as error:
            raise OptionError(f"--bundles: {bundles}: {error}") from error
        api = Onward(filter=None if condition is None else parse_filter(condition, bundle), host=host, key=key)
        return cls(bundles, bundle, None if url is None else url.rstrip("/"), objective, api)


def parse_filter(condition: str, bundle: Bundle) -> dict[str, Any]:
    """Parse a filter and check it against the attributes of the bundle's catalog. Raises OptionError."""
    try:
        value: dict[str, Any] = json.loads(condition)
        problems = Filter.model_validate(value).check(bundle.catalog.schema)
    except json.JSONDecodeError as error:
        raise OptionError(f"--filter: not JSON: {error}") from error
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        raise OptionError(f"--filter: {_prefix(problem['loc'])}{message_of(problem)}") from error
    if problems:
        raise OptionError(f"--filter: {_prefix(problems[0].path)}{problems[0].message}")
    return value


def _prefix(path: tuple[str | int, ...]) -> str:
    return "".join(f"{part}: " for part in (".".join(map(str, path)),) if part)


def _host(url: str) -> str:
    try:
        parts = urlsplit(url)
        is_usable = parts.scheme in ("http", "https") and parts.hostname and parts.path in ("", "/") and parts.port != 0
    except ValueError:
        is_usable = False
    if not is_usable:
        raise OptionError(f"--url: {url!r} is not the address of a service; an example is http://127.0.0.1:8000")
    return parts.netloc
