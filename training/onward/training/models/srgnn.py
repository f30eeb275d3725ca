"""SR-GNN: a session as a graph of its items, encoded by a gated graph neural network.

Source: Wu et al., "Session-based Recommendation with Graph Neural Networks", AAAI 2019, sections 3.2 to 3.5.
Dimension key: B sessions, L positions, D embedding, N rows of the item table (row 0 pads).

Where the paper and the code behind its results differ, this follows the code: an edge that occurs twice in a session
counts once, and the reset gate acts after the recurrent product. Biases that the code adds twice exist once here.

Options of a recipe that the paper does not have: cosine similarity with a scale instead of the inner product (Gupta et
al., "NISER", 2019), learnt position embeddings counted from the session's end, dropout of the item embeddings.
"""

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, PositiveInt
from torch import Tensor, nn

from onward.bundle import InputLength
from onward.training.data.corpus import Corpus
from onward.training.data.examples import Batch
from onward.training.data.padding import PADDING
from onward.training.losses.objectives import NextItemLoss, Objective
from onward.training.models.encoder import SessionEncoder
from onward.training.models.folded_srgnn import FoldedSRGNN, SRGNNLayers
from onward.training.models.layers import (
    ItemGraphOptions,
    ItemTable,
    Similarity,
    neighbour_graph,
    places_from_end,
    with_folded_items,
)
from onward.training.models.session_graph import SessionGraph


class SRGNNOptions(BaseModel):
    """The `[encoder]` table of a recipe for SR-GNN."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    dimension: PositiveInt
    steps: PositiveInt
    """Propagation steps over the session graph."""
    max_length: InputLength
    """Only the newest items of a session are read, at most this many."""
    similarity: Similarity
    positions: bool
    """Add a learnt position embedding to each state; positions are counted from the session's end."""
    dropout: Annotated[float, Field(ge=0, lt=1)]
    """Dropout rate of the item embeddings; all positions of an item in a session share what is dropped."""
    objective: Objective
    item_graph: ItemGraphOptions | None = None
    """Vectors of items from those of their neighbours too. Recipes of earlier versions lack the key and mean none."""


class ItemDropout(nn.Module):
    """Dropout of item vectors with one mask for each item of a session, so that its positions keep equal states."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, vectors_BLD: Tensor, items_BL: Tensor) -> Tensor:
        """Return the vectors of items_BL, in training with numbers dropped at `rate` and the others scaled up."""
        if not self.training or self.rate == 0:
            return vectors_BLD
        scales_BLD = F.dropout(torch.ones_like(vectors_BLD), self.rate)
        first_BL = (items_BL[:, :, None] == items_BL[:, None, :]).int().argmax(dim=2)
        sessions_B1 = torch.arange(len(items_BL), device=items_BL.device)[:, None]
        return vectors_BLD * scales_BLD[sessions_B1, first_BL]


class GatedGraphCell(nn.Module):
    """One propagation step: messages along both directions of the edges update the node states by a GRU."""

    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.message = nn.Linear(dimension, 2 * dimension)
        self.from_message = nn.Linear(2 * dimension, 3 * dimension)
        self.from_state = nn.Linear(dimension, 3 * dimension)

    def forward(self, states_BLD: Tensor, graph: SessionGraph) -> Tensor:
        """Return the node states after one more step."""
        incoming_BLD, outgoing_BLD = self.message(states_BLD).chunk(2, dim=2)
        messages_BLE = torch.cat([graph.before_BLL @ incoming_BLD, graph.after_BLL @ outgoing_BLD], dim=2)
        message_reset, message_keep, message_new = self.from_message(messages_BLE).chunk(3, dim=2)
        state_reset, state_keep, state_new = self.from_state(states_BLD).chunk(3, dim=2)
        reset_BLD = torch.sigmoid(message_reset + state_reset)
        keep_BLD = torch.sigmoid(message_keep + state_keep)
        new_BLD = torch.tanh(message_new + reset_BLD * state_new)
        return torch.lerp(new_BLD, states_BLD, keep_BLD)


class SRGNN(SessionEncoder):
    """Encodes a session as one interest: its last item and a soft attention over all its items."""

    takes_soft_targets = True

    def __init__(self, corpus: Corpus, options: SRGNNOptions) -> None:
        """Initialise an untrained encoder for the corpus's items from torch's global random state.

        All weights start uniform in +-1/sqrt(dimension), as in the authors' code.
        """
        super().__init__()
        dimension = options.dimension
        self.max_length = options.max_length
        self.steps = options.steps
        self.dimension = dimension
        self.dropout = ItemDropout(options.dropout)
        graph = neighbour_graph(corpus, options.item_graph)
        self.items = ItemTable(corpus.items, dimension, options.similarity, graph)
        self.cell = GatedGraphCell(dimension)
        self.attention_last = nn.Linear(dimension, dimension)
        self.attention_each = nn.Linear(dimension, dimension)
        self.attention = nn.Linear(dimension, 1, bias=False)
        self.hybrid = nn.Linear(2 * dimension, dimension)
        self.positions_LD = nn.Parameter(torch.empty(self.max_length, dimension)) if options.positions else None
        for weight in self.parameters():
            nn.init.uniform_(weight, -(dimension**-0.5), dimension**-0.5)
        self.items.reset_special_weights()
        self.next_item_loss = NextItemLoss.of(options.objective, corpus.popularity())

    def forward(self, items_BL: Tensor) -> Tensor:
        """Encode items_BL as interests_B1D; see `SessionEncoder.forward`."""
        states_BLD = self.dropout(self.items(items_BL), items_BL)
        graph = SessionGraph.of(items_BL)
        for _ in range(self.steps):
            states_BLD = self.cell(states_BLD, graph)
        if self.positions_LD is not None:
            states_BLD = states_BLD + self.positions_LD[places_from_end(items_BL, self.max_length)]
        last_B1D = states_BLD[:, -1:]
        attention_BL1 = self.attention(torch.sigmoid(self.attention_last(last_B1D) + self.attention_each(states_BLD)))
        clicked_BL1 = (items_BL != PADDING).unsqueeze(2)
        global_B1D = (attention_BL1 * clicked_BL1 * states_BLD).sum(dim=1, keepdim=True)
        return self.items.interest(self.hybrid(torch.cat([global_B1D, last_B1D], dim=2)))

    def item_vectors(self) -> Tensor:
        """Return vectors_ND: the initial embeddings, as in the paper; of length 1 if the score is the cosine."""
        return self.items.vectors()

    def serving_form(self) -> nn.Module:
        """Return the folded form if there is one propagation step, else the encoder with a folded item table."""
        return FoldedSRGNN([self.layers()]) if self.steps == 1 else with_folded_items(self)

    def layers(self) -> SRGNNLayers:
        """Return the trained layers, for folding."""
        return SRGNNLayers(
            max_length=self.max_length,
            items=self.items,
            message=self.cell.message,
            from_message=self.cell.from_message,
            from_state=self.cell.from_state,
            attention_last=self.attention_last,
            attention_each=self.attention_each,
            attention=self.attention,
            hybrid=self.hybrid,
            positions_LD=self.positions_LD,
        )

    def loss(self, batch: Batch) -> Tensor:
        """Return the cross-entropy of the next item, by the recipe's objective."""
        interests_B1D = self(batch.items_BL)
        loss: Tensor = self.next_item_loss(
            interests_B1D.squeeze(1), batch.next_items_B, self.items, batch.next_feedback_B
        )
        return loss
