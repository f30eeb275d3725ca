"""Turns: requests in flight together go through a stage one after another, instead of each through all stages at once.

A stage that has just run for another request finds its code and data in the processor's caches; see decision 18.
"""

import asyncio


class Turns:
    """What requests take turns by, each inside a `with` block of its own; one that is alone never gives way."""

    def __init__(self) -> None:
        self._in_flight = 0

    def __enter__(self) -> None:
        self._in_flight += 1

    def __exit__(self, *_: object) -> None:
        self._in_flight -= 1

    @property
    def is_alone(self) -> bool:
        """Whether there is no other request to give way to."""
        return self._in_flight <= 1

    async def give_way(self) -> None:
        """Let the other requests that are ready come as far as this one."""
        if not self.is_alone:
            await asyncio.sleep(0)


turns = Turns()
"""Of this process."""
