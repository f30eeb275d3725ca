"""All models of the package by the names that recipes and bundles use. To add one: docs/adding-a-model.md."""

from collections.abc import Callable
from typing import Any, NamedTuple

from pydantic import BaseModel

from onward.training.data.corpus import Corpus
from onward.training.models.attrec import AttRec, AttRecOptions
from onward.training.models.comirec import ComiRecDR, ComiRecDROptions, ComiRecSA, ComiRecSAOptions
from onward.training.models.encoder import SessionEncoder
from onward.training.models.mind import MIND, MINDOptions
from onward.training.models.mvcrec import MVCrec, MVCrecOptions
from onward.training.models.nearest_sessions import NearestSessionsEncoder, NearestSessionsOptions
from onward.training.models.re4 import Re4, Re4Options
from onward.training.models.sasrec import SASRec, SASRecOptions
from onward.training.models.srgnn import SRGNN, SRGNNOptions


class Model(NamedTuple):
    """A model: its encoder's constructor, which takes a corpus and options, and the type of its options."""

    encoder: Callable[[Corpus, Any], SessionEncoder]
    options: type[BaseModel]


MODELS = {
    "attrec": Model(AttRec, AttRecOptions),
    "comirec_dr": Model(ComiRecDR, ComiRecDROptions),
    "comirec_sa": Model(ComiRecSA, ComiRecSAOptions),
    "knn": Model(NearestSessionsEncoder, NearestSessionsOptions),
    "mind": Model(MIND, MINDOptions),
    "re4": Model(Re4, Re4Options),
    "mvcrec": Model(MVCrec, MVCrecOptions),
    "sasrec": Model(SASRec, SASRecOptions),
    "srgnn": Model(SRGNN, SRGNNOptions),
}
