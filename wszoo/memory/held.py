"""How much memory a forward pass holds until the backward pass."""

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class _Allocations(TorchDispatchMode):
    """Notes every storage that an operator makes."""

    def __init__(self) -> None:
        super().__init__()
        self._made: list[tuple[StorageWeakRef, int]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        given = {storage._cdata for storage in _storages((args, kwargs))}
        for storage in _storages(result):
            if storage._cdata not in given:  # views and changes in place make none
                given.add(storage._cdata)
                self._made.append((StorageWeakRef(storage), storage.nbytes()))
        return result

    def alive(self) -> int:
        return sum(size for made, size in self._made if not made.expired())


def _storages(values: Any) -> Iterator[Any]:
    return (leaf.untyped_storage() for leaf in tree_leaves(values) if isinstance(leaf, Tensor))


def held_bytes(forward: Callable[[], Tensor]) -> int:
    """Bytes that ``forward`` allocates and that its result keeps alive, itself among them.

    What checkpoints keep is counted, too, which hooks on saved tensors do not see. Fake tensors are
    counted like real ones, so that no memory is needed to ask.

    Args:
        forward: One pass; its result is the loss, or whatever the backward pass starts from.

    Example:
        >>> import torch
        >>> weight = torch.ones(8, requires_grad=True)
        >>> held_bytes(lambda: (weight * 2).exp().sum())  # exp's output, and the sum
        36
    """
    with _Allocations() as allocations:
        result = forward()
    held = allocations.alive()
    del result
    return held
