"""Re4: several interests of one session by attention, regularised in training by three backward flows.

Source: Zhang et al., "Re4: Learning to Re-contrast, Re-attend, Re-construct for Multi-interest Recommendation",
WWW 2022.
Dimension key: B sessions, L positions, K interests, D embedding, H hidden, M the longest session that is read,
P positives.

Serving runs the forward flow only. Where the paper and the code behind its results differ, the code's form is meant
unless an option names the paper's:

- the interests pass through one more layer with tanh before they score items, in training and in serving; the backward
  flows use them before it. The equations have no such layer: `readout = "none"`;
- all matrices start standard normal, which makes the first attention nearly one-hot;
- re-contrast is an InfoNCE loss of one positive at a time. In the code its denominator holds all items of the session,
  the interest's other positives too: `denominator = "session"`. In the paper it holds the positive and the negatives
  alone: `denominator = "negatives"`. Negatives are the items of the session that are not positives, the other
  interests, and items of other users, as in the code those of the previous example in the batch;
- re-contrast and re-construct are sums over the positives, divided by all K * M places of a session, whatever its
  length; compared with the plain sums of the equations, that is a constant factor of their weights.

Which side of re-attend is the target: the paper wants the forward flow's estimate of how an item relates to an interest
to agree with the recommendation scores. So in the code softmax over z_k . x_i is the target, and the forward attention
is fitted to it: `target = "scores"`. The other reading has the forward attention as the target, and fits the scores to
it: `target = "attention"`. As in the code, gradients flow to both sides either way: neither is detached.

The sampled objective draws with replacement and leaves out the example's own target; the code draws without replacement
and leaves out the targets of the whole batch. Exponentials are computed only inside a softmax, so no score overflows.

Options of a recipe that the paper does not have: the cosine with a scale (re-attend then uses it too), interests that
start as means of items, no read-out layer.
"""

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from onward.bundle import InputLength
from onward.training.data.corpus import Corpus
from onward.training.data.examples import Batch
from onward.training.data.padding import PADDING
from onward.training.losses.objectives import NegativeInterest, NextItemLoss, Objective
from onward.training.models.encoder import SessionEncoder
from onward.training.models.layers import ItemTable, Similarity, places_from_end

Denominator = Literal["negatives", "session"]
AttentionTarget = Literal["scores", "attention"]


class ReContrast(BaseModel):
    """Pull an interest towards the items it attends to, and away from other items and interests."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    weight: NonNegativeFloat
    """Weight in the loss; with 0 it is not computed."""
    temperature: PositiveFloat
    """Divisor of the cosines."""
    denominator: Denominator = "session"
    """What a positive is compared with: all items of the session (the code's form), or the negatives alone (the
    paper's). Recipes of earlier versions lack the key and mean the code's form."""


class ReAttend(BaseModel):
    """Make the attention agree with the scores of the items it weighs."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    weight: NonNegativeFloat
    """Weight in the loss; with 0 it is not computed."""
    target: AttentionTarget = "scores"
    """The side that the other is fitted to: the softmax of the scores (the code's form), or the attention. Recipes of
    earlier versions lack the key and mean the scores."""


class ReConstruct(BaseModel):
    """Make the items an interest attends to reconstructable from it."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    weight: NonNegativeFloat
    """Weight in the loss; with 0 it is not computed."""


class Re4Options(BaseModel):
    """The `[encoder]` table of a recipe for Re4."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    dimension: PositiveInt
    hidden: PositiveInt
    """Width of the attention's hidden layer."""
    interests: PositiveInt
    max_length: InputLength
    """Only the newest items of a session are read, at most this many."""
    similarity: Similarity
    initial: Literal["standard_normal", "item_means"]
    """Initial value of the matrices: N(0, 1); or N(0, 1 / inputs) except W_2, which starts as the identity, so that
    interests begin as means of items."""
    readout: Literal["tanh", "none"]
    """The layer between the interests that the backward flows use and those that score items."""
    re_contrast: ReContrast
    re_attend: ReAttend
    re_construct: ReConstruct
    objective: Objective
    negative_interest: NegativeInterest

    @property
    def form(self) -> str:
        """Name the backward flows that are on, and their forms."""
        contrast, attend = self.re_contrast, self.re_attend
        flows = [
            f"re-contrast over the {contrast.denominator}" if contrast.weight else "",
            f"re-attend to the {attend.target}" if attend.weight else "",
            "re-construct" if self.re_construct.weight else "",
        ]
        return ", ".join(filter(None, flows)) or "backward flows off"


class ForwardFlow(NamedTuple):
    """The results of the forward flow, which the backward flows use."""

    valid_BL: Tensor
    """Padding mask, False at padding."""
    items_BLD: Tensor
    attention_logits_BKL: Tensor
    """-inf at padding."""
    interests_BKD: Tensor
    """The interests before the read-out."""

    def positive_BKL(self) -> Tensor:
        """Return which items are positives of an interest: those with more than uniform attention."""
        length_B11 = self.valid_BL.sum(dim=1)[:, None, None]
        return self.attention_logits_BKL.softmax(dim=2) > 1 / length_B11


def re_contrast(
    interests_BKD: Tensor,
    items_BLD: Tensor,
    *,
    valid_BL: Tensor,
    positive_BKL: Tensor,
    temperature: float,
    max_length: int,
    denominator: Denominator,
) -> Tensor:
    """Compute the InfoNCE loss of each interest's positives: their sum, in nats, divided by B * K * max_length.

    The negatives of an interest are the items of its session that are not its positives, those of the previous example,
    and the other interests. The denominator of a positive holds itself and the negatives; with "session" it holds the
    other positives too.
    """
    interests_BKD = F.normalize(interests_BKD, dim=2)
    items_BLD = F.normalize(items_BLD, dim=2)
    interest_count = interests_BKD.shape[1]
    own_BKL = interests_BKD @ items_BLD.mT / temperature
    other_users_BKL = interests_BKD @ items_BLD.roll(1, dims=0).mT / temperature
    other_interests_BKK = interests_BKD @ interests_BKD.mT / temperature
    itself_KK = torch.eye(interest_count, dtype=torch.bool, device=interests_BKD.device)
    rivals_BKL = valid_BL[:, None] if denominator == "session" else valid_BL[:, None] & ~positive_BKL
    logits_BKS = torch.cat(
        [
            own_BKL.masked_fill(~rivals_BKL, -torch.inf),
            other_users_BKL.masked_fill(~valid_BL.roll(1, dims=0)[:, None], -torch.inf),
            other_interests_BKK.masked_fill(itself_KK, -torch.inf),
        ],
        dim=2,
    )
    total_BKX = logits_BKS.logsumexp(dim=2, keepdim=True)
    if denominator == "negatives":
        total_BKX = torch.logaddexp(total_BKX, own_BKL)
    return (total_BKX - own_BKL).masked_fill(~positive_BKL, 0).sum() / (len(items_BLD) * interest_count * max_length)


def re_attend(attention_logits_BKL: Tensor, scores_BKL: Tensor, *, valid_BL: Tensor, target: AttentionTarget) -> Tensor:
    """Compute the cross-entropy between the attention and the softmax of the items' scores; mean over B * K, in nats.

    The `target` is the side that the other is fitted to. Gradients flow to both sides.
    """
    padding_B1L = ~valid_BL[:, None]
    attention_BKL, scores_BKL = (
        logits.masked_fill(padding_B1L, -torch.inf) for logits in (attention_logits_BKL, scores_BKL)
    )
    target_BKL, fitted_BKL = (scores_BKL, attention_BKL) if target == "scores" else (attention_BKL, scores_BKL)
    predicted_BKL = fitted_BKL.log_softmax(dim=2).masked_fill(padding_B1L, 0)
    return -(target_BKL.softmax(dim=2) * predicted_BKL).sum(dim=2).mean()


def re_construct(reconstructed_BKLD: Tensor, items_BLD: Tensor, *, positive_BKL: Tensor, max_length: int) -> Tensor:
    """Compute the squared error at each interest's positives: their sum divided by B * K * max_length * D."""
    batch, interest_count, _, dimension = reconstructed_BKLD.shape
    session_P, interest_P, place_P = positive_BKL.nonzero(as_tuple=True)
    error_PD = reconstructed_BKLD[session_P, interest_P, place_P] - items_BLD[session_P, place_P]
    return error_PD.square().sum() / (batch * interest_count * max_length * dimension)


class Reconstruction(nn.Module):
    """Reconstructs the items of a session from one of its interests.

    The interest z becomes M vectors c_l = F_l z + b_l, one per place, counted from the session's end. Place l then
    attends to all places m with weights softmax_m of w_l . tanh(W_key c_m) and values W_value c_m.
    """

    def __init__(self, dimension: int, max_length: int) -> None:
        super().__init__()
        self.up_sample = nn.Linear(dimension, max_length * dimension)
        self.key = nn.Linear(dimension, dimension, bias=False)
        self.query_MD = nn.Parameter(torch.empty(max_length, dimension))
        self.value = nn.Linear(dimension, dimension, bias=False)

    def forward(self, interests_BKD: Tensor, valid_BL: Tensor) -> Tensor:
        """Return reconstructed_BKLD: for every interest, its reconstruction of the item at each place.

        W_key F_l and W_value F_l are multiplied once per call, so an interest needs two matrix products per place
        instead of three.
        """
        batch, interest_count, dimension = interests_BKD.shape
        max_length, length = len(self.query_MD), valid_BL.shape[1]
        places_L = places_from_end(valid_BL, max_length)
        blocks_LDD = self.up_sample.weight.view(max_length, dimension, dimension)[places_L]
        biases_LD = self.up_sample.bias.view(max_length, dimension)[places_L]
        interests_XD = interests_BKD.flatten(0, 1)

        def through(layer: nn.Linear) -> Tensor:
            matrix_YD = (layer.weight @ blocks_LDD).flatten(0, 1)
            return F.linear(interests_XD, matrix_YD, layer(biases_LD).flatten()).view(-1, length, dimension)

        logits_XLL = torch.tanh(through(self.key)) @ self.query_MD[places_L].T  # key place, query place
        padding_BKL = ~valid_BL[:, None].expand(batch, interest_count, length)
        weights_XLL = logits_XLL.masked_fill(padding_BKL.flatten(0, 1)[:, :, None], -torch.inf).softmax(dim=1)
        return (weights_XLL.mT @ through(self.value)).view(batch, interest_count, length, dimension)


class Re4(SessionEncoder):
    """Encodes a session as several interests, each with its own attention over the items."""

    takes_soft_targets = True

    def __init__(self, corpus: Corpus, options: Re4Options) -> None:
        """Initialise an untrained encoder for the corpus's items from torch's global random state."""
        super().__init__()
        dimension = options.dimension
        self.options = options
        self.max_length = options.max_length
        self.items = ItemTable(corpus.items, dimension, options.similarity)
        self.hidden = nn.Linear(dimension, options.hidden, bias=False)
        self.attention = nn.Linear(options.hidden, options.interests, bias=False)
        self.value = nn.Linear(dimension, dimension, bias=False)
        self.readout = (
            nn.Sequential(nn.Linear(dimension, dimension), nn.Tanh()) if options.readout == "tanh" else nn.Identity()
        )
        self.reconstruction = Reconstruction(dimension, options.max_length) if options.re_construct.weight else None
        self.next_item_loss = NextItemLoss.of(options.objective, corpus.popularity())
        self._initialise(options.initial)

    def forward(self, items_BL: Tensor) -> Tensor:
        """Encode items_BL as interests_BKD; see `SessionEncoder.forward`."""
        return self._read_out(self.forward_flow(items_BL).interests_BKD)

    def forward_flow(self, items_BL: Tensor) -> ForwardFlow:
        """Run the forward flow: the interests before the read-out, and their inputs."""
        valid_BL = items_BL != PADDING
        items_BLD = self.items(items_BL)
        logits_BKL = self.attention(torch.tanh(self.hidden(items_BLD))).mT
        logits_BKL = logits_BKL.masked_fill(~valid_BL[:, None], -torch.inf)
        interests_BKD = self.value(logits_BKL.softmax(dim=2) @ items_BLD)
        return ForwardFlow(valid_BL, items_BLD, logits_BKL, interests_BKD)

    def item_vectors(self) -> Tensor:
        """Return vectors_ND: the embeddings, of length 1 if the score is the cosine."""
        return self.items.vectors()

    def serving_form(self) -> nn.Module:
        """Return the folded form, with each item's value vector and attention logits precomputed."""
        return FoldedRe4(self)

    def loss(self, batch: Batch) -> Tensor:
        """Return the objective for the interest nearest to the next item, plus the weighted backward flows."""
        flow = self.forward_flow(batch.items_BL)
        loss = self.next_item_loss.multi_interest(
            self._read_out(flow.interests_BKD),
            batch.next_items_B,
            self.items,
            self.options.negative_interest,
            batch.next_feedback_B,
        )
        return loss + self.backward_flows(flow)

    def backward_flows(self, flow: ForwardFlow) -> Tensor:
        """Return the weighted sum of the backward flows with a non-zero weight."""
        options, max_length = self.options, self.max_length
        positive_BKL = flow.positive_BKL()
        total = flow.interests_BKD.new_zeros(())
        if options.re_contrast.weight:
            total = total + options.re_contrast.weight * re_contrast(
                flow.interests_BKD,
                flow.items_BLD,
                valid_BL=flow.valid_BL,
                positive_BKL=positive_BKL,
                temperature=options.re_contrast.temperature,
                max_length=max_length,
                denominator=options.re_contrast.denominator,
            )
        if options.re_attend.weight:
            scores_BKL = self.items.interest(flow.interests_BKD) @ flow.items_BLD.mT
            total = total + options.re_attend.weight * re_attend(
                flow.attention_logits_BKL, scores_BKL, valid_BL=flow.valid_BL, target=options.re_attend.target
            )
        if self.reconstruction is not None:
            total = total + options.re_construct.weight * re_construct(
                self.reconstruction(flow.interests_BKD, flow.valid_BL),
                flow.items_BLD,
                positive_BKL=positive_BKL,
                max_length=max_length,
            )
        return total

    def _read_out(self, interests_BKD: Tensor) -> Tensor:
        return self.items.interest(self.readout(interests_BKD))

    def _initialise(self, initial: str) -> None:
        """Draw the matrices without biases; layers with biases keep torch's initial values, as in the authors' code."""
        matrices = [self.items.embedding.weight, self.hidden.weight, self.attention.weight, self.value.weight]
        if self.reconstruction is not None:
            reconstruction = self.reconstruction
            matrices += [reconstruction.key.weight, reconstruction.query_MD, reconstruction.value.weight]
        for matrix in matrices:
            nn.init.normal_(matrix, std=1.0 if initial == "standard_normal" else matrix.shape[1] ** -0.5)
        if initial == "item_means":
            nn.init.eye_(self.value.weight)
        with torch.no_grad():
            self.items.embedding.weight[PADDING] = 0


class FoldedRe4(nn.Module):
    """The serving form of a Re4: an item's logits do not depend on the session, and W_2 is linear in the item."""

    @torch.no_grad()
    def __init__(self, encoder: Re4) -> None:
        """Fold a trained encoder, whose weights must not change afterwards."""
        super().__init__()
        vectors_ND = encoder.item_vectors()
        logits_NK = encoder.attention(torch.tanh(encoder.hidden(vectors_ND)))
        logits_NK[PADDING] = -torch.inf
        self.values_ND, self.logits_NK = (
            nn.Embedding.from_pretrained(table) for table in (encoder.value(vectors_ND), logits_NK)
        )
        self.items, self.readout = encoder.items, encoder.readout

    def forward(self, items_BL: Tensor) -> Tensor:
        """Encode items_BL as interests_BKD; see `SessionEncoder.forward`."""
        weights_BKL = self.logits_NK(items_BL).softmax(dim=1).mT
        interests_BKD: Tensor = self.items.interest(self.readout(weights_BKL @ self.values_ND(items_BL)))
        return interests_BKD
