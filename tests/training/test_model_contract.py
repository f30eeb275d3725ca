"""Each check of the contract finds a model that is at fault in it, and says what is wrong."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import BaseModel, ConfigDict, PositiveInt
from torch import Tensor, nn
from typer.testing import CliRunner

from onward.training.cli import cli
from onward.training.data.corpus import Corpus
from onward.training.data.examples import Batch
from onward.training.losses.objectives import FullSoftmax, NextItemLoss
from onward.training.model_contract import CHECKS, check_recipe
from onward.training.models import MODELS, Model
from onward.training.models.encoder import UserEncoder
from onward.training.models.layers import InnerProduct, ItemTable
from onward.training.recipe import RECIPES, Recipe


class PlainOptions(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    max_length: PositiveInt


class Plain(UserEncoder):
    """The newest item's vector plus the mean of all, without a fault."""

    def __init__(self, corpus: Corpus, options: PlainOptions) -> None:
        super().__init__()
        self.max_length, self.users = options.max_length, corpus.users
        self.items = ItemTable(corpus.items, 6, InnerProduct(kind="inner_product"))
        self.of_users = nn.Embedding(corpus.users + 1, 6, padding_idx=0)
        self.next_item_loss = NextItemLoss.of(FullSoftmax(kind="full_softmax"), corpus.popularity())

    def forward(self, items_BL: Tensor, users_B: Tensor | None = None) -> Tensor:
        vectors_BLD = self.items(items_BL)
        counts_B1 = (items_BL != 0).sum(dim=1, keepdim=True).clamp(min=1)
        interests_BD: Tensor = vectors_BLD[:, -1] + vectors_BLD.sum(dim=1) / counts_B1
        if users_B is not None:
            interests_BD = interests_BD + self.of_users(users_B)
        return interests_BD.unsqueeze(1)

    def item_vectors(self) -> Tensor:
        return self.items.vectors()

    def loss(self, batch: Batch) -> Tensor:
        interests_BD = self(batch.items_BL, batch.users_B).squeeze(1)
        loss: Tensor = self.next_item_loss(interests_BD, batch.next_items_B, self.items)
        return loss


class NotCreated(Plain):
    def __init__(self, corpus: Corpus, options: PlainOptions) -> None:
        super().__init__(corpus, options)
        raise KeyError("lost")


class NoTable(Plain):
    item_tables = ("embedding.weight",)


class WithoutK(Plain):
    def forward(self, items_BL: Tensor, users_B: Tensor | None = None) -> Tensor:
        return super().forward(items_BL, users_B).squeeze(1)


class NaN(Plain):
    def forward(self, items_BL: Tensor, users_B: Tensor | None = None) -> Tensor:
        return super().forward(items_BL, users_B).log()


class Row0(Plain):
    def item_vectors(self) -> Tensor:
        return self.items.vectors() + 1


class CountsPadding(Plain):
    def forward(self, items_BL: Tensor, users_B: Tensor | None = None) -> Tensor:
        return super().forward(items_BL, users_B) / items_BL.shape[1]


class MixesSessions(Plain):
    def forward(self, items_BL: Tensor, users_B: Tensor | None = None) -> Tensor:
        interests_BKD = super().forward(items_BL, users_B)
        return interests_BKD - interests_BKD.mean(dim=0, keepdim=True) / 2


class AlwaysRandom(Plain):
    def forward(self, items_BL: Tensor, users_B: Tensor | None = None) -> Tensor:
        return nn.functional.dropout(super().forward(items_BL, users_B), 0.5)


class HidesTheNewest(Plain):
    def forward(self, items_BL: Tensor, users_B: Tensor | None = None) -> Tensor:
        return super().forward(items_BL[:, :1].expand_as(items_BL), users_B)


class Unused(Plain):
    def __init__(self, corpus: Corpus, options: PlainOptions) -> None:
        super().__init__(corpus, options)
        self.projection = nn.Linear(6, 6)


class UsedByChance(Plain):
    def __init__(self, corpus: Corpus, options: PlainOptions) -> None:
        super().__init__(corpus, options)
        self.scale = nn.Parameter(torch.ones(()))

    def loss(self, batch: Batch) -> Tensor:
        return super().loss(batch) * (self.scale if torch.rand(()) < 0.5 else 1)


class InfiniteLoss(Plain):
    def loss(self, batch: Batch) -> Tensor:
        return super().loss(batch) / 0


class ClimbingLoss(Plain):
    def loss(self, batch: Batch) -> Tensor:
        return 5 - super().loss(batch).detach() + 0 * super().loss(batch)


class BranchesOnValues(Plain):
    def forward(self, items_BL: Tensor, users_B: Tensor | None = None) -> Tensor:
        interests_BKD = super().forward(items_BL, users_B)
        return interests_BKD * 2 if items_BL.sum().item() > 0 else interests_BKD


class ServesOther(Plain):
    def serving_form(self) -> nn.Module:
        return WithoutMean(self)


class WithoutMean(nn.Module):
    def __init__(self, plain: Plain) -> None:
        super().__init__()
        self.plain = plain

    def forward(self, items_BL: Tensor, users_B: Tensor) -> Tensor:
        interests_BKD: Tensor = self.plain(items_BL, users_B)
        return 1.001 * interests_BKD


class TooFewPlaces(Plain):
    def __init__(self, corpus: Corpus, options: PlainOptions) -> None:
        super().__init__(corpus, options)
        self.places = nn.Parameter(torch.randn(options.max_length - 1, 1))

    def forward(self, items_BL: Tensor, users_B: Tensor | None = None) -> Tensor:
        return super().forward(items_BL, users_B) + self.places[-items_BL.shape[1] :][: items_BL.shape[1]].sum() * (
            torch.nan if items_BL.shape[1] > len(self.places) else 1
        )


class IgnoresUsers(Plain):
    def forward(self, items_BL: Tensor, users_B: Tensor | None = None) -> Tensor:
        return super().forward(items_BL, None if users_B is None else users_B * 0)


def outcomes(encoder: Callable[[Corpus, Any], Plain], monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[bool, str]]:
    monkeypatch.setitem(MODELS, "plain", Model(encoder, PlainOptions))
    table = (RECIPES / "srgnn.toml").read_text().partition("[training]")[2]
    text = f'model = "plain"\n[encoder]\nmax_length = 8\n[training]{table}'
    return {check: (passed, detail) for check, passed, detail in check_recipe(Recipe.parse(text, "plain.toml"))}


def test_a_model_without_a_fault_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    found = outcomes(Plain, monkeypatch)
    assert list(found) == list(CHECKS)
    assert not [outcome for outcome in found.values() if not outcome[0]]
    assert found["known users count, if users are read"][1] == "5 users and unknown ones"


def test_a_parameter_that_chance_uses_has_a_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    checked = {name: CHECKS[name] for name in ("the encoder is created", "loss and gradients are finite")}
    monkeypatch.setattr("onward.training.model_contract.CHECKS", checked)
    assert all(passed for passed, _ in outcomes(UsedByChance, monkeypatch).values())


@pytest.mark.parametrize(
    ("encoder", "check", "fault"),
    [
        (NotCreated, "the encoder is created", "raises KeyError: 'lost' (test_model_contract.py, line "),
        (NoTable, "the encoder is created", "there are no weights 'embedding.weight'"),
        (WithoutK, "interests and item vectors have the right shapes", "is (1, 6) float32; it must be (1, K, 6)"),
        (NaN, "interests and item vectors have the right shapes", "interests are not finite numbers"),
        (Row0, "row 0 of the item vectors is zero", "the item vector of row 0 has numbers up to 1.0e+00"),
        (CountsPadding, "padding does not change interests", "5 more columns of padding on the left change interests"),
        (MixesSessions, "a session is encoded alike alone and in a batch", "differ from those of a session alone, by"),
        (AlwaysRandom, "the same seed gives the same interests", "two calls give different interests"),
        (HidesTheNewest, "the newest item counts", "differ in their newest item have the same interests"),
        (Unused, "loss and gradients are finite", "projection.weight has no gradient"),
        (InfiniteLoss, "loss and gradients are finite", "loss() is () float32, inf; it must be one finite number"),
        (ClimbingLoss, "the loss falls", "the loss of one batch goes from"),
        (BranchesOnValues, "the ONNX program agrees with torch", "raises "),
        (ServesOther, "the ONNX program agrees with torch", "differ from torch's by "),
        (TooFewPlaces, "of a longer session only the newest items count", "max_length (8) items are not finite"),
        (IgnoresUsers, "known users count, if users are read", "a known user has the interests of an unknown one"),
    ],
)
def test_a_fault_is_found(
    encoder: type[Plain],
    check: str,
    fault: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    checked = {"the encoder is created": CHECKS["the encoder is created"], check: CHECKS[check]}
    monkeypatch.setattr("onward.training.model_contract.CHECKS", checked)
    passed, detail = outcomes(encoder, monkeypatch)[check]
    assert not passed
    assert fault in detail
    assert "\n" not in detail
    assert not capfd.readouterr().err


def test_the_command_prints_a_line_per_check_and_fails_with_the_model(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    names = list(CHECKS)[:3]
    monkeypatch.setattr("onward.training.model_contract.CHECKS", {name: CHECKS[name] for name in names})
    done = CliRunner().invoke(cli, ["check-model", "srgnn"])
    assert done.exit_code == 0
    assert [line.partition(":")[0] for line in done.stdout.splitlines()] == [f"passed  {name}" for name in names]
    monkeypatch.setitem(MODELS, "srgnn", Model(lambda corpus, options: Row0(corpus, options), MODELS["srgnn"].options))
    done = CliRunner().invoke(cli, ["check-model", "srgnn"])
    assert done.exit_code == 1
    assert "FAILED  row 0 of the item vectors is zero: the item vector of row 0" in done.stdout
