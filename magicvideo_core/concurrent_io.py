"""Many calls that wait for storage at once: results in order, and a bound on how many are open or wait to be taken."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, islice
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def map_concurrently(call: Callable[[T], R], items: Iterable[T], num_threads: int) -> Iterator[R]:
    """Give `call(item)` for each item, in order; the first error is raised in its place, and no further call begins.

    At most `2 * num_threads` results are held: whoever takes them slowly holds back the calls.
    """
    remaining: Iterator[T] = iter(items)
    first = list(islice(remaining, 2))
    remaining = chain(first, remaining)
    if len(first) < 2 or num_threads == 1:
        yield from map(call, remaining)
        return
    with ThreadPoolExecutor(num_threads) as executor:
        open_calls: deque[Future[R]] = deque()
        try:
            for item in islice(remaining, 2 * num_threads):
                open_calls.append(executor.submit(call, item))
            while open_calls:
                yield open_calls.popleft().result()
                for item in islice(remaining, 1):
                    open_calls.append(executor.submit(call, item))
        finally:
            for future in open_calls:
                future.cancel()
