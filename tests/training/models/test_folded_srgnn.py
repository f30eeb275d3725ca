"""The serving form of SR-GNN, as a program and as a compiled kernel, gives the interests of the encoder."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from onward.bundle import TABLE, WEIGHTS, Encoder
from onward.bundle.encoder.kernel import KernelUnavailable
from onward.bundle.files.manifest import KernelInfo
from onward.training.export.onnx_program import write_form
from onward.training.losses.objectives import FullSoftmax
from onward.training.models.ensemble import Ensemble
from onward.training.models.folded_srgnn import FoldedSRGNN
from onward.training.models.layers import Cosine, InnerProduct
from onward.training.models.srgnn import SRGNN, SRGNNOptions
from tests.training.corpora import corpus

ITEMS, MAX_LENGTH = 30, 8
PAPER = SRGNNOptions(
    dimension=12,
    steps=1,
    max_length=MAX_LENGTH,
    similarity=InnerProduct(kind="inner_product"),
    positions=False,
    dropout=0,
    objective=FullSoftmax(kind="full_softmax"),
)
IMPROVED = PAPER.model_copy(
    update={"dimension": 10, "similarity": Cosine(kind="cosine", scale=12), "positions": True, "dropout": 0.1}
)
SESSIONS = [
    [1],
    [2, 2],
    [3, 4],
    [30, 1, 30],
    [5, 6, 5, 7, 5],
    [7, 7, 7, 8, 7, 8, 8],
    [8, 9, 10, 8, 9, 10, 11, 12],
    [1, 2, 3, 4, 5, 6, 7, 8],
]


def srgnn(options: SRGNNOptions) -> SRGNN:
    torch.manual_seed(4)
    return SRGNN(corpus(ITEMS), options).eval()


def ensemble() -> Ensemble:
    return Ensemble([srgnn(PAPER), srgnn(IMPROVED)]).eval()


FORMS: dict[str, tuple[Callable[[], SRGNN | Ensemble], int]] = {
    "paper": (lambda: srgnn(PAPER), 2**20),
    "improved": (lambda: srgnn(IMPROVED), 2**20),
    "paper, vectors alone": (lambda: srgnn(PAPER), 0),
    "improved, vectors alone": (lambda: srgnn(IMPROVED), 0),
    "ensemble": (ensemble, 2**20),
    "ensemble, vectors alone": (ensemble, 0),
}


class Exported:
    """An encoder, its folded form and the exported program of that form."""

    def __init__(self, encoder: SRGNN | Ensemble, max_table_bytes: int, folder: Path) -> None:
        self.encoder, self.folder = encoder, folder
        members = [module.layers() for module in encoder.modules() if isinstance(module, SRGNN)]
        self.form = FoldedSRGNN(members, max_table_bytes=max_table_bytes)
        info = write_form(self.form, folder / "encoder.onnx", takes_users=False)
        assert info is not None
        self.info: KernelInfo = info

    def load(self) -> Encoder:
        dimension = self.encoder.item_vectors().shape[1]
        return Encoder.load(
            self.folder / "encoder.onnx", items=ITEMS, dimension=dimension, interests=1, max_length=MAX_LENGTH
        )

    def accelerated(self) -> Encoder:
        encoder = self.load()
        encoder.accelerate(self.folder, self.info, sessions=SESSIONS)
        return encoder

    @torch.inference_mode()
    def expected(self, session: list[int]) -> np.ndarray:
        items_BL = torch.tensor([[0] * (2 - len(session)) + session])
        interests_BKD: Tensor = self.encoder(items_BL)
        return interests_BKD[0].numpy()


@pytest.fixture(
    params=[name if name == "improved" else pytest.param(name, marks=pytest.mark.slow) for name in FORMS],
    scope="module",
)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    make, max_table_bytes = FORMS[request.param]
    return Exported(make(), max_table_bytes, tmp_path_factory.mktemp("program"))


def test_the_folded_form_gives_the_same_interests_with_padding_and_without(exported: Exported) -> None:
    for padding in (0, 3):
        length = MAX_LENGTH + padding
        items_BL = torch.tensor([[0] * (length - len(session)) + session for session in SESSIONS])
        with torch.inference_mode():
            torch.testing.assert_close(exported.form(items_BL), exported.encoder(items_BL), atol=1e-6, rtol=1e-5)


def test_the_program_gives_the_same_interests(exported: Exported) -> None:
    encoder = exported.load()
    assert encoder.engine == "onnx"
    for session in SESSIONS:
        np.testing.assert_allclose(encoder.encode(session), exported.expected(session), atol=1e-5)


def test_the_kernel_gives_the_same_interests(exported: Exported) -> None:
    encoder = exported.accelerated()
    assert encoder.engine == "kernel"
    for session in SESSIONS:
        np.testing.assert_allclose(encoder.encode(session), exported.expected(session), atol=1e-5)
        np.testing.assert_array_equal(
            encoder.encode([20, 21, *session][-MAX_LENGTH:]), encoder.encode([20, 21, *session])
        )


def test_the_kernel_encodes_several_sessions_as_it_does_each_alone(exported: Exported) -> None:
    encoder = exported.accelerated()
    together = encoder.encode_all(SESSIONS, [0] * len(SESSIONS))
    for session, interests_KD in zip(SESSIONS, together, strict=True):
        np.testing.assert_allclose(interests_KD, encoder.encode(session), rtol=0, atol=1e-6)


@pytest.mark.parametrize("rows", [[0], [1, -1], [ITEMS + 1]])
def test_the_kernel_reads_no_row_beyond_the_table(exported: Exported, rows: list[int]) -> None:
    with pytest.raises(IndexError, match="rows of items are 1 to 30"):
        exported.accelerated().encode(rows)


def test_the_program_reads_the_table_file_of_the_kernel(exported: Exported) -> None:
    table_NT = np.load(exported.folder / TABLE)
    np.save(exported.folder / TABLE, np.zeros_like(table_NT))
    try:
        moved = exported.load().encode([1, 2])
    finally:
        np.save(exported.folder / TABLE, table_NT)
    assert not np.allclose(moved, exported.expected([1, 2]), atol=1e-5)
    assert not (exported.folder / "encoder.onnx.data").exists()


def test_a_kernel_that_differs_from_the_program_is_not_used(exported: Exported) -> None:
    weights = np.load(exported.folder / WEIGHTS)
    np.save(exported.folder / WEIGHTS, weights * np.float32(1.01))
    encoder = exported.load()
    try:
        with pytest.raises(KernelUnavailable, match="differs from the program by"):
            encoder.accelerate(exported.folder, exported.info, sessions=SESSIONS)
    finally:
        np.save(exported.folder / WEIGHTS, weights)
    assert encoder.engine == "onnx"
    np.testing.assert_allclose(encoder.encode([1, 2]), exported.expected([1, 2]), atol=1e-5)


def test_weights_of_a_wrong_shape_are_refused(exported: Exported) -> None:
    weights = np.load(exported.folder / WEIGHTS)
    np.save(exported.folder / WEIGHTS, weights[:-1])
    try:
        with pytest.raises(KernelUnavailable, match=rf"{WEIGHTS}: float32 .*, expected"):
            exported.accelerated()
    finally:
        np.save(exported.folder / WEIGHTS, weights)


def test_an_encoder_of_several_steps_is_not_folded() -> None:
    encoder = srgnn(PAPER.model_copy(update={"steps": 2}))
    assert encoder.serving_form() is encoder


def test_encoders_of_different_lengths_are_folded_separately() -> None:
    encoder = Ensemble([srgnn(PAPER), srgnn(IMPROVED.model_copy(update={"max_length": 4}))]).eval()
    form = encoder.serving_form()
    assert not isinstance(form, FoldedSRGNN)
    assert sum(isinstance(module, FoldedSRGNN) for module in form.modules()) == 2
    items_BL = torch.tensor([[8, 9, 10, 8, 9, 10, 11, 12]])
    with torch.inference_mode():
        torch.testing.assert_close(form(items_BL), encoder(items_BL), atol=1e-6, rtol=1e-5)
