"""Test vectors of attention, with and without a cache, of its backward, and of what writes caches."""

import functools
import math
from fractions import Fraction

import torch
import torch.nn.functional as F
from transformers.models.t5.modeling_t5 import T5Attention

from precision import F64, Float64
from vector_case import Case, exact, family
from vector_fused import gradient_of


FAR = 32  # no distance is greater


@functools.cache
def bucket_table(bidirectional, buckets, max_distance):
    """Buckets of the distances `key - query` from -FAR on, by T5's own function in both precisions."""
    distances = torch.arange(-FAR, FAR + 1)
    single = T5Attention._relative_position_bucket(distances, bidirectional, buckets, max_distance)
    with Float64():
        double = T5Attention._relative_position_bucket(distances, bidirectional, buckets, max_distance)
    assert torch.equal(single, double), "a bucket begins at a whole distance, and rounding decides"
    return double


def buckets_of(distances, kind):
    return bucket_table(kind["bidirectional"], kind["buckets"], kind["max_distance"])[distances + FAR]


def bucket_again(distance, kind):
    """The same by whole numbers."""
    buckets, first, magnitude = kind["buckets"], 0, max(-distance, 0)
    if kind["bidirectional"]:
        buckets //= 2
        first, magnitude = buckets * (distance > 0), abs(distance)
    least = buckets // 2
    if magnitude < least:
        return first + magnitude
    ratio, limit, wide = Fraction(magnitude, least), Fraction(kind["max_distance"], least), buckets - least
    steps = max(step for step in range(wide + 1) if ratio**wide >= limit**step)
    return first + min(least + steps, buckets - 1)


def seen(attributes, position, length):
    """Positions that a query sees."""
    if attributes["mask"] == "all":
        return range(length)
    first = 0 if attributes["window"] is None else max(position + 1 - attributes["window"], 0)
    return range(first, min(position + 1, length))


def head_scores(query, key, bias, positions, attributes):
    """Scores `[H, n, S]` of one sequence, minus infinity where nothing is seen; keys from position 0 on."""
    heads, groups, length = query.shape[1], key.shape[1], len(key)
    key = key.repeat_interleave(heads // groups, 1)
    scores = torch.einsum("qhc,khc->hqk", query, key) * attributes["scale"]
    if attributes["soft_cap"] is not None:
        scores = attributes["soft_cap"] * torch.tanh(scores / attributes["soft_cap"])
    distances = torch.arange(length)[None, :] - torch.tensor(positions)[:, None]
    kind = attributes["score_bias"]
    if kind is not None and kind["kind"] == "relative":
        scores = scores + bias[buckets_of(distances, kind)].permute(2, 0, 1)
    elif kind is not None:
        scores = scores + bias[:, None, None] * distances
    visible = torch.zeros(len(positions), length, dtype=torch.bool)
    for row, position in enumerate(positions):
        visible[row, list(seen(attributes, position, length))] = True
    return scores.masked_fill(~visible, -math.inf)


def attend(query, key, value, bias, positions, attributes):
    """One sequence: the result `[n, H, C]` and log-sums `[n, H]`."""
    if len(key) == 0:
        return torch.zeros_like(query), torch.zeros(query.shape[:2], dtype=F64)
    scores = head_scores(query, key, bias, positions, attributes)
    value = value.repeat_interleave(query.shape[1] // value.shape[1], 1)
    return torch.einsum("hqk,khc->qhc", scores.softmax(-1), value), scores.logsumexp(-1).T


def packed(attributes):
    """Attention of packed sequences as a function of its operands."""

    def compute(query, key, value, bias=None):
        queries, keys = attributes["segments"]["queries"], attributes["segments"]["keys"]
        parts = []
        for q, k, v in zip(query.split(queries), key.split(keys), value.split(keys)):
            if len(q) > 0:
                parts.append(attend(q, k, v, bias, list(range(len(q))), attributes))
        return torch.cat([y for y, _ in parts]), torch.cat([log_sum for _, log_sum in parts])

    return compute


def slow_row(query, head, position, rows, keys, values, bias, attributes):
    """One row and head by plain Python: the result and the log-sum; `rows` are the keys' places by position."""
    group = head // (query.shape[1] // keys.shape[1])
    visible = list(seen(attributes, position, len(rows)))
    if not visible:
        return [0.0] * query.shape[2], 0.0
    scores = []
    for at in visible:
        score = attributes["scale"] * math.fsum(
            (query[head] if query.dim() == 2 else query[position, head])[c].item() * keys[rows[at], group, c].item()
            for c in range(keys.shape[2])
        )
        if attributes["soft_cap"] is not None:
            score = attributes["soft_cap"] * math.tanh(score / attributes["soft_cap"])
        kind = attributes["score_bias"]
        if kind is not None and kind["kind"] == "relative":
            score += bias[bucket_again(at - position, kind), head].item()
        elif kind is not None:
            score += bias[head].item() * (at - position)
        scores.append(score)
    greatest = max(scores)
    weights = [math.exp(score - greatest) for score in scores]
    total = math.fsum(weights)
    y = [math.fsum(w / total * values[rows[at], group, c].item() for w, at in zip(weights, visible))
         for c in range(keys.shape[2])]  # fmt: skip
    return y, greatest + math.log(total)


def packed_again(attributes):
    def again(query, key, value, bias=None):
        out, sums, first_query, first_key = [], [], 0, 0
        for queries, keys in zip(attributes["segments"]["queries"], attributes["segments"]["keys"]):
            rows = list(range(first_key, first_key + keys))
            part = query[first_query : first_query + queries]
            for position in range(queries):
                for head in range(query.shape[1]):
                    y, log_sum = slow_row(part, head, position, rows, key, value, bias, attributes)
                    out += y
                    sums.append(log_sum)
            first_query, first_key = first_query + queries, first_key + keys
        builtin(query, key, value, bias, attributes, torch.tensor(out, dtype=F64).reshape(query.shape))
        return torch.tensor(out, dtype=F64), torch.tensor(sums, dtype=F64)

    return again


def builtin(query, key, value, bias, attributes, expected):
    """Torch's own attention agrees, where it can express the case."""
    if attributes["soft_cap"] is not None or 0 in attributes["segments"]["keys"] + attributes["segments"]["queries"]:
        return
    segments = attributes["segments"]
    parts = []
    for q, k, v in zip(query.split(segments["queries"]), key.split(segments["keys"]), value.split(segments["keys"])):
        mask = head_scores(torch.zeros_like(q), torch.zeros_like(k), bias, list(range(len(q))), attributes)
        y = F.scaled_dot_product_attention(
            *(x.transpose(0, 1)[None] for x in (q, k, v)), attn_mask=mask[None], scale=attributes["scale"],
            enable_gqa=True,
        )  # fmt: skip
        parts.append(y[0].transpose(0, 1))
    assert (torch.cat(parts) - expected).abs().max() <= 1e-12 * expected.abs().max()


# What is special: the mask and the kind of bias.
SPECIAL = {
    "all": ("all", None), "causal": ("causal", None), "causal-window": ("causal", None), "soft-cap": ("causal", None),
    "relative-bidirectional": ("all", "both"), "relative-causal": ("causal", "one"), "linear": ("causal", "linear"),
    "linear-all": ("all", "linear"), "grouped-heads": ("causal", None), "everything": ("causal", "one"),
    "peaks": ("causal", None),
}  # fmt: skip
PACKED = {**SPECIAL, "segments": ("causal", None), "cross": ("all", None), "cross-relative": ("all", "both"),
          "nobody-sees": ("all", None), "view": ("causal", None)}  # fmt: skip
COVERS = {
    "mask": ["all", "causal"], "window": ["null", "a number"], "soft_cap": ["null", "a number"],
    "score_bias": ["none", "relative", "linear"], "bidirectional": ["true", "false"],
    "heads": ["equal", "grouped", "one key head"],
}  # fmt: skip
PARTS = {"keys": ["seen", "unseen"], "segments": ["one", "several", "cross"]}


def settings(draw, label, n, mask, bias):
    """Heads, key heads, width, attributes and the bias operand."""
    heads, groups, width = [(2, 2, 3), (1, 1, 5), (3, 3, 2), (2, 2, 4), (4, 4, 1)][n]
    if label in ("grouped-heads", "everything", "segments", "scattered", "fork"):
        heads, groups, width = [(4, 2, 3), (3, 1, 5), (6, 2, 2), (2, 1, 4), (4, 1, 3)][n]
    window, cap = None, None
    if label in ("causal-window", "everything"):
        window = [2, 1, 3, 4, 100][n]
    if label in ("soft-cap", "everything"):
        cap = [3.0, 50.0, 1.0, 0.5, 10.0][n]
    if label == "soft-cap" and n % 2:
        mask = "all"
    kind, operand = None, None
    if bias in ("both", "one"):
        buckets, distance = [(32, 128), (8, 20), (6, 5), (9, 11), (4, 3)][n]
        if bias == "both":
            buckets, distance = [(32, 128), (8, 20), (10, 7), (12, 9), (4, 5)][n]
        kind = {"kind": "relative", "bidirectional": bias == "both", "buckets": buckets, "max_distance": distance}
        bucket_table(bias == "both", buckets, distance)  # before everything must be float64
        operand = draw.normal(buckets, heads)
    elif bias == "linear":
        kind = {"kind": "linear"}
        slopes = torch.tensor([2.0 ** (-8 * (h + 1) / heads) for h in range(heads)], dtype=F64)
        operand = exact(slopes) if n % 2 == 0 else draw.normal(heads, scale=0.5)
    attributes = {
        "scale": [width**-0.5, 1.0, 0.3, width**-0.5, 1.7][n], "mask": mask, "window": window, "soft_cap": cap,
        "score_bias": kind,
    }  # fmt: skip
    counted = "heads=equal" if heads == groups else "heads=one key head" if groups == 1 else "heads=grouped"
    return heads, groups, width, attributes, operand, counted


def attention_case(draw, label, n):
    mask, bias = PACKED[label]
    heads, groups, width, attributes, operand, counted = settings(draw, label, n, mask, bias)
    queries = [[5], [3], [7], [4], [2, 3]][n]
    if label in ("segments", "everything"):
        queries = [[3, 1, 2], [1, 4], [2, 2, 1], [1, 1, 3], [5, 1]][n]
    keys = queries
    if label in ("cross", "cross-relative"):
        queries, keys = [([3], [5]), ([4, 1], [2, 3]), ([1, 1, 2], [3, 1, 2]), ([5], [1]), ([2, 3], [7, 2])][n]
        if heads == 1:
            keys = [3, 4]
    elif label == "nobody-sees":  # keys without queries, and queries without keys
        queries, keys = [([3, 0], [2, 3]), ([2, 2], [3, 0]), ([0, 2, 1], [2, 3, 4]), ([1, 3, 0], [0, 4, 2]),
                         ([2, 0, 3], [5, 2, 0])][n]  # fmt: skip
    attributes = {"segments": {"queries": queries, "keys": keys}, **attributes}
    query = draw.normal(sum(queries), heads, width)
    key, value = draw.normal(sum(keys), groups, width), draw.normal(sum(keys), groups, width)
    if label == "peaks":
        query, key = query * [4, 8, 4, 16, 8][n], key * 2
    operands = {"query": query, "key": key, "value": value}
    if operand is not None:
        operands["bias"] = operand
    return attributes, operands, counted


@family("attention", list(PACKED), covers=COVERS | PARTS)
def attention(draw, label, n):
    attributes, operands, counted = attention_case(draw, label, n)
    if label == "nobody-sees" and not draw.backward:
        queries, keys = attributes["segments"]["queries"], attributes["segments"]["keys"]
        for i, count in enumerate(queries):
            if count == 0:  # what nobody sees leaves no trace
                operands["value"][sum(keys[:i]) : sum(keys[: i + 1])] = math.nan
    if label == "view":
        operands = {name: draw.view(x, ["reversed", "part", "every"][(n + i) % 3])
                    for i, (name, x) in enumerate(operands.items())}  # fmt: skip
    queries, keys = attributes["segments"]["queries"], attributes["segments"]["keys"]
    form = "cross" if queries != keys else "several" if len(queries) > 1 else "one"
    plain = None
    if draw.backward and max(map(len, (range(k) for q, k in zip(queries, keys) if q))) == 1:
        plain = "one key has all the weight"
    if draw.backward and attributes["window"] == 1:
        plain = "one key has all the weight"
    return Case(
        attributes, operands, packed(attributes), outputs=("y", "log_sum"), gradients=tuple(operands),
        again=packed_again(attributes), plain=plain,
        features=(counted, f"segments={form}", "keys=unseen" if label == "nobody-sees" else "keys=seen"),
    )  # fmt: skip


@family("attention_backward", [label for label in PACKED if label != "view"], backward=False, covers=COVERS | PARTS)
def attention_backward(draw, label, n):
    attributes, operands, counted = attention_case(draw, label, n)
    function = packed(attributes)
    y, log_sum = function(**operands)
    names = list(operands)

    def compute(y, log_sum, d_y, **operands):
        return gradient_of(lambda *leaves: function(**dict(zip(names, leaves)))[0], [operands[k] for k in names], d_y)

    def again(y, log_sum, d_y, query, key, value, bias=None):
        """From what was saved: weights are exp(score - log_sum), and y gives the sums of rows."""
        leaves = [leaf.clone().requires_grad_() for leaf in (query, key, value, bias) if leaf is not None]
        query, key, value, bias = leaves if len(leaves) == 4 else [*leaves, None]
        parts = attributes["segments"]
        total = 0.0
        splits = [x.split(parts["queries"]) for x in (query, y, log_sum, d_y)]
        splits += [x.split(parts["keys"]) for x in (key, value)]
        for q, out, sums, d, k, v in zip(*splits):
            if len(q) == 0 or len(k) == 0:
                continue
            scores = head_scores(q, k, bias, list(range(len(q))), attributes)
            weights = (scores - sums.T[:, :, None]).exp().detach()
            wide = v.repeat_interleave(query.shape[1] // v.shape[1], 1)
            d_weights = torch.einsum("qhc,khc->hqk", d, wide.detach())
            d_scores = weights * (d_weights - (d * out).sum(-1).T[:, :, None])
            total = total + (scores.masked_fill(weights == 0, 0.0) * d_scores).sum()
            total = total + torch.einsum("hqk,khc,qhc->", weights, wide, d)
        return torch.autograd.grad(total, leaves)

    queries, keys = attributes["segments"]["queries"], attributes["segments"]["keys"]
    form = "cross" if queries != keys else "several" if len(queries) > 1 else "one"
    lonely = max(k for q, k in zip(queries, keys) if q) == 1 or attributes["window"] == 1
    return Case(
        attributes, {**operands, "y": y, "log_sum": log_sum, "d_y": draw.normal(*y.shape)}, compute,
        outputs=tuple(f"d_{name}" for name in names), saved=("y", "log_sum"), again=again,
        plain="one key has all the weight" if lonely else None,
        features=(counted, f"segments={form}", "keys=unseen" if label == "nobody-sees" else "keys=seen"),
    )  # fmt: skip


# caches


class Layout:
    """Sequences in scattered blocks of a cache."""

    def __init__(self, draw, n, fork=False):
        self.block = [4, 1, 3, 2, 2][n]
        lengths = [[6, 3], [4], [5, 1, 4], [7, 2], [3, 5]][n]
        needed = [-(-length // self.block) for length in lengths]
        blocks = sum(needed) + 2
        order = draw.order(blocks).tolist()
        self.sequences = []
        for length, count in zip(lengths, needed):
            self.sequences.append({"blocks": [order.pop() for _ in range(count)], "length": length})
        if fork:  # another continuation of the first sequence: whole blocks are shared
            first = self.sequences[0]
            shared = (first["length"] - 1) // self.block
            own = [order.pop()]
            self.sequences.append({"blocks": first["blocks"][:shared] + own, "length": shared * self.block + 1})
        self.rows = blocks * self.block

    def places(self, sequence):
        one = self.sequences[sequence]
        return [self.block * one["blocks"][p // self.block] + p % self.block for p in range(one["length"])]

    def plan(self, rows):
        return {"block": self.block, "rows": rows, "sequences": self.sequences}


CACHED = {**SPECIAL, "scattered": ("causal", None), "fork": ("causal", None), "decode": ("causal", None),
          "relative-decode": ("causal", "one"), "beyond-nan": ("causal", None)}  # fmt: skip


@family("cached_attention", list(CACHED), backward=False, covers=COVERS | {
    "plan": ["several sequences", "fork"], "rows beyond": ["nan", "any"],
})  # fmt: skip
def cached_attention(draw, label, n):
    mask, bias = CACHED[label]
    heads, groups, width, attributes, operand, counted = settings(draw, label, n, mask, bias)
    layout = Layout(draw, n, fork=label == "fork")
    rows = []
    for sequence, one in enumerate(layout.sequences):
        latest = 1 if label in ("decode", "relative-decode") else min(one["length"], 1 + (n + sequence) % 4)
        rows += [[sequence, p] for p in range(one["length"] - latest, one["length"])]
    if label == "scattered":  # in any order
        rows = [rows[i] for i in draw.order(len(rows)).tolist()]
    # Rows that no sequence holds have something else in them.
    keys = draw.normal(layout.rows, groups, width, scale=20.0)
    values = draw.normal(layout.rows, groups, width, scale=20.0)
    held = sorted({place for sequence in range(len(layout.sequences)) for place in layout.places(sequence)})
    keys[held], values[held] = draw.normal(len(held), groups, width), draw.normal(len(held), groups, width)
    if label in ("beyond-nan", "fork", "everything"):
        free = [row for row in range(layout.rows) if row not in held]
        keys[free], values[free] = math.nan, math.nan
    query = draw.normal(len(rows), heads, width)
    if label == "peaks":
        query = query * [8, 16, 8, 32, 16][n]
    operands = {"query": query, "keys": keys, "values": values} | ({} if operand is None else {"bias": operand})
    attributes = {"plan": layout.plan(rows), **attributes}

    def compute(query, keys, values, bias=None):
        out = []
        for row, (sequence, position) in enumerate(rows):
            places = torch.tensor(layout.places(sequence))
            y, _ = attend(query[row : row + 1], keys[places], values[places], bias, [position], attributes)
            out.append(y)
        return torch.cat(out)

    def again(query, keys, values, bias=None):
        out = []
        for row, (sequence, position) in enumerate(rows):
            wide = query[row].expand(position + 1, *query.shape[1:])
            for head in range(heads):
                y, _ = slow_row(wide, head, position, layout.places(sequence), keys, values, bias, attributes)
                out += y
        return out

    return Case(
        attributes, operands, compute, again=again,
        features=(
            counted, "rows beyond=nan" if bool(keys.isnan().any()) else "rows beyond=any",
            *["plan=fork"] * (label == "fork"), *["plan=several sequences"] * (len(layout.sequences) > 1),
        ),
    )  # fmt: skip


@family("cache_write", {"": 5, "fork": 5, "one-row": 5, "view": 1}, backward=False)
def cache_write(draw, label, n):
    groups, width = [(2, 3), (1, 5), (3, 2), (2, 4), (1, 1)][n]
    layout = Layout(draw, n, fork=label == "fork")
    rows = []
    for sequence, one in enumerate(layout.sequences):
        # A fork writes its own block alone.
        latest = 1 if label == "fork" else min(one["length"], 1 + (n + sequence) % 4)
        rows += [[sequence, p] for p in range(one["length"] - latest, one["length"])]
    rows = [rows[i] for i in draw.order(len(rows)).tolist()]
    if label == "one-row":
        rows = rows[:1]
    operands = {"keys": draw.normal(layout.rows, groups, width), "values": draw.normal(layout.rows, groups, width)}
    new = {"key": draw.normal(len(rows), groups, width), "value": draw.normal(len(rows), groups, width)}
    if label == "view":
        new = {"key": draw.view(new["key"], "part"), "value": draw.view(new["value"], "reversed")}
    targets = [layout.places(sequence)[position] for sequence, position in rows]
    assert len(set(targets)) == len(targets)

    def compute(keys, values, key, value):
        at = torch.tensor(targets)
        return keys.index_copy(0, at, key), values.index_copy(0, at, value)

    def again(keys, values, key, value):
        keys, values = keys.tolist(), values.tolist()
        for row, (sequence, position) in enumerate(rows):
            one = layout.sequences[sequence]
            place = layout.block * one["blocks"][position // layout.block] + position % layout.block
            keys[place], values[place] = key[row].tolist(), value[row].tolist()
        return keys, values

    return Case(
        {"plan": layout.plan(rows)}, operands | new, compute, outputs=("new_keys", "new_values"), again=again,
        features=("fork",) * (label == "fork"),
    )  # fmt: skip


@family("cache_copy", [""], backward=False)
def cache_copy(draw, label, n):
    # No block is both read and written: in which order pairs are copied is of no account.
    block, blocks, pairs = [
        (4, 3, [[0, 2]]), (1, 7, [[5, 0], [2, 6]]), (3, 4, [[1, 0], [1, 3]]), (2, 5, [[4, 1], [0, 3]]),
        (5, 2, [[1, 0]]),
    ][n]  # fmt: skip
    groups, width = [(2, 3), (1, 5), (3, 2), (2, 4), (1, 1)][n]
    shape = (block * blocks, groups, width)

    def compute(keys, values):
        out = []
        for x in (keys, values):
            x = x.unflatten(0, (blocks, block))
            source, target = torch.tensor(pairs).T
            out.append(x.index_copy(0, target, x[source]).flatten(0, 1))
        return tuple(out)

    def again(keys, values):
        out = []
        for x in (keys.tolist(), values.tolist()):
            new = list(x)
            for source, target in pairs:
                for row in range(block):
                    new[target * block + row] = x[source * block + row]
            out.append(new)
        return tuple(out)

    return Case(
        {"block": block, "pairs": pairs}, {"keys": draw.normal(*shape), "values": draw.normal(*shape)}, compute,
        outputs=("new_keys", "new_values"), again=again,
    )  # fmt: skip
