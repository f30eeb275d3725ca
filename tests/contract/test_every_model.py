"""The contract that the trainer, the exporter and the service rely on, tested for every model of MODELS."""

import pytest
import torch
from pydantic import BaseModel

from onward.training.data.examples import Feedback
from onward.training.losses.augmentations import Augmentation
from onward.training.losses.objectives import FullSoftmax, SampledSoftmax
from onward.training.model_contract import CHECKS, ModelUnderTest
from onward.training.models import MODELS
from onward.training.models.attrec import AttRecOptions, Distance, Hinge
from onward.training.models.comirec import ComiRecDROptions, ComiRecSAOptions
from onward.training.models.layers import Cosine, InnerProduct, ItemGraphOptions
from onward.training.models.mind import MINDOptions
from onward.training.models.mvcrec import ContrastOptions, ItemItemOptions, MVCrecOptions, UserItemOptions
from onward.training.models.nearest_sessions import NearestSessionsOptions
from onward.training.models.re4 import Re4Options, ReAttend, ReConstruct, ReContrast
from onward.training.models.sasrec import SASRecOptions
from onward.training.models.srgnn import SRGNNOptions
from onward.training.recipe import RECIPES, Recipe

MAX_LENGTH = 8
ITEM_GRAPH = ItemGraphOptions(neighbours=3, reach=2)
TRAINING = Recipe.load(RECIPES / "srgnn.toml").training
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
    "sasrec, item graph": ("sasrec", SASREC.model_copy(update={"item_graph": ITEM_GRAPH})),
    "srgnn": ("srgnn", SRGNN_PAPER),
    "srgnn, improved": ("srgnn", SRGNN_IMPROVED),
    "srgnn, item graph": ("srgnn", SRGNN_PAPER.model_copy(update={"item_graph": ITEM_GRAPH})),
    "srgnn, improved, item graph": ("srgnn", SRGNN_IMPROVED.model_copy(update={"item_graph": ITEM_GRAPH})),
}


PAPER_FORMS = {name.removesuffix(", improved") for name in VARIANTS if name.endswith(", improved")} | {"sasrec"}
"""Forms whose checks are slow tests, as another form of the same model has quick ones."""


@pytest.fixture(
    params=[pytest.param(name, marks=pytest.mark.slow if name in PAPER_FORMS else ()) for name in VARIANTS],
    scope="module",
)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ModelUnderTest:
    name, options = VARIANTS[request.param]
    return ModelUnderTest(MODELS[name], options, TRAINING, tmp_path_factory.mktemp("program"))


def test_every_model_has_a_variant() -> None:
    assert {model for model, _ in VARIANTS.values()} == set(MODELS)


@pytest.mark.parametrize("check", CHECKS)
def test_a_model_keeps_the_contract(check: str, model: ModelUnderTest) -> None:
    assert CHECKS[check](model)


def test_every_model_that_learns_weighs_its_targets(model: ModelUnderTest) -> None:
    encoder, batch = model.encoder, model.batch
    if not encoder.has_steps:
        pytest.skip("learns nothing by steps")

    def loss(weights_BT: torch.Tensor | None) -> float:
        torch.manual_seed(1)  # equal negatives, augmentations and dropout
        feedback_BT = None if weights_BT is None else Feedback(weights_BT)
        return float(encoder.loss(batch._replace(feedback_BT=feedback_BT)).item())

    one_BT = torch.ones_like(batch.targets_BT, dtype=torch.float32)
    some_BT = torch.rand(one_BT.shape, generator=torch.Generator().manual_seed(2))
    without, nothing = loss(None), loss(0 * one_BT)
    assert loss(one_BT) == pytest.approx(without, rel=1e-5)
    assert loss(3 * one_BT) - nothing == pytest.approx(3 * (without - nothing), rel=1e-3)
    assert loss(some_BT) + loss(one_BT - some_BT) == pytest.approx(without + nothing, rel=1e-3)
    assert nothing < loss(some_BT) < without


def test_every_model_with_a_softmax_learns_from_impressions(model: ModelUnderTest) -> None:
    encoder, batch = model.encoder, model.batch
    if not isinstance(getattr(model.options, "objective", None), FullSoftmax | SampledSoftmax):
        pytest.skip("has no softmax")

    def loss(weight: float) -> float:
        torch.manual_seed(1)  # equal negatives, augmentations and dropout
        shown_BT1 = torch.full_like(batch.targets_BT, 3).unsqueeze(2)
        return float(encoder.loss(batch._replace(feedback_BT=Feedback(None, shown_BT1, weight))).item())

    without = loss(0)
    assert loss(1) > without
    assert loss(2) - without == pytest.approx(2 * (loss(1) - without), rel=1e-3)
