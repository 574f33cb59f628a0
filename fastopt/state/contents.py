"""What an optimizer is made of, all of it together; it is replaced as a whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..definitions.specs import Spec
from ..kernels.backends import Memory
from ..kernels.engine.contract import Progress, SegmentRecords, SegmentSettings
from ..step.nonfinite import NonfiniteGradients
from ..step.operations import carried_numbers, extra_states
from ..step.param_storage import ParamStorage, param_storage
from .groups import ParamGroup
from .param_tree import ParamTree
from .parameters import Parameters
from .states import States, initial_states


@dataclass(eq=False, repr=False)
class Contents:
    """The parameters of an optimizer and everything that it keeps of them.

    Steps write into the arrays, and users assign to groups. All other changes make new contents: those in use stay as
    they are until an engine for the new ones is ready.

    Attributes
    ----------
    spec: which optimizer it is.
    options: the options of a step.
    params: the parameters.
    groups: their groups, with hyperparameters.
    states: the states of each parameter.
    storages: how each parameter and its states are stored.
    settings: what the user sets of each parameter.
    records: what engines keep of each parameter.
    progress: counts and norms of all parameters together.
    report: the count of steps whose gradients could not be used.
    gradients: the gradients that are bound to the optimizer, or None.
    seed: of stochastic rounding.
    kept_averages: while parameters are exchanged with their averages, what keeps something of each parameter: the
        averages, if parameters cannot hold them; or, of averages that follow from parameters and a state, what the
        parameters were before. It says something while `progress.swapped` alone.
    unpickled: whether arrays that steps write to may be read-only, as maps of files are.
    """

    spec: Spec
    options: dict[str, Any]
    params: Parameters
    groups: list[ParamGroup]
    states: list[States]
    storages: list[ParamStorage]
    settings: SegmentSettings
    records: SegmentRecords
    progress: Progress
    report: NonfiniteGradients
    gradients: list[Any] | None
    seed: int = 0
    kept_averages: list[Any] = field(default_factory=list)
    unpickled: bool = False

    @staticmethod
    def new(
        spec: Spec,
        options: dict[str, Any],
        tree: ParamTree,
        groups: list[ParamGroup],
        memory: Memory,
        gradients: list[Any] | None,
        unpickled: bool = False,
        storages: list[ParamStorage] | None = None,
    ) -> Contents:
        """The contents of an optimizer before its first step; `storages` are those of the options by default.

        Raises
        ------
        TypeError, ValueError
            A parameter is not usable.
        """
        params = Parameters(tree, [group["params"] for group in groups], memory, unpickled=unpickled)
        report = NonfiniteGradients(options["nonfinite"], options["max_consecutive_skips"])
        contents = Contents(
            spec,
            options,
            params,
            groups,
            [],
            storages or [],
            SegmentSettings.of(len(params)),
            SegmentRecords.of(len(params), carried_numbers(spec, options).values()),
            Progress.new(spec.common_starts(groups[0]).values()),
            report.labelled(params.tree.labels("grads"), params.sizes),
            gradients,
            options["seed"],
            unpickled=unpickled,
        )
        if storages is None:
            for index in range(len(groups)):
                contents.storages += contents.storages_of(index)
        for index in range(len(groups)):
            contents.states += contents.new_states(index)
        return contents

    def with_group(self, tree: ParamTree, group: ParamGroup, gradients: list[Any] | None) -> Contents:
        """These contents and one more group, whose parameters were given in a tree of their own."""
        params, added = self.params.with_group(tree, group["params"]), tree.size
        contents = replace(
            self,
            params=params,
            groups=[*self.groups, group],
            settings=self.settings.extended(SegmentSettings.of(added)),
            records=self.records.extended(SegmentRecords.of(added, carried_numbers(self.spec, self.options).values())),
            report=self.report.labelled(params.tree.labels("grads"), params.sizes),
            gradients=gradients,
            unpickled=False,  # all parameters were checked
        )
        contents.storages = [*self.storages, *contents.storages_of(len(self.groups))]
        contents.states = [*self.states, *contents.new_states(len(self.groups))]
        return contents

    def first_read_only(self) -> str | None:
        """The name of the first array that steps write to and cannot; None if there is none."""
        if not self.unpickled:
            return None
        written = list(zip(self.params.tree.labels("params"), self.params.arrays, strict=True))
        if self.options["zero_grads"] and self.gradients is not None:
            written += zip(self.params.tree.labels("grads"), self.gradients, strict=True)
        memory = self.params.memory
        found = [label for label, each in written if each is not None and not memory.is_writable(each)]
        return found[0] if found else None

    def check_writable(self) -> None:
        """Raise a ValueError if an array that steps write to is read-only, as unpickled ones can be."""
        label = self.first_read_only()
        if label is not None:
            raise ValueError(
                f"{label} is read-only: it was unpickled into memory that cannot be written to. joblib maps large "
                'arrays from files for its workers: there, max_nbytes=None copies them, and mmap_mode="c" makes them '
                "writable. Buffers of pickle's protocol 5 must be writable themselves"
            )

    def new_states(self, index: int, names: Sequence[str] | None = None) -> list[States]:
        """Initial states for the parameters of a group, by default those that it needs.

        From then on, the group refuses hyperparameters that would need others.
        """
        group, params, span = self.groups[index], self.params, self.params.spans[index]
        wanted = (*self.spec.states(group), *extra_states(self.options)) if names is None else names
        group.fix_states(wanted)
        storages = self.storages[span.start : span.stop]
        return initial_states(self.spec, group, params.of_group(index), wanted, params.memory, storages)

    def storages_of(self, index: int) -> list[ParamStorage]:
        """How the options have the parameters of a group stored.

        Raises
        ------
        TypeError
            They are not possible with the dtype of a parameter.
        """
        group, params = self.groups[index], self.params
        labels = params.tree.labels("params")
        return [
            param_storage(labels[position], self.spec, group, self.options, param.dtype.name, param.size)
            for position, param in zip(params.spans[index], params.of_group(index), strict=True)
        ]
