"""A dataset of the newest training sessions of another one, with the same items and the same held-out parts."""

import shutil
from pathlib import Path

import polars as pl

from onward.training.data.dataset import (
    INFO_FILE,
    Dataset,
    DatasetInfo,
    PartCounts,
    digest,
    fingerprint,
    fingerprinted_files,
    shown_file,
)
from onward.training.data.staging import new_folder


def write_newest_sessions(dataset: Dataset, share: float, out: Path) -> DatasetInfo:
    """Write the dataset `out` with the newest `share` of the training sessions, and return its description."""
    with new_folder(out, force=True, marker=INFO_FILE) as folder:
        for file in dataset.folder.glob("*.parquet"):
            if file.name != "train.parquet":
                shutil.copyfile(file, folder / file.name)
        sessions = len(dataset.sessions("train"))
        number = (pl.col("position") == 0).cum_sum()
        first = sessions - max(1, round(share * sessions))
        train = folder / "train.parquet"
        events = pl.scan_parquet(dataset.folder / train.name)
        events.filter(number > first).sink_parquet(train)
        if (shown := shown_file(folder, "train")).exists():
            left_out = events.select((number <= first).sum()).collect().item()
            event = pl.col("event") - left_out
            pl.read_parquet(shown).filter(pl.col("event") >= left_out).with_columns(event).write_parquet(shown)
        counts = PartCounts.of(train, "each")
        info = dataset.info.model_copy(
            update={
                "parts": {**dataset.info.parts, "train": counts},
                "fingerprint": fingerprint(fingerprinted_files(folder, dataset.info.parts)),
                "digests": {file.name: digest(file) for file in sorted(folder.glob("*.parquet"))},
            }
        )
        (folder / INFO_FILE).write_text(info.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return info
