"""Read records: one JSON file for each output of a benchmark."""

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
    """Read the records of a folder, sorted by file name. Raises InputError if one is invalid."""
    if not folder.is_dir():
        raise InputError(f"{folder}: is not a folder; give one with the output of benchmarks, as *.json")
    return [_read(path) for path in sorted(folder.glob("*.json"))]


def _read(path: Path) -> Record:
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: is not one line of JSON ({error}); run the benchmark again") from error
    if not isinstance(fields, dict):
        raise InputError(f"{path}: is not a JSON object; store the output of a benchmark here")
    try:
        return _ANY.validate_python({**fields, "file": path.stem})
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(str(part) for part in problem["loc"]) or "benchmark"
        raise InputError(f"{path}: {place}: {problem['msg']}; run the benchmark again") from error
