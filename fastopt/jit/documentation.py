"""The docstrings of the rendered functions."""

from __future__ import annotations

from ..definitions.signatures import GRAD_SCALE, Signature

_ARRAYS = """\
param: C-contiguous array of float32 or float64
        Changed in place; any shape.
    grad: array of the same shape and dtype
        Read only."""

_STATE = "state: NamedTuple\n        The result of `{state}(param)`; changed in place, and its `step` is incremented."

_SINGLE = """\
{arrays}: array of the same shape and dtype
        Changed in place.
    step: int
        The number of the update, from 1.{carried}"""

_CARRIED = """
    {name}: float
        {start} in the first call, then the result of the call before."""

_NUMBERS = """
    {names}: float
        As in `fastopt.{optimizer}`: {expected}.
    {scale}: float
        The gradient is divided by it."""

_WHAT = {
    "step": "One update of `{optimizer}` ({convention}), in place.",
    "parallel": "`{step}` on Numba's threads, for large arrays outside parallel regions; the result has the same bits.",
    "update": "One update of `{optimizer}` ({convention}), in place, with states passed as arrays.",
    "update_parallel": "The same on Numba's threads, for large arrays outside parallel regions; the same bits.",
    "state": "A new state of `{optimizer}` for `param`.",
}


def documentation(signature: Signature, function: str) -> str:
    """The docstring of one of a signature's functions."""
    what = _WHAT[function].format(
        optimizer=signature.spec.name, convention=signature.spec.convention, step=signature.name
    )
    parts = [what, "", "    Parameters", "    ----------"]
    if function == "state":
        parts.append("    param: C-contiguous array of float32 or float64")
        parts += [f"    {name}: float, at least 0" for name in signature.initial_arguments]
        return "\n".join([*parts, "    "])
    parts.append("    " + _ARRAYS)
    if function in ("step", "parallel"):
        parts.append("    " + _STATE.format(state=signature.name + "_state"))
    else:
        carried = "".join(_CARRIED.format(name=name, start=start) for name, start in signature.spec.carried.items())
        single = _SINGLE.format(arrays=", ".join(signature.states), carried=carried)
        parts.append("    " + (single if signature.states else single.partition("\n")[2].partition("\n")[2].strip()))
    bounds = [bound for name in signature.hyperparameters if (bound := signature.bound(name)) is not None]
    numbers = _NUMBERS.format(
        names=", ".join(signature.hyperparameters),
        optimizer=signature.spec.name,
        expected=", ".join(bounds) or "its checks",
        scale=GRAD_SCALE,
    )
    parts.append(numbers.removeprefix("\n"))
    parts += ["", "    Raises", "    ------", "    ValueError"]
    parts.append("        Shapes differ or a number is out of range; nothing was changed.")
    parts += ["    numba.TypingError", "        An array is of another dtype, not C-contiguous or read-only.", "    "]
    return "\n".join(parts)
