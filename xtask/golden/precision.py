"""Makes torch and transformers compute in float64 throughout, and proves that they did.

Model code asks for float32 by name in many places (norms, softmax, rotary angles, sinusoid tables),
whatever the default dtype is. `Float64` redirects those names to float64 while it is entered;
`OnlyFloat64` is a dispatch mode that raises when an operation yields any other floating dtype.
"""

import contextlib

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# The dtypes themselves, taken before anything is redirected.
F16, BF16, F32, F64 = torch.float16, torch.bfloat16, torch.float32, torch.float64


@contextlib.contextmanager
def Float64():
    """While entered, every way to ask torch for float32 gives float64."""
    saved = (
        (torch, "float32", torch.float32),
        (torch, "float", torch.float),
        (torch, "FloatTensor", torch.FloatTensor),
        (torch.Tensor, "float", torch.Tensor.float),
    )
    default = torch.get_default_dtype()
    torch.float32 = torch.float = F64
    torch.FloatTensor = torch.DoubleTensor
    torch.Tensor.float = torch.Tensor.double
    torch.set_default_dtype(F64)
    try:
        yield
    finally:
        torch.set_default_dtype(default)
        for owner, name, value in saved:
            setattr(owner, name, value)


class OnlyFloat64(TorchDispatchMode):
    """Raises TypeError as soon as an operation yields a floating tensor that is not float64."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor) and leaf.dtype != F64:
                if leaf.is_floating_point() or leaf.is_complex():
                    raise TypeError(f"{func} gave {leaf.dtype}; the reference must be float64 throughout")
        return out
