"""SASRec's one pass over a session against one pass for each of its prefixes."""

import torch
import torch.nn.functional as F

from onward.training.data.examples import Examples
from onward.training.losses.objectives import FullSoftmax
from onward.training.models.layers import Cosine
from onward.training.models.sasrec import SASRec, SASRecOptions
from tests.training.corpora import corpus, sessions

ITEMS, MAX_LENGTH = 12, 6
SESSIONS = [[1, 2, 3, 4, 5], [6, 7], [8, 9, 8, 10]]


def encoder() -> SASRec:
    torch.manual_seed(3)
    options = SASRecOptions(
        dimension=8,
        layers=2,
        heads=2,
        feed_forward=16,
        max_length=MAX_LENGTH,
        similarity=Cosine(kind="cosine", scale=5),
        dropout=0,
        objective=FullSoftmax(kind="full_softmax"),
    )
    return SASRec(corpus(ITEMS), options).eval()


def test_the_loss_of_one_pass_equals_that_of_one_pass_per_prefix() -> None:
    model = encoder()
    examples = Examples.of([sessions(*SESSIONS)], MAX_LENGTH, torch.device("cpu"), every_position=True)
    losses = []
    for session in SESSIONS:
        for end in range(1, len(session)):
            beginning = session[:end] if end > 1 else [0, *session[:end]]
            scores_1N = model(torch.tensor([beginning]))[:, 0] @ model.item_vectors()[1:].T
            losses.append(F.cross_entropy(scores_1N, torch.tensor([session[end] - 1])))
    together = model.loss(examples.gather(torch.arange(len(SESSIONS))))
    torch.testing.assert_close(together, torch.stack(losses).mean(), atol=5e-3, rtol=5e-3)  # bfloat16 products


def test_later_items_do_not_change_earlier_states() -> None:
    model = encoder()
    one, other = torch.tensor([[1, 2, 3, 4], [1, 2, 3, 5]])
    states_BLD = model._interests(torch.stack([one, other]), last_only=False)
    torch.testing.assert_close(states_BLD[0, :3], states_BLD[1, :3])
    assert (states_BLD[0, 3] - states_BLD[1, 3]).abs().max() > 1e-3
