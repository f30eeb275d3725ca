"""MVCrec: two views of a session, its items by themselves and in the graph of all sessions, held together by contrast.

Source: Zhou and Lee, "MVCrec", arXiv 2604.14114.
Dimension key: B sessions, C of them with their altered views, L positions, D embedding of one view, E = 2D,
N rows of the item tables (row 0 pads).

Each view has a table and a transformer; the graph view's table is first spread over the item graph. Every item has its
two vectors side by side, so one inner product adds the scores of both views, and serving needs no graph.

Where the public code differs from the paper, this follows the paper: its fusion by attention weighs the views (the
code's softmax over one number never does; `fusion = { kind = "separate" }` is what that comes to), hidden items have a
row of their own instead of the padding's, no altered view changes the session itself, and the graph is sparse. As in
the code, the graph view is the sum of its layers, attention has no map over its heads and blocks end in their norms.
Positions are counted from the session's end, so that a long session and its newest items are read alike.

Improvements that a recipe may name, each off in the paper's form: cosine similarity with a scale, dropout of item
vectors and inside the transformers, contrast by cosine with a temperature, a sampled objective.
"""

from typing import Annotated, Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    ValidationInfo,
    field_validator,
)
from torch import Tensor, nn

from onward.training.data.corpus import Corpus
from onward.training.data.examples import Batch
from onward.training.data.item_graph import ItemGraph
from onward.training.data.padding import PADDING
from onward.training.losses.augmentations import Augmentation, augmented_views
from onward.training.losses.objectives import NextItemLoss, Objective
from onward.training.models.encoder import SessionEncoder
from onward.training.models.layers import ItemTable, Similarity, places_from_end
from onward.training.models.transformer import TransformerEncoder

Share = Annotated[float, Field(ge=0, lt=1)]


class GraphOptions(BaseModel):
    """The item graph and how far vectors spread over it."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    reach: PositiveInt
    """Items so many steps apart in a session, or fewer, are linked."""
    layers: PositiveInt


class ContrastOptions(BaseModel):
    """How altered views of one session are drawn together and away from those of others."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    weight: NonNegativeFloat
    """Of the three contrastive losses, beside the next item's; with 0 they are not computed."""
    similarity: Literal["inner_product", "cosine"]
    temperature: PositiveFloat
    augmentation: Augmentation


class MVCrecOptions(BaseModel):
    """The `[encoder]` table of a recipe for MVCrec."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    dimension: PositiveInt
    """Of one view; interests and item vectors have twice as many numbers."""
    layers: PositiveInt
    """Blocks of each transformer."""
    heads: PositiveInt
    max_length: PositiveInt
    """Items of a session that are read, the newest."""
    graph: GraphOptions
    fusion: Literal["attention", "separate"]
    """Whether each view's interest takes from the other view, or is that view's own."""
    similarity: Similarity
    embedding_dropout: Share
    """Share of each item vector's numbers that training leaves out of the transformers' input."""
    dropout: Share
    """Share of what each part of a transformer adds that training leaves out."""
    contrast: ContrastOptions
    objective: Objective

    @field_validator("heads")
    @classmethod
    def _heads_divide_the_dimension(cls, heads: int, info: ValidationInfo) -> int:
        if info.data.get("dimension", 0) % heads:
            raise ValueError(f"{heads} heads do not divide a dimension of {info.data['dimension']}")
        return heads


class ViewEncoder(nn.Module):
    """Reads what one view has of a session's items, a transformer's last state."""

    def __init__(self, options: MVCrecOptions) -> None:
        super().__init__()
        dimension = options.dimension
        self.positions_LD = nn.Parameter(torch.empty(options.max_length, dimension))
        self.mask_D = nn.Parameter(torch.empty(dimension))
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
        """summary_BD of sessions with these item vectors, where those that are hidden are replaced by the mask's."""
        if hidden_BL is not None:
            vectors_BLD = torch.where(hidden_BL[:, :, None], self.mask_D, vectors_BLD)
        states_BLD = self.dropout(vectors_BLD + self.positions_LD[places_from_end(valid_BL, len(self.positions_LD))])
        summary_B1D: Tensor = self.transformer(states_BLD, valid_BL, last_only=True)
        return summary_B1D[:, 0]


class AttentionFusion(nn.Module):
    """Mixes one view with another, number by number, by weights that both determine.

    Source: Dai et al., "Attentional Feature Fusion", WACV 2021, as the paper takes it to vectors.
    """

    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.local = nn.Linear(dimension, dimension)
        self.overall = nn.Linear(1, 1)

    def forward(self, own_BD: Tensor, other_BD: Tensor) -> Tensor:
        """The view's own vector and the other's, 2 w and 2 (1 - w) of them."""
        both_BD = own_BD + other_BD
        weight_BD = torch.sigmoid(self.local(both_BD) + self.overall(both_BD.mean(dim=1, keepdim=True)))
        return 2 * torch.lerp(other_BD, own_BD, weight_BD)


class TwoViewItems(NamedTuple):
    """The items in the space of both views."""

    graph_ND: Tensor
    ids: ItemTable

    def __call__(self, rows: Tensor) -> Tensor:
        """Vectors (..., 2D) of some rows."""
        graph = F.embedding(rows, self.graph_ND, padding_idx=PADDING)
        return self.ids.to_score_space(torch.cat([graph, self.ids.embedding(rows)], dim=-1))

    def vectors(self) -> Tensor:
        """vectors_NE of all rows."""
        return self.ids.to_score_space(torch.cat([self.graph_ND, self.ids.embedding.weight], dim=1))


class MVCrec(SessionEncoder):
    """Encodes a session as one interest, the graph view's beside the id view's."""

    spread_ND: Tensor
    """The graph view's items as they were when evaluation began: what serving needs of the graph."""

    def __init__(self, corpus: Corpus, options: MVCrecOptions) -> None:
        """Make an untrained encoder of the corpus's items and their graph, with torch's global random state.

        Tables, maps and biases start normal with deviation 0.01, as in the authors' code.
        """
        super().__init__()
        self.max_length = options.max_length
        self.options = options
        self.mask_row = corpus.items + 1
        self.ids = ItemTable(corpus.items, options.dimension, options.similarity)
        self.item_graph = ItemGraph(corpus, options.graph.reach)
        self.graph_items_ND = nn.Parameter(torch.empty(corpus.items + 1, options.dimension))
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
        """Change between training and evaluation; evaluation uses the graph view of the weights at this moment."""
        if not mode:
            with torch.no_grad():
                self.spread_ND.copy_(self._spread())
        return super().train(mode)

    def forward(self, items_BL: Tensor) -> Tensor:
        """Encode items_BL as interests_B1E; see `SessionEncoder.forward`."""
        graph_BD, id_BD = self._summaries(items_BL, self._items())
        return self._interests(graph_BD, id_BD)[:, None]

    def item_vectors(self) -> Tensor:
        """The graph view's vectors beside the id view's; of length 1 where the cosine is the score."""
        return self._items().vectors()

    def loss(self, batch: Batch) -> Tensor:
        """Cross-entropy of the next item, and the contrast of altered views where the recipe gives it a weight."""
        items, contrast = TwoViewItems(self._spread(), self.ids), self.options.contrast
        if not contrast.weight:
            return self._next_item(*self._summaries(batch.items_BL, items), batch.next_items_B, items)
        altered = augmented_views(batch.items_BL, contrast.augmentation, self.mask_row)
        all_CL = torch.cat([batch.items_BL, *altered])
        graph_CD, id_CD = self._summaries(all_CL, items, all_CL == self.mask_row)
        (graph_BD, *graph_altered), (id_BD, *id_altered) = graph_CD.chunk(3), id_CD.chunk(3)
        next_item = self._next_item(graph_BD, id_BD, batch.next_items_B, items)
        return next_item + contrast.weight * self._contrast(graph_altered, id_altered)

    def _spread(self) -> Tensor:
        spread_ND: Tensor = self.item_graph(self.graph_items_ND, self.options.graph.layers)
        return spread_ND

    def _items(self) -> TwoViewItems:
        return TwoViewItems(self._spread() if self.training else self.spread_ND, self.ids)

    def _summaries(
        self, items_BL: Tensor, items: TwoViewItems, hidden_BL: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """What the graph view's transformer reads of the sessions, and the id view's."""
        valid_BL = items_BL != PADDING
        rows_BL = items_BL if hidden_BL is None else items_BL.masked_fill(hidden_BL, PADDING)
        graph_BLD = F.embedding(rows_BL, items.graph_ND, padding_idx=PADDING)
        graph_BD = self.graph_view(graph_BLD, valid_BL, hidden_BL)
        return graph_BD, self.id_view(self.ids.embedding(rows_BL), valid_BL, hidden_BL)

    def _interests(self, graph_BD: Tensor, id_BD: Tensor) -> Tensor:
        """interests_BE of what the views read, each fused with the other where the recipe says so."""
        if self.fuse_graph is not None and self.fuse_id is not None:
            graph_BD, id_BD = self.fuse_graph(graph_BD, id_BD), self.fuse_id(id_BD, graph_BD)
        return self.ids.interest(torch.cat([graph_BD, id_BD], dim=1))

    def _contrast(self, graph_altered: list[Tensor], id_altered: list[Tensor]) -> Tensor:
        """Within the id view, within the graph view, and between them."""
        options = self.options.contrast
        pairs = (id_altered, graph_altered, (graph_altered[0], id_altered[1]))
        losses = [
            info_nce(one_BD, other_BD, temperature=options.temperature, cosine=options.similarity == "cosine")
            for one_BD, other_BD in pairs
        ]
        return torch.stack(losses).sum()

    def _next_item(self, graph_BD: Tensor, id_BD: Tensor, targets_B: Tensor, items: TwoViewItems) -> Tensor:
        loss: Tensor = self.next_item_loss(self._interests(graph_BD, id_BD), targets_B, items)
        return loss


def info_nce(one_BD: Tensor, other_BD: Tensor, *, temperature: float, cosine: bool) -> Tensor:
    """Cross-entropy of finding each vector's partner among all others of both; mean over the 2B vectors, in nats.

    The partner of one[b] is other[b], and the other way round: one positive and 2 (B - 1) negatives each.

    Args:
        one_BD: one view of each session.
        other_BD: another view of each.
        temperature: divides the similarities.
        cosine: compare directions alone, else by the inner product.

    Source: Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations", ICML 2020.
    """
    both_CD = torch.cat([one_BD, other_BD])
    if cosine:
        both_CD = F.normalize(both_CD, dim=1)
    scores_CC = (both_CD @ both_CD.T / temperature).fill_diagonal_(-torch.inf)
    partners_C = torch.arange(len(both_CD), device=both_CD.device).roll(len(one_BD))
    return F.cross_entropy(scores_CC, partners_C)
