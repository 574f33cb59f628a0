"""Writes the lines that load and store elements of operands: floating-point numbers, or codes of 16 bits."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..constants import GRAD
from ..formulas.dialect import Function, called_functions
from ..formulas.registry import codec_functions
from .source import word_function_source
from .structures import Structure
from .table_format import SEGMENT


@dataclass(frozen=True)
class Stored:
    """An operand of a structure: `lanes` elements of it are loaded or stored at a time, or single ones."""

    structure: Structure
    operand: int
    lanes: int

    @property
    def codec(self) -> str:
        """The name of its format; an empty one if its elements are read directly."""
        codec = self.structure.operands[self.operand].codec
        return "" if codec is None else codec.name

    @property
    def is_rounded_at_random(self) -> bool:
        codec = self.structure.operands[self.operand].codec
        return codec is not None and codec.stochastic

    @property
    def rest(self) -> int:
        """The operand that has the other bits of its elements, or -1."""
        return self.structure.operands[self.operand].rest

    @property
    def arrays(self) -> tuple[int, ...]:
        """The operands that are its memory."""
        return (self.operand, self.rest) if self.rest >= 0 else (self.operand,)

    def load(self, address: str, name: str, place: str, vector: bool) -> list[str]:
        """Lines that load elements into `name_...`; `address` is a format for the name of an operand's address."""
        load = f"load_code{'s' * vector}" if self.codec else "load_vector" if vector else "load_real"
        return [f"{name}_{each} = {load}({address.format(each)}, {place})" for each in self.arrays]

    def value(self, name: str, lane: int, vector: bool) -> str:
        """The element in a lane of what `load` has loaded."""
        if not self.codec:
            return f"{name}_{self.operand}[{lane}]" if vector else f"{name}_{self.operand}"
        codes = ", ".join(f"{name}_{each}[{lane}]" for each in self.arrays)
        return f"real_of(word_{self.codec}_decoded({codes}))"

    def store(self, values: Sequence[str], place: str, vector: bool) -> list[str]:
        """Lines that store these elements."""
        address = f"address_{self.operand}"
        if not self.codec:
            stored = f"({', '.join(values)})" if vector else values[0]
            return [f"store_{'vector' if vector else 'real'}({address}, {place}, {stored})"]
        rounding = "stochastic" if self.is_rounded_at_random else "nearest"
        lines = []
        for lane, value in enumerate(values):
            targets = ", ".join(f"code_{each}_{lane}" for each in self.arrays)
            arguments = [f"bits_of({value})"]
            if self.is_rounded_at_random:
                element = f"start + ({place}) * {self.lanes} + {lane}" if vector else f"start + {place}"
                arguments.append(f"word_random_word(word_element_word(as_word({element}), key_{self.operand}))")
            lines.append(f"{targets} = word_{self.codec}_{rounding}({', '.join(arguments)})")
        for each in self.arrays:
            codes = "".join(f"code_{each}_{lane}, " for lane in range(len(values)))
            lines.append(f"store_code{'s' * vector}(address_{each}, {place}, ({codes}))")
        return lines


def keys(stored: Iterable[Stored]) -> list[str]:
    """Lines that set the keys of random bits of operands: `kernels.python.codecs.rounding_key`."""
    rounded = [each.operand for each in stored if each.is_rounded_at_random]
    if not rounded:
        return []
    return [
        f"seed = load_int64(row, {SEGMENT.index('seed')})",
        "key = word_combined_key(as_word(0), as_word(seed))",
        "key = word_combined_key(key, as_word(seed >> 32))",
        "key = word_combined_key(key, as_word(step))",
        f"key = word_combined_key(key, as_word(load_int64(row, {SEGMENT.index('number')})))",
        *(f"key_{operand} = word_combined_key(key, as_word({operand}))" for operand in rounded),
    ]


def aligned(structure: Structure, addresses: dict[int, str]) -> str:
    """The condition that elements of all these operands, whose addresses are given, can be loaded several at a time."""
    masks: dict[int, list[str]] = {}
    for operand, address in addresses.items():
        masks.setdefault(7 if structure.is_code(operand) else 15, []).append(address)
    parts = [f"(({' | '.join(names)}) & {mask})" for mask, names in masks.items()]
    return f"({' | '.join(parts)}) == 0"


def codec_sources(structures: Sequence[Structure], gradients_alone: bool = False) -> list[str]:
    """The functions that decode and encode the operands of structures; or only those that decode gradients."""
    known = codec_functions()
    names: dict[str, None] = {}
    for structure in structures:
        for operand, form in enumerate(structure.operands):
            if form.codec is None or (gradients_alone and operand != GRAD):
                continue
            names[f"{form.codec.name}_decoded"] = None
            if not gradients_alone:
                names[f"{form.codec.name}_{'stochastic' if form.codec.stochastic else 'nearest'}"] = None
                names |= dict.fromkeys(("combined_key", "element_word", "random_word")) if form.codec.stochastic else {}
    functions: dict[str, Function] = {}
    for name in names:
        functions |= {each.name: each for each in (*called_functions(known[name], known), known[name])}
    return [word_function_source(each) for each in functions.values()]
