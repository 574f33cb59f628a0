"""The base of all optimizers: what users call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TextIO

from ..checks import above_zero
from ..kernels.engine.contract import SegmentRecords, SegmentSettings
from ..state.groups import ParamGroup, check_key
from ..state.param_settings import ParamSettings, Select, check_values, describe_settings, select_params
from ..state.param_tree import Layout, read_group
from ..state.states import StateView
from ..step.options import GROUP_OPTIONS, positive_or_none
from ..step.rates import warn_without_effect
from .averages import AveragingOptimizer


class Optimizer(AveragingOptimizer):
    """What all optimizers share. Use one of its subclasses; their arguments beyond the hyperparameters are:

    Parameters
    ----------
    params: numpy.ndarray, list or dict of them, or list of groups
        C-contiguous float32 or float64 arrays (all of one dtype, none overlapping), updated in place. A group is a dict
        with "params" (an array, a list or a dict) and hyperparameters of its own. The arrays are not copied. With
        `backend="cuda"` or "auto" they can be on a CUDA device: anything with `__cuda_array_interface__`.
    maximize: bool
        Step up the gradient, not down.
    grads: as `params`, optional
        Gradients bound once: `step()` then reads these arrays each time, with the least overhead. None for a parameter
        that never has one.
    grad_scale: float, default 1
        Gradients are divided by it (times 1 / grad_scale) before anything else: for scaled losses. `opt.grad_scale` can
        be changed between steps.
    accumulate_steps: int, default 1
        So many calls of `step` make one update, with the mean of their gradients.
    max_grad_norm: float, optional
        All gradients together are scaled down to this L2 norm where theirs is larger, as by
        torch.nn.utils.clip_grad_norm_. The norm is added up in float64 in one pass, `opt.grad_norm` is its last value,
        and the scale rides in the update: the gradients are not rewritten. `inf` only measures.
    clip_norm: float, optional
        The same for each parameter by itself. Also an option of a group.
    clip_value: float, optional
        Each element of the gradient is limited to [-clip_value, clip_value]. Also an option of a group. At most one of
        the three ways of clipping.
    nonfinite: "propagate", "skip" or "raise"
        What a NaN or an infinity in any gradient does, or an element whose square overflows where the optimizer squares
        it: nothing special, or no update at all, of any group: parameters, states and step counts stay as they are.
        "skip" counts it (`opt.skipped_steps`, `opt.nonfinite_counts`), "raise" raises a FloatingPointError that says
        where. It costs one more read of the gradients, and nothing where a norm is taken.
    max_consecutive_skips: int, optional
        With `nonfinite="skip"`: a FloatingPointError when more steps in a row are skipped.
    ema_decay: float, optional
        Keeps an average of the parameters, in the same pass: average = ema_decay * average + (1 - ema_decay) * p, from
        the first step on, as Keras does. It is `opt.state[i]["param_average"]`; see `averaged_params`.
    ema_overwrite_frequency: int, optional
        Every so many steps the parameters are set to their average.
    zero_grads: bool, default False
        Gradients are zeroed as they are read (and when a step is skipped, not when it raises).
    projection, prox: see `fastopt.constraints`, optional
        What parameters are held to after each update, in the same pass. Also options of a group.
    backend: "auto", "cython", "numba", "reference" or "cuda"
        What runs the update; those on the processor all give the same bits. "auto" is cython where it was built, else
        numba; and cuda for parameters on a CUDA device, which nothing else can run: see docs/cuda.md. "reference" is
        plain NumPy, for checking.
    n_threads: int, optional
        At most so many threads; default `fastopt.get_num_threads()`. The bits do not depend on it.
    convention: "torch", "keras", "tf1", "tf_keras_legacy" or "optax"
        Whose arithmetic and defaults: PyTorch's, Keras 3's, TensorFlow 1's, legacy Keras', optax'; arguments keep
        PyTorch's names. See docs/conventions.md, and `describe`.
    decay: float, default 0, with `convention="tf_keras_legacy"`
        The rate is lr / (1 + decay * iterations): per step, and the first step is not decayed.
    flush_denormals: bool
        Treat denormals as zero inside a step (the caller's floating-point mode is restored). Without it, the moments of
        parameters with zero gradients decay to denormals and make steps up to ten times slower.

    Notes
    -----
    The `lr` of an optimizer or a group is a number, or a function that is called with the number of updates done so
    far, 0 at first: one of `fastopt.schedules` or your own. It is asked before anything is written, and an error in it
    changes nothing. `current_lr` is the rate that the next update uses.

    A step does, in this order (Keras 3's): divide by `grad_scale`, accumulate, clip, weight decay, update, average,
    `prox`, `projection`, zero the gradients.

    Raises
    ------
    TypeError, ValueError
        An argument is not usable; the message names it, its value and what was expected. Nothing has been changed.
    """

    def step(self, grads: Any = None) -> None:
        """Update every parameter that has a gradient, in place.

        One native call over all parameters, on as many threads as pay; the GIL is released. Parameters whose gradient
        is None are left as they are, step count included.

        Parameters
        ----------
        grads: as the parameters were given
            An array, a list or a dict of arrays of the parameters' shapes and dtype, or a list with one such entry for
            each group. Not given when gradients were bound with `grads=` at construction.

        Raises
        ------
        TypeError, ValueError
            A gradient is not usable. Nothing has been changed.
        RuntimeError
            Another thread is in the middle of a step of this optimizer, or a parameter's memory was replaced.
        """
        changes = self._changes
        if changes.pending:
            self._refresh()
        engine = self._engine
        if grads is None:
            if not engine.bound:
                raise TypeError("step() needs gradients: pass them, or bind them with grads= at construction")
            if not changes.rates:
                engine.step()  # the shortest way
                return
            leaves = None
        else:
            if engine.bound:
                raise TypeError("gradients are bound to this optimizer; call step() without any")
            leaves = self._layout.flatten(grads)
        engine.step(leaves, self._set_rates if changes.rates else None)

    # --- options that can change ------------------------------------------------------------------------------------

    @property
    def grad_scale(self) -> float:
        """What gradients are divided by; an assignment counts from the next step."""
        scale: float = self._options["grad_scale"]
        return scale

    @grad_scale.setter
    def grad_scale(self, value: float) -> None:
        self._options["grad_scale"] = above_zero("grad_scale", value)
        self._changes.pending = True

    @property
    def max_grad_norm(self) -> float | None:
        """The largest norm of all gradients together. It can be changed between steps, not turned on or off."""
        norm: float | None = self._options["max_grad_norm"]
        return norm

    @max_grad_norm.setter
    def max_grad_norm(self, value: float) -> None:
        norm = positive_or_none("max_grad_norm", value)
        if (norm is None) != (self.max_grad_norm is None):
            raise ValueError(
                f"max_grad_norm cannot be turned on or off after construction (it is {self.max_grad_norm!r}), "
                f"got {value!r}; construct with max_grad_norm=math.inf to measure without clipping"
            )
        self._options["max_grad_norm"] = self._changes.max_grad_norm = norm
        self._changes.pending = True

    # --- what a step found ------------------------------------------------------------------------------------------

    @property
    def grad_norm(self) -> float:
        """The norm of all gradients, after division by `grad_scale`, in the last update; NaN before, and without
        `max_grad_norm`."""
        self._engine.fetch()
        return float(self._progress.grad_norm[0])

    @property
    def skipped_steps(self) -> int:
        """How many steps were skipped because of gradients that are not finite, with `nonfinite="skip"`."""
        self._engine.fetch()
        return self._nonfinite.skipped

    @property
    def consecutive_skips(self) -> int:
        """How many of them in a row up to now."""
        self._engine.fetch()
        return self._nonfinite.consecutive_after(int(self._progress.calls[0]))

    @property
    def nonfinite_counts(self) -> dict[str, int]:
        """For the last step that was skipped or raised: which gradients had elements that cannot be used, how many."""
        self._engine.fetch()
        return dict(self._nonfinite.counts)

    # --- single parameters ------------------------------------------------------------------------------------------

    @property
    def segments(self) -> tuple[ParamSettings, ...]:
        """What holds for each parameter beyond its group: `lr_scale`, `weight_decay`, `frozen`; see `set_segments`."""
        return describe_settings(self._settings, self._names())

    def set_segments(self, which: Select, *, lr_scale: Any = ..., weight_decay: Any = ..., frozen: Any = ...) -> None:
        """Set what holds for single parameters; counts from the next step, and the step is still one native call.

        Parameters
        ----------
        which: name, position, list of them, mask, or function
            The key in the dict that parameters were given in, else the position among all parameters; or a bool for
            each parameter; or a function of (name, array) that returns one.
        lr_scale: float
            The group's lr is multiplied by it. At least 0.
        weight_decay: float or None
            In place of the group's. None goes back to the group's.
        frozen: bool
            Frozen parameters are not updated and not averaged, their gradients not read and not part of a norm.

        Raises
        ------
        TypeError, ValueError
            No parameter is meant, or a value is not usable. Nothing has been changed.

        Notes
        -----
        Not saved in state dicts, as nothing is that belongs to construction; pickles and deep copies keep it.

        Examples
        --------
        >>> import numpy as np, fastopt
        >>> opt = fastopt.AdamW({"W": np.ones((2, 2)), "b": np.ones(2)}, weight_decay=0.1)
        >>> opt.set_segments(lambda name, param: param.ndim < 2, weight_decay=0)
        >>> [each.weight_decay for each in opt.segments]
        [None, 0.0]
        """
        changes = check_values(lr_scale, weight_decay, frozen)
        given = [param for group in self._groups for param in group["params"]]
        positions = select_params(which, self._names(), given)
        if "weight_decay" in changes and "weight_decay" not in self.spec.defaults:
            raise ValueError(f"{self.spec.name} has no weight_decay")
        if "lr_scale" in changes and not self.spec.uses_lr:
            raise ValueError(f"lr_scale has no effect: lr is not used in the steps of {self.spec.name}")

        def change() -> None:
            settings = replace(self._settings)
            for name, value in changes.items():
                array = getattr(settings, name).copy()
                array[positions] = value
                settings = replace(settings, **{name: array})
            self._settings = settings
            self._build(self._gradients)

        self._all_or_nothing(change)

    # --- gradients, groups ----------------------------------------------------------------------------------

    def zero_grad(self) -> None:
        """Fill the bound gradients with zeros.

        Raises
        ------
        RuntimeError
            No gradients are bound: those passed to `step` are the caller's.
        ValueError
            A bound gradient is read-only.
        """
        if self._gradients is None:
            raise RuntimeError("zero_grad() needs gradients bound with grads= at construction; there are none")
        found = map(self._backend.memory.as_array, self._gradients)
        present = [(index, gradient) for index, gradient in enumerate(found) if gradient is not None]
        memory = self._backend.memory
        for index, gradient in present:
            if not memory.is_writable(gradient):
                raise ValueError(f"{self._layout.labels('grads')[index]} is read-only; zero_grad() cannot fill it")
        for _, gradient in present:
            memory.fill(gradient, 0)

    @property
    def param_groups(self) -> tuple[ParamGroup, ...]:
        """The groups: dicts of "params" and hyperparameters. Assignments are checked, and count from the next step."""
        return tuple(self._groups)

    @property
    def state(self) -> StateView:
        """For each parameter, by its position, its states by torch's names, as arrays of the parameter's shape.

        The arrays are the memory that the kernels use. "step" is the number of steps that the parameter has had.
        """
        return StateView(self.spec, self._states, self._records, self._engine.fetch)

    @property
    def backend(self) -> str:
        """The name of the backend that runs this optimizer."""
        name: str = self._backend.name
        return name

    def describe(self, file: TextIO | None = None) -> None:
        """Print the exact update that the next step does, in maths, with its numbers; and how PyTorch's differs.

        It is read from the rule that runs, for each group, and simplified as in exact arithmetic.

        Parameters
        ----------
        file: text file, optional
            Where to; default the standard output.

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

        print(description(self), file=file)

    def add_param_group(self, param_group: Mapping[str, Any], *, grads: Any = None) -> None:
        """Add a group; the optimizer's own hyperparameters stand in for those that it does not give.

        From then on gradients are a list with one entry for each group.

        Parameters
        ----------
        param_group: dict
            With "params" and any hyperparameters.
        grads: as the group's "params"
            Its gradients, where the optimizer's gradients are bound.
        """
        child, given, values = read_group(param_group, len(self._groups))
        for key in values:
            check_key(self.spec, key)
        children = self._layout.children if self._layout.kind == "groups" else (self._layout,)
        layout = Layout("groups", self._layout.size + child.size, children=(*children, child))
        gradients = None
        if self._gradients is not None:
            if grads is None:
                raise TypeError("gradients are bound to this optimizer; give the new group's with grads=")
            gradients = [*self._gradients, *child.flatten(grads)]
        elif grads is not None:
            raise TypeError("no gradients are bound to this optimizer; pass the new group's to step()")
        new = ParamGroup(self.spec, given, {**self.defaults, **values}, self._changes)

        def change() -> None:
            self._layout = layout
            self._groups = [*self._groups, new]
            self._check_params()
            self._states = [*self._states, *self._new_states(new, len(self._states))]
            self._settings = self._settings.extended(SegmentSettings.of(len(given)))
            self._records = self._records.extended(SegmentRecords.of(len(given), self.spec.carried.values()))
            self._build(gradients)

        warn_without_effect(self.spec, new["lr"])
        self._all_or_nothing(change)

    def __repr__(self) -> str:
        lines = [f"{type(self).__name__} ("]
        for index, group in enumerate(self._groups):
            lines.append(f"Parameter Group {index}")
            shown = [key for key in sorted(group) if key not in ("params", *GROUP_OPTIONS) or group[key] is not None]
            lines += [f"    {key}: {group[key]}" for key in shown if key != "params"]
        return "\n".join([*lines, ")"])
