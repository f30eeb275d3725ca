"""SR-GNN of one step as it serves: every product with an item's own vector is done beforehand.

Dimension key: B sessions, L positions, D embedding of an encoder, N rows (row 0 pads), T numbers of a table's row.

With one step the graph cell reads nothing but item vectors, and all that it multiplies them with is linear: messages
and gates are averages and sums of rows of a table of items. That is exact, biases too, since the weights of neighbours
sum to 1, or to 0 where there are none. Several encoders of one catalog share one table and one session graph.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from onward.bundle.encoder.kernel_arrays import ROW, SRGNNArrays
from onward.bundle.files.manifest import KernelInfo, KernelPart
from onward.training.models.layers import MAX_TABLE_BYTES, places_from_end

if TYPE_CHECKING:
    from onward.training.models.srgnn import SRGNN

TABLE_NAME = "table_NT"
"""Of the table in an exported program."""


class FoldedSRGNN(nn.Module):
    """Gives the interests of one SR-GNN, or of several of one `max_length` end to end."""

    def __init__(self, encoders: "Sequence[SRGNN]", *, max_table_bytes: int = MAX_TABLE_BYTES) -> None:
        """Fold encoders of one step, whose weights do not change any more.

        Where an encoder's part of the table would be larger than `max_table_bytes` it holds vectors alone, and one
        product makes the rest of a session's rows.
        """
        super().__init__()
        folded = [_fold(encoder, max_table_bytes) for encoder in encoders]
        self.heads = tuple(head for head, _ in folded)
        self.parts = nn.ModuleList(self.heads)
        self.table_NT: Tensor
        self.register_buffer("table_NT", torch.cat([table for _, table in folded], dim=1))

    def forward(self, items_BL: Tensor) -> Tensor:
        """Encode items_BL as interests_B1D; see `SessionEncoder.forward`."""
        rows_BLT = F.embedding(items_BL, self.table_NT)
        graph = NeighbourMeans.of(items_BL)
        if len(self.heads) == 1:
            interests_B1D: Tensor = self.heads[0](rows_BLT, graph)
            return interests_B1D
        rows = rows_BLT.split([head.width for head in self.heads], dim=2)
        return torch.cat([head(part, graph) for head, part in zip(self.heads, rows, strict=True)], dim=2)

    def kernel(self) -> tuple[KernelInfo, NDArray[np.float32], NDArray[np.float32]]:
        """What a compiled kernel needs to give the same interests: its description, table_NT and weights."""
        parts = tuple(
            KernelPart(dimension=head.dimension, tabled=head.node is None, scale=head.scale) for head in self.heads
        )
        weights = np.concatenate([array.ravel() for head in self.heads for array in head.arrays() if array is not None])
        return KernelInfo(model="srgnn", parts=parts), self.table_NT.numpy(), weights


class NeighbourMeans(NamedTuple):
    """The weights with which positions are neighbours, as `onward.training.models.srgnn.SessionGraph` has them.

    Rows of padding mean nothing. Where that counts the first position of an item, all its positions share the weight
    here, which takes fewer operations.
    """

    before_BLL: Tensor
    after_BLL: Tensor
    is_item_B1L: Tensor

    @classmethod
    def of(cls, items_BL: Tensor) -> "NeighbourMeans":
        """Build the graphs of a batch."""
        items_B1L = items_BL.unsqueeze(1)
        is_item_B1L = items_B1L.clamp(max=1).float()
        same_BLL = (items_BL.unsqueeze(2) == items_B1L).float()
        followed_by_BLL = F.pad(same_BLL[:, 1:], (0, 0, 0, 1))
        share_B1L = is_item_B1L / same_BLL.sum(dim=1, keepdim=True)
        edges_BLL = (same_BLL @ followed_by_BLL).clamp(max=1)
        return cls(_mean(edges_BLL.mT * share_B1L), _mean(edges_BLL * share_B1L), is_item_B1L)


class _Head(nn.Module):
    """All of one encoder but its columns of the table."""

    def __init__(self, encoder: "SRGNN", node: nn.Linear | None) -> None:
        """Take the weights of `encoder`; `node` makes a row of a vector where the table holds vectors alone."""
        super().__init__()
        self.dimension, self.max_length, self.scale = encoder.dimension, encoder.max_length, encoder.items.scale
        self.width = self.dimension if node else ROW * self.dimension
        self.node = node
        self.cell_bias = encoder.cell.from_message.bias
        self.last = _with_bias(encoder.attention_last, encoder.attention_each.bias)
        self.each = encoder.attention_each.weight
        self.gate = encoder.attention
        self.hybrid = encoder.hybrid
        self.places_LD = encoder.positions_LD

    def forward(self, rows_BLT: Tensor, graph: NeighbourMeans) -> Tensor:
        """interests_B1D of sessions with these rows of the table."""
        if self.node is not None:
            rows_BLT = torch.cat([rows_BLT, self.node(rows_BLT)], dim=2)
        states_BLD = self._step(rows_BLT, graph)
        if self.places_LD is not None:
            states_BLD = states_BLD + self.places_LD[places_from_end(graph.is_item_B1L[:, 0], self.max_length)]
        last_B1D = states_BLD[:, -1:]
        gates_BLD = torch.sigmoid(self.last(last_B1D) + F.linear(states_BLD, self.each))
        shares_B1L = self.gate.weight @ gates_BLD.mT * graph.is_item_B1L
        interests_B1D: Tensor = self.hybrid(torch.cat([shares_B1L @ states_BLD, last_B1D], dim=2))
        if self.scale is None:
            return interests_B1D
        length_B11: Tensor = torch.linalg.vector_norm(interests_B1D, dim=2, keepdim=True)
        return interests_B1D * (self.scale / length_B11.clamp(min=1e-12))

    def arrays(self) -> SRGNNArrays:
        """The weights as the compiled kernel takes them."""
        tensors = SRGNNArrays(
            cell_bias=self.cell_bias,
            last=self.last.weight.T,
            last_bias=self.last.bias,
            each=self.each.T,
            gate=self.gate.weight,
            hybrid=self.hybrid.weight.T,
            hybrid_bias=self.hybrid.bias,
            positions=torch.zeros(self.max_length, self.dimension) if self.places_LD is None else self.places_LD,
            node=None if self.node is None else self.node.weight.T,
            node_bias=None if self.node is None else self.node.bias,
        )
        return SRGNNArrays(*(None if tensor is None else tensor.detach().numpy() for tensor in tensors))

    def _step(self, rows_BLT: Tensor, graph: NeighbourMeans) -> Tensor:
        """The node states after the propagation step; see `onward.training.models.srgnn.GatedGraphCell`."""
        size = self.dimension
        vectors_BLD, before_BLE, after_BLE, gates_BLF, own_BLD = rows_BLT.split(
            [size, 3 * size, 3 * size, 2 * size, size], dim=2
        )
        message_BLE = graph.before_BLL @ before_BLE + graph.after_BLL @ after_BLE + self.cell_bias
        message_gates_BLF, message_new_BLD = message_BLE.split([2 * size, size], dim=2)
        reset_BLD, keep_BLD = torch.sigmoid(message_gates_BLF + gates_BLF).chunk(2, dim=2)
        new_BLD = torch.tanh(message_new_BLD + reset_BLD * own_BLD)
        states_BLD: Tensor = new_BLD + keep_BLD * (vectors_BLD - new_BLD)
        return states_BLD


@torch.no_grad()
def _fold(encoder: "SRGNN", max_table_bytes: int) -> tuple[_Head, Tensor]:
    """An encoder's head and its columns of the table, (N, T)."""
    vectors_ND, node = encoder.item_vectors().clone(), _node_layer(encoder)
    if vectors_ND.nbytes * ROW > max_table_bytes:
        return _Head(encoder, node), vectors_ND
    return _Head(encoder, None), torch.cat([vectors_ND, node(vectors_ND)], dim=1)


def _mean(weights_BLL: Tensor) -> Tensor:
    means_BLL: Tensor = weights_BLL / weights_BLL.sum(dim=2, keepdim=True).clamp(min=1)
    return means_BLL


@torch.no_grad()
def _node_layer(encoder: "SRGNN") -> nn.Linear:
    """From an item's vector to what its neighbours after it, and before it, get of it, and to its own gates."""
    message, from_message, from_state = encoder.cell.message, encoder.cell.from_message, encoder.cell.from_state
    parts = []
    for weight, bias, onward in zip(
        message.weight.chunk(2), message.bias.chunk(2), from_message.weight.chunk(2, dim=1), strict=True
    ):
        parts.append((onward @ weight, onward @ bias))
    parts.append((from_state.weight, from_state.bias))
    layer = nn.Linear(message.in_features, (ROW - 1) * message.in_features)
    layer.weight.copy_(torch.cat([weight for weight, _ in parts]))
    layer.bias.copy_(torch.cat([bias for _, bias in parts]))
    return layer


@torch.no_grad()
def _with_bias(layer: nn.Linear, bias: Tensor) -> nn.Linear:
    """A layer like `layer` whose bias has `bias` added."""
    copied = nn.Linear(layer.in_features, layer.out_features)
    copied.weight.copy_(layer.weight)
    copied.bias.copy_(layer.bias + bias)
    return copied
