"""The content tower of a bundle: fit it to the trained items, and write its program and features.

Dimension key: N rows of the item table (row 0 pads), D embedding, Q sessions, K interests, M hidden items.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir
import polars as pl
import torch
from numpy.typing import NDArray

from onward.bundle import Catalog, ContentInfo, ContentTower
from onward.bundle.catalog.cold_start import ColdItem, ColdStart
from onward.bundle.content.tower import ROWS, VECTOR, WEIGHTS
from onward.bundle.files.manifest import CONTENT, CONTENT_FEATURES, CONTENT_RARITY, ContentProbe
from onward.training.content.fit import FittedContent, HiddenTargets, TrainedItems, fit_content
from onward.training.content.network import ServingForm
from onward.training.data.examples import Examples
from onward.training.export.bundling import json_attributes, write_catalog
from onward.training.export.new_items import CatalogItems
from onward.training.export.onnx_program import exported_program

MAX_TARGETS = 2_000
"""Sessions that choose a network: each has a hidden item as its next one."""
PROBES = 5


def write_content(
    staging: Path,
    scratch: Path,
    trained: CatalogItems,
    examples: Examples,
    encode: Callable[[Examples], NDArray[np.float32]],
    on_note: Callable[[str], object],
) -> ContentInfo | None:
    """Fit a content tower to trained items and write it into `staging`; return its entry in the manifest.

    None if the items have too few attributes or if it ranks items worse than means of neighbours, which is reported.

    Args:
        staging: the folder of the bundle.
        scratch: an empty folder for files.
        trained: the trained items.
        examples: examples of the dataset.
        encode: returns interests_QKD of examples.
        on_note: called with a line that says what was decided.
    """
    attributes = list(json_attributes(trained.attributes.drop("item_id", "available", strict=False)))
    if not any(attributes):
        return None
    items = TrainedItems(attributes, trained.vectors_N1D, trained.popularity_N1)
    fitted = fit_content(
        items,
        lambda rows_M: _hidden_targets(rows_M, examples, encode),
        lambda rows_M: _means_of_neighbours(rows_M, trained, attributes, scratch),
    )
    if fitted is None:
        return None
    on_note(_described(fitted))
    return write_tower(staging, fitted, attributes) if fitted.is_better else None


def write_tower(staging: Path, fitted: FittedContent, attributes: Sequence[dict[str, Any]]) -> ContentInfo:
    """Write a fitted network and its features; return its entry in the manifest, with probes of some items."""
    features = fitted.features
    np.save(staging / CONTENT_FEATURES, features.known_F)
    np.save(staging / CONTENT_RARITY, features.rarity_F)
    length = torch.export.Dim("features", min=2)
    example = (torch.tensor([0, 1, 1]), torch.tensor([0.0, 0.5, 0.5]))
    program = exported_program(
        ServingForm(fitted.network, fitted.length),
        {ROWS: (example[0], {0: length}), WEIGHTS: (example[1], {0: length})},
        VECTOR,
    )
    onnx_ir.save(program, staging / CONTENT)
    info = ContentInfo(
        features=len(features.known_F),
        edges={name: tuple(edges) for name, edges in features.edges.items()},
        dates=tuple(sorted(features.dates)),
        factor=1.0,
        probes=(ContentProbe(attributes={}, vector=(0.0,)),),
    )
    tower = ContentTower.load(staging, info, dimension=fitted.network.output.out_features, verify=False)
    probes = [tower.probe(attributes[place]) for place in range(0, len(attributes), max(1, len(attributes) // PROBES))]
    return info.model_copy(update={"probes": tuple(probe for probe in probes if probe is not None)[:PROBES]})


def _hidden_targets(
    rows_M: NDArray[np.int64], examples: Examples, encode: Callable[[Examples], NDArray[np.float32]]
) -> HiddenTargets:
    next_items = examples.rows[examples.targets_E]
    chosen = torch.nonzero(torch.isin(next_items, torch.from_numpy(rows_M))).squeeze(1)
    chosen = chosen[torch.randperm(len(chosen))[:MAX_TARGETS]]
    if not len(chosen):
        return HiddenTargets(np.empty((0, 1, 1), np.float32), np.empty(0, np.int64))
    interests_QKD = encode(examples.subset(chosen))
    return HiddenTargets(interests_QKD, np.searchsorted(rows_M, next_items[chosen].numpy()))


def _means_of_neighbours(
    rows_M: NDArray[np.int64], trained: CatalogItems, attributes: Sequence[dict[str, Any]], scratch: Path
) -> NDArray[np.float32]:
    """Return what hidden items would get from the other items without a content tower."""
    shown = np.setdiff1d(np.arange(1, len(trained.vectors_N1D)), rows_M)
    with_padding = np.concatenate([[0], shown])
    ids = [trained.ids[row - 1] for row in shown]
    of_shown = trained.attributes[pl.Series(shown - 1)]
    if "available" in of_shown.columns:
        of_shown = of_shown.drop("available")
    kinds = write_catalog(scratch, ids, trained.popularity_N1[with_padding], of_shown)
    cold_start = ColdStart(Catalog.load(scratch, len(ids), kinds), trained.vectors_N1D[with_padding])
    vectors_MD = np.zeros((len(rows_M), trained.vectors_N1D.shape[1]), dtype=np.float32)
    for place, row in enumerate(rows_M):
        cold = cold_start.vector(ColdItem(attributes[row - 1]))
        if cold is not None:
            vectors_MD[place] = cold.vector_D
    return vectors_MD


def _described(fitted: FittedContent) -> str:
    ranked = (
        f"of {fitted.hidden:,} hidden items it ranks the next one at an MRR of {fitted.mrr:.3f}, "
        f"means of items that share attributes at {fitted.neighbours_mrr:.3f}"
    )
    if fitted.is_better:
        return f"a content tower learned to give new products vectors from their attributes: {ranked}"
    return f"no content tower is part of the bundle: {ranked}"
