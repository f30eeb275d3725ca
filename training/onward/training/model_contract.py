"""The contract of a model: what the trainer, the exporter and the service rely on, checked on small generated data.

Dimension key: B sessions, L positions, K interests, D embedding, N rows (row 0 pads).
"""

import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stderr
from functools import cached_property
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel
from torch import Tensor

from onward.bundle import ENCODER, Encoder
from onward.training.data.examples import Batch, Examples
from onward.training.data.small_corpus import corpus, sessions
from onward.training.errors import described
from onward.training.export.export import PARITY
from onward.training.export.onnx_program import write_program
from onward.training.models import Model
from onward.training.models.encoder import SessionEncoder
from onward.training.models.lookup import find_model
from onward.training.recipe import Recipe, TrainingOptions
from onward.training.trainer import make_optimizers

ITEMS, USERS = 30, 5
SESSIONS = [[1], [2, 2], [3, 4], [5, 6, 5, 7], [8, 9, 10, 8, 9, 10, 11, 12]]
LEARNT = [*SESSIONS, [2, 3, 4, 5, 6], [7, 8, 9, 10]]
USERS_LEARNT = [1, 2, 3, 4, 5, 1, 2]
SEED, STEPS, LEARNING_RATE = 4, 10, 1e-2
TOLERANCE = 1e-5
"""Largest difference of interests that shall be equal, relative to the largest number of them."""
MORE_PADDING = 5


class ContractFault(Exception):
    """What a model does that the contract forbids, and by how much."""


class Outcome(NamedTuple):
    """The result of one check."""

    check: str
    passed: bool
    detail: str
    """What was found, or what is wrong."""


class ModelUnderTest:
    """A model with options, its untrained encoder and its exported program."""

    def __init__(self, model: Model, options: BaseModel, training: TrainingOptions, folder: Path) -> None:
        """Programs are written to `folder`; steps are those of `training`, at a learning rate of LEARNING_RATE."""
        self.model, self.options, self.folder = model, options, folder
        self.training = training.model_copy(update={"learning_rate": LEARNING_RATE})

    def untrained(self) -> SessionEncoder:
        """Create the same encoder on every call."""
        torch.manual_seed(SEED)
        return self.model.encoder(corpus(ITEMS, users=USERS), self.options)

    @cached_property
    def encoder(self) -> SessionEncoder:
        """The untrained encoder, in evaluation mode."""
        return self.untrained().eval()

    @cached_property
    def sessions(self) -> list[list[int]]:
        """Sessions of several lengths up to the longest that the encoder reads."""
        longest = [row % ITEMS + 1 for row in range(self.encoder.max_length)]
        return [session[-self.encoder.max_length :] for session in (*SESSIONS, longest)]

    @cached_property
    def program(self) -> Encoder:
        """The exported program, as the service loads it. Raises BundleError if it is unusable."""
        with redirect_stderr(StringIO()):  # torch prints the whole graph of what it cannot export
            write_program(self.encoder, self.folder / ENCODER)
        interests, dimension = self.encode([[1]]).shape[1:]
        return Encoder.load(
            self.folder / ENCODER,
            items=ITEMS,
            dimension=dimension,
            interests=interests,
            max_length=self.encoder.max_length,
            users=self.encoder.users,
        )

    @torch.inference_mode()
    def encode(
        self, sessions: Sequence[Sequence[int]], *, padding: int = 0, users: Sequence[int] | None = None
    ) -> Tensor:
        """Encode with torch as interests_BKD, for these user rows, or for unknown users."""
        length = max(2, *map(len, sessions)) + padding
        items_BL = torch.tensor([[0] * (length - len(session)) + list(session) for session in sessions])
        users_B = torch.tensor(users if users is not None else [0] * len(sessions))
        interests_BKD: Tensor = self.encoder(*self.encoder.inputs(Batch(items_BL, items_BL, users_B)))
        return interests_BKD

    @torch.inference_mode()
    def item_vectors(self, encoder: SessionEncoder) -> Tensor:
        """Return vectors_ND of an encoder."""
        return encoder.item_vectors().detach()

    @cached_property
    def batch(self) -> Batch:
        """A batch with all examples of a few sessions."""
        examples = Examples.of(
            [sessions(*LEARNT, users=USERS_LEARNT)],
            self.encoder.max_length,
            torch.device("cpu"),
            horizon=self.encoder.horizon,
            every_position=self.encoder.every_position,
        )
        return examples.gather(torch.arange(len(examples)))

    @cached_property
    def trained(self) -> tuple[SessionEncoder, list[float]]:
        """Another encoder after STEPS steps on one batch, and the loss before each of them."""
        encoder = self.untrained().train()
        optimizers = make_optimizers(encoder, self.training)
        losses = []
        for _ in range(STEPS):
            torch.manual_seed(SEED)
            loss = encoder.loss(self.batch)
            for optimizer in optimizers:
                optimizer.zero_grad(set_to_none=True)
            loss.backward()
            for optimizer in optimizers:
                optimizer.step()
            losses.append(loss.item())
        return encoder, losses


def check_recipe(recipe: Recipe) -> Iterator[Outcome]:
    """Check the model of a recipe, with its options. If no encoder can be created, nothing else is checked."""
    with TemporaryDirectory() as folder:
        model = ModelUnderTest(find_model(recipe.model), recipe.encoder, recipe.training, Path(folder))
        for name, check in CHECKS.items():
            outcome = _outcome(name, check, model)
            yield outcome
            if check is _is_created and not outcome.passed:
                return


def _outcome(name: str, check: Callable[[ModelUnderTest], str], model: ModelUnderTest) -> Outcome:
    try:
        return Outcome(name, True, check(model))
    except ContractFault as fault:
        return Outcome(name, False, str(fault))
    except Exception as error:  # of foreign code: any
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        encoder = model.model.encoder
        file = inspect.getsourcefile(encoder) if inspect.isclass(encoder) or inspect.isfunction(encoder) else None
        return Outcome(name, False, f"raises {described(cause, file or '')}")


def _is_created(model: ModelUnderTest) -> str:
    encoder, declared = model.encoder, getattr(model.options, "max_length", None)
    if getattr(encoder, "max_length", None) is None or encoder.max_length != declared:
        raise ContractFault(
            f"max_length of the encoder is {getattr(encoder, 'max_length', None)}, of its options {declared}; "
            "both must have it, and be equal"
        )
    weights = encoder.state_dict()
    for table, rows in [
        *((table, ITEMS + 1) for table in encoder.item_tables),
        *((table, encoder.users + 1) for table in encoder.user_tables if encoder.users),
    ]:
        if table not in weights:
            raise ContractFault(f"there are no weights {table!r}; name in item_tables and user_tables those there are")
        if len(weights[table]) != rows:
            raise ContractFault(
                f"{table} has {len(weights[table])} rows; it must have {rows}, row 0 for what is unknown"
            )
    count = sum(weight.numel() for weight in encoder.parameters())
    return f"{count:,} weights for {ITEMS} items, sessions of up to {encoder.max_length}"


def _has_the_shapes(model: ModelUnderTest) -> str:
    vectors_ND = model.item_vectors(model.encoder)
    if vectors_ND.ndim != 2 or len(vectors_ND) != ITEMS + 1 or vectors_ND.dtype != torch.float32:
        raise ContractFault(f"item_vectors() is {_form(vectors_ND)}; it must be ({ITEMS + 1}, D) float32")
    dimension = vectors_ND.shape[1]
    for some in (model.sessions[:1], model.sessions):
        interests_BKD = model.encode(some)
        right = interests_BKD.ndim == 3 and interests_BKD.dtype == torch.float32
        if not right or (len(interests_BKD), interests_BKD.shape[2]) != (len(some), dimension):
            raise ContractFault(
                f"forward() of {len(some)} sessions is {_form(interests_BKD)}; "
                f"it must be ({len(some)}, K, {dimension}) float32, with the dimension of the item vectors"
            )
        if not interests_BKD.isfinite().all():
            raise ContractFault("interests are not finite numbers; a session of one item pads all but one position")
    if not vectors_ND.isfinite().all():
        raise ContractFault("item vectors are not finite numbers")
    return f"(sessions, {interests_BKD.shape[1]}, {dimension}) and {tuple(vectors_ND.shape)}"


def _keeps_row_0_zero(model: ModelUnderTest) -> str:
    if largest := float(model.item_vectors(model.encoder)[0].abs().max()):
        raise ContractFault(f"the item vector of row 0 has numbers up to {largest:.1e}; give its table padding_idx=0")
    if not model.encoder.has_steps:
        return "the model learns nothing by steps"
    encoder, _ = model.trained
    if largest := float(model.item_vectors(encoder)[0].abs().max()):
        raise ContractFault(f"after {STEPS} steps the item vector of row 0 has numbers up to {largest:.1e}")
    return f"also after {STEPS} steps"


def _ignores_padding(model: ModelUnderTest) -> str:
    padded_BKD, expected_BKD = model.encode(model.sessions, padding=MORE_PADDING), model.encode(model.sessions)
    return _same(padded_BKD, expected_BKD, f"{MORE_PADDING} more columns of padding on the left change interests")


def _encodes_sessions_independently(model: ModelUnderTest) -> str:
    alone_BKD = torch.cat([model.encode([session]) for session in model.sessions])
    return _same(alone_BKD, model.encode(model.sessions), "interests in a batch differ from those of a session alone")


def _is_deterministic(model: ModelUnderTest) -> str:
    expected_BKD = model.encode(model.sessions)
    if not _difference(model.encode(model.sessions), expected_BKD) <= TOLERANCE:
        raise ContractFault("two calls give different interests; random numbers belong under `if self.training`")
    again = ModelUnderTest(model.model, model.options, model.training, model.folder)
    difference = _difference(again.encode(model.sessions), expected_BKD)
    if not difference <= TOLERANCE:
        raise ContractFault("the same seed makes different encoders; take all random numbers from torch's global state")
    return f"within {difference:.1e}"


def _reads_the_newest_item(model: ModelUnderTest) -> str:
    first_KD, second_KD = model.encode([[1, 2, 3][-model.encoder.max_length :], [1, 2, 4][-model.encoder.max_length :]])
    difference = _difference(first_KD, second_KD)
    if not difference > TOLERANCE:
        raise ContractFault("sessions that differ in their newest item have the same interests; is it masked?")
    return f"another one changes interests by {difference:.1e}"


def _has_finite_gradients(model: ModelUnderTest) -> str:
    if not model.encoder.has_steps:
        return "the model learns nothing by steps"
    encoder = model.untrained().train()
    weights = {name: weight for name, weight in encoder.named_parameters() if weight.requires_grad}
    without = set(weights)
    for seed in range(STEPS):  # chance may decide what a step uses, as with augmentations
        torch.manual_seed(seed)
        encoder.zero_grad(set_to_none=True)
        loss = encoder.loss(model.batch)
        if loss.shape != () or not loss.isfinite():
            raise ContractFault(
                f"loss() is {_form(loss)}, {loss.flatten()[0].item():.3g}; it must be one finite number"
            )
        loss.backward()
        without = {name for name in without if weights[name].grad is None}
        for name, weight in weights.items():
            if weight.grad is not None and not _is_finite(weight.grad):
                raise ContractFault(f"the gradient of {name} is not finite; is there a division by 0 or a root of 0?")
        if not without:
            return f"loss {loss.item():.3g}, gradients of {len(weights)} parameters"
    unused = next(name for name in weights if name in without)
    raise ContractFault(f"{unused} has no gradient: the loss does not depend on it; use it or remove it")


def _is_finite(gradient: Tensor) -> bool:
    return bool((gradient.coalesce().values() if gradient.is_sparse else gradient).isfinite().all())


def _learns(model: ModelUnderTest) -> str:
    if not model.encoder.has_steps:
        return "the model learns nothing by steps"
    _, losses = model.trained
    if not losses[-1] < losses[0] or not math.isfinite(losses[-1]):
        raise ContractFault(f"the loss of one batch goes from {losses[0]:.4g} to {losses[-1]:.4g} in {STEPS} steps")
    return f"from {losses[0]:.3g} to {losses[-1]:.3g} in {STEPS} steps on one batch"


def _exports(model: ModelUnderTest) -> str:
    """Sessions are encoded one by one and together: programs take batches of any size and length."""
    every_user = sorted({0, min(1, model.encoder.users), model.encoder.users})
    largest = 0.0
    for user in every_user:
        users = [user] * len(model.sessions)
        expected_BKD = model.encode(model.sessions, users=users).numpy()
        alone = [model.program.encode(session, user) for session in model.sessions]
        allowed = PARITY * max(1.0, float(np.abs(expected_BKD).max()))
        for form, found in (("alone", np.stack(alone)), ("batch", model.program.encode_all(model.sessions, users))):
            difference = float(np.abs(found - expected_BKD).max())
            if not difference <= allowed:
                raise ContractFault(
                    f"interests of the ONNX program ({form}) differ from torch's by {difference:.1e}, more than "
                    f"{allowed:.0e}; forward() and serving_form() must compute the same, by tensor operations only"
                )
            largest = max(largest, difference)
    return f"within {largest:.1e} of torch"


def _reads_only_the_newest(model: ModelUnderTest) -> str:
    newest = model.sessions[-1]
    interests_BKD = model.encode([newest])
    if not interests_BKD.isfinite().all():
        raise ContractFault(f"interests of a session of max_length ({len(newest)}) items are not finite")
    longer_KD: NDArray[np.float32] = model.program.encode([20, 21, 22, *newest])
    if not np.array_equal(longer_KD, model.program.encode(newest)):
        raise ContractFault(f"items before the newest {len(newest)} change the interests")
    return f"the newest {len(newest)} of {len(newest) + 3} items"


def _reads_users(model: ModelUnderTest) -> str:
    encoder = model.encoder
    if not encoder.users:
        return "the model reads sessions only"
    if encoder.users != USERS:
        raise ContractFault(f"users is {encoder.users} for a corpus of {USERS}; it must be 0 or the corpus's")
    session = [model.sessions[2]]
    known_BKD, unknown_BKD = model.encode(session, users=[1]), model.encode(session)
    if not _difference(known_BKD, unknown_BKD) > TOLERANCE:
        raise ContractFault("a known user has the interests of an unknown one; set users to 0 if forward ignores them")
    with torch.inference_mode():
        _same(encoder(torch.tensor(session)), unknown_BKD, "without users, interests differ from those of unknown ones")
    if not model.encode([[]], users=[1]).isfinite().all():
        raise ContractFault("the empty session of a known user has interests that are not finite")
    return f"{encoder.users} users and unknown ones"


CHECKS: dict[str, Callable[[ModelUnderTest], str]] = {
    "the encoder is created": _is_created,
    "interests and item vectors have the right shapes": _has_the_shapes,
    "row 0 of the item vectors is zero": _keeps_row_0_zero,
    "padding does not change interests": _ignores_padding,
    "a session is encoded alike alone and in a batch": _encodes_sessions_independently,
    "the same seed gives the same interests": _is_deterministic,
    "the newest item counts": _reads_the_newest_item,
    "loss and gradients are finite": _has_finite_gradients,
    "the loss falls": _learns,
    "the ONNX program agrees with torch": _exports,
    "of a longer session only the newest items count": _reads_only_the_newest,
    "known users count, if users are read": _reads_users,
}
"""All checks by what they show. Each returns what it found, or raises ContractFault or any error of the model."""


def _same(found_BKD: Tensor, expected_BKD: Tensor, fault: str) -> str:
    """Return how far interests differ. Raises ContractFault if that is more than TOLERANCE."""
    difference = _difference(found_BKD, expected_BKD)
    if not difference <= TOLERANCE:
        raise ContractFault(f"{fault}, by {difference:.1e} of the largest number (allowed: {TOLERANCE:.0e})")
    return f"within {difference:.1e}"


def _difference(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference, relative to the largest number expected."""
    scale = float(expected.abs().max()) or 1.0
    return float((found - expected).abs().max()) / scale


def _form(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
