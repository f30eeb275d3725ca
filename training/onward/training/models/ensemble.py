"""Several trained encoders as one encoder whose item scores are the sum of theirs.

Dimension key: B sessions, L positions, M encoders, D embedding of all encoders together, N rows (row 0 pads).

The sum of inner products is the inner product of the concatenated vectors, so one index and one search serve it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from onward.training.data.examples import Batch
from onward.training.models.encoder import SessionEncoder
from onward.training.models.folded_srgnn import FoldedSRGNN
from onward.training.models.srgnn import SRGNN


class Ensemble(SessionEncoder):
    """Encodes a session as one interest: the concatenation of the single interests of its encoders."""

    def __init__(self, encoders: Sequence[SessionEncoder]) -> None:
        """Join trained encoders of one catalog."""
        super().__init__()
        self.encoders = tuple(encoders)
        self.parts = nn.ModuleList(encoders)
        self.max_length = max(encoder.max_length for encoder in encoders)

    def forward(self, items_BL: Tensor) -> Tensor:
        """Encode items_BL as interests_B1D; see `SessionEncoder.forward`."""
        return torch.cat([encoder(items_BL[:, -encoder.max_length :]) for encoder in self.encoders], dim=2)

    def serving_form(self) -> nn.Module:
        """Return one folded SR-GNN if all encoders are foldable with one length, else each encoder's serving form."""
        foldable = [encoder for encoder in self.encoders if isinstance(encoder, SRGNN) and encoder.steps == 1]
        if len(foldable) == len(self.encoders) and len({encoder.max_length for encoder in foldable}) == 1:
            return FoldedSRGNN([encoder.layers() for encoder in foldable])
        return _Concatenation([(encoder.serving_form(), encoder.max_length) for encoder in self.encoders])

    def item_vectors(self) -> Tensor:
        """Return the concatenated item vectors of all encoders."""
        return torch.cat([encoder.item_vectors() for encoder in self.encoders], dim=1)

    def loss(self, batch: Batch) -> Tensor:
        """Return the mean of the encoders' losses. The encoders are trained separately, which keeps them diverse."""
        return torch.stack([encoder.loss(batch) for encoder in self.encoders]).mean()


class _Concatenation(nn.Module):
    """The concatenated interests of several modules, each of which reads at most its `max_length` newest items."""

    def __init__(self, modules: Sequence[tuple[nn.Module, int]]) -> None:
        super().__init__()
        self.parts = nn.ModuleList([module for module, _ in modules])
        self.max_lengths = [max_length for _, max_length in modules]

    def forward(self, items_BL: Tensor) -> Tensor:
        recent = [items_BL[:, -max_length:] for max_length in self.max_lengths]
        return torch.cat([part(items_BL) for part, items_BL in zip(self.parts, recent, strict=True)], dim=2)
