"""Batcher: those who ask in one turn of the event loop are answered at once, which takes less time than one by one.

Nobody waits for others to come. See decision 18.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from typing import Generic, TypeVar

Q = TypeVar("Q")
A = TypeVar("A")


class PendingQuery(Generic[Q, A]):
    """A question, and its answer to be."""

    __slots__ = ("answer", "question")

    def __init__(self, question: Q, answer: "asyncio.Future[A]") -> None:
        self.question = question
        self.answer = answer

    def give(self, answer: A | Exception) -> None:
        """Give the answer, or what came in its place, to whoever still waits for it."""
        if self.answer.done():
            return
        if isinstance(answer, Exception):
            self.answer.set_exception(answer)
        else:
            self.answer.set_result(answer)


class Batcher(Generic[Q, A]):
    """Gathers questions for a function that answers several."""

    def __init__(self, work: Callable[[Sequence[PendingQuery[Q, A]]], Awaitable[None]], *, most: int) -> None:
        """Take what gives all answers, in its own time, to at most so many at once."""
        self._work = work
        self._most = most
        self._waiting: list[PendingQuery[Q, A]] = []
        self._at_work: set[asyncio.Task[None]] = set()

    async def ask(self, question: Q, *, by_itself: bool = False) -> A:
        """Return the answer. Raises what is given in its place, and whatever the function raises.

        With `by_itself` nobody waits for what the question may wait for.
        """
        loop = asyncio.get_running_loop()
        ticket: PendingQuery[Q, A] = PendingQuery(question, loop.create_future())
        if by_itself:
            await self._work([ticket])
        else:
            if not self._waiting:
                loop.call_soon(self._begin)
            self._waiting.append(ticket)
        return await ticket.answer

    def _begin(self) -> None:
        """Begin with those who asked first, and let others come before the rest."""
        together, self._waiting = self._waiting[: self._most], self._waiting[self._most :]
        loop = asyncio.get_running_loop()
        if self._waiting:
            loop.call_soon(self._begin)
        task = loop.create_task(self._answer(together), context=Context())  # of none of those who asked
        self._at_work.add(task)
        task.add_done_callback(self._at_work.discard)

    async def _answer(self, together: Sequence[PendingQuery[Q, A]]) -> None:
        try:
            await self._work(together)
        except Exception as error:  # whoever asked is told
            for ticket in together:
                ticket.give(error)
