"""`testing.VirtualTimeLoop`: when its time stands still."""

from __future__ import annotations

import asyncio

from shockproof.testing import VirtualTimeLoop


def test_time_stands_still_while_the_threads_of_the_default_executor_end() -> None:
    """Asyncio gives them a limit, which would be over at once."""

    async def main() -> list[bool]:
        await loop.run_in_executor(None, int)
        ending = asyncio.create_task(loop.shutdown_default_executor())
        await asyncio.sleep(0)
        held = [loop.is_held]
        await ending
        return [*held, loop.is_held]

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, VirtualTimeLoop)
        assert runner.run(main()) == [True, False]
