"""What the optimizers share: torch.optim's own classes, with another `step`."""

from __future__ import annotations

import inspect
import threading
from collections import defaultdict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor
from torch.optim import optimizer as torch_optimizer
from torch.utils.hooks import RemovableHandle

from ..checks import flag
from ..definitions.specs import SPECS, Spec
from ..kernels.engine.contract import BUSY, Progress
from ..step.nonfinite import NonfiniteGradients
from ..step.options import GROUP_OPTIONS, STEP_OPTIONS, check_group_options, read_step_options
from ..threads import get_num_threads
from . import devices, flattening, gradient_hooks, hyperparameters, states, tensors, updates
from .device_rounds import DeviceRound
from .rounds import READY, REREAD

OPTIONS: dict[str, Any] = {
    name: default
    for name, (default, _) in {**STEP_OPTIONS, **GROUP_OPTIONS}.items()
    if name
    in (
        "max_grad_norm",
        "clip_norm",
        "clip_value",
        "nonfinite",
        "max_consecutive_skips",
        "zero_grads",
        "backend",
        "n_threads",
        "flush_denormals",
    )
} | {"flatten": False}
"""What the classes take beside torch's own arguments, and the defaults."""


class NativeOptimizer(torch.optim.Optimizer):
    """What the optimizers of this module share. Use one of them: `fastopt.torch.Adam` is `torch.optim.Adam`, faster.

    Arguments, their order and defaults are torch's; `foreach` and `fused` are accepted and change nothing but what
    torch itself makes of them (an error where both are given, `step` in float32). What comes on top is keyword-only:

    Parameters
    ----------
    max_grad_norm: float, optional
        As torch.nn.utils.clip_grad_norm_ before each step, without rewriting the gradients: the norm is taken in one
        pass, in float64, the same bits with any number of threads; the scaling is done in the update.
        `optimizer.grad_norm` is the last one.
    clip_norm: float, optional
        The same for each parameter by itself.
    clip_value: float, optional
        As torch.nn.utils.clip_grad_value_. At most one of the three ways of clipping.
    nonfinite: "propagate", "skip" or "raise"
        What a NaN or an infinity in any gradient does: nothing special, no update at all (counted in
        `optimizer.skipped_steps`), or a FloatingPointError that names the parameters. Nothing is changed by the latter
        two.
    max_consecutive_skips: int, optional
        With `nonfinite="skip"`: a FloatingPointError when more steps in a row are skipped.
    zero_grads: bool, default False
        Gradients are zeroed in the pass that reads them, as zero_grad(set_to_none=False) would after the step.
    backend: "auto", "cython", "numba", "reference" or "cuda"
        What runs the update; those on the processor all give the same bits. "auto" is cuda for parameters on a CUDA
        device, which nothing else can step.
    n_threads: int, optional
        At most so many threads; default: the least of `torch.get_num_threads()` and `fastopt.get_num_threads()`.
    flatten: bool, default False
        Move the parameters of each group into one buffer, their gradients and states into others: a step is then one
        run over memory, with the least overhead. What that changes: the parameters' memory is replaced at construction
        (what shared it before does not follow any more); gradients are there from the start, and are zeroed by
        `optimizer.zero_grad()`, never None, so that parameters without a gradient are stepped with zeros; saving one
        parameter alone saves its whole buffer. Where other gradients are put in place, as by `model.zero_grad()`, steps
        are those of `flatten=False`.
    flush_denormals: bool, default True
        Treat denormals as zero inside a step, as torch.set_flush_denormal does everywhere.

    Notes
    -----
    Parameters and states are torch's own tensors: the kernels write to their memory, and count up the parameters'
    versions, so that autograd notices a parameter that was changed between forward and backward. The states are made by
    torch, when a parameter has its first gradient; `state_dict()` is torch's and loads into torch's class, and back.

    With a torch.amp.GradScaler, gradients are divided by its scale in the update, and steps with infinities are left
    out; the gradients themselves stay scaled, unless the scaler's `unscale_` was called.

    Parameters on a CUDA device are stepped there, on torch's current stream, without waiting for it, a GradScaler's
    verdict included; `step` in their states is brought up to date when `state` or `state_dict()` is read, which waits.
    See docs/cuda.md: it has not yet run on a GPU.

    Dense float32 and float64 parameters of any strides are updated, each in its own precision.
    Parameters with gaps between their elements, and gradients that lie in memory differently from their parameters, are
    copied for each step, as torch copies them where it needs to.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        What torch's class raises; and, at construction or at the step where it first appears, what kernels cannot do:
        parameters or gradients on devices other than CUDA's, of another dtype, complex or sparse,
        `differentiable=True`, `capturable=True` for parameters in main memory. The message names the parameter, nothing
        has been changed.
    """

    spec: ClassVar[Spec]
    name: ClassVar[str]
    _init_group: Callable[..., Any]  # torch's classes have it
    _step_supports_amp_scaling = True
    in_backward = False
    state_was_read = True
    counts_on_device = False
    on_device = False
    scaler: tuple[Any, Any] = (None, None)
    _handles: list[RemovableHandle]  # of hooks in the backward pass
    _hooked: list[Tensor]

    if TYPE_CHECKING:
        # Else type checkers see the constructors of torch's classes, which do not know our options.
        def __init__(self, params: torch_optimizer.ParamsT, *args: Any, **kwargs: Any) -> None: ...

    @property
    def state(self) -> defaultdict[Tensor, Any]:
        """Each parameter's states by name, as torch has them.

        After it was read, the next step looks whether the states have other memory. Before every step it looks whether
        they are other tensors. Steps that were counted on a device are fetched, which waits for it.
        """
        self.state_was_read = True
        if self.counts_on_device:
            self.write_counts()
        state: defaultdict[Tensor, Any] = self.__dict__["state"]
        return state

    @state.setter
    def state(self, value: defaultdict[Tensor, Any]) -> None:
        self.__dict__["state"] = value

    @property
    def known_states(self) -> defaultdict[Tensor, Any]:
        """The same without a look at it; counts of steps on a device may be behind."""
        states: defaultdict[Tensor, Any] = self.__dict__["state"]
        return states

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if NativeOptimizer in cls.__bases__:  # with torch's class beside it
            (torch_class,) = (each for each in cls.__bases__ if each is not NativeOptimizer)
            own: Spec | None = torch_class.__dict__.get("spec")
            cls.spec = own or SPECS[torch_class.__name__]
            cls.name = cls.__qualname__ if own else f"fastopt.torch.{torch_class.__name__}"
            cls.__init__ = _initializer(torch_class)  # type: ignore[method-assign]

    def _set_up(self, given: dict[str, Any]) -> None:
        """Take over checked options, and forget everything that a step found out."""
        self.options = {
            **read_step_options(given),
            **check_group_options(given, given.get("max_grad_norm")),
            "flatten": flag("flatten", given.get("flatten", False)),
        }
        self._check_devices()
        self.nonfinite = NonfiniteGradients(self.options["nonfinite"], self.options["max_consecutive_skips"])
        self.progress = Progress.new()
        self.fresh: set[int] = set()  # ids of parameters whose states were made, but are not in an update yet
        self._given = given
        self._settling = threading.Lock()
        self._update: updates.Update | None = None
        self.counts_on_device = False
        self.buffers: list[flattening.Buffer] = []
        self._handles, self._hooked = [], []
        self._flatten()

    def _check_devices(self) -> None:
        """Check that the options suit the devices that parameters are on, and load what steps them there."""
        params = [param for group in self.param_groups for param in group["params"]]
        for label, param in zip(tensors.labels(self.param_groups), params, strict=True):
            devices.check_backend(self.name, label, param, self.options["backend"])
            if self.options["flatten"] and devices.kind(param) != "cpu":
                raise ValueError(
                    f"{self.name}: flatten=True is for parameters in main memory, {label} is on {param.device}, where "
                    "a step launches as many kernels for many parameters as for one"
                )
        devices.load_backends(params, self.options["backend"], self.spec.custom)
        self.on_device = all(devices.kind(param) == "cuda" for param in params)

    def _flatten(self) -> None:
        if self.options["flatten"]:
            self.buffers = flattening.flatten(self)
            placed = {id(param) for buffer in self.buffers for param in buffer.params}
            params = (param for group in self.param_groups for param in group["params"])
            self.unplaced = [param for param in params if id(param) not in placed]

    def _check_groups(self, groups: list[dict[str, Any]]) -> None:
        labels = tensors.labels(groups)
        for group in groups:
            hyperparameters.check_flags(self.name, group)
            for param in group["params"]:
                tensors.check_param(self.name, next(labels), param)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As torch's; the parameters are checked first.

        Raises
        ------
        TypeError, ValueError, RuntimeError
            What torch raises, or the kernels cannot update a parameter. No group has been added.
        """
        super().add_param_group(param_group)
        if "_given" not in self.__dict__:  # The constructor checks all groups together.
            return
        try:
            self._check_groups(self.param_groups)
            self._check_devices()
            self._flatten()
            if self.in_backward:
                gradient_hooks.put_on(self, self.param_groups[-1:])
        except BaseException:
            self.param_groups.pop()
            raise

    def zero_grad(self, set_to_none: bool = True) -> None:
        """As torch's; with `flatten=True` gradients are zeroed in their buffers, whatever `set_to_none` says."""
        if self.buffers:
            for param in self.unplaced:
                param.grad = None
            for buffer in self.buffers:
                buffer.zero_grad()
        elif set_to_none and not _profiler_enabled():
            for group in self.param_groups:
                for param in group["params"]:
                    param.grad = None
        else:
            super().zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """As torch's: nothing of parameters whose first step is still to come, where torch makes their states then."""
        kept = self.state
        self.state = states.states_in_use(self)
        try:
            return super().state_dict()
        finally:
            self.state = kept

    def __getstate__(self) -> dict[str, Any]:
        return {
            **super().__getstate__(),
            "state": states.states_in_use(self),
            "_given": self._given,
            "in_backward": self.in_backward,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "options" not in self.__dict__:  # unpickled
            self._set_up(self._given)
            if self.in_backward:  # So is a copy, with its own parameters.
                gradient_hooks.put_on(self, self.param_groups)
        else:
            self.fresh.clear()  # States that were loaded are from steps that were done.
        self._update = None

    # --- the step ---------------------------------------------------------------------------------------------------

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update every parameter that has a gradient, in one native call.

        Parameters
        ----------
        closure: callable, optional
            Evaluates the model anew and returns the loss; called once, with gradients enabled.

        Returns
        -------
        loss: what `closure` returned, else None

        Raises
        ------
        RuntimeError, TypeError, ValueError
            A gradient or a state is not usable; the message names the parameter. Nothing has been changed.
        FloatingPointError
            `nonfinite` says so. Nothing has been changed.
        """
        if _is_traced():
            return _untraced_step(self, closure)
        if (
            self._optimizer_step_pre_hooks
            or self._optimizer_step_post_hooks
            or torch_optimizer._global_optimizer_pre_hooks
            or torch_optimizer._global_optimizer_post_hooks
            or _profiler_enabled()
        ):
            return _hooked_step(self) if closure is None else _hooked_step(self, closure)  # hooks see the arguments
        return _step(self, closure)

    step.hooked = True  # type: ignore[attr-defined]  # keeps torch from wrapping it: hooks are seen to here

    def _advance(self) -> None:
        if "found_inf" in self.__dict__ or "grad_scale" in self.__dict__ or self.options["grad_scale"] != 1:
            # A torch.amp.GradScaler sets these attributes for the time of a step; either can be None.
            if self.on_device:
                self._advance_scaled()
                return
            if getattr(self, "found_inf", None):
                return
            scale = getattr(self, "grad_scale", None)
            self._take_scale(1.0 if scale is None else float(scale))
        if not self._step_natively(-1):
            self._settle()
        self.state_was_read = self.in_backward

    def _advance_scaled(self) -> None:
        """A step with a GradScaler's numbers, which are on the device and stay there."""
        self.scaler = (getattr(self, "found_inf", None), getattr(self, "grad_scale", None))
        try:
            if not self._step_natively(-1):
                self._settle()
        finally:
            self.scaler = (None, None)
        self.state_was_read = self.in_backward

    def _step_natively(self, only: int) -> bool:
        """A step of all parameters, or of `only` the one at a position, in one native call; False if more is to do."""
        update = self._update
        native = None if update is None else update.single
        if update is None or native is None:
            return False
        groups, states, read = self.param_groups, self.__dict__["state"], self.state_was_read
        found = native.step(groups, states, self._threads(), read, None, False, only)
        if found == REREAD and self._update is update and update.reread():
            found = native.step(groups, states, self._threads(), read, None, True, only)
        return bool(found == READY)

    def write_counts(self) -> None:
        """Bring what a device has counted, steps above all, to torch's states; waits for the device."""
        for each in () if self._update is None else self._update.rounds:
            if isinstance(each, DeviceRound):
                each.write_numbers()

    def _threads(self) -> int:
        mine: int | None = self.options["n_threads"]
        return min(torch.get_num_threads(), get_num_threads()) if mine is None else mine

    def _take_scale(self, scale: float) -> None:
        if scale != self.options["grad_scale"]:
            self.options["grad_scale"] = scale
            if self._update is not None:
                self._update.set_scale()

    def _settle(self, only: int = -1) -> None:
        """A step, once what is in its way is seen to: new parameters, memory, hyperparameters, odd gradients."""
        if not self._settling.acquire(blocking=False):
            raise RuntimeError(BUSY)
        try:
            update = self._update
            if update is None or not update.is_native or not update.reread():
                update = self._make_update()
            ways = update.look(only)
            if ways is None:
                update = self._make_update()
                ways = update.look(only)
                assert ways is not None, "an update that was just made is up to date"
            with torch.no_grad():
                update.step(ways, only)
        finally:
            self._settling.release()

    def _make_update(self) -> updates.Update:
        if self.counts_on_device:
            self.write_counts()
        self.counts_on_device = False  # Nothing is counted while an update is made.
        try:
            update = self._update = updates.Update(self)
        finally:
            self.counts_on_device = self._update is not None and any(each.on_device for each in self._update.rounds)
        return update

    # --- in the backward pass ---------------------------------------------------------------------------------------

    def step_in_backward(self) -> None:
        """See `fastopt.torch.step_in_backward`, which makes an optimizer for this."""
        gradient_hooks.put_on(self, self.param_groups)
        self.in_backward = True

    def step_after_backward(self) -> None:
        """End what `step_in_backward` began: gradients stay, and `step()` steps them."""
        self.in_backward = False
        gradient_hooks.take_off(self)

    def _position(self, param: Tensor) -> int | None:
        """Where a parameter is among all groups'; None if it was taken out of them."""
        params = (each for group in self.param_groups for each in group["params"])
        return next((position for position, each in enumerate(params) if each is param), None)

    # --- what options tell ------------------------------------------------------------------------------------------

    @property
    def grad_norm(self) -> float:
        """The norm of the gradients in the last step with `max_grad_norm`; NaN before. Unscaled, before clipping."""
        return float(self.progress.grad_norm[0])

    @property
    def skipped_steps(self) -> int:
        """How many steps `nonfinite="skip"` has left out."""
        return self.nonfinite.skipped

    @property
    def nonfinite_counts(self) -> dict[str, int]:
        """How many elements of which gradients could not be used, in the last step that was left out."""
        return dict(self.nonfinite.counts)


_profiler_enabled: Callable[[], bool] = torch.autograd._profiler_enabled  # type: ignore[attr-defined]


def _step(self: NativeOptimizer, closure: Callable[[], float] | None = None) -> float | None:
    loss = None
    if closure is not None:
        with torch.enable_grad():
            loss = closure()
    self._advance()
    return loss


_hooked_step = torch.optim.Optimizer.profile_hook_step(_step)
_is_traced = torch.compiler.is_dynamo_compiling


@torch._disable_dynamo  # type: ignore[attr-defined]
def _untraced_step(self: NativeOptimizer, closure: Callable[[], float] | None) -> float | None:
    """In a function under torch.compile: there is nothing for it to see in a native step."""
    return self.step(closure)


def _initializer(torch_class: type) -> Callable[..., None]:
    """The constructor of torch's class, with our options behind its arguments."""
    signature: inspect.Signature = getattr(torch_class, "plain_signature", None) or inspect.signature(
        torch_class.__init__  # type: ignore[misc]
    )

    def __init__(self: NativeOptimizer, *args: Any, **kwargs: Any) -> None:
        given = {name: kwargs.pop(name) for name in OPTIONS if name in kwargs}
        _check_convention(self, kwargs.pop("convention", "torch"))
        torch_class.__init__(self, *args, **kwargs)  # type: ignore[misc]
        self._check_groups(self.param_groups)
        self._set_up(given)

    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default) for name, default in OPTIONS.items()
    ]
    __init__.__signature__ = signature.replace(parameters=[*signature.parameters.values(), *added])  # type: ignore[attr-defined]
    return __init__


def _check_convention(optimizer: NativeOptimizer, convention: Any) -> None:
    if convention != "torch":
        raise ValueError(
            f"{optimizer.name} follows torch.optim: convention must be 'torch', got {convention!r} "
            f"(fastopt.{optimizer.spec.name}, over NumPy arrays, has others)"
        )
