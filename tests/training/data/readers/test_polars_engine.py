from functools import partial
from pathlib import Path

import pytest

from onward.training.data.preparation.prepare import prepare
from onward.training.data.preparation.prepare_options import Preparation, SplitKind
from onward.training.data.readers.polars_engine import PolarsEngine
from onward.training.data.synthetic import generate


@pytest.mark.parametrize(
    ("split", "gap_ms"), [(SplitKind.TEMPORAL, None), (SplitKind.TEMPORAL, 60_000), (SplitKind.BY_USER, None)]
)
def test_a_log_in_buckets_gives_the_same_dataset_as_in_memory(
    tmp_path: Path, split: SplitKind, gap_ms: int | None
) -> None:
    generate(3_000, seed=5).write(tmp_path / "shop")
    preparation = Preparation(split=split, min_support=2, min_length=3, gap_ms=gap_ms)
    events = [str(tmp_path / "shop" / "events.parquet")]
    in_memory = prepare(events, tmp_path / "whole", preparation, PolarsEngine)
    in_buckets = prepare(events, tmp_path / "buckets", preparation, partial(PolarsEngine, bucket_rows=500))
    assert in_buckets.model_copy(update={"created": in_memory.created}) == in_memory
