# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# cython: binding=True, embedsignature=True
"""Walks over torch's tensors in compiled code: finds the gradients of a step, and all changes since the last step.

This module reads a tensor's memory, dtype and shape through DLPack, so it is compiled without torch. It passes the
addresses of gradients to an engine.
"""

from cpython.dict cimport PyDict_GetItem
from libc.stdint cimport int64_t, uint8_t, uintptr_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

cimport cython
cimport numpy as cnp

from types import MemberDescriptorType

from fastopt.kernels.native.engine cimport Engine, Pieces, WatchedArrays

cnp.import_array()

include "found.pxi"
include "dlpack.pxi"
include "state_numbers.pxi"

cdef extern from "Python.h":  # by pointer: others keep the objects alive, so a lookup counts no references
    int PyDict_Next(PyObject *container, Py_ssize_t *position, PyObject **key, PyObject **value) noexcept
    Py_ssize_t PyDict_Size(PyObject *container) noexcept
    PyObject **PySequence_Fast_ITEMS(tuple items) noexcept
    ctypedef PyObject *(*descrgetfunc)(object descriptor, object owner, object owner_type) except NULL  # a new reference
    ctypedef struct PyTypeObject:
        descrgetfunc tp_descr_get
    PyObject *PyList_GET_ITEM(list items, Py_ssize_t index) noexcept
    PyTypeObject *Py_TYPE(object) noexcept
    Py_ssize_t Py_REFCNT(PyObject *) noexcept
    void Py_XDECREF(PyObject *) noexcept
    void Py_INCREF(PyObject *) noexcept
    ctypedef struct PyMemberDef:
        Py_ssize_t offset
    ctypedef struct PyMemberDescrObject:
        PyMemberDef *d_member

include "tensor_lists.pxi"

cdef struct Placement:              # the memory layout that a parameter has and its gradient must have
    char *data
    int32_t ndim
    Py_ssize_t size
    uint8_t code                 # its dtype, as DLPack has it
    uint8_t bits
    Py_ssize_t first             # where its shape starts in `NativeWalk.extents`; its strides follow
    char *flat                   # the address of its gradient when gradients lie one after the other
    Py_ssize_t first_kept        # where its states start in `NativeWalk.kept`
    Py_ssize_t end_kept
    bint refused                 # its gradient is not what memory says: of one element that negates it, or no such shard
    char *apart                  # the address of its last gradient, known not to overlap any memory that a step writes
    uint8_t apart_bits           # of the elements of that gradient

cdef struct Kept:                # a state or a number, and the address at which the engine expects it
    PyObject *tensor
    char *data
    PyObject *whole              # the DTensor whose shard the tensor is, or NULL

cdef struct StatesOf:            # a parameter's entry in the owner's dict of states, and the values in it
    PyObject *param
    PyObject *states             # NULL: the key is no parameter; whatever it stands for may change
    Py_ssize_t n_values
    Py_ssize_t first             # where its values start in `NativeWalk.state_values`
    Py_ssize_t position          # the position from which PyDict_Next finds it

cdef inline PyObject *in_slot(PyObject *container, Py_ssize_t offset) noexcept:
    """What an object has in a slot, which keeps it; NULL for nothing."""
    return (<PyObject **>(<char *>container + offset))[0]


cdef double NANOSECONDS_TO_SHARE = 500000.0  # the least work during which other Python threads may run


cdef bint holds(PyObject *container, PyObject *const *values, Py_ssize_t n_values) noexcept:
    """Whether a dict's values are exactly these objects, in this order."""
    cdef Py_ssize_t position = 0, index = 0
    cdef PyObject *key
    cdef PyObject *value
    if PyDict_Size(container) != n_values:
        return False
    while PyDict_Next(container, &position, &key, &value):
        if value != values[index]:
            return False
        index += 1
    return True


@cython.final
cdef class NativeWalk:
    """Steps an engine whose parameters and gradients are tensors with an attribute `grad`.

    Before each step, it compares everything that can change between steps (gradients, hyperparameters, the states in
    the owner's dict, the addresses of parameters) with the last step, by identity and address.

    Parameters
    ----------
    plain: type
        The type of tensors; it has DLPack's exchange interface, `__dlpack_c_exchange_api__`.
    attribute: descriptor
        Gets a tensor's `grad`. It is looked up once, not in the base classes of every tensor at every step.
    engine: Engine
    groups: list of (dict of hyperparameters with "params", tuple of its values, whether a value can change in place)
    segments: list of int
        For each parameter of all groups, its segment in the engine, or a `found.NoSegment`.
    memory: list of tensors, one per segment
        The tensors that hold the engine's segments: the parameters, or tensors that stand for them.
    counts_steps: bool
        Whether the first of each segment's numbers is its count of steps.
    numbers: list of lists of NumPy arrays of one element, one list per segment
        Of float32 or float64; counts of steps of int32 or int64, too.
        The count of steps, if `counts_steps`, then the numbers that coefficients carry from step to step, in the
        engine's order. They are read before a step and written after it, so a float32 is rounded after each step.
    kept: list of lists of tensors, one list per segment
        The tensors that hold the engine's states, then the tensors that hold its numbers.
    states: dict
        The owner's dict of states: parameter -> dict of its states.
    increment_version: callable(list of tensors)
        Called after a step with the tensors that the step wrote to.
    access: `shards.Access` or None
        How to get to the shards of DTensors, if parameters are some.
    runs_python: bool
        Whether to get a gradient can run Python code, as it can with subclasses of tensors.
    """

    cdef ExchangeInterface *interface
    cdef object attribute
    cdef descrgetfunc get_gradient
    cdef object plain            # the type of gradients that are fully described by their memory; subclasses may not be
    cdef readonly Engine engine
    cdef list groups
    cdef list params
    cdef Py_ssize_t n_params
    cdef Py_ssize_t *segments
    cdef list memory
    cdef list arrays             # the arrays that hold the numbers
    cdef list alive              # the objects that the pointers of `states` and `state_values` point to
    cdef StatesOf *states
    cdef PyObject **state_values
    cdef Py_ssize_t n_states
    cdef Py_ssize_t *state_of    # for each parameter, the index of its entry in `states`, or -1
    cdef object increment_version
    cdef bint runs_python        # getting a gradient can run Python code, which can do anything to states
    cdef list stepped            # the parameters of the segments, in the order of the segments
    cdef Engine flat             # steps all segments as fewer and longer ones, or None
    cdef list flat_lengths       # the number of segments in each segment of `flat`
    cdef bint shares             # whether other Python threads may run during a step
    cdef Placement *placements
    cdef int64_t *extents
    cdef bint counts_steps
    cdef Py_ssize_t n_numbers    # of each segment
    cdef Number *numbers
    cdef list kept_alive         # the objects that the pointers of `kept` point to
    cdef Kept *kept
    cdef readonly list odd       # (segment, gradient)
    cdef PyObject **found        # for each parameter, its gradient in the step under way, which this keeps; or NULL
    cdef object access           # None: no parameter is a DTensor
    cdef object sharded          # the type of DTensors
    cdef Py_ssize_t local_slot, spec_slot  # where a DTensor keeps its shard and its spec
    cdef list shards             # for each parameter its shard, or None; what the step writes to, as the walk was made
    cdef list specs              # for each parameter the spec of its last gradient, which was right
    cdef list written            # the tensors that the step under way writes to

    def __cinit__(self, plain, attribute, Engine engine, list groups, list segments, list memory, bint counts_steps,
                  list numbers, list kept, states, increment_version, access, bint runs_python):
        cdef Py_ssize_t index, each, n_extents = 0, n_kept = 0, n_segments = len(memory)
        cdef double work = 0
        cdef DLTensor description
        self.interface = exchange_interface(plain.__dlpack_c_exchange_api__)
        self.plain = plain
        self.attribute = attribute
        self.get_gradient = Py_TYPE(attribute).tp_descr_get
        if self.get_gradient == NULL:
            raise TypeError(f"expected the descriptor of an attribute, got {attribute!r}")
        self.engine = engine
        self.groups = groups
        self.params = [param for group, _, _ in groups for param in group["params"]]
        self.n_params = len(self.params)
        self.memory = memory
        self.arrays = numbers
        self.counts_steps = counts_steps
        self.n_numbers = counts_steps + engine.n_carried
        self.kept_alive = kept
        self.increment_version = increment_version
        self.runs_python = runs_python
        for index, tensor in enumerate(memory):
            if not describe_tensor(self.interface, <PyObject *>tensor, &description):
                raise TypeError(f"parameter {index} has no memory that DLPack can describe")
            n_extents += 2 * description.ndim
        self.segments = <Py_ssize_t *>calloc(max(self.n_params, 1), sizeof(Py_ssize_t))
        self.found = <PyObject **>calloc(max(self.n_params, 1), sizeof(PyObject *))
        self.placements = <Placement *>calloc(max(n_segments, 1), sizeof(Placement))
        self.extents = <int64_t *>calloc(max(n_extents, 1), sizeof(int64_t))
        self.numbers = <Number *>calloc(max(n_segments * self.n_numbers, 1), sizeof(Number))
        self.kept = <Kept *>calloc(max(sum([len(tensors) for tensors in kept]), 1), sizeof(Kept))
        if not (self.segments and self.found and self.placements and self.extents and self.numbers and self.kept):
            raise MemoryError("no memory for the table of tensors")
        n_extents = 0
        self.take_access(access)
        self.stepped = [None] * n_segments
        for index in range(self.n_params):
            self.segments[index] = segments[index]
            if segments[index] >= 0:
                self.stepped[segments[index]] = self.params[index]
                if access is not None and self.shards[index] is not None:
                    self.stepped.append(self.shards[index])
        for index in range(n_segments):
            if not describe_tensor(self.interface, PyList_GET_ITEM(memory, index), &description):
                raise TypeError(f"parameter {index} has no memory that DLPack can describe")
            self.placements[index].data = description.data
            self.placements[index].ndim = description.ndim
            self.placements[index].size = n_elements(&description)
            self.placements[index].code = description.code
            self.placements[index].bits = description.bits
            self.placements[index].first = n_extents
            for axis in range(description.ndim):
                self.extents[n_extents + axis] = description.shape[axis]
                self.extents[n_extents + description.ndim + axis] = description.strides[axis]
            n_extents += 2 * description.ndim
            self.placements[index].first_kept = n_kept
            for each, tensor in enumerate(kept[index]):
                if not describe_tensor(self.interface, <PyObject *>tensor, &description):
                    raise TypeError(f"a state of parameter {index} has no memory that DLPack can describe")
                self.kept[n_kept].tensor = <PyObject *>tensor
                self.kept[n_kept].data = description.data
                if access is not None and access.wholes[index][each] is not None:
                    self.kept[n_kept].whole = <PyObject *>access.wholes[index][each]
                n_kept += 1
            self.placements[index].end_kept = n_kept
            work += engine.cost(index)
            for each in range(self.n_numbers):
                self.numbers[index * self.n_numbers + each] = number_in(numbers[index][each])
        self.shares = work > NANOSECONDS_TO_SHARE
        engine.keeps_gil = not self.shares
        self.keep_states(states)

    cdef int take_access(self, access) except -1:
        """Note how to get to the shards of DTensors."""
        self.access = access
        if access is None:
            return 0
        self.sharded = access.sharded
        if not (isinstance(access.local, MemberDescriptorType) and isinstance(access.spec, MemberDescriptorType)):
            raise TypeError(f"expected the slots of a class, got {access.local!r} and {access.spec!r}")
        self.local_slot = (<PyMemberDescrObject *><PyObject *>access.local).d_member.offset
        self.spec_slot = (<PyMemberDescrObject *><PyObject *>access.spec).d_member.offset
        self.shards = access.shards
        self.specs = [None] * self.n_params
        return 0

    cdef int keep_states(self, states) except -1:
        """Note the contents of the owner's dict of states."""
        cdef Py_ssize_t index, first = 0, position = 0
        cdef PyObject *key
        cdef PyObject *value_of_key
        self.n_states = len(states)
        stepped = set(map(id, self.params))
        self.alive = [
            (param, own, tuple(dict.values(own))) if id(param) in stepped else (param, None, ())
            for param, own in states.items()
        ]
        self.states = <StatesOf *>calloc(max(self.n_states, 1), sizeof(StatesOf))
        self.state_values = <PyObject **>calloc(
            max(sum([len(values) for _, _, values in self.alive]), 1), sizeof(PyObject *)
        )
        self.state_of = <Py_ssize_t *>calloc(max(self.n_params, 1), sizeof(Py_ssize_t))
        if not (self.states and self.state_values and self.state_of):
            raise MemoryError("no memory for the table of states")
        positions = {id(param): index for index, (param, _, _) in enumerate(self.alive)}
        for index in range(self.n_params):
            self.state_of[index] = positions.get(id(self.params[index]), -1)
        for index, (param, own, values) in enumerate(self.alive):
            self.states[index].param = <PyObject *>param
            self.states[index].states = NULL if own is None else <PyObject *>own
            self.states[index].n_values = len(values)
            self.states[index].first = first
            self.states[index].position = position
            PyDict_Next(<PyObject *>states, &position, &key, &value_of_key)
            for value in values:
                self.state_values[first] = <PyObject *>value
                first += 1
        return 0

    def __dealloc__(self):
        free(self.states)
        free(self.state_values)
        free(self.state_of)
        free(self.segments)
        free(self.found)  # empty after each step
        free(self.placements)
        free(self.extents)
        free(self.numbers)
        free(self.kept)

    def are_states_held(self, dict owner, Py_ssize_t n_walks):
        """Whether there are references to `owner["state"]`, its dicts or their tensors beside those that are known.

        They are those of the owner, of `n_walks` walks like this, and two more to each tensor: in this walk's `kept`
        (for DTensors in `access`), and in the lists that it was made from.
        """
        cdef Py_ssize_t index, n_kept = 0
        cdef PyObject *states = PyDict_GetItem(owner, "state")
        if states == NULL or Py_REFCNT(states) > 1:
            return True
        for index in range(self.n_states):
            if self.states[index].states != NULL and Py_REFCNT(self.states[index].states) > 1 + n_walks:
                return True
        if self.engine.n_segments:
            n_kept = self.placements[self.engine.n_segments - 1].end_kept
        for index in range(n_kept):
            if self.kept[index].whole != NULL:  # which has the tensor, and is itself in the owner's dicts
                if Py_REFCNT(self.kept[index].whole) > 1 + n_walks + 2 or Py_REFCNT(self.kept[index].tensor) > 1 + 2:
                    return True
            elif Py_REFCNT(self.kept[index].tensor) > 1 + n_walks + 2:
                return True
        return False

    def set_values(self, Py_ssize_t index, tuple values, bint changes_in_place):
        """Note the current hyperparameters of a group."""
        self.groups[index] = (self.groups[index][0], values, changes_in_place)

    def set_flat(self, Engine flat, list lengths, list addresses):
        """Let another engine step neighbouring segments in memory as one; `lengths` says how many are one.

        The other engine runs a step if all gradients are at these addresses, where they also lie one after the other.
        """
        cdef Py_ssize_t index
        if sum(lengths) != self.engine.n_segments or len(lengths) != flat.n_segments:
            raise ValueError(f"{lengths} segments do not make up {self.engine.n_segments}")
        self.flat = flat
        self.flat_lengths = lengths
        for index in range(self.engine.n_segments):
            self.placements[index].flat = <char *><uintptr_t>addresses[index]
        flat.keeps_gil = not self.shares

    cdef bint is_flat(self) noexcept:
        """Whether the other engine can step the long segments.

        Every gradient must be at its address; all segments within a long one must have equal counts of steps and equal
        carried numbers.
        """
        cdef Py_ssize_t index, first = 0
        cdef char *accepted
        for length in self.flat_lengths:
            for index in range(first, first + <Py_ssize_t>length):
                accepted = self.engine.arrays.accepted[index]
                if accepted == NULL or (accepted != self.placements[index].flat and self.placements[index].size):
                    return False
                if self.engine.arrays.direct[index]:
                    return False
                if self.engine.steps[index] != self.engine.steps[first]:
                    return False
                if not self.engine.carry_alike(index, first):
                    return False
            first += <Py_ssize_t>length
        return True

    cdef int advance_flat(self, int n_threads) except -1:
        cdef Py_ssize_t index, k, each, first = 0, n_carried = self.engine.n_carried
        self.flat.n_threads = n_threads
        for k, length in enumerate(self.flat_lengths):
            self.flat.steps[k] = self.engine.steps[first]
            for each in range(n_carried):
                self.flat.carried[k * n_carried + each] = self.engine.carried[first * n_carried + each]
            self.flat.arrays.accepted[k] = self.placements[first].flat
            first += <Py_ssize_t>length
        self.flat.take_gradients()
        self.flat.advance()
        first = 0
        for k, length in enumerate(self.flat_lengths):
            for index in range(first, first + <Py_ssize_t>length):
                self.engine.steps[index] = self.flat.steps[k]
                for each in range(n_carried):
                    self.engine.carried[index * n_carried + each] = self.flat.carried[k * n_carried + each]
            first += <Py_ssize_t>length
        return 0

    cdef bint lies_alike(self, const Placement *placement, const DLTensor *description) noexcept:
        """Whether a tensor has a segment's shape and strides, in main memory, and a dtype that gradients can have there.

        That is the parameter's or, where it is a half, float32. A dimension of length 1 may have any stride, and so may
        all dimensions of a tensor without elements.
        """
        cdef const int64_t *shape = self.extents + placement.first
        cdef const int64_t *strides = shape + placement.ndim
        cdef int axis
        if description.ndim != placement.ndim or not (
            holds_numbers(description, placement.code, placement.bits)
            or (placement.bits == HALF_BITS and holds_numbers(description, DLPACK_FLOAT, SINGLE_BITS))
        ):
            return False
        for axis in range(placement.ndim):
            if description.shape[axis] != shape[axis]:
                return False
            if shape[axis] != 1 and placement.size and description.strides[axis] != strides[axis]:
                return False
        return True

    cdef int compare_one(self, Py_ssize_t only, states, bint reread) except -1:
        """Do the work of `compare` for a single parameter."""
        cdef Py_ssize_t k, position, index = only
        cdef PyObject *key
        cdef PyObject *value
        cdef tuple known
        cdef const StatesOf *expected
        for k in range(len(self.groups)):
            known = <tuple>self.groups[k]
            params = (<dict>known[0])["params"]
            if index < len(params):
                break
            index -= len(params)
        else:
            return REBUILD
        if params[index] is not self.params[only] or PyDict_Size(<PyObject *>states) != self.n_states:
            return REBUILD
        if self.state_of[only] >= 0:
            expected = &self.states[self.state_of[only]]
            position = expected.position
            if (
                not PyDict_Next(<PyObject *>states, &position, &key, &value)
                or key != expected.param
                or value != expected.states
                or not holds(expected.states, self.state_values + expected.first, expected.n_values)
            ):
                return REBUILD
        return READY if reread or self.has_known_values(known) else REREAD

    cdef bint has_known_values(self, tuple known) noexcept:
        """Whether a group's hyperparameters are unchanged."""
        return not known[2] and holds(
            <PyObject *>known[0], PySequence_Fast_ITEMS(<tuple>known[1]), len(<tuple>known[1])
        )

    cdef int compare(self, list param_groups, states, bint reread) except -1:
        """Whether groups, their hyperparameters (unless they were just `reread`) and the states are unchanged."""
        cdef Py_ssize_t k, position = 0, index = 0
        cdef int result = READY
        cdef PyObject *key
        cdef PyObject *value
        cdef const StatesOf *expected
        cdef list params
        cdef tuple known
        if len(param_groups) != len(self.groups) or PyDict_Size(<PyObject *>states) != self.n_states:
            return REBUILD
        for k in range(len(self.groups)):
            known = <tuple>self.groups[k]
            if param_groups[k] is not known[0]:
                return REBUILD
            if not reread and not self.has_known_values(known):
                result = REREAD
            params = (<dict>known[0])["params"]
            if index + len(params) > self.n_params:
                return REBUILD
            for param in params:
                if param is not self.params[index]:
                    return REBUILD
                index += 1
        if index != self.n_params:
            return REBUILD
        expected = self.states
        while PyDict_Next(<PyObject *>states, &position, &key, &value):
            if key != expected.param:
                return REBUILD
            if expected.states != NULL and (
                value != expected.states
                or not holds(value, self.state_values + expected.first, expected.n_values)
            ):
                return REBUILD
            expected += 1
        return result

    cdef bint keeps_states(self, const Placement *placement) noexcept:
        """Whether a segment's states are at their known addresses.

        Assigning to a state's `data`, or moving it to shared memory, changes its address.
        """
        cdef const Kept *kept
        cdef DLTensor description
        cdef Py_ssize_t index
        for index in range(placement.first_kept, placement.end_kept):
            kept = &self.kept[index]
            if not describe_tensor(self.interface, kept.tensor, &description) or description.data != kept.data:
                return False
            if kept.whole != NULL and in_slot(kept.whole, self.local_slot) != kept.tensor:
                return False
        return True

    cdef int find_shards(self, Py_ssize_t first, Py_ssize_t last) except -1:
        cdef Py_ssize_t index
        for index in range(first, last):
            if self.found[index] != NULL and self.segments[index] >= 0 and self.shards[index] is not None:
                self.find_shard(index)
        return 0

    cdef int find_shard(self, Py_ssize_t index) except -1:
        """Let the shard of a DTensor's gradient that was fetched take its place, if it is one like the parameter's."""
        cdef PyObject *gradient = self.found[index]
        cdef PyObject *shard
        cdef PyObject *spec
        cdef Placement *placement = &self.placements[self.segments[index]]
        placement.refused = True
        if type(<object>gradient) is not self.sharded:
            return 0
        spec, shard = in_slot(gradient, self.spec_slot), in_slot(gradient, self.local_slot)
        if spec == NULL or shard == NULL:
            return 0
        if spec != PyList_GET_ITEM(self.specs, index) or type(<object>shard) is not self.plain:  # or it is under way
            if self.access.readable(self.params[index], <object>gradient) is None:
                return 0
            self.specs[index] = <object>in_slot(gradient, self.spec_slot)
            shard = in_slot(gradient, self.local_slot)
        Py_INCREF(shard)
        self.found[index] = shard
        Py_XDECREF(gradient)
        placement.refused = placement.size == 1 and (<object>shard).is_neg()
        return 0

    cdef int fetch(self, Py_ssize_t first, Py_ssize_t last) except -1:
        """Get the gradients of parameters [first, last), to be dropped by `drop`.

        Python may run here: torch functions of subclasses and modes. After this, until a step is done, none runs.
        """
        if self.access is None:
            return self.fetch_each(first, last)
        if self.runs_python:
            self.fetch_each(first, last)
        else:
            with self.access.without_torch_functions():  # DTensors have none, which torch would find out for each
                self.fetch_each(first, last)
        return self.find_shards(first, last)

    cdef int fetch_each(self, Py_ssize_t first, Py_ssize_t last) except -1:
        cdef Py_ssize_t index
        cdef PyObject *gradient
        cdef Placement *placement
        for index in range(first, last):
            if self.segments[index] == ELSEWHERE:
                continue
            param = self.params[index]
            gradient = self.get_gradient(self.attribute, param, type(param))
            if gradient == <PyObject *>None:
                Py_XDECREF(gradient)
                continue
            self.found[index] = gradient
            if self.segments[index] >= 0:
                placement = &self.placements[self.segments[index]]
                if placement.size == 1 and type(<object>gradient) is self.plain:  # larger ones do not pass for memory
                    placement.refused = (<object>gradient).is_neg()
        return 0

    cdef void drop(self, Py_ssize_t first, Py_ssize_t last) noexcept:
        """Drop the gradients that were fetched."""
        cdef Py_ssize_t index
        cdef PyObject *gradient
        for index in range(first, last):
            gradient = self.found[index]
            self.found[index] = NULL
            Py_XDECREF(gradient)

    cdef bint is_readable(self, PyObject *gradient, Placement *placement, DLTensor *description) noexcept:
        """Whether a kernel can read a gradient as it is, which is then described."""
        return (
            type(<object>gradient) is self.plain
            and describe_tensor(self.interface, gradient, description)
            and self.lies_alike(placement, description)
            and (
                not placement.size
                or (
                    description.data == placement.apart
                    and description.bits == placement.apart_bits
                    and description.data != NULL
                )
                or (
                    has_memory(gradient, description)
                    and not self.engine.arrays.is_written(
                        description.data, description.data + placement.size * (description.bits // 8)
                    )
                )
            )
        )

    cdef int gather(self, dict replacements, Py_ssize_t first, Py_ssize_t last, bint thorough) except -1:
        """Note the addresses of the gradients; `replacements` holds, by segment, tensors that replace gradients."""
        cdef Py_ssize_t index, segment, n_found = 0
        cdef bint refused, sharded = self.access is not None
        cdef Placement *placement
        cdef DLTensor description
        cdef WatchedArrays arrays = self.engine.arrays
        cdef PyObject *found
        cdef PyObject *param
        self.odd, self.written = [], []
        if last - first < self.n_params:
            memset(arrays.accepted, 0, self.engine.n_segments * sizeof(char *))
        for index in range(first, last):
            segment = self.segments[index]
            if segment == ELSEWHERE:
                continue
            found = self.found[index]
            if found == NULL:
                if segment >= 0:
                    arrays.accepted[segment] = NULL
                continue
            if segment < 0:
                return REBUILD
            placement = &self.placements[segment]
            param = PyList_GET_ITEM(self.params, index)
            if sharded and PyList_GET_ITEM(self.shards, index) != <PyObject *>None:
                param = in_slot(param, self.local_slot)
                if param != PyList_GET_ITEM(self.shards, index):
                    return REBUILD
            if param == PyList_GET_ITEM(self.memory, segment) and not (
                describe_tensor(self.interface, param, &description)
                and description.data == placement.data
                and description.bits == placement.bits
                and self.lies_alike(placement, &description)
            ):
                return REBUILD
            if thorough and not self.keeps_states(placement):
                return REBUILD
            refused = placement.refused
            if replacements:
                replacement = replacements.get(segment, <object>found)
                refused = refused and <PyObject *>replacement == found
                found = <PyObject *>replacement
            if refused or not self.is_readable(found, placement, &description):
                self.odd.append((segment, <object>found))
                continue
            arrays.accepted[segment] = description.data if placement.size else <char *>&empty_gradient
            arrays.direct[segment] = description.bits != placement.bits
            placement.apart = description.data
            placement.apart_bits = description.bits
            n_found += 1
            if arrays.zeroed:
                self.written.append(<object>found)
                if sharded and self.shards[index] is not None:
                    self.written.append(self.params[index].grad)
        if last - first < self.n_params:
            if n_found:
                self.note_written(first)
        elif n_found < self.engine.n_segments:
            for index in range(self.n_params):
                if self.found[index] != NULL and self.segments[index] >= 0:
                    self.note_written(index)
        elif n_found:
            self.written = self.written + self.stepped if self.written else self.stepped
        return REPLACE if self.odd else READY

    cdef int note_written(self, Py_ssize_t index) except -1:
        """Note that the step under way writes to a parameter."""
        self.written.append(self.params[index])
        if self.access is not None and self.shards[index] is not None:
            self.written.append(self.shards[index])
        return 0

    cdef int find(self, list param_groups, states, dict replacements, bint reread, Py_ssize_t only,
                  bint thorough) except -1:
        cdef int found
        cdef Py_ssize_t first = max(only, 0), last = only + 1 if only >= 0 else self.n_params
        found = self.compare(param_groups, states, reread) if only < 0 else self.compare_one(only, states, reread)
        if found != READY:
            return found
        self.fetch(first, last)
        return self.gather(replacements, first, last, thorough or self.runs_python)

    def look(self, list param_groups, states, dict replacements=None, bint reread=False, Py_ssize_t only=-1):
        """Whether a step can be done, as a `found.Found`; writes nothing."""
        self.begin(states, only)
        try:
            return self.find(param_groups, states, replacements, reread, only, True)
        finally:
            self.end(only)

    def step(self, list param_groups, states, int n_threads, bint thorough, dict replacements=None, bint reread=False,
             Py_ssize_t only=-1):
        """One step of every parameter that has a gradient, or only of the parameter at position `only` in all groups.

        Returns a `found.Found`. If it is not READY, nothing was written, and the caller must first react to it.
        `reread` says that the hyperparameters were just read, `thorough` that the memory of states is checked, too.
        """
        cdef int found
        self.begin(states, only)
        try:
            found = self.find(param_groups, states, replacements, reread, only, thorough)
            if found == READY:
                self.advance(n_threads)
            return found
        finally:
            self.end(only)

    cdef int begin(self, states, Py_ssize_t only) except -1:
        if not isinstance(states, dict):  # subclasses pass, but an argument typed `dict` would refuse them
            raise TypeError(f"the states must be a dict, got {type(states).__name__}")
        if not only < self.n_params:
            raise IndexError(f"there is no parameter {only}")
        self.engine.claim()
        return 0

    cdef void end(self, Py_ssize_t only) noexcept:
        self.written = None
        self.drop(max(only, 0), only + 1 if only >= 0 else self.n_params)  # Python may run here, while this is claimed.
        self.engine.release()

    cdef int advance(self, int n_threads) except -1:
        cdef Engine engine = self.engine
        cdef int64_t calls = engine.calls[0]
        cdef Py_ssize_t index, each, n_carried = engine.n_carried
        cdef Number *numbers
        cdef unsigned long long caller
        engine.n_threads = n_threads
        engine.take_gradients()
        for index in range(engine.n_segments if self.n_numbers else 0):
            if not engine.has_gradient(index):  # Its numbers may be out of memory for now.
                continue
            numbers = self.numbers + index * self.n_numbers
            if self.counts_steps:
                engine.steps[index] = <int64_t>read_number(numbers)
                numbers += 1
            for each in range(n_carried):
                engine.carried[index * n_carried + each] = read_number(&numbers[each])
        if self.flat is not None and self.is_flat():
            self.advance_flat(n_threads)
        else:
            engine.advance()
        if engine.calls[0] == calls:  # declined
            return 0
        caller = engine.enter()  # numbers of 32 bits are rounded to nearest, as all that a step computes
        for index in range(engine.n_segments if self.n_numbers else 0):
            if not engine.has_gradient(index):
                continue
            numbers = self.numbers + index * self.n_numbers
            if self.counts_steps:
                write_number(numbers, <double>engine.steps[index])
                numbers += 1
            for each in range(n_carried):
                write_number(&numbers[each], engine.carried[index * n_carried + each])
        engine.leave(caller)
        if self.written:
            self.increment_version(self.written)
        return 0


cdef double empty_gradient  # its address stands for a gradient without elements, which may not have an address
