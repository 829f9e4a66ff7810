"""What a compiled program does in each pass of its loop over updates, read from XLA's text.

XLA's own cost analysis counts the body of a loop once, and gives nothing for a machine that is only
described. Here the loop over updates is found in the text of the optimised program: kernels, bytes
and operations are those of one pass, and loops within it count as often as they run.

A kernel is a fusion, a call of a library, or another instruction that computes or copies. Its bytes
are those of its operands and results, except that an operand which is only sliced or gathered
counts as what is taken from it, and a result that is written in place as what is written. An
operation is a multiplication or an addition of a matrix product, or one element of any other
result; a sort of M elements makes M log2 M.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

BYTES = {
    "pred": 1,
    "s8": 1,
    "u8": 1,
    "s16": 2,
    "u16": 2,
    "f16": 2,
    "bf16": 2,
    "s32": 4,
    "u32": 4,
    "f32": 4,
    "s64": 8,
    "u64": 8,
    "f64": 8,
    "c64": 8,
}
# Instructions that launch nothing: names for values that exist.
FREE = frozenset(
    [
        "parameter",
        "constant",
        "tuple",
        "get-tuple-element",
        "bitcast",
        "after-all",
        "partition-id",
        "replica-id",
        "optimization-barrier",
        "opt-barrier",
        "async-update",
        "async-done",
        "copy-done",
    ]
)
# Instructions that move values without computing any.
MOVES = frozenset(
    [
        "broadcast",
        "iota",
        "slice",
        "dynamic-slice",
        "dynamic-update-slice",
        "transpose",
        "reshape",
        "copy",
        "copy-start",
        "concatenate",
        "pad",
        "gather",
        "reverse",
        "select-and-scatter",
        "fusion",
        "while",
        "call",
        "conditional",
    ]
)
CUTS = ("slice", "dynamic-slice", "gather")
IN_PLACE = ("dynamic-update-slice", "scatter")
SORTED_AT_ONCE = 11  # a kernel sorts 2^11 elements in a core's own memory

_SHAPE = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.-]+) = ")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_NAME = re.compile(r"%([\w.-]+)")


class Shape(NamedTuple):
    """An array's type and dimensions."""

    dtype: str
    dims: tuple[int, ...]

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.dims)

    @property
    def size_bytes(self) -> int:
        """Size in bytes."""
        return self.elements * BYTES.get(self.dtype, 0)


class Instruction(NamedTuple):
    """One line of a computation; shapes are those of its result, several for a tuple."""

    name: str
    opcode: str
    shapes: tuple[Shape, ...]
    operands: tuple[str, ...]
    attributes: str

    def called(self, key: str) -> str:
        """The computation that an attribute such as `calls` or `body` names; "" without one."""
        found = re.search(rf"\b{key}=%?([\w.-]+)", self.attributes)
        return found[1] if found else ""

    def numbers(self, key: str) -> tuple[int, ...]:
        """The numbers of an attribute such as `lhs_contracting_dims={2}`."""
        found = re.search(rf"\b{key}=\{{([\d,]*)\}}", self.attributes)
        return tuple(int(x) for x in found[1].split(",") if x) if found else ()


class Computation(NamedTuple):
    """The instructions of a computation by name, in order, and the name of its result."""

    instructions: dict[str, Instruction]
    root: str


class Work(NamedTuple):
    """What a piece of a program does."""

    kernels: float = 0.0
    bytes: float = 0.0
    products: float = 0.0  # operations of matrix products
    others: float = 0.0  # all other operations
    waits: float = 0.0  # loops' passes whose number is not known before, so that the host waits

    def __add__(self, other: Work) -> Work:  # type: ignore[override]
        return Work(*(a + b for a, b in zip(self, other, strict=True)))

    def times(self, count: float) -> Work:
        """The work of `count` passes."""
        return Work(*(count * x for x in self))


class Program:
    """A program's text, read."""

    def __init__(self, text: str) -> None:
        self.computations: dict[str, Computation] = {}
        self.entry = ""
        rows: dict[str, Instruction] = {}
        name, root = "", ""
        for line in text.splitlines():
            head = _COMPUTATION.match(line)
            if head:
                name, rows, root = head[1], {}, ""
                self.entry = name if line.startswith("ENTRY") else self.entry
            elif line.startswith("}") and name:
                self.computations[name] = Computation(rows, root)
                name = ""
            elif name and (start := _INSTRUCTION.match(line)):
                rows[start[2]] = _instruction(start[2], line[start.end() :])
                root = start[2] if start[1] else root

    def update(self) -> Work:
        """The work of one pass of the loop over updates.

        That is the program's outermost loop whose number of passes is an argument; of several, the
        one that does most. Raises ValueError where there is none.
        """
        found = [
            self.work(loop.called("body")) + self.work(loop.called("condition")) + Work(waits=1.0)
            for loop in self._loops(self.entry)
            if not _TRIPS.search(loop.attributes)
        ]
        if not found:
            raise ValueError("program: expected a loop over updates, found none")
        return max(found, key=lambda work: work.kernels)

    def work(self, name: str) -> Work:
        """The work of a computation that is called by a loop or by the program itself."""
        total = Work()
        for row in self.computations[name].instructions.values() if name else ():
            total += self._row(row, self.computations[name])
        return total

    def _loops(self, name: str) -> Iterator[Instruction]:
        """The loops of a computation, and of those it calls, but not loops within loops."""
        for row in self.computations[name].instructions.values():
            if row.opcode == "while":
                yield row
            elif row.opcode == "call":
                yield from self._loops(row.called("to_apply"))

    def _row(self, row: Instruction, inside: Computation) -> Work:
        """The work of one instruction outside of fusions."""
        if row.opcode in FREE:
            return Work()
        if row.opcode == "while":
            trips = _TRIPS.search(row.attributes)
            body = self.work(row.called("body"))
            if trips:
                return body.times(int(trips[1]))
            return body + self.work(row.called("condition")) + Work(waits=1.0)
        if row.opcode == "call":
            return self.work(row.called("to_apply"))
        if row.opcode == "conditional":
            branches = _NAME.findall(
                " ".join(
                    re.findall(
                        r"(?:branch_computations=\{[^}]*|\w+_computation=%[\w.-]+)", row.attributes
                    )
                )
            )
            return max((self.work(name) for name in branches), default=Work())
        if row.opcode == "async-start":
            return self.work(row.called("calls"))
        kernels = float(_sort_kernels(row)) if row.opcode == "sort" else 1.0
        if row.opcode == "fusion":
            fused = self.computations[row.called("calls")]
            moved = _written(fused) + _reads(fused)
            products, others = self._operations(fused)
            return Work(kernels, moved, products, others)
        moved = _result_bytes(row, inside) + sum(
            _taken(row, place, inside) for place in range(len(row.operands))
        )
        products, others = _operations_of(row, inside)
        return Work(kernels, moved, products, others)

    def _operations(self, fused: Computation) -> tuple[float, float]:
        """Operations of matrix products, and others, of a fusion and the fusions in it."""
        products, others = 0.0, 0.0
        for row in fused.instructions.values():
            if row.opcode == "fusion":
                inner = self._operations(self.computations[row.called("calls")])
            else:
                inner = _operations_of(row, fused)
            products, others = products + inner[0], others + inner[1]
        return products, others


def _instruction(name: str, rest: str) -> Instruction:
    """An instruction from the text behind its name: its type, opcode, operands and attributes."""
    end = _closing(rest) + 1 if rest.startswith("(") else rest.index(" ")
    kind, rest = rest[:end], rest[end:].lstrip()
    start = rest.index("(")
    opcode, rest = rest[:start], rest[start:]
    close = _closing(rest)
    inner = rest[1:close]
    operands = () if opcode in ("constant", "parameter") else tuple(_NAME.findall(inner))
    shapes = tuple(
        Shape(dtype, tuple(int(x) for x in dims.split(",") if x))
        for dtype, dims in _SHAPE.findall(kind)
    )
    return Instruction(name, opcode, shapes, operands, rest[close + 1 :])


def _closing(text: str) -> int:
    """The place of the bracket that closes the one at the start of a text."""
    depth = 0
    for place, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return place
    raise ValueError(f"program: expected a closing bracket, found {text[:80]!r}")


def _bytes(shapes: Sequence[Shape]) -> int:
    return sum(shape.size_bytes for shape in shapes)


def _taken(row: Instruction, place: int, inside: Computation) -> int:
    """Bytes that an instruction outside of fusions reads of one of its operands."""
    full = _bytes(inside.instructions[row.operands[place]].shapes)
    if place == 0 and row.opcode in CUTS:
        return min(full, _bytes(row.shapes))
    return 0 if place == 0 and row.opcode in IN_PLACE else full


def _reads(fused: Computation) -> int:
    """Bytes that a fusion reads of its parameters: what its results need, which may be few elements
    of a parameter that is sliced or gathered, even if by way of a larger value.
    """
    rows = fused.instructions
    needed = dict.fromkeys(rows, 0)  # elements of each value
    needed[fused.root] = _elements(rows[fused.root])
    for name in reversed(rows):  # operands come before what uses them
        row = rows[name]
        needed[name] = min(needed[name], _elements(row))
        for place, operand in enumerate(row.operands):
            whole = _elements(rows[operand])
            if place == 0 and row.opcode in IN_PLACE:
                count = 0
            elif (
                row.opcode in ("reduce", "reduce-window", "dot", "scatter", "sort", "fusion")
                or row.opcode == "tuple"
                or (place > 0 and row.opcode in CUTS)
            ):
                count = whole
            else:
                count = min(whole, needed[name])
            needed[operand] += count
    return sum(
        needed[name] * row.shapes[0].size_bytes // max(1, row.shapes[0].elements)
        for name, row in rows.items()
        if row.opcode == "parameter"
    )


def _elements(row: Instruction) -> int:
    return sum(shape.elements for shape in row.shapes)


def _result_bytes(row: Instruction, inside: Computation) -> int:
    """Bytes that an instruction writes: an update in place writes the update alone."""
    places = {"dynamic-update-slice": 1, "scatter": 2}
    if row.opcode in places:
        return _bytes(inside.instructions[row.operands[places[row.opcode]]].shapes)
    if row.opcode == "bitcast":
        return _result_bytes(inside.instructions[row.operands[0]], inside)
    return _bytes(row.shapes)


def _written(fused: Computation) -> int:
    """Bytes that a fusion writes."""
    root = fused.instructions[fused.root]
    if root.opcode == "tuple":
        return sum(_result_bytes(fused.instructions[name], fused) for name in root.operands)
    return _result_bytes(root, fused)


def _operations_of(row: Instruction, inside: Computation) -> tuple[float, float]:
    """Operations of matrix products, and others, of one instruction."""
    if row.opcode in FREE or row.opcode in MOVES:
        return 0.0, 0.0
    made = sum(shape.elements for shape in row.shapes)
    operand = lambda place: inside.instructions[row.operands[place]].shapes[0]
    if row.opcode == "dot":
        width = math.prod(operand(0).dims[k] for k in row.numbers("lhs_contracting_dims"))
        return 2.0 * made * width, 0.0
    if row.opcode == "custom-call":
        found = re.search(r'"lhs_contracting_dimensions":\[([^\]]*)\]', row.attributes)
        if found is None:
            return 0.0, 0.0
        width = math.prod(operand(0).dims[int(k)] for k in re.findall(r"\d+", found[1]))
        return 2.0 * row.shapes[0].elements * width, 0.0
    if row.opcode in ("reduce", "reduce-window"):
        return 0.0, float(operand(0).elements)
    if row.opcode == "scatter":
        return 0.0, float(operand(2).elements)
    if row.opcode == "sort":
        return 0.0, operand(0).elements * math.log2(max(2, _sort_length(row)))
    return 0.0, float(made)


def _sort_length(row: Instruction) -> int:
    """Number of elements along the axis that is sorted."""
    return row.shapes[0].dims[(row.numbers("dimensions") or (-1,))[0]]


def _sort_kernels(row: Instruction) -> int:
    """Kernels of XLA's bitonic sort: one for each exchange over more elements than fit into a
    core's own memory, and one for all others of a stage.
    """
    stages = math.ceil(math.log2(max(2, _sort_length(row))))
    wide = range(SORTED_AT_ONCE, stages)
    return 1 + sum(stage - SORTED_AT_ONCE + 2 for stage in wide)
