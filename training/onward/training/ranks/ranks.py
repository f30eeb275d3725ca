"""The ranks of a training: processes that each take a part of every batch, and what they tell each other.

Only the environment that torchrun sets is read (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT), so any
launcher that sets it will do. On the CPU ranks talk by gloo, on CUDA devices by NCCL.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Self, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous

from onward.training.errors import InputError, RankError
from onward.training.ranks.rendezvous import fresh_store

Value = TypeVar("Value")
TIMEOUT = timedelta(minutes=30)
"""How long a rank waits for the others: as long as rank 0 may take to write a checkpoint."""
LARGE = 2**20
"""Gradients with at least so many numbers are summed in place, smaller ones together in one copy."""


class LeaderFailed(SystemExit):
    """Rank 0 has failed, and says why; the others end without a word."""

    def __init__(self) -> None:
        super().__init__(2)


@dataclass
class Ranks:
    """This process among those that train together. All must call the same methods in the same order."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    is_restarted: bool = False
    """Whether the launcher has started the ranks anew, because one had ended."""
    sent_bytes: int = field(default=0)
    """Bytes that this rank has sent, if sums go around a ring; without what rank 0 tells the others at the start."""

    @classmethod
    def of_environment(cls) -> Self:
        """Read what torchrun says of this process; without it there is one rank. Raises InputError if it is no rank."""
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "TORCHELASTIC_RESTART_COUNT")
        defaults = ("0", "1", "0", "0")
        try:
            rank, size, local_rank, restarts = (
                int(os.environ.get(name, default)) for name, default in zip(names, defaults, strict=True)
            )
        except ValueError as error:
            raise InputError("RANK, WORLD_SIZE and LOCAL_RANK must be numbers; start ranks by torchrun") from error
        if not 0 <= rank < size:
            raise InputError(f"RANK {rank} is not below WORLD_SIZE {size}; start ranks by torchrun")
        return cls(rank, size, local_rank, restarts > 0)

    @property
    def is_leader(self) -> bool:
        """Whether this is rank 0, which alone writes and speaks."""
        return self.rank == 0

    def device(self, device: torch.device) -> torch.device:
        """Return this rank's device of a kind. Raises RankError if the machine has too few."""
        if self.size == 1 or device.type != "cuda":
            return device
        if self.local_rank >= torch.cuda.device_count():
            raise RankError(
                f"rank {self.rank}: this machine has {torch.cuda.device_count()} CUDA devices; "
                "start as many ranks on it (--nproc-per-node) or use --device cpu"
            )
        torch.cuda.set_device(self.local_rank)
        return torch.device("cuda", self.local_rank)

    @contextmanager
    def joined(self, device: torch.device) -> Iterator[None]:
        """Connect the ranks inside the block. Raises RankError if that fails, or one ends inside it."""
        if self.size == 1:
            yield
            return
        with self._reached():
            backend = "gloo" if device.type == "cpu" else "cpu:gloo,cuda:nccl"
            launchers, _, _ = next(rendezvous("env://", self.rank, self.size, timeout=TIMEOUT))
            store = fresh_store(launchers, self.rank, self.size, TIMEOUT)
            dist.init_process_group(backend, store=store, rank=self.rank, world_size=self.size, timeout=TIMEOUT)
        try:
            yield
        finally:
            dist.destroy_process_group()

    @contextmanager
    def _reached(self) -> Iterator[None]:
        try:
            yield
        except (RuntimeError, ValueError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise RankError(
                f"rank {self.rank}: another rank has ended or cannot be reached; the others end too, and "
                f"torchrun --max-restarts goes on from the last checkpoint ({reason})"
            ) from error

    def from_leader(self, action: Callable[[], Value]) -> Value:
        """Run an action on rank 0 and return its result, of objects and CPU tensors, on all.

        If it raises, so does rank 0, and the others raise LeaderFailed.
        """
        if self.size == 1:
            return action()
        if not self.is_leader:
            (told,) = self._told([None])
            if told is None:
                raise LeaderFailed
            return cast(Value, self._with_tensors(told[0]))
        try:
            value = action()
        except BaseException:
            self._told([None])
            raise
        tensors: list[Tensor] = []
        self._told([(_without_tensors(value, tensors),)])
        for tensor in tensors:
            self.broadcast(tensor)
        return value

    def _told(self, objects: list[Any]) -> list[Any]:
        with self._reached():
            dist.broadcast_object_list(objects, src=0, device=torch.device("cpu"))
        return objects

    def _with_tensors(self, value: Any) -> Any:
        """Return what `_without_tensors` was given, with the tensors received in the same order."""
        if isinstance(value, _Sent):
            return self.broadcast(torch.empty(value.shape, dtype=value.dtype))
        if isinstance(value, dict):
            return {name: self._with_tensors(part) for name, part in value.items()}
        if isinstance(value, list | tuple):
            parts = [self._with_tensors(part) for part in value]
            return parts if isinstance(value, list) else tuple(parts)
        return value

    def broadcast(self, tensor: Tensor) -> Tensor:
        """Overwrite a tensor with that of rank 0, and return it."""
        if self.size > 1 and tensor.numel():
            contiguous = tensor.detach().contiguous()
            with self._reached():  # as bytes, since not every backend sends every type
                dist.broadcast(contiguous.view(-1).view(torch.uint8), src=0)
            if contiguous.data_ptr() != tensor.data_ptr():
                tensor.detach().copy_(contiguous)
        return tensor

    def broadcast_weights(self, module: nn.Module) -> None:
        """Overwrite all weights with those of rank 0."""
        if self.size > 1:
            for tensor in module.state_dict().values():
                self.broadcast(tensor)

    def gathered(self, value: Value) -> list[Value]:
        """Return the objects of all ranks on rank 0, and nothing on the others."""
        if self.size == 1:
            return [value]
        values: list[Any] | None = [None] * self.size if self.is_leader else None
        with self._reached():
            dist.gather_object(value, values)
        return values or []

    def gather_tensors(self, tensor: Tensor) -> list[Tensor]:
        """Return the tensors of all ranks, of equal shape, on rank 0, and nothing on the others."""
        if self.size == 1:
            return [tensor]
        tensors = [torch.empty_like(tensor) for _ in range(self.size)] if self.is_leader else None
        with self._reached():
            dist.gather(tensor, tensors)
        return tensors or []

    def any(self, flag: bool) -> bool:
        """Return whether a flag is set on any rank."""
        return flag if self.size == 1 else bool(self.sum(torch.tensor(float(flag))) > 0)

    def sum(self, tensor: Tensor) -> Tensor:
        """Overwrite a tensor with its sum over the ranks, and return it."""
        if self.size > 1:
            with self._reached():
                dist.all_reduce(tensor)
            self._count_sum(tensor)
        return tensor

    def _count_sum(self, tensor: Tensor) -> None:
        self.sent_bytes += 2 * (self.size - 1) * tensor.nbytes // self.size

    def slice(self, examples_B: Tensor) -> Tensor:
        """Return this rank's examples of a batch; all of them if there are fewer than ranks.

        A batch is sorted by length, so every rank takes each n-th example.
        """
        return examples_B if len(examples_B) < self.size else examples_B[self.rank :: self.size]

    def sum_gradients(self, parameters: Sequence[nn.Parameter], numbers: Tensor) -> Tensor:
        """Sum the gradients of all parameters over the ranks, and return the sum of some numbers, (n,), beside them.

        A parameter without a gradient counts as 0; one without a gradient on any rank stays so.
        """
        has_gradient = torch.tensor([float(parameter.grad is not None) for parameter in parameters])
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients = [cast(Tensor, parameter.grad) for parameter in parameters]
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if gradient.is_sparse:
                parameter.grad = self._summed_rows(gradient)
        dense = [gradient for gradient in gradients if not gradient.is_sparse]
        together = [gradient for gradient in dense if gradient.numel() < LARGE]
        device = numbers.device
        flat = torch.cat([numbers, has_gradient.to(device), *(gradient.flatten() for gradient in together)])
        with self._reached():
            alone = [gradient for gradient in dense if gradient.numel() >= LARGE]
            works = [dist.all_reduce(tensor, async_op=True) for tensor in (*alone, flat)]
            for work in works:
                work.wait()
        for tensor in (*alone, flat):
            self._count_sum(tensor)
        sizes = [len(numbers), len(has_gradient), *(gradient.numel() for gradient in together)]
        summed: tuple[Tensor, ...] = flat.split(sizes)
        for gradient, values in zip(together, summed[2:], strict=True):
            gradient.copy_(values.view_as(gradient))
        for parameter, ranks in zip(parameters, summed[1].tolist(), strict=True):
            if not ranks:
                parameter.grad = None
        return summed[0]

    def _summed_rows(self, gradient: Tensor) -> Tensor:
        """Return the sum over the ranks of a sparse gradient of rows: only rows that a rank used are sent."""
        own = gradient.coalesce()
        rows = self.all_rows(own.indices().T.contiguous())
        values = self.all_rows(own.values())
        summed: Tensor = torch.sparse_coo_tensor(rows.T, values, gradient.shape, check_invariants=False).coalesce()
        return summed

    def all_rows(self, rows_RF: Tensor, counts: Sequence[int] | None = None) -> Tensor:
        """Return the rows of all ranks, in the order of ranks; each may have another number of them, `counts`."""
        if self.size == 1:
            return rows_RF
        counts = counts or self.counts(len(rows_RF), rows_RF.device)
        padded = rows_RF.new_zeros(max(counts), *rows_RF.shape[1:])
        padded[: len(rows_RF)] = rows_RF
        everything = [torch.empty_like(padded) for _ in counts]
        with self._reached():
            dist.all_gather(everything, padded)
        self.sent_bytes += (self.size - 1) * padded.nbytes
        return torch.cat([of_rank[:count] for of_rank, count in zip(everything, counts, strict=True)])

    def exchange(self, rows_RF: Tensor, sent: Sequence[int], received: Sequence[int]) -> Tensor:
        """Send the first `sent[0]` rows to rank 0, the next to rank 1, ...; return the rows from rank 0, 1, ...

        `received` are the numbers of rows that come from each rank.
        """
        if self.size == 1:
            return rows_RF
        result = rows_RF.new_empty(sum(received), *rows_RF.shape[1:])
        with self._reached():
            dist.all_to_all_single(result, rows_RF.contiguous(), list(received), list(sent))
        self.sent_bytes += (len(rows_RF) - sent[self.rank]) * rows_RF[:1].nbytes
        return result

    def max(self, tensor: Tensor) -> Tensor:
        """Overwrite a tensor with its maximum over the ranks, and return it."""
        if self.size > 1:
            with self._reached():
                dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
            self._count_sum(tensor)
        return tensor

    def counts(self, count: int, device: torch.device) -> list[int]:
        """Return a number of each rank."""
        counts = torch.zeros(self.size, dtype=torch.int64, device=device)
        counts[self.rank] = count
        return [int(of_rank) for of_rank in self.sum(counts).tolist()]


ALONE = Ranks()
"""One process without others."""


@dataclass(frozen=True)
class _Sent:
    """A tensor that follows."""

    shape: tuple[int, ...]
    dtype: torch.dtype


def _without_tensors(value: Any, tensors: list[Tensor]) -> Any:
    """Return nested dictionaries and lists with a mark for each tensor, which is added to `tensors`."""
    if isinstance(value, Tensor):
        tensors.append(value.cpu())
        return _Sent(tuple(value.shape), value.dtype)
    if isinstance(value, dict):
        return {name: _without_tensors(part, tensors) for name, part in value.items()}
    if isinstance(value, list | tuple):
        parts = [_without_tensors(part, tensors) for part in value]
        return parts if isinstance(value, list) else tuple(parts)
    return value
