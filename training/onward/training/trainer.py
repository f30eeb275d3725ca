"""The training loop: a recipe and a data set in, a run folder out.

A fit to the training part chooses the number of epochs on validation examples. If the recipe asks for a refit, a new
encoder is then fitted to all examples for that number of epochs.
"""

import ctypes
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from math import isfinite
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from onward.training.data.corpus import Corpus
from onward.training.data.dataset import Dataset
from onward.training.data.examples import Examples
from onward.training.data.soft_targets import SoftTargetTable
from onward.training.distillation.stored_targets import stored_soft_targets
from onward.training.distillation.teachers import teacher_digests
from onward.training.errors import Diverged, InputError, RankError, disk_faults
from onward.training.evaluation.validation import validation_metrics
from onward.training.interruption import Interruption, interruption
from onward.training.models.encoder import SessionEncoder
from onward.training.models.layers import ItemTable
from onward.training.progress import EpochProgress, TrainingProgress
from onward.training.ranks.ranks import ALONE, Ranks
from onward.training.ranks.sharded_state import own_state, whole_state
from onward.training.ranks.sharded_table import sharded_tables
from onward.training.recipe import RandomCutPerUser, Recipe, TrainingOptions
from onward.training.run_folder import (
    REFIT,
    RUN_FILE,
    SELECTION,
    WEIGHTS,
    checkpoint_of,
    locked_run_folder,
    prepare_run_folder,
    read_run,
    read_tensors,
    sessions_of_fit,
    write_history,
    write_tensors,
)
from onward.training.warm_start import START, begin_with, save_start

REPEATED_SIGNAL_S = 20.0
"""Signals within this time after the first mean the same to ranks: torchrun repeats them, and kills after 30 s."""
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h


def train(
    recipe: Recipe,
    data: Path,
    out: Path,
    *,
    epochs: int | None = None,
    refit_epochs: int | None = None,
    seed: int = 1,
    device_name: str = "auto",
    start: Path | None = None,
    teachers: Sequence[Path] = (),
    resume: bool = False,
    reports_epochs: bool = True,
    on_epoch: Callable[[dict[str, Any]], bool] = lambda line: True,
) -> bool:
    """Fit the recipe's encoder to a data set, write the run to `out`, and return False if it was interrupted.

    The first SIGINT or SIGTERM interrupts it after the current step, with a checkpoint to resume from. Started by
    torchrun, it is one of several ranks: each takes a part of every batch, and rank 0 alone writes and reports. Ranks
    that torchrun has started anew go on from the last checkpoint, as with `resume`.

    Args:
        epochs: maximum number of epochs, instead of the recipe's.
        refit_epochs: skip validation and fit to all examples for this many epochs, chosen by an earlier run.
        device_name: cpu, cuda or auto.
        start: begin with the weights of this run, of the same model and [encoder], instead of random ones. Items and
            users are matched by id; those that it does not know begin with random weights.
        teachers: runs and bundles of the same data set, whose mean probabilities the encoder learns beside the next
            items, as the recipe's `distillation` says. `resume` goes on with those of the run.
        resume: continue from the checkpoints in `out`; the result equals that of an uninterrupted run. With more
            `epochs` than before the run is extended, and refitted anew.
        reports_epochs: print a line for each epoch on stderr.
        on_epoch: called with the metrics line of each epoch. If it returns False, training ends: no other epoch
            follows, and no refit. The weights stay those of the best epoch so far; a refit gives its own only when it
            is complete. With `resume` it is first asked again about the epochs of each fit, in order, so an answer that
            a kill lost, or another answer than before, counts.

    Raises:
        InputError: the data set or `out` is unusable, another process trains in `out`, or with `resume`, `out` is a run
            of another recipe or data set.
        RankError: another rank has ended, or has another data set.
        Diverged: the loss or the weights are no longer finite; the checkpoint of the epoch before stays.
    """
    keep_freed_memory()
    ranks = Ranks.of_environment()
    device = ranks.device(pick_device(device_name))
    dataset = Dataset.open(data)
    epochs = epochs or recipe.training.epochs
    if teachers and not recipe.takes_teachers:
        raise InputError(f"--teacher: {recipe.name} cannot learn from teachers; objective must be a full_softmax")
    if teachers and recipe.training.table == "sharded" and ranks.size > 1:
        raise InputError(f'--teacher: {recipe.name} has training.table "sharded", which learns from no teachers')
    if not recipe.has_steps:
        if ranks.size > 1:
            raise InputError(f"{recipe.name}: a {recipe.model} learns nothing by steps; train it without torchrun")
        epochs, refit_epochs = 1, refit_epochs and 1

    def prepare(progress: TrainingProgress) -> dict[str, Any]:
        """Begin or resume the run in its folder, and return its record."""
        if start is not None and not resumes and not (out / RUN_FILE).exists():
            progress.say(save_start(start, recipe, dataset, out))
        prepare_run_folder(
            recipe,
            dataset,
            out,
            epochs=epochs,
            refit_epochs=refit_epochs,
            seed=seed,
            device=device,
            start=start,
            teachers=teacher_digests(teachers, dataset),
            resume=resumes,
            on_mended=progress.say,
        )
        return read_run(out)

    with (
        ranks.joined(device),
        disk_faults(out),
        ExitStack() as folder,
        interruption(repeats_s=REPEATED_SIGNAL_S if ranks.size > 1 else 0) as interrupted,
        TrainingProgress(
            recipe.model, reports_epochs=reports_epochs and ranks.is_leader, is_silent=not ranks.is_leader
        ) as progress,
    ):
        resumes = resume or (ranks.is_restarted and (out / RUN_FILE).exists())
        ranks.from_leader(lambda: folder.enter_context(locked_run_folder(out, resume=resumes)))
        run_record = ranks.from_leader(lambda: prepare(progress))
        if run_record["data_fingerprint"] != dataset.info.fingerprint:
            raise RankError(f"rank {ranks.rank}: {data} is another data set than that of rank 0; copy it here")
        validation = Examples.of(
            [dataset.sessions("validation")],
            recipe.encoder.max_length,
            device,
            together=dataset.info.targets == "together",
        )
        chosen = refit_epochs
        if chosen is None:
            selection = Fit(SELECTION, recipe, dataset, out, validation, device, ranks, epochs=epochs, seed=seed)
            if reports_epochs and selection.examples.weights is not None:
                progress.say("targets are weighed by the weights of their events (training.weigh_targets)")
            if reports_epochs and selection.examples.shown is not None:
                progress.say("impressions without a click are weak negatives (training.impression_weight)")
            wants_refit = selection.run(interrupted, progress, on_epoch) and recipe.training.refit
            chosen = selection.state.best_epoch if wants_refit and len(validation) else 0
        if chosen and not ranks.any(bool(interrupted)):
            refit = Fit(
                REFIT, recipe, dataset, out, None, device, ranks, epochs=chosen, schedule_epochs=epochs, seed=seed
            )
            refit.run(interrupted, progress, on_epoch)
        return not ranks.any(bool(interrupted))


@dataclass
class FitState:
    """The progress of a fit: all of its state but the tensors."""

    epoch: int = 0
    """Number of completed epochs."""
    step: int = 0
    """Number of completed steps of the next epoch."""
    loss_sum: float = 0.0
    seconds: float = 0.0
    best_epoch: int = 0
    best_metric: float = -1.0
    history: list[dict[str, Any]] = field(default_factory=list)


class Fit:
    """One fit of a new encoder; it can be interrupted after any step and resumed with the same result."""

    def __init__(
        self,
        name: str,
        recipe: Recipe,
        dataset: Dataset,
        out: Path,
        validation: Examples | None,
        device: torch.device,
        ranks: Ranks = ALONE,
        *,
        epochs: int,
        seed: int,
        schedule_epochs: int | None = None,
    ) -> None:
        """Create the encoder and its optimizers, and load the checkpoint in `out` if there is one.

        Args:
            ranks: the processes that fit it together, of which rank 0 alone reads and writes `out`.
            validation: examples that choose the best epoch; without any, the last epoch is the best.
            epochs: maximum number of epochs.
            schedule_epochs: number of epochs that the learning rate schedule spans; by default `epochs`.
        """
        self.name, self.options, self.out, self.seed, self.device = name, recipe.training, out, seed, device
        self.dataset, self.ranks = dataset, ranks
        self.exclude_seen = recipe.serving.exclude_seen_in(dataset)
        self.validation = validation or None
        self.epochs, self.schedule_epochs = epochs, schedule_epochs or epochs
        self.state = FitState()
        self.run_record = ranks.from_leader(lambda: read_run(out))
        torch.manual_seed(seed)
        sessions = sessions_of_fit(dataset, name)
        self.encoder = recipe.build(Corpus.of(dataset, sessions)).to(device)
        if self.run_record.get("start"):
            ranks.from_leader(lambda: begin_with(self.encoder, out / START))
        ranks.broadcast_weights(self.encoder)
        if self.options.table == "sharded" and ranks.size > 1:
            shard_items(recipe, self.encoder, ranks)
        if not ranks.is_leader:
            torch.manual_seed(seed_of_rank(seed, ranks.rank))
        self.examples = Examples.of(
            sessions,
            self.encoder.max_length,
            device,
            horizon=self.encoder.horizon,
            every_position=self.encoder.every_position,
            weigh_targets=self.options.weigh_targets,
            impression_weight=self.options.impression_weight,
        )
        self.optimizers = make_optimizers(self.encoder, self.options) if recipe.has_steps else []
        self.checkpoint = checkpoint_of(out, name)
        self.is_resumed = ranks.from_leader(self.checkpoint.exists)
        if self.is_resumed:
            self._load()

    def run(
        self, interrupted: Interruption, progress: TrainingProgress, on_epoch: Callable[[dict[str, Any]], bool]
    ) -> bool:
        """Train until the last epoch, early stopping or an interruption, or until `on_epoch` returns False.

        Teachers are asked about the examples first. Returns False only if `on_epoch` did.
        """
        wants_more = True
        if self.is_resumed:  # the process may have been killed between the checkpoint and what follows it
            self.ranks.from_leader(self._write_results)
            wants_more = self.ranks.from_leader(lambda: all(map(on_epoch, self.state.history)))
        if wants_more and self.state.epoch < self.epochs and self.run_record.get("teachers"):
            soft_targets = self._soft_targets(interrupted)
            if soft_targets is None:
                return True
            self.examples = replace(self.examples, soft_targets=soft_targets)
        while wants_more and self.state.epoch < self.epochs and not self._stopped_early():
            batches = self._batches_of_epoch()
            examples = sum(map(len, batches))
            with progress.epoch(self.name, self.state.epoch + 1, self.epochs, examples) as bar:
                self._train_epoch(batches, interrupted, bar)
            if self.ranks.any(bool(interrupted)):
                interrupted.requested = True
                self._save()
                return True
            line = self._finish_epoch(len(batches), examples, progress)
            wants_more = self.ranks.from_leader(lambda line=line: on_epoch(line))  # type: ignore[misc]
        return wants_more

    def _soft_targets(self, interrupted: Interruption) -> SoftTargetTable | None:
        """Return what the teachers think of the examples, None if interrupted; rank 0 asks them, for all to read."""

        def stored() -> SoftTargetTable | None:
            return stored_soft_targets(
                self.checkpoint.parent,
                self.run_record["teachers"],
                self.dataset,
                self.name,
                self.options.distillation,
                interrupted,
            )

        if self.ranks.size == 1:
            return stored()
        return stored() if self.ranks.from_leader(lambda: stored() is not None) else None

    def _batches_of_epoch(self) -> list[Tensor]:
        """Return the batches of the next epoch, as the seed and its number determine."""
        if not self.encoder.has_steps:
            return []
        kind, size, epoch = self.options.examples, self.options.batch_size, self.state.epoch
        if isinstance(kind, RandomCutPerUser):
            return self.examples.random_cuts(size, kind.batches, kind.fewest_items, self.seed, epoch)
        return self.examples.shuffled_batches(size, self.seed, epoch)

    def _train_epoch(self, batches: list[Tensor], interrupted: Interruption, bar: EpochProgress) -> None:
        self.encoder.train()
        state, started, seconds_before = self.state, time.perf_counter(), self.state.seconds
        for examples_B in batches[state.step :]:
            self._set_learning_rate(len(batches))
            for optimizer in self.optimizers:
                optimizer.zero_grad(set_to_none=True)
            loss = loss_and_gradients(self.encoder, self.examples, examples_B, self.ranks, interrupted)
            for optimizer in self.optimizers:
                optimizer.step()
            loss_value = loss.item()
            state.step += 1
            if not isfinite(loss_value):
                raise self._diverged(f"the loss is {loss_value}")
            state.loss_sum += loss_value
            state.seconds = seconds_before + time.perf_counter() - started
            bar.advance(len(examples_B), state.loss_sum / state.step)
            if interrupted:
                return

    def _finish_epoch(self, steps: int, examples: int, progress: TrainingProgress) -> dict[str, Any]:
        return_freed_memory()
        if self.ranks.any(not has_finite_weights(self.encoder)):
            raise self._diverged("weights are not finite")
        state = self.state
        state.epoch += 1
        line: dict[str, Any] = {
            "fit": self.name,
            "epoch": state.epoch,
            "loss": state.loss_sum / max(steps, 1),
            "examples_per_s": examples / max(state.seconds, 1e-9),
            "seconds": state.seconds,
            "learning_rate": self.optimizers[0].param_groups[0]["lr"] if self.optimizers else 0.0,
        }
        if self.validation is not None:
            line["validation"] = validation_metrics(
                self.encoder,
                self.validation,
                self.options.validation_metric,
                exclude_seen=self.exclude_seen,
                ranks=self.ranks,
            )
            metric = line["validation"][self.options.validation_metric]
            if metric > state.best_metric:
                state.best_epoch, state.best_metric = state.epoch, metric
        else:
            state.best_epoch = state.epoch
        state.history.append(line)
        state.step, state.loss_sum, state.seconds = 0, 0.0, 0.0
        self._save()
        progress.report(line)
        return line

    def _stopped_early(self) -> bool:
        return self.validation is not None and self.state.epoch - self.state.best_epoch >= self.options.patience

    def _diverged(self, what: str) -> Diverged:
        rate = self.optimizers[0].param_groups[0]["lr"]
        return Diverged(
            f"{self.out}: diverged: {what} after step {self.state.step} of epoch {self.state.epoch + 1} ({self.name}), "
            f"at a learning rate of {rate:.3g}; train again with a lower training.learning_rate"
        )

    def _set_learning_rate(self, steps: int) -> None:
        progress = (self.state.epoch + self.state.step / steps) / self.schedule_epochs
        multiplier = self.options.schedule.multiplier(self.state.epoch, progress)
        for group in (group for optimizer in self.optimizers for group in optimizer.param_groups):
            group["lr"] = self.options.learning_rate * multiplier

    def _save(self) -> None:
        """Write the checkpoint, then the results that follow from it; rank 0 does."""
        random = self.ranks.gathered(random_state(self.device))
        self.ranks.from_leader(lambda: self.checkpoint.parent.mkdir(exist_ok=True))
        with whole_state(self.encoder, self.optimizers, self.ranks, self.checkpoint.parent) as weights:

            def write() -> None:
                facts = {"run": self.run_record, "state": vars(self.state)}
                others = {"random": random[0], "random_of_others": random[1:]}
                write_tensors(self.checkpoint, {**facts, **weights, **others})
                self._write_results(weights["encoder"])

            self.ranks.from_leader(write)

    def _write_results(self, weights: dict[str, Tensor] | None = None) -> None:
        """Write the run's history, and its weights if they are of a finished refit or, before one, the best epoch.

        Without `weights` they are those of the checkpoint.
        """
        if self.name == REFIT:
            to_export = self.state.epoch == self.epochs
        else:
            at_best = self.state.step == 0 and self.state.epoch == self.state.best_epoch
            to_export = at_best and not checkpoint_of(self.out, REFIT).exists()
        if to_export:
            if weights is None:
                weights = read_tensors(self.checkpoint, torch.device("cpu"), mmap=True)["encoder"]
            write_tensors(self.out / WEIGHTS, {"fit": self.name, "encoder": weights})
        write_history(self.out)

    def _load(self) -> None:
        saved = self._saved()
        self.state = FitState(**saved["state"])
        self.encoder.load_state_dict(saved["encoder"])
        for optimizer, state in zip(self.optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        random = [saved["random"], *saved.get("random_of_others", ())]
        if self.ranks.rank < len(random):
            set_random_state(random[self.ranks.rank], self.device)
        else:  # the ranks were fewer when the checkpoint was written
            torch.manual_seed(seed_of_rank(self.seed, self.ranks.rank, self.state.epoch, self.state.step))

    def _saved(self) -> dict[str, Any]:
        """Return the content of the checkpoint, of sharded tables the own rows."""
        if not sharded_tables(self.encoder):
            return self.ranks.from_leader(lambda: read_tensors(self.checkpoint, self.device))
        read: list[dict[str, Any]] = []
        cpu = torch.device("cpu")
        self.ranks.from_leader(lambda: read.append(read_tensors(self.checkpoint, cpu, mmap=True)))
        return own_state(read[0] if read else None, self.encoder, self.optimizers, self.ranks)


def shard_items(recipe: Recipe, encoder: SessionEncoder, ranks: Ranks) -> None:
    """Keep the rows of the item table that this rank owns. Raises InputError if the encoder needs all of them."""
    items = getattr(encoder, "items", None)
    reason = None
    if not isinstance(items, ItemTable) or encoder.item_tables != SessionEncoder.item_tables:
        reason = f"a {recipe.model} computes with its whole item table"
    elif items.graph is not None:
        reason = "encoder.item_graph mixes the rows of neighbours"
    elif recipe.takes_all_scores:
        reason = 'encoder.negative_interest "nearest" with a full_softmax takes the scores of all items'
    if reason is not None:
        raise InputError(f'{recipe.name}: training.table "sharded": {reason}; use "whole"')
    cast(ItemTable, items).shard(ranks)


def loss_and_gradients(
    encoder: SessionEncoder, examples: Examples, examples_B: Tensor, ranks: Ranks, interrupted: Interruption
) -> Tensor:
    """Return the loss of a batch, and add its gradients to those of the encoder's weights.

    Each of several ranks computes those of its own examples. Their sums, weighted by the shares of targets, are those
    of the whole batch. An interruption of one rank becomes one of all.
    """
    own_B = ranks.slice(examples_B)
    loss = encoder.loss(examples.gather(own_B))
    if ranks.size == 1:
        loss.backward()
        return loss
    share: Tensor = _share(encoder, examples, own_B, examples_B, ranks.size) * loss
    share.backward()
    owned = {id(table.weight) for table in sharded_tables(encoder).values()}
    weights = [weight for weight in encoder.parameters() if weight.requires_grad and id(weight) not in owned]
    numbers = torch.stack([share.detach(), share.new_tensor(float(bool(interrupted)))])
    sums = ranks.sum_gradients(weights, numbers)
    if sums[1] > 0:
        interrupted.requested = True
    return sums[0]


def _share(encoder: SessionEncoder, examples: Examples, own_B: Tensor, examples_B: Tensor, ranks: int) -> float:
    """Return the weight of the loss of a rank's examples in that of the batch."""
    if len(own_B) == len(examples_B):  # of fewer examples than ranks, which all of them take
        return 1 / ranks
    return 1.0 if encoder.sums_losses else examples.count_targets(own_B) / examples.count_targets(examples_B)


def seed_of_rank(*numbers: int) -> int:
    """Return a seed of a rank's own negatives and dropout, from the seed of the run and the rank."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


def make_optimizers(encoder: SessionEncoder, options: TrainingOptions) -> list[torch.optim.Optimizer]:
    """Create an optimizer for all weights; with sparse updates, Adam has another one for the embedding tables."""
    tables = [module for module in encoder.modules() if isinstance(module, nn.Embedding)]
    for table in tables:
        table.sparse = options.sparse_updates
    in_tables = {id(table.weight) for table in tables if table.sparse}
    dense = [weight for weight in encoder.parameters() if id(weight) not in in_tables]
    penalty, rate = options.weight_decay, options.learning_rate
    if options.optimizer == "adagrad":
        return [
            torch.optim.Adagrad(
                encoder.parameters(),
                lr=rate,
                weight_decay=penalty,
                initial_accumulator_value=options.initial_accumulator,
            )
        ]
    adam = torch.optim.AdamW if options.optimizer == "adamw" else torch.optim.Adam
    optimizers: list[torch.optim.Optimizer] = [adam(dense, lr=rate, weight_decay=penalty, fused=True)]
    if in_tables:
        optimizers.append(torch.optim.SparseAdam([table.weight for table in tables], lr=rate))
    return optimizers


def has_finite_weights(encoder: SessionEncoder) -> bool:
    """Return whether no trained weight is NaN or infinite; a sum is, and takes a tenth of the time."""
    sums = [weight.detach().sum() for weight in encoder.parameters()]
    return not sums or bool(torch.stack(sums).isfinite().all())


def keep_freed_memory() -> None:
    """Make glibc keep the large blocks that every step frees and reallocates; page faults would take 20 % of a step."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 2**30)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def return_freed_memory() -> None:
    """Make glibc return fragmented free memory to the system; steps of many shapes would grow it with every epoch."""
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if malloc_trim is not None:
        malloc_trim(0)


def pick_device(name: str) -> torch.device:
    """Return the device `name`; `auto` is CUDA if available, else CPU. Raises InputError if it is not available."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name not in ("cpu", "cuda"):
        raise InputError(f"--device {name}: give cpu, cuda or auto")
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: torch sees no CUDA device; install a CUDA build of torch or use --device cpu")
    return torch.device(name)


def random_state(device: torch.device) -> dict[str, Tensor]:
    """Return the state of the torch random generators that a fit on `device` draws from."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: dict[str, Tensor], device: torch.device) -> None:
    """Restore a state returned by `random_state`."""
    torch.set_rng_state(state["cpu"].cpu())
    if device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"].cpu(), device)
