"""Counts the ATen calls that a network makes: on a GPU about one kernel launch each."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

VIEWS = frozenset({
    "_unsafe_view", "alias", "chunk", "detach", "expand", "permute", "reshape", "select", "slice", "split",
    "split_with_sizes", "squeeze", "t", "transpose", "unbind", "unflatten", "unsqueeze", "view",
})  # fmt: skip
"""Calls that move no data and launch nothing."""

HOST_READS = frozenset(
    {"_local_scalar_dense", "item", "is_nonzero", "nonzero", "equal", "lift_fresh", "lift_fresh_copy"}
)
"""Calls that make the host wait for the device, and those that make a tensor of the host's values in passing."""


class OpCounter(TorchDispatchMode):
    """Counts by name while active. Count under `no_grad`: inference mode hides what composite calls consist of."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.namespaces: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.calls[func.overloadpacket.__name__] += 1
        self.namespaces.add(func.namespace)
        return func(*args, **(kwargs or {}))

    @property
    def launches(self) -> int:
        """Calls that are no views."""
        return sum(number for name, number in self.calls.items() if name not in VIEWS)


@contextmanager
def counting(net: nn.Module) -> Iterator[OpCounter]:
    """Counts what `net` does when it is called inside this context, and nothing else."""
    counter = OpCounter()

    def enter(*_: object) -> None:
        counter.__enter__()

    def leave(*_: object) -> None:
        counter.__exit__(None, None, None)

    hooks = net.register_forward_pre_hook(enter), net.register_forward_hook(leave, always_call=True)
    try:
        yield counter
    finally:
        for hook in hooks:
            hook.remove()
