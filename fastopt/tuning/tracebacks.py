"""Tracebacks of users' code: their frames, without those of fastopt that lead to them."""

from __future__ import annotations

import traceback
from types import FrameType, TracebackType

OURS = ("fastopt", "importlib", "_frozen_importlib")
"""The packages whose frames a user has no use for."""


def is_ours(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0] in OURS


def _frames(found: TracebackType | None) -> list[FrameType]:
    return [frame for frame, _ in traceback.walk_tb(found)]


def users_traceback(error: BaseException) -> str:
    """The traceback of an error without our frames; empty if it has no others, as the message alone says it then."""
    shown = traceback.TracebackException.from_exception(error)
    if all(map(is_ours, _frames(error.__traceback__))) and not isinstance(error, SyntaxError):
        return ""
    _keep_users(shown, error)
    return "".join(shown.format())


def _keep_users(shown: traceback.TracebackException, error: BaseException) -> None:
    pairs = zip(shown.stack, _frames(error.__traceback__), strict=False)
    shown.stack = traceback.StackSummary.from_list([summary for summary, frame in pairs if not is_ours(frame)])
    for link, other in ((shown.__cause__, error.__cause__), (shown.__context__, error.__context__)):
        if link is not None and other is not None:
            _keep_users(link, other)
