"""A team of threads, which exchange arrays through a shared list."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Barrier

SPLITS = {
    "even": lambda n, size: [n * i // size for i in range(size + 1)],
    "at the front": lambda n, size: [min(-(-n // size) * i, n) for i in range(size + 1)],
    "nearly all for the last": lambda n, size: [*(min(i, n - 1) for i in range(size)), n],
}


@dataclass(frozen=True, eq=False)
class Member:
    """One of a team of threads, which exchange arrays through `table`."""

    rank: int
    bounds: object
    table: list
    barrier: Barrier
    xp: object
    calls: list

    def own(self, a):
        bounds = self.bounds(a.shape[0], len(self.table))
        return a[bounds[self.rank] : bounds[self.rank + 1]]

    def whole(self, a, n):
        whole = self.xp.concat([part for (part,) in self._exchanged([a])])
        assert whole.shape[0] == n
        return whole

    def largest(self, arrays):
        # Libraries differ in what the maximum of NaN and a number is.
        infinite = [self.xp.where(a == a, a, float("inf")) for a in arrays]
        return self._folded(infinite, self.xp.maximum)

    def total(self, arrays):
        return self._folded(list(arrays), self.xp.add)

    def _folded(self, arrays, function):
        """Combine all members' arrays, in an order that differs from member to member."""
        found = self._exchanged(arrays)
        first, *others = [*found[self.rank :], *found[: self.rank]]
        for other in others:
            first = [function(a, b) for a, b in zip(first, other, strict=True)]
        return first

    def _exchanged(self, arrays):
        self.calls.append(len(arrays))
        self.table[self.rank] = arrays
        self.barrier.wait(60)
        found = list(self.table)
        self.barrier.wait(60)
        return found


def by_team(size, split, xp, function):
    """Call a function with each member; return the results, and the calls of the first member."""
    table, barrier = [None] * size, Barrier(size)
    members = [Member(i, SPLITS[split], table, barrier, xp, []) for i in range(size)]

    def work(member):
        try:
            return function(member)
        except BaseException:
            barrier.abort()
            raise

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(work, members)), members[0].calls
