"""Writes test vectors: single operations with what torch computes for them in float64.

    python vectors.py OUT_DIR [--only TEXT] [--seed N]

Each case becomes a directory OUT_DIR/NAME of the form that docs/case-format.md defines:

    case.json             the operation, its attributes, and which tensors are operands and expected values
    tensors.safetensors   operands as f32 holds them exactly, expected values in f64

A NAME is `op--what-is-special--number`, with `backward` after the operation for gradients. `--only` writes the cases
whose names contain TEXT; without it, directories of cases that no longer exist are removed from OUT_DIR.

Expected values come from torch's and transformers' own functions wherever there is one, gradients from torch's
autograd. Many are computed a second time by plain Python, and gradients are held to differences of the forward. The
script fails if an operation, a value of an attribute or a direction has fewer than five cases, if a case would pass
without being computed (all its expected values equal or zero, and no reason given), or if a second run would write
other bytes.
"""

import argparse
import collections
import dataclasses
import json
import math
import shutil
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file

sys.dont_write_bytecode = True  # leaves no caches beside the sources

import reference
from precision import F32, F64, Float64, OnlyFloat64

LEAST = 5  # cases for each value of each attribute
EXACT = 1e-13  # how near a second computation must be, as a part of the greatest value
DIFFERENCES = 1e-6  # and the differences of the forward, as a part of the sum of magnitudes
U32 = torch.uint32


@dataclasses.dataclass
class View:
    """An operand that is a view of a flat tensor."""

    flat: torch.Tensor
    sizes: list
    strides: list
    offset: int

    def tensor(self):
        return torch.as_strided(self.flat, self.sizes, self.strides, self.offset).clone()


@dataclasses.dataclass
class Case:
    """One case. Whole numbers are int64 tensors here and U32 in the file."""

    attributes: dict
    operands: dict  # tensors or views by name, in the order of the format
    compute: object  # takes the operands by name (without "raw.") and gives the outputs
    outputs: tuple = ("y",)
    gradients: tuple = ()  # operands whose gradients a backward case expects
    cotangents: tuple = None  # for each output whether it has one; the first alone by default
    weight_dtype: str = None
    saved: tuple = ()  # operands that a forward saved: not rounded, or the rounding would be an error of the case
    features: tuple = ()  # counted in the table beside the attributes
    again: object = None  # the outputs once more, in another way
    plain: str = None  # why expected values may all be equal
    step: str = "absolute"  # of differences: "absolute", "relative" to each element, or "none"
    mixed: bool = False  # conversions leave float64
    expected: dict = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class Family:
    """Cases of one operation that one function makes."""

    op: str
    make: object
    labels: dict  # what is special: how many cases
    directions: tuple
    covers: dict  # attribute: the values that need LEAST cases in each direction


FAMILIES = []


def family(op, labels, count=LEAST, backward=True, covers=None):
    """Registers `make(draw, label, n) -> Case`; `labels` may give each a count of its own."""
    labels = labels if isinstance(labels, dict) else dict.fromkeys(labels, count)

    def register(make):
        directions = ("forward", "backward") if backward else ("forward",)
        FAMILIES.append(Family(op, make, labels, directions, covers or {}))
        return make

    return register


class Draw:
    """Random operands that depend on the seed and the name of the case alone; all are exact in f32."""

    def __init__(self, seed, name, backward):
        self.generator = reference.generator(seed, "vectors", name)
        self.backward = backward

    def normal(self, *sizes, scale=1.0):
        return exact(torch.randn(sizes, generator=self.generator, dtype=F64) * scale)

    def uniform(self, low, high, *sizes):
        return exact(low + (high - low) * torch.rand(sizes, generator=self.generator, dtype=F64))

    def spread(self, low, high, *sizes):
        """Magnitudes from 10^low to 10^high, of either sign."""
        sign = torch.randint(0, 2, sizes, generator=self.generator) * 2 - 1
        return exact(sign * 10 ** (low + (high - low) * torch.rand(sizes, generator=self.generator, dtype=F64)))

    def ids(self, below, *sizes):
        return torch.randint(below, sizes, generator=self.generator)

    def order(self, count):
        return torch.randperm(count, generator=self.generator)

    def whole(self, low, high):
        return int(torch.randint(low, high + 1, (), generator=self.generator))

    def view(self, x, how):
        """`x` as a view: its axes stored in reverse, or a part of a larger tensor, or every other element."""
        sizes = list(x.shape)
        if how == "reversed":
            flat = x.permute(*reversed(range(x.dim()))).contiguous()
            strides = [math.prod(sizes[:axis]) for axis in range(x.dim())]
            return View(flat.flatten(), sizes, strides, 0)
        outer = [size + (2 if how == "part" else size) for size in sizes]
        base = self.normal(*outer)
        at = tuple(slice(1, 1 + size) if how == "part" else slice(1, 2 * size, 2) for size in sizes)
        base[at] = x
        window = base[at]
        return View(base.flatten(), sizes, list(window.stride()), window.storage_offset())


def exact(x):
    """Rounded to what f32 holds."""
    return x.to(F32).to(F64)


def tensor(operand):
    return operand.tensor() if isinstance(operand, View) else operand


def fail(name, message):
    raise SystemExit(f"{name}: {message}")


def tuple_of(values):
    return values if isinstance(values, tuple) else (values,)


def build(family, label, number, backward, seed):
    """The case and its name, with expected values and, for a backward one, cotangents."""
    name = "--".join([family.op, *["backward"] * backward, *[label] * bool(label), str(number)])
    draw = Draw(seed, name, backward)
    case = family.make(draw, label, number)
    values = {key.removeprefix("raw."): tensor(operand) for key, operand in case.operands.items()}

    def outputs(values):
        if case.mixed:
            return tuple_of(case.compute(**values))
        with OnlyFloat64():
            return tuple_of(case.compute(**values))

    if not backward:
        case.expected = dict(zip(case.outputs, outputs(values), strict=True))
        if case.again is not None:
            for (key, value), other in zip(case.expected.items(), tuple_of(case.again(**values)), strict=True):
                agree(name, key, value, other)
        return name, case

    leaves = {key: values[key].clone().requires_grad_() for key in case.gradients}
    results = outputs(values | leaves)
    wanted = case.cotangents or (True,) + (False,) * (len(results) - 1)
    cotangents = {}
    for key, result, has in zip(case.outputs, results, wanted, strict=True):
        cotangents[key] = draw.normal(*result.shape) if has else None
    pairs = [(result, cotangents[key]) for key, result in zip(case.outputs, results) if cotangents[key] is not None]
    with OnlyFloat64():
        gradients = torch.autograd.grad(*zip(*[(r, c) for r, c in pairs]), inputs=list(leaves.values())) if False else (
            torch.autograd.grad([r for r, _ in pairs], list(leaves.values()), [c for _, c in pairs])
        )
    case.expected = {f"d_{key}": gradient for key, gradient in zip(leaves, gradients, strict=True)}
    case.cotangents = {key: None if value is None else f"d_{key}" for key, value in cotangents.items()}
    case.operands |= {f"d_{key}": value for key, value in cotangents.items() if value is not None}
    if case.step != "none":
        weights = [c for _, c in pairs]
        chosen = [i for i, key in enumerate(case.outputs) if cotangents[key] is not None]

        def scalar(moved):
            results = outputs(values | moved)
            return sum((results[i].detach() * weight).sum() for i, weight in zip(chosen, weights))

        for key, leaf in leaves.items():
            differences(name, case, key, leaf.detach(), case.expected[f"d_{key}"], scalar)
    return name, case


def differences(name, case, key, x, gradient, scalar):
    """Holds a gradient to fourth-order central differences along a random direction."""
    direction = torch.randn(x.shape, generator=reference.generator("direction", name, key), dtype=F64)
    if case.step == "relative":
        direction = direction * x.abs()
    h = 1e-3 if case.step == "relative" else 2e-4
    at = {times: scalar({key: x + times * h * direction}) for times in (-2, -1, 1, 2)}
    slope = (8 * (at[1] - at[-1]) - (at[2] - at[-2])) / (12 * h)
    terms = gradient * direction
    error = float((slope - terms.sum()).abs())
    size = float(terms.abs().sum())
    noise = 1e-13 * float(max(value.abs() for value in at.values())) / h
    if not error <= DIFFERENCES * size + noise:
        fail(name, f"the gradient of {key} differs from differences by {error:g} of {size:g}")


def agree(name, key, value, other):
    other = other if isinstance(other, torch.Tensor) else torch.tensor(other, dtype=value.dtype)
    other = other.reshape(value.shape).to(value.dtype)
    same = (value == other) | (value.isnan() & other.isnan())
    if value.is_floating_point():
        finite = value[value.isfinite()]
        size = float(finite.abs().max()) if finite.numel() else 0.0
        same |= (value - other).abs() <= EXACT * size
    if not bool(same.all()):
        fail(name, f"a second computation of {key} gives {other.flatten().tolist()}, not {value.flatten().tolist()}")


def is_plain(value):
    """Whether a constant, or zero, would pass for it."""
    first = value.flatten()[0]
    return bool((value == first).all()) and (value.numel() > 1 or first == 0)


def check(name, case):
    """Refuses cases that prove nothing or that f32 cannot hold."""
    for key, value in case.expected.items():
        if value.numel() == 0:
            fail(name, f"{key} has no elements")
        if is_plain(value) and case.plain is None:
            fail(name, f"{key} is all {value.flatten()[0].item():g}, and no reason is given")
        if value.is_floating_point() and not case.mixed:
            if not bool(value.isfinite().all()) or float(value.abs().max()) > 3e38:
                fail(name, f"{key} is beyond f32")
    if all(not is_plain(value) for value in case.expected.values()) and case.plain is not None:
        fail(name, f"nothing is all equal, though it is said that {case.plain}")
    for key, operand in case.operands.items():
        value = operand.flat if isinstance(operand, View) else operand
        if value.dtype == F64 and key not in case.saved and not torch.equal(exact(value).nan_to_num(), value.nan_to_num()):
            fail(name, f"{key} is not exact in f32")
        if key.startswith("d_") and is_plain(value) and value.numel() > 1:
            fail(name, f"the cotangent {key} is constant")


def stored(key, value, saved):
    """As it goes to the file."""
    if value.dtype == torch.int64:
        return value.to(U32)
    return value.to(F32) if value.dtype == F64 and key not in saved else value


def write(directory, name, op, case):
    """Writes one case and returns its size."""
    tensors = {}
    layouts = {}
    for key, operand in case.operands.items():
        if isinstance(operand, View):
            layouts[key] = {"sizes": operand.sizes, "strides": operand.strides, "offset": operand.offset}
            operand = operand.flat
        tensors[key] = stored(key, operand, case.saved)
    for key, value in case.expected.items():
        assert key not in tensors, (name, key)
        tensors[key] = value.to(U32) if value.dtype == torch.int64 else value.to(F64)
    backward = isinstance(case.cotangents, dict)
    inputs = [key for key in case.operands if not backward or key not in case.cotangents.values()]
    entries = {"op": op}
    if backward:
        entries["direction"] = "backward"
    entries |= {"attributes": case.attributes, "inputs": inputs}
    if backward:
        entries |= {"cotangents": list(case.cotangents.values()), "gradients": list(case.gradients)}
    entries["outputs"] = list(case.expected)
    if case.weight_dtype is not None:
        entries["weight_dtype"] = case.weight_dtype
    if layouts:
        entries["layouts"] = layouts
    if case.plain is not None:
        entries["comment"] = f"Expected values may all be equal: {case.plain}."
    folder = directory / name
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"  {json.dumps(key)}: {json.dumps(value, allow_nan=False)}" for key, value in entries.items()]
    (folder / "case.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")
    ordered = {key: value.contiguous() for key, value in tensors.items()}
    save_file(ordered, folder / "tensors.safetensors")
    return sum(file.stat().st_size for file in folder.iterdir())


def features(op, case):
    """What a case counts for: `attribute=value`, classes of values for continuous attributes."""
    found = set(case.features)
    for key, value in case.attributes.items():
        if key == "score_bias":
            value = value or {"kind": "none"}
            found.add(f"score_bias={value['kind']}")
            if "bidirectional" in value:
                found.add(f"bidirectional={str(value['bidirectional']).lower()}")
        elif value is None:
            found.add(f"{key}=null")
        elif isinstance(value, bool):
            found.add(f"{key}={str(value).lower()}")
        elif isinstance(value, str):
            found.add(f"{key}={value}")
        elif key in ("axis", "step"):
            found.add(f"{key}={value}")
        elif key in ("smoothing", "weight_decay"):
            found.add(f"{key}={'0' if value == 0 else 'above 0'}")
        elif key in ("window", "soft_cap"):
            found.add(f"{key}=a number")
        elif key == "rows" and op == "sample":
            found |= {f"rows.{part}" for row in value for part in row}
    for key in ("bias", "residual"):
        if (op, key) in {("layer_norm", "bias"), ("linear", "bias"), ("linear", "residual")}:
            found.add(f"{key}={'present' if key in case.operands else 'absent'}")
    if "weight" in case.operands and op in ("linear", "embedding", "linear_backward_input"):
        found.add(f"weight_dtype={case.weight_dtype or 'f32'}")
    if any(isinstance(operand, View) for operand in case.operands.values()):
        found.add("layouts")
    return found


def table(counts, wanted):
    """The lines of the table, and those of what is missing."""
    lines, missing = [], []
    for op in dict.fromkeys(op for op, _, _ in counts):
        backward = counts[op, "", "backward"]
        for feature in ["", *sorted({f for o, f, _ in counts | wanted.keys() if o == op and f})]:
            row = [counts[op, feature, direction] for direction in ("forward", "backward")]
            shown = [str(row[0]), str(row[1]) if row[1] or (op, feature, "backward") in wanted else "-"]
            lines.append(f"{op if not feature else '':24} {feature or 'all':28} {shown[0]:>7} {shown[1]:>8}")
            for direction, count in zip(("forward", "backward"), row):
                if (op, feature, direction) in wanted and count < LEAST:
                    missing.append(f"{op} {feature} {direction}: {count} cases, {LEAST} are needed")
        del backward
    return lines, missing


def make(directory, only, seed, report):
    """Writes the cases; returns their names and total size."""
    import fused  # noqa: F401 (registers its families)
    import primitives  # noqa: F401

    counts, wanted, names, total = collections.Counter(), {}, [], 0
    for family in FAMILIES:
        for direction in family.directions:
            backward = direction == "backward"
            wanted[family.op, "", direction] = True
            for attribute, values in family.covers.items():
                values = values.get(direction, ()) if isinstance(values, dict) else values
                wanted |= {(family.op, f"{attribute}={value}", direction): True for value in values}
            for label, count in family.labels.items():
                count = count.get(direction, 0) if isinstance(count, dict) else count
                for number in range(count):
                    name = "--".join([family.op, *["backward"] * backward, *[label] * bool(label), str(number)])
                    if only is not None and only not in name:
                        continue
                    name, case = build(family, label, number, backward, seed)
                    check(name, case)
                    if name in names:
                        fail(name, "there are two of this name")
                    names.append(name)
                    total += write(directory, name, family.op, case)
                    for feature in {""} | features(family.op, case):
                        counts[family.op, feature, direction] += 1
    if not names:
        sys.exit(f"no case has {only} in its name")
    if report:
        lines, missing = table(counts, wanted)
        print(f"{'operation':24} {'attribute or case':28} {'forward':>7} {'backward':>8}")
        print("\n".join(lines))
        if missing and only is None:
            sys.exit("\n".join(missing))
    return names, total


def is_case(folder):
    return folder.is_dir() and (folder / "case.json").is_file() and (folder / "tensors.safetensors").is_file()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT_DIR")
    parser.add_argument("--only", metavar="TEXT", help="write the cases whose names contain this")
    parser.add_argument("--seed", type=int, default=0, help="another draw of operands")
    arguments = parser.parse_args()

    torch.set_num_threads(1)
    names, total = make(arguments.out, arguments.only, arguments.seed, True)
    with tempfile.TemporaryDirectory() as again:
        again = Path(again)
        make(again, arguments.only, arguments.seed, False)
        for name in names:
            for file in sorted((again / name).iterdir()):
                if file.read_bytes() != (arguments.out / name / file.name).read_bytes():
                    fail(name, f"a second run gave another {file.name}")
    if arguments.only is None:
        for folder in sorted(arguments.out.iterdir()):
            if is_case(folder) and folder.name not in set(names):
                shutil.rmtree(folder)
                print(f"removed {folder.name}")
    print(f"{len(names)} cases, {total / 1000:.0f} kB")


if __name__ == "__main__":
    sys.modules["vectors"] = sys.modules["__main__"]
    main()
