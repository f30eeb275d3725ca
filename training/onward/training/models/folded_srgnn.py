"""The serving form of SR-GNN with one step: every product with an item's own vector is precomputed.

Dimension key: B sessions, L positions, D embedding of one encoder, N rows (row 0 pads), T columns of the table.

With one step the graph cell reads item vectors only, and everything it multiplies them with is linear. Messages and
gates are therefore averages and sums of rows of a precomputed item table. This is exact, biases included, because the
weights of neighbours sum to 1, or to 0 if there are none. Several encoders of one catalog share one table and one
session graph.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from onward.bundle.encoder.kernel_arrays import ROW, SRGNNArrays
from onward.bundle.files.manifest import KernelInfo, KernelPart
from onward.training.models.layers import MAX_TABLE_BYTES, ItemTable, places_from_end
from onward.training.models.session_graph import SessionGraph

TABLE_NAME = "table_NT"
"""Name of the table in an exported program."""


@dataclass(frozen=True, eq=False)
class SRGNNLayers:
    """The trained layers of an SR-GNN with one step: what folding reads of an encoder."""

    max_length: int
    items: ItemTable
    message: nn.Linear
    """Item vector to its messages along incoming and outgoing edges."""
    from_message: nn.Linear
    """Messages to the gates and the new state."""
    from_state: nn.Linear
    """Item vector to the gates and the new state."""
    attention_last: nn.Linear
    attention_each: nn.Linear
    attention: nn.Linear
    hybrid: nn.Linear
    positions_LD: nn.Parameter | None


class FoldedSRGNN(nn.Module):
    """Encodes sessions as one SR-GNN does, or as the concatenation of several with the same `max_length`."""

    def __init__(self, encoders: Sequence[SRGNNLayers], *, max_table_bytes: int = MAX_TABLE_BYTES) -> None:
        """Fold the layers of trained encoders; their weights must not change afterwards.

        If an encoder's columns of the table would take more than `max_table_bytes`, the table holds item vectors only,
        and one matrix product per session computes the other columns.
        """
        super().__init__()
        folded = [_fold(layers, max_table_bytes) for layers in encoders]
        self.heads = tuple(head for head, _ in folded)
        self.parts = nn.ModuleList(self.heads)
        self.table_NT: Tensor
        self.register_buffer("table_NT", torch.cat([table for _, table in folded], dim=1))

    def forward(self, items_BL: Tensor) -> Tensor:
        """Encode items_BL as interests_B1D; see `SessionEncoder.forward`."""
        rows_BLT = F.embedding(items_BL, self.table_NT)
        graph = SessionGraph.of(items_BL)
        if len(self.heads) == 1:
            interests_B1D: Tensor = self.heads[0](rows_BLT, graph)
            return interests_B1D
        rows = rows_BLT.split([head.width for head in self.heads], dim=2)
        return torch.cat([head(part, graph) for head, part in zip(self.heads, rows, strict=True)], dim=2)

    def kernel(self) -> tuple[KernelInfo, NDArray[np.float32], NDArray[np.float32]]:
        """Return what a compiled kernel needs to compute the same interests: its description, table_NT, weights."""
        parts = tuple(
            KernelPart(dimension=head.dimension, tabled=head.node is None, scale=head.scale) for head in self.heads
        )
        weights = np.concatenate([array.ravel() for head in self.heads for array in head.arrays() if array is not None])
        return KernelInfo(model="srgnn", parts=parts), self.table_NT.numpy(), weights


class _Head(nn.Module):
    """The part of one folded encoder that runs per session, on its columns of the table."""

    def __init__(self, layers: SRGNNLayers, node: nn.Linear | None) -> None:
        """Take the weights of `layers`; `node` computes a table row from a vector if the table holds vectors only."""
        super().__init__()
        self.dimension, self.scale = layers.items.embedding.embedding_dim, layers.items.scale
        self.max_length = layers.max_length
        self.width = self.dimension if node else ROW * self.dimension
        self.node = node
        self.cell_bias = layers.from_message.bias
        self.last = _with_bias(layers.attention_last, layers.attention_each.bias)
        self.each = layers.attention_each.weight
        self.gate = layers.attention
        self.hybrid = layers.hybrid
        self.places_LD = layers.positions_LD

    def forward(self, rows_BLT: Tensor, graph: SessionGraph) -> Tensor:
        """Return interests_B1D of the sessions with these table rows."""
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
        """Return the weights in the layout of the compiled kernel."""
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

    def _step(self, rows_BLT: Tensor, graph: SessionGraph) -> Tensor:
        """Return the node states after the propagation step; see `onward.training.models.srgnn.GatedGraphCell`."""
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
def _fold(layers: SRGNNLayers, max_table_bytes: int) -> tuple[_Head, Tensor]:
    """Return an encoder's head and its columns of the table, (N, T)."""
    vectors_ND, node = layers.items.vectors().clone(), _node_layer(layers)
    if vectors_ND.nbytes * ROW > max_table_bytes:
        return _Head(layers, node), vectors_ND
    return _Head(layers, None), torch.cat([vectors_ND, node(vectors_ND)], dim=1)


@torch.no_grad()
def _node_layer(layers: SRGNNLayers) -> nn.Linear:
    """Build the layer from an item vector to its contribution to items after it, to items before it, and to itself."""
    message, from_message, from_state = layers.message, layers.from_message, layers.from_state
    parts = []
    for weight, bias, gate_weight in zip(
        message.weight.chunk(2), message.bias.chunk(2), from_message.weight.chunk(2, dim=1), strict=True
    ):
        parts.append((gate_weight @ weight, gate_weight @ bias))
    parts.append((from_state.weight, from_state.bias))
    layer = nn.Linear(message.in_features, (ROW - 1) * message.in_features)
    layer.weight.copy_(torch.cat([weight for weight, _ in parts]))
    layer.bias.copy_(torch.cat([bias for _, bias in parts]))
    return layer


@torch.no_grad()
def _with_bias(layer: nn.Linear, bias: Tensor) -> nn.Linear:
    """Return a copy of `layer` with `bias` added to its bias."""
    copied = nn.Linear(layer.in_features, layer.out_features)
    copied.weight.copy_(layer.weight)
    copied.bias.copy_(layer.bias + bias)
    return copied
