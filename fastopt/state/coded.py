"""States that are stored in fewer bits: their memory, and what a user sees of them, float32."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ..kernels.formulas.storage import BLOCK, FORMATS, Format
from ..step.storage import CODE_DTYPES

PIECE = 256 * BLOCK
"""The number of elements that are decoded or encoded at once: what NumPy needs in between fits the cache."""

KEYS = ("codec", "shape", "codes")
"""What a state dict with `encoded=True` has of a coded state."""


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
    decode, _ = _codec(name)
    found = np.empty(tuple(shape), np.float32)
    elements = found.reshape(-1)
    for part, own, more in _pieces(FORMATS[name], codes, elements.size, rest):
        elements[part] = decode(own, more)
    return found


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


def as_saved(name: str, codes: np.ndarray, shape: Sequence[int]) -> dict[str, Any]:
    """What a state dict with `encoded=True` has of a coded state."""
    return {"codec": name, "shape": list(shape), "codes": codes}


def is_saved(value: Any) -> bool:
    """Whether something in a state dict is what `as_saved` returns."""
    return isinstance(value, Mapping) and set(value) == set(KEYS)


def read_saved(label: str, value: Mapping[str, Any], shape: Sequence[int] | None = None) -> tuple[str, np.ndarray]:
    """The name of the codec and the codes, checked; `shape` is what the shape must be.

    Raises
    ------
    TypeError, ValueError
        They are damaged, or of another shape.
    """
    name, saved_shape, codes = value["codec"], tuple(map(int, value["shape"])), np.asarray(value["codes"])
    if name not in FORMATS or FORMATS[name].has_rest:
        raise ValueError(f"{label} is stored by the codec {name!r}, which this version does not know")
    if shape is not None and saved_shape != tuple(shape):
        raise ValueError(f"{label} must be of its parameter's shape {tuple(shape)}, got {saved_shape}")
    dtype, shape_of_codes = form_of(name, saved_shape)
    if codes.dtype != dtype or codes.shape != shape_of_codes:
        raise ValueError(
            f"{label} must have codes of dtype {dtype} and shape {shape_of_codes}, got {codes.dtype} and {codes.shape}"
        )
    return name, codes


def from_saved(label: str, value: Mapping[str, Any]) -> np.ndarray:
    """The numbers of a coded state in a state dict."""
    name, codes = read_saved(label, value)
    return decoded(name, codes, tuple(map(int, value["shape"])))


def as_stored(name: str | None, value: np.ndarray) -> np.ndarray:
    """Numbers as the memory of a state in this format has them; None for no format."""
    return value if name is None else encoded(name, value)
