from __future__ import annotations

import threading

import anyio
import pytest
from starlette.exceptions import HTTPException

from ml.serve.service import WorkQueue


def test_so_many_run_so_many_wait_and_one_more_is_refused() -> None:
    running, most, gate, lock = 0, 0, threading.Event(), threading.Lock()

    def work(number: int) -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        assert gate.wait(60)
        with lock:
            running -= 1
        return number

    async def scene() -> list[int]:
        queue = WorkQueue("jobs", at_once=2, waiting=3)
        done: list[int] = []

        async def ask(number: int) -> None:
            done.append(await queue.run(work, number))

        async with anyio.create_task_group() as group:
            for number in range(5):
                group.start_soon(ask, number)
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(HTTPException, match="5 jobs are waiting already"):
                await queue.run(work, 9)
            gate.set()
        assert await queue.run(work, 6) == 6  # there is room again
        return done

    assert sorted(anyio.run(scene)) == [0, 1, 2, 3, 4]
    assert most == 2


def test_an_error_comes_through_and_frees_the_place() -> None:
    def fail() -> None:
        raise ValueError("no")

    async def scene() -> None:
        queue = WorkQueue("jobs", at_once=1, waiting=1)
        for _ in range(5):
            with pytest.raises(ValueError, match="no"):
                await queue.run(fail)

    anyio.run(scene)
