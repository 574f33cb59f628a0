"""The base class of the optimizers: torch.optim's own classes with a native `step`."""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import weakref
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any, ClassVar, TextIO

import torch
from torch import Tensor
from torch.optim import optimizer as torch_optimizer

from ..checks import Fixed, flag
from ..definitions.specs import CAUTION, SPECS, Spec
from ..kernels.engine.contract import Progress
from ..step.nonfinite import NonfiniteGradients
from ..step.options import GROUP_OPTIONS, STEP_OPTIONS, check_group_options, read_step_options, words
from ..step.param_storage import ParamStorage, describe_storage
from ..step.storage import REST
from . import state_dtypes
from .saving import SavedOptimizer
from .stepping import (
    common,
    devices,
    flattening,
    formats,
    gradient_hooks,
    hyperparameters,
    modes,
    shards,
    tensors,
    wrappers,
)
from .stepping.host import Host
from .stepping.stepper import Stepper

if TYPE_CHECKING:
    from .stepping.buckets import CommHook

NO_GRAPH = (
    "optimizer.step() of fastopt.torch is native code, which no graph can hold; compile the model, or the loss and its "
    "gradients, and call step() outside, or compile without fullgraph=True"
)

NOBODY, HELD, READ = 0, 1, 2
"""See `NativeOptimizer.states_seen`."""

OPTIONS: dict[str, Any] = {
    name: option.default
    for name, option in {**STEP_OPTIONS, **GROUP_OPTIONS}.items()
    if name
    in (
        "max_grad_norm",
        "clip_norm",
        "clip_value",
        "nonfinite",
        "max_consecutive_skips",
        "zero_grads",
        "state_dtype",
        "stochastic_rounding",
        "seed",
        "master_weights",
        "backend",
        "n_threads",
        "flush_denormals",
    )
} | {"flatten": False}
"""The options that the classes take beside torch's own arguments, and their defaults."""


class NativeOptimizer(SavedOptimizer):
    """The base class of this package's optimizers: `fastopt.torch.Adam` is `torch.optim.Adam` with a faster step.

    Arguments, their order and defaults are torch's. `foreach` and `fused` are validated as torch does, then ignored.
    The options below are keyword-only:

    Parameters
    ----------
    max_grad_norm: float, optional
        As torch.nn.utils.clip_grad_norm_ before each step, without rewriting the gradients: one pass takes the norm in
        float64, with the same bits on any number of threads, and the update does the scaling.
        `optimizer.grad_norm` is the last norm.
    clip_norm: float, optional
        The same for each parameter by itself.
    clip_value: float, optional
        As torch.nn.utils.clip_grad_value_. Give at most one of the three ways of clipping.
    nonfinite: "propagate", "skip" or "raise"
        What to do when a gradient has a NaN or an infinity: update as usual, skip the step (counted in
        `optimizer.skipped_steps`), or raise a FloatingPointError that names the parameters. With "skip" and "raise"
        nothing is changed.
    max_consecutive_skips: int, optional
        With `nonfinite="skip"`: raise a FloatingPointError when more steps in a row are skipped.
    zero_grads: bool, default False
        Zero gradients in the pass that reads them, as zero_grad(set_to_none=False) would after the step.
    state_dtype: "float32", "bfloat16" or "float8", a dict, or callable, optional
        What states are stored as; computed is in float32. By default, as in torch, in the parameter's dtype. "bfloat16"
        takes 2 bytes an element, "float8" 1.004; docs/memory.md has the formats. A string leaves the states of
        parameters with fewer than 4,096 elements in float32. A dict has such strings by the names of states
        (`{"exp_avg": "float8", "exp_avg_sq": "bfloat16"}`), for parameters of any size; states that it does not name
        are float32. A function of (name, parameter) returns one of these, or None for the default; it is called once
        for each parameter, at construction. The name is that of `model.named_parameters()` if parameters are given
        with names, else None. Groups can have a `state_dtype` of their own. float64 parameters are a TypeError.
        `optimizer.state` and `state_dict()` show such states as copies in float32. What you write into a copy before
        the next step takes effect then.
    stochastic_rounding: bool, default False
        Round bfloat16 and float16 parameters and all states that are stored in less than float32 up or down at random
        once a step, so that the expected value is the number itself. Otherwise they are rounded to the nearest, and
        changes of less than half the distance between neighbouring numbers are lost. What is random depends on `seed`,
        the parameter's count of steps, its position among all parameters and the element's only: bits are the same from
        every backend and number of threads. Where all is float32 or float64 it changes nothing, which is no error: a
        group that is added later may use it.
    seed: int, default 0
        At least 0 and less than 2**64. State dicts hold it, and loading one takes it over.
    master_weights: bool, default False
        Keep what bfloat16 parameters cannot hold of float32 in a state of 16 bits, `param_rest`: together they are the
        float32 parameter, and updates are those of float32 parameters and states on the same gradients; the other
        states are of float32, too. See `master_params`. float32 and float64 parameters need nothing; float16 ones are a
        TypeError.
    backend: "auto", "cython", "numba", "reference" or "cuda"
        What runs the update. All backends on the CPU give the same bits. "auto" is "cuda" for parameters on a CUDA
        device, which no other backend can step.
    n_threads: int, optional
        The most threads to use; by default the smaller of `torch.get_num_threads()` and `fastopt.get_num_threads()`.
    flatten: bool, default False
        Move the parameters of each group into one buffer, and their gradients and states into others. A step is then
        one run over memory, with the least overhead. The consequences: construction replaces the parameters' memory
        (tensors that shared it no longer follow); gradients exist from the start, and `optimizer.zero_grad()` zeroes
        them and never sets them to None, so that parameters without a gradient are stepped with zeros; saving one
        parameter alone saves its whole buffer. Once gradients are replaced, as by `model.zero_grad()`, steps are those
        of `flatten=False`.
    flush_denormals: bool, default True
        Treat denormals as zero during a step, as torch.set_flush_denormal does everywhere.

    Notes
    -----
    Parameters and states are torch's own tensors. The kernels write to their memory and increase the parameters'
    version counters, so that autograd notices a parameter that was changed between forward and backward. Torch makes
    the states when a parameter has its first gradient. `state_dict()` is torch's: it loads into torch's class, and a
    state dict of torch's class loads here.

    With a torch.amp.GradScaler, the update divides gradients by its scale, and steps with infinities are skipped; the
    gradients themselves stay scaled, unless the scaler's `unscale_` was called.

    Parameters on a CUDA device are stepped there, on torch's current stream, without waiting for it, a GradScaler's
    verdict included. `step` in their states is brought up to date when `state` or `state_dict()` is read, which waits.
    See docs/cuda.md.

    The options can be read as attributes (`optimizer.max_grad_norm`), and assigning to one is an AttributeError, since
    they are fixed at construction. All other attributes are yours, as in torch, which reads `lr` and the like from
    `param_groups` alone.

    Dense float32, float64, bfloat16 and float16 parameters of any strides are updated. Steps of the last two compute in
    float32, then round parameters and states to nearest, once; new states have the parameter's dtype, as in torch.
    Parameters with gaps between their elements, and gradients whose layout differs from their parameters', are copied
    at each step, as torch copies them where it needs to. Frozen parameters may be anything: they are checked at the
    step at which they have a gradient.

    With `state_dtype`, states are made as codes, also where they do not begin with 0: they never take the memory of
    float32. Reading one decodes it, until the next step if you keep it. `flatten=True` keeps codes outside of its
    buffers, and each parameter is stepped by itself. A function for `state_dtype` is pickled with the optimizer, so
    lambdas cannot be (`copy.deepcopy` and state dicts do not mind).

    Raises
    ------
    TypeError, ValueError, RuntimeError
        What torch's class raises; and, at construction or at the step where it first appears, anything that the
        kernels cannot do: parameters or gradients on devices other than CUDA's, of other dtypes, complex or sparse,
        `differentiable=True`, `capturable=True` for parameters in main memory. The message names the parameter, and
        nothing has been changed.
    """

    spec: ClassVar[Spec]
    name: ClassVar[str]
    _init_group: Callable[..., Any]  # torch's classes have it
    _step_supports_amp_scaling = True
    in_backward = False
    states_seen = READ
    """Who can reach the states' memory: NOBODY (0), somebody who HELD something when a step last looked, or anybody who
    has READ `state` since the last step."""
    on_device = False
    _host: Host
    _stepper: Stepper
    _hooks: gradient_hooks.GradientHooks

    if TYPE_CHECKING:
        # Without this, type checkers see the constructors of torch's classes, which do not have these options.
        def __init__(self, params: torch_optimizer.ParamsT, *args: Any, **kwargs: Any) -> None: ...

    @property
    def state(self) -> defaultdict[Tensor, Any]:
        """Each parameter's states by name, as torch has them; with `state_dtype`, decoded when they are read.

        Steps that a device has counted are fetched, which waits for it. Every step checks that the states are the same
        tensors as before. The first one after this was read also checks that they have the same memory, and so do all
        later ones if anything but the optimizer then holds a state, its storage or a view.
        """
        self.states_seen = READ
        if "_stepper" in self.__dict__:  # not so in torch's constructor
            self._stepper.write_counts()
        state: defaultdict[Tensor, Any] = self.__dict__["state"]
        return state

    @state.setter
    def state(self, value: defaultdict[Tensor, Any]) -> None:
        self.__dict__["state"] = value

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if NativeOptimizer in cls.__bases__:  # with torch's class beside it
            torch_class = cls.__bases__[-1]
            cls.spec = _spec_of(torch_class)
            cls.name = cls.__qualname__ if cls.spec.custom else f"fastopt.torch.{cls.spec.name}"
            cls.__init__ = _initializer(torch_class)  # type: ignore[method-assign]

    def _set_up(
        self,
        given: dict[str, Any],
        early: Mapping[Tensor, dict[str, float]] | None = None,
        buffers: Sequence[flattening.Buffer] | None = None,
        chosen: Mapping[Tensor, state_dtypes.Chosen] | None = None,
    ) -> None:
        """Check the options and take them over, and forget everything that steps found out.

        `chosen` is what `state_dtype` says of parameters, if that is known.
        """
        self.options = {
            **read_step_options(given),
            **check_group_options({**given, "state_dtype": None}, given.get("max_grad_norm")),
            "state_dtype": state_dtypes.check(given.get("state_dtype")),
            "flatten": flag("flatten", given.get("flatten", False)),
        }
        report = NonfiniteGradients(self.options["nonfinite"], self.options["max_consecutive_skips"])
        self._given = given
        self.states_seen = READ
        self.in_backward = False
        progress = Progress.new(self.spec.common_starts(self.spec.defaults).values())
        self._host = Host(self.name, self.spec, self.options, progress, report)
        self._stepper = Stepper(self._host)
        self._hooks = gradient_hooks.GradientHooks()
        self._host.early.update(early or {})
        self._host.buffers = list(buffers or ())
        if chosen is None:
            self._take_state_dtypes(0)
        else:
            self._host.state_dtypes.update(chosen)
        self._check_devices(given.get("flush_denormals"))
        if chosen is None:
            state_dtypes.make_undecided(self._host, self.__dict__["state"], self.param_groups)
        self._flatten()

    def _take_state_dtypes(self, first: int) -> None:
        """Find out what `state_dtype` says of parameters, from this group on, and take it out of the groups."""
        for index in range(first, len(self.param_groups)):
            group, wanted = state_dtypes.taken_from(self.param_groups[index], self.options["state_dtype"])
            found = dict(state_dtypes.of_group(self.name, self.spec, group, wanted))
            self.param_groups[index] = group
            self._host.state_dtypes.update(found)

    def _check_devices(self, flush_denormals: bool | None) -> None:
        """Check that the options suit the parameters' devices, and load the backends that step them there."""
        given = [param for group in self.param_groups for param in group["params"]]
        params = [param for param in given if tensors.is_settled(param)]
        for label, param in zip(tensors.labels(self.param_groups), given, strict=True):
            if not tensors.is_settled(param):
                continue
            devices.check_backend(self.name, label, param, self.options["backend"])
            shards.check_options(self.name, label, param, self.options)
            self._host.storage(param, self.spec.defaults, label)
            if param in self._host.state_dtypes and devices.kind(param) != "cpu":
                raise NotImplementedError(
                    f"{self.name}: state_dtype is for parameters in main memory, {label} is on {param.device}, where "
                    "states have their parameter's dtype, or float32; leave it out for this parameter"
                )
            if self.options["flatten"] and devices.kind(param) != "cpu":
                raise ValueError(
                    f"{self.name}: flatten=True is for parameters in main memory, {label} is on {param.device}, where "
                    "one step of many parameters launches no more kernels than one step of a single parameter"
                )
        devices.load_backends(params, self.options["backend"], self.spec.custom, flush_denormals)
        self.on_device = all(devices.kind(param) == "cuda" for param in params or given)

    def _flatten(self) -> None:
        if self.options["flatten"]:
            with torch.inference_mode(False):  # Parameters must be usable outside of it.
                buffers = flattening.flatten(self.name, self.param_groups, self._host.buffers)
            self._host.buffers = buffers
            placed = {id(param) for buffer in buffers for param in buffer.params}
            params = (param for group in self.param_groups for param in group["params"])
            self.unplaced = [param for param in params if id(param) not in placed]
            self._make_states_early()

    def _check_groups(self, groups: list[dict[str, Any]]) -> None:
        labels = tensors.labels(groups)
        if self.spec.common:
            common.check_groups(self.name, self.spec, groups)
        for group in groups:
            hyperparameters.check_flags(self.name, group)
            hyperparameters.check_caution(self.name, self.spec, group)
            for param in group["params"]:
                label = next(labels)
                if tensors.is_settled(param):
                    tensors.check_param(self.name, label, param)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As torch's; the parameters are checked first.

        Raises
        ------
        TypeError, ValueError, RuntimeError
            Torch does, or the kernels cannot update a parameter. No group has been added.
        """
        if "_given" not in self.__dict__:  # The constructor checks all groups together.
            super().add_param_group(param_group)
            return
        self._stepper.alone(functools.partial(self._add_param_group, param_group))

    def _add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group(param_group)
        state = self.__dict__["state"]
        known = set(map(id, state))
        own = dict(self._host.state_dtypes)
        try:
            self._take_state_dtypes(len(self.param_groups) - 1)
            self._check_groups(self.param_groups)
            wrappers.check_options(self.name, self.options, self.param_groups)
            wrappers.check_sums(self.name, self.spec, self.param_groups)
            self._check_devices(self._given.get("flush_denormals"))
            self._flatten()
            if self.in_backward:
                self._hook(self.param_groups[-1:])
        except BaseException:
            self.param_groups.pop()
            self._host.state_dtypes = own
            for key in [key for key in state if id(key) not in known]:
                del state[key]
            raise

    def zero_grad(self, set_to_none: bool = True) -> None:
        """As torch's; `flatten=True` zeroes gradients in their buffers, whatever `set_to_none` says."""
        buffers = self._host.buffers
        if buffers:
            for param in self.unplaced:
                param.grad = None
            for buffer in buffers:
                buffer.zero_grad()
        elif set_to_none and not _profiler._is_profiler_enabled:
            for group in self.param_groups:
                for param in group["params"]:
                    param.grad = None
        else:
            super().zero_grad(set_to_none)

    # --- the step ---------------------------------------------------------------------------------------------------

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update every parameter that has a gradient, in one native call.

        Parameters
        ----------
        closure: callable, optional
            Evaluates the model again and returns the loss; called once, with gradients enabled.

        Returns
        -------
        loss: the closure's result; None without one

        Raises
        ------
        RuntimeError, TypeError, ValueError
            A gradient or a state is not usable; the message names the parameter. Or torch is tracing a function, and
            cannot record a native step: see `stepping.modes`. Nothing has been changed.
        FloatingPointError
            Gradients are not finite, and `nonfinite` asks for an error. Nothing has been changed.
        """
        if _is_traced():
            torch._dynamo.graph_break(msg=NO_GRAPH)  # with fullgraph=True, an error with this message
            return _untraced_step(self, closure)
        if (
            self._optimizer_step_pre_hooks
            or self._optimizer_step_post_hooks
            or torch_optimizer._global_optimizer_pre_hooks
            or torch_optimizer._global_optimizer_post_hooks
            or _profiler._is_profiler_enabled
        ):
            return _hooked_step(self) if closure is None else _hooked_step(self, closure)  # hooks see the arguments
        return _step(self, closure)

    step.hooked = True  # type: ignore[attr-defined]  # keeps torch from wrapping it: hooks are handled here

    def _advance(self) -> None:
        if _n_dispatch_modes() or _transform() is not None:
            modes.run(self.name, self.param_groups, self.__dict__["state"], self._advance)
            return
        if "found_inf" in self.__dict__ or "grad_scale" in self.__dict__ or self.options["grad_scale"] != 1:
            # A torch.amp.GradScaler sets these attributes for the time of a step; either can be None.
            if self.on_device:
                self._advance_scaled()
                return
            if getattr(self, "found_inf", None):
                self._stepper.skip(self.param_groups)
                return
            scale = getattr(self, "grad_scale", None)
            self._stepper.set_grad_scale(1.0 if scale is None else float(scale))
        if not self._stepper.step(self.param_groups, self.__dict__["state"], self.states_seen, -1):
            self._settle()
        if self.states_seen == READ:
            self.states_seen = HELD if self.in_backward or self._stepper.are_states_held(self.__dict__) else NOBODY

    def _advance_scaled(self) -> None:
        """A step with a GradScaler's numbers, which are on the device and stay there."""
        self._host.scaler = (getattr(self, "found_inf", None), getattr(self, "grad_scale", None))
        try:
            if not self._stepper.step(self.param_groups, self.__dict__["state"], self.states_seen, -1):
                self._settle()
        finally:
            self._host.scaler = (None, None)
        self.states_seen = HELD if self.in_backward else NOBODY

    def _settle(self, only: int = -1) -> None:
        self._stepper.settle(self.param_groups, self.__dict__["state"], self._init_group, only)

    # --- in the backward pass ---------------------------------------------------------------------------------------

    def step_in_backward(
        self,
        comm_hook: CommHook | None = None,
        comm_state: object = None,
        module: torch.nn.Module | None = None,
    ) -> None:
        """See `fastopt.torch.step_in_backward`, which makes an optimizer for this.

        `module` may be a DistributedDataParallel module that has the parameters. It is found without, in up to half a
        second.
        """
        gradient_hooks.check_params(self.name, self.param_groups, self.options["clip_norm"])
        self.step_after_backward()
        self._hooks = gradient_hooks.GradientHooks(comm_hook, comm_state)
        self.in_backward = True
        try:
            self._hook(self.param_groups, module)
        except BaseException:
            self.step_after_backward()
            raise

    def step_after_backward(self) -> None:
        """End what `step_in_backward` began: gradients stay, and `step()` steps them."""
        self.in_backward = False
        self._hooks.take_off()

    def _hook(self, groups: list[dict[str, Any]], module: torch.nn.Module | None = None) -> None:
        """Have the parameters of these groups stepped when their gradients are complete."""
        gradient_hooks.check_params(self.name, groups, self.options["clip_norm"])
        self._make_states_early()
        params = [param for group in self.param_groups for param in group["params"]]
        labels = dict(zip(params, tensors.labels(self.param_groups), strict=True))
        wanted = {param: labels[param] for group in groups for param in group["params"]}
        self._hooks.put_on(self.name, wanted, functools.partial(_step_one, weakref.ref(self)), self, module)

    def _position(self, param: Tensor) -> int | None:
        """A parameter's position among all groups' as they are now; None if it was taken out of them."""
        params = (each for group in self.param_groups for each in group["params"])
        return next((position for position, each in enumerate(params) if each is param), None)

    def _saved_counts(self) -> Callable[[], None]:
        """What puts the counts of steps back to what they are now; the next step finds out everything anew."""
        host, early = self._host, dict(self._host.early)
        progress, report = copy.deepcopy(host.progress), copy.copy(vars(host.report))

        def put_back() -> None:
            self._stepper.forget()
            host.early = early
            for each in fields(progress):
                getattr(host.progress, each.name)[...] = getattr(progress, each.name)
            vars(host.report).update(report)

        return put_back

    def master_params(self) -> list[Tensor]:
        """Copies of all parameters in float32, to the last bit that `master_weights=True` keeps of them.

        Returns
        -------
        copies: list of tensors
            One for each parameter of all groups. float64 parameters stay float64.

        Raises
        ------
        RuntimeError
            The optimizer has no master weights, or another thread is in the middle of a step.

        Examples
        --------
        >>> import torch
        >>> from fastopt.torch import SGD
        >>> w = torch.nn.Parameter(torch.ones(2, dtype=torch.bfloat16))
        >>> optimizer = SGD([w], lr=0.001, master_weights=True)
        >>> w.sum().backward()
        >>> optimizer.step()
        >>> w.data, optimizer.master_params()
        (tensor([1., 1.], dtype=torch.bfloat16), [tensor([0.9990, 0.9990])])
        """
        if not self.options["master_weights"]:
            raise RuntimeError(f"{self.name} has no master weights; make it with master_weights=True")
        state = self.__dict__["state"]
        params = [param for group in self.param_groups for param in group["params"]]
        return self._stepper.alone(lambda: [formats.joined(param, state.get(param, {}).get(REST)) for param in params])

    def describe(self, file: TextIO | None = None) -> None:
        """Print the exact update that the next step does, in maths, with its numbers, and how states are stored.

        Parameters
        ----------
        file: text file, optional
            Where to print; the standard output by default.

        Examples
        --------
        >>> import torch
        >>> from fastopt.torch import RMSprop
        >>> w = torch.nn.Parameter(torch.ones(5000, dtype=torch.bfloat16))
        >>> RMSprop([w], state_dtype="float8").describe()
        RMSprop, the arithmetic of PyTorch
          lr=0.01, alpha=0.99, eps=1e-08, weight_decay=0.0, momentum=0.0, centered=False, ...
        Before the first step: square_avg = 0
        Step t = 1, 2, 3, ...:
            square_avg = 0.99 * square_avg + 0.01 * grad^2
            param = param - 0.01 * grad / (sqrt(square_avg) + 1e-08)
        Stored, and rounded to the nearest once a step:
            1 parameter, 3.028 bytes an element: param bfloat16, square_avg unsigned float8
        """
        from ..definitions.describe import description  # rarely needed

        values = [hyperparameters.read_hyperparameters(self.name, self.spec, group) for group in self.param_groups]
        around = [words({**self.options, "state_dtype": None})] * len(values)
        stored = [self._stored(*each) for each in zip(self.param_groups, values, strict=True)]
        print(description(self.spec, values, around, stored), file=file)

    def _stored(self, group: dict[str, Any], values: Mapping[str, Any]) -> list[str]:
        """Lines that say how the parameters of a group that a step may update and their states are stored."""
        params = [each for each in group["params"] if tensors.is_settled(each)]
        storages = [self._host.storage(each, values) for each in params]
        states = self.spec.states(values)
        for index, param in enumerate(params):
            if param.dtype in tensors.HALVES and not self._host.makes_states(param):  # as in torch
                storages[index] = ParamStorage(dict.fromkeys(states, tensors.HALVES[param.dtype]))
        sizes = [(tensors.dtype_name(each), each.numel()) for each in params]
        return describe_storage(sizes, storages, states, self.options, self.options["seed"])

    # --- what a user reads ------------------------------------------------------------------------------------------

    @property
    def grad_norm(self) -> float:
        """The norm of the gradients in the last step with `max_grad_norm`; NaN before. Unscaled, before clipping."""
        return float(self._host.progress.grad_norm[0])

    @property
    def skipped_steps(self) -> int:
        """The number of steps that `nonfinite="skip"` has skipped."""
        return self._host.report.skipped

    @property
    def nonfinite_counts(self) -> dict[str, int]:
        """The number of unusable elements by gradient, in the last step that was skipped."""
        return dict(self._host.report.counts)


def _fixed_option(name: str) -> Fixed:
    """An option as an attribute; an assignment to it would otherwise be ignored."""
    return Fixed(lambda optimizer: optimizer.options[name], name)


for _name in OPTIONS:
    setattr(NativeOptimizer, _name, _fixed_option(_name))


def _step_one(reference: weakref.ref[NativeOptimizer], param: Tensor) -> bool:
    """Step a parameter whose gradient is complete; whether it is still one of the optimizer's."""
    optimizer = reference()
    if optimizer is None or param.grad is None:
        return False
    if modes.is_observed():
        group, state = {"params": [param]}, optimizer.__dict__["state"]
        done: list[bool] = []
        modes.run(optimizer.name, [group], state, lambda: done.append(_step_one(reference, param)))
        return any(done)
    stepper = optimizer._stepper
    position = stepper.position(param)
    if position is None or not stepper.step(
        optimizer.param_groups, optimizer.__dict__["state"], optimizer.states_seen, position
    ):
        position = optimizer._position(param)  # It can have another position by now, or none.
        if position is None:
            return False
        optimizer._settle(position)
    return True


_profiler: Any = torch.autograd.profiler


def _step(self: NativeOptimizer, closure: Callable[[], float] | None = None) -> float | None:
    loss = None
    if closure is not None:
        with torch.enable_grad():
            loss = closure()
    self._advance()
    return loss


_n_dispatch_modes, _transform = modes.n_dispatch_modes, modes.transform

_hooked_step = torch.optim.Optimizer.profile_hook_step(_step)
_is_traced = torch.compiler.is_dynamo_compiling


@torch._disable_dynamo  # type: ignore[attr-defined]
def _untraced_step(self: NativeOptimizer, closure: Callable[[], float] | None) -> float | None:
    """The step in a function under torch.compile, which cannot look into it."""
    return self.step(closure)


def _spec_of(torch_class: type) -> Spec:
    spec: Spec = torch_class.__dict__.get("spec") or SPECS[torch_class.__name__]
    return spec


def _initializer(torch_class: type) -> Callable[..., None]:
    """The constructor of torch's class, with the options of this module after its arguments."""
    signature = inspect.signature(torch_class.__init__)  # type: ignore[misc]
    spec = _spec_of(torch_class)
    beside = tuple(name for name in CAUTION if name in spec.defaults and name not in signature.parameters)

    def __init__(self: NativeOptimizer, *args: Any, **kwargs: Any) -> None:
        given = {name: kwargs.pop(name) for name in OPTIONS if name in kwargs}
        _check_convention(self, kwargs.pop("convention", "torch"))
        own = {name: flag(name, kwargs.pop(name)) for name in beside if name in kwargs}
        makes_states = torch_class is torch.optim.Adagrad and state_dtypes.is_given(given, *args[:1])
        with state_dtypes.Undecided() if makes_states else contextlib.nullcontext():
            torch_class.__init__(self, *args, **kwargs)  # type: ignore[misc]
        if own:  # without, groups and state dicts are torch's
            self.defaults.update(own)
            for group in self.param_groups:
                group.update({**own, **group})
        self._check_groups(self.param_groups)
        wrappers.check_options(self.name, given, self.param_groups)
        wrappers.check_sums(self.name, self.spec, self.param_groups)
        self._set_up(given)

    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default)
        for name, default in {**dict.fromkeys(beside, False), **OPTIONS}.items()
    ]
    __init__.__signature__ = signature.replace(parameters=[*signature.parameters.values(), *added])  # type: ignore[attr-defined]
    return __init__


def _check_convention(optimizer: NativeOptimizer, convention: Any) -> None:
    if convention != "torch":
        raise ValueError(
            f"{optimizer.name} follows torch.optim: convention must be 'torch', got {convention!r} "
            f"(fastopt.{optimizer.spec.name}, over NumPy arrays, has others)"
        )
