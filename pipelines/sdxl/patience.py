"""When to try again what could not be done: later and less often, and in the end no more."""

from collections import OrderedDict
from collections.abc import Hashable, Sequence

PAUSES = (8, 64, 512)
"""How often a thing is let pass after its first, second and third failure. After one more it is left alone."""

MOST = 64
"""Things remembered; of more, the one unused for longest is tried as if for the first time."""


class Patience:
    """What has failed, and how often it was let pass since. Counted and not timed, so that an idle server waits.

    Args:
        pauses: see PAUSES. most: see MOST.
    """

    def __init__(self, pauses: Sequence[int] = PAUSES, most: int = MOST) -> None:
        self.pauses, self.most = pauses, most
        self._failed = OrderedDict[Hashable, tuple[int, int]]()

    def failed(self, key: Hashable) -> None:
        """It was tried in vain."""
        failures, _ = self._failed.pop(key, (0, 0))
        self._failed[key] = failures + 1, 0
        while len(self._failed) > self.most:
            self._failed.popitem(last=False)

    def rests(self, key: Hashable) -> bool:
        """Whether to let it pass this time, which is counted."""
        if key not in self._failed:
            return False
        failures, passed = self._failed[key]
        self._failed[key] = failures, passed + 1
        self._failed.move_to_end(key)
        return failures > len(self.pauses) or passed < self.pauses[failures - 1]

    def clear(self) -> None:
        """Forget all failures."""
        self._failed.clear()
