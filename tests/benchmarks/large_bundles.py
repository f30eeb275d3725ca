"""Bundles of catalogs larger than the training data: a trained encoder over a scaled-up item table.

Dimension key: N trained items, M items of the bundle, B sessions, K interests, D embedding; row 0 pads.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from onward.bundle import ENCODER, INDEX, QUERIES, VECTORS, Catalog, Defaults, Encoder, Manifest, stage
from onward.training.data.dataset import Dataset
from onward.training.export.bundling import ProbeQuery, publish_with_probes
from onward.training.export.export import TrainedRun, exported_recipe
from onward.training.export.onnx_program import write_program
from onward.training.index.indexing import MAX_QUERIES, build_index
from onward.training.models.encoder import SessionEncoder
from tests.benchmarks.scaled_catalog import ScaledCatalog, structure

CATEGORIES = 10
MAX_PRICE = 100.0
PROBES = 5
BLOCK_ROWS = 262_144


def publish_scaled(
    trained: TrainedRun,
    dataset: Dataset,
    items: int,
    bundles: Path,
    *,
    target_recall: float,
    on_step: Callable[[str], object],
    seed: int = 1,
) -> dict[str, Any]:
    """Publish a bundle of `items` items; return the duration of each step and the structure of both item tables.

    Modifies the encoder of `trained`.
    """
    generator = np.random.default_rng(seed)
    steps = _Steps(on_step)
    encoder = trained.encoder
    with torch.inference_mode():
        vectors_N1D = encoder.item_vectors().numpy().copy()
    steps.begin("drawing the items' parents")
    scaled = ScaledCatalog.draw(vectors_N1D, items, generator)
    sessions = scaled.sessions(_sessions(dataset, encoder.max_length), generator)
    steps.begin("enlarging the item table")
    scale_tables(encoder, len(vectors_N1D), scaled, generator)
    with stage(bundles) as staging, torch.inference_mode():
        vectors_M1D = encoder.item_vectors().numpy()
        np.save(staging / VECTORS, vectors_M1D)
        structures = {
            "trained": structure(vectors_N1D[1:], generator),
            "enlarged": structure(vectors_M1D[1:], generator),
        }
        del vectors_M1D
        steps.begin("exporting the encoder")
        kernel = write_program(encoder, staging / ENCODER)
        interests = encoder(torch.ones(1, 2, dtype=torch.long)).shape[1]
        _free_tables(encoder, len(vectors_N1D), items)
        program = Encoder.load(
            staging / ENCODER,
            items=items,
            dimension=vectors_N1D.shape[1],
            interests=interests,
            max_length=encoder.max_length,
        )
        queries_QKD = np.stack([program.encode(rows) for rows in sessions[:MAX_QUERIES]])
        del program
        np.save(staging / QUERIES, queries_QKD)
        steps.begin("writing the catalog")
        ids = [f"item-{row}" for row in range(1, items + 1)]
        popularity_M1 = _popularity(dataset, scaled, generator)
        attributes = _attributes(scaled, generator)
        kinds = Catalog.write(staging, ids, popularity_M1, attributes, _availability(items, generator))
        steps.begin("building the index")
        table_M1D = np.load(staging / VECTORS, mmap_mode="r")
        index, info = build_index(table_M1D, queries_QKD, target_recall=target_recall, on_step=steps.begin)
        steps.begin("writing the index")
        faiss.write_index(index, str(staging / INDEX))
        del index
        manifest = Manifest(
            model=trained.recipe.model,
            recipe=exported_recipe([trained.recipe.text]),
            data_fingerprint=dataset.info.fingerprint,
            created=datetime.now(UTC),
            metrics={},
            items=items,
            dimension=vectors_N1D.shape[1],
            attributes=kinds,
            interests=interests,
            max_length=encoder.max_length,
            defaults=Defaults(exclude_seen=trained.recipe.serving.exclude_seen_in(dataset)),
            kernel=kernel,
            index=info,
        )
        steps.begin("checking and publishing the bundle")
        probes = [ProbeQuery([ids[row - 1] for row in rows]) for rows in sessions[-PROBES:]]
        publish_with_probes(staging, manifest, bundles, probes)
    return {"structure": structures, "seconds": steps.seconds()}


def scale_tables(encoder: SessionEncoder, rows: int, scaled: ScaledCatalog, generator: np.random.Generator) -> None:
    """Replace every embedding table of `rows` rows by the scaled table."""
    for table in _tables(encoder, rows):
        weight_M1D = np.empty((scaled.items + 1, table.embedding_dim), dtype=np.float32)
        scaled.fill(weight_M1D, table.weight.detach().numpy(), generator)
        table.weight = nn.Parameter(torch.from_numpy(weight_M1D), requires_grad=False)
        table.num_embeddings = scaled.items + 1


def _tables(encoder: SessionEncoder, rows: int) -> list[nn.Embedding]:
    return [part for part in encoder.modules() if isinstance(part, nn.Embedding) and part.num_embeddings == rows]


def _free_tables(encoder: SessionEncoder, trained_rows: int, items: int) -> None:
    """Free the memory of the scaled tables."""
    for table in _tables(encoder, items + 1):
        table.weight = nn.Parameter(table.weight[:trained_rows].clone(), requires_grad=False)
        table.num_embeddings = trained_rows


def _sessions(dataset: Dataset, max_length: int) -> list[list[int]]:
    """Return held-out sessions without their last item, as rows of known items."""
    part = dataset.sessions("validation")
    part = part if len(part) else dataset.sessions("train")
    starts, ends = part.offsets[:-1], part.offsets[1:]
    chosen = np.linspace(0, len(part) - 1, min(4 * MAX_QUERIES, len(part))).astype(int)
    rows = (part.rows[starts[session] : ends[session] - 1] for session in chosen)
    known = ([row for row in session.tolist() if row][-max_length:] for session in rows)
    return [session for session in known if session]


def _popularity(dataset: Dataset, scaled: ScaledCatalog, generator: np.random.Generator) -> NDArray[np.float32]:
    """Draw a random share of the parent's popularity, which keeps the power law of the trained items."""
    popularity_M1 = dataset.popularity()[scaled.parents_M1] * generator.random(scaled.items + 1, dtype=np.float32)
    rounded_M1: NDArray[np.float32] = np.ceil(popularity_M1).astype(np.float32)
    return rounded_M1


def _availability(items: int, generator: np.random.Generator) -> NDArray[np.bool_]:
    available_M1: NDArray[np.bool_] = generator.random(items + 1, dtype=np.float32) < 0.95
    available_M1[0] = False
    return available_M1


def _attributes(scaled: ScaledCatalog, generator: np.random.Generator) -> Iterator[dict[str, Any]]:
    """Yield attributes: one of ten categories, inherited from the parent, and a price, uniform from 0 to 100."""
    category_of_parent = generator.integers(0, CATEGORIES, int(scaled.parents_M1.max()) + 1)
    for start in range(1, scaled.items + 1, BLOCK_ROWS):
        parents = scaled.parents_M1[start : start + BLOCK_ROWS]
        prices = np.round(generator.uniform(0, MAX_PRICE, len(parents)), 2)
        for category, price in zip(category_of_parent[parents].tolist(), prices.tolist(), strict=True):
            yield {"category": f"category-{category}", "price": price}


class _Steps:
    """Announces steps and measures how long each takes."""

    def __init__(self, on_step: Callable[[str], object]) -> None:
        self._on_step = on_step
        self._started: list[tuple[str, float]] = []

    def begin(self, step: str) -> None:
        self._on_step(step)
        self._started.append((step, time.perf_counter()))

    def seconds(self) -> dict[str, float]:
        ends: Sequence[float] = [*(started_s for _, started_s in self._started[1:]), time.perf_counter()]
        durations = (
            (step, round(end - started_s, 1)) for (step, started_s), end in zip(self._started, ends, strict=True)
        )
        return {step: seconds for step, seconds in durations if seconds}
