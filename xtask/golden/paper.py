"""The encoder-decoder of "Attention Is All You Need", in float64, written from the paper.

Post-norm layers (eps 1e-5), relu, sinusoidal positions with sine and cosine interleaved, embeddings
times sqrt(width), one matrix shared by both embeddings and the output, biases on every other linear
map, no norm after the last layer. `check` compares the layers with torch.nn's own.
"""

import math

import torch
import torch.nn.functional as F

from precision import F64

NAME = "attention-is-all-you-need"
EPSILON = 1e-5
EMBEDDING = "encoder.embedding.tokens.weight"
LINEARS = ("query", "key", "value", "output")
SHAPES = {
    "odd": dict(width=24, heads=3, layers={"encoder": 2, "decoder": 2}, intermediate=40),
    "other": dict(width=20, heads=4, layers={"encoder": 2, "decoder": 3}, intermediate=34),
}


def shapes(shape, vocabulary):
    """Every tensor's shape, by name."""
    width, inner = shape["width"], shape["intermediate"]
    result = {EMBEDDING: (vocabulary, width)}

    def linear(name, rows, columns):
        result[f"{name}.weight"] = (rows, columns)
        result[f"{name}.bias"] = (rows,)

    def norm(name):
        result[f"{name}.norm.weight"] = result[f"{name}.norm.bias"] = (width,)

    for stack, layers in shape["layers"].items():
        for i in range(layers):
            for kind in ("attention", "cross_attention") if stack == "decoder" else ("attention",):
                for part in LINEARS:
                    linear(f"{stack}.{i}.{kind}.{part}", width, width)
                norm(f"{stack}.{i}.{kind}")
            linear(f"{stack}.{i}.feed_forward.up", inner, width)
            linear(f"{stack}.{i}.feed_forward.down", width, inner)
            norm(f"{stack}.{i}.feed_forward")
    return result


def config_toml(shape, vocabulary):
    """The model's configuration in Consort's own form."""
    width, heads = shape["width"], shape["heads"]
    lines = ["# The encoder-decoder of \"Attention Is All You Need\", small.", f"width = {width}", "shared_embedding = true"]
    for stack, layers in shape["layers"].items():
        lines += [
            "",
            f"[{stack}]",
            f"vocabulary = {vocabulary}",
            f"layers = {layers}",
            f"causal = {str(stack == 'decoder').lower()}",
            f"cross_attention = {str(stack == 'decoder').lower()}",
            'placement = "post"',
            f'norm = {{ kind = "layer", epsilon = {EPSILON}, bias = true }}',
            f'embedding = {{ scale = {math.sqrt(width)!r}, positions = {{ kind = "sinusoidal", layout = "interleaved" }} }}',
            f'feed_forward = {{ width = {shape["intermediate"]}, activation = "relu", bias = true }}',
            "",
            f"[{stack}.attention]",
            f"heads = {heads}",
            f"key_value_heads = {heads}",
            f"head_width = {width // heads}",
            f"scale = {(width // heads) ** -0.5!r}",
            "input_bias = true",
            "output_bias = true",
        ]
    return "\n".join(lines + ["", "[head]", "tied = true", ""])


def distribution(name, shape):
    """Mean and standard deviation of the tensor `name`."""
    if name == EMBEDDING:
        return 0.0, 0.3  # times sqrt(width), about twice the positions
    if name.endswith("norm.weight"):
        return 1.0, 0.2
    if name.endswith("bias"):
        return 0.0, 0.2
    if ".query." in name or ".key." in name:
        gain = 2.5
    elif ".output." in name or ".down." in name:
        gain = 0.8
    else:
        gain = 1.2
    return 0.0, gain / shape[1] ** 0.5


def positions(length, width):
    table = torch.empty(length, width, dtype=F64)
    for p in range(length):
        for i in range(0, width, 2):
            angle = p / 10000 ** (i / width)
            table[p, i] = math.sin(angle)
            table[p, i + 1] = math.cos(angle)
    return table


def linear(weights, name, x):
    return F.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])


def add_and_norm(weights, name, x, update):
    return F.layer_norm(x + update, x.shape[-1:], weights[f"{name}.norm.weight"], weights[f"{name}.norm.bias"], EPSILON)


def attention(weights, name, heads, x, memory, causal):
    """The sublayer's output before its residual, and the attention weights [heads, rows, columns]."""

    def split(part, source):
        return linear(weights, f"{name}.{part}", source).unflatten(-1, (heads, -1)).transpose(0, 1)

    query, key, value = split("query", x), split("key", memory), split("value", memory)
    scores = query @ key.transpose(1, 2) / math.sqrt(query.shape[-1])
    if causal:
        later = torch.ones(scores.shape[1:], dtype=torch.bool).triu(1)
        scores = scores.masked_fill(later, -math.inf)
    probabilities = scores.softmax(-1)
    mixed = (probabilities @ value).transpose(0, 1).flatten(1)
    return linear(weights, f"{name}.output", mixed), probabilities


def layer(weights, name, heads, x, memory, causal):
    """One layer; with `memory`, a decoder layer. Returns its output and its attention weights."""
    update, own = attention(weights, f"{name}.attention", heads, x, x, causal)
    x = add_and_norm(weights, f"{name}.attention", x, update)
    cross = None
    if memory is not None:
        update, cross = attention(weights, f"{name}.cross_attention", heads, x, memory, False)
        x = add_and_norm(weights, f"{name}.cross_attention", x, update)
    inner = linear(weights, f"{name}.feed_forward.up", x).relu()
    x = add_and_norm(weights, f"{name}.feed_forward", x, linear(weights, f"{name}.feed_forward.down", inner))
    return x, own, cross


def embed(weights, tokens):
    table = weights[EMBEDDING]
    return table[torch.tensor(tokens)] * math.sqrt(table.shape[1]) + positions(len(tokens), table.shape[1])


def evaluate(shape, weights, tokens, decoder_tokens):
    """Everything expected.safetensors records."""
    result = {}
    x = result["encoder_hidden.0"] = embed(weights, tokens)
    for i in range(shape["layers"]["encoder"]):
        x, own, _ = layer(weights, f"encoder.{i}", shape["heads"], x, None, False)
        result |= {f"encoder_hidden.{i + 1}": x, f"encoder_attention.{i}": own}
    memory = result["encoder_last_hidden_state"] = x.clone()
    x = result["hidden.0"] = embed(weights, decoder_tokens)
    for i in range(shape["layers"]["decoder"]):
        x, own, cross = layer(weights, f"decoder.{i}", shape["heads"], x, memory, True)
        result |= {f"hidden.{i + 1}": x, f"attention.{i}": own, f"cross_attention.{i}": cross}
    result["logits"] = F.linear(x, weights[EMBEDDING])
    return {name: value.contiguous() for name, value in result.items()}


def check(shape, weights, result):
    """Compares every layer with torch.nn's TransformerEncoderLayer or TransformerDecoderLayer."""
    torch.backends.mha.set_fastpath_enabled(False)
    kinds = {"encoder": torch.nn.TransformerEncoderLayer, "decoder": torch.nn.TransformerDecoderLayer}
    for stack, kind in kinds.items():
        hidden = "encoder_hidden" if stack == "encoder" else "hidden"
        for i in range(shape["layers"][stack]):
            module = kind(
                shape["width"], shape["heads"], shape["intermediate"], dropout=0.0, activation="relu",
                layer_norm_eps=EPSILON, batch_first=True, norm_first=False, dtype=F64,
            ).eval()  # fmt: skip
            module.load_state_dict(torch_names(weights, f"{stack}.{i}", stack == "decoder"))
            x = result[f"{hidden}.{i}"][None]
            with torch.no_grad():
                if stack == "encoder":
                    out = module(x)
                else:
                    later = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
                    out = module(x, result["encoder_last_hidden_state"][None], tgt_mask=later)
            error = (out[0] - result[f"{hidden}.{i + 1}"]).abs().max()
            if not error < 1e-12:
                raise SystemExit(f"{NAME}: {stack} layer {i} differs from torch.nn by {error:g}")


def torch_names(weights, name, decoder):
    """One layer's tensors as torch.nn names and packs them."""
    result = {}
    blocks = [("attention", "self_attn")] + [("cross_attention", "multihead_attn")] * decoder
    for ours, theirs in blocks:
        for kind in ("weight", "bias"):
            packed = [weights[f"{name}.{ours}.{part}.{kind}"] for part in LINEARS[:3]]
            result[f"{theirs}.in_proj_{kind}"] = torch.cat(packed)
            result[f"{theirs}.out_proj.{kind}"] = weights[f"{name}.{ours}.output.{kind}"]
    for kind in ("weight", "bias"):
        result[f"linear1.{kind}"] = weights[f"{name}.feed_forward.up.{kind}"]
        result[f"linear2.{kind}"] = weights[f"{name}.feed_forward.down.{kind}"]
        norms = [ours for ours, _ in blocks] + ["feed_forward"]
        for number, ours in enumerate(norms, 1):
            result[f"norm{number}.{kind}"] = weights[f"{name}.{ours}.norm.{kind}"]
    return result
