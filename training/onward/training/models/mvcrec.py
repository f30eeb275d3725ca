"""MVCrec: an id view and a graph view of each session, trained with contrastive losses.

Source: Zhou and Lee, "MVCrec", arXiv 2604.14114.
Dimension key: B sessions, C sessions and augmented sessions together, L positions, D embedding of one view, E = 2D,
N rows of the item tables (row 0 pads), U users.

Each view has an item table and a transformer; the graph view's table is first propagated over a graph. The two vectors
of an item are concatenated, so one inner product adds the scores of both views, and serving needs no graph.

Two graphs are written down. The public code, which the published figures come from, links items that stand near each
other in a session, and sums the layers: `kind = "item_item"`. The other is LightGCN over users and the items that they
had, whose layers are averaged: `kind = "user_item"`. Its users have vectors of their own, which are learnt but not
exported, since the items' vectors already hold what reached them. A session counts as a user, see `UserItemGraph`. Both
graphs are built of the sessions that a fit learns from, so neither knows a validation or test target.

Where the public code differs from the paper otherwise, this follows the paper: its attention fusion weighs the views
(the code's softmax over a single number has no effect; `fusion = "separate"` is equivalent to that), masked items have
a row of their own instead of the padding row, no augmentation modifies the session itself, and the graph is sparse. As
in the code, attention has no linear layer over its heads, and blocks normalise their outputs. Positions are counted
from the session's end, so that a long session and its newest items have the same encoding.

Options of a recipe that the paper does not have: cosine similarity with a scale, dropout of item vectors and in the
transformers, contrast by cosine with a temperature, a sampled objective.
"""

from typing import Annotated, Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    ValidationInfo,
    field_validator,
)
from torch import Tensor, nn

from onward.bundle import InputLength
from onward.training.data.corpus import Corpus
from onward.training.data.examples import Batch
from onward.training.data.item_graph import ItemGraph, UserItemGraph
from onward.training.data.padding import PADDING
from onward.training.losses.augmentations import Augmentation, augmented_views
from onward.training.losses.objectives import NextItemLoss, Objective
from onward.training.models.encoder import SessionEncoder
from onward.training.models.layers import ItemTable, Similarity, places_from_end
from onward.training.models.transformer import TransformerEncoder

Share = Annotated[float, Field(ge=0, lt=1)]


class ItemItemOptions(BaseModel):
    """The graph of items that stand near each other in a session; layers are summed."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    kind: Literal["item_item"]
    reach: PositiveInt
    """Items at most this many steps apart in a session have an edge."""
    layers: PositiveInt
    """Number of propagation layers."""

    @property
    def form(self) -> str:
        """Name the graph."""
        return f"graph of items within {self.reach} steps"


class UserItemOptions(BaseModel):
    """The graph of users and their items; layers are averaged."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    kind: Literal["user_item"]
    layers: PositiveInt
    """Number of propagation layers."""

    @property
    def form(self) -> str:
        """Name the graph."""
        return "graph of users and items"


def _of_items_without_kind(graph: Any) -> Any:
    """Read a graph without a kind, as recipes of earlier versions have it, as one of items."""
    return {"kind": "item_item", **graph} if isinstance(graph, dict) else graph


GraphOptions = Annotated[
    Annotated[ItemItemOptions | UserItemOptions, Field(discriminator="kind")], BeforeValidator(_of_items_without_kind)
]


class ContrastOptions(BaseModel):
    """The contrastive losses: pull augmented views of one session together, and away from those of other sessions."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    weight: NonNegativeFloat
    """Weight of the three contrastive losses; with 0 they are not computed."""
    similarity: Literal["inner_product", "cosine"]
    temperature: PositiveFloat
    augmentation: Augmentation


class MVCrecOptions(BaseModel):
    """The `[encoder]` table of a recipe for MVCrec."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    dimension: PositiveInt
    """Dimension of one view; interests and item vectors have twice as many."""
    layers: PositiveInt
    """Number of blocks of each transformer."""
    heads: PositiveInt
    max_length: InputLength
    """Only the newest items of a session are read, at most this many."""
    graph: GraphOptions
    fusion: Literal["attention", "separate"]
    """Whether the interest of each view is fused with the other view, or used alone."""
    similarity: Similarity
    embedding_dropout: Share
    """Dropout rate of the transformers' input."""
    dropout: Share
    """Dropout rate of the output of each sublayer of a transformer."""
    contrast: ContrastOptions
    objective: Objective

    @property
    def form(self) -> str:
        """Name the graph, how the views are fused, and whether they are contrasted."""
        fusion = "fused by attention" if self.fusion == "attention" else "separate"
        return f"{self.graph.form}, views {fusion}, contrast {'on' if self.contrast.weight else 'off'}"

    @field_validator("heads")
    @classmethod
    def _heads_divide_the_dimension(cls, heads: int, info: ValidationInfo) -> int:
        if info.data.get("dimension", 0) % heads:
            raise ValueError(f"{heads} heads do not divide a dimension of {info.data['dimension']}")
        return heads


class ViewEncoder(nn.Module):
    """The transformer of one view: encodes a session's item vectors as the last state."""

    def __init__(self, options: MVCrecOptions) -> None:
        super().__init__()
        dimension = options.dimension
        self.positions_LD = nn.Parameter(torch.empty(options.max_length, dimension))
        self.mask_D = nn.Parameter(torch.empty(dimension), requires_grad=options.contrast.weight > 0)
        self.dropout = nn.Dropout(options.embedding_dropout)
        self.transformer = TransformerEncoder(
            dimension,
            layers=options.layers,
            heads=options.heads,
            feed_forward=dimension,
            dropout=options.dropout,
            causal=False,
            pre_norm=False,
            activation="relu",
            mixes_heads=False,
        )

    def forward(self, vectors_BLD: Tensor, valid_BL: Tensor, hidden_BL: Tensor | None = None) -> Tensor:
        """Return summary_BD of sessions with these item vectors; masked ones (hidden_BL) become the mask vector."""
        if hidden_BL is not None:
            vectors_BLD = torch.where(hidden_BL[:, :, None], self.mask_D, vectors_BLD)
        states_BLD = self.dropout(vectors_BLD + self.positions_LD[places_from_end(valid_BL, len(self.positions_LD))])
        summary_B1D: Tensor = self.transformer(states_BLD, valid_BL, last_only=True)
        return summary_B1D[:, 0]


class AttentionFusion(nn.Module):
    """Mixes the vectors of two views element by element, with weights computed from both.

    Source: Dai et al., "Attentional Feature Fusion", WACV 2021, applied to vectors as in the paper.
    """

    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.local = nn.Linear(dimension, dimension)
        self.overall = nn.Linear(1, 1)

    def forward(self, own_BD: Tensor, other_BD: Tensor) -> Tensor:
        """Return 2 w own_BD + 2 (1 - w) other_BD."""
        both_BD = own_BD + other_BD
        weight_BD = torch.sigmoid(self.local(both_BD) + self.overall(both_BD.mean(dim=1, keepdim=True)))
        return 2 * torch.lerp(other_BD, own_BD, weight_BD)


class TwoViewItems(NamedTuple):
    """The item vectors of both views, concatenated."""

    graph_ND: Tensor
    ids: ItemTable

    def __call__(self, rows: Tensor) -> Tensor:
        """Return vectors (..., 2D) of item rows."""
        graph = F.embedding(rows, self.graph_ND, padding_idx=PADDING)
        return self.ids.to_score_space(torch.cat([graph, self.ids.embedding(rows)], dim=-1))

    def vectors(self) -> Tensor:
        """Return vectors_NE of all rows."""
        return self.ids.to_score_space(torch.cat([self.graph_ND, self.ids.embedding.weight], dim=1))


class MVCrec(SessionEncoder):
    """Encodes a session as one interest: the graph view's and the id view's, concatenated."""

    takes_soft_targets = True
    item_tables = ("ids.embedding.weight", "graph_items_ND")
    session_tables = ("graph_users_UD",)

    spread_ND: Tensor
    """The graph view's item vectors after propagation, computed when evaluation begins; serving needs no graph."""

    def __init__(self, corpus: Corpus, options: MVCrecOptions) -> None:
        """Initialise an untrained encoder for the corpus's items and their graph from torch's global random state.

        All weights but those of layer norms start normal with deviation 0.01, as in the authors' code.
        """
        super().__init__()
        self.max_length = options.max_length
        self.options = options
        self.mask_row = corpus.items + 1
        self.ids = ItemTable(corpus.items, options.dimension, options.similarity)
        self.graph_items_ND = nn.Parameter(torch.empty(corpus.items + 1, options.dimension))
        if isinstance(options.graph, UserItemOptions):
            self.user_item_graph = UserItemGraph(corpus)
            self.graph_users_UD = nn.Parameter(torch.empty(self.user_item_graph.users, options.dimension))
        else:
            self.item_graph = ItemGraph(corpus, options.graph.reach)
        self.id_view, self.graph_view = ViewEncoder(options), ViewEncoder(options)
        fuses = options.fusion == "attention"
        self.fuse_graph = AttentionFusion(options.dimension) if fuses else None
        self.fuse_id = AttentionFusion(options.dimension) if fuses else None
        self.next_item_loss = NextItemLoss.of(options.objective, corpus.popularity())
        self._initialise()
        self.register_buffer("spread_ND", torch.zeros_like(self.graph_items_ND), persistent=False)

    def _initialise(self) -> None:
        for weight in self.parameters():
            nn.init.normal_(weight, std=0.01)
        for part in self.modules():
            if isinstance(part, nn.LayerNorm):
                part.reset_parameters()
        with torch.no_grad():
            self.ids.embedding.weight[PADDING] = 0
            self.graph_items_ND[PADDING] = 0

    def train(self, mode: bool = True) -> "MVCrec":
        """Switch between training and evaluation mode; evaluation uses the graph view of the weights at the switch."""
        if not mode:
            with torch.no_grad():
                self.spread_ND.copy_(self._spread())
        return super().train(mode)

    def forward(self, items_BL: Tensor) -> Tensor:
        """Encode items_BL as interests_B1E; see `SessionEncoder.forward`."""
        graph_BD, id_BD = self._summaries(items_BL, self._items())
        return self._interests(graph_BD, id_BD)[:, None]

    def item_vectors(self) -> Tensor:
        """Return the concatenated vectors of graph view and id view; of length 1 if the score is the cosine."""
        return self._items().vectors()

    def loss(self, batch: Batch) -> Tensor:
        """Return the cross-entropy of the next item plus the weighted contrastive losses of augmented views."""
        items, contrast = TwoViewItems(self._spread(), self.ids), self.options.contrast
        if not contrast.weight:
            return self._next_item(*self._summaries(batch.items_BL, items), batch, items)
        augmented = augmented_views(batch.items_BL, contrast.augmentation, self.mask_row)
        all_CL = torch.cat([batch.items_BL, *augmented])
        graph_CD, id_CD = self._summaries(all_CL, items, all_CL == self.mask_row)
        (graph_BD, *graph_augmented), (id_BD, *id_augmented) = graph_CD.chunk(3), id_CD.chunk(3)
        next_item = self._next_item(graph_BD, id_BD, batch, items)
        return next_item + contrast.weight * self._contrast(graph_augmented, id_augmented)

    def _spread(self) -> Tensor:
        """Propagate the graph view's item vectors over the graph."""
        layers, items_ND = self.options.graph.layers, self.graph_items_ND
        spread_ND: Tensor = (
            self.user_item_graph(items_ND, self.graph_users_UD, layers)
            if self.options.graph.kind == "user_item"
            else self.item_graph(items_ND, layers)
        )
        return spread_ND

    def _items(self) -> TwoViewItems:
        return TwoViewItems(self._spread() if self.training else self.spread_ND, self.ids)

    def _summaries(
        self, items_BL: Tensor, items: TwoViewItems, hidden_BL: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the session summaries of the graph view and of the id view."""
        valid_BL = items_BL != PADDING
        rows_BL = items_BL if hidden_BL is None else items_BL.masked_fill(hidden_BL, PADDING)
        graph_BLD = F.embedding(rows_BL, items.graph_ND, padding_idx=PADDING)
        graph_BD = self.graph_view(graph_BLD, valid_BL, hidden_BL)
        return graph_BD, self.id_view(self.ids.embedding(rows_BL), valid_BL, hidden_BL)

    def _interests(self, graph_BD: Tensor, id_BD: Tensor) -> Tensor:
        """Return interests_BE from the summaries of both views, fused if the recipe says so."""
        if self.fuse_graph is not None and self.fuse_id is not None:
            graph_BD, id_BD = self.fuse_graph(graph_BD, id_BD), self.fuse_id(id_BD, graph_BD)
        return self.ids.interest(torch.cat([graph_BD, id_BD], dim=1))

    def _contrast(self, graph_augmented: list[Tensor], id_augmented: list[Tensor]) -> Tensor:
        """Return the sum of the contrastive losses within the id view, within the graph view and between them."""
        options = self.options.contrast
        pairs = (id_augmented, graph_augmented, (graph_augmented[0], id_augmented[1]))
        losses = [
            info_nce(one_BD, other_BD, temperature=options.temperature, cosine=options.similarity == "cosine")
            for one_BD, other_BD in pairs
        ]
        return torch.stack(losses).sum()

    def _next_item(self, graph_BD: Tensor, id_BD: Tensor, batch: Batch, items: TwoViewItems) -> Tensor:
        interests_BE = self._interests(graph_BD, id_BD)
        loss: Tensor = self.next_item_loss(interests_BE, batch.next_items_B, items, batch.next_feedback_B)
        return loss


def info_nce(first_BD: Tensor, second_BD: Tensor, *, temperature: float, cosine: bool) -> Tensor:
    """Compute the InfoNCE loss (NT-Xent): cross-entropy of each vector's partner among all others, in nats.

    It is the mean over the 2B vectors. The partner of first[b] is second[b] and vice versa, so each vector has one
    positive and 2 (B - 1) negatives.

    Args:
        first_BD: one view of each session.
        second_BD: another view of each session.
        temperature: divides the similarities.
        cosine: compare by the cosine, else by the inner product.

    Source: Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations", ICML 2020.
    """
    both_CD = torch.cat([first_BD, second_BD])
    if cosine:
        both_CD = F.normalize(both_CD, dim=1)
    scores_CC = (both_CD @ both_CD.T / temperature).fill_diagonal_(-torch.inf)
    partners_C = torch.arange(len(both_CD), device=both_CD.device).roll(len(first_BD))
    return F.cross_entropy(scores_CC, partners_C)
