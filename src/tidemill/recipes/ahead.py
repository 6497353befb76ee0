"""Work done by several threads at once, whose results come in order, and few of them wait."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, Self, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_WAITING = 2
"""So many results wait for each thread, at most, while the one before is used."""


def in_order(
    work: Callable[[Item], Result], items: Iterable[Item], *, threads: int
) -> Generator[Result, None, None]:
    """Yields the result for each item, in order, while the next ones are worked on.

    The first error is raised in the place of its result; what was not begun by then is not done.

    Example:
        >>> list(in_order(len, ["a", "", "bc"], threads=2))
        [1, 0, 2]
    """
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(threads, "tidemill.ahead") as pool:
        try:
            given = iter(items)
            failed: Exception | None = None
            while failed is None:
                try:
                    waiting.append(pool.submit(work, next(given)))
                except StopIteration:
                    break
                except Exception as error:  # noqa: BLE001 - raised after what came before it
                    failed = error
                if len(waiting) > threads * _WAITING:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
            if failed is not None:
                raise failed
        finally:
            for each in waiting:
                each.cancel()


class Behind(Generic[Item]):
    """Calls a function in another thread, one call after the other, while the next is prepared.

    An error is raised by the call after it, or where the block ends.

    Example:
        >>> done: list[int] = []
        >>> with Behind(done.append) as add:
        ...     for number in range(3):
        ...         add(number)
        >>> done
        [0, 1, 2]
    """

    def __init__(self, call: Callable[[Item], object]) -> None:
        self._call = call
        self._pool = ThreadPoolExecutor(1, "tidemill.behind")
        self._last: Future[object] | None = None

    def __enter__(self) -> Self:
        return self

    def __call__(self, item: Item) -> None:
        """Waits for the call before, and begins this one."""
        if self._last is not None:
            self._last.result()
        self._last = self._pool.submit(self._call, item)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pool.shutdown()
        if self._last is not None and error is None:
            self._last.result()
