"""The contract that the trainer, the exporter and the service rely on, tested for every model of MODELS."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from pydantic import BaseModel
from torch import Tensor

from onward.bundle import ENCODER, Encoder
from onward.training.data.examples import Batch, Examples
from onward.training.export.onnx_program import write_program
from onward.training.losses.augmentations import Augmentation
from onward.training.losses.objectives import FullSoftmax, SampledSoftmax
from onward.training.models import MODELS
from onward.training.models.attrec import AttRecOptions, Distance, Hinge
from onward.training.models.comirec import ComiRecDROptions, ComiRecSAOptions
from onward.training.models.encoder import SessionEncoder
from onward.training.models.layers import Cosine, InnerProduct
from onward.training.models.mind import MINDOptions
from onward.training.models.mvcrec import ContrastOptions, ItemItemOptions, MVCrecOptions, UserItemOptions
from onward.training.models.nearest_sessions import NearestSessionsOptions
from onward.training.models.re4 import Re4Options, ReAttend, ReConstruct, ReContrast
from onward.training.models.sasrec import SASRecOptions
from onward.training.models.srgnn import SRGNNOptions
from tests.training.corpora import corpus, sessions

ITEMS, USERS, MAX_LENGTH = 30, 5, 8
SRGNN_PAPER = SRGNNOptions(
    dimension=12,
    steps=1,
    max_length=MAX_LENGTH,
    similarity=InnerProduct(kind="inner_product"),
    positions=False,
    dropout=0,
    objective=FullSoftmax(kind="full_softmax"),
)
SAMPLED = SampledSoftmax(kind="sampled_softmax", negatives=20, distribution="log_uniform", log_q=True)
SRGNN_IMPROVED = SRGNN_PAPER.model_copy(
    update={
        "similarity": Cosine(kind="cosine", scale=12),
        "positions": True,
        "dropout": 0.1,
        "steps": 2,
        "objective": SAMPLED,
    }
)
ATTREC = AttRecOptions(
    dimension=12,
    max_length=MAX_LENGTH,
    horizon=3,
    score=Distance(kind="distance"),
    user_weight=0.2,
    mask_diagonal=True,
    time_signal=True,
    projection_dropout=0,
    item_dropout=0,
    objective=Hinge(kind="hinge", margin=0.5, negatives=2),
)
ATTREC_IMPROVED = ATTREC.model_copy(
    update={
        "horizon": 1,
        "score": Cosine(kind="cosine", scale=12),
        "mask_diagonal": False,
        "projection_dropout": 0.1,
        "item_dropout": 0.1,
        "objective": SAMPLED,
    }
)
SASREC = SASRecOptions(
    dimension=12,
    layers=2,
    heads=2,
    feed_forward=24,
    max_length=MAX_LENGTH,
    similarity=InnerProduct(kind="inner_product"),
    dropout=0.1,
    objective=FullSoftmax(kind="full_softmax"),
)
COMIREC_SA = ComiRecSAOptions(
    dimension=12,
    interests=4,
    attention_dimension=48,
    max_length=MAX_LENGTH,
    similarity=InnerProduct(kind="inner_product"),
    dropout=0,
    concentration_penalty=0,
    objective=SAMPLED,
    negative_interest="of_target",
)
COMIREC_DR = ComiRecDROptions(
    dimension=12,
    interests=4,
    rounds=3,
    max_length=MAX_LENGTH,
    initial="standard_normal",
    similarity=InnerProduct(kind="inner_product"),
    dropout=0,
    objective=SAMPLED,
    negative_interest="of_target",
)
MIND_PAPER = MINDOptions(
    dimension=12,
    interests=4,
    adaptive_interests=True,
    rounds=3,
    projection=True,
    max_length=MAX_LENGTH,
    initial="glorot",
    similarity=InnerProduct(kind="inner_product"),
    dropout=0,
    objective=SAMPLED,
    negative_interest="of_target",
)
IMPROVED = {
    "similarity": Cosine(kind="cosine", scale=12),
    "dropout": 0.1,
    "objective": FullSoftmax(kind="full_softmax"),
}
KNN = NearestSessionsOptions(
    dimension=12,
    max_length=MAX_LENGTH,
    candidates=50,
    neighbours=20,
    place_power=1,
    match="linear",
    rarity_base=0,
    rarity_factor=1,
)
RE4_PAPER = Re4Options(
    dimension=12,
    hidden=24,
    interests=3,
    max_length=MAX_LENGTH,
    similarity=InnerProduct(kind="inner_product"),
    initial="standard_normal",
    readout="tanh",
    re_contrast=ReContrast(weight=0.1, temperature=0.02),
    re_attend=ReAttend(weight=0.001),
    re_construct=ReConstruct(weight=0.1),
    objective=SampledSoftmax(kind="sampled_softmax", negatives=20, distribution="uniform", log_q=False),
    negative_interest="of_target",
)
RE4_IMPROVED = RE4_PAPER.model_copy(
    update={
        "similarity": Cosine(kind="cosine", scale=12),
        "initial": "item_means",
        "readout": "none",
        "re_contrast": ReContrast(weight=0.1, temperature=0.02, denominator="negatives"),
        "re_attend": ReAttend(weight=0.001, target="attention"),
        "objective": SAMPLED,
    }
)
MVCREC_PAPER = MVCrecOptions(
    dimension=12,
    layers=2,
    heads=2,
    max_length=MAX_LENGTH,
    graph=ItemItemOptions(kind="item_item", reach=3, layers=2),
    fusion="attention",
    similarity=InnerProduct(kind="inner_product"),
    embedding_dropout=0,
    dropout=0,
    contrast=ContrastOptions(
        weight=0.01,
        similarity="inner_product",
        temperature=1,
        augmentation=Augmentation(crop=0.8, mask=0.5, reorder=0.8),
    ),
    objective=FullSoftmax(kind="full_softmax"),
)
MVCREC_IMPROVED = MVCREC_PAPER.model_copy(
    update={
        "fusion": "separate",
        "similarity": Cosine(kind="cosine", scale=12),
        "embedding_dropout": 0.1,
        "dropout": 0.1,
        "contrast": MVCREC_PAPER.contrast.model_copy(update={"similarity": "cosine", "temperature": 0.2}),
        "objective": SAMPLED,
    }
)
VARIANTS: dict[str, tuple[str, BaseModel]] = {
    "attrec": ("attrec", ATTREC),
    "attrec, improved": ("attrec", ATTREC_IMPROVED),
    "comirec_dr": ("comirec_dr", COMIREC_DR),
    "comirec_dr, improved": ("comirec_dr", COMIREC_DR.model_copy(update={**IMPROVED, "initial": "item_means"})),
    "comirec_sa": ("comirec_sa", COMIREC_SA),
    "comirec_sa, improved": ("comirec_sa", COMIREC_SA.model_copy(update={**IMPROVED, "concentration_penalty": 1})),
    "comirec_sa, first interest": ("comirec_sa", COMIREC_SA.model_copy(update={"interests": 1})),
    "knn": ("knn", KNN),
    "mind": ("mind", MIND_PAPER),
    "mind, improved": (
        "mind",
        MIND_PAPER.model_copy(update={**IMPROVED, "initial": "item_means", "projection": False}),
    ),
    "re4": ("re4", RE4_PAPER),
    "re4, improved": ("re4", RE4_IMPROVED),
    "mvcrec": ("mvcrec", MVCREC_PAPER),
    "mvcrec, improved": ("mvcrec", MVCREC_IMPROVED),
    "mvcrec, users and items": (
        "mvcrec",
        MVCREC_PAPER.model_copy(update={"graph": UserItemOptions(kind="user_item", layers=2)}),
    ),
    "sasrec": ("sasrec", SASREC),
    "sasrec, cosine": ("sasrec", SASREC.model_copy(update={"similarity": Cosine(kind="cosine", scale=12)})),
    "srgnn": ("srgnn", SRGNN_PAPER),
    "srgnn, improved": ("srgnn", SRGNN_IMPROVED),
}
SESSIONS = [[1], [2, 2], [3, 4], [5, 6, 5, 7], [8, 9, 10, 8, 9, 10, 11, 12]]


@pytest.fixture(params=VARIANTS, scope="module")
def make(request: pytest.FixtureRequest) -> Callable[[], SessionEncoder]:
    """A function that creates the same untrained encoder on every call."""

    def untrained() -> SessionEncoder:
        model, options = VARIANTS[request.param]
        torch.manual_seed(4)
        return MODELS[model].encoder(corpus(ITEMS, users=USERS), options).eval()

    return untrained


@pytest.fixture(scope="module")
def encoder(make: Callable[[], SessionEncoder]) -> SessionEncoder:
    return make()


@pytest.fixture(scope="module")
def exported(encoder: SessionEncoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The path of the exported ONNX program."""
    path = tmp_path_factory.mktemp("program") / ENCODER
    write_program(encoder, path)
    return path


@pytest.fixture(scope="module")
def program(encoder: SessionEncoder, exported: Path) -> Encoder:
    interests, dimension = encode(encoder, [[1]])[0].shape
    return Encoder.load(
        exported,
        items=ITEMS,
        dimension=dimension,
        interests=interests,
        max_length=encoder.max_length,
        users=encoder.users,
    )


def test_every_model_has_a_variant() -> None:
    assert {model for model, _ in VARIANTS.values()} == set(MODELS)


def padded(sessions: list[list[int]], length: int) -> Tensor:
    return torch.tensor([[0] * (length - len(session)) + session for session in sessions])


@torch.inference_mode()
def encode(
    encoder: SessionEncoder, sessions: list[list[int]], *, padding: int = 0, users: list[int] | None = None
) -> Tensor:
    """Encode for these user rows; for unknown users if none are given or the encoder reads sessions only."""
    items_BL = padded(sessions, max(2, *map(len, sessions)) + padding)
    users_B = torch.tensor(users if users is not None else [0] * len(sessions))
    interests_BKD: Tensor = encoder(*encoder.inputs(Batch(items_BL, items_BL, users_B)))
    return interests_BKD


def test_interests_lie_in_the_space_of_the_item_vectors(encoder: SessionEncoder) -> None:
    vectors_ND = encoder.item_vectors()
    assert vectors_ND.shape[0] == ITEMS + 1
    assert not vectors_ND[0].any()
    assert encode(encoder, SESSIONS).shape[2] == vectors_ND.shape[1]
    assert encode(encoder, SESSIONS).isfinite().all()


def test_a_session_has_the_same_encoding_alone_and_in_a_batch(encoder: SessionEncoder) -> None:
    together = encode(encoder, SESSIONS)
    for session, interests_KD in zip(SESSIONS, together, strict=True):
        torch.testing.assert_close(encode(encoder, [session])[0], interests_KD, atol=1e-6, rtol=1e-5)


def test_padding_does_not_change_the_encoding(encoder: SessionEncoder) -> None:
    torch.testing.assert_close(encode(encoder, SESSIONS, padding=5), encode(encoder, SESSIONS), atol=1e-6, rtol=1e-5)


def test_the_last_item_changes_the_encoding(encoder: SessionEncoder) -> None:
    first, second = encode(encoder, [[1, 2, 3], [1, 2, 4]])
    assert (first - second).abs().max() > 1e-5


def test_the_same_seed_makes_the_same_encoder(make: Callable[[], SessionEncoder]) -> None:
    torch.testing.assert_close(encode(make(), SESSIONS), encode(make(), SESSIONS), atol=0, rtol=0)


def test_the_exported_program_gives_the_same_interests(encoder: SessionEncoder, program: Encoder) -> None:
    for session in SESSIONS:
        for user in {0, encoder.users}:
            expected_KD = encode(encoder, [session], users=[user])[0].numpy()
            np.testing.assert_allclose(program.encode(session, user), expected_KD, atol=1e-5)


def test_the_exported_program_takes_batches_of_any_size_and_length(encoder: SessionEncoder, exported: Path) -> None:
    program = onnxruntime.InferenceSession(exported, providers=["CPUExecutionProvider"])
    for length in (MAX_LENGTH, 2):
        sessions = [session for session in SESSIONS if len(session) <= length]
        items_BL = padded(sessions, length)
        users_B = np.arange(len(sessions)) % (USERS + 1)
        all_inputs = {"items_BL": items_BL.numpy(), "users_B": users_B}
        used_inputs = {value.name: all_inputs[value.name] for value in program.get_inputs()}
        (interests_BKD,) = program.run(None, used_inputs)
        np.testing.assert_allclose(interests_BKD, encode(encoder, sessions, users=users_B.tolist()).numpy(), atol=1e-5)


def test_only_the_newest_items_of_a_long_session_count(encoder: SessionEncoder, program: Encoder) -> None:
    newest = list(range(1, MAX_LENGTH + 1))
    np.testing.assert_array_equal(program.encode([20, 21, 22, *newest]), program.encode(newest))


def test_a_training_step_lowers_the_loss_and_does_not_update_padding(make: Callable[[], SessionEncoder]) -> None:
    encoder = make()
    if not encoder.has_steps:
        pytest.skip("the model learns nothing by steps")
    examples = Examples.of(
        [sessions(*SESSIONS, [2, 3, 4, 5, 6], [7, 8, 9, 10], users=[1, 2, 3, 4, 5, 1, 2])],
        MAX_LENGTH,
        torch.device("cpu"),
        horizon=encoder.horizon,
        every_position=encoder.every_position,
    )
    batch = examples.gather(torch.arange(len(examples)))
    optimizer = torch.optim.Adam(encoder.parameters(), lr=1e-2)
    losses = []
    for _ in range(10):
        torch.manual_seed(1)
        loss = encoder.loss(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert not encoder.item_vectors()[0].any()
