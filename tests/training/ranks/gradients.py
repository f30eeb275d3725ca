"""Compare the gradients of ranks with those of one process.

`torchrun ... -m tests.training.ranks.gradients BATCH FORMS NAME ...`. The forms, with commas, are dense or sparse (the
gradients of tables), still (without dropout), sharded (a table owned by ranks, without dropout) and sharded-sparse.

For each form of a model of the contract, rank 0 prints as JSON how far the loss and the largest gradient are from those
of one process that takes the slices of all ranks one after the other, with the random numbers of each (`in_turn`), and
from those of one process that takes the whole batch (`whole`), both relative to the largest gradient.
"""

import json
import sys
from copy import deepcopy
from typing import NamedTuple

import torch
from torch import Tensor, nn

from onward.training.data.corpus import Corpus
from onward.training.data.examples import Examples
from onward.training.data.small_corpus import sessions
from onward.training.interruption import Interruption
from onward.training.losses import softmax
from onward.training.models import MODELS
from onward.training.models.encoder import SessionEncoder
from onward.training.models.layers import ItemTable
from onward.training.ranks.ranks import ALONE, Ranks
from onward.training.ranks.sharded_table import sharded_tables
from onward.training.trainer import loss_and_gradients
from tests.contract.test_every_model import VARIANTS

ITEMS, USERS = 40, 30


class Step(NamedTuple):
    """The loss of a batch and the gradients of all weights."""

    loss: float
    gradients: dict[str, Tensor]

    @classmethod
    def of(cls, encoder: SessionEncoder, loss: Tensor) -> "Step":
        """Take the gradients of an encoder, as dense tensors."""
        weights = {name: weight.grad for name, weight in encoder.named_parameters()}
        gradients = {name: grad.to_dense().clone() for name, grad in weights.items() if grad is not None}
        for name, table in sharded_tables(encoder).items():
            of_ranks = table.ranks.all_rows(gradients[name])
            rows = [torch.arange(rank, table.rows, table.ranks.size) for rank in range(table.ranks.size)]
            gradients[name] = of_ranks[torch.cat(rows).argsort()]
        return cls(loss.item(), gradients)

    def distance(self, other: "Step") -> float:
        """Return how far the losses, and the gradients, are apart at most."""
        assert self.gradients.keys() == other.gradients.keys()
        largest = max(float(gradient.abs().max()) for gradient in other.gradients.values())
        apart = max(float((self.gradients[name] - other.gradients[name]).abs().max()) for name in self.gradients)
        return max(apart / largest, abs(self.loss - other.loss) / abs(other.loss))


def random_corpus(generator: torch.Generator) -> Corpus:
    """Make sessions of random items and lengths."""
    lengths = torch.randint(2, 9, (USERS,), generator=generator).tolist()
    rows = [torch.randint(1, ITEMS + 1, (length,), generator=generator).tolist() for length in lengths]
    return Corpus(ITEMS, USERS, (sessions(*rows, users=list(range(1, USERS + 1))),))


def step(encoder: SessionEncoder, examples: Examples, examples_B: Tensor, ranks: Ranks, seed: int) -> Step:
    """Compute loss and gradients with random numbers of a seed."""
    encoder.zero_grad(set_to_none=True)
    torch.manual_seed(seed)
    return Step.of(encoder, loss_and_gradients(encoder, examples, examples_B, ranks, Interruption()))


def in_turn(encoder: SessionEncoder, examples: Examples, examples_B: Tensor, size: int) -> Step:
    """Compute the slices of all ranks in one process, each with the random numbers of its rank."""
    total, summed = 0.0, dict[str, Tensor]()
    for rank in range(size):
        own_B = Ranks(rank, size).slice(examples_B)
        share = examples.count_targets(own_B) / examples.count_targets(examples_B)
        share = 1 / size if len(own_B) == len(examples_B) else 1.0 if encoder.sums_losses else share
        of_slice = step(encoder, examples, own_B, ALONE, seed=rank)
        total += share * of_slice.loss
        for name, gradient in of_slice.gradients.items():
            summed[name] = summed.get(name, torch.zeros_like(gradient)) + share * gradient
    return Step(total, summed)


def compare(name: str, form: str, batch: int, ranks: Ranks) -> dict[str, float]:
    """Return how far apart the steps of ranks and of one process are, for a form of a model."""
    model, options = VARIANTS[name]
    if form in ("still", "sharded"):
        rates = [field for field in type(options).model_fields if field.endswith("dropout")]
        options = options.model_copy(update=dict.fromkeys(rates, 0.0))
    corpus = random_corpus(torch.Generator().manual_seed(1))
    torch.manual_seed(5)
    encoder = MODELS[model].encoder(corpus, options)
    for table in encoder.modules():
        if isinstance(table, nn.Embedding):
            table.sparse = form == "sparse"
    alone = deepcopy(encoder)
    if form.startswith("sharded"):
        assert isinstance(encoder.items, ItemTable)
        encoder.items.shard(ranks)
        assert len(encoder.items.embedding.weight) <= ITEMS // ranks.size + 1
        encoder.items.embedding.sparse = form == "sharded-sparse"
    examples = Examples.of(
        corpus.sessions,
        encoder.max_length,
        torch.device("cpu"),
        horizon=encoder.horizon,
        every_position=encoder.every_position,
    )
    examples_B = torch.arange(min(batch, len(examples)))
    together = step(encoder, examples, examples_B, ranks, seed=ranks.rank)
    whole = step(alone, examples, examples_B, ALONE, seed=0)
    turns = in_turn(alone, examples, examples_B, ranks.size)
    return {"in_turn": together.distance(turns), "whole": together.distance(whole)}


def main(batch: int, forms: list[str], names: list[str]) -> None:
    """Print the distances of each model in each form."""
    softmax.fast_product_dtype = lambda device: torch.float32  # a slice is rounded otherwise than a batch
    ranks = Ranks.of_environment()
    with ranks.joined(torch.device("cpu")):
        distances = {f"{name} ({form})": compare(name, form, batch, ranks) for form in forms for name in names}
    if ranks.is_leader:
        sys.stdout.write(json.dumps(distances) + "\n")


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2].split(","), sys.argv[3:])
