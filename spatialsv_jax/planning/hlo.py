"""Collectives and matrix products of a compiled program, read off its HLO text, loops times their trip count."""

from __future__ import annotations

import collections
import dataclasses
import math
import re

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute", "collective-broadcast")
_BYTES = {
    "pred": 1, "s4": 0.5, "u4": 0.5, "s8": 1, "u8": 1, "f8e4m3fn": 1, "f8e5m2": 1, "s16": 2, "u16": 2, "f16": 2,
    "bf16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8, "c64": 8, "c128": 16,
}  # fmt: skip
_COMPUTATION = re.compile(r"^\s*(ENTRY\s+)?%?([\w.\-]+)\s*(?:\([^\n]*\))?\s*->[^\n]*\{\s*$")
_INSTRUCTION = re.compile(r"^\s*(?:ROOT\s+)?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\(")
_SHAPE = re.compile(r"(\w+)\[([\d,]*)\]")
_CALLED = re.compile(r"(?:calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'known_trip_count"?:\s*\{\s*"?n"?:\s*"?(\d+)')
_LIMIT = re.compile(r" s32\[\]\S* constant\((\d+)\)")
_CONDITION = re.compile(r"condition=%?([\w.\-]+)")
# Between slices libtpu has the hosts exchange what an all-reduce, say, has reduced within each of them.
_BETWEEN = re.compile(r'handler_name="xla_megascale_runtime".*transfer_type="([A-Z_]+)"')
BETWEEN_SLICES = " between slices"
_CHANNEL = re.compile(r"channel_id=(\d+)")
_GROUPS = re.compile(r"replica_groups=\{\{([\d,]*)\}")
_IOTA_GROUPS = re.compile(r"replica_groups=\[(\d+),(\d+)\]")
_MESH_GROUPS = re.compile(r"replica_groups=mesh\[([^\]]*)\]\s*\{([^}]*)\}")


@dataclasses.dataclass
class Collective:
    """Collectives of one kind in one step.

    Attributes:
      count: how often they run.
      bytes: of their results on one device (of an all-gather the whole, of a reduce-scatter the shard).
      sent: bytes that a device sends if it passes them round a ring.
      largest: bytes of the largest result.
    """

    count: float = 0
    bytes: float = 0.0
    sent: float = 0.0
    largest: float = 0.0

    def take(self, times: float, size: float, ring: float) -> None:
        """Takes in one that runs `times` times: bytes of its result, and how many are sent for each of them."""
        self.count += times
        self.bytes += times * size
        self.sent += times * size * ring
        self.largest = max(self.largest, size)


def collectives(text: str, devices: int, slices: int = 1) -> dict[str, Collective]:
    """Collectives by kind; what goes over the network between slices is a kind of its own ("all-reduce between slices").

    Args:
      text: of a compiled module (`compiled.as_text()`).
      devices: of the program, for collectives that do not list their groups.
      slices: of the program.
    """
    found: dict[str, Collective] = {}
    seen: set[tuple[str, str, str]] = set()
    for times, kind, line, shape, where in _executed(text):
        name = kind.removesuffix("-start")
        if kind == "recv" and (between := _BETWEEN.search(line)):
            name = between[1].lower().replace("_", "-")
            size = shape_bytes(shape)[0]
            found.setdefault(name + BETWEEN_SLICES, Collective()).take(times, size, _ring(name, slices))
            continue
        if name not in KINDS:
            continue
        # On TPUs a collective that runs beside other work stands in the fusions that start it, go on and end it.
        if channel := _CHANNEL.search(line):
            same = (channel[1], name, re.sub(r"\{[^{}]*\}", "", shape))  # one channel may serve several shapes
            if same in seen:
                continue
            seen.add(same)
        # An asynchronous start has (operand, result, ...) as its shape.
        arrays = [size for size in shape_bytes(shape) if size]
        if kind.endswith("-start") and name != "all-reduce":
            arrays = arrays[len(arrays) // 2 :] if len(arrays) > 1 and name == "all-gather" else arrays[1:2] or arrays
        size, group = sum(arrays), _group_size(line, devices)
        if name == "all-reduce" and where.startswith("all-reduce-scatter"):  # a TPU's reduce-scatter: one fusion
            name, size = "reduce-scatter", size / group
        found.setdefault(name, Collective()).take(times, size, _ring(name, group))
    return found


def _ring(name: str, group: int) -> float:
    """Bytes that a device sends for each byte of the result."""
    if name == "collective-permute":
        return 1.0
    share = (group - 1) / group if group else 0.0
    return {"all-reduce": 2 * share, "reduce-scatter": group - 1.0}.get(name, share)


def _group_size(line: str, devices: int) -> int:
    if match := _GROUPS.search(line):
        return len(match[1].split(",")) if match[1] else devices
    if match := _IOTA_GROUPS.search(line):
        return int(match[2])
    if match := _MESH_GROUPS.search(line):  # axes of a mesh and their sizes, then those that a group goes over
        sizes = dict(re.findall(r"'([^']+)'=(\d+)", match[1]))
        return math.prod(int(sizes.get(axis, 1)) for axis in re.findall(r"'([^']+)'", match[2]))
    return devices


def shape_bytes(shape: str) -> list[float]:
    """Bytes of each array of an HLO shape, "f32[2,3]{1,0}" or a tuple of such."""
    return [
        _BYTES[kind] * math.prod(int(size) for size in sizes.split(",") if size)
        for kind, sizes in _SHAPE.findall(re.sub(r"\{[^{}]*\}", "", shape))
        if kind in _BYTES
    ]


def _executed(text: str):
    """(how often, opcode, line, shape, computation) of every instruction that runs, in loops and calls too."""
    bodies, entry = _computations(text)
    times: dict[str, float] = collections.defaultdict(float)
    times[entry] = 1.0
    for name in _callers_first(bodies, entry):
        for line in bodies[name]:
            match = _INSTRUCTION.match(line)
            if not match:
                continue
            yield times[name], match[3], line, match[2], name
            trips = _trips(line, bodies) if match[3] == "while" else 1.0
            for called in _called(line):
                if called in bodies:
                    times[called] += times[name] * trips


def _trips(line: str, bodies: dict[str, list[str]]) -> float:
    """Turns of a loop: as stated, or the number that the condition compares a counter with (JAX's scans count from 0 by 1)."""
    if found := _TRIPS.search(line):
        return float(found[1])
    condition = _CONDITION.search(line)
    body = bodies.get(condition[1], []) if condition else []
    limits = [found[1] for text in body if (found := _LIMIT.search(text))]
    counts = any("compare(" in text and "direction=LT" in text for text in body)
    return float(limits[0]) if counts and len(limits) == 1 else 1.0


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
    bodies: dict[str, list[str]] = {}
    current, entry = None, ""
    for line in text.splitlines():
        if match := _COMPUTATION.match(line):
            current = match[2]
            bodies[current] = []
            entry = current if match[1] else entry
        elif line.rstrip() == "}":  # attributes of TPU kernels go over lines, of which some begin with "}"
            current = None
        elif current is not None:
            bodies[current].append(line)
    if not entry:
        raise ValueError("The text is no HLO module: it has no ENTRY computation.")
    return bodies, entry


def _called(line: str) -> list[str]:
    names = _CALLED.findall(line)
    for group in _BRANCHES.findall(line):
        names += [name.strip().lstrip("%") for name in group.split(",")]
    return names


def _callers_first(bodies: dict[str, list[str]], entry: str) -> list[str]:
    """Computations reachable from `entry`, each behind all that call it."""
    order, seen = [], set()

    def visit(name: str) -> None:
        seen.add(name)
        for line in bodies[name]:
            for called in _called(line):
                if called in bodies and called not in seen:
                    visit(called)
        order.append(name)

    visit(entry)
    return order[::-1]
