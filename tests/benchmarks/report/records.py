"""Records: a JSON file for each line that a benchmark printed."""

import json
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError

from onward.training.errors import InputError
from tests.benchmarks.report.catalogs import Catalogs
from tests.benchmarks.report.encoders import Encoders
from tests.benchmarks.report.engines import Engines
from tests.benchmarks.report.filters import Filters
from tests.benchmarks.report.parts import Parts
from tests.benchmarks.report.peers import Peers
from tests.benchmarks.report.record import Record
from tests.benchmarks.report.redis_calls import RedisCalls
from tests.benchmarks.report.serving import Serving
from tests.benchmarks.report.stages import Stages

_ANY: TypeAdapter[Record] = TypeAdapter(
    Annotated[
        Catalogs | Encoders | Engines | Filters | Parts | Peers | RedisCalls | Serving | Stages,
        Field(discriminator="benchmark"),
    ]
)


def read_records(folder: Path) -> list[Record]:
    """The records of a folder in the order of their files' names. Raises InputError where one is damaged."""
    if not folder.is_dir():
        raise InputError(f"{folder}: is not a folder; name one that holds what the benchmarks printed, as *.json")
    return [_read(path) for path in sorted(folder.glob("*.json"))]


def _read(path: Path) -> Record:
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: is not one line of JSON ({error}); run the benchmark again") from error
    if not isinstance(told, dict):
        raise InputError(f"{path}: is no JSON object; put here what a benchmark printed")
    try:
        return _ANY.validate_python({**told, "file": path.stem})
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(str(part) for part in fault["loc"]) or "benchmark"
        raise InputError(f"{path}: {where}: {fault['msg']}; run the benchmark again") from error
