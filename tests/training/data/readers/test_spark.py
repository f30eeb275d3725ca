"""Both engines give the same rows."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from onward.training.data.dataset import DatasetInfo
from onward.training.data.preparation.prepare import prepare
from onward.training.data.preparation.prepare_options import Preparation, SplitKind
from onward.training.data.readers.polars_engine import PolarsEngine
from onward.training.data.synthetic import generate
from onward.training.errors import InputError

pytestmark = [
    pytest.mark.spark,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # Spark's own, of pandas and of sockets
    pytest.mark.skipif(
        shutil.which("java") is None and "JAVA_HOME" not in os.environ, reason="Spark needs Java, and there is none"
    ),
]


@pytest.fixture(scope="module", autouse=True)
def local_spark() -> Iterator[None]:
    """A small Spark in this process, without its web interface."""
    sql = pytest.importorskip("pyspark.sql", reason="pyspark is not installed: pip install 'onward[spark]'")
    settings = {
        "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1",
        "spark.sql.shuffle.partitions": "2",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
    }
    builder = sql.SparkSession.builder.master("local[1]")
    for name, value in settings.items():
        builder = builder.config(name, value)
    session = builder.getOrCreate()
    yield
    session.stop()


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few hundred sessions as shuffled CSV, with rows of every problem."""
    folder = tmp_path_factory.mktemp("a log")
    sound = generate(1_500, seed=2).events.drop("type").sample(fraction=1, shuffle=True, seed=1)
    bad = sound.head(6).with_columns(
        item_id=pl.Series([None, "e\u0301", "i", "i", "i", "i"]),
        timestamp=pl.Series([1_741_000_000_000] * 2 + [None, 17, 9_000_000_000_000, 1_741_000_000_001]),
    )
    times = pl.from_epoch("timestamp", "ms").dt.strftime("%Y-%m-%dT%H:%M:%S%.3fZ")
    iso = sound.head(200).with_columns(times)
    rest = pl.concat([sound.tail(-200), bad, bad]).with_columns(pl.col("timestamp").cast(pl.String))
    pl.concat([iso, rest]).write_csv(folder / "events.csv")
    return folder / "events.csv"


def both(events: Path, folder: Path, preparation: Preparation) -> tuple[DatasetInfo, DatasetInfo]:
    from onward.training.data.readers.spark_engine import SparkEngine

    on_polars = prepare([str(events)], folder / "polars", preparation, PolarsEngine)
    on_spark = prepare([str(events)], folder / "spark", preparation, SparkEngine)
    return on_polars, on_spark


def test_spark_writes_the_same_rows_as_polars(events: Path, tmp_path: Path) -> None:
    preparation = Preparation(split=SplitKind.BY_USER, min_support=2, min_length=3)
    on_polars, on_spark = both(events, tmp_path, preparation)
    assert on_spark.problems == on_polars.problems
    assert on_spark.model_copy(update={"created": on_polars.created}) == on_polars
    assert len(on_polars.problems) == 6
    for file in (tmp_path / "polars").glob("*.parquet"):
        assert pl.read_parquet(tmp_path / "spark" / file.name).equals(pl.read_parquet(file))


def test_spark_cuts_and_splits_by_time_like_polars(tmp_path: Path) -> None:
    """From a folder of Parquet files, which come in row groups."""
    shop = generate(1_000, seed=4).events.drop("session_id")
    (tmp_path / "log").mkdir()
    shop.head(500).write_parquet(tmp_path / "log" / "1.parquet", row_group_size=100)
    shop.tail(500).write_parquet(tmp_path / "log" / "2.parquet")
    preparation = Preparation(split=SplitKind.TEMPORAL, min_support=2, min_length=2, gap_ms=600_000)
    on_polars, on_spark = both(tmp_path / "log", tmp_path, preparation)
    assert on_spark.fingerprint == on_polars.fingerprint


def test_spark_names_the_file_it_cannot_read(tmp_path: Path) -> None:
    from onward.training.data.readers.spark_engine import SparkEngine

    (tmp_path / "events.parquet").write_text("nothing of the kind")
    preparation = Preparation(split=SplitKind.GIVEN, min_support=1, min_length=1)
    with pytest.raises(InputError, match=r"events.parquet: cannot be read as parquet"):
        prepare([str(tmp_path / "events.parquet")], tmp_path / "out", preparation, SparkEngine)
