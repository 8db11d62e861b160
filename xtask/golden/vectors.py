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
other bytes. Its exit status is 3 when no case has the name asked for.
"""

import argparse
import collections
import json
import re
import shutil
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file

sys.dont_write_bytecode = True  # leaves no caches beside the sources

import reference
import vector_attention  # noqa: F401 (these register their families)
import vector_fused  # noqa: F401
import vector_primitives  # noqa: F401
from precision import F32, F64, OnlyFloat64
from vector_case import FAMILIES, LEAST, Draw, Redraw, View, Wrong, exact, tensor

DRAWS = 30  # of a small case, until it proves something
EXACT = 1e-13  # how near a second computation must be, as a part of the greatest value
DIFFERENCES = 1e-6  # and the differences of the forward, as a part of the sum of magnitudes
U32 = torch.uint32
NO_SUCH_CASE = 3  # exit status


def fail(name, message):
    raise Wrong(f"{name}: {message}")


def tuple_of(values):
    return values if isinstance(values, tuple) else (values,)


def draw_case(family, name, label, number, backward, seed):
    """A case that passes every check; small ones may need several draws."""
    for attempt in range(DRAWS):
        draw = Draw(seed, name, attempt, backward)
        try:
            case = family.make(draw, label, number)
            complete(case, draw, backward)
            check(name, case)
        except Redraw:
            if attempt == DRAWS - 1:
                raise
        else:
            verify(name, case)
            return case


def operands_of(case):
    """The operands by the names that `compute` has for them, without cotangents."""
    drawn = () if case.cotangents is None else case.cotangents.values()
    return {key.removeprefix("raw."): tensor(value) for key, value in case.operands.items() if key not in drawn}


def outputs_of(case, values):
    if case.mixed:
        return tuple_of(case.compute(**values))
    with OnlyFloat64():
        return tuple_of(case.compute(**values))


def complete(case, draw, backward):
    """Adds expected values and, to a backward case, cotangents."""
    values = operands_of(case)
    if not backward:
        case.expected = dict(zip(case.outputs, outputs_of(case, values), strict=True))
        return
    leaves = {key: values[key].clone().requires_grad_() for key in case.gradients}
    results = outputs_of(case, values | leaves)
    cotangents = {}
    for i, (key, result) in enumerate(zip(case.outputs, results, strict=True)):
        cotangents[key] = draw.normal(*result.shape) if i == 0 else None
    with OnlyFloat64():
        gradients = torch.autograd.grad(results[0], list(leaves.values()), cotangents[case.outputs[0]])
    case.expected = {f"d_{key}": gradient for key, gradient in zip(leaves, gradients, strict=True)}
    case.cotangents = {key: None if value is None else f"d_{key}" for key, value in cotangents.items()}
    case.operands |= {f"d_{key}": value for key, value in cotangents.items() if value is not None}


def verify(name, case):
    """Computes the expected values in another way, where there is one."""
    values = operands_of(case)
    if case.cotangents is None:
        if case.again is not None:
            for (key, value), other in zip(case.expected.items(), tuple_of(case.again(**values)), strict=True):
                agree(name, key, value, other, 0.0 if case.step == "relative" else 0.1)
        return
    if case.step == "none":
        return
    cotangent = case.operands[case.cotangents[case.outputs[0]]]
    for key in case.gradients:

        def scalar(x):
            return (outputs_of(case, values | {key: x})[0] * cotangent).sum()

        differences(name, case, key, values[key], case.expected[f"d_{key}"], scalar)


def differences(name, case, key, x, gradient, scalar):
    """Holds a gradient to fourth-order central differences along a random direction."""
    direction = torch.randn(x.shape, generator=reference.generator("direction", name, key), dtype=F64)
    if case.step == "relative":
        direction = direction * x.abs()
    h = 1e-3 if case.step == "relative" else 2e-4
    at = {times: scalar(x + times * h * direction) for times in (-2, -1, 1, 2)}
    slope = (8 * (at[1] - at[-1]) - (at[2] - at[-2])) / (12 * h)
    terms = gradient * direction
    error = float((slope - terms.sum()).abs())
    size = float(terms.abs().sum())
    noise = 1e-13 * float(max(value.abs() for value in at.values())) / h
    if not error <= DIFFERENCES * size + noise:
        fail(name, f"the gradient of {key} differs from differences by {error:g} of {size:g}")


def agree(name, key, value, other, floor):
    """Compares with a second computation; small values are differences of numbers of the size of `floor`."""
    other = other if isinstance(other, torch.Tensor) else torch.tensor(other, dtype=value.dtype)
    other = other.reshape(value.shape).to(value.dtype)
    same = (value == other) | (value.isnan() & other.isnan())
    if value.is_floating_point():
        finite = value[value.isfinite()]
        size = float(finite.abs().max()) if finite.numel() else 0.0
        same |= (value - other).abs() <= EXACT * max(size, floor)
    if not bool(same.all()):
        fail(name, f"a second computation of {key} gives {other.flatten().tolist()}, not {value.flatten().tolist()}")


def is_plain(value, least=0.0):
    """Whether a constant, or zero, would pass for it; magnitudes up to `least` are as good as zero."""
    first = value.flatten()[0]
    constant = bool((value == first).all()) and value.numel() > 1
    return constant or bool((value.abs() <= least).all())


def check(name, case):
    """Refuses cases that prove nothing or that f32 cannot hold."""
    # Norms of small or large rows give small values by right; elsewhere they come of peaks, and f32 sees zero.
    least = 0.0 if case.step == "relative" or case.mixed else 1e-4
    for key, value in case.expected.items():
        if value.numel() == 0:
            fail(name, f"{key} has no elements")
        if is_plain(value, least) and case.plain is None:
            raise Redraw(f"{name}: {key} is all {value.flatten()[0].item():g}, and no reason is given")
        if value.is_floating_point() and not case.mixed:
            if not bool(value.isfinite().all()) or float(value.abs().max()) > 3.4028234663852886e38:
                fail(name, f"{key} is beyond f32")
    if all(not is_plain(value) for value in case.expected.values()) and case.plain is not None:
        fail(name, f"nothing is all equal, though it is said that {case.plain}")
    for key, operand in case.operands.items():
        value = operand.flat if isinstance(operand, View) else operand
        kept = exact(value) if value.dtype == F64 and key not in case.saved else value
        if not torch.equal(kept.nan_to_num(), value.nan_to_num()):
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
    backward = case.cotangents is not None
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
    ordered = {key: value.contiguous().clone() for key, value in tensors.items()}
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
            found |= {f"rows={part}" for row in value for part in row}
    for key in ("bias", "residual"):
        if (op, key) in {("layer_norm", "bias"), ("linear", "bias"), ("linear", "residual")}:
            found.add(f"{key}={'present' if key in case.operands else 'absent'}")
    if "weight" in case.operands and op in ("linear", "embedding", "linear_backward_input"):
        found.add(f"weight_dtype={case.weight_dtype or 'f32'}")
    if any(isinstance(operand, View) for operand in case.operands.values()):
        found.add("layouts")
    return found


def documented():
    """Operations of the tables in docs/case-format.md."""
    text = (Path(__file__).parents[2] / "docs/case-format.md").read_text()
    start = text.index("## Operations")
    end = text.index("\n## ", start)
    return re.findall(r"^\| `(\w+)` \|", text[start:end], re.MULTILINE)


def table(counts, wanted):
    """The lines of the table, and those of what is missing."""
    lines, missing = [], []
    for op in dict.fromkeys(op for op, _, _ in counts):
        for feature in ["", *sorted({f for o, f, _ in counts | wanted.keys() if o == op and f})]:
            row = [counts[op, feature, direction] for direction in ("forward", "backward")]
            shown = [str(row[0]), str(row[1]) if row[1] or (op, feature, "backward") in wanted else "-"]
            lines.append(f"{op if not feature else '':24} {feature or 'all':28} {shown[0]:>7} {shown[1]:>8}")
            for direction, count in zip(("forward", "backward"), row):
                if (op, feature, direction) in wanted and count < LEAST:
                    missing.append(f"{op} {feature} {direction}: {count} cases, {LEAST} are needed")
    return lines, missing


def make(directory, only, seed, report):
    """Writes the cases; returns their names and total size."""
    counts, wanted, names, wrong, total = collections.Counter(), {}, [], [], 0
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
                    if name in names:
                        sys.exit(f"{name}: there are two of this name")
                    try:
                        case = draw_case(family, name, label, number, backward, seed)
                    except Wrong as error:
                        wrong.append(str(error))
                        continue
                    names.append(name)
                    total += write(directory, name, family.op, case)
                    for feature in {""} | features(family.op, case):
                        counts[family.op, feature, direction] += 1
    if wrong:
        sys.exit("\n".join(wrong))
    if not names:
        print(f"no test vector has '{only}' in its name", file=sys.stderr)
        sys.exit(NO_SUCH_CASE)
    if report:
        lines, missing = table(counts, wanted)
        missing += [f"{op}: no cases" for op in documented() if not counts[op, "", "forward"]]
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
    main()
