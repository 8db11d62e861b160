"""Test vectors of the primitives."""

import math
from fractions import Fraction

import mpmath
import numpy
import torch

from precision import BF16, F16, F64
from vector_case import Case, exact, family

mpmath.mp.dps = 40

# Shapes of element-wise cases: one element, single-element axes, rank 4.
SHAPES = [(1,), (7,), (3, 1, 5), (33,), (2, 3, 5, 2)]
INFINITY = math.inf
# Precision in bits, exponent of the least normal number, greatest number.
FORMATS = {"f32": (24, -126), "f16": (11, -14), "bf16": (8, -126)}
TORCH = {"f16": F16, "bf16": BF16}


def mapped(function, *operands):
    """`function` of Python floats, element by element."""
    rows = zip(*(operand.flatten().tolist() for operand in torch.broadcast_tensors(*operands)))
    return [float(function(*row)) for row in rows]


def rounded(value, kind):
    """`value` rounded once to nearest even, by whole numbers."""
    if kind == "f64" or math.isinf(value) or value == 0:
        return value
    bits, least = FORMATS[kind]
    exponent = max(math.frexp(value)[1] - 1, least) - bits + 1
    units = round(Fraction(value) / Fraction(2) ** exponent)  # a Fraction rounds to even
    result = Fraction(units) * Fraction(2) ** exponent
    greatest = (2 - Fraction(2) ** (1 - bits)) * Fraction(2) ** (-least + 1)
    return math.copysign(INFINITY, value) if abs(result) > greatest else math.copysign(float(result), value)


# fill

FILLS = {
    "float": [0.0, -1.5, 2.0**-20, 3e38, 16777216.0],
    "f32": [0.0, 0.1, 1.0 + 2.0**-24, 1.0 + 2.0**-24 + 2.0**-50, -3.4e38],
    "f64": [0.0, 0.1, math.pi, -1e300, 1e-300],
    # Halfway between two neighbours, and a little above halfway: rounding to f32 first would make it halfway.
    "f16": [0.0, 0.1, 1.0 + 2.0**-11, 1.0 + 2.0**-11 + 2.0**-40, -65504.0],
    "bf16": [0.0, 0.1, 1.0 + 3 * 2.0**-8, 1.0 + 2.0**-8 + 2.0**-40, -3e38],
    "u32": [0.0, 1.0, 7.0, 16777217.0, 4294967295.0],
}


@family("fill", list(FILLS), backward=False, covers={"dtype": FILLS})
def fill(draw, dtype, n):
    value = exact(torch.tensor(FILLS[dtype][n], dtype=F64)).item() if dtype == "float" else FILLS[dtype][n]
    shape = list([(3,), (1,), (2, 3, 1), (5, 7), (1, 2, 3, 2)][n])

    def compute():
        kept = float(numpy.float16(value)) if dtype == "f16" else value if dtype == "float" else None
        if dtype == "u32":
            return torch.full(shape, int(value), dtype=torch.int64)
        kept = rounded(value, dtype) if kept is None else kept
        return torch.full(shape, kept, dtype=F64)

    def again():
        kind = {"f32": torch.float32, "f64": F64, "float": F64, "u32": torch.int64, **TORCH}[dtype]
        # torch goes to bf16 and f16 by way of f32.
        near = value if n != 3 or dtype not in TORCH else value + 2.0**-20
        return torch.full(shape, near, dtype=F64).to(kind)

    return Case(
        {"shape": shape, "value": value, "dtype": dtype}, {}, compute, again=again, mixed=True,
        plain="a tensor of one value" if n != 1 else None,
    )  # fmt: skip


# copy


def halfway(bits):
    """Numbers halfway between two neighbours, and next to halfway, of both signs."""
    step = 2.0 ** (1 - bits)
    points = [1 + (k + half) * step for k in range(4) for half in (0.5, 0.5 - 2.0**-8, 0.5 + 2.0**-8, 0.0)]
    return torch.tensor([sign * scale * x for sign in (1, -1) for scale in (1, 4, 0.125) for x in points], dtype=F64)


COPY_FLOATS = {
    "f16": {
        "overflow": [65504, 65519, 65519.99609375, 65520, 65536, 1e5, 3e38, -65504, -65519, -65520, -1e6, 65488, 7],
        "denormals": [2.0**-24 * k for k in (0, 0.25, 0.5, 0.75, 1, 1.5, 2.5, 3.5, 1023, 1023.5, 1024, 0.5 + 2**-10)],
    },
    "bf16": {
        "overflow": [3.3895313892515355e38, 3.395e38, 3.4028234663852886e38, -3.4028234663852886e38, 65504, -1e38, 1.5],
        "denormals": [2.0**-133 * k for k in (1, 2, 3, 127, 128, 0.5, 1.5, 2.5, 0.75, 100.5)],
    },
}  # fmt: skip
TRUNCATED = [0, -0.0, 0.5, 0.9999999403953552, 1, 1.5, 2.9999, -0.5, -1, -7.25, 16777216, 2147483648, 4294967040,
             4294967296, 1e10, 3e38, -3e38, 33.75]  # fmt: skip
# Patterns of f16 and bf16; the second list has numbers below the normal ones, in bf16 as few as f32's.
BITS = [0x0000, 0x8000, 0x03FF, 0x0400, 0x3C00, 0x3C01, 0x4248, 0x7BFF, 0xFBFF, 0xB555, 0x5640]
LOW_BITS = [0x0001, 0x8001, 0x0012, 0x0040, 0x807F, 0x0080, 0x3C00]
BIG = [0, 1, 7, 255, 256, 257, 2049, 65504, 65519, 16777215, 16777216, 2147483648, 4294967040]
COPIES = ["random", "view", "from-f16", "from-bf16", "from-u32"]
COPY_LABELS = {
    **{f"{dtype}-{what}": 1 for dtype in ("float", "f32", "f64", "u32", "f16", "bf16") for what in COPIES},
    **{f"{dtype}-{what}": 1 for dtype in ("f16", "bf16") for what in ("ties", "overflow", "denormals", "signs")},
    "float-from-f16-denormals": 1, "float-from-bf16-denormals": 1, "u32-truncation": 2,
    "u32-from-f16-clamped": 1, "bf16-from-u32-rounds-once": 1,
}  # fmt: skip


def from_bits(dtype, bits=BITS):
    return torch.tensor(bits, dtype=torch.int32).to(torch.int16).view(dtype)


@family("copy", COPY_LABELS, backward=False, covers={"dtype": ["float", "f32", "f64", "f16", "bf16", "u32"]})
def copy(draw, label, n):
    dtype, _, what = label.partition("-")
    name = "x"
    shape = [(3, 1, 5), (2, 7)][n % 2]
    if what == "random":
        x = draw.spread(-4, 4, *shape) if dtype != "u32" else draw.uniform(0, 1e4, *shape)
    elif what == "view":
        x = draw.spread(-3, 3, 3, 5) if dtype != "u32" else draw.uniform(0, 1e9, 3, 5)
        return copied(draw.view(x, {"f16": "part", "u32": "every"}.get(dtype, "reversed")), "x", dtype)
    elif what in ("from-f16", "from-bf16"):
        x, name = from_bits(TORCH[what[5:]]), "raw.x"
        if dtype == "u32":
            x = torch.tensor([0, 1, 1.5, 2.75, 255, 2048, 0.25, 300], dtype=F64).to(TORCH[what[5:]])
        elif dtype == "f16" and what == "from-bf16":
            x = torch.tensor([0.0, -0.0, 1.0078125, -3.140625, 65280, 65536, 2.0**-24, 2.0**-25, -1e-6, 1e38]).to(BF16)
        elif dtype == "bf16" and what == "from-f16":
            x = torch.cat([x, halfway(8).to(F16)])
    elif what.endswith("-denormals"):
        x, name = from_bits(TORCH[what.split("-")[1]], LOW_BITS), "raw.x"
    elif what == "from-f16-clamped":
        x, name = torch.tensor([-1, -0.5, -65504, 65504, 0.99951171875, 3.998046875], dtype=F64).to(F16), "raw.x"
    elif what == "from-u32":
        x, name = torch.tensor(BIG), "raw.x"
        if dtype == "u32":
            x = torch.cat([x, torch.tensor([4294967295, 4294967041])])
        elif dtype == "f16":
            x = torch.cat([x[:9], torch.tensor([65520, 4294967040, 2051, 2053])])
    elif what == "from-u32-rounds-once":
        # Between two neighbours 65536 apart, just above halfway: f32 would make it halfway.
        middle = 16777216 + 65536
        x, name = torch.tensor([middle + 1, middle, middle - 1, 2 * middle + 1]), "raw.x"
    elif what == "ties":
        x = halfway({"f16": 11, "bf16": 8}[dtype])
    elif what == "signs":
        x = torch.tensor([0.0, -0.0, 1.0, -1.0, 2.5, -2.5, 1e-30, -1e-30], dtype=F64)
        x = exact(x if dtype == "bf16" else x * torch.tensor([1, 1, 1, 1, 1, 1, 1e22, 1e22], dtype=F64))
    elif what == "truncation":
        values = torch.tensor(TRUNCATED, dtype=F64)
        x = exact(values if n == 0 else torch.cat([draw.uniform(-3, 3, 9), draw.uniform(0, 4e9, 9)]))
    else:
        x = exact(torch.tensor(COPY_FLOATS[dtype][what], dtype=F64))
        if what == "denormals":
            x = torch.cat([x, -x])
    return copied(x, name, dtype)


def copied(x, name, dtype):
    def compute(x):
        if dtype == "u32":
            return torch.tensor([min(max(int(v), 0), 2**32 - 1) for v in x.flatten().tolist()]).reshape(x.shape)
        if dtype in TORCH:
            # Whole numbers beyond f32 are rounded once.
            wide = x.to(F64)
            if name == "raw.x" and not torch.equal(exact(wide), wide):
                return torch.tensor([rounded(v, dtype) for v in wide.tolist()], dtype=F64)
            return wide.to(TORCH[dtype]).to(F64)
        return x.to(F64)

    def again(x):
        values = x.to(F64).flatten().tolist()
        if dtype == "u32":
            return numpy.clip(numpy.trunc(values), 0, 4294967295).astype(numpy.int64).tolist()
        return [rounded(v, "f64" if dtype == "float" else dtype) for v in values]

    return Case({"dtype": dtype}, {name: x}, compute, again=again, mixed=True)


@family("copy", {"float": {"backward": 3}, "float-view": {"backward": 3}}, covers={"dtype": {"backward": ["float"]}})
def copy_backward(draw, label, n):
    x = draw.normal(*[(3, 1, 5), (17,), (2, 3, 2, 3)][n])
    operand = draw.view(x, ["reversed", "part", "every"][n]) if label.endswith("view") else x
    return Case({"dtype": "float"}, {"x": operand}, lambda x: x * 1.0, gradients=("x",))


# write

WRITES = [((7,), (3,), (2,)), ((5, 3), (2, 3), (3, 0)), ((3, 4, 5), (1, 2, 3), (2, 1, 2)), ((2, 3), (2, 3), (0, 0)),
          ((2, 3, 1, 5), (1, 3, 1, 2), (1, 0, 0, 3))]  # fmt: skip


@family("write", {"box": 5, "u32": {"forward": 1}, "view": 2})
def write(draw, label, n):
    sizes, box, start = WRITES[n]
    into, x = draw.normal(*sizes), draw.normal(*box)
    name = ""
    if label == "u32":
        into, x, name = draw.ids(2**32, *sizes), draw.ids(2**32, *box), "raw."
    if label == "view":
        x = draw.view(x, ["every", "reversed"][n])
        into = draw.view(into, ["part", "reversed"][n])

    def compute(into, x):
        out = into.clone()
        out[tuple(slice(first, first + size) for first, size in zip(start, box))] = x
        return out

    def again(into, x):
        out = into.flatten().tolist()
        strides = [math.prod(sizes[axis + 1 :]) for axis in range(len(sizes))]
        for place, value in zip(numpy.ndindex(*box), x.flatten().tolist()):
            out[sum((first + i) * stride for first, i, stride in zip(start, place, strides))] = value
        return out

    whole = sizes == box
    return Case(
        {"start": list(start)}, {f"{name}into": into, f"{name}x": x}, compute, again=again, gradients=("into", "x"),
        plain="the whole is replaced" if whole and draw.backward else None,
    )  # fmt: skip


# unary


class Single(torch.autograd.Function):
    """The nearest f32; a gradient goes through as if nothing was rounded."""

    @staticmethod
    def forward(ctx, x):
        return torch.from_numpy(x.detach().numpy().astype(numpy.float32).astype(numpy.float64))

    @staticmethod
    def backward(ctx, gradient):
        return gradient


UNARY = {
    "negate": (torch.neg, lambda x: -x, [0.0, -0.0, 1e30, -1e-30, 3e38, 1.2e-38]),
    "exp": (torch.exp, mpmath.exp, [0.0, -0.0, 88, -87, 1e-6, -1e-6, 20.5, -20.5]),
    "log": (torch.log, mpmath.log, [1e-30, 1e30, 3e38, 1.2e-38, 0.5, 2, 10]),
    "sqrt": (torch.sqrt, mpmath.sqrt, [1e-30, 1e30, 4, 2, 3e38, 1.2e-38]),
    "tanh": (torch.tanh, mpmath.tanh, [0.0, -0.0, 1e-6, -1e-6, 8, -8, 1, 1e-20]),
    "erf": (torch.special.erf, mpmath.erf, [0.0, -0.0, 1e-6, -1e-6, 3, -3, 1, 1e-20]),
    "reciprocal": (torch.reciprocal, lambda x: 1 / mpmath.mpf(x), [1e-30, -1e30, 3, -3, 1e37, -1e-37]),
    # f32's tie between two whole numbers goes to the even one; from 2^23 on all are whole.
    "round": (torch.round, lambda x: math.copysign(round(Fraction(x)), x),
              [0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 0.49999997, 4194304.5, 4194305.5, 8388607.5, 8388609, -3e38]),
    "single": (Single.apply, lambda x: rounded(x, "f32"), [0.0, -0.0, 1e-45, -1e-40, 3e38, 16777217.0]),
}  # fmt: skip
SLOPED = [kind for kind in UNARY if kind != "round"]  # a whole number has no gradient
UNARY_LABELS = {kind: {"forward": 5, "backward": 5 * (kind in SLOPED)} for kind in UNARY}
UNARY_LABELS |= {"single-of-f64": {"forward": 5}}


@family("unary", UNARY_LABELS, covers={"kind": {"forward": UNARY, "backward": SLOPED}})
def unary(draw, label, n):
    kind = label.split("-")[0]
    function, slow, special = UNARY[kind]
    shape = SHAPES[n]
    if kind in ("log", "sqrt"):
        x = draw.uniform(1.5, 9, *shape) if n % 2 else draw.uniform(0.01, 0.7, *shape)
    elif kind == "reciprocal":
        x = draw.spread(-2, 2, *shape)
    else:
        x = draw.normal(*shape, scale=2.0)
    step = "absolute" if kind not in ("log", "sqrt", "reciprocal") else "relative"
    if label == "single-of-f64":  # between the numbers of f32
        x = x + draw.normal(*shape, scale=2.0**-27)
    elif kind == "round":
        x = exact(x * 4)
    if n == 3 and label == kind:
        if draw.backward:  # where the derivative is within f32, too
            limits = {"reciprocal": 1e18, "log": 1e30, "exp": 50}.get(kind, 1e38)
            special = [v for v in special if abs(v) <= limits and (v == 0 or abs(v) >= 1 / limits)]
        x = torch.cat([exact(torch.tensor(special, dtype=F64)), x[len(special) :]])
        step = "relative" if kind in ("negate", "log", "sqrt", "reciprocal") else step
    if kind == "sqrt" and not draw.backward and n == 1:
        x[0] = 0.0
    operand = x
    if n == 4:
        operand = draw.view(x, "reversed")
    return Case(
        {"kind": kind}, {"x": operand}, lambda x: function(x), gradients=("x",), again=lambda x: mapped(slow, x),
        step=step if kind != "single" else "none", saved=("x",) * (label == "single-of-f64"),
    )  # fmt: skip


# binary

BINARY = {
    "add": (torch.add, lambda a, b: a + b),
    "subtract": (torch.sub, lambda a, b: a - b),
    "multiply": (torch.mul, lambda a, b: a * b),
    "divide": (torch.div, lambda a, b: a / b),
    "maximum": (torch.maximum, max),
    "minimum": (torch.minimum, min),
    "less": (lambda a, b: (a < b).long(), lambda a, b: a < b),
    "equal": (lambda a, b: (a == b).long(), lambda a, b: a == b),
}
SMOOTH = ["add", "subtract", "multiply", "divide", "maximum", "minimum"]
BROADCASTS = [
    ((1,), (1,)), ((7,), (7,)), ((3, 1, 5), (1, 4, 1)), ((5,), (2, 3, 5)), ((2, 3, 5), (1,)), ((1, 1, 1), (2, 3, 1)),
    ((3, 5), (3, 1)), ((2, 1, 3, 1), (5, 1, 2)), ((), (2, 3)),
]  # fmt: skip


@family(
    "binary", {kind: {"forward": 11, "backward": 11 * (kind in SMOOTH)} for kind in BINARY},
    covers={"kind": {"forward": BINARY, "backward": SMOOTH}},
)  # fmt: skip
def binary(draw, kind, n):
    function, slow = BINARY[kind]
    discrete = kind in ("less", "equal")
    if n < len(BROADCASTS):
        first, second = BROADCASTS[n]
    else:
        first, second = ((17,), (17,)) if n == 9 else ((3, 5), (3, 5))
    name, step = "", "absolute"
    a, b = draw.normal(*first), draw.normal(*second)
    plain = None
    if kind == "divide":
        b = draw.spread(-0.5, 0.5, *second)
    if kind in ("maximum", "minimum", "equal", "less"):
        # Many ties; to differences they are kinks.
        a, b = draw.ids(4, *first).to(F64) - 1.5, draw.ids(4, *second).to(F64) - 1.5
        step = "none"
        if a.numel() == 1 == b.numel():
            a, b = a * 0 + 1.5, b * 0 + 1.5
            if kind == "less":
                b = b * 2
    elif n == 9:
        a, b = draw.spread(-15, 15, *first), draw.spread(-15, 15, *second)
        step = "relative"
    if discrete and n == 9:
        # Neighbours, beyond 2^24 and 2^31.
        a = torch.tensor([0, 1, 5, 16777216, 16777217, 2147483647, 2147483648, 4294967294, 4294967295, 9])
        b = torch.tensor([0, 2, 4, 16777217, 16777216, 2147483648, 2147483647, 4294967295, 4294967295, 9])
        name = "raw."
    operands = {"a": a, "b": b}
    if n == 10:
        operands = {"a": draw.view(a, "reversed"), "b": draw.view(b, "part")}
    return Case(
        {"kind": kind}, {f"{name}{key}": value for key, value in operands.items()},
        lambda a, b: function(a, b), gradients=("a", "b"),
        again=lambda a, b: mapped(slow, a, b), step=step, plain=plain, features=("broadcast",) * (first != second),
    )  # fmt: skip


# select

SELECTS = [((7,), (7,), (7,)), ((3, 1), (3, 5), (5,)), ((2, 1, 5), (1, 3, 1), (2, 3, 5)), ((5,), (2, 3, 1), (1,)),
           ((3, 5), (1,), (3, 1)), ((2, 3, 4), (2, 3, 4), (2, 3, 4))]  # fmt: skip


@family("select", {"": 6, "unchosen-nan": {"forward": 2}, "u32": {"forward": 1}, "view": 2})
def select(draw, label, n):
    shapes = SELECTS[n] if label != "unchosen-nan" else SELECTS[5]
    mask = draw.ids(3, *shapes[0])
    mask.view(-1)[0] = [7, 2**31, 2**32 - 1][n % 3]
    mask.view(-1)[-1] = 0
    a, b, name = draw.normal(*shapes[1]), draw.normal(*shapes[2]), ""
    if label == "unchosen-nan":
        a = torch.where(mask != 0, a, math.nan)
        b = torch.where(mask == 0, b, [math.nan, INFINITY][n])
    if label == "u32":
        a, b, name = draw.ids(2**32, *shapes[1]), draw.ids(2**32, *shapes[2]), "raw."
    masked = mask
    if label == "view":
        masked, a = draw.view(mask, "reversed"), draw.view(a, ["part", "reversed"][n])
    operands = {"mask": masked, f"{name}a": a, f"{name}b": b}
    return Case(
        {}, operands,
        lambda mask, a, b: torch.where(mask != 0, a, b), gradients=("a", "b"),
        again=lambda mask, a, b: mapped(lambda m, a, b: a if m else b, mask, a, b),
    )  # fmt: skip


# reduce

REDUCED = {
    0: [(7,), (3, 5), (5, 1, 3)], 1: [(3, 7), (2, 5, 3), (1, 17)], 2: [(2, 3, 5), (3, 1, 7), (2, 2, 3, 2)],
    3: [(2, 1, 3, 5), (1, 2, 2, 7), (2, 3, 1, 3)],
}  # fmt: skip
KINDS = ["sum", "maximum", "arg_maximum"]


@family(
    "reduce",
    {
        **{f"{kind}-axis-{axis}": {"forward": 3, "backward": 3 * (kind != "arg_maximum")}
           for kind in KINDS for axis in REDUCED},
        **{f"{kind}-{what}": {"forward": 1, "backward": kind != "arg_maximum"}
           for kind in KINDS for what in ("large", "view", "single")},
        "maximum-ties": 2, "arg_maximum-ties": {"forward": 2}, "arg_maximum-nan": {"forward": 1},
    },
    covers={"kind": {"forward": KINDS, "backward": KINDS[:2]}, "axis": [0, 1, 2, 3]},
)  # fmt: skip
def reduce(draw, label, n):
    kind, _, what = label.partition("-")
    axis, step, plain = 1, "absolute", None
    if what.startswith("axis"):
        axis = int(what[-1])
        x = draw.normal(*REDUCED[axis][n], scale=2.0)
        if draw.backward and kind == "sum" and x.numel() == x.shape[axis]:
            plain = "one sum has one cotangent"
    elif what == "large":
        x, step = draw.spread(-3, 15, 5, 7), "relative"
    elif what == "view":
        x = draw.normal(3, 5, 2)
    elif what == "single":
        x = draw.normal(5, 1, 3)
        plain = "the axis has one element" if kind == "arg_maximum" else None
    elif what == "ties":
        x, step = draw.ids(3, 5, 7).to(F64) - torch.arange(5, dtype=F64)[:, None], "none"
    else:
        x = draw.normal(4, 7)
        x[0, 2], x[2, 5], x[2, 6] = math.nan, math.nan, INFINITY

    def compute(x):
        if kind == "sum":
            return x.sum(axis, keepdim=True)
        values, places = x.max(axis, keepdim=True)
        return values if kind == "maximum" else places

    def again(x):
        array = x.numpy()
        out = []
        for lane in numpy.moveaxis(array, axis, -1).reshape(-1, array.shape[axis]).tolist():
            if kind == "sum":
                out.append(math.fsum(lane))
                continue
            # The first NaN, or the first of the greatest.
            best = next((i for i, v in enumerate(lane) if math.isnan(v)), None)
            best = lane.index(max(lane)) if best is None else best
            out.append(lane[best] if kind == "maximum" else best)
        return out

    if what == "ties":  # torch takes the first of the greatest
        assert x.max(1).indices.tolist() == [lane.index(max(lane)) for lane in x.tolist()]
    operand = draw.view(x, "reversed") if what == "view" else x
    return Case(
        {"axis": axis, "kind": kind}, {"x": operand}, compute, gradients=("x",), again=again, step=step, plain=plain,
    )  # fmt: skip


# matmul

MATMULS = {
    "plain": [((5, 7), (7, 3)), ((1, 17), (17, 1)), ((3, 1), (1, 5)), ((2, 33), (33, 3)), ((1, 3), (3, 7))],
    "batch": [((2, 3, 5), (2, 5, 2)), ((1, 2, 3), (1, 3, 5)), ((2, 2, 3, 2), (2, 2, 2, 3)), ((5, 1, 3), (5, 3, 1)),
              ((3, 2, 7), (3, 7, 2))],
    "broadcast-batch": [((3, 1, 2, 5), (2, 5, 3)), ((2, 5), (3, 5, 2)), ((3, 2, 5), (5, 2)), ((1, 2, 3), (4, 3, 2)),
                        ((2, 1, 2, 3), (1, 3, 3, 2))],
    "view": [((3, 5), (5, 2)), ((2, 3, 5), (2, 5, 3)), ((3, 1, 2, 5), (2, 5, 3)), ((5, 7), (7, 3)), ((2, 3), (3, 7))],
    "large": [((3, 5), (5, 4))],
}  # fmt: skip


@family("matmul", {label: len(shapes) for label, shapes in MATMULS.items()}, covers={
    "form": ["plain", "batch", "broadcast-batch", "view"],
})  # fmt: skip
def matmul(draw, label, n):
    a, b = (draw.normal(*shape) for shape in MATMULS[label][n])
    step = "absolute"
    if label == "large":
        a, b, step = draw.spread(10, 15, 3, 5), draw.spread(-15, -10, 5, 4), "relative"
    operands = {"a": a, "b": b}
    if label == "view":
        hows = [("reversed", None), (None, "reversed"), ("reversed", "part"), ("every", "reversed"), ("part", "every")]
        operands = {key: x if by is None else draw.view(x, by) for (key, x), by in zip(operands.items(), hows[n])}

    def again(a, b):
        batch = torch.broadcast_shapes(a.shape[:-2], b.shape[:-2])
        a = a.expand(*batch, *a.shape[-2:]).reshape(-1, *a.shape[-2:]).tolist()
        b = b.expand(*batch, *b.shape[-2:]).reshape(-1, *b.shape[-2:]).tolist()
        return [
            math.fsum(row[k] * right[k][j] for k in range(len(row)))
            for left, right in zip(a, b) for row in left for j in range(len(right[0]))
        ]  # fmt: skip

    return Case(
        {}, operands, lambda a, b: a @ b, gradients=("a", "b"), again=again, step=step, features=(f"form={label}",),
    )  # fmt: skip


# gather_rows, scatter_rows


def kept(ids, rows):
    return (ids < rows).nonzero().flatten()


@family("gather_rows", {"": 5, "beyond": 5, "u32": {"forward": 1}, "f16": {"forward": 1}, "view": 2}, covers={
    "ids": ["within", "beyond"],
})  # fmt: skip
def gather_rows(draw, label, n):
    shape = [(7, 3), (1, 5), (5,), (3, 2, 4), (17, 1)][n]
    count = [5, 3, 7, 4, 33][n]
    x, name = draw.normal(*shape), "x"
    ids = draw.ids(shape[0], count)
    if label == "beyond":
        ids[count // 2] = [shape[0], shape[0] + 5, 2**31, 2**32 - 1, shape[0]][n]
    if label == "u32":
        x, name = draw.ids(2**32, *shape), "raw.x"
    if label == "f16":
        x, name = x.to(F16), "raw.x"
    if label == "view":
        x = draw.view(x, ["reversed", "part"][n])

    def compute(x, ids):
        rows = kept(ids, len(x))
        out = torch.zeros(len(ids), *x.shape[1:], dtype=x.dtype)
        return out.index_copy(0, rows, x.index_select(0, ids[rows]))

    def again(x, ids):
        zero = torch.zeros_like(x[0]).tolist()
        return torch.tensor([x[i].tolist() if i < len(x) else zero for i in ids.tolist()])

    return Case(
        {}, {name: x, "ids": ids}, compute, gradients=("x",), again=again, mixed=label == "f16",
        features=("ids=beyond" if bool((ids >= shape[0]).any()) else "ids=within",),
    )  # fmt: skip


@family(
    "scatter_rows",
    {
        **{f"{mode}-{what}": 5 for mode in ("add", "replace") for what in ("distinct", "repeated", "beyond")},
        "replace-u32": {"forward": 1}, "add-view": 2, "replace-view": 2,
    },
    covers={"add": ["true", "false"], "ids": ["distinct", "repeated", "beyond"]},
)  # fmt: skip
def scatter_rows(draw, label, n):
    mode, _, what = label.partition("-")
    shape = [(7, 3), (5, 1), (9,), (5, 2, 4), (17, 3)][n]
    count = [5, 3, 7, 4, 11][n]
    ids = draw.order(shape[0])[:count]
    if what == "repeated":
        ids = draw.ids(max(shape[0] // 2, 2), count)
        ids[-1] = ids[0]
    if what == "beyond":
        ids = draw.ids(shape[0], count)
        ids[0], ids[count // 2] = shape[0], [2**32 - 1, shape[0] + 1, 2**31, 99, shape[0]][n]
    into, x, name = draw.normal(*shape), draw.normal(count, *shape[1:]), ""
    if what == "u32":
        into, x, name = draw.ids(2**32, *shape), draw.ids(2**32, count, *shape[1:]), "raw."
    if what == "view":
        into, x = draw.view(into, ["part", "reversed"][n]), draw.view(x, ["reversed", "every"][n])

    def compute(into, ids, x):
        rows = kept(ids, len(into))
        if mode == "add":
            return into.index_add(0, ids[rows], x[rows])
        # The last row of an id stays.
        last = {int(ids[row]): int(row) for row in rows}
        places, rows = torch.tensor(list(last)), torch.tensor(list(last.values()))
        return into.index_copy(0, places, x[rows])

    def again(into, ids, x):
        out = into.clone()
        for row, i in enumerate(ids.tolist()):
            if i < len(out):
                out[i] = out[i] + x[row] if mode == "add" else x[row]
        return out

    return Case(
        {"add": mode == "add"}, {f"{name}into": into, "ids": ids, f"{name}x": x}, compute,
        gradients=("into", "x"), again=again, features=(f"ids={what}",) * (what in ("distinct", "repeated", "beyond")),
    )  # fmt: skip
