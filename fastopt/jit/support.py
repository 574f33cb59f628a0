"""Functions that the rendered source calls beside formulas: checks, addresses, prefetching, parts for threads."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numba
from numba import types
from numba.core import cgutils
from numba.core.errors import TypingError
from numba.extending import intrinsic, overload
from numba.np import arrayobj

from ..kernels import backends
from ..kernels.constants import BOUNDARY, PREFETCH_BYTES

NANOSECONDS_A_PART = 20_000.0
"""The least work for which an update uses another thread."""


def _prefetch_elements() -> int:
    if backends.compiled_module_error() is not None:
        return 0
    from ..kernels import native

    return native.PREFETCH_DISTANCE


_PREFETCH_ELEMENTS = _prefetch_elements()


_EXACT: dict[str, Any] = {"error_model": "numpy", "fastmath": False, "boundscheck": False}
"""Options of every compiled function; Numba takes those that are not set from the caller."""


def inline(function: Callable[..., Any]) -> Any:
    """`numba.njit` with NumPy's division, inlined by LLVM, because calls with many arrays are slow."""
    return numba.njit(forceinline=True, **_EXACT)(function)


def apart(function: Callable[..., Any]) -> Any:
    """The same, not inlined."""
    return numba.njit(forceinline=False, **_EXACT)(function)


def parallel(function: Callable[..., Any]) -> Any:
    return numba.njit(parallel=True, forceinline=False, **_EXACT)(function)


# --- checks of types: they cost nothing at run time -------------------------------------------------------------------


STORED = ("bfloat16", "float16")
"""The dtypes of arrays that optimizers take and these functions do not; Numba has no code for them."""


def refusing_halves(function: Any, names: tuple[str, ...]) -> Any:
    """The same compiled function, which refuses arrays of 16 bits by the names of its arguments before it compiles.

    Numba itself only says which dtype it does not know. This costs nothing at run time: an array of a dtype that was
    not compiled for is what gets here.
    """
    compile_for = function._compile_for_args

    def check_and_compile(*arguments: Any, **keywords: Any) -> Any:
        given = list(zip(names, arguments, strict=False))
        given += [
            (f"state.{name}", field)
            for _, each in given
            if isinstance(each, tuple) and hasattr(each, "_asdict")
            for name, field in each._asdict().items()
        ]
        for name, value in given:
            if getattr(getattr(value, "dtype", None), "name", None) in STORED:
                raise TypeError(
                    f"{name} must be an array of float32 or float64, got dtype {value.dtype}: fastopt.jit has no "
                    f"updates of 16 bits; convert it, {name}.astype(numpy.float32), or use the optimizer's class"
                )
        return compile_for(*arguments, **keywords)

    function._compile_for_args = check_and_compile
    return function


def array_check(names: tuple[str, ...]) -> Any:
    """A function of a tuple of arrays that does nothing, but only compiles if the arrays are usable.

    The first is the parameter, the second its gradient; `names` is for error messages.
    """

    def check_arrays(arrays: Any) -> None:
        """Raises TypingError."""

    @overload(check_arrays, inline="always")
    def _check(arrays: Any) -> Any:
        param = arrays[0]
        for name, array in zip(names, arrays, strict=False):
            if not isinstance(array, types.Array):
                raise TypingError(f"{name} must be an array, got {array}")
            if array.dtype not in (types.float32, types.float64):
                raise TypingError(f"{name} must be an array of float32 or float64, got dtype {array.dtype}")
            if array.layout != "C":
                raise TypingError(f"{name} must be a C-contiguous array, got {array} (numba.typeof shows this)")
            if array.dtype != param.dtype:
                raise TypingError(f"{name} must have the dtype of param, {param.dtype}, got {array.dtype}")
            if array.ndim != param.ndim:
                raise TypingError(f"{name} must have the shape of param, of {param.ndim} axes, got {array.ndim}")
            if not array.mutable and name != "grad":
                raise TypingError(f"{name} must be writable, got a read-only array")

        def nothing(arrays: Any) -> None:
            pass

        return nothing

    return check_arrays


def state_check(fields: tuple[str, ...], carried: Iterable[str]) -> Any:
    """The same for a NamedTuple that must have these fields; `carried` ones are arrays of one number."""
    numbers = {"step": types.int64, **dict.fromkeys(carried, types.float64)}
    expected = ", ".join(fields)

    def check_state(state: Any) -> None:
        """Raises TypingError."""

    @overload(check_state, inline="always")
    def _check(state: Any) -> Any:
        kept: Any = state
        if not isinstance(state, types.BaseNamedTuple):
            raise TypingError(f"state must be a NamedTuple with the fields {expected}, got {state}")
        if not set(fields) <= set(kept.fields):
            raise TypingError(f"state must have the fields {expected}, got a NamedTuple with {', '.join(kept.fields)}")
        for name, dtype in numbers.items():
            found = kept[kept.fields.index(name)]
            if found != types.Array(dtype, 1, "C"):
                raise TypingError(f"state.{name} must be an array of one {dtype}, got {found}")

        def nothing(state: Any) -> None:
            pass

        return nothing

    return check_state


# --- written in LLVM -------------------------------------------------------------------------------------------


@intrinsic
def pointer(typing_context: Any, array: Any, index: Any) -> Any:
    """The address of the element of a C-contiguous array with this flat index."""
    if not isinstance(array, types.Array):
        return None

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = arrayobj.make_array(array)(context, builder, arguments[0]).data
        return builder.gep(data, [arguments[1]])

    return types.CPointer(array.dtype)(array, types.intp), generate


@intrinsic
def quiet(typing_context: Any, function: Any, arguments: Any) -> Any:
    """`function(*arguments)`, for a compiled function that never raises.

    Numba checks for an exception after each call, and counts references to all arrays, atomically, for that path. For
    small arrays this takes a fifth of an update.
    """
    dispatcher, given = function.dispatcher, tuple(arguments)
    dispatcher.get_call_template(given, {})  # compiles it
    compiled = dispatcher.overloads[given]

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        context.active_code_library.add_linking_library(compiled.library)
        unpacked = cgutils.unpack_tuple(builder, values[1])
        _, returned = context.call_internal_no_propagate(builder, compiled.fndesc, compiled.signature, unpacked)
        return returned

    return compiled.signature.return_type(function, arguments), generate


# --- loops and parts -------------------------------------------------------------------------------------


def number_like(array: Any, value: Any) -> Any:
    """The value rounded to the dtype of the array."""


@overload(number_like, inline="always")
def _number_like(array: Any, value: Any) -> Any:
    if not isinstance(array, types.Array):
        return None
    number = array.dtype

    def rounded(array: Any, value: Any) -> Any:
        return number(value)

    return rounded


@inline
def prefetch_distance(param: Any, operands: int) -> int:
    """The prefetch distance in elements."""
    return _PREFETCH_ELEMENTS if param.nbytes * operands > PREFETCH_BYTES else 0


@inline
def number_of_parts(size: int, cost: float) -> int:
    """The number of threads for `size` elements that take `cost` nanoseconds each."""
    return min(numba.get_num_threads(), int(size * cost / NANOSECONDS_A_PART))


@inline
def first_of_part(part: int, parts: int, size: int) -> int:
    """The first element of a part; parts start at cache lines."""
    return size if part == parts else size * part // parts // BOUNDARY * BOUNDARY
