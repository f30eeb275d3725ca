"""Several trained encoders as one, whose score of an item is the sum of theirs.

Dimension key: B sessions, L positions, M encoders, D embedding of all encoders together, N rows (row 0 pads).

The sum of inner products is the inner product of the vectors laid end to end, so one index and one search serve it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from onward.training.data.examples import Batch
from onward.training.models.encoder import SessionEncoder
from onward.training.models.folded_srgnn import FoldedSRGNN
from onward.training.models.srgnn import SRGNN


class Ensemble(SessionEncoder):
    """Encodes a session as one interest: those of its encoders, end to end, each of which must give a single one."""

    def __init__(self, encoders: Sequence[SessionEncoder]) -> None:
        """Join encoders of one catalog that are trained already."""
        super().__init__()
        self.encoders = tuple(encoders)
        self.parts = nn.ModuleList(encoders)
        self.max_length = max(encoder.max_length for encoder in encoders)

    def forward(self, items_BL: Tensor) -> Tensor:
        """Encode items_BL as interests_B1D; see `SessionEncoder.forward`."""
        return torch.cat([encoder(items_BL[:, -encoder.max_length :]) for encoder in self.encoders], dim=2)

    def serving_form(self) -> nn.Module:
        """Encoders that fold together do so; of others, the serving form of each."""
        together = [encoder for encoder in self.encoders if isinstance(encoder, SRGNN) and encoder.steps == 1]
        if len(together) == len(self.encoders) and len({encoder.max_length for encoder in together}) == 1:
            return FoldedSRGNN(together)
        return _EndToEnd([(encoder.serving_form(), encoder.max_length) for encoder in self.encoders])

    def item_vectors(self) -> Tensor:
        """The item vectors of all encoders, end to end."""
        return torch.cat([encoder.item_vectors() for encoder in self.encoders], dim=1)

    def loss(self, batch: Batch) -> Tensor:
        """Mean of the encoders' losses; they are trained apart, which keeps them different."""
        return torch.stack([encoder.loss(batch) for encoder in self.encoders]).mean()


class _EndToEnd(nn.Module):
    """The interests of several modules, each of which reads at most so many items."""

    def __init__(self, modules: Sequence[tuple[nn.Module, int]]) -> None:
        super().__init__()
        self.parts = nn.ModuleList([module for module, _ in modules])
        self.max_lengths = [max_length for _, max_length in modules]

    def forward(self, items_BL: Tensor) -> Tensor:
        recent = [items_BL[:, -max_length:] for max_length in self.max_lengths]
        return torch.cat([part(items_BL) for part, items_BL in zip(self.parts, recent, strict=True)], dim=2)
