"""Which requests come together."""

from __future__ import annotations

import asyncio

import pytest

from privacy_pipeline.encrypted.serving.coalescing import Pending, Queue, bucket_for


def batches(rows: list[int], *, largest: int) -> list[list[int]]:
    async def main() -> list[list[int]]:
        queue = Queue(largest=largest)
        for number, count in enumerate(rows):
            done = asyncio.get_running_loop().create_future()
            queue.put(Pending(identifier=str(number), rows=count, owner="one", done=done))
        found = []
        while batch := await queue.next_batch(window=lambda: 0.0, patience=0.01):
            found.append([one.rows for one in batch])
        return found

    return asyncio.run(main())


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([1, 1, 1], [[1, 1, 1]]),
        ([8, 8, 1], [[8, 8], [1]]),
        ([9, 9], [[9], [9]]),
        ([1, 16, 1], [[1], [16], [1]]),  # in the order in which they came: none waits for ever
        ([], []),
    ],
)
def test_the_oldest_come_first_as_many_as_fit(rows: list[int], expected: list[list[int]]) -> None:
    assert batches(rows, largest=16) == expected


def test_a_request_waits_for_those_that_come_within_the_window() -> None:
    async def main() -> int:
        queue = Queue(largest=16)
        future = asyncio.get_running_loop().create_future
        queue.put(Pending(identifier="a", rows=1, owner="one", done=future()))
        asyncio.get_running_loop().call_later(
            0.01, lambda: queue.put(Pending(identifier="b", rows=1, owner="one", done=future()))
        )
        return len(await queue.next_batch(window=lambda: 0.2, patience=1.0))

    assert asyncio.run(main()) == 2


def test_the_smallest_bucket_that_holds_them_is_taken() -> None:
    assert [bucket_for(rows, (16, 1, 4)) for rows in (1, 2, 4, 5, 16)] == [1, 4, 4, 16, 16]
