"""Saving, loading and copying an optimizer."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..checks import flag
from ..definitions.specs import Spec
from ..state.torch_form import StateDict
from ..step.options import STEP_OPTIONS
from .state_dicts import Fitting, convert_state_dict, with_states
from .state_dtypes import Chosen
from .stepping import flattening, states
from .stepping.gradient_hooks import GradientHooks
from .stepping.host import Host
from .stepping.stepper import Stepper


class SavedOptimizer(torch.optim.Optimizer):
    """What `NativeOptimizer` does around torch's state dicts and copies, during which it keeps steps out."""

    spec: ClassVar[Spec]
    name: ClassVar[str]
    options: dict[str, Any]
    in_backward: bool
    _init_group: Callable[..., Any]
    _given: dict[str, Any]
    _host: Host
    _stepper: Stepper
    _hooks: GradientHooks

    def _set_up(
        self,
        given: dict[str, Any],
        early: Mapping[Tensor, dict[str, float]] | None = None,
        buffers: Sequence[flattening.Buffer] | None = None,
        chosen: Mapping[Tensor, Chosen] | None = None,
    ) -> None:
        raise NotImplementedError

    def step_in_backward(self) -> None:
        raise NotImplementedError

    def _make_states_early(self) -> None:
        """Make all states before the first step, where there are gradients from the start or one parameter is stepped
        after the other. `torch.distributed.checkpoint` expects states where there are gradients."""
        if self.options["flatten"] or self.in_backward:
            placed = None if self.in_backward else {id(each) for buffer in self._host.buffers for each in buffer.params}
            state = self.__dict__["state"]
            states.make_states_early(self._host, state, self._init_group, self.param_groups, placed)

    def state_dict(self, *, encoded: bool = False) -> dict[str, Any]:
        """As torch's; with `stochastic_rounding`, also the "seed".

        Parameters
        ----------
        encoded: bool, default False
            What to save of states that `state_dtype` has stored in fewer bits: False for copies in float32, which
            torch's classes load, too; True for a dict of the name of the "codec", the "shape", and the "codes" (which
            share the state's memory, as all else in torch's state dicts). Both load into an optimizer with any
            `state_dtype`, and training goes on with the same bits.

        Raises
        ------
        RuntimeError
            Another thread is in the middle of a step.

        Examples
        --------
        >>> import torch
        >>> from fastopt.torch import SGD
        >>> w = torch.nn.Parameter(torch.ones(5000))
        >>> optimizer = SGD([w], lr=0.1, momentum=0.9, state_dtype="float8")
        >>> w.sum().backward()
        >>> optimizer.step()
        >>> optimizer.state_dict()["state"][0]["momentum_buffer"].dtype
        torch.float32
        >>> saved = optimizer.state_dict(encoded=True)["state"][0]["momentum_buffer"]
        >>> saved["codec"], saved["shape"], saved["codes"].dtype, saved["codes"].nbytes
        ('float8', [5000], torch.uint8, 5140)
        """
        shown = functools.partial(with_states, encoded=flag("encoded", encoded))
        saved: dict[str, Any] = self._stepper.alone(functools.partial(self._state_dict, shown))
        return {**saved, "seed": self.options["seed"]} if self.options["stochastic_rounding"] else saved

    def _state_dict(self, shown: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
        if not self._host.state_dtypes:
            return super().state_dict()
        # Before users' hooks, which may look at everything.
        handle = self.register_state_dict_post_hook(lambda _, each: shown(each), prepend=True)
        try:
            return super().state_dict()
        finally:
            handle.remove()

    @torch._disable_dynamo  # type: ignore[attr-defined]
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch's, which matches parameters by their order; here by name, if both sides have names.

        Parameters
        ----------
        state_dict: dict
            From `state_dict()` of this class, of torch's or of fastopt's NumPy optimizer of the same name. Keys of
            states may have become strings ("0"), as in JSON, and tensors NumPy arrays. A state that it lacks begins as
            in a new optimizer, at the parameter's next step.

        Raises
        ------
        TypeError, ValueError
            It does not fit: torch says so; or the names on one side are not those on the other, and no
            `register_load_state_dict_pre_hook` adapts them; or it has states of a parameter that is not there, or
            accumulated gradients. Nothing has been changed.
        RuntimeError
            Another thread is in the middle of a step.
        """
        self._stepper.alone(functools.partial(self._load_state_dict, state_dict))

    def _load_state_dict(self, state_dict: dict[str, Any]) -> None:
        fitting = Fitting(self.name, self.spec, self.param_groups, bool(self._optimizer_load_state_dict_pre_hooks))
        if isinstance(state_dict, StateDict):  # a NumPy optimizer's
            state_dict = convert_state_dict(state_dict)
        seed = _seed(state_dict, self.options["seed"])
        state_dict = fitting.match_names(state_dict)
        # After users' hooks, which may rewrite everything, and before those that look at what was loaded.
        handles = [
            self.register_load_state_dict_pre_hook(lambda _, each: fitting.read(each)),
            self.register_load_state_dict_post_hook(lambda _: self._restore(fitting), prepend=True),
        ]
        try:
            super().load_state_dict(state_dict)
        finally:
            for handle in handles:
                handle.remove()
        if self.options["stochastic_rounding"]:
            self.options["seed"] = seed
            self._given = {**self._given, "seed": seed}

    def _restore(self, fitting: Fitting) -> None:
        """Give loaded states what torch's loading has taken from them: their dtypes and formats."""
        fitting.restore_dtypes(self.param_groups, self.__dict__["state"], self._host)

    def __getstate__(self) -> dict[str, Any]:
        if self._hooks.is_averaged:
            raise RuntimeError(
                f"{self.name}: DistributedDataParallel steps the parameters in the backward pass, and a copy of that "
                "module would not; call step_after_backward() first, and step_in_backward() of the copy"
            )
        return self._stepper.alone(self._contents)

    def _contents(self) -> dict[str, Any]:
        return {
            **super().__getstate__(),
            "_given": self._given,
            "in_backward": self.in_backward,
            "_early": dict(self._host.early),
            "_state_dtypes": dict(self._host.state_dtypes),
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        if "options" in self.__dict__:  # A state dict is loaded.
            super().__setstate__(state)
            self._host.early.clear()
            self._make_states_early()
        else:
            own = {name: state.get(name) for name in ("in_backward", "_early", "_buffers", "_state_dtypes")}
            super().__setstate__({name: value for name, value in state.items() if name not in own})
            self._set_up(self._given, own["_early"], own["_buffers"], own["_state_dtypes"] or {})
            if own["in_backward"]:  # So is a copy, with its own parameters.
                self.step_in_backward()
        self._stepper.forget()

    def __deepcopy__(self, memo: dict[int, Any]) -> SavedOptimizer:
        """A copy with copies of parameters, groups and states; steps are kept out until it is made."""
        made: SavedOptimizer = type(self).__new__(type(self))
        memo[id(self)] = made
        self._stepper.alone(lambda: made.__setstate__(copy.deepcopy(self.__getstate__(), memo)))
        return made

    def __copy__(self) -> SavedOptimizer:
        """As of torch's: another optimizer of the same parameters, groups and states; it has no hooks.

        Where the backward pass steps, this optimizer alone goes on to do so.
        """
        made: SavedOptimizer = type(self).__new__(type(self))
        contents = self._stepper.alone(self._contents)
        made.__setstate__({**contents, "in_backward": False, "_buffers": self._host.buffers})
        return made


def _seed(state_dict: Any, default: int) -> int:
    """The seed in a state dict, checked."""
    given = state_dict.get("seed", default) if isinstance(state_dict, Mapping) else default
    seed: int = STEP_OPTIONS["seed"].check("state_dict['seed']", given)
    return seed
