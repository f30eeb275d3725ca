"""Every model, by the name that recipes and bundles give it."""

from collections.abc import Callable
from typing import Any, NamedTuple

from pydantic import BaseModel

from training.data.corpus import Corpus
from training.models.attrec import AttRec, AttRecOptions
from training.models.comirec import ComiRecDR, ComiRecDROptions, ComiRecSA, ComiRecSAOptions
from training.models.encoder import SessionEncoder
from training.models.mind import MIND, MINDOptions
from training.models.mvcrec import MVCrec, MVCrecOptions
from training.models.re4 import Re4, Re4Options
from training.models.sasrec import SASRec, SASRecOptions
from training.models.srgnn import SRGNN, SRGNNOptions


class Model(NamedTuple):
    """How to make an untrained encoder: from the corpus it is to learn from and its options."""

    encoder: Callable[[Corpus, Any], SessionEncoder]
    options: type[BaseModel]


MODELS = {
    "attrec": Model(AttRec, AttRecOptions),
    "comirec_dr": Model(ComiRecDR, ComiRecDROptions),
    "comirec_sa": Model(ComiRecSA, ComiRecSAOptions),
    "mind": Model(MIND, MINDOptions),
    "re4": Model(Re4, Re4Options),
    "mvcrec": Model(MVCrec, MVCrecOptions),
    "sasrec": Model(SASRec, SASRecOptions),
    "srgnn": Model(SRGNN, SRGNNOptions),
}
