"""A recipe: all settings of an experiment, in one complete TOML file."""

import difflib
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from onward.bundle.search.retrieval import DefaultExcludeSeen
from onward.bundle.validation import message_of
from onward.training.data.corpus import Corpus
from onward.training.data.dataset import Dataset
from onward.training.data.repeats import Repeats
from onward.training.errors import InputError
from onward.training.losses.objectives import FullSoftmax
from onward.training.models.encoder import SessionEncoder
from onward.training.models.lookup import find_model, model_names

RECIPES = Path(__file__).parent / "recipes"
WITHOUT_STEPS = {
    "batch_size": 1,
    "epochs": 1,
    "optimizer": "adam",
    "sparse_updates": False,
    "table": "whole",
    "learning_rate": 1.0,
    "weight_decay": 0.0,
    "schedule": {"kind": "step", "every": 1, "factor": 1.0},
    "patience": 1,
    "weigh_targets": False,
    "impression_weight": 0.0,
}
"""Keys of `[training]` that mean nothing for a model without steps, whose fit is one epoch without examples."""


class StepSchedule(BaseModel):
    """The learning rate is multiplied by `factor` after each `every` epochs."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    kind: Literal["step"]
    every: PositiveInt
    factor: PositiveFloat

    def multiplier(self, epoch: int, progress: float) -> float:
        """Return the factor of the learning rate in `epoch` (from 0)."""
        return self.factor ** (epoch // self.every)


class LinearSchedule(BaseModel):
    """The learning rate rises linearly over the first `warmup` share of all steps, then falls linearly towards zero."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    kind: Literal["linear"]
    warmup: Annotated[float, Field(ge=0, lt=1)]

    def multiplier(self, epoch: int, progress: float) -> float:
        """Return the factor of the learning rate after the share `progress` of all steps, 0 to 1."""
        if progress < self.warmup:
            return progress / self.warmup
        return max((1 - progress) / (1 - self.warmup), 0.01)


class EveryTarget(BaseModel):
    """An epoch has an example of every target, in batches of inputs of similar length."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    kind: Literal["every_target"]


class RandomCutPerUser(BaseModel):
    """Each batch has different users (or sessions), sampled uniformly, and cuts each history at a random target.

    The items before the cut are the input. So users count alike, however long their histories are.
    Source: the code of Cen et al., "Controllable Multi-Interest Framework for Recommendation", KDD 2020.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    kind: Literal["random_cut_per_user"]
    batches: PositiveInt
    """Number of batches of an epoch."""
    fewest_items: PositiveInt
    """An input has at least this many items; users with shorter histories are left out."""


class Distillation(BaseModel):
    """How much teachers count, if a training is given any."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    weight: PositiveFloat
    """Weight of the cross-entropy with the teachers' probabilities, beside 1 for that with the next item."""
    temperature: PositiveFloat
    """The scores of each teacher are divided by it before they become probabilities: above 1 these are more even."""


class TrainingOptions(BaseModel):
    """The `[training]` table: how an encoder is fitted."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    batch_size: PositiveInt
    epochs: PositiveInt
    """Maximum number of epochs of the validated fit."""
    optimizer: Literal["adam", "adamw", "adagrad"]
    sparse_updates: bool
    """Update only the embedding rows that a step uses; for sampled objectives and large catalogs."""
    table: Literal["whole", "sharded"] = "whole"
    """Whether every rank of a training has the whole item table, or each owns some of its rows. Recipes of earlier
    versions lack the key."""
    learning_rate: PositiveFloat
    weight_decay: NonNegativeFloat
    """L2 penalty: added to the gradient (adam, adagrad), or decoupled from it (adamw)."""
    initial_accumulator: NonNegativeFloat = 0.0
    """Initial value of adagrad's sums of squared gradients."""
    examples: Annotated[EveryTarget | RandomCutPerUser, Field(discriminator="kind")] = EveryTarget(kind="every_target")
    weigh_targets: bool = False
    """Weigh the loss of a target by the weight of its event, as of a purchase against a view, if the log has any."""
    impression_weight: NonNegativeFloat = 0.0
    """Weight of the loss of items that were shown before a target and not taken, if the log has any."""
    schedule: Annotated[StepSchedule | LinearSchedule, Field(discriminator="kind")]
    validation_metric: Annotated[str, Field(pattern=r"^(recall|mrr|ndcg)@[1-9][0-9]*$")]
    """The metric that chooses the best epoch, on validation examples only."""
    patience: PositiveInt
    """Early stopping: the fit ends after this many epochs without a better validation metric."""
    refit: bool
    """Fit again, to training and validation examples together, for the chosen number of epochs."""
    distillation: Distillation = Distillation(weight=1.0, temperature=1.0)
    """Used with teachers only."""

    @model_validator(mode="after")
    def _sparse_updates_have_no_penalty(self) -> Self:
        if self.sparse_updates and (self.weight_decay or self.optimizer == "adamw"):
            raise ValueError("sparse_updates need adam or adagrad and a weight_decay of 0")
        return self

    @model_validator(mode="after")
    def _only_adagrad_accumulates(self) -> Self:
        if self.initial_accumulator and self.optimizer != "adagrad":
            raise ValueError(f"initial_accumulator is an option of adagrad; {self.optimizer} has none")
        return self


class ServingOptions(BaseModel):
    """The `[serving]` table: defaults for request options."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    exclude_seen: bool | Literal["last", "auto"]
    """Leave out the session's own items, or its last one; "auto" decides by how often the data set repeats items."""
    repeats: Literal["none", "validation"] = "none"
    """Whether items of the session score more, by as much as is best on validation. Recipes of earlier versions lack
    the key."""

    @property
    def decided(self) -> DefaultExcludeSeen | None:
        """What the recipe itself says; None if the data set decides."""
        return None if self.exclude_seen == "auto" else self.exclude_seen

    def exclude_seen_in(self, dataset: Dataset) -> DefaultExcludeSeen:
        """Return what answers leave out by default, for an encoder of this data set."""
        return Repeats.of(dataset).exclude_seen if self.exclude_seen == "auto" else self.exclude_seen


class Recipe(BaseModel):
    """A parsed recipe; `encoder` holds the options of its model."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str
    """Name of its file, without the suffix."""
    model: str
    encoder: Any
    training: TrainingOptions
    serving: ServingOptions
    text: str

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a recipe from a file, or a bundled recipe by its name.

        Raises InputError that names the file and the key.
        """
        source = path if path.exists() else RECIPES / path.with_suffix(".toml").name
        if not source.is_file():
            known = ", ".join(sorted(recipe.stem for recipe in RECIPES.glob("*.toml")))
            raise InputError(f"{path}: no such recipe; give a TOML file or one of: {known}")
        try:
            text = source.read_text(encoding="utf-8")
            return cls.parse(text, str(source))
        except UnicodeDecodeError as error:
            raise InputError(f"{source}: is not UTF-8 text") from error

    @classmethod
    def parse(cls, text: str, source: str) -> Self:
        """Parse a recipe from TOML text; `source` names it in errors. Raises InputError that names the key."""
        try:
            table = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise InputError(f"{source}: is not TOML: {error}") from error
        model = table.get("model")
        if model not in model_names():
            raise InputError(
                f"{source}: model: unknown model {model!r}{_suggestion(str(model), model_names())} "
                "(--plugin before the command names a file with a model of your own)"
            )
        constructor, options = find_model(model)
        try:
            encoder = options.model_validate(table.pop("encoder", {}))
        except ValidationError as error:
            raise InputError(f"{source}: {_first_fault(error, options, 'encoder.')}") from error
        if not getattr(constructor, "has_steps", True):
            training = table.get("training", {})
            if meaningless := [key for key in training if key in WITHOUT_STEPS]:
                raise InputError(
                    f"{source}: training.{meaningless[0]}: a {model} learns nothing by steps; leave it out"
                )
            table["training"] = {**WITHOUT_STEPS, **training}
        try:
            recipe = cls.model_validate({**table, "encoder": encoder, "name": Path(source).stem, "text": text})
        except ValidationError as error:
            raise InputError(f"{source}: {_first_fault(error, cls)}") from error
        every_position = getattr(constructor, "every_position", False)
        if every_position and isinstance(recipe.training.examples, RandomCutPerUser):
            raise InputError(f"{source}: training.examples: {model} trains every position; only every_target suits it")
        return recipe

    @property
    def form(self) -> str:
        """Which of its written forms the model has, in a few words; empty if its options name none."""
        form: str = getattr(self.encoder, "form", "")
        return form

    @property
    def has_steps(self) -> bool:
        """Whether the encoder learns by steps."""
        return bool(getattr(find_model(self.model).encoder, "has_steps", True))

    @property
    def takes_teachers(self) -> bool:
        """Whether the loss can learn from the probabilities of teachers: those of models by the full softmax can."""
        takes_soft_targets = getattr(find_model(self.model).encoder, "takes_soft_targets", False)
        return takes_soft_targets and isinstance(getattr(self.encoder, "objective", None), FullSoftmax)

    @property
    def takes_all_scores(self) -> bool:
        """Whether the loss takes the scores of all items one by one, not only sums over them."""
        is_full = isinstance(getattr(self.encoder, "objective", None), FullSoftmax)
        return is_full and getattr(self.encoder, "negative_interest", None) == "nearest"

    def has_settings_of(self, text: str) -> bool:
        """Return whether another recipe's text has the same settings; comments, and keys left to defaults, may differ.

        Raises InputError if it is not a recipe.
        """
        other = Recipe.parse(text, self.name)
        return all(getattr(self, part) == getattr(other, part) for part in ("model", "encoder", "training", "serving"))

    def build(self, corpus: Corpus) -> SessionEncoder:
        """Create an untrained encoder for a corpus, from torch's global random state."""
        return find_model(self.model).encoder(corpus, self.encoder)


def _first_fault(error: ValidationError, schema: type[BaseModel], prefix: str = "") -> str:
    faults = error.errors()
    fault = next((fault for fault in faults if fault["type"] == "extra_forbidden"), faults[0])
    key = prefix + ".".join(str(part) for part in fault["loc"])
    if fault["type"] != "extra_forbidden":
        return f"{key}: {message_of(fault)}"
    return f"{key}: unknown key{_suggestion(str(fault['loc'][-1]), _keys(schema))}"


def _keys(schema: type[BaseModel]) -> list[str]:
    """Return all keys that a recipe may have below `schema`."""
    tables = (
        TrainingOptions,
        Distillation,
        EveryTarget,
        RandomCutPerUser,
        StepSchedule,
        LinearSchedule,
        ServingOptions,
    )
    nested = tables if schema is Recipe else ()
    return sorted({*schema.model_fields, *(key for part in nested for key in part.model_fields)} - {"name", "text"})


def _suggestion(word: str, known: list[str]) -> str:
    nearest = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean {nearest[0]!r}?" if nearest else f"; known: {', '.join(known)}"
