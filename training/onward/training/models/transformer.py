"""A self-attention encoder of whole sessions: blocks of multi-head attention and a feed-forward network.

Source: Vaswani et al., "Attention Is All You Need", NeurIPS 2017; bidirectional for sessions as in Sun et al.,
"BERT4Rec", CIKM 2019, causal as in Kang and McAuley, "Self-Attentive Sequential Recommendation", ICDM 2018.
Dimension key: B sessions, L positions, D states, H heads, T positions that are asked for (L, or the last alone).
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Activation = Literal["relu", "gelu"]
ACTIVATIONS: dict[Activation, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU}


class TransformerEncoder(nn.Module):
    """Lets the positions of each session attend to one another, over several blocks.

    Whatever tells the positions apart is part of the states that come in.
    """

    def __init__(
        self,
        dimension: int,
        *,
        layers: int,
        heads: int,
        feed_forward: int,
        dropout: float,
        causal: bool,
        pre_norm: bool,
        activation: Activation,
        mixes_heads: bool,
    ) -> None:
        """Make an encoder with torch's global random state.

        Args:
            dimension: D; a multiple of `heads`.
            layers: how many blocks.
            heads: H of each attention.
            feed_forward: width of the hidden layer of each feed-forward network.
            dropout: share of what each part adds to the states that training leaves out.
            causal: each position sees itself and older ones alone, else it sees the whole session.
            pre_norm: normalise what goes into each part and the end, else what comes out of each part.
            activation: between the two layers of each feed-forward network.
            mixes_heads: whether attention ends in a linear map over its heads.
        """
        super().__init__()
        self.causal = causal
        self.blocks = nn.ModuleList(
            TransformerBlock(dimension, heads, feed_forward, dropout, pre_norm, activation, mixes_heads)
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(dimension) if pre_norm else nn.Identity()

    def forward(self, states_BLD: Tensor, valid_BL: Tensor, *, last_only: bool = False) -> Tensor:
        """The states_BTD after the last block; with `last_only` of the last position alone, so that T is 1.

        Args:
            states_BLD: left-padded, the newest position last.
            valid_BL: False at padding, to which no position of a session attends; what comes out at padding means
                nothing, but is finite.
            last_only: spare the last block all work for other positions than the last.
        """
        visible_B1LL = self._visible(valid_BL)
        for block in self.blocks[:-1]:
            states_BLD = block(states_BLD, visible_B1LL)
        last = self.blocks[-1](states_BLD, visible_B1LL, last_only=last_only)
        states_BTD: Tensor = self.norm(last)
        return states_BTD

    def _visible(self, valid_BL: Tensor) -> Tensor:
        """Which positions (last axis) each position sees, as (B, 1, L, L), or (B, 1, 1, L) where all see the same.

        Something is visible from everywhere, from padding too: itself, or else the last position.
        """
        places_L = torch.arange(valid_BL.shape[1], device=valid_BL.device)
        if not self.causal:
            return (valid_BL | (places_L == places_L[-1]))[:, None, None]
        older_LL, itself_LL = places_L[:, None] > places_L, places_L[:, None] == places_L
        return (valid_BL[:, None, None] & older_LL) | itself_LL


class TransformerBlock(nn.Module):
    """Attention, then a feed-forward network at each position, each added to the states it takes."""

    def __init__(
        self,
        dimension: int,
        heads: int,
        feed_forward: int,
        dropout: float,
        pre_norm: bool,
        activation: Activation,
        mixes_heads: bool,
    ) -> None:
        super().__init__()
        self.pre_norm = pre_norm
        self.attention = MultiHeadAttention(dimension, heads, mixes_heads)
        self.feed_forward = nn.Sequential(
            nn.Linear(dimension, feed_forward), ACTIVATIONS[activation](), nn.Linear(feed_forward, dimension)
        )
        self.attention_norm, self.feed_forward_norm = nn.LayerNorm(dimension), nn.LayerNorm(dimension)
        self.dropout = nn.Dropout(dropout)

    def forward(self, states_BLD: Tensor, visible: Tensor, *, last_only: bool = False) -> Tensor:
        """The states_BTD after this block."""
        seen_BLD = self.attention_norm(states_BLD) if self.pre_norm else states_BLD
        if last_only:
            states_BLD, visible = states_BLD[:, -1:], visible[:, :, -1:]
        asking_BTD = seen_BLD[:, -1:] if last_only else seen_BLD
        states_BTD: Tensor = states_BLD + self.dropout(self.attention(asking_BTD, seen_BLD, visible))
        if self.pre_norm:
            added_BTD: Tensor = self.dropout(self.feed_forward(self.feed_forward_norm(states_BTD)))
            return states_BTD + added_BTD
        states_BTD = self.attention_norm(states_BTD)
        normed_BTD: Tensor = self.feed_forward_norm(states_BTD + self.dropout(self.feed_forward(states_BTD)))
        return normed_BTD


class MultiHeadAttention(nn.Module):
    """Weighted means of what is seen, each head by its own scaled dot products."""

    def __init__(self, dimension: int, heads: int, mixes_heads: bool) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(dimension, dimension)
        self.key_value = nn.Linear(dimension, 2 * dimension)
        self.mix = nn.Linear(dimension, dimension) if mixes_heads else nn.Identity()

    def forward(self, asking_BTD: Tensor, seen_BLD: Tensor, visible: Tensor) -> Tensor:
        """What each position that asks gathers from those it sees."""
        key, value = self.key_value(seen_BLD).chunk(2, dim=2)
        attended_BHTE = F.scaled_dot_product_attention(
            self._split(self.query(asking_BTD)), self._split(key), self._split(value), attn_mask=visible
        )
        mixed_BTD: Tensor = self.mix(attended_BHTE.transpose(1, 2).flatten(2))
        return mixed_BTD

    def _split(self, states_BLD: Tensor) -> Tensor:
        batch, length, dimension = states_BLD.shape
        return states_BLD.reshape(batch, length, self.heads, dimension // self.heads).transpose(1, 2)
