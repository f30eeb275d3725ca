"""A transformer encoder of sessions: blocks of multi-head attention and a feed-forward network.

Source: Vaswani et al., "Attention Is All You Need", NeurIPS 2017; bidirectional for sessions as in Sun et al.,
"BERT4Rec", CIKM 2019, causal as in Kang and McAuley, "Self-Attentive Sequential Recommendation", ICDM 2018.
Dimension key: B sessions, L positions, D states, H heads, T output positions (L, or the last only).
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Activation = Literal["relu", "gelu"]
ACTIVATIONS: dict[Activation, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU}


class TransformerEncoder(nn.Module):
    """Self-attention over the positions of each session, in several blocks.

    Position embeddings must be part of the input states.
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
        """Initialise an encoder from torch's global random state.

        Args:
            dimension: D; a multiple of `heads`.
            layers: number of blocks.
            heads: H of each attention.
            feed_forward: width of the hidden layer of each feed-forward network.
            dropout: dropout rate of each sublayer's output.
            causal: each position attends to itself and older ones only, else to the whole session.
            pre_norm: normalise the input of each sublayer and the final output, else the output of each sublayer.
            activation: activation of the hidden layer of each feed-forward network.
            mixes_heads: whether attention ends in a linear layer over its concatenated heads.
        """
        super().__init__()
        self.causal = causal
        self.blocks = nn.ModuleList(
            TransformerBlock(dimension, heads, feed_forward, dropout, pre_norm, activation, mixes_heads)
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(dimension) if pre_norm else nn.Identity()

    def forward(self, states_BLD: Tensor, valid_BL: Tensor, *, last_only: bool = False) -> Tensor:
        """Return states_BTD after the last block; with `last_only` of the last position only, so that T is 1.

        Args:
            states_BLD: left-padded, the newest position last.
            valid_BL: padding mask, False at padding, to which no item attends; the output at padding is meaningless
                but finite.
            last_only: the last block computes the last position only.
        """
        visible_B1LL = self._visible(valid_BL)
        for block in self.blocks[:-1]:
            states_BLD = block(states_BLD, visible_B1LL)
        last = self.blocks[-1](states_BLD, visible_B1LL, last_only=last_only)
        states_BTD: Tensor = self.norm(last)
        return states_BTD

    def _visible(self, valid_BL: Tensor) -> Tensor:
        """Return the attention mask, True for positions (last axis) that each position attends to.

        It is (B, 1, L, L), or (B, 1, 1, L) if all positions attend to the same. Every position, padding too, attends
        to at least one: itself, or the last position.
        """
        places_L = torch.arange(valid_BL.shape[1], device=valid_BL.device)
        if not self.causal:
            return (valid_BL | (places_L == places_L[-1]))[:, None, None]
        older_LL, itself_LL = places_L[:, None] > places_L, places_L[:, None] == places_L
        return (valid_BL[:, None, None] & older_LL) | itself_LL


class TransformerBlock(nn.Module):
    """Attention, then a feed-forward network at each position, both with residual connections."""

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
        """Return states_BTD after this block."""
        seen_BLD = self.attention_norm(states_BLD) if self.pre_norm else states_BLD
        if last_only:
            states_BLD, visible = states_BLD[:, -1:], visible[:, :, -1:]
        query_BTD = seen_BLD[:, -1:] if last_only else seen_BLD
        states_BTD: Tensor = states_BLD + self.dropout(self.attention(query_BTD, seen_BLD, visible))
        if self.pre_norm:
            added_BTD: Tensor = self.dropout(self.feed_forward(self.feed_forward_norm(states_BTD)))
            return states_BTD + added_BTD
        states_BTD = self.attention_norm(states_BTD)
        normed_BTD: Tensor = self.feed_forward_norm(states_BTD + self.dropout(self.feed_forward(states_BTD)))
        return normed_BTD


class MultiHeadAttention(nn.Module):
    """Multi-head attention with scaled dot products."""

    def __init__(self, dimension: int, heads: int, mixes_heads: bool) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(dimension, dimension)
        self.key_value = nn.Linear(dimension, 2 * dimension)
        self.mix = nn.Linear(dimension, dimension) if mixes_heads else nn.Identity()

    def forward(self, query_BTD: Tensor, seen_BLD: Tensor, visible: Tensor) -> Tensor:
        """Return the attention output of the query positions over the visible positions."""
        key, value = self.key_value(seen_BLD).chunk(2, dim=2)
        attended_BHTE = F.scaled_dot_product_attention(
            self._split(self.query(query_BTD)), self._split(key), self._split(value), attn_mask=visible
        )
        mixed_BTD: Tensor = self.mix(attended_BHTE.transpose(1, 2).flatten(2))
        return mixed_BTD

    def _split(self, states_BLD: Tensor) -> Tensor:
        batch, length, dimension = states_BLD.shape
        return states_BLD.reshape(batch, length, self.heads, dimension // self.heads).transpose(1, 2)
