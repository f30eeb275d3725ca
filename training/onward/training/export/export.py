"""Export a trained encoder as a bundle: program, vectors, index, catalog, and probes of the encoder's results.

Dimension key: B sessions, L positions, Q queries, K interests, D embedding, N items.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import faiss
import numpy as np
import torch
from numpy.typing import NDArray

from onward.bundle import (
    ENCODER,
    INDEX,
    QUERIES,
    VECTORS,
    BundleError,
    ContentTower,
    Defaults,
    Encoder,
    Manifest,
    Retention,
    Users,
    stage,
    write_stored_sessions,
)
from onward.bundle.releases import DEFAULT_RETENTION
from onward.bundle.storage import place_of
from onward.training.chosen_epoch import chosen_epoch
from onward.training.data.corpus import Corpus
from onward.training.data.dataset import Dataset
from onward.training.data.examples import Examples
from onward.training.data.preparation.data_report import data_report
from onward.training.data.remote_dataset import local_dataset
from onward.training.data.repeats import Repeats
from onward.training.data.session_index import with_items
from onward.training.errors import InputError, disk_faults
from onward.training.export.bundling import ProbeQuery, publish_with_probes, write_catalog
from onward.training.export.content import write_content
from onward.training.export.new_items import CatalogItems, with_new_items
from onward.training.export.onnx_program import write_program
from onward.training.export.repeat_bonuses import choose_repeat_bonuses
from onward.training.export.session_weight import choose_session_weight
from onward.training.index.indexing import MAX_QUERIES, build_index
from onward.training.index.kind import TARGET_RECALL, IndexKind
from onward.training.models.encoder import SessionEncoder
from onward.training.models.ensemble import Ensemble
from onward.training.models.nearest_sessions import NearestSessionsEncoder
from onward.training.recipe import Recipe, ServingOptions
from onward.training.run_folder import WEIGHTS, best_validation, read_run, read_tensors, sessions_of_fit

PARITY = 1e-5
"""Largest allowed difference between program and torch, relative to the largest number of an interest (at least 1)."""
PROBES = 5


class TrainedRun(NamedTuple):
    """A run and its trained encoder."""

    run: Path
    recipe: Recipe
    encoder: SessionEncoder


def export(
    runs: Sequence[Path],
    bundles: Path,
    *,
    data: Path | None = None,
    index: IndexKind = IndexKind.AUTO,
    target_recall: float = TARGET_RECALL,
    staged: bool = False,
    unfinished: bool = False,
    new_items: bool = True,
    session_weight: float | None = None,
    retention: Retention = DEFAULT_RETENTION,
    on_step: Callable[[str], object] = lambda step: None,
    on_note: Callable[[str], object] = lambda note: None,
) -> str:
    """Publish a run's encoder, or an ensemble of several, as the live bundle of `bundles`; return its digest.

    Nearest sessions join networks with a weight that is chosen on validation, unless it is given.

    Args:
        runs: the folders of runs on one data set.
        bundles: the folder of bundles; created if it does not exist.
        data: the data set of the runs, if it has moved since.
        index: which index to build.
        target_recall: recall@20 of the index against exact search.
        staged: publish without making the bundle live.
        unfinished: export the best weights so far of runs that were interrupted.
        new_items: include products of the dataset's catalog that training does not know, with vectors from their
            attributes, by a content tower that is fitted to the trained items, or as means of items that share them.
        session_weight: the weight with which nearest sessions join networks.
        retention: which earlier bundles are kept.
        on_step: called with a description of each step, for a progress display.
        on_note: called with each line that says what was decided.

    Raises:
        InputError: a run has no weights yet or, without `unfinished`, is not finished; the data set is not the one it
            was trained on; or the encoders of several runs cannot be joined.
        BundleError: the exported program's interests differ from the encoder's.
    """
    dataset = Dataset.open(data or local_dataset(place_of(read_run(runs[0])["data"])))
    members = [load_trained(run, dataset) for run in runs]
    if not unfinished:
        _check_finished(runs)
    nearest, networks = _sessions_and_networks(members)
    encoder = join(networks or members)
    weight = 1.0
    if nearest is not None and networks:
        weight = session_weight or choose_session_weight(
            [member.run for member in networks], nearest.run, dataset, on_step
        )
    repeats = None
    if any(member.recipe.serving.repeats == "validation" for member in members):
        repeats = choose_repeat_bonuses(
            [member.run for member in networks or members],
            nearest.run if nearest is not None and networks else None,
            weight,
            dataset,
            on_step,
        )
    examples = _tuning_examples(dataset, encoder.max_length)
    metrics = best_validation(runs[0]) if len(runs) == 1 else {}

    with stage(bundles) as staging, disk_faults(bundles):
        on_step("exporting the encoder")
        program = staging / ENCODER
        kernel = write_program(encoder, program)
        trained = CatalogItems(dataset.attributes(), dataset.popularity(), _item_vectors(encoder))
        trained_items = len(trained.vectors_N1D) - 1
        queries_QKD = encode(encoder, examples)
        check_parity(program, encoder, examples, trained.vectors_N1D.shape, queries_QKD)
        content = None
        if networks or nearest is None:
            on_step("learning what attributes say about items")
            with stage(bundles) as scratch:
                content = write_content(
                    staging,
                    scratch,
                    trained,
                    _all_examples(dataset, encoder.max_length),
                    lambda chosen: encode(encoder, chosen),
                    on_note,
                )
        tower = None if content is None else ContentTower.load(staging, content, dimension=trained.vectors_N1D.shape[1])
        with stage(bundles) as scratch:
            new = dataset.new_items() if new_items else dataset.new_items().clear()
            items = with_new_items(
                trained,
                new,
                scratch,
                trained_items=trained_items,
                queries_QKD=queries_QKD,
                content=tower,
                on_note=on_note,
            )
        vectors_N1D = items.vectors_N1D
        np.save(staging / VECTORS, vectors_N1D)
        np.save(staging / QUERIES, queries_QKD)
        kinds = write_catalog(staging, items.ids, items.popularity_N1, items.attributes)
        if encoder.users:
            Users.write(staging, dataset.users())
        faiss_index, index_info = build_index(
            vectors_N1D, queries_QKD, index, target_recall=target_recall, on_step=on_step
        )
        faiss.write_index(faiss_index, str(staging / INDEX))
        if nearest is not None:
            write_stored_sessions(staging, with_items(nearest.encoder.stored, len(vectors_N1D) - 1))
        manifest = Manifest(
            model="+".join(member.recipe.model for member in members),
            recipe=exported_recipe([member.recipe.text for member in members]),
            data_fingerprint=dataset.info.fingerprint,
            created=datetime.now(UTC),
            metrics=metrics,
            items=len(vectors_N1D) - 1,
            encoder_items=trained_items if items is not trained else None,
            dimension=vectors_N1D.shape[1],
            users=encoder.users,
            attributes=kinds,
            interests=queries_QKD.shape[1],
            max_length=encoder.max_length,
            defaults=_defaults(_serving(members), dataset, on_note),
            kernel=kernel,
            repeats=repeats,
            nearest_sessions=nearest
            and nearest.encoder.info.model_copy(update={"weight": weight, "items": len(vectors_N1D) - 1}),
            content=content and content.model_copy(update={"factor": items.factor}),
            index=index_info,
        )
        on_step("checking and publishing the bundle")
        queries, report = probe_queries(dataset, encoder, examples), data_report(dataset)
        digest = publish_with_probes(
            staging,
            manifest,
            bundles,
            queries,
            make_live=not staged,
            unfinished=any(chosen_epoch(run) is None for run in runs),
            retention=retention,
        )
        report.write(bundles, digest)
        return digest


def _serving(members: Sequence[TrainedRun]) -> ServingOptions:
    """Return the options of the first recipe that says what to leave out, of the first one if none does."""
    options = [member.recipe.serving for member in members]
    return next((of_member for of_member in options if of_member.decided is not None), options[0])


def _defaults(serving: ServingOptions, dataset: Dataset, on_note: Callable[[str], object]) -> Defaults:
    if serving.exclude_seen == "auto":
        on_note(str(Repeats.of(dataset)))
    return Defaults(exclude_seen=serving.exclude_seen_in(dataset))


class _NearestRun(NamedTuple):
    """A run of nearest sessions."""

    run: Path
    encoder: NearestSessionsEncoder


def _sessions_and_networks(members: Sequence[TrainedRun]) -> tuple[_NearestRun | None, list[TrainedRun]]:
    """Divide runs into that of nearest sessions and the others. Raises InputError if several are of them."""
    nearest = [_NearestRun(run, encoder) for run, _, encoder in members if isinstance(encoder, NearestSessionsEncoder)]
    if len(nearest) > 1:
        raise InputError(f"{nearest[1].run}: only one run of nearest sessions can be part of a bundle")
    networks = [member for member in members if not isinstance(member.encoder, NearestSessionsEncoder)]
    if nearest and networks:
        join(members)  # checks that they can be joined
    return next(iter(nearest), None), networks


def exported_recipe(texts: Sequence[str]) -> str:
    """Return the recipe text of a bundle of runs with these recipes: each distinct text once."""
    return "\n".join(dict.fromkeys(texts))


def load_trained(run: Path, dataset: Dataset) -> TrainedRun:
    """Load a run's encoder with the weights of its best epoch, in evaluation mode.

    Raises InputError if the run has no weights yet or was trained on another data set.
    """
    record = read_run(run)
    if dataset.info.fingerprint != record["data_fingerprint"]:
        raise InputError(f"{dataset.folder}: is not the data set that {run} was trained on; name that with --data")
    if not (run / WEIGHTS).exists():
        raise InputError(f"{run}: no epoch is complete yet; go on with `onward-training train ... --resume`")
    recipe = Recipe.parse(record["recipe"], str(run / "recipe.toml"))
    weights = read_tensors(run / WEIGHTS, torch.device("cpu"))
    encoder = recipe.build(Corpus.of(dataset, sessions_of_fit(dataset, weights["fit"])))
    encoder.load_state_dict(weights["encoder"])
    return TrainedRun(run, recipe, encoder.eval())


def _check_finished(runs: Sequence[Path]) -> None:
    for run in runs:
        if chosen_epoch(run) is None:
            raise InputError(
                f"{run}: its training is not finished; go on with `onward-training train ... --resume`, "
                "or export it as it is with --unfinished"
            )


def join(members: Sequence[TrainedRun]) -> SessionEncoder:
    """Return the encoder of one run, or the ensemble of several. Raises InputError if they cannot be joined."""
    if len(members) == 1:
        return members[0].encoder
    serving = _serving(members)
    for run, recipe, encoder in members:
        if encoder.users:
            raise InputError(f"{run}: a {recipe.model} reads users; only encoders of sessions alone can be joined")
        if encoder(torch.ones(1, 2, dtype=torch.long)).shape[1] > 1:
            raise InputError(f"{run}: a {recipe.model} has several interests; only single-interest ones can be joined")
        if recipe.serving.decided not in (None, serving.decided):
            raise InputError(f"{run}: its recipe's [serving] differs from that of another run")
    return Ensemble([member.encoder for member in members]).eval()


@torch.inference_mode()
def encode(encoder: SessionEncoder, examples: Examples) -> NDArray[np.float32]:
    """Encode every example's input with torch, as queries_QKD."""
    batches = [examples.gather(examples_B) for examples_B in torch.arange(len(examples)).split(256)]
    return torch.cat([encoder(*encoder.inputs(batch)) for batch in batches]).numpy()


def check_parity(
    path: Path,
    encoder: SessionEncoder,
    examples: Examples,
    table_shape: tuple[int, ...],
    queries_QKD: NDArray[np.float32],
) -> None:
    """Raise BundleError unless the program computes the same interests as torch, one session at a time."""
    interests, dimension = queries_QKD.shape[1:]
    program = Encoder.load(
        path,
        items=table_shape[0] - 1,
        dimension=dimension,
        interests=interests,
        max_length=encoder.max_length,
        users=encoder.users,
    )
    scale = max(1.0, float(np.abs(queries_QKD).max()))
    for number, query_KD in enumerate(queries_QKD):
        batch = examples.gather(torch.tensor([number]))
        rows = batch.items_BL[batch.items_BL > 0].tolist()
        difference = float(np.abs(program.encode(rows, int(batch.users_B)) - query_KD).max())
        if not difference <= PARITY * scale:
            raise BundleError(f"{path.name}: differs from the trained encoder by {difference:.1e} on a real session")


def probe_queries(dataset: Dataset, encoder: SessionEncoder, examples: Examples) -> list[ProbeQuery]:
    """Turn a few examples into probe queries; if the encoder reads users, every other query names its user."""
    items, users = dataset.item_ids(), dataset.users()
    queries: list[ProbeQuery] = []
    for number in list(range(0, len(examples), max(1, len(examples) // PROBES)))[:PROBES]:
        batch = examples.gather(torch.tensor([number]))
        rows, user_row = batch.items_BL[batch.items_BL > 0].tolist(), int(batch.users_B)
        has_user = encoder.users and user_row and len(queries) % 2 == 0
        queries.append(ProbeQuery([items[row - 1] for row in rows], users[user_row - 1] if has_user else None))
    return queries


def _tuning_examples(dataset: Dataset, max_length: int) -> Examples:
    """Return examples to tune the index on, evenly over the validation part, or the training part without one."""
    cpu = torch.device("cpu")
    examples = Examples.of([dataset.sessions("validation")], max_length, cpu)
    if not len(examples):
        examples = Examples.of([dataset.sessions("train")], max_length, cpu)
    return examples.subset(torch.linspace(0, len(examples) - 1, min(MAX_QUERIES, len(examples))).long())


def _all_examples(dataset: Dataset, max_length: int) -> Examples:
    return Examples.of(dataset.training_and_validation(), max_length, torch.device("cpu"))


def _item_vectors(encoder: SessionEncoder) -> NDArray[np.float32]:
    return np.ascontiguousarray(encoder.item_vectors().detach().numpy(), dtype=np.float32)
