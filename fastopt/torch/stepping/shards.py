"""DTensors, of which each process has a shard: the tensor that it steps.

A DTensor says of itself what all processes have together: its shape, strides and number of elements are those of the
whole. `local` gives the tensor of this process, which is in its memory; everything else here is about what the two have
to do with each other.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


def dtensor_class() -> type | None:
    """torch's class of sharded tensors; None as long as nobody has imported it, so that there are none."""
    return getattr(sys.modules.get("torch.distributed.tensor"), "DTensor", None)


def is_sharded(tensor: Any) -> bool:
    """Whether something is a DTensor, of no subclass: those can mean anything by their shards."""
    return type(tensor) is dtensor_class()


def local(tensor: Any) -> Any:
    """The tensor that this process has of a DTensor, with its gradients and its memory; anything else as it is.

    Where communication is under way that fills the tensor, this waits for its end.
    """
    if not is_sharded(tensor):
        return tensor
    below = tensor._local_tensor
    if type(below).__name__ == "AsyncCollectiveTensor":
        below = tensor._local_tensor = below.wait()
    return below


def wrapped(made: Tensor, like: Any) -> Tensor:
    """A tensor that lies like the shard of a parameter, as a DTensor like the parameter; itself beside a plain one.

    It shares its memory. It has the parameter's mesh, placements, global shape and strides, and a dtype of its own.
    """
    return made if not is_sharded(like) else around(made, like._spec)


def around(made: Tensor, spec: Any) -> Tensor:
    """A DTensor around this shard: `spec` is that of another, or None, for none."""
    found = dtensor_class()
    if spec is None or found is None:
        return made
    if spec.tensor_meta.dtype is not made.dtype:
        spec = spec.shallow_copy_with_tensor_meta(spec.tensor_meta._replace(dtype=made.dtype))
    # Not `from_local`: it moves shards to the mesh's device, from where CPU offloading has taken them, and loses the
    # order in which several dimensions of a mesh share one of the tensor.
    whole: Tensor = found(made, spec, requires_grad=False)
    return whole


def spec_of(tensor: Any) -> Any:
    """Where the shards of a DTensor are; None of anything else."""
    return tensor._spec if is_sharded(tensor) else None


def first_element(param: Any) -> int:
    """Which element of the whole parameter, in its order in memory, is the first one of this process.

    The others of this process follow it in the whole as well, unless a dimension is sharded that is not the outermost
    in memory.
    """
    spec = spec_of(param)
    if spec is None:
        return 0
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    own, whole = local(param), spec.tensor_meta.shape
    shape, offsets = compute_local_shape_and_global_offset(whole, spec.mesh, spec.placements)
    if tuple(shape) != tuple(own.shape) or not own.numel():
        return 0
    first, inner = 0, 1
    for dimension in sorted(range(own.ndim), key=lambda each: (own.stride(each), -each)):
        first += offsets[dimension] * inner
        inner *= whole[dimension]
    return first


def are_alike(spec: Any, other: Any) -> bool:
    """Whether two DTensors with these specs have the same elements on each process; None stands for plain tensors."""
    if spec is other or spec is None or other is None:
        return spec is other
    return bool(
        spec.mesh == other.mesh
        and spec.placements == other.placements
        and getattr(spec, "shard_order", None) == getattr(other, "shard_order", None)
        and spec.tensor_meta.shape == other.tensor_meta.shape
    )


def readable(param: Any, gradient: Any) -> Tensor | None:
    """The shard of a parameter's gradient, if each process has the same elements of both; else None."""
    if is_sharded(gradient) and are_alike(param._spec, gradient._spec):
        found = local(gradient)
        return found if type(found) is Tensor else None
    return None


@dataclass
class Access:
    """How the compiled walk gets to the shards of DTensors, and those that it steps."""

    sharded: type
    local: Any
    spec: Any
    readable: Callable[[Any, Any], Tensor | None]
    without_torch_functions: Callable[[], Any]
    shards: list[Tensor | None]
    """For each parameter of all groups its shard; None: it is plain."""
    wholes: list[list[Any]]
    """For each segment the DTensors whose shards its states and numbers are; None for plain ones."""


def access(shards: Sequence[Tensor | None], wholes: Sequence[Sequence[Any]]) -> Access | None:
    """The `Access` to these shards; None if there are none."""
    sharded = dtensor_class()
    if sharded is None or all(each is None for each in shards):
        return None
    local_slot, spec_slot = (inspect.getattr_static(sharded, name) for name in ("_local_tensor", "_spec"))
    without = torch._C.DisableTorchFunctionSubclass
    return Access(sharded, local_slot, spec_slot, readable, without, list(shards), list(map(list, wholes)))


def check_param(owner: str, label: str, tensor: Any) -> None:
    """Check that a parameter or a state is no sum that processes have yet to add up; `owner` begins the message.

    Raises
    ------
    ValueError
        It is.
    """
    if is_sharded(tensor) and any(each.is_partial() for each in tensor.placements):
        raise ValueError(
            f"{owner}: {label} has the placements {tensor.placements}, so that processes have yet to add it up; "
            "redistribute() it to Shard or Replicate first"
        )


def check_options(owner: str, label: str, param: Any, options: dict[str, Any]) -> None:
    """Check that these options can be used with a parameter; `owner` begins the message.

    Raises
    ------
    NotImplementedError, ValueError
        It is a DTensor, and they cannot.
    """
    if not is_sharded(param):
        return
    if options["flatten"]:
        raise ValueError(
            f"{owner}: flatten=True moves parameters to other memory, and {label} is a DTensor, whose shard others go "
            "on to read where it is, as fully_shard does; leave it out"
        )
    if options["stochastic_rounding"] and local(param).device.type != "cpu":
        raise NotImplementedError(
            f"{owner}: stochastic_rounding=True is for DTensors in main memory, and {label} is on {local(param).device}"
        )
    needs = [name for name, harmless in NEED_ALL_SHARDS.items() if options[name] != harmless]
    if needs and local(param).device.type != "cpu":
        raise NotImplementedError(
            f"{owner}: {needs[0]}={options[needs[0]]!r} is for DTensors in main memory, and {label} is on "
            f"{local(param).device}; use torch.nn.utils.clip_grad_norm_"
        )


NEED_ALL_SHARDS = {"max_grad_norm": None, "clip_norm": None, "nonfinite": "propagate"}
"""Options that need gradients of all processes, and the values with which they do not."""


def check_state(owner: str, label: str, param: Any, state: Any) -> None:
    """Check that each process has the same elements of a parameter and its state; `owner` begins the message.

    Raises
    ------
    TypeError, ValueError
        It has not.
    """
    own, other = spec_of(param), spec_of(state)
    if are_alike(own, other):
        return
    if own is None or other is None:
        kinds = ["a DTensor" if each else "a plain tensor" for each in (own is not None, other is not None)]
        raise TypeError(f"{owner}: {label} must be {kinds[0]}, as its parameter is, got {kinds[1]}")
    raise ValueError(
        f"{owner}: {label} must have its parameter's shape {tuple(own.tensor_meta.shape)}, placements {own.placements} "
        f"and mesh {own.mesh}, got {tuple(other.tensor_meta.shape)}, {other.placements} and {other.mesh}"
    )


def check_gradient(owner: str, label: str, param: Any, gradient: Any) -> None:
    """Check that each process has the same elements of a parameter and its gradient.

    Raises
    ------
    TypeError, ValueError
        It has not; the message says how to get there.
    """
    own, other = spec_of(param), spec_of(gradient)
    if are_alike(own, other):
        return
    if own is None:
        raise TypeError(f"{owner}: {label} is a DTensor, and its parameter is not; assign its to_local() instead")
    if other is None:
        raise TypeError(
            f"{owner}: {label} must be a DTensor with its parameter's mesh and placements {own.placements}, got a "
            "plain tensor; make one with DTensor.from_local or distribute_tensor"
        )
    if own.mesh != other.mesh:
        raise ValueError(f"{owner}: {label} must be on its parameter's mesh {own.mesh}, got {other.mesh}")
    raise ValueError(
        f"{owner}: {label} must have its parameter's shape {tuple(own.tensor_meta.shape)} and placements "
        f"{own.placements}, got {tuple(other.tensor_meta.shape)} and {other.placements}; before the step, on all "
        "processes, assign param.grad = param.grad.redistribute(placements=param.placements)"
    )
