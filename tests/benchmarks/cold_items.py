"""Recall of items that training never saw: `python -m tests.benchmarks.cold_items beauty --data FOLDER`.

Items are hidden from training, and then asked for. In `grocery` and `ml100k` they are the items first seen in the last
tenth of the time, with training on the events before it; in `beauty`, `sports` (no times) and `shop` (generated; nearly
all items are seen early) they are a random tenth, with training on all other events but the last of each session.

A question is a session up to an event; its answer is the item of that event. `cold` questions have a hidden item as the
answer, `warm` ones a trained item: after the cut in time, or the last of a session. Answers are ranked exactly, nothing
is left out of them, and vectors are shortened as in a bundle. The methods give hidden items their vectors:

- `tower`: by the bundle's content tower, as it is exported;
- `neighbours`: means of trained items that share attributes, as in a bundle without a tower;
- `popularity`: no vectors; hidden items in order of their events in the questions, which no system can know;
- `random`: no vectors; what guessing would find.

`all` is recall@k of cold questions among all items, `new` among hidden items alone, `warm` that of warm questions among
all items. Prints one line of JSON. `--work` keeps datasets, runs and bundles; runs there are used again.
"""

import json
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import polars as pl
import typer
from numpy.typing import NDArray

from onward.bundle import Bundle
from onward.bundle.catalog.cold_start import ColdItem, ColdStart
from onward.training.data.preparation.prepare import prepare
from onward.training.data.preparation.prepare_options import Preparation, SplitKind
from onward.training.data.readers.polars_engine import PolarsEngine
from onward.training.data.synthetic import generate
from onward.training.export.export import export
from onward.training.export.new_items import fair_length
from onward.training.hardware import machine
from onward.training.recipe import Recipe
from onward.training.trainer import train

KS = (10, 20, 50)
MAX_QUESTIONS = 4_000
GENERATED_EVENTS = 60_000
LAST_TENTH = 9, 10
"""The cut in time: after nine tenths of it."""


class Question(NamedTuple):
    """The items of a session, oldest first, and the one that follows."""

    items: Sequence[str]
    answer: str


@dataclass(frozen=True)
class ColdShop:
    """Events to train on, all items with their attributes, and questions."""

    train: pl.DataFrame
    """session_id, item_id, position."""
    items: Sequence[Mapping[str, Any]]
    cold: Sequence[Question]
    warm: Sequence[Question]
    recipe: str
    epochs: int


def main(
    shop: Annotated[str, typer.Argument(help="One of: grocery, ml100k, beauty, sports, shop.")],
    data: Annotated[
        Path, typer.Option(envvar="ONWARD_DATA", help="Folder of the public data sets; `shop` needs none.")
    ] = Path(),
    work: Annotated[Path | None, typer.Option(help="Folder to keep datasets, runs and bundles in.")] = None,
) -> None:
    """Print the recall of hidden items by each method."""
    if shop not in SHOPS:
        raise typer.BadParameter(f"{shop}: not one of {', '.join(SHOPS)}")
    with tempfile.TemporaryDirectory() as scratch:
        print(json.dumps(measure(shop, SHOPS[shop](data), (work or Path(scratch)) / shop)))


def measure(name: str, shop: ColdShop, folder: Path) -> dict[str, Any]:
    """Train and export in `folder`, and return the figures."""
    if not (folder / "run").exists():
        _train(shop, folder)
    notes: list[str] = []
    shutil.rmtree(folder / "bundles", ignore_errors=True)
    started = time.perf_counter()
    export([folder / "run"], folder / "bundles", on_note=notes.append)
    export_s = time.perf_counter() - started
    bundle = Bundle.load(folder / "bundles" / "current")
    queries_QKD = np.load(folder / "bundles" / "current" / "queries.npy")
    trained = bundle.manifest.encodable_items
    cold = _asked(bundle, shop.cold, range(trained + 1, bundle.manifest.items + 1))
    warm = _asked(bundle, shop.warm, range(1, trained + 1))
    served_N1D = np.array(bundle.vectors_N1D)
    neighbours_N1D = _with_neighbours(bundle, queries_QKD)
    return {
        "benchmark": "cold_items",
        **machine("torch", "onnxruntime"),
        "shop": name,
        "recipe": shop.recipe,
        "epochs": shop.epochs,
        "trained_items": trained,
        "hidden_items": bundle.manifest.items - trained,
        "has_tower": bundle.content is not None,
        "questions": {"cold": len(cold.rows_Q), "warm": len(warm.rows_Q)},
        "export_s": round(export_s, 1),
        "notes": notes,
        "tower": _figures(served_N1D, trained, cold, warm),
        "neighbours": _figures(neighbours_N1D, trained, cold, warm),
        "popularity": {"new": _recalls(_popularity_ranks(cold.rows_Q))},
        "random": {"new": {f"@{k}": round(min(1.0, k / (bundle.manifest.items - trained)), 4) for k in KS}},
        "without_new_items": {"warm": _recalls(_ranks(served_N1D[: trained + 1], warm))},
    }


class _Asked(NamedTuple):
    """Interests of sessions, and the row of each answer."""

    interests_QKD: NDArray[np.float32]
    rows_Q: NDArray[np.int64]


def _train(shop: ColdShop, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    shop.train.write_parquet(folder / "events.parquet")
    shop.train.head(50).write_parquet(folder / "test.parquet")  # a given split needs one; it is not used
    (folder / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in shop.items))
    prepare(
        [str(folder / "events.parquet")],
        folder / "dataset",
        Preparation(split=SplitKind.GIVEN, min_support=1, min_length=2),
        PolarsEngine,
        test=[str(folder / "test.parquet")],
        items=str(folder / "items.jsonl"),
        force=True,
    )
    train(Recipe.load(Path(shop.recipe)), folder / "dataset", folder / "run", refit_epochs=shop.epochs)


def _asked(bundle: Bundle, questions: Sequence[Question], answers: range) -> _Asked:
    """Encode at most `MAX_QUESTIONS` questions, chosen evenly, whose answer has one of these rows."""
    rows = [(bundle.catalog.rows(question.items), bundle.catalog.row(question.answer)) for question in questions]
    last = bundle.encoder.items
    known = [([row for row in session if row is not None and row <= last], answer) for session, answer in rows]
    usable = [(session, answer) for session, answer in known if session and answer in answers]
    chosen = [usable[place] for place in np.linspace(0, len(usable) - 1, min(MAX_QUESTIONS, len(usable))).astype(int)]
    interests_QKD = bundle.encoder.encode_all([session for session, _ in chosen], [0] * len(chosen))
    return _Asked(interests_QKD, np.array([answer for _, answer in chosen]))


def _with_neighbours(bundle: Bundle, queries_QKD: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the vectors of all items, those of hidden ones as means of neighbours; zeros where there is none."""
    trained = bundle.manifest.encodable_items
    cold_start = ColdStart(bundle.catalog, bundle.vectors_N1D, trained_items=trained)
    vectors_N1D = np.array(bundle.vectors_N1D)
    for row in range(trained + 1, len(vectors_N1D)):
        cold = cold_start.vector(ColdItem(bundle.catalog.attributes(row)))
        vectors_N1D[row] = 0 if cold is None else cold.vector_D
    vectors_N1D[trained + 1 :] *= fair_length(vectors_N1D[: trained + 1], vectors_N1D[trained + 1 :], queries_QKD)
    return vectors_N1D


def _figures(vectors_N1D: NDArray[np.float32], trained: int, cold: _Asked, warm: _Asked) -> dict[str, Any]:
    return {
        "all": _recalls(_ranks(vectors_N1D, cold)),
        "new": _recalls(_ranks(vectors_N1D, cold, first=trained + 1)),
        "warm": _recalls(_ranks(vectors_N1D, warm)),
    }


def _ranks(vectors_N1D: NDArray[np.float32], asked: _Asked, first: int = 1) -> NDArray[np.float64]:
    """Return the rank of each answer among the rows from `first`; of equal scores the middle."""
    ranks = []
    for start in range(0, len(asked.rows_Q), 256):
        scores_QN = (asked.interests_QKD[start : start + 256] @ vectors_N1D[first:].T).max(axis=1)
        places_Q = asked.rows_Q[start : start + 256] - first
        answer_Q1 = scores_QN[np.arange(len(places_Q)), places_Q][:, np.newaxis]
        ranks.append(1 + (scores_QN > answer_Q1).sum(axis=1) + ((scores_QN == answer_Q1).sum(axis=1) - 1) / 2)
    return np.concatenate(ranks)


def _popularity_ranks(rows_Q: NDArray[np.int64]) -> NDArray[np.float64]:
    counts = np.bincount(rows_Q)
    order = np.argsort(-counts, kind="stable")
    place = np.empty(len(order))
    place[order] = np.arange(1, len(order) + 1)
    return np.asarray(place[rows_Q])


def _recalls(ranks: NDArray[np.float64]) -> dict[str, float]:
    return {f"@{k}": round(float((ranks <= k).mean()), 4) for k in KS}


def _after_a_cut(histories: pl.DataFrame, items: Sequence[Mapping[str, Any]], recipe: str, epochs: int) -> ColdShop:
    """Hide the items first seen in the last tenth of the time; histories have a column timestamp_ms."""
    first, last = (int(moment) for moment in histories["timestamp_ms"].sort()[[0, -1]])
    cut = first + (last - first) * LAST_TENTH[0] // LAST_TENTH[1]
    train_events = histories.filter(pl.col("timestamp_ms") < cut)
    known = set(train_events["item_id"])
    cold, warm = list[Question](), list[Question]()
    grouped = histories.group_by("session_id", maintain_order=True).agg("item_id", "timestamp_ms")
    for _, ids, times in grouped.iter_rows():
        for place in range(1, len(ids)):
            if times[place] >= cut and known.intersection(ids[:place]):
                (warm if ids[place] in known else cold).append(Question(ids[:place], ids[place]))
    return ColdShop(train_events.drop("timestamp_ms"), items, cold, warm, recipe, epochs)


def _random_tenth(histories: pl.DataFrame, items: Sequence[Mapping[str, Any]], recipe: str, epochs: int) -> ColdShop:
    """Hide a random tenth of the items, and the last event of each session."""
    ids = [item["item_id"] for item in items]
    hidden = {ids[place] for place in np.random.default_rng(7).permutation(len(ids))[: len(ids) // 10]}
    is_last = pl.col("position") == pl.col("position").max().over("session_id")
    train_events = histories.filter(~is_last & ~pl.col("item_id").is_in(list(hidden)))
    known = set(train_events["item_id"])
    cold, warm = list[Question](), list[Question]()
    for _, session in histories.group_by("session_id", maintain_order=True).agg("item_id").iter_rows():
        for place in range(1, len(session)):
            shown = [item_id for item_id in session[:place] if item_id in known]
            if shown and session[place] in hidden:
                cold.append(Question(shown, session[place]))
            elif shown and place == len(session) - 1 and session[place] in known:
                warm.append(Question(shown, session[place]))
    return ColdShop(train_events, items, cold, warm, recipe, epochs)


def _histories(file: Path, *columns: str) -> pl.DataFrame:
    return (
        pl.read_parquet(file)
        .sort("user_id", "position")
        .select(pl.format("u{}", "user_id").alias("session_id"), _item_id(), "position", *columns)
    )


def _item_id() -> pl.Expr:
    return pl.format("i{}", "item_id").alias("item_id")


def _grocery(data: Path) -> ColdShop:
    items = pl.read_parquet(data / "amazon_grocery" / "items.parquet")
    described = items.select(_item_id(), pl.format("c{}", "category").alias("category")).to_dicts()
    return _after_a_cut(
        _histories(data / "amazon_grocery" / "interactions.parquet", "timestamp_ms"), described, "sasrec", 8
    )


def _ml100k(data: Path) -> ColdShop:
    items = pl.read_parquet(data / "ml100k" / "items.parquet").with_columns(_item_id()).to_dicts()
    return _after_a_cut(_histories(data / "ml100k" / "interactions.parquet", "timestamp_ms"), items, "sasrec", 8)


def _amazon(name: str, epochs: int) -> Callable[[Path], ColdShop]:
    def shop(data: Path) -> ColdShop:
        items = pl.read_parquet(data / name / "item_attributes.parquet")
        described = [
            {"item_id": f"i{item}", "attributes": [f"a{value}" for value in values]}
            for item, values in items.iter_rows()
        ]
        return _random_tenth(_histories(data / name / "interactions.parquet"), described, "sasrec", epochs)

    return shop


def _generated(data: Path) -> ColdShop:
    shop = generate(GENERATED_EVENTS, 1)
    events = shop.events.sort("session_id", "timestamp", maintain_order=True)
    position = pl.int_range(pl.len()).over("session_id").alias("position")
    return _random_tenth(events.select("session_id", "item_id", position), shop.items.to_dicts(), "srgnn", 6)


SHOPS: Mapping[str, Callable[[Path], ColdShop]] = {
    "grocery": _grocery,
    "ml100k": _ml100k,
    "beauty": _amazon("amazon_beauty", 8),
    "sports": _amazon("amazon_sports", 6),
    "shop": _generated,
}

if __name__ == "__main__":
    typer.run(main)
