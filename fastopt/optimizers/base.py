"""The base class of all optimizers: everything that a user can do with one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from ..checks import above_zero, flag, whole_number
from ..definitions import conventions
from ..definitions.specs import SPECS, Spec
from ..kernels import backends
from ..kernels.engine.contract import Replaced
from ..state.arrays import is_device_array
from ..state.construction import Construction, read_arguments
from ..state.contents import Contents
from ..state.gradients import fill_with_zeros
from ..state.groups import Changes, ParamGroup, check_key
from ..state.param_tree import read_group
from ..state.states import StateView
from ..step.operations import extra_states
from ..step.options import GROUP_OPTIONS, Options, positive_or_none, words
from ..step.param_storage import ParamStorage, check_backend, describe_storage
from ..step.rates import current_rate, warn_without_effect
from ..step.storage import REST
from .engine_room import EngineRoom

if TYPE_CHECKING:
    from ..state.param_settings import ParamSettings, Select


class Optimizer:
    """The base class of all optimizers. Use one of its subclasses, which share these arguments:

    Parameters
    ----------
    params: numpy.ndarray, list or dict of them, or list of groups
        The parameters, which `step` updates in place: C-contiguous arrays, all float64, or of float32, bfloat16
        (ml_dtypes.bfloat16) and float16 in any mixture; none overlapping another. They are not copied. Lists, tuples
        and dicts can be nested. A group is a dict with "params" (as above) and its own hyperparameters. With
        `backend="cuda"` or "auto", parameters can be on a CUDA device: any object with `__cuda_array_interface__`, of
        float32, float64 or float16.
    maximize: bool
        Step up the gradient instead of down.
    grads: as `params`, optional
        Gradients to bind once: `step()` then reads these arrays each time, with the least overhead. None for a
        parameter that never has a gradient.
    grad_scale: float, default 1
        Gradients are divided by it before anything else, for scaled losses. `opt.grad_scale` can be changed between
        steps.
    accumulate_steps: int, default 1
        Number of `step` calls whose gradients are averaged into one update. See also `apply_accumulated` and
        `drop_accumulated`.
    max_grad_norm: float, optional
        Gradients are scaled down so that their common L2 norm is at most this, as by torch.nn.utils.clip_grad_norm_.
        The norm is added up in float64 in one pass over the gradients, and scaling is part of the update: gradients
        are not rewritten. `opt.grad_norm` is the last norm. `inf` measures without clipping.
    clip_norm: float, optional
        The same for the gradient of each parameter by itself. Also an option of a group.
    clip_value: float, optional
        Each element of a gradient is limited to [-clip_value, clip_value]. Also an option of a group. Give at most one
        of the three ways of clipping.
    nonfinite: "propagate" (default), "skip" or "raise"
        What a gradient does that is NaN, infinite, or, if the optimizer squares it, too large to be squared.
        "propagate": it is used like any other. "skip": nothing is updated, no parameter, state or step count; the step
        is counted in `opt.skipped_steps` and `opt.nonfinite_counts`. "raise": likewise, with a FloatingPointError that
        names the gradients. Checking reads gradients once more, unless a norm is taken anyway.
    max_consecutive_skips: int, optional
        With `nonfinite="skip"`: a FloatingPointError is raised when more steps in a row are skipped.
    ema_decay: float, optional
        Keeps an exponential moving average of the parameters, as Keras does from the first step on:
        average = ema_decay * average + (1 - ema_decay) * p. It is `opt.state[i]["param_average"]`; see
        `averaged_params`.
    ema_warmup: bool, default False
        The decay in a parameter's update t = 1, 2, ... is (1 + t) / (10 + t) for as long as that is less than
        `ema_decay`, as in TensorFlow's averages with `num_updates`, and in thinc.
    ema_overwrite_frequency: int, optional
        Number of steps after which the parameters are set to their average, again and again.
    zero_grads: bool, default False
        Fill gradients with zeros once they have been read, also when the step is skipped, but not when it raises.
    state_dtype: "float32", "bfloat16" or "float8", or dict, optional
        How the states of parameters that are not float64 are stored: in float32 by default, in 2 bytes an element, or
        in 1 (8 bits and a common exponent for 256 elements). A dict says it by the name of the state,
        `{"exp_avg": "float8", "exp_avg_sq": "bfloat16"}`; others stay float32. Without names, parameters of fewer than
        4,096 elements keep float32 states. States of `accumulate_steps` and `ema_decay`, those of Rprop, and RMSprop's
        averages with `centered=True` are always float32. Fixed at construction. Also an option of a group. See
        docs/memory.md.
    stochastic_rounding: bool, default False
        Round bfloat16 and float16 parameters, and all states that `state_dtype` stores in fewer bits, up or down at
        random once a step, so that the expected value is the number itself. Otherwise they are rounded to the nearest.
        What is random depends on `seed`, the count of updates, and the positions of parameter and element only: the
        bits are the same from every backend and number of threads. Where all is float32 or float64 it changes nothing.
    seed: int, default 0
        At least 0 and less than 2**64. State dicts hold it, and loading one takes it over.
    master_weights: bool, default False
        Keep what bfloat16 parameters cannot hold of float32 in a state of 16 bits, `param_rest`: together they are the
        float32 parameter, and updates are those of float32 parameters on the same gradients, to the bit. See
        `master_params`. float32 and float64 parameters need nothing; float16 ones are a TypeError.
    prox, projection: see `fastopt.constraints`, optional
        A penalty on the parameters, and a set that they are projected onto, after each update. Also options of a group.
    backend: "auto" (default), "cython", "numba", "reference" or "cuda"
        What runs the update. "auto" is "cuda" for parameters on a CUDA device (see docs/cuda.md), otherwise "cython",
        or "numba" where the compiled module was not built. "reference" is plain NumPy, for checking. All backends on
        the processor give the same bits.
    n_threads: int, optional
        The largest number of threads, `fastopt.get_num_threads()` by default. Results do not depend on it.
    convention: "torch" (default), "keras", "tf1", "tf_keras_legacy" or "optax"
        The framework whose arithmetic and defaults are used: PyTorch, Keras 3, TensorFlow 1, legacy Keras or optax.
        Arguments keep PyTorch's names. See docs/conventions.md and `describe`.
    decay: float, default 0, with `convention="tf_keras_legacy"`
        The rate is lr / (1 + decay * iterations); the first step is not decayed.
    flush_denormals: bool, default True
        Treat denormal numbers as zero during a step; the caller's floating-point mode is restored. Otherwise the
        moments of parameters whose gradients are zero decay to denormals, which make a step up to ten times slower.
        On processors other than x86-64 and AArch64 it is not known how: there the default does nothing, and True that
        is given is a NotImplementedError.

    Notes
    -----
    The `lr` of an optimizer or a group is a number, or a function of the number of updates so far, 0 at first: one of
    `fastopt.schedules` or your own. The function is called before anything is written, so an error in it changes
    nothing. `current_lr` is the rate of the next update. Numbers can be arrays without dimensions of any library; their
    value is taken at once.

    Options and hyperparameters are no attributes of an optimizer: `opt.lr = 0.1` raises an AttributeError that says
    where it is set. Other attributes are yours.

    `copy.deepcopy` and pickles have parameters of their own: copy an optimizer together with your arrays,
    `copy.deepcopy((opt, params))`, to keep them together. `copy.copy` has the same parameters, and states, options and
    groups of its own.

    A step does everything in one pass over memory, in this order, which is that of Keras 3: divide by `grad_scale`,
    accumulate, clip, decay weights, update, average, `prox`, `projection`, zero the gradients.

    Raises
    ------
    TypeError, ValueError
        An argument is not usable. The message names it, its value, and what was expected. Nothing has been changed.
    """

    spec: Spec
    """Which optimizer this is, under its convention; for a class, under PyTorch's."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.__name__ in SPECS and "spec" not in cls.__dict__:
            cls.spec = SPECS[cls.__name__]

    def __init__(self, params: Any, defaults: Mapping[str, Any], options: Options) -> None:
        self._construct(read_arguments(type(self).__name__, self.spec, params, defaults, options))
        backends.check_flush(self._room.backend, options.get("flush_denormals"))
        for group in self.param_groups:
            warn_without_effect(self.spec, group["lr"])

    def _construct(
        self, given: Construction, unpickled: bool = False, storages: list[ParamStorage] | None = None
    ) -> None:
        options, defaults = given.options, given.defaults
        self.spec = spec = conventions.under(type(self).spec, options["convention"])
        backend = backends.load(backend_of(options["backend"], given.groups), spec.custom)
        of_groups = {name: defaults[name] for name in GROUP_OPTIONS if name in defaults}
        self.defaults = {**spec.convert({**spec.defaults, **defaults}), **of_groups}
        changes = Changes(options["max_grad_norm"])
        groups = [ParamGroup(spec, params, values, changes) for params, values in given.groups]
        check_backend(backend, groups, options)
        contents = Contents.new(spec, options, given.tree, groups, backend.memory, given.gradients, unpickled, storages)
        self._changes = changes
        self._room = EngineRoom(backend, contents, changes)

    if not TYPE_CHECKING:  # type checkers would take any name for an attribute
        # There is no `__getattr__` with such advice: it would slow down every look-up of an attribute.

        def __setattr__(self, name: str, value: Any) -> None:
            reason = None if name in ("spec", "defaults") else self._refusal(name)
            if reason is not None:
                raise AttributeError(reason, name=name, obj=self)
            object.__setattr__(self, name, value)

    def _refusal(self, name: str) -> str | None:
        """Why there can be no attribute of this name; None if it is the user's own affair."""
        cls = type(self)
        spec = getattr(self, "spec", None)  # not by `__dict__`: once asked for, it makes all look-ups slower
        if name.startswith("_") or spec is None:
            return None
        from ..step import attributes  # rarely needed

        return attributes.refusal(cls, spec, name, strict="spec" in cls.__dict__)

    @property
    def _contents(self) -> Contents:
        return self._room.contents

    # --- steps ------------------------------------------------------------------------------------------------------

    def step(self, grads: Any = None) -> None:
        """Update every parameter that has a gradient, in place.

        One native call updates all parameters, with the GIL released, on as many threads as make it faster. Parameters
        whose gradient is None are left as they are, step count included.

        Parameters
        ----------
        grads: as the parameters were given
            Arrays of the parameters' shapes and dtype (those of bfloat16 and float16 parameters can be float32 as
            well), C-contiguous and without masks, nested as the parameters are; or a list with one such entry for each
            group. For a parameter without dimensions also a NumPy scalar. Not given when gradients were bound with
            `grads=` at construction.

        Raises
        ------
        TypeError, ValueError
            A gradient is not usable. Nothing has been changed.
        RuntimeError
            Another thread is in the middle of a step of this optimizer, or the memory of a parameter was replaced.
        """
        try:
            if grads is None:
                ready_step = self._changes.ready_step
                if ready_step is not None:  # the shortest way
                    ready_step()
                    return
            room, changes = self._room, self._changes
            if changes.pending:
                room.refresh()
            engine = room.engine
            if grads is None:
                if not engine.bound:
                    raise TypeError("step() needs gradients: pass them, or bind them with grads= at construction")
                leaves = None
            else:
                if engine.bound:
                    raise TypeError("gradients are bound to this optimizer; call step() without any")
                leaves = room.flatten(grads)
            engine.step(leaves, room.set_rates if changes.rates else None)
            return
        except Replaced:  # by another thread, since the engine was found
            pass
        self.step(grads)

    def apply_accumulated(self) -> bool:
        """Do an update by the gradients that `accumulate_steps` has accumulated, without waiting for the rest.

        Call this at the end of an epoch whose number of calls is no multiple of `accumulate_steps`; otherwise the
        leftover gradients are part of the next epoch's first update. After j of k calls, the update is by the mean of
        the gradients of these j calls. It is an update like all others: it clips, averages, counts in `iterations`, and
        the next accumulation starts from zero. The mean is k / j times what was accumulated, in float32, or in
        float64 for float64 parameters.

        Returns
        -------
        updated: bool
            Whether parameters were updated: False where nothing was accumulated since the last update (always so
            without `accumulate_steps`), and where `nonfinite="skip"` skipped the update.

        Raises
        ------
        FloatingPointError
            `nonfinite` asks for an error. Nothing has been changed.
        RuntimeError
            Another thread is in the middle of a step, or the averages are swapped in. Nothing has been changed.

        Examples
        --------
        >>> import numpy as np, fastopt
        >>> w = np.zeros(1)
        >>> opt = fastopt.SGD(w, lr=1.0, accumulate_steps=4)
        >>> opt.step(np.array([1.0])); opt.step(np.array([3.0]))
        >>> opt.apply_accumulated(), w.item()
        (True, -2.0)
        >>> opt.apply_accumulated()
        False
        """
        if self._changes.pending:
            self._room.refresh()
        return self._room.apply_accumulated()

    def drop_accumulated(self) -> None:
        """Forget the gradients that `accumulate_steps` has accumulated since the last update.

        Parameters, states and step counts stay as they are, and the next accumulation starts from zero. Without
        `accumulate_steps` there is nothing to do.

        Raises
        ------
        RuntimeError
            Another thread is in the middle of a step. Nothing has been changed.

        Examples
        --------
        >>> import numpy as np, fastopt
        >>> w = np.zeros(1)
        >>> opt = fastopt.SGD(w, lr=1.0, accumulate_steps=2)
        >>> opt.step(np.array([100.0]))
        >>> opt.drop_accumulated()
        >>> opt.step(np.array([1.0])); opt.step(np.array([3.0]))
        >>> w
        array([-2.])
        """
        self._room.drop_accumulated()

    def zero_grad(self) -> None:
        """Fill the bound gradients with zeros.

        What `accumulate_steps` has accumulated of earlier gradients stays; `drop_accumulated` forgets it.

        Raises
        ------
        RuntimeError
            No gradients are bound: those passed to `step` are the caller's.
        ValueError
            A bound gradient is read-only.
        """
        if self._contents.gradients is None:
            raise RuntimeError("zero_grad() needs gradients bound with grads= at construction; there are none")

        def fill() -> None:
            contents = self._contents
            fill_with_zeros(contents.params, contents.gradients or ())

        self._room.engine.alone(fill)

    def apply_changes(self) -> None:
        """Take over now what was assigned to `param_groups` and the like, not in the next call of `step`.

        This is for CUDA graphs: replaying a captured step calls no Python that could look at what was assigned. The new
        values are sent to the device on `stream`. A rate that is a function is called for the next update; for that,
        the count of updates is fetched from the device.

        Raises
        ------
        RuntimeError
            What was assigned needs other kernels than those that were captured (`amsgrad`, turning a `projection` on),
            or another thread is in the middle of a step.

        Examples
        --------
        >>> import numpy as np, fastopt
        >>> opt = fastopt.SGD(np.zeros(3), lr=1.0)
        >>> opt.param_groups[0]["lr"] = 0.5
        >>> opt.apply_changes()
        """
        room = self._room
        if room.is_scheduled:
            room.engine.fetch()
        if room.is_outdated:
            raise RuntimeError(
                "apply_changes(): what was assigned changes what a step does, not only its numbers, which a graph that "
                "was captured before cannot follow; call step(), and capture again"
            )
        room.refresh()
        room.engine.upload()

    @property
    def iterations(self) -> int:
        """The number of updates so far: what schedules are functions of.

        Calls that only accumulate gradients and steps that are skipped do not count. It can be set, to a whole number
        from 0: schedules then go on from there. The "step" in each parameter's state, which bias corrections are
        functions of, stays as it is.
        """
        self._room.engine.fetch()
        return self._room.iterations

    @iterations.setter
    def iterations(self, value: int) -> None:
        self._room.set_iterations(whole_number("iterations", value, least=0, bits=53))

    @property
    def current_lr(self) -> tuple[float, ...]:
        """For each group the rate of its next update: with the schedule, and with `decay` and `lr_decay`.

        Where the parameters of a group have had different numbers of updates, `lr_decay` counts the largest. The
        `lr_scale` of single parameters comes on top; see `segments`.
        """
        iteration, contents = self.iterations, self._contents
        counts = [contents.records.steps[span.start : span.stop] for span in contents.params.spans]
        return tuple(
            current_rate(self.spec, group, iteration, 1 + int(max(steps, default=0)))
            for group, steps in zip(contents.groups, counts, strict=True)
        )

    # --- options that can change, and what steps found ----------------------------------------------------------------

    @property
    def grad_scale(self) -> float:
        """The number that gradients are divided by; an assignment counts from the next step."""
        scale: float = self._contents.options["grad_scale"]
        return scale

    @grad_scale.setter
    def grad_scale(self, value: float) -> None:
        self._contents.options["grad_scale"] = above_zero("grad_scale", value)
        self._changes.pending = True
        self._changes.ready_step = None

    @property
    def max_grad_norm(self) -> float | None:
        """The largest norm of all gradients together. It can be changed between steps, not turned on or off."""
        norm: float | None = self._contents.options["max_grad_norm"]
        return norm

    @max_grad_norm.setter
    def max_grad_norm(self, value: float) -> None:
        norm = positive_or_none("max_grad_norm", value)
        if (norm is None) != (self.max_grad_norm is None):
            raise ValueError(
                f"max_grad_norm cannot be turned on or off after construction (it is {self.max_grad_norm!r}), "
                f"got {value!r}; construct with max_grad_norm=math.inf to measure without clipping"
            )
        self._contents.options["max_grad_norm"] = self._changes.max_grad_norm = norm
        self._changes.pending = True
        self._changes.ready_step = None

    @property
    def grad_norm(self) -> float:
        """The norm of all gradients in the last update, after division by `grad_scale`; NaN before the first, and
        without `max_grad_norm`."""
        self._room.engine.fetch()
        return float(self._contents.progress.grad_norm[0])

    @property
    def skipped_steps(self) -> int:
        """The number of steps that `nonfinite="skip"` skipped because of their gradients."""
        self._room.engine.fetch()
        return self._contents.report.skipped

    @property
    def consecutive_skips(self) -> int:
        """The number of steps in a row that were skipped up to now."""
        self._room.engine.fetch()
        return self._contents.report.consecutive_after(int(self._contents.progress.calls[0]))

    @property
    def nonfinite_counts(self) -> dict[str, int]:
        """For the last step that was skipped or raised, the number of unusable elements in each gradient with some."""
        self._room.engine.fetch()
        return dict(self._contents.report.counts)

    @property
    def backend(self) -> str:
        """The name of the backend that runs this optimizer."""
        name: str = self._room.backend.name
        return name

    @property
    def stream(self) -> Any:
        """The CUDA stream that steps run on, with `backend="cuda"`; it can be set between steps.

        At first it is 0, the default stream. It can be set to the address of a stream, which is `cuda_stream` of
        torch.cuda.Stream and `ptr` of cupy.cuda.Stream, to an object with `__cuda_stream__`, or to a Numba stream.
        Gradients must be complete on that stream, or the stream must wait for them.

        Raises
        ------
        AttributeError
            Steps of this backend do not run on a device.
        TypeError
            The value is not a stream.
        """
        self._check_has_stream()
        return self._room.engine.stream

    @stream.setter
    def stream(self, value: Any) -> None:
        self._check_has_stream()
        self._room.engine.alone(lambda: setattr(self._room.engine, "stream", value))

    def _check_has_stream(self) -> None:
        if not self._room.backend.on_device:
            raise AttributeError(
                f"stream: steps of backend={self._room.backend.name!r} run on the processor, only those of "
                "backend='cuda' run on a stream"
            )

    # --- groups, single parameters, states ----------------------------------------------------------------------------

    @property
    def param_groups(self) -> tuple[ParamGroup, ...]:
        """The groups: dicts of "params" and hyperparameters. Assignments are checked, and count from the next step."""
        return tuple(self._contents.groups)

    def add_param_group(self, param_group: Mapping[str, Any], *, grads: Any = None) -> None:
        """Add a group. Hyperparameters that it does not give are those of the optimizer.

        From then on gradients are a list with one entry for each group.

        Parameters
        ----------
        param_group: dict
            With "params" and any hyperparameters.
        grads: as the group's "params"
            Its gradients, if the optimizer's gradients are bound.
        """
        tree, given, values = read_group(param_group, len(self._contents.groups))
        for key in values:
            check_key(self.spec, key)
        bound, added = self._contents.gradients is not None, None
        if bound:
            if grads is None:
                raise TypeError("gradients are bound to this optimizer; give the new group's with grads=")
            added = tree.flatten(grads)
        elif grads is not None:
            raise TypeError("no gradients are bound to this optimizer; pass the new group's to step()")
        group = ParamGroup(self.spec, given, {**self.defaults, **values}, self._changes)
        warn_without_effect(self.spec, group["lr"])

        def with_group(contents: Contents) -> Contents:
            gradients = None if added is None else [*(contents.gradients or ()), *added]
            return contents.with_group(tree, group, gradients)

        self._room.replace(with_group)

    @property
    def segments(self) -> tuple[ParamSettings, ...]:
        """The settings of each parameter beyond its group: `lr_scale`, `weight_decay`, `frozen`; see `set_segments`."""
        from ..state.param_settings import describe_settings

        return describe_settings(self._contents.settings, self._contents.params.names)

    def set_segments(self, which: Select, *, lr_scale: Any = ..., weight_decay: Any = ..., frozen: Any = ...) -> None:
        """Set the settings of single parameters; they count from the next step, which is still one native call.

        Parameters
        ----------
        which: name, position, list of them, mask, or function
            Parameters by their keys in the dict in which they were given, or by their positions among all parameters;
            a bool for each parameter; or a function of (name, array) that returns one.
        lr_scale: float
            A factor for the group's lr, at least 0.
        weight_decay: float or None
            Used in place of the group's. None goes back to the group's.
        frozen: bool
            Frozen parameters are neither updated nor averaged. Their gradients are not read, and are not part of norms.

        Raises
        ------
        TypeError, ValueError
            No parameter is meant, or a value is not usable. Nothing has been changed.

        Notes
        -----
        State dicts do not hold these settings, as they hold nothing that belongs to construction. Pickles and deep
        copies do.

        Examples
        --------
        >>> import numpy as np, fastopt
        >>> opt = fastopt.AdamW({"W": np.ones((2, 2)), "b": np.ones(2)}, weight_decay=0.1)
        >>> opt.set_segments(lambda name, param: param.ndim < 2, weight_decay=0)
        >>> [each.weight_decay for each in opt.segments]
        [None, 0.0]
        """
        from ..state.param_settings import check_values, select_params

        values = check_values(self.spec, lr_scale, weight_decay, frozen)
        params = self._contents.params
        positions = select_params(which, params.names, params.given)
        self._room.set_segments(positions, values)

    @property
    def state(self) -> StateView:
        """For each parameter, by its position, its states by torch's names, as arrays of the parameter's shape.

        The arrays are the memory that the kernels use. "step" is the number of steps that the parameter has had.
        States that `state_dtype` has stored in fewer bits are shown as copies in float32, which are read-only.
        """
        contents = self._contents
        return StateView(
            self.spec,
            contents.states,
            contents.params.arrays,
            contents.storages,
            contents.records,
            self._room.engine.fetch,
        )

    def master_params(self) -> Any:
        """Copies of the parameters in float32, to the last bit that `master_weights=True` keeps of them.

        Returns
        -------
        copies: as the parameters were given
            numpy.ndarray of float32 and of the parameters' shapes; with groups, a list with one entry for each.

        Raises
        ------
        RuntimeError
            The optimizer has no master weights, another thread is in the middle of a step, or the averages are swapped
            in.

        Examples
        --------
        >>> import ml_dtypes, numpy as np, fastopt
        >>> w = np.ones(3, ml_dtypes.bfloat16)
        >>> opt = fastopt.SGD(w, lr=0.001, master_weights=True)
        >>> opt.step(np.ones(3, np.float32))
        >>> w.astype(np.float32), opt.master_params()
        (array([1., 1., 1.], dtype=float32), array([0.999, 0.999, 0.999], dtype=float32))
        """
        if not self._contents.options["master_weights"]:
            raise RuntimeError("there are no master weights; construct the optimizer with master_weights=True")
        from ..state import coded  # rarely needed

        def copied() -> Any:
            self._room.check_readable()
            contents = self._contents
            copies = [
                coded.joined(param, states[REST]) if storage.split else contents.params.memory.to_host(param)
                for param, states, storage in zip(
                    contents.params.arrays, contents.states, contents.storages, strict=True
                )
            ]
            return contents.params.tree.unflatten(copies)

        return self._room.engine.alone(copied)

    # --- averages -----------------------------------------------------------------------------------------------------

    def swap_averages(self) -> None:
        """Exchange the parameters with their averages, in place; a second call changes them back.

        In between, `step`, `state_dict` and the like raise a RuntimeError. See `averaged_params` for a `with` block.

        Raises
        ------
        RuntimeError
            There are no averages (no `ema_decay`).
        """
        if self._contents.options["ema_decay"] is None and self.spec.average is None:
            raise RuntimeError("there are no averages to swap in; construct the optimizer with ema_decay=")
        self._room.swap()

    @property
    def averages_swapped_in(self) -> bool:
        """Whether the parameters are their averages now."""
        return bool(self._contents.progress.swapped[0])

    @contextlib.contextmanager
    def averaged_params(self) -> Iterator[None]:
        """A block in which the parameters are their averages, for evaluation.

        Examples
        --------
        >>> import numpy as np, fastopt
        >>> p = np.zeros(1)
        >>> opt = fastopt.SGD(p, lr=1.0, ema_decay=0.5)
        >>> opt.step(np.array([-1.0])); opt.step(np.array([-2.0]))
        >>> with opt.averaged_params():
        ...     print(p)
        [2.]
        >>> p
        array([3.])
        """
        self.swap_averages()
        try:
            yield
        finally:
            self.swap_averages()

    # --- saving -------------------------------------------------------------------------------------------------------

    def state_dict(self, *, encoded: bool = False) -> dict[str, Any]:
        """A copy of all states and hyperparameters, in torch's form, with NumPy arrays where torch has tensors.

        Classes of torch.optim load it as it is, with copies of the arrays as tensors. docs/options.md says what it
        holds.

        Parameters
        ----------
        encoded: bool, default False
            What to save of states that `state_dtype` has stored in fewer bits: False for float32, as all others are;
            True for a dict of the name of the "codec", the "shape", and the "codes". Both load into an optimizer with
            any `state_dtype`.

        See Also
        --------
        load_state_dict : takes this back, or a state dict of the torch.optim class of the same name.
        """
        from ..state import state_dicts  # slow to load, and often not needed

        def saved() -> dict[str, Any]:
            self._room.check_readable()
            self._room.engine.fetch()
            return state_dicts.save(self._contents, encoded=flag("encoded", encoded))

        found: dict[str, Any] = self._room.engine.alone(saved)
        return found

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over states and hyperparameters from a state dict of this class, fastopt's or torch's.

        Parameters that have names on both sides (keys of a dict here, `param_names` in the state dict's groups) are
        matched by name, others by position. Keys of states may have become strings. A schedule that this optimizer was
        constructed with goes on where the other was, scaled as that was. A state that was not saved starts as in a new
        optimizer, at the next update.

        Raises
        ------
        TypeError, ValueError
            It does not fit: other groups, names, shapes, dtypes or states; it was saved between accumulated steps of
            another number; or a schedule was assigned after construction, which this optimizer does not have. Nothing
            has been changed.

        Examples
        --------
        >>> import numpy as np, fastopt
        >>> opt = fastopt.SGD({"W": np.ones(2), "b": np.zeros(1)}, lr=0.5, momentum=0.9)
        >>> opt.step({"W": np.ones(2), "b": np.full(1, 3.0)})
        >>> other = fastopt.SGD({"b": np.zeros(1), "W": np.ones(2)}, lr=0.1, momentum=0.9)
        >>> other.load_state_dict(opt.state_dict())
        >>> other.state[0]["momentum_buffer"], other.param_groups[0]["lr"]
        (array([3.]), 0.5)
        """
        from ..state import state_dicts  # slow to load, and often not needed

        def loaded(contents: Contents) -> Contents:
            return state_dicts.load(contents, state_dicts.read(contents, state_dict))

        self._room.replace(loaded, even_if_shown=True)

    def __getstate__(self) -> dict[str, Any]:
        if not self._room.backend.memory.PICKLES:
            raise TypeError(
                f"{type(self).__name__} with backend={self._room.backend.name!r} cannot be pickled or copied: its "
                "parameters are in the memory of a device. Save state_dict(), which is in main memory, and the "
                "parameters apart"
            )
        from . import pickling  # loads what state dicts need; often not needed

        def saved() -> dict[str, Any]:
            self._room.check_readable()
            self._room.engine.fetch()
            return pickling.held(self._contents, self.defaults)

        found: dict[str, Any] = self._room.engine.alone(saved)
        return found

    def __setstate__(self, state: dict[str, Any]) -> None:
        from . import pickling  # loads what state dicts need; often not needed

        self._construct(pickling.construction(state), unpickled=True, storages=state.get("storages"))
        self._room.build(pickling.restored(self._contents, state))

    def __copy__(self) -> Optimizer:
        """An optimizer of the same parameters, which stay as they are, with states, options and groups of its own."""
        copied: Optimizer = type(self).__new__(type(self))
        copied.__setstate__({**self.__getstate__(), "params": ()})
        return copied

    # --- text ---------------------------------------------------------------------------------------------------------

    def describe(self, file: TextIO | None = None) -> None:
        """Print the exact update that the next step does, in maths, with its numbers; and how PyTorch's differs.

        It is read from the rule that runs, for each group, and simplified as in exact arithmetic.

        Parameters
        ----------
        file: text file, optional
            Where to print; the standard output by default.

        Examples
        --------
        >>> import numpy as np, fastopt
        >>> fastopt.RMSprop(np.zeros(3), lr=0.01, convention="keras").describe()
        RMSprop, the arithmetic of Keras 3: RMSprop
          lr=0.01, alpha=0.9, eps=1e-07, weight_decay=0.0, momentum=0.0, centered=False, ...
        Before the first step: square_avg = 0
        Step t = 1, 2, 3, ...:
            square_avg = 0.9 * square_avg + 0.1 * grad^2
            param = param - 0.01 * grad / sqrt(square_avg + 1e-07)
        PyTorch, with the same hyperparameters, does instead:
            param = param - 0.01 * grad / (sqrt(square_avg) + 1e-07)
        Defaults that differ from PyTorch's (in brackets): lr 0.001 (0.01), alpha 0.9 (0.99), eps 1e-07 (1e-08), ...
        """
        from ..definitions.describe import description  # rarely needed

        contents = self._contents
        groups = contents.groups
        around = [words({**contents.options, **group}) for group in groups]
        stored = [self._stored(index) for index in range(len(groups))]
        print(description(self.spec, groups, around, stored), file=file)

    def _stored(self, index: int) -> list[str]:
        """Lines that say how the parameters of a group and their states are stored."""
        contents = self._contents
        group, span = contents.groups[index], contents.params.spans[index]
        params = [(param.dtype.name, param.size) for param in contents.params.of_group(index)]
        states = (*contents.spec.states(group), *extra_states(contents.options))
        storages = contents.storages[span.start : span.stop]
        return describe_storage(params, storages, states, contents.options, contents.seed)

    def __repr__(self) -> str:
        lines = [f"{type(self).__name__} ("]
        for index, group in enumerate(self._contents.groups):
            lines.append(f"Parameter Group {index}")
            shown = [key for key in sorted(group) if key not in ("params", *GROUP_OPTIONS) or group[key] is not None]
            lines += [f"    {key}: {group[key]}" for key in shown if key != "params"]
        return "\n".join([*lines, ")"])


def backend_of(name: str, groups: Sequence[tuple[Sequence[Any], Any]]) -> str:
    """The name of a backend that "auto" stands for: nothing but cuda can run parameters on a device."""
    if name == "auto":
        for params, _ in groups:
            if params:
                return "cuda" if is_device_array(params[0]) else name
    return name
