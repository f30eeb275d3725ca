"""How long `prepare` takes beside reading the same file with Polars alone: `python -m tests.benchmarks.preparation`.

Writes a log as CSV, as Parquet and as many part files, and prepares each in a process of its own. Polars alone reads
all columns and writes them as Parquet. Prints one line of JSON: seconds, processor seconds (without the start of the
process) and peak memory of each, and the ratios that have an aim: those to Polars are of processor seconds.
"""

import json
import multiprocessing
import resource
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import numpy as np
import polars as pl
import typer

from onward.training.data.preparation.prepare import prepare
from onward.training.data.preparation.prepare_options import Preparation, SplitKind
from onward.training.data.readers.polars_engine import PolarsEngine
from onward.training.hardware import machine

AIM_BESIDE_POLARS, AIM_OF_PARTS = 2.5, 1.5


def main(
    events: Annotated[int, typer.Option(min=10_000)] = 10_000_000,
    items: Annotated[int, typer.Option(min=10)] = 50_000,
    parts: Annotated[int, typer.Option(min=2)] = 2_000,
    folder: Annotated[Path | None, typer.Option(help="Where the logs are written.  [default: a temporary one]")] = None,
) -> None:
    """Print the time and memory of preparing a log as CSV, Parquet and part files."""
    with TemporaryDirectory(dir=folder) as name:
        place = Path(name)
        log = made_up_log(events, items)
        log.write_csv(place / "log.csv")
        log.write_parquet(place / "log.parquet")
        (place / "parts").mkdir()
        per_part = events // parts
        for part in range(parts):
            log[part * per_part : (part + 1) * per_part].write_csv(place / "parts" / f"{part:05}.csv")
        figures = {
            "polars_csv": measured(read_csv, place / "log.csv"),
            "polars_parquet": measured(read_parquet, place / "log.parquet"),
            "csv": measured(prepared, place / "log.csv"),
            "parquet": measured(prepared, place / "log.parquet"),
            "parts": measured(prepared, place / "parts"),
        }
    ratios = {
        "csv_to_polars": figures["csv"]["cpu_seconds"] / figures["polars_csv"]["cpu_seconds"],
        "parquet_to_polars": figures["parquet"]["cpu_seconds"] / figures["polars_parquet"]["cpu_seconds"],
        "parts_to_one_file": figures["parts"]["seconds"] / figures["csv"]["seconds"],
    }
    aims = {"csv_to_polars": AIM_BESIDE_POLARS, "parquet_to_polars": AIM_BESIDE_POLARS}
    aims["parts_to_one_file"] = AIM_OF_PARTS
    rounded = {name: round(ratio, 2) for name, ratio in ratios.items()}
    print(json.dumps({**machine(), "events": events, **figures, "ratios": rounded, "aims": aims}))


def made_up_log(events: int, items: int) -> pl.DataFrame:
    """Sessions of five events on items of Zipf's popularity."""
    chance = np.random.default_rng(1)
    number = np.arange(events)
    return pl.DataFrame(
        {
            "session_id": number // 5,
            "item_id": chance.zipf(1.3, events) % items,
            "timestamp": 1_700_000_000_000 + number // 5 * 1_000 + number % 5 * 100,
        }
    )


def read_csv(path: Path) -> None:
    """Read with Polars alone, and write what was read."""
    pl.scan_csv(path, infer_schema=False).sink_parquet(path.with_suffix(".copy"))


def read_parquet(path: Path) -> None:
    """Read with Polars alone, and write what was read."""
    pl.scan_parquet(path).sink_parquet(path.with_suffix(".copy"))


def prepared(path: Path) -> None:
    """Prepare with the options that are the default."""
    kind = SplitKind.TEMPORAL
    preparation = Preparation(split=kind, min_support=kind.min_support, min_length=kind.min_length)
    prepare([str(path)], path.with_suffix(".dataset"), preparation, PolarsEngine, force=True)


def measured(step: Callable[[Path], None], path: Path) -> dict[str, Any]:
    """Run a step in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_figures, (step, path))


def _figures(step: Callable[[Path], None], path: Path) -> dict[str, Any]:
    started, started_cpu = time.monotonic(), time.process_time()
    step(path)
    return {
        "seconds": round(time.monotonic() - started, 2),
        "cpu_seconds": round(time.process_time() - started_cpu, 2),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


if __name__ == "__main__":
    typer.run(main)
