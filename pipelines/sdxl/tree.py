"""Values with tensors somewhere inside: frozen dataclasses, mappings, lists and tuples of them."""

from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

from torch import Tensor


def tensors(tree: Any) -> Iterator[Tensor]:
    """Every tensor in `tree`, always in the same order."""
    if isinstance(tree, Tensor):
        yield tree
        return
    for _, inner in parts(tree):
        yield from tensors(inner)


def with_tensors(tree: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """`tree` anew, with every tensor changed; what holds no tensor is shared."""
    if isinstance(tree, Tensor):
        return change(tree)
    if is_dataclass(tree) and not isinstance(tree, type):
        return replace(tree, **{str(name): with_tensors(inner, change) for name, inner in parts(tree)})
    if isinstance(tree, Mapping):
        return {key: with_tensors(inner, change) for key, inner in parts(tree)}
    if isinstance(tree, list | tuple):
        return type(tree)(with_tensors(inner, change) for _, inner in parts(tree))
    return tree


def kind_of(tree: Any) -> Hashable:
    """Equal for trees that differ in their tensors' values only: shapes, strides, and all that is no tensor, are in it.

    A network is told by which object it is.
    """
    if isinstance(tree, Tensor):
        return tree.shape, tree.stride(), tree.dtype, tree.device
    inner = tuple((key, kind_of(value)) for key, value in parts(tree))
    return (type(tree), inner) if inner or isinstance(tree, Mapping | list | tuple) else tree


def parts(tree: Any) -> list[tuple[Hashable, Any]]:
    """What is directly inside `tree`, by name, key or place; nothing for all that is no container."""
    if is_dataclass(tree) and not isinstance(tree, type):
        return [(field.name, getattr(tree, field.name)) for field in fields(tree)]
    if isinstance(tree, Mapping):
        return list(tree.items())
    return list(enumerate(tree)) if isinstance(tree, list | tuple) else []
