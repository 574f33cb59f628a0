"""States that are stored in fewer bits: their memory, and what a user sees of them, float32."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..kernels.formulas.storage import BLOCK, FORMATS, Format
from ..step.storage import CODE_DTYPES

PIECE = 256 * BLOCK
"""The number of elements that are decoded or encoded at once: what NumPy needs in between fits the cache."""

KEYS = ("codec", "shape", "codes")
"""What a state dict with `encoded=True` has of a coded state."""

ORDER = "order"
"""A further key, where the codes are not of the elements in C order: the dimensions, from the one with the largest
stride in memory to the one with the smallest."""


def _codec(name: str) -> Any:
    """What decodes a format and encodes it to the nearest."""
    from ..kernels.python import codecs  # rarely needed

    return codecs.codec(name, False)


def form_of(name: str, shape: Sequence[int]) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """The dtype and the shape of the array that holds the codes of a state of this shape."""
    storage = FORMATS[name]
    dtype, size = CODE_DTYPES[storage.bits], int(np.prod(shape, dtype=np.int64))
    return dtype, (storage.nbytes(size) // dtype.itemsize,) if storage.has_base else tuple(shape)


def decoded(name: str, codes: np.ndarray, shape: Sequence[int], rest: np.ndarray | None = None) -> np.ndarray:
    """A new float32 array with the numbers that codes stand for; `rest` has their other bits if a format has a rest."""
    found = np.empty(tuple(shape), np.float32)
    decode_into(found.reshape(-1), name, codes, rest)
    return found


def decode_into(elements: np.ndarray, name: str, codes: np.ndarray, rest: np.ndarray | None = None) -> None:
    """Write the numbers that codes stand for to an array of float32 in one dimension."""
    decode, _ = _codec(name)
    for part, own, more in _pieces(FORMATS[name], codes, elements.size, rest):
        elements[part] = decode(own, more)


def joined(param: np.ndarray, rest: np.ndarray) -> np.ndarray:
    """A new float32 array with the numbers of a bfloat16 parameter and the rest of each."""
    return decoded("split_bfloat16", param.view(np.uint16), param.shape, rest)


def split(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The codes of a bfloat16 parameter and the rest of each, for numbers of float32."""
    _, encode = _codec("split_bfloat16")
    codes, rest = (np.zeros(values.shape, CODE_DTYPES[16]) for _ in range(2))
    elements = np.ascontiguousarray(values, np.float32).reshape(-1)
    encode(elements, codes.reshape(-1), rest.reshape(-1), 0, 0)
    return codes, rest


def encoded(name: str, values: np.ndarray) -> np.ndarray:
    """A new array with the codes nearest to numbers of float32."""
    _, encode = _codec(name)
    dtype, shape = form_of(name, values.shape)
    codes = np.zeros(shape, dtype)
    elements = np.ascontiguousarray(values, np.float32).reshape(-1)
    for part, own, more in _pieces(FORMATS[name], codes, elements.size, None):
        encode(elements[part], own, more, 0, part.start)
    return codes


def filled(name: str, value: float, shape: Sequence[int]) -> np.ndarray:
    """A new array with the codes of a state of this shape whose elements all are the number nearest to `value`."""
    dtype, shape_of_codes = form_of(name, shape)
    codes = np.zeros(shape_of_codes, dtype)
    one = encoded(name, np.full(BLOCK, value, np.float32))
    if one.any():  # else the memory stays untouched
        flat, size = codes.reshape(-1), int(np.prod(shape, dtype=np.int64))
        flat[:size] = one[0]
        if FORMATS[name].has_base:
            flat[-(-size // BLOCK) * BLOCK :] = one[BLOCK]
    return codes


def _pieces(
    storage: Format, codes: np.ndarray, size: int, rest: np.ndarray | None
) -> Iterator[tuple[slice, np.ndarray, np.ndarray | None]]:
    """Parts of the elements: which, their codes, and what else holds them."""
    flat = codes.reshape(-1)
    bases = flat[-(-size // BLOCK) * BLOCK :] if storage.has_base else None
    others = None if rest is None else rest.reshape(-1)
    for start in range(0, size, PIECE):
        part = slice(start, min(start + PIECE, size))
        more = others[part] if others is not None else None
        if bases is not None:
            more = bases[start // BLOCK : -(-part.stop // BLOCK)]
        yield part, flat[part], more


def as_saved(name: str, codes: Any, shape: Sequence[int], order: Sequence[int] | None = None) -> dict[str, Any]:
    """What a state dict with `encoded=True` has of a coded state."""
    found = {"codec": name, "shape": list(shape), "codes": codes}
    return found if order is None or list(order) == sorted(order) else {**found, ORDER: list(order)}


def is_saved(value: Any) -> bool:
    """Whether something in a state dict is what `as_saved` returns."""
    return isinstance(value, Mapping) and set(value) - {ORDER} == set(KEYS)


class Saved(NamedTuple):
    """A coded state in a state dict, checked.

    Attributes
    ----------
    codec: the name of its format.
    codes: of the elements in the memory order that `order` says, as `ORDER` does.
    shape: of the state.
    """

    codec: str
    codes: np.ndarray
    shape: tuple[int, ...]
    order: tuple[int, ...]

    @property
    def is_in_c_order(self) -> bool:
        return list(self.order) == sorted(self.order)

    def decoded(self) -> np.ndarray:
        """A new float32 array with its numbers, in its memory order."""
        found = decoded(self.codec, self.codes, [self.shape[each] for each in self.order])
        return found if self.is_in_c_order else found.transpose(np.argsort(self.order))


def read_saved(label: str, value: Mapping[str, Any], shape: Sequence[int] | None = None) -> Saved:
    """Read a coded state in a state dict; `shape` is what its shape must be.

    Codes of 16 bits may be integers with a sign, which is what torch can save.

    Raises
    ------
    TypeError, ValueError
        It is damaged, or of another shape.
    """
    name, saved_shape, codes = value["codec"], tuple(map(int, value["shape"])), np.asarray(value["codes"])
    if name not in FORMATS or FORMATS[name].has_rest:
        raise ValueError(f"{label} is stored by the codec {name!r}, which this version does not know")
    if shape is not None and saved_shape != tuple(shape):
        raise ValueError(f"{label} must be of its parameter's shape {tuple(shape)}, got {saved_shape}")
    order = tuple(map(int, value.get(ORDER, range(len(saved_shape)))))
    if ORDER in value and not FORMATS[name].has_base:
        raise ValueError(f"{label} has an order, which codes of {name} do not need: they have the state's shape")
    if sorted(order) != list(range(len(saved_shape))):
        raise ValueError(f"{label} must have an order of its {len(saved_shape)} dimensions, got {value[ORDER]!r}")
    dtype, shape_of_codes = form_of(name, saved_shape)
    if codes.dtype == np.dtype(np.int16) and dtype == np.dtype(np.uint16):
        codes = codes.view(dtype)
    if codes.dtype != dtype or codes.shape != shape_of_codes:
        raise ValueError(
            f"{label} must have codes of dtype {dtype} and shape {shape_of_codes}, got {codes.dtype} and {codes.shape}"
        )
    return Saved(name, codes, saved_shape, order)


def from_saved(label: str, value: Mapping[str, Any]) -> np.ndarray:
    """The numbers of a coded state in a state dict."""
    return read_saved(label, value).decoded()


def as_stored(name: str | None, value: np.ndarray) -> np.ndarray:
    """Numbers as the memory of a state in this format has them; None for no format."""
    return value if name is None else encoded(name, value)
