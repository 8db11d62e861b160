"""Test vectors of the fused operations and their backwards, attention and caches excepted."""

import math
from fractions import Fraction

import mpmath
import numpy
import torch
import torch.nn.functional as F
from transformers.activations import QuickGELUActivation
from transformers.generation.logits_process import RepetitionPenaltyLogitsProcessor, SuppressTokensLogitsProcessor
from transformers.models.gptj.modeling_gptj import apply_rotary_pos_emb as rotate_interleaved
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb as rotate_halves

from precision import BF16, F16, F32, F64
from vector_case import Case, Redraw, exact, family
from vector_primitives import SHAPES, mapped, rounded

ACTIVATIONS = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "quick_gelu": QuickGELUActivation(),
    "silu": F.silu,
    "tanh": torch.tanh,
}


def sigmoid(x):
    return 1 / (1 + mpmath.exp(-x))


SLOW = {
    "relu": lambda x: max(x, 0.0),
    "gelu": lambda x: x * (1 + mpmath.erf(x / mpmath.sqrt(2))) / 2,
    "gelu_tanh": lambda x: x * (1 + mpmath.tanh(mpmath.sqrt(2 / mpmath.pi) * (x + 0.044715 * mpmath.mpf(x) ** 3))) / 2,
    "quick_gelu": lambda x: x * sigmoid(mpmath.mpf("1.702") * x),
    "silu": lambda x: x * sigmoid(x),
    "tanh": mpmath.tanh,
}
# Zeros, where relu has its kink; far out, where exponentials are 0 or beyond f32.
SPECIAL = [0.0, -0.0, 1e-6, -1e-6, 4, -4, 25, -25, 1e4, -1e4]


def gradient_of(function, operands, cotangent):
    """Gradients of `function` at `operands`, by autograd."""
    leaves = [operand.detach().clone().requires_grad_() for operand in operands]
    with torch.enable_grad():
        out = function(*leaves)
    return torch.autograd.grad(out, leaves, cotangent)


# softmax


def softmax_operand(draw, label, n):
    shape = [(5, 33), (2, 3, 7), (17,), (1, 2, 3, 5), (3, 4)][n]
    x = draw.normal(*shape, scale=2.0)
    if label == "peaks":  # with another peak of the same height, so that gradients are not all zero
        scale = [80, 1e4, 80, 1e4, 88][n]
        x = (draw.ids(3, *shape).to(F64) - 1) * scale
        x.view(-1, shape[-1])[:, 0] = scale
        x.view(-1, shape[-1])[:, -1] = scale
        if n == 0:
            x = x + draw.normal(*shape)
            x = exact(x)
    return x


def softmax_again(x):
    rows = x.reshape(-1, x.shape[-1]).tolist()
    out = []
    for row in rows:
        terms = [mpmath.exp(mpmath.mpf(v) - max(row)) for v in row]
        out += [float(term / sum(terms)) for term in terms]
    return out


@family("softmax", {"": 5, "peaks": 5, "far-below": 5, "view": 2, "minus-infinity": {"forward": 1}, "single": 1})
def softmax(draw, label, n):
    x = softmax_operand(draw, label, n)
    plain = None
    if label == "view":
        x = draw.view(draw.normal(3, 5, 7), ["reversed", "part"][n])
    elif label == "far-below":  # no exponential of such a value is above 0
        x = exact(x - 2000)
    elif label == "minus-infinity":
        x.view(-1)[::3] = -math.inf
    elif label == "single":
        x, plain = draw.normal(3, 1), "an axis of one element"
    return Case({}, {"x": x}, lambda x: F.softmax(x, -1), gradients=("x",), again=softmax_again, plain=plain)


def shares(draw, rows, width, least):
    """Rows of multiples of 1/64, at least `least` of them, that sum to one exactly."""
    out = torch.full((rows, width), least / 64, dtype=F64)
    for row in range(rows):
        for place in draw.ids(width, 64 - least * width).tolist():
            out[row, place] += 1 / 64
    return out


@family("softmax_backward", {"": 5, "zeros": 2}, backward=False)
def softmax_backward(draw, label, n):
    rows, width = ((4, 17), (1, 33))[n] if label else [(1, 3), (3, 7), (5, 5), (2, 17), (7, 2)][n]
    y = shares(draw, rows, width, 0 if label else 1)
    shape = (rows, width) if n != 1 else (1, rows, width)
    y, d_y = y.reshape(shape), draw.normal(*shape)

    def compute(y, d_y):
        return gradient_of(lambda x: F.softmax(x, -1), [y.log()], d_y)[0]

    def again(y, d_y):
        return y * (d_y - (y * d_y).sum(-1, keepdim=True))

    return Case({}, {"y": y, "d_y": d_y}, compute, outputs=("d_x",), again=again)


# norms

NORM_LABELS = {"": 5, "large": 1, "tiny": 1, "offset": 1, "constant-row": 1, "single": 1, "view": 1}
EPSILONS = [1e-5, 1e-12, 1e-3, 1e-6, 0.1]


def norm_operands(draw, label, n, zero_mean):
    """x, weight and bias, the epsilon, how to take differences, and why results may be plain."""
    shape = [(5, 33), (2, 3, 7), (17,), (3, 1, 5), (2, 2, 3)][n] if not label else (4, 9)
    epsilon, step, plain = EPSILONS[n], "absolute", None
    if label == "single":
        shape, epsilon = (3, 1), 0.25  # a root without rounding: what cancels leaves nothing
        plain = "an axis of one element is its own mean" if zero_mean else None
    x = draw.normal(*shape, scale=2.0) if label != "single" else draw.ids(9, *shape).to(F64) - 3.5
    if label == "large":
        x, step = draw.normal(*shape, scale=1e15), "relative"
    elif label == "tiny":
        x, step = draw.normal(*shape, scale=1e-20), "relative"
    elif label == "offset":
        x = exact(x + 100)
    elif label == "constant-row":
        x[1] = 3.0
        epsilon = 0.01
    weight, bias = draw.normal(shape[-1]), draw.normal(shape[-1])
    if label == "view":
        x, weight = draw.view(x, "reversed"), draw.view(weight, "every")
    return x, weight, bias, epsilon, step, plain


def layer_norm_again(x, weight, bias=None, epsilon=0.0):
    out = []
    for row in x.reshape(-1, x.shape[-1]).tolist():
        row = [mpmath.mpf(v) for v in row]
        mean = sum(row) / len(row)
        root = mpmath.sqrt(sum((v - mean) ** 2 for v in row) / len(row) + epsilon)
        for i, v in enumerate(row):
            out.append(float((v - mean) / root * weight[i].item() + (0 if bias is None else bias[i].item())))
    return out


@family(
    "layer_norm", {f"{bias}{'-' if label else ''}{label}": count
                   for bias in ("bias", "no-bias") for label, count in NORM_LABELS.items()},
    covers={"bias": ["present", "absent"]},
)  # fmt: skip
def layer_norm(draw, label, n):
    has_bias = not label.startswith("no-")
    label = label.removeprefix("no-").removeprefix("bias").removeprefix("-")
    x, weight, bias, epsilon, step, plain = norm_operands(draw, label, n, True)
    operands = {"x": x, "weight": weight} | ({"bias": bias} if has_bias else {})
    if label == "single" and has_bias and not draw.backward:
        x, plain = draw.ids(9, 3, 1).to(F64), "an axis of one element is its own mean"

    def compute(x, weight, bias=None):
        return F.layer_norm(x, x.shape[-1:], weight, bias, epsilon)

    return Case(
        {"epsilon": epsilon}, operands, compute, gradients=tuple(operands), step=step, plain=plain,
        again=lambda x, weight, bias=None: layer_norm_again(x, weight, bias, epsilon),
    )  # fmt: skip


@family("layer_norm_backward", NORM_LABELS, backward=False)
def layer_norm_backward(draw, label, n):
    x, weight, bias, epsilon, step, plain = norm_operands(draw, label, n, True)
    shape = x.sizes if label == "view" else x.shape

    def compute(x, weight, d_y):
        zero = torch.zeros_like(weight)
        return gradient_of(lambda x, w, b: F.layer_norm(x, x.shape[-1:], w, b, epsilon), [x, weight, zero], d_y)

    return Case(
        {"epsilon": epsilon}, {"x": x, "weight": weight, "d_y": draw.normal(*shape)}, compute,
        outputs=("d_x", "d_weight", "d_bias"), step=step, plain=plain,
    )  # fmt: skip


def rms_norm_compute(epsilon, offset):
    return lambda x, weight: F.rms_norm(x, x.shape[-1:], 1 + weight if offset else weight, epsilon)


def rms_norm_labels():
    return {f"{offset}{'-' if label else ''}{label}": count
            for offset in ("plain", "unit-offset") for label, count in NORM_LABELS.items()}  # fmt: skip


@family("rms_norm", rms_norm_labels(), covers={"unit_offset": ["true", "false"]})
def rms_norm(draw, label, n):
    offset = label.startswith("unit-offset")
    label = label.removeprefix("unit-offset").removeprefix("plain")[1:]
    x, weight, _, epsilon, step, _ = norm_operands(draw, label, n, False)

    def again(x, weight):
        out = []
        for row in x.reshape(-1, x.shape[-1]).tolist():
            root = mpmath.sqrt(sum(mpmath.mpf(v) ** 2 for v in row) / len(row) + epsilon)
            out += [float(v / root * (w + 1 if offset else w)) for v, w in zip(row, weight.tolist())]
        return out

    return Case(
        {"epsilon": epsilon, "unit_offset": offset}, {"x": x, "weight": weight}, rms_norm_compute(epsilon, offset),
        gradients=("x", "weight"), step=step, again=again,
    )  # fmt: skip


@family("rms_norm_backward", rms_norm_labels(), backward=False, covers={"unit_offset": ["true", "false"]})
def rms_norm_backward(draw, label, n):
    offset = label.startswith("unit-offset")
    label = label.removeprefix("unit-offset").removeprefix("plain")[1:]
    x, weight, _, epsilon, step, _ = norm_operands(draw, label, n, False)
    shape = x.sizes if label == "view" else x.shape

    def compute(x, weight, d_y):
        return gradient_of(rms_norm_compute(epsilon, offset), [x, weight], d_y)

    return Case(
        {"epsilon": epsilon, "unit_offset": offset}, {"x": x, "weight": weight, "d_y": draw.normal(*shape)}, compute,
        outputs=("d_x", "d_weight"), step=step,
    )  # fmt: skip


# rotary

ROTARIES = {"whole": [(5, 2, 6), (1, 1, 2), (7, 3, 4), (3, 1, 8), (4, 2, 10)],
            "partial": [(5, 2, 7), (3, 1, 6), (7, 2, 5), (2, 3, 8), (4, 1, 9)]}  # fmt: skip


@family(
    "rotary", {f"{pairing}-{what}": {"whole": 5, "partial": 5, "view": 1}[what]
               for pairing in ("halves", "interleaved") for what in ("whole", "partial", "view")},
    covers={"pairing": ["halves", "interleaved"], "width": ["whole", "partial"]},
)  # fmt: skip
def rotary(draw, label, n):
    pairing, _, what = label.partition("-")
    tokens, heads, width = ROTARIES[what][n] if what != "view" else (5, 3, 6)
    pairs = width // 2 if what != "partial" else [2, 1, 1, 3, 2][n]
    rows = [3, 5, 4, 9, 2][n]
    x = draw.normal(tokens, heads, width)
    angles = draw.uniform(-3, 3, rows, pairs)
    # A factor on both, as some scalings of rotary positions have.
    factor = [1.0, 1.0, 1.3, 1.0, 0.7][n]
    cos, sin = exact(angles.cos() * factor), exact(angles.sin() * factor)
    ids = draw.ids(rows, tokens)
    if tokens > 1:
        ids[-1] = ids[0]

    def compute(x, cos, sin, ids):
        turned, rest = x[..., : 2 * pairs], x[..., 2 * pairs :]
        cos, sin = cos[ids], sin[ids]
        if pairing == "halves":
            twice = [torch.cat([table, table], -1) for table in (cos, sin)]
            turned, _ = rotate_halves(turned, turned, *twice, unsqueeze_dim=1)
        else:
            turned = rotate_interleaved(turned[None], sin[None], cos[None])[0]
        return torch.cat([turned, rest], -1)

    def again(x, cos, sin, ids):
        out = x.clone()
        for t, i in enumerate(ids.tolist()):
            for p in range(pairs):
                at, to = (p, p + pairs) if pairing == "halves" else (2 * p, 2 * p + 1)
                for h in range(heads):
                    z = complex(x[t, h, at], x[t, h, to]) * complex(cos[i, p], sin[i, p])
                    out[t, h, at], out[t, h, to] = z.real, z.imag
        return out

    operand = draw.view(x, "part") if what == "view" else x
    return Case(
        {"pairing": pairing}, {"x": operand, "cos": cos, "sin": sin, "ids": ids}, compute, gradients=("x",),
        again=again, features=(f"width={what}",) * (what != "view"),
    )  # fmt: skip


# activations


def activation_operand(draw, n):
    """The operand and how to take differences of it."""
    if n == 3:
        return exact(torch.tensor(SPECIAL, dtype=F64)), "none"
    return draw.normal(*SHAPES[n], scale=2.0), "absolute"


@family("activation", list(ACTIVATIONS), covers={"kind": ACTIVATIONS})
def activation(draw, kind, n):
    x, step = activation_operand(draw, n)
    operand = draw.view(x, "reversed") if n == 4 else x
    return Case(
        {"kind": kind}, {"x": operand}, lambda x: ACTIVATIONS[kind](x), gradients=("x",), step=step,
        again=lambda x: mapped(SLOW[kind], x),
    )  # fmt: skip


@family("activation_backward", list(ACTIVATIONS), backward=False, covers={"kind": ACTIVATIONS})
def activation_backward(draw, kind, n):
    x, _ = activation_operand(draw, n)

    def compute(x, d_y):
        return gradient_of(ACTIVATIONS[kind], [x], d_y)[0]

    def again(x, d_y):
        if kind == "relu":
            return torch.where(x > 0, d_y, 0.0)
        return [float(mpmath.diff(SLOW[kind], v) * d) if abs(v) < 100 else (0.0 if v < 0 else d) * (kind != "tanh")
                for v, d in zip(x.flatten().tolist(), d_y.flatten().tolist())]  # fmt: skip

    return Case({"kind": kind}, {"x": x, "d_y": draw.normal(*x.shape)}, compute, outputs=("d_x",), again=again)


@family("gated", list(ACTIVATIONS), covers={"kind": ACTIVATIONS})
def gated(draw, kind, n):
    gate, step = activation_operand(draw, n)
    up = draw.normal(*gate.shape)
    operands = {"gate": gate, "up": up}
    if n == 4:
        operands = {"gate": draw.view(gate, "part"), "up": draw.view(up, "every")}
    return Case(
        {"kind": kind}, operands, lambda gate, up: ACTIVATIONS[kind](gate) * up, gradients=("gate", "up"), step=step,
        again=lambda gate, up: mapped(lambda g, u: SLOW[kind](g) * u, gate, up),
    )  # fmt: skip


@family("gated_backward", list(ACTIVATIONS), backward=False, covers={"kind": ACTIVATIONS})
def gated_backward(draw, kind, n):
    gate, _ = activation_operand(draw, n)

    def compute(gate, up, d_y):
        return gradient_of(lambda gate, up: ACTIVATIONS[kind](gate) * up, [gate, up], d_y)

    operands = {"gate": gate, "up": draw.normal(*gate.shape), "d_y": draw.normal(*gate.shape)}
    return Case({"kind": kind}, operands, compute, outputs=("d_gate", "d_up"))


def soft_cap_operand(draw, n):
    cap = [3.0, 50.0, 0.5, 30.0, 1.0][n]
    x = draw.normal(*SHAPES[n], scale=2 * cap if n % 2 else cap)
    if n == 3:
        x[:4] = exact(torch.tensor([0.0, -0.0, 150, -150], dtype=F64))
    return x, cap


@family("soft_cap", [""])
def soft_cap(draw, label, n):
    x, cap = soft_cap_operand(draw, n)
    operand = draw.view(x, "part") if n == 4 else x
    return Case(
        {"cap": cap}, {"x": operand}, lambda x: cap * torch.tanh(x / cap), gradients=("x",),
        again=lambda x: mapped(lambda v: cap * mpmath.tanh(v / mpmath.mpf(cap)), x),
    )  # fmt: skip


@family("soft_cap_backward", [""], backward=False)
def soft_cap_backward(draw, label, n):
    x, cap = soft_cap_operand(draw, n)

    def compute(x, d_y):
        return gradient_of(lambda x: cap * torch.tanh(x / cap), [x], d_y)[0]

    def again(x, d_y):
        return mapped(lambda v, d: d * mpmath.sech(v / mpmath.mpf(cap)) ** 2, x, d_y)

    return Case({"cap": cap}, {"x": x, "d_y": draw.normal(*x.shape)}, compute, outputs=("d_x",), again=again)


# quantised activations

BLOCK = 32
LEAST = 2.0**-100  # blocks below are taken for zeros


def blocks_of(x):
    """Rows in blocks of 32, the last one filled up with zeros."""
    rows, width = x.shape
    padded = numpy.zeros((rows, -(-width // BLOCK) * BLOCK), dtype=x.dtype)
    padded[:, :width] = x
    return padded.reshape(rows, -1, BLOCK)


def quantized(x):
    """Codes and scales, every step in float32."""
    single = numpy.float32
    with numpy.errstate(all="ignore"):
        blocks = blocks_of(x.numpy().astype(single))
        greatest = numpy.abs(blocks).max(-1)
        codes = numpy.rint(blocks * (single(127) / greatest)[..., None])
        scales = greatest / single(127)
        small, strange = greatest < single(LEAST), ~numpy.isfinite(greatest)
        assert codes.dtype == scales.dtype == single
    codes = numpy.where((small | strange)[..., None], 0, codes).reshape(len(x), -1)[:, : x.shape[1]]
    scales = numpy.where(strange, math.nan, numpy.where(small, 0, scales))
    return tuple(torch.from_numpy(value.astype(numpy.float64) + 0.0) for value in (codes, scales))


def single(value):
    """A fraction rounded to f32, of the normal numbers."""
    if value == 0:
        return Fraction(0)
    exponent = value.numerator.bit_length() - value.denominator.bit_length()
    exponent -= abs(value) < Fraction(2) ** exponent
    unit = Fraction(2) ** (exponent - 23)
    return round(value / unit) * unit


def quantized_again(x):
    """The same by whole numbers and fractions."""
    codes, scales = [], []
    for row in x.tolist():
        for start in range(0, len(row), BLOCK):
            block = row[start : start + BLOCK]
            greatest = max(map(abs, block)) if all(map(math.isfinite, block)) else math.nan
            if not greatest >= LEAST:
                codes += [0.0] * len(block)
                scales.append(0.0 if greatest == greatest else math.nan)
                continue
            scales.append(float(single(Fraction(greatest) / 127)))
            inverse = single(127 / Fraction(greatest))
            codes += [float(round(single(abs(Fraction(v)) * inverse))) * math.copysign(1, v) + 0.0 for v in block]
    return codes, scales


QUANTIZED = {"": 5, "ties": 3, "least": 2, "denormals": 1, "huge": 1, "negative-greatest": 1, "one-value": 1,
             "zeros": 1, "no-number": 2, "view": 2}  # fmt: skip


@family("quantize_activations", QUANTIZED, backward=False)
def quantize_activations(draw, label, n):
    shape = [(3, 40), (1, 32), (5, 7), (2, 100), (4, 65)][n] if not label else (3, 70)
    x, plain = draw.normal(*shape, scale=[2.0, 1e-20, 1e20, 0.01, 300.0][n]), None
    if label == "ties":  # halves between codes: the scale is a power of two
        halves = draw.ids(254, *shape).to(F64) - 127 + 0.5
        for start in range(0, shape[1], BLOCK):
            halves[:, start + n] = [127.0, -127.0, 127.0][n]
        x = halves * [1.0, 2.0**-90, 2.0**20][n] * torch.tensor([[1.0], [2.0], [0.25]], dtype=F64)
    elif label == "least":  # blocks just below, at and just above what is not taken for zeros
        x = exact(draw.uniform(-1, 1, *shape) * LEAST)
        edge = [1.0, 1 - 2.0**-24][n] * LEAST
        x[0, 3], x[1, 40], x[2, 69] = edge, -edge, edge
        x[0, 40] = 2 * LEAST
    elif label == "denormals":
        x = exact(draw.uniform(-1, 1, *shape) * 2.0**-126)
        x[1, 5], x[2, 69] = 2.0**-60, 2.0**-100
    elif label == "huge":
        x = exact(draw.uniform(-1, 1, *shape) * 3.4e38)
        x[0, 0], x[2, 33] = 3.4028234663852886e38, -3.4028234663852886e38
    elif label == "negative-greatest":
        x = x.abs()
        x[:, ::BLOCK] = -exact(x.amax(1, keepdim=True) * 1.5)
    elif label == "one-value":
        x = torch.full(shape, 0.75, dtype=F64)
        x[1] = -x[1]
        plain = "all are the greatest of their block"
    elif label == "zeros":
        x = torch.zeros(shape, dtype=F64)
        x[1], plain = -x[1], "zeros have no scale"
    elif label == "no-number":
        x[0, 40], x[2, 3] = [(math.nan, math.inf), (-math.inf, math.nan)][n]
    operand = draw.view(x, ["reversed", "part"][n]) if label == "view" else x
    return Case(
        {}, {"x": operand}, quantized, outputs=("codes", "scales"), again=quantized_again, step="relative", plain=plain,
        mixed=label == "no-number",
    )  # fmt: skip


# linear, embedding

WEIGHTS = {"f32": F32, "f16": F16, "bf16": BF16, "f64": F64}
BLOCKS = {"q8_0": 127, "q4_0": -8}  # blocks of 32 numbers, and which multiple of the scale the greatest is
KEPT = [*WEIGHTS, *BLOCKS]
LINEARS = [(3, 7, 5), (1, 33, 3), (5, 1, 2), (2, 17, 7), (7, 3, 1)]
EXTRAS = [(), ("bias",), ("residual",), ("bias", "residual"), ("bias",)]


COMPUTES = ["f32", "bf16", "int8"]
NARROWS = [(3, 40, 5), (1, 33, 3), (5, 1, 2), (2, 100, 7), (7, 3, 1)]


def bf16(x):
    """Rounded once to bf16."""
    return torch.tensor(mapped(lambda v: rounded(v, "bf16"), x), dtype=F64).reshape(x.shape)


def dequantized(codes, scales):
    """What codes stand for, exactly."""
    return codes * scales.repeat_interleave(BLOCK, 1)[:, : codes.shape[1]]


class Narrow(torch.autograd.Function):
    """A product whose operands are rounded to bf16, and so are those of its gradients."""

    @staticmethod
    def forward(ctx, x, weight):
        ctx.save_for_backward(x, weight)
        return bf16(x) @ bf16(weight).T

    @staticmethod
    def backward(ctx, d_y):
        x, weight = ctx.saved_tensors
        return bf16(d_y) @ bf16(weight), bf16(d_y).T @ bf16(x)


def kept_as(draw, kind, rows, width, scale=1.0):
    """A weight that the type it is kept in holds exactly, so that keeping it changes nothing."""
    if kind not in BLOCKS:
        return draw.normal(rows, width, scale=scale).to(WEIGHTS[kind]).to(F64)
    limit = abs(BLOCKS[kind])
    steps = draw.ids(2 * limit - 1, rows, width // 32, 32) - limit + 1
    places = draw.ids(32, rows, width // 32, 1)
    steps.scatter_(2, places, BLOCKS[kind])
    scales = 2.0 ** (draw.ids(3, rows, width // 32, 1).to(F64) - {"q8_0": 8, "q4_0": 4}[kind])
    return (steps.to(F64) * scales).reshape(rows, width)


@family(
    "linear",
    {
        **{f"activation-{kind}": 5 for kind in ["none", *ACTIVATIONS]}, **{f"weight-{kind}": 5 for kind in KEPT},
        **dict.fromkeys(["view", "square", "compute-f32", "compute-bf16"], 5), "compute-int8": {"forward": 5},
        **{f"{compute}-weight-{kind}": {"forward": 2} for compute in ("bf16", "int8") for kind in KEPT},
    },
    covers={
        "compute": {"forward": COMPUTES, "backward": ["f32", "bf16"]},
        "activation": ["null", *ACTIVATIONS], "bias": ["present", "absent"], "residual": ["present", "absent"],
        "weight_dtype": KEPT,
    },
)  # fmt: skip
def linear(draw, label, n):
    tokens, inputs, outputs = LINEARS[n]
    compute_in = None
    if label.startswith(("bf16-", "int8-", "compute-")):
        compute_in, label = label.split("-")[label.startswith("compute-")], label.split("-", 1)[1]
        tokens, inputs, outputs = NARROWS[n]
    what, _, kind = label.partition("-")
    activation = kind if what == "activation" and kind != "none" else ("silu" if what == "weight" and n == 3 else None)
    weight_dtype = kind if what == "weight" else None
    if what == "square":
        outputs = inputs = [5, 2, 3, 7, 17][n]
    if kind in BLOCKS:
        tokens, inputs, outputs = [(3, 32, 5), (1, 64, 3), (5, 32, 2), (2, 96, 3), (7, 32, 1)][n]
    weight = kept_as(draw, weight_dtype or "f32", outputs, inputs, inputs**-0.5 * 1.5)
    x, bias, residual = draw.normal(tokens, inputs), draw.normal(outputs), draw.normal(tokens, outputs)
    if what == "view":
        x, residual = draw.view(x, ["reversed", "part", "every"][n % 3]), draw.view(residual, "reversed")
    extras = EXTRAS[n] if what != "view" else ("residual",)
    operands = {"x": x, "weight": weight} | {k: v for k, v in (("bias", bias), ("residual", residual)) if k in extras}
    # What is kept in blocks is not trained.
    gradients = tuple(key for key in operands if key != "weight" or kind not in BLOCKS)
    function = (lambda y: y) if activation is None else ACTIVATIONS[activation]

    def compute(x, weight, bias=None, residual=None):
        if compute_in == "bf16":
            y = Narrow.apply(x, weight) + (0 if bias is None else bias)
        else:
            y = F.linear(dequantized(*quantized(x)) if compute_in == "int8" else x, weight, bias)
        y = function(y)
        return y if residual is None else y + residual

    def again(x, weight, bias=None, residual=None):
        out = []
        if compute_in == "bf16":
            x, weight = x.to(F32).to(BF16).to(F64), weight.to(F32).to(BF16).to(F64)
        elif compute_in == "int8":
            codes, scales = quantized_again(x)
            blocks = -(-x.shape[1] // BLOCK)
            x = torch.tensor([code * scales[at // x.shape[1] * blocks + at % x.shape[1] // BLOCK]
                              for at, code in enumerate(codes)], dtype=F64).reshape(x.shape)  # fmt: skip
        slow = (lambda y: y) if activation is None else SLOW[activation]
        for t, row in enumerate(x.tolist()):
            for o, column in enumerate(weight.tolist()):
                y = math.fsum([a * b for a, b in zip(row, column)] + ([] if bias is None else [bias[o].item()]))
                out.append(float(slow(y)) + (0 if residual is None else residual[t, o].item()))
        return out

    attributes = {"activation": activation} | ({"compute": compute_in} if compute_in else {})
    step = "none" if compute_in == "bf16" else "absolute"
    return Case(
        attributes, operands, compute, gradients=gradients, weight_dtype=weight_dtype, again=again, step=step,
    )  # fmt: skip


@family(
    "linear_backward_input", [*(f"weight-{kind}" for kind in KEPT), "compute-f32", "compute-bf16"], backward=False,
    covers={"weight_dtype": KEPT, "compute": ["f32", "bf16"]},
)  # fmt: skip
def linear_backward_input(draw, label, n):
    tokens, inputs, outputs = LINEARS[n]
    compute_in = label.removeprefix("compute-") if label.startswith("compute-") else None
    kind = label.removeprefix("weight-") if compute_in is None else "f32"
    inputs = inputs if kind not in BLOCKS else [32, 64, 32, 64, 96][n]
    weight = kept_as(draw, kind, outputs, inputs)

    def compute(d_y, weight):
        x = torch.zeros(len(d_y), inputs, dtype=F64)
        product = Narrow.apply if compute_in == "bf16" else F.linear
        return gradient_of(lambda x: product(x, weight), [x], d_y)[0]

    return Case(
        {"compute": compute_in} if compute_in else {}, {"d_y": draw.normal(tokens, outputs), "weight": weight}, compute,
        outputs=("d_x",), weight_dtype=kind,
        again=lambda d_y, weight: products(taken(d_y, compute_in).tolist(), taken(weight, compute_in).T.tolist()),
    )  # fmt: skip


def taken(x, compute_in):
    """What a product in `compute_in` has for x, by torch's own rounding."""
    return x.to(F32).to(BF16).to(F64) if compute_in == "bf16" else x


def products(rows, columns):
    return [math.fsum(a * b for a, b in zip(row, column)) for row in rows for column in columns]


@family(
    "linear_backward_weight", {"": 5, "view": 2, "compute-f32": 5, "compute-bf16": 5}, backward=False,
    covers={"compute": ["f32", "bf16"]},
)  # fmt: skip
def linear_backward_weight(draw, label, n):
    tokens, inputs, outputs = LINEARS[n]
    compute_in = label.removeprefix("compute-") if label.startswith("compute-") else None
    x, d_y = draw.normal(tokens, inputs), draw.normal(tokens, outputs)

    def compute(x, d_y):
        weight = torch.zeros(d_y.shape[1], x.shape[1], dtype=F64)
        product = Narrow.apply if compute_in == "bf16" else F.linear
        return gradient_of(lambda weight: product(x, weight), [weight], d_y)[0]

    operands = {"x": x, "d_y": d_y}
    if label == "view":
        operands = {"x": draw.view(x, "reversed"), "d_y": draw.view(d_y, "part")}
    return Case(
        {"compute": compute_in} if compute_in else {}, operands, compute, outputs=("d_weight",),
        again=lambda x, d_y: products(taken(d_y, compute_in).T.tolist(), taken(x, compute_in).T.tolist()),
    )  # fmt: skip


EMBEDDINGS = [(7, 3, 5), (1, 5, 3), (17, 2, 33), (5, 7, 1), (3, 17, 7)]


def repeated_ids(draw, rows, count):
    ids = draw.ids(rows, count)
    if count > 2:
        ids[-1] = ids[0]
    return ids


@family(
    "embedding", {f"weight-{kind}": {"forward": 5, "backward": 5 * (kind in WEIGHTS)} for kind in KEPT},
    covers={"weight_dtype": {"forward": KEPT, "backward": WEIGHTS}},
)  # fmt: skip
def embedding(draw, label, n):
    rows, width, count = EMBEDDINGS[n]
    kind = label.removeprefix("weight-")
    width = width if kind not in BLOCKS else [32, 64, 32, 32, 64][n]
    weight, ids = kept_as(draw, kind, rows, width), repeated_ids(draw, rows, count)
    return Case(
        {}, {"weight": weight, "ids": ids}, lambda weight, ids: F.embedding(ids, weight), gradients=("weight",),
        weight_dtype=kind,
        again=lambda weight, ids: torch.tensor([weight[i].tolist() for i in ids.tolist()], dtype=F64),
    )  # fmt: skip


@family("embedding_backward", {"": 5, "view": 1}, backward=False)
def embedding_backward(draw, label, n):
    rows, width, count = EMBEDDINGS[n]
    d_y = draw.normal(count, width)

    def compute(ids, d_y):
        weight = torch.zeros(rows, width, dtype=F64)
        return gradient_of(lambda weight: F.embedding(ids, weight), [weight], d_y)[0]

    def again(ids, d_y):
        out = [[0.0] * width for _ in range(rows)]
        for i, row in zip(ids.tolist(), d_y.tolist()):
            out[i] = [a + b for a, b in zip(out[i], row)]
        return out

    operands = {"ids": repeated_ids(draw, rows, count), "d_y": draw.view(d_y, "reversed") if label else d_y}
    return Case({"rows": rows}, operands, compute, outputs=("d_weight",), again=again)


# cross_entropy

IGNORED = -100
ENTROPY_LABELS = {"plain": 5, "smoothed": 5, "plain-ignored": 5, "smoothed-ignored": 5, "plain-peaks": 2}
FAR = {"plain-far-peaks": {"forward": 1}}


def cross_entropy_operands(draw, label, n):
    rows, classes = [(3, 7), (1, 33), (5, 2), (7, 5), (4, 17)][n]
    logits, targets = draw.normal(rows, classes, scale=2.0), draw.ids(classes, rows)
    if label.endswith("ignored"):
        rows, classes = [(3, 7), (2, 33), (5, 2), (7, 5), (4, 17)][n]
        logits, targets = draw.normal(rows, classes, scale=2.0), draw.ids(classes, rows)
        targets[[0, 1, 3, 6, 2][n]] = [classes, 2**32 - 1, classes + 3, 2**31, classes][n]
    if label.endswith("peaks") and n == 0:
        # The target is the peak (no loss) or far below.
        # Forward alone goes as far as 1e30: a log-sum-exp of such logits is off by more than an exponential can take.
        far = 1e30 if label.endswith("far-peaks") else 1e3
        logits = exact(torch.tensor([[far, 0, -5], [2 * far, far, 3], [2, far / 2, -far]], dtype=F64))
        targets = torch.tensor([0, 1, 0])
    elif label.endswith("peaks"):
        logits = exact(logits + (draw.ids(3, rows, classes).to(F64) - 1) * 80)
    smoothing = [0.1, 0.3, 0.05, 0.9, 0.5][n] if label.startswith("smoothed") else 0.0
    return logits, targets, smoothing


def torch_targets(targets, classes):
    return torch.where(targets < classes, targets, IGNORED)


def losses(logits, targets, smoothing):
    known = torch_targets(targets, logits.shape[1])
    return F.cross_entropy(logits, known, ignore_index=IGNORED, label_smoothing=smoothing, reduction="none")


def cross_entropy_again(logits, targets, smoothing):
    out, sums = [], []
    for row, target in zip(logits.tolist(), targets.tolist()):
        row = [mpmath.mpf(v) for v in row]
        log_sum = max(row) + mpmath.log(sum(mpmath.exp(v - max(row)) for v in row))
        sums.append(float(log_sum))
        share = [smoothing / len(row) + (1 - smoothing) * (i == target) for i in range(len(row))]
        loss = sum(p * (log_sum - v) for p, v in zip(share, row)) if target < len(row) else 0
        out.append(float(loss))
    return torch.tensor(out, dtype=F64), torch.tensor(sums, dtype=F64)


@family("cross_entropy", ENTROPY_LABELS | FAR, covers={"smoothing": ["0", "above 0"], "targets": ["all", "ignored"]})
def cross_entropy(draw, label, n):
    logits, targets, smoothing = cross_entropy_operands(draw, label, n)
    return Case(
        {"smoothing": smoothing}, {"logits": logits, "targets": targets},
        lambda logits, targets: (losses(logits, targets, smoothing), torch.logsumexp(logits, -1)),
        outputs=("loss", "log_sum"), gradients=("logits",),
        again=lambda logits, targets: cross_entropy_again(logits, targets, smoothing),
        step="none" if label.endswith("peaks") else "absolute",
        features=("targets=ignored" if label.endswith("ignored") else "targets=all",),
    )  # fmt: skip


@family(
    "cross_entropy_backward", ENTROPY_LABELS, backward=False,
    covers={"smoothing": ["0", "above 0"], "targets": ["all", "ignored"]},
)  # fmt: skip
def cross_entropy_backward(draw, label, n):
    logits, targets, smoothing = cross_entropy_operands(draw, label, n)

    def compute(logits, targets, log_sum, d_loss):
        return gradient_of(lambda logits: losses(logits, targets, smoothing), [logits], d_loss)[0]

    def again(logits, targets, log_sum, d_loss):
        classes = logits.shape[1]
        share = smoothing / classes + (1 - smoothing) * (targets[:, None] == torch.arange(classes)).to(F64)
        return (((logits - log_sum[:, None]).exp() - share) * (d_loss * (targets < classes))[:, None])

    operands = {"logits": logits, "targets": targets, "log_sum": torch.logsumexp(logits, -1)}
    return Case(
        {"smoothing": smoothing}, operands | {"d_loss": draw.normal(len(targets))}, compute, outputs=("d_logits",),
        saved=("log_sum",), again=again, features=("targets=ignored" if label.endswith("ignored") else "targets=all",),
    )  # fmt: skip


# adamw

STEPS = [1, 2, 100]
ADAMW = [((7,), 1e-3, 0.9, 0.999, 1e-8), ((3, 5), 0.1, 0.9, 0.95, 1e-8), ((2, 3, 5), 3e-4, 0.8, 0.99, 1e-6),
         ((33,), 0.01, 0.0, 0.9, 1e-10), ((1,), 1.0, 0.95, 0.98, 1e-3)]  # fmt: skip


@family(
    "adamw", [f"step-{step}-{decay}" for step in STEPS for decay in ("plain", "decay")], backward=False,
    covers={"step": STEPS, "weight_decay": ["0", "above 0"]},
)  # fmt: skip
def adamw(draw, label, n):
    _, step, decay = label.split("-")
    step = int(step)
    shape, rate, beta1, beta2, epsilon = ADAMW[n]
    weight_decay = [0.1, 0.01, 0.5, 0.1, 0.01][n] if decay == "decay" else 0.0
    parameter, gradient = draw.normal(*shape), draw.spread(-4, 1, *shape)
    first = draw.normal(*shape, scale=0.1) if step > 1 else torch.zeros(shape, dtype=F64)
    second = exact(draw.spread(-6, -1, *shape).abs()) if step > 1 else torch.zeros(shape, dtype=F64)
    if n == 3:
        gradient[:2] = 0.0

    def compute(parameter, gradient, first, second):
        p = torch.nn.Parameter(parameter.clone())
        optimizer = torch.optim.AdamW(
            [p], lr=rate, betas=(beta1, beta2), eps=epsilon, weight_decay=weight_decay, foreach=False, fused=False
        )
        p.grad = gradient.clone()
        optimizer.state[p] = {
            "step": torch.tensor(step - 1.0, dtype=F64), "exp_avg": first.clone(), "exp_avg_sq": second.clone(),
        }  # fmt: skip
        optimizer.step()
        state = optimizer.state[p]
        return p.detach(), state["exp_avg"], state["exp_avg_sq"]

    def again(parameter, gradient, first, second):
        columns = ([], [], [])
        for row in zip(*(x.flatten().tolist() for x in (parameter, gradient, first, second))):
            p, g, m, v = map(mpmath.mpf, row)
            m, v = beta1 * m + (1 - mpmath.mpf(beta1)) * g, beta2 * v + (1 - mpmath.mpf(beta2)) * g**2
            near = m / (1 - mpmath.mpf(beta1) ** step)
            p = p * (1 - mpmath.mpf(rate) * weight_decay)
            p -= rate * near / (mpmath.sqrt(v / (1 - mpmath.mpf(beta2) ** step)) + epsilon)
            for column, value in zip(columns, (p, m, v)):
                column.append(float(value))
        return columns

    settings = dict(rate=rate, beta1=beta1, beta2=beta2, epsilon=epsilon, weight_decay=weight_decay, step=step)
    return Case(
        settings, {"parameter": parameter, "gradient": gradient, "first": first, "second": second}, compute,
        again=again, outputs=("new_parameter", "new_first", "new_second"),
    )  # fmt: skip


# sample

SAMPLES = [(1, 7), (3, 17), (5, 3), (2, 33), (7, 5)]
SAMPLE_LABELS = ["greedy", "ties", "suppressed", "repetition", "all", "top-k-one", "top-p-least", "min-p-one"]


@family("sample", SAMPLE_LABELS, backward=False, covers={
    "rows": ["greedy", "ties", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seen", "suppressed",
             "seed", "stream", "draw"],
})  # fmt: skip
def sample(draw, label, n):
    """Only what leaves one token: no random numbers matter."""
    rows, classes = SAMPLES[n]
    logits = draw.normal(rows, classes, scale=3.0)
    if label == "ties":
        logits = draw.ids(3, rows, classes).to(F64) - 1.5
    settings = []
    for row in range(rows):
        order = logits[row].argsort(descending=True).tolist()
        one = {}
        if label in ("repetition", "all"):
            # The best is penalized out of its place; ids twice and beyond the vocabulary change nothing.
            one["repetition_penalty"] = [1.5, 2.0, 4.0][row % 3]
            one["seen"] = [order[0], order[-1], order[0], classes + 1]
        if label in ("suppressed", "all"):
            one["suppressed"] = order[: 1 + row % (classes - 1)] + [classes, 2**32 - 1]
        if label == "all":
            one["temperature"] = 0.0
        if label == "top-k-one":
            one |= {"temperature": 0.7, "top_k": 1, "seed": 3 + row, "stream": row, "draw": n}
        if label == "top-p-least":
            one |= {"temperature": 1.3, "top_p": 1e-6, "seed": 5, "stream": 2, "draw": row}
        if label == "min-p-one":
            one |= {"temperature": 2.0, "min_p": 1.0, "seed": 7, "stream": row, "draw": 1}
        settings.append(one)

    def compute(logits):
        chosen = []
        for scores, one in zip(logits, settings):
            scores = scores[None]
            if "repetition_penalty" in one:
                seen = torch.tensor([[i for i in one["seen"] if i < classes]])
                scores = RepetitionPenaltyLogitsProcessor(one["repetition_penalty"])(seen, scores)
            if "suppressed" in one:
                scores = SuppressTokensLogitsProcessor([i for i in one["suppressed"] if i < classes])(None, scores)
            chosen.append(int(scores.argmax()))
            first, second = scores[0].topk(2).values.tolist()
            if first != second and first - second < 1e-3:
                raise Redraw("rounding would decide which is greater")
        return torch.tensor(chosen)

    def again(logits):
        chosen = []
        for scores, one in zip(logits.tolist(), settings):
            penalty = one.get("repetition_penalty", 1.0)
            for i in set(one.get("seen", [])):
                if i < classes:
                    scores[i] = scores[i] / penalty if scores[i] > 0 else scores[i] * penalty
            left = [i for i in range(classes) if i not in one.get("suppressed", [])]
            best = max(scores[i] for i in left)
            chosen.append(next(i for i in left if scores[i] == best))
        return chosen

    return Case(
        {"rows": settings}, {"logits": logits}, compute, again=again, outputs=("token",),
        features=(f"rows={label}",) * (label in ("greedy", "ties")),
    )  # fmt: skip
