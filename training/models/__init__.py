"""Every model, by the name that recipes and bundles give it."""

from collections.abc import Callable
from typing import Any, NamedTuple

from pydantic import BaseModel

from training.data.corpus import Corpus
from training.models.encoder import SessionEncoder
from training.models.srgnn import SRGNN, SRGNNOptions


class Model(NamedTuple):
    """How to make an untrained encoder: from the corpus it is to learn from and its options."""

    encoder: Callable[[Corpus, Any], SessionEncoder]
    options: type[BaseModel]


MODELS = {"srgnn": Model(SRGNN, SRGNNOptions)}
