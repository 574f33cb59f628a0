"""States in fewer bits than float32: their codes, and the dict in which users see them as numbers."""

from __future__ import annotations

import collections
import sys
import weakref
from collections.abc import ItemsView, Iterator, Mapping, Sequence, ValuesView
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ...kernels.formulas.storage import FORMATS
from ...state import coded
from . import shards, tensors
from .references import are_storages_held

CODE_DTYPES = {np.dtype(np.uint8): torch.uint8, np.dtype(np.uint16): torch.int16}
"""The dtypes of codes, by those that arrays of them have; torch 2.13 cannot pickle uint16."""


class CodedState:
    """A state in one of the formats of `kernels.formulas.storage`.

    Attributes
    ----------
    codec: the format's name.
    shape, strides: of the state; they have no gaps.
    codes: of all elements in their memory order, in one dimension.
    spec: of the DTensor whose shard the state is, see `shards.around`; None: it is none.
    """

    __slots__ = ("codec", "codes", "shape", "spec", "strides")

    def __init__(
        self, codec: str, codes: Tensor, shape: Sequence[int], strides: Sequence[int], spec: Any = None
    ) -> None:
        self.codec, self.codes, self.shape, self.strides = codec, codes, tuple(shape), tuple(strides)
        self.spec = spec

    @classmethod
    def filled(cls, codec: str, like: Tensor, value: float) -> CodedState:
        """A state of a parameter whose elements are all this number."""
        own = shards.local(like)
        codes = _tensor_of(coded.filled(codec, value, (own.numel(),)))
        return cls(codec, codes, own.shape, dense_strides(own), shards.spec_of(like))

    @classmethod
    def of(cls, codec: str, values: Tensor, like: Tensor, spec: Any = None) -> CodedState:
        """A state with these numbers that lies like this tensor in the memory of this process."""
        made = cls(codec, torch.empty(0), like.shape, dense_strides(like), spec)
        made.codes = _tensor_of(coded.encoded(codec, made._flat(values)))
        return made

    def fits(self, param: Tensor) -> bool:
        """Whether each process has the same elements of this state and a parameter."""
        return self.shape == shards.local(param).shape and shards.are_alike(self.spec, shards.spec_of(param))

    def is_shown_as(self, tensor: Tensor) -> bool:
        """Whether a tensor can be what `decoded` returned, with other numbers."""
        own = shards.local(tensor)
        return own.shape == self.shape and own.dtype is torch.float32

    def lies_like(self, other: Tensor) -> bool:
        """Whether its elements are in the same order as those of a tensor of its shape."""
        return tensors.lies_like(self.layout(), other)

    def decoded(self) -> Tensor:
        """A new tensor of float32 with its numbers."""
        found = torch.empty_strided(self.shape, self.strides, dtype=torch.float32)
        coded.decode_into(tensors.flat_array(found), self.codec, self._array())
        return shards.around(found, self.spec)

    def write(self, values: Tensor) -> None:
        """Take over other numbers, in place."""
        self._array()[...] = coded.encoded(self.codec, self._flat(values))

    def fill(self, value: float) -> None:
        """Let all elements be this number."""
        self._array()[...] = coded.filled(self.codec, value, (self.layout().numel(),))

    def is_filled(self, value: float) -> bool:
        """Whether all elements have the codes of this number."""
        codes, size = self._array(), self.layout().numel()
        if size and codes[0] != coded.filled(self.codec, value, (1,))[0]:
            return False
        return bool(np.array_equal(codes, coded.filled(self.codec, value, (size,))))

    def saved(self) -> dict[str, Any]:
        """What a state dict with `encoded=True` has of it; the codes are not copied."""
        if not FORMATS[self.codec].has_base:
            return coded.as_saved(self.codec, self.codes.as_strided(self.shape, self.strides), self.shape)
        return coded.as_saved(self.codec, self.codes, self.shape, memory_order(self.shape, self.strides))

    def _array(self) -> np.ndarray:
        return tensors.flat_array(self.codes)

    def layout(self) -> Tensor:
        """A tensor of its shape and strides, without memory."""
        return torch.empty_strided(self.shape, self.strides, device="meta")

    def _flat(self, values: Tensor) -> np.ndarray:
        """Numbers in the memory order of this state."""
        values = shards.local(values).detach().as_subclass(Tensor)
        if (
            values.dtype is not torch.float32
            or not tensors.is_dense(values)
            or not tensors.lies_like(values, self.layout())
        ):
            there = torch.empty_strided(self.shape, self.strides, dtype=torch.float32)
            values = there.copy_(values)
        return tensors.flat_array(values)

    def __getstate__(self) -> tuple[Any, ...]:
        return (self.codec, self.codes, self.shape, self.strides, self.spec)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.codec, self.codes, self.shape, self.strides, self.spec = (*state, None)[:5]  # earlier versions had no spec


def is_saved(value: Any) -> bool:
    """Whether something in a state dict is what `CodedState.saved` returns."""
    return coded.is_saved(value)


def read_saved(label: str, value: Mapping[str, Any], param: Tensor) -> CodedState | Tensor:
    """A coded state in a state dict, with codes of its own: as it is, or decoded if the parameter lies differently.

    Raises
    ------
    TypeError, ValueError
        It is damaged, or of another shape.
    """
    own, spec = shards.local(param), shards.spec_of(param)
    saved = coded.read_saved(label, value, own.shape)
    strides = dense_strides(own)
    if FORMATS[saved.codec].has_base:
        if list(saved.order) != memory_order(own.shape, strides):
            decoded = torch.from_numpy(np.ascontiguousarray(saved.decoded()).reshape(saved.shape))
            return shards.around(decoded, spec)
        return CodedState(saved.codec, _tensor_of(saved.codes.copy()), saved.shape, strides, spec)
    codes = torch.empty_strided(saved.shape, strides, dtype=torch.int16)
    codes.copy_(torch.from_numpy(saved.codes.view(np.int16).copy()).reshape(saved.shape))
    return CodedState(saved.codec, codes.as_strided((codes.numel(),), (1,)), saved.shape, strides, spec)


def dense_strides(param: Tensor) -> tuple[int, ...]:
    """The strides of a parameter's memory in which steps work: its own, if it has no gaps."""
    if tensors.is_dense(param):
        return tuple(param.stride())
    return tuple(torch.empty_like(param, device="meta").stride())


def memory_order(shape: Sequence[int], strides: Sequence[int]) -> list[int]:
    """The dimensions from the largest stride to the smallest; those with one element stay where they are."""
    count = [dimension for dimension, size in enumerate(shape) if size != 1]
    placed = iter(sorted(count, key=lambda dimension: -strides[dimension]))
    return [next(placed) if size != 1 else dimension for dimension, size in enumerate(shape)]


def _tensor_of(codes: np.ndarray) -> Tensor:
    """The tensor that has the memory of codes, in one dimension."""
    codes = codes.reshape(-1)
    own: Any = codes.view(np.int16) if codes.dtype == np.uint16 else codes
    return torch.from_numpy(own)


KNOWN_REFERENCES = 3
"""To a state that is shown and that nobody has: of the dict, of `shown`, and of the call that counts."""


class CodedStates(dict[str, Any]):
    """The states of a parameter by name, of which some are a `CodedState`.

    Whoever reads such a state gets float32 numbers: a tensor that takes its place until the next step, which encodes
    it again, with what has been written to it. Encoding what was decoded gives the same numbers. The functions of
    `dict` itself, as in `dict.get(states, name)`, see what is stored.
    """

    __slots__ = ("__weakref__", "shown")

    recent: ClassVar[collections.deque[tuple[weakref.ref[CodedStates], str]]] = collections.deque(maxlen=8)
    """The states that were read last, of any parameters, and may be shown still."""

    def __init__(self, values: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.shown: dict[str, tuple[Tensor, CodedState]] = {}
        for name, value in dict.items(values or {}):
            self[name] = value

    def show(self, name: str) -> Tensor:
        """Decode a state."""
        for _ in range(len(CodedStates.recent)):  # Whoever goes over all states needs few of them at a time.
            reference, other = CodedStates.recent.popleft()
            states = reference()
            if states is not None and other in states.shown:
                if states.is_held(other):
                    CodedStates.recent.append((reference, other))
                else:
                    states.hide(other)
        state = dict.__getitem__(self, name)
        tensor: Tensor = state.decoded()
        self.shown[name] = (tensor, state)
        dict.__setitem__(self, name, tensor)
        CodedStates.recent.append((weakref.ref(self), name))
        return tensor

    def is_held(self, name: str) -> bool:
        """Whether anybody still has a state that was shown, or shares its memory."""
        if sys.getrefcount(self.shown[name][0]) > KNOWN_REFERENCES:
            return True
        own = shards.local(self.shown[name][0])
        return bool(own is not self.shown[name][0] and sys.getrefcount(own) > KNOWN_REFERENCES) or are_storages_held(
            [own]
        )

    def hide(self, *names: str) -> None:
        """Encode states again that were shown, all or those of these names, unless something else took their place."""
        for name in names or tuple(self.shown):
            tensor, state = self.shown[name]
            if dict.get(self, name) is tensor and state.is_shown_as(tensor):
                state.write(tensor)
                dict.__setitem__(self, name, state)
            del self.shown[name]

    def __getitem__(self, name: str) -> Any:
        value = dict.__getitem__(self, name)
        return self.show(name) if type(value) is CodedState else value

    def get(self, name: str, default: Any = None) -> Any:
        value = dict.get(self, name, default)
        return self.show(name) if type(value) is CodedState else value

    def pop(self, name: str, *default: Any) -> Any:
        if name in self:
            value = self[name]
            del self[name]
            return value
        return dict.pop(self, name, *default)

    def setdefault(self, name: str, default: Any = None) -> Any:
        if name not in self:
            self[name] = default
        return self[name]

    def popitem(self) -> tuple[str, Any]:
        name = next(reversed(self), None)
        return dict.popitem(self) if name is None else (name, self.pop(name))

    def __iter__(self) -> Iterator[str]:  # without it, `dict(states)` would copy what is stored
        return dict.__iter__(self)

    def items(self) -> ItemsView[str, Any]:  # type: ignore[override]
        return ItemsView(self)

    def values(self) -> ValuesView[Any]:  # type: ignore[override]
        return ValuesView(self)

    def copy(self) -> dict[str, Any]:
        return dict(self)

    def __repr__(self) -> str:
        return repr(dict(self))

    def __reduce__(self) -> tuple[Any, ...]:
        return CodedStates, (), None, None, iter(encoded(self).items())

    def __copy__(self) -> CodedStates:
        return CodedStates(self)


def encoded(states: Mapping[str, Any]) -> dict[str, Any]:
    """A parameter's states as they are stored; what was shown is encoded for this, and stays shown."""
    if not isinstance(states, CodedStates):
        return dict(states)
    found = {name: dict.__getitem__(states, name) for name in states}
    for name, (tensor, state) in states.shown.items():
        if found.get(name) is tensor and state.is_shown_as(tensor):
            found[name] = CodedState.of(state.codec, tensor, state.layout(), state.spec)
    return found


def stored_tensor(value: Any) -> Any:
    """The tensor that has the memory of a state."""
    return value.codes if isinstance(value, CodedState) else value


def stored_tensors(states: dict[str, Any]) -> list[Tensor]:
    """The tensors that have the memory of a parameter's states."""
    return [each for each in map(stored_tensor, dict.values(states)) if isinstance(each, Tensor)]


def hide_all(states: Mapping[Any, Any]) -> None:
    """Encode all states again that were shown."""
    for each in states.values():
        if type(each) is CodedStates and each.shown:
            each.hide()
