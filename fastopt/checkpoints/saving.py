"""`fastopt.save` and `fastopt.load`."""

from __future__ import annotations

import contextlib
import functools
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from .._version import __version__
from ..checks import flag
from ..optimizers.base import Optimizer
from . import files
from .changes import Changes, without_interrupts
from .leaves import is_array, is_tensor
from .parts import Content, DictPart, GeneratorPart, OptimizerPart, Part, StatefulPart
from .trees import Writing, names_in, shortened

FORMAT = 1
"""The version of what files say in their metadata. A reader of a version reads all versions before it."""

KEY = "fastopt"
"""The name of the metadata."""

MAIN = "optimizer"
"""The name of the optimizer among the parts of a file."""

DAMAGE = (TypeError, ValueError, KeyError, IndexError, AttributeError, OverflowError, RecursionError)
"""What reading damaged content can raise."""


def save(path: str | os.PathLike[str], optimizer: Any, *, params: bool = True, **others: Any) -> None:
    """Save an optimizer, its parameters, and whatever else a training run goes on with, in one safetensors file.

    The file is written beside the old one, flushed to the disk, and renamed: whenever the process or the machine stops,
    the old file or the new one is there, whole. Arrays are written from their own memory, without a copy. The file
    holds no code, only arrays and JSON; any program that reads safetensors reads its arrays.

    Parameters
    ----------
    path: str or path-like
        The file, whose folder must exist. By convention it ends in `.safetensors`.
    optimizer: fastopt.Optimizer or torch.optim.Optimizer
        An optimizer of `fastopt`, `fastopt.torch` or `torch.optim`. Its states, counts and hyperparameters are saved,
        and what its schedules and options are, to be compared when it is loaded.
    params: bool, default True
        Whether the parameters are saved, too.
    **others: by a name for each
        What else is saved: anything with `state_dict` and `load_state_dict` (a plateau, a guard, a torch module,
        scheduler or another optimizer), a dict of arrays and of plain values (None, numbers, strings, lists, dicts), or
        a numpy.random.Generator. The names "path", "optimizer", "params" and "strict" are taken.

    Raises
    ------
    TypeError, ValueError
        Something cannot be saved. The message names it.
    OSError
        The file cannot be written (no space, no permission). The old file is unchanged, and nothing is left beside it.
    RuntimeError
        Another thread is in the middle of a step, or the averages are swapped in.
    ImportError
        The package safetensors is not installed: `pip install 'fastopt[files]'`.

    Notes
    -----
    Steps of the optimizer in other threads are refused while the file is written.

    See Also
    --------
    load : loads it. docs/checkpoints.md has examples for NumPy and PyTorch.

    Examples
    --------
    >>> import tempfile, numpy as np, fastopt
    >>> w, rng = np.ones(3), np.random.default_rng(0)
    >>> optimizer = fastopt.Adam({"w": w}, lr=0.1)
    >>> optimizer.step({"w": rng.standard_normal(3)})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     fastopt.save(f"{folder}/run.safetensors", optimizer, rng=rng, progress={"epoch": 1})
    ...     w[:], progress = 0, {"epoch": 0}
    ...     fastopt.load(f"{folder}/run.safetensors", optimizer, rng=rng, progress=progress)
    >>> progress, bool(w.all())
    ({'epoch': 1}, True)
    """
    flag("params", params)
    parts = _parts("save", optimizer, others)
    target = files.target_of(path)
    files.safetensors()
    for part in parts.values():
        part.look()

    def write() -> None:
        writing = Writing()
        content = {name: {"kind": part.kind, **part.saved(writing, params)} for name, part in parts.items()}
        text = json.dumps({"format": FORMAT, "version": __version__, "parts": content}, allow_nan=False)
        files.write(target, writing.leaves, {KEY: text})

    _claimed(list(parts.values()), write)


def load(
    path: str | os.PathLike[str], optimizer: Any, *, params: bool = True, strict: bool = True, **others: Any
) -> None:
    """Load what `save` saved, into the arrays that are there.

    Everything is checked first. Parameters, states and arrays in dicts are then copied from a memory map of the file
    into their own memory, all in one call that no KeyboardInterrupt interrupts, and the next step gives the same bits
    as it would have given when the file was saved.

    Parameters
    ----------
    path: str or path-like
        The file.
    optimizer: fastopt.Optimizer or torch.optim.Optimizer
        An optimizer constructed like the one that was saved: of the same class and convention, over parameters of the
        same names, shapes and dtypes, in the same groups. Hyperparameters that are numbers are loaded.
    params: bool, default True
        Whether parameters are loaded. A file that was saved with `params=False` is loaded with `params=False`.
    strict: bool, default True
        Whether schedules, options and settings of single parameters must be those that were saved, and the file must
        have nothing else than what is given. With False they may differ, and those of the optimizer stay as they are.
    **others: by the names under which they were saved
        Arrays in dicts are written in place, other values in dicts are replaced. Objects with `load_state_dict` are
        loaded by it, after the optimizer.

    Raises
    ------
    ValueError
        The file is damaged, or from something else than what is given. The message names the file and what differs.
        Nothing has been changed.
    OSError
        The file cannot be read. Nothing has been changed.
    RuntimeError
        Another thread is in the middle of a step, or the averages are swapped in. Nothing has been changed.
    TypeError, ImportError
        As in `save`.

    Notes
    -----
    If the `load_state_dict` of an object in `others` raises, those that were loaded before get their old state back,
    and nothing else has been changed. A signal that arrives while things are written is handled afterwards.

    A file of an older version of fastopt can always be loaded.

    See Also
    --------
    save : has an example.
    """
    flag("params", params)
    flag("strict", strict)
    parts = _parts("load", optimizer, others)
    stored = files.read(path)
    shown = os.fsdecode(path)
    content = _content(stored.metadata, shown)
    _check_names(shown, parts, content, strict)
    unused = set(stored.leaves) - set(names_in(list(content.values())))
    if unused:
        raise ValueError(f"{shown} has arrays that belong to nothing: {shortened(sorted(unused))}")
    for name, part in parts.items():
        with _named(f"{shown}: {name}: "):
            part.check(content[name], stored.leaves, params, strict)
    without_interrupts(functools.partial(_load, parts, shown))


def _load(parts: Mapping[str, Part], shown: str) -> None:
    done: dict[str, bool] = {}  # set together with all else

    def collect_and_write() -> None:
        changes = Changes()
        for part in parts.values():
            part.collect(changes)
        changes.updates.append((done, {"done": True}))
        changes.apply()

    attempted = []
    try:
        for name, part in parts.items():
            attempted.append(part)
            with _named(f"{shown}: {name}: "):
                part.attempt()
        _claimed(list(parts.values()), collect_and_write)
    except BaseException:
        if not done:
            for part in reversed(attempted):
                with contextlib.suppress(BaseException):  # that is, of the one that could not be loaded
                    part.undo()
        raise
    for name, part in parts.items():
        with _named(f"{shown}: {name}: "):
            part.finish()


def _claimed(parts: Sequence[Part], function: Callable[[], None]) -> None:
    """Call the function with other threads kept out of all parts."""
    for part in reversed(parts):
        function = functools.partial(part.claimed, function)
    function()


def _parts(function: str, optimizer: Any, others: Mapping[str, Any]) -> dict[str, Part]:
    """The parts by their names, the optimizer first."""
    try:
        main: Part | None = _part_of(MAIN, optimizer)
    except TypeError:
        main = None
    if main is None or not (isinstance(main, OptimizerPart) or main.kind == "torch optimizer"):
        raise TypeError(
            f"optimizer must be one of fastopt, fastopt.torch or torch.optim, got {shortened(optimizer)} of type "
            f"{type(optimizer).__name__}; give everything else by name, fastopt.{function}(path, optimizer, name=...)"
        )
    found, names = {MAIN: main}, {id(optimizer): MAIN}
    for name, value in others.items():
        if id(value) in names:
            raise ValueError(f"{name} and {names[id(value)]} are the same object")
        names[id(value)] = name
        found[name] = _part_of(name, value)
    return found


def _part_of(label: str, value: Any) -> Part:
    """The part that a value is.

    Raises
    ------
    TypeError
        It is none.
    """
    if isinstance(value, Optimizer):
        return OptimizerPart(label, value)
    if isinstance(value, (np.random.Generator, np.random.BitGenerator)):
        return GeneratorPart(label, value)
    if isinstance(value, dict):
        return DictPart(label, value)
    if any(each.__module__.split(".")[0] == "torch" for each in type(value).__mro__):
        from . import models

        part: Part | None = models.part_of(label, value)
        if part is not None:
            return part
    if callable(getattr(value, "state_dict", None)) and callable(getattr(value, "load_state_dict", None)):
        return StatefulPart(label, value)
    hint = (
        f"; give a dict, {label}={{...}}" if is_array(value) or is_tensor(value) or isinstance(value, Mapping) else ""
    )
    raise TypeError(
        f"{label} must have state_dict and load_state_dict, or be a dict or a numpy.random.Generator, "
        f"got {shortened(value)} of type {type(value).__name__}{hint}"
    )


def _content(metadata: Mapping[str, str], shown: str) -> dict[str, Content]:
    """What a file says of its parts."""
    if KEY not in metadata:
        raise ValueError(f"{shown} was not written by fastopt.save: it has no metadata named {KEY!r}")
    with _named(f"{shown} is damaged: "):
        content = json.loads(metadata[KEY])
        version = content["format"]
        if isinstance(version, bool) or not isinstance(version, int) or version < 1:
            raise ValueError(f"its format is {version!r}")
    if version > FORMAT:
        raise ValueError(
            f"{shown} was written by a newer fastopt, version {content.get('version')!r} with format {version}; "
            f"version {__version__} reads formats up to {FORMAT}"
        )
    with _named(f"{shown} is damaged: "):
        parts: dict[str, Content] = content["parts"]
        if not all(isinstance(part["kind"], str) for part in parts.values()):
            raise ValueError("a part has no kind")
    return parts


def _check_names(shown: str, parts: Mapping[str, Part], content: Mapping[str, Content], strict: bool) -> None:
    missing = [name for name in parts if name not in content]
    if missing:
        raise ValueError(f"{shown} does not have {', '.join(missing)}; it has {', '.join(content)}")
    more = [name for name in content if name not in parts]
    if more and strict:
        raise ValueError(
            f"{shown} also has {', '.join(more)}: give what each is loaded into by this name, or strict=False"
        )
    for name, part in parts.items():
        if content[name]["kind"] != part.kind:
            hint = ""
            if {content[name]["kind"], part.kind} == {"optimizer", "torch optimizer"}:
                hint = "; fastopt.torch.convert_state_dict converts state dicts between the two"
            raise ValueError(f"{shown}: {name} is a {content[name]['kind']} in the file and a {part.kind} here{hint}")


@contextlib.contextmanager
def _named(prefix: str) -> Iterator[None]:
    """Errors of content as ValueErrors that begin with the file's name."""
    try:
        yield
    except DAMAGE as error:
        words = error.args[0] if error.args and isinstance(error, ValueError | TypeError) else repr(error)
        raise ValueError(f"{prefix}{words}") from error
