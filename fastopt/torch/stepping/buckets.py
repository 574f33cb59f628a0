"""Steps under DistributedDataParallel: of a bucket's parameters, once their gradients are the mean over all processes.

DDP averages gradients after the hooks of single parameters have run, a bucket of them at a time, and calls the
module's communication hook for it.
"""

# No `from __future__ import annotations`: DDP compares the annotations of a communication hook with the types.
import gc
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeAlias

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import GradBucket  # torch.distributed's; type checkers do not find it there
from torch.nn.parallel import DistributedDataParallel

from . import tensors

FutureGradients: TypeAlias = torch.futures.Future[Tensor]
CommHook: TypeAlias = Callable[[Any, GradBucket], FutureGradients]
Step: TypeAlias = Callable[[Tensor], bool]
"""Steps a parameter by its gradient, which stays; whether it did."""

StepOf: TypeAlias = Callable[[Tensor], Step | None]
"""What steps a parameter, if anything does."""


class BucketSteps:
    """The communication hook of one module: another one averages gradients, then this one has parameters stepped.

    All runs in the thread of the backward pass: buckets whose gradients have arrived are stepped when the next one has
    been sent, and the others at the end. An error waits until all buckets have been averaged, so that other processes
    go on and the module stays usable.

    Parameters
    ----------
    module: the module, to which this does not refer strongly.
    comm_hook: what averages; None for what DDP does without a hook.
    step_of: tells what steps a parameter.
    """

    def __init__(self, module: DistributedDataParallel, comm_hook: CommHook | None, step_of: StepOf) -> None:
        self.module = weakref.ref(module)
        self.comm_hook = comm_hook
        self.step_of = step_of
        self.expected: weakref.WeakValueDictionary[str, Tensor] = weakref.WeakValueDictionary()
        """The parameters that are to be stepped, by what messages call them, until a backward pass has shown them."""
        self.reset()

    def reset(self) -> None:
        """Begin a backward pass."""
        self.sent: deque[tuple[FutureGradients, Tensor, list[Tensor]]] = deque()
        """Buckets whose parameters wait for their step: the gradients to come, the buffer for them, parameters."""
        self.late: list[Tensor] = []
        """Parameters that this process did not use. DDP writes their gradients if another process did."""
        self.stepped: list[Tensor] = []
        self.seen: set[int] = set()
        self.error: BaseException | None = None

    def communicate(self, state: Any, bucket: GradBucket) -> torch.futures.Future[torch.Tensor]:
        """The hook: DDP calls it for one bucket after the other, in the same order in all processes."""
        if self.comm_hook is None:
            module = self.module()
            assert module is not None, "it calls this"
            future = averaged(module.process_group, bucket.buffer())
        else:
            future = self.comm_hook(state, bucket)
        if torch._C._current_graph_task_id() == -1:  # `join` takes part for a process that has no more inputs
            return future
        if bucket.index() == 0:
            self.reset()
        try:
            self.take(bucket, future)
        except BaseException as error:
            self.error = self.error or error
        if bucket.is_last():  # DDP queues what ends its own part after this.
            _at_end_of_backward(self.step_all)
        return future

    def take(self, bucket: GradBucket, future: FutureGradients) -> None:
        """Note a bucket that was sent, and step those that have arrived."""
        params, buffer = bucket.parameters(), bucket.buffer()
        self.seen.update(map(id, params))
        used = []
        for param, view in zip(params, gradient_views(buffer, params), strict=True):
            if self.step_of(param) is None:
                continue
            if param.grad is None:
                self.late.append(param)
                continue
            if param.grad.data_ptr() != view.data_ptr():  # not so with `gradient_as_bucket_view`
                param.grad = view
            used.append(param)
        self.sent.append((future, buffer, used))
        while not self.expected and buffer.device.type == "cpu" and self.sent[0][0].done():
            self.step_first()
            if not self.sent:
                break

    def step_first(self) -> None:
        """Wait for the first bucket's gradients, then step its parameters."""
        future, buffer, params = self.sent.popleft()
        result: Any = future.wait()
        gradients = result[0] if isinstance(result, (list, tuple)) else result
        if gradients.data_ptr() != buffer.data_ptr():
            buffer.copy_(gradients)
        for param in params:
            self.step(param)

    def step(self, param: Tensor) -> None:
        step = self.step_of(param)
        if self.error is None and step is not None and step(param):
            self.stepped.append(param)

    def step_all(self) -> None:
        """At the end of the backward pass, before DDP writes gradients."""
        try:
            missing = sorted(label for label, param in self.expected.items() if id(param) not in self.seen)
            if missing:
                raise RuntimeError(
                    f"{', '.join(missing)}: DistributedDataParallel does not average the gradients of what was frozen "
                    "when the module was wrapped; wrap the module after requires_grad_()"
                )
            self.expected.clear()
            while self.sent:
                self.step_first()
        except BaseException as error:
            self.error = self.error or error
        _at_end_of_backward(self.finish)

    def finish(self) -> None:
        """After DDP has written gradients: step parameters that other processes used, and free what was stepped."""
        try:
            for param in self.late:
                self.step(param)
        except BaseException as error:
            self.error = self.error or error
        for param in self.stepped:
            param.grad = None
        raised = self.error
        self.reset()
        if raised is not None:
            raise raised

    def __reduce__(self) -> Any:
        return _Copied, ()


class _Copied:
    """What copies of a module have in the place of its hook: DDP copies the list of hooks, which it does not use."""

    def communicate(self, state: Any, bucket: GradBucket) -> torch.futures.Future[torch.Tensor]:
        raise NotImplementedError


_steps: weakref.WeakKeyDictionary[DistributedDataParallel, BucketSteps] = weakref.WeakKeyDictionary()
"""The modules that have such a hook."""


def take_over(
    owner: str,
    labels: Mapping[Tensor, str],
    comm_hook: CommHook | None,
    comm_state: object,
    step_of: StepOf,
    within: torch.nn.Module | None,
) -> set[Tensor]:
    """Have DistributedDataParallel modules step those of these parameters whose gradients they average.

    `labels` has what messages call each parameter, and `owner` is the optimizer's name. `within` is, or has, modules
    that may average some; if they do not average all, others are looked for.

    Returns
    -------
    params: set of tensors
        What they will step.

    Raises
    ------
    ValueError
        A module cannot do it. No module has changed.
    """
    found: list[tuple[DistributedDataParallel, dict[Tensor, str]]] = []
    for modules in (modules_in, all_modules):
        if len(labels) > sum(len(own) for _, own in found):
            known = {module for module, _ in found}
            new = [module for module in modules(within) if module not in known]
            found += [(module, own) for module in new if (own := averaged_params(owner, module, labels))]
    for module, _ in found:
        steps = _steps.get(module)
        if module._comm_hooks if steps is None else comm_hook not in (None, steps.comm_hook):
            raise ValueError(
                f"{owner}: the DistributedDataParallel module of the parameters has a communication hook already, and "
                "takes no second one; instead of module.register_comm_hook(state, hook), call "
                "step_in_backward(..., comm_hook=hook, comm_state=state)"
            )
        if module._use_python_reducer:
            raise ValueError(f"{owner}: torch._dynamo.config.optimize_ddp='python_reducer' has no communication hooks")
    for module, own in found:
        if module not in _steps:
            steps = BucketSteps(module, comm_hook, step_of)
            module.register_comm_hook(comm_state, steps.communicate)
            _steps[module] = steps
        _steps[module].expected.update({label: param for param, label in own.items()})
    return {param for _, own in found for param in own}


def modules_in(module: torch.nn.Module | None) -> list[DistributedDataParallel]:
    """Those in a module, which may be one."""
    return [each for each in module.modules() if isinstance(each, DistributedDataParallel)] if module else []


def all_modules(_: object) -> list[DistributedDataParallel]:
    """All that there are. Nothing leads from a parameter to the module that averages its gradient."""
    return [each for each in gc.get_objects() if DistributedDataParallel in type(each).__mro__]


def averaged_params(owner: str, module: DistributedDataParallel, labels: Mapping[Tensor, str]) -> dict[Tensor, str]:
    """Those of these parameters whose gradients a module averages.

    Raises
    ------
    ValueError
        It averages one without calling a communication hook.
    """
    for param in getattr(module, "_delay_all_reduce_params", ()):
        if param in labels:
            raise ValueError(
                f"{owner}: {labels[param]} is one of delay_all_reduce_named_params, for which DistributedDataParallel "
                "calls no communication hook"
            )
    named = module.module.named_parameters()
    return {each: labels[each] for name, each in named if each in labels and name not in module.parameters_to_ignore}


def averaged(group: Any, buffer: Tensor) -> FutureGradients:
    """The mean of a buffer over processes, with the bits of DDP without a communication hook."""
    buffer.mul_(1.0 / dist.get_world_size(group))
    future: FutureGradients = dist.all_reduce(buffer, group=group, async_op=True).get_future()
    return future.then(lambda each: each.value()[0])


def gradient_views(buffer: Tensor, params: Iterable[Tensor]) -> Iterator[Tensor]:
    """Each parameter's gradient in a bucket, in its parameter's layout, as DDP puts it there.

    `bucket.gradients()` takes all for contiguous.
    """
    if buffer.is_sparse:
        yield buffer
        return
    offset = 0
    for param in params:
        size = param.numel()
        if tensors.is_dense(param):
            yield buffer.as_strided(param.shape, param.stride(), buffer.storage_offset() + offset)
        else:
            yield buffer[offset : offset + size].view(param.shape)
        offset += size


def _at_end_of_backward(function: Callable[[], None]) -> None:
    torch.autograd.Variable._execution_engine.queue_callback(function)
