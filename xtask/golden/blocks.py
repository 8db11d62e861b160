"""What the gguf package decodes blocks to, and, for the formats of 32, encodes them as.

usage: blocks.py DIR [--seed N] [--only NAME]

DIR/NAME.bin: records of a block's bytes and its values as little-endian f32. DIR/NAME.encoded.bin: records of values and
the bytes that they are kept in. Random blocks, then edges: scales of 0, the least and the greatest denormal, negative
ones, the greatest f16; all bits set and none.
"""

import argparse
import pathlib
import sys

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType as Type
from gguf.quants import dequantize, quantize

SMALL = ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"]
# Where the f16 scales of each format lie.
HALVES = {
    "Q8_0": [0], "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2],
    "Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208],
}
EDGES = [0x0000, 0x8000, 0x0001, 0x03FF, 0x8400, 0xBC00, 0x7BFF, 0x2E66]


def blocks(name, draws):
    size = GGML_QUANT_SIZES[Type[name]][1]
    count = 12 if name in SMALL else 4
    out = draws.integers(0, 256, (count + 2 * len(EDGES), size), dtype=np.uint8)
    out[-1], out[-2] = 0xFF, 0
    for row, block in enumerate(out):
        for at in HALVES[name]:
            edge = row - count
            bits = EDGES[edge % len(EDGES)] if edge >= 0 else np.float16(draws.uniform(-2, 2)).view(np.uint16)
            # Two scales: the second is an ordinary one in the second round of edges.
            if edge >= len(EDGES) and at != HALVES[name][0]:
                bits = np.float16(draws.uniform(0, 1)).view(np.uint16)
            block[at:at + 2] = np.array([bits], "<u2").view(np.uint8)
    return out


def values(draws):
    rows = [draws.normal(0, scale, 32) for scale in [0.02, 1, 1, 1, 30, 1e-6]]
    rows += [np.zeros(32), np.full(32, 0.7), np.full(32, -0.7), np.linspace(-1, 1, 32), np.abs(draws.normal(0, 1, 32))]
    # Ties of the greatest magnitude, the negative one first and last; halves between two codes.
    rows += [np.tile([-1.0, 1.0], 16), np.tile([1.0, -1.0], 16), np.tile([127.0, 0.5, 1.5, -2.5], 8)]
    return np.array(rows, np.float32)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    names = [name for name in HALVES if arguments.only in (None, name.lower())]
    if not names:
        sys.exit(3)
    for name in names:
        draws = np.random.default_rng([arguments.seed, list(HALVES).index(name)])
        raw = blocks(name, draws)
        with np.errstate(over="ignore"):
            decoded = dequantize(raw, Type[name]).astype("<f4")
        records = np.concatenate([raw, decoded.view(np.uint8).reshape(len(raw), -1)], axis=1)
        (arguments.out / f"{name.lower()}.bin").write_bytes(records.tobytes())
        if name in SMALL:
            x = values(draws)
            records = np.concatenate([x.astype("<f4").view(np.uint8).reshape(len(x), -1), quantize(x, Type[name])], axis=1)
            (arguments.out / f"{name.lower()}.encoded.bin").write_bytes(records.tobytes())


main()
