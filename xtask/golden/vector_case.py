"""What a test vector is before it is written: operands, and what computes the expected values."""

import dataclasses
import math

import torch

import reference
from precision import F32, F64

LEAST = 5  # cases for each value of each attribute


class Wrong(Exception):
    """A case that is not as it should be."""


class Redraw(Wrong):
    """Another draw may do."""


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
    cotangents: dict = None  # of a backward case: for each output the name of its cotangent; the first alone has one
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
    """Random operands that depend on the seed, the name of the case and the attempt alone; all are exact in f32."""

    def __init__(self, seed, name, attempt, backward):
        self.generator = reference.generator(seed, "vectors", name, attempt)
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
