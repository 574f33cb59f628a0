"""CUDA's handles of the streams of other libraries."""

from __future__ import annotations

from typing import Any


def stream_handle(stream: Any) -> int:
    """CUDA's handle of a stream.

    Parameters
    ----------
    stream: int, or object with `__cuda_stream__`
        A handle (0: the legacy default stream; `torch.cuda.current_stream().cuda_stream` is one), or an object that
        gives it: `cuda.core` streams, CuPy's and Numba's streams by their protocol.

    Raises
    ------
    TypeError
        It is neither.
    """
    protocol = getattr(stream, "__cuda_stream__", None)
    if protocol is not None:
        _, handle = protocol() if callable(protocol) else protocol
        return int(handle)
    for name in ("cuda_stream", "ptr"):  # torch, CuPy
        handle = getattr(stream, name, None)
        if isinstance(handle, int) and not isinstance(handle, bool):
            return handle
    if isinstance(stream, int) and not isinstance(stream, bool) and stream >= 0:
        return stream
    raise TypeError(
        f"stream must be a CUDA stream handle (an int, at least 0) or a stream of Numba, CuPy, torch or cuda.core, "
        f"got {stream!r}"
    )
