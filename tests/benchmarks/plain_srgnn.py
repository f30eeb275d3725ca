"""SR-GNN as most public code implements it: the baseline for the speed of the trainer's step.

A Python loop builds the graph of every session: its distinct items, their two normalised adjacency matrices, and for
every click the number of its item among them. Both ends of every edge, and every click, are looked up among the
distinct items with `np.where`. The hidden states of the clicks are gathered session by session. The softmax over all
items is a float32 matrix that autograd differentiates. It computes what `onward.training.models.srgnn` does in
its paper's form, and takes that encoder's weights.

Dimension key: B sessions, L positions, M most distinct items of a session, D embedding, N items.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from onward.training.models.srgnn import SRGNN


class PlainBatch(NamedTuple):
    """Sessions as graphs, padded on the right to the most nodes and the longest session of the batch."""

    nodes_BM: Tensor
    adjacency_BMZ: Tensor
    """Incoming and outgoing edges of each node, concatenated: Z = 2 M."""
    alias_BL: Tensor
    """For every click, the number of its item among the nodes."""
    clicked_BL: Tensor
    targets_B: Tensor


def plain_batch(sessions: Sequence[Sequence[int]], targets: Sequence[int]) -> PlainBatch:
    """Build the graphs of a batch, one session after another."""
    longest = max(len(session) for session in sessions)
    largest = max(len(np.unique(session)) for session in sessions)
    nodes, adjacencies, aliases, clicked = [], [], [], []
    for session in sessions:
        distinct = np.unique(session)
        nodes.append(distinct.tolist() + (largest - len(distinct)) * [0])
        edges = np.zeros((largest, largest))
        for before, after in pairwise(session):
            edges[np.where(distinct == before)[0][0]][np.where(distinct == after)[0][0]] = 1
        incoming, outgoing = np.sum(edges, 0), np.sum(edges, 1)
        incoming[np.where(incoming == 0)] = 1
        outgoing[np.where(outgoing == 0)] = 1
        adjacencies.append(np.concatenate([(edges / incoming).T, edges / outgoing[:, None]], axis=1))
        alias = [int(np.where(distinct == item)[0][0]) for item in session]
        aliases.append(alias + (longest - len(session)) * [0])
        clicked.append(len(session) * [1] + (longest - len(session)) * [0])
    return PlainBatch(
        torch.tensor(np.array(nodes)),
        torch.tensor(np.array(adjacencies)).float(),
        torch.tensor(aliases),
        torch.tensor(clicked),
        torch.tensor(targets),
    )


class PlainSRGNN(nn.Module):
    """The encoder with its loss."""

    def __init__(self, items: int, dimension: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(items + 1, dimension, padding_idx=0)
        self.message = nn.Linear(dimension, 2 * dimension)
        self.from_message = nn.Linear(2 * dimension, 3 * dimension)
        self.from_state = nn.Linear(dimension, 3 * dimension)
        self.attention_last = nn.Linear(dimension, dimension)
        self.attention_each = nn.Linear(dimension, dimension)
        self.attention = nn.Linear(dimension, 1, bias=False)
        self.hybrid = nn.Linear(2 * dimension, dimension)

    @classmethod
    def like(cls, encoder: SRGNN) -> "PlainSRGNN":
        """Copy the weights of `encoder`, which must have the paper's form."""
        items, dimension = encoder.items.embedding.num_embeddings - 1, encoder.items.embedding.embedding_dim
        plain = cls(items, dimension)
        plain.load_state_dict(
            {name.removeprefix("items.").removeprefix("cell."): weight for name, weight in encoder.state_dict().items()}
        )
        return plain

    def forward(self, batch: PlainBatch) -> Tensor:
        """Encode a batch as interests_BD."""
        hidden_BMD = self._propagate(self.embedding(batch.nodes_BM), batch.adjacency_BMZ)
        states_BLD = torch.stack([hidden_BMD[i][batch.alias_BL[i]] for i in range(len(batch.alias_BL))])
        last_BD = states_BLD[torch.arange(len(states_BLD)), batch.clicked_BL.sum(dim=1) - 1]
        gates_BLD = torch.sigmoid(self.attention_last(last_BD).unsqueeze(1) + self.attention_each(states_BLD))
        global_BD = torch.sum(self.attention(gates_BLD) * states_BLD * batch.clicked_BL.unsqueeze(2).float(), dim=1)
        interests_BD: Tensor = self.hybrid(torch.cat([global_BD, last_BD], dim=1))
        return interests_BD

    def loss(self, batch: PlainBatch) -> Tensor:
        """Return the cross-entropy of the next item over all items."""
        scores_BN = torch.matmul(self(batch), self.embedding.weight[1:].transpose(1, 0))
        return nn.functional.cross_entropy(scores_BN, batch.targets_B - 1)

    def _propagate(self, states_BMD: Tensor, adjacency_BMZ: Tensor) -> Tensor:
        count = adjacency_BMZ.shape[1]
        incoming_BMD, outgoing_BMD = self.message(states_BMD).chunk(2, dim=2)
        from_before = torch.matmul(adjacency_BMZ[:, :, :count], incoming_BMD)
        from_after = torch.matmul(adjacency_BMZ[:, :, count:], outgoing_BMD)
        message_gates = self.from_message(torch.cat([from_before, from_after], dim=2))
        message_reset, message_keep, message_new = message_gates.chunk(3, dim=2)
        state_reset, state_keep, state_new = self.from_state(states_BMD).chunk(3, dim=2)
        reset_BMD = torch.sigmoid(message_reset + state_reset)
        keep_BMD = torch.sigmoid(message_keep + state_keep)
        new_BMD = torch.tanh(message_new + reset_BMD * state_new)
        return new_BMD + keep_BMD * (states_BMD - new_BMD)
