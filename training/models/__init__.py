"""Every model, by the name that recipes and bundles give it."""

from training.models.srgnn import SRGNN, SRGNNOptions

MODELS = {"srgnn": (SRGNN, SRGNNOptions)}
