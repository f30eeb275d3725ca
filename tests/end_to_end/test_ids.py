"""Every id of a log is found again unchanged: through prepare and a bundle, in the service, and in its event log."""

from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onward.training.data.dataset import Dataset
from onward.training.data.preparation.prepare import prepare
from onward.training.data.preparation.prepare_options import Preparation, SplitKind
from onward.training.data.readers.dialect import DEFAULT_NULLS
from onward.training.data.readers.ids import SPACES
from onward.training.data.readers.polars_engine import PolarsEngine
from tests.bundles import publish_bundle
from tests.ids import ids
from tests.service.shop import get, opened, recommend, send
from tests.service.shop import ids as ids_of

START_MS = 1_700_006_400_000
FORMATS = ["csv", *(pytest.param(name, marks=pytest.mark.slow) for name in ("tsv", "jsonl", "parquet"))]


def is_kept(text: str) -> bool:
    """Return whether `prepare` takes an id as it is written, not for a missing value or with spaces around it."""
    return not text.endswith(".0") and text.strip(SPACES) == text and text not in DEFAULT_NULLS


names = st.lists(ids.filter(is_kept), min_size=3, max_size=6, unique=True)


def written(frame: pl.DataFrame, path: Path) -> str:
    if path.suffix == ".parquet":
        frame.write_parquet(path)
    elif path.suffix == ".jsonl":
        frame.write_ndjson(path)
    elif path.suffix == ".csv":
        frame.write_csv(path)
    else:
        frame.write_csv(path, separator="\t", quote_style="never")
    return str(path)


def prepared(files: list[str], folder: Path, items: str | None = None) -> Dataset:
    preparation = Preparation(split=SplitKind.GIVEN, min_support=1, min_length=1, validation=0.0)
    prepare(files, folder / "dataset", preparation, PolarsEngine, items=items, strict=True, force=True)
    return Dataset.open(folder / "dataset")


@pytest.mark.parametrize("file_format", FORMATS)
@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(item_ids=names, session_id=ids.filter(is_kept))
def test_every_id_of_a_log_is_that_of_the_service(
    tmp_path_factory: pytest.TempPathFactory, file_format: str, item_ids: list[str], session_id: str
) -> None:
    folder = tmp_path_factory.mktemp("ids")
    times = [START_MS + 60_000 * place for place in range(len(item_ids))]
    events = pl.DataFrame({"session_id": [session_id] * len(times), "item_id": item_ids, "timestamp_ms": times})
    items = pl.DataFrame({"item_id": item_ids, "title": [f"title {place}" for place in range(len(item_ids))]})
    dataset = prepared(
        [written(events, folder / f"events.{file_format}")], folder, written(items, folder / f"items.{file_format}")
    )
    assert dataset.sessions("train").session_ids == [session_id]
    assert dataset.sessions("train").item_ids == item_ids
    titles = dict(zip(dataset.item_ids(), dataset.attributes()["title"], strict=True))
    assert titles == dict(zip(item_ids, items["title"], strict=True))

    attributes = [{"title": title} for title in titles.values()]
    publish_bundle(folder / "bundles", dataset.item_ids(), attributes=attributes)
    log = folder / "log"
    log.mkdir()
    with opened(folder / "bundles", event_log=log) as client:
        for item_id in item_ids:
            send(client, session_id, item_id)
        answer = recommend(client, session_id=session_id, k=len(item_ids), exclude_seen=False)
        assert sorted(ids_of(answer)) == sorted(item_ids)
        assert {item["id"]: item["attributes"]["title"] for item in answer["items"]} == titles
        assert get(client, "/v1/items:popular")["count"] == len(item_ids)
    assert prepared([str(log)], folder).sessions("train").item_ids == item_ids
