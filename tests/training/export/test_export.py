"""A run is exported as a bundle that ranks like the trained encoder."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from onward.bundle import Bundle, Options, SessionView, current_digest, staged_bundles
from onward.bundle.data_report import DataReport
from onward.training.data.dataset import Dataset
from onward.training.data.examples import Examples
from onward.training.data.repeats import Repeats
from onward.training.errors import InputError
from onward.training.export.export import export, load_trained
from onward.training.export.rebuild import rebuild
from onward.training.index.kind import IndexKind
from onward.training.recipe import Recipe
from onward.training.run_folder import best_validation
from onward.training.trainer import train


@pytest.fixture
def bundle(exported: Path) -> Bundle:
    return Bundle.load(exported / "current")


@torch.inference_mode()
def test_the_bundle_gives_the_same_interests_and_ranking_as_torch(
    run: Path, bundle: Bundle, recipe: Recipe, dataset: Dataset
) -> None:
    encoder = load_trained(run, dataset).encoder
    examples = Examples.of([dataset.sessions("test")], recipe.encoder.max_length, torch.device("cpu"))
    ids = dataset.item_ids()
    for number in range(0, len(examples), 7):
        items_BL = examples.gather(torch.tensor([number])).items_BL
        session = items_BL[items_BL > 0].tolist()
        interest_D = encoder(items_BL)[0, 0]
        np.testing.assert_allclose(bundle.encoder.encode(session)[0], interest_D.numpy(), atol=1e-5)
        scores_N, rows_N = (encoder.item_vectors() @ interest_D)[1:].topk(5)
        retrieved = bundle.retrieve(SessionView([ids[row - 1] for row in session]), Options(5)).items
        assert [item.item_id for item in retrieved] == [ids[row] for row in rows_N.tolist()]
        assert [item.score for item in retrieved] == pytest.approx(scores_N.tolist(), abs=1e-5)


def test_the_compiled_kernel_passes_the_probes(exported: Path) -> None:
    bundle = Bundle.load(exported / "current")
    engine_before = bundle.encoder.engine
    bundle.accelerate(exported / "current")
    assert (engine_before, bundle.encoder.engine) == ("onnx", "kernel")
    bundle.check_probes()


def test_the_manifest_records_model_recipe_and_data(
    run: Path, bundle: Bundle, recipe: Recipe, dataset: Dataset
) -> None:
    manifest = bundle.manifest
    assert (manifest.model, manifest.recipe) == ("srgnn", recipe.text)
    assert manifest.data_fingerprint == dataset.info.fingerprint
    assert manifest.metrics == best_validation(run)
    assert (manifest.items, manifest.dimension, manifest.interests) == (len(dataset.item_ids()), 16, 1)
    assert manifest.index.description == "Flat"
    assert len(manifest.probes) == 5


def test_how_often_items_are_repeated_decides_what_is_left_out_by_default(
    recipe: Recipe, dataset: Dataset, tmp_path: Path
) -> None:
    deciding = Recipe.parse(recipe.text.replace("exclude_seen = false", 'exclude_seen = "auto"'), "deciding")
    train(deciding, dataset.folder, tmp_path / "run", device_name="cpu", epochs=1)
    notes: list[str] = []
    export([tmp_path / "run"], tmp_path / "bundles", on_note=notes.append)
    repeats, bundle = Repeats.of(dataset), Bundle.load(tmp_path / "bundles" / "current")
    assert notes == [str(repeats)]
    assert bundle.manifest.defaults.exclude_seen == repeats.exclude_seen


def test_the_bundle_holds_no_path_of_the_machine_that_made_it(exported: Path) -> None:
    for file in (exported / "current").iterdir():
        assert str(Path.cwd()).encode() not in file.read_bytes(), file.name


def test_the_figures_of_the_dataset_lie_beside_the_bundle_and_outlast_a_rebuild(
    bundles: Path, dataset: Dataset
) -> None:
    exported_digest = str(current_digest(bundles))
    report = DataReport.read(bundles, exported_digest)
    assert report is not None
    assert report.fingerprint == dataset.info.fingerprint
    assert {part: size.events for part, size in report.parts.items()} == {
        part: size.events for part, size in dataset.info.parts.items()
    }
    sessions = sum(size.sessions for size in dataset.info.parts.values())
    assert sum(bar.value for bar in report.session_lengths) == sessions
    assert sum(bar.value for bar in report.popularity) == pytest.approx(1.0)
    assert report.drift is not None
    assert 0 <= report.drift < 1
    rebuilt = rebuild(bundles, index=IndexKind.IVF)
    assert rebuilt != exported_digest
    assert DataReport.read(bundles, rebuilt) == report


@pytest.fixture(scope="module")
def with_inverted_file(run: Path, exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of bundles after a second export, with an inverted file as index."""
    folder = tmp_path_factory.mktemp("again") / "bundles"
    shutil.copytree(exported, folder, symlinks=True)
    digest = export([run], folder, index=IndexKind.IVF)
    assert current_digest(folder) == digest
    return folder


def test_exporting_again_moves_current_and_keeps_the_previous_bundle(with_inverted_file: Path, bundle: Bundle) -> None:
    assert current_digest(with_inverted_file) != bundle.digest
    assert (with_inverted_file / bundle.digest).is_dir()


def test_an_inverted_file_reaches_its_target_recall(with_inverted_file: Path) -> None:
    info = Bundle.load(with_inverted_file / "current").manifest.index
    assert info.description.startswith("IVF")
    assert info.recall_at_20 >= 0.99


def test_a_data_set_other_than_the_runs_is_refused(run: Path, dataset: Dataset, tmp_path: Path) -> None:
    record = json.loads((run / "run.json").read_text())
    other = tmp_path / "run"
    other.mkdir()
    (other / "run.json").write_text(json.dumps({**record, "data_fingerprint": "0" * 64}))
    with pytest.raises(InputError, match="is not the data set"):
        export([other], tmp_path / "bundles")


def test_a_run_without_a_complete_epoch_is_refused(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "run"
    other.mkdir()
    (other / "run.json").write_bytes((run / "run.json").read_bytes())
    with pytest.raises(InputError, match="no epoch is complete yet"):
        export([other], tmp_path / "bundles")
    assert not (tmp_path / "bundles").exists()


def test_a_staged_export_does_not_move_current(exported: Path, exported_twice: Path) -> None:
    live = current_digest(exported)
    (digest,) = staged_bundles(exported_twice)
    assert current_digest(exported_twice) == live != digest


@pytest.mark.slow
def test_an_interrupted_run_is_exported_only_on_request(recipe: Recipe, dataset: Dataset, tmp_path: Path) -> None:
    train(recipe, dataset.folder, tmp_path / "run", device_name="cpu", on_epoch=lambda line: False)
    with pytest.raises(InputError, match=r"its training is not finished; .* --unfinished"):
        export([tmp_path / "run"], tmp_path / "bundles")
    assert not (tmp_path / "bundles").exists()
    digest = export([tmp_path / "run"], tmp_path / "bundles", unfinished=True)
    assert current_digest(tmp_path / "bundles") == digest


@pytest.mark.slow
def test_several_runs_become_one_encoder_that_sums_their_scores(
    run: Path, recipe: Recipe, dataset: Dataset, tmp_path: Path
) -> None:
    train(recipe, dataset.folder, tmp_path / "other", device_name="cpu", epochs=1, seed=2)
    export([run, tmp_path / "other"], tmp_path / "bundles")
    bundle = Bundle.load(tmp_path / "bundles" / "current")
    assert bundle.manifest.model == "srgnn+srgnn"
    encoders = [load_trained(folder, dataset).encoder for folder in (run, tmp_path / "other")]
    with torch.inference_mode():
        expected_N = sum(encoder(torch.tensor([[1, 2, 3]]))[0, 0] @ encoder.item_vectors().T for encoder in encoders)
    assert isinstance(expected_N, torch.Tensor)
    ids = dataset.item_ids()
    ranking = bundle.retrieve(SessionView(ids[:3]), Options(5)).items
    assert [item.score for item in ranking] == pytest.approx(
        [float(expected_N[ids.index(i.item_id) + 1]) for i in ranking]
    )
    assert ranking[0].score == pytest.approx(float(expected_N[1:].max()))


def test_runs_with_different_serving_options_cannot_be_joined(
    run: Path, recipe: Recipe, dataset: Dataset, tmp_path: Path
) -> None:
    hiding = Recipe.parse(recipe.text.replace("exclude_seen = false", "exclude_seen = true"), "hiding")
    train(hiding, dataset.folder, tmp_path / "other", device_name="cpu", epochs=1)
    with pytest.raises(InputError, match=r"other: its recipe's \[serving\] differs"):
        export([run, tmp_path / "other"], tmp_path / "bundles")
