"""Checks that a case is a fair test: every tensor and option matters, and the reference is exact."""

import copy
import math
import shutil
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

import reference
from precision import F32, F64, Float64, OnlyFloat64

# A change counts as seen when it moves the result by more than this part of the result's spread.
SEEN = 1e-7
# A change of no effect may still move the result by rounding.
ROUNDING = 1e-10


def fail(case, message):
    raise SystemExit(f"{case.name}: {message}")


def moved(before, after):
    """How far the result went, as a part of its spread."""
    return float((after - before).abs().max() / before.std())


def has_no_effect(case, name):
    """Without rotation a key bias adds the same to all scores of a row, which softmax ignores."""
    rotary = "rope_parameters" in case.config
    return not rotary and name.endswith(("k_proj.bias", "key.bias"))


def every_tensor_matters(case, model, result, tokens, decoder_tokens, unused):
    """Perturbs each tensor in turn. Returns the least movement seen."""
    before = reference.output(result)
    least = math.inf
    for name, tensor in reference.stored(model).items():
        saved = tensor.clone()
        noise = torch.randn(tensor.shape, generator=reference.generator("perturb", name), dtype=F64)
        tensor.add_(0.05 * noise)
        after = reference.output(reference.evaluate(model, tokens, decoder_tokens)[0])
        tensor.copy_(saved)
        move = moved(before, after)
        if has_no_effect(case, name) or name in unused:
            if move > ROUNDING:
                fail(case, f"{name} should have no effect, but moved the result by {move:g}")
        elif move < SEEN:
            fail(case, f"{name} has no effect ({move:g})")
        else:
            least = min(least, move)
    return least


def every_option_matters(case, model, result, tokens, decoder_tokens):
    """Applies each configuration change in turn. Returns the least movement seen."""
    before = reference.output(result)
    least = math.inf
    for change in case.moves:
        other = reference.build(case, change)
        reference.transfer(model, other)
        move = moved(before, reference.output(reference.evaluate(other, tokens, decoder_tokens)[0]))
        if move < SEEN:
            fail(case, f"the configuration change {change} has no effect ({move:g})")
        least = min(least, move)
    return least


def reload_agrees(case, directory, result, tokens, decoder_tokens):
    """Loads the directory as a user would, with either style of configuration."""
    for style in ("config.json", "config.v4.json"):
        if not (directory / style).exists():
            continue
        with tempfile.TemporaryDirectory() as target:
            target = Path(target)
            for file in directory.iterdir():
                if file.is_file() and file.name != "expected.safetensors":
                    shutil.copy(file, target)
            shutil.copy(directory / style, target / "config.json")
            # Under Float64 the file reader takes "F32" for float64, so the files are widened first.
            for file in target.glob("*.safetensors"):
                tensors = {name: value.to(F64) for name, value in load_file(file).items()}
                save_file(tensors, file, metadata={"format": "pt"})
            with Float64():
                model = case.model.from_pretrained(target, dtype=F64, attn_implementation="eager").eval()
        again, _ = reference.evaluate(model, tokens, decoder_tokens)
        if again.keys() != result.keys():
            fail(case, f"loading with {style} gives other outputs")
        for name, value in result.items():
            error = float((again[name] - value).abs().max())
            if error > 1e-12:
                fail(case, f"loading with {style} changes {name} by {error:g}")


def float32_agrees(case, model, result, tokens, decoder_tokens):
    """The ordinary float32 model, nothing redirected, gives nearly the same."""
    ordinary = copy.deepcopy(model).to(F32)
    arguments = {} if decoder_tokens is None else {"decoder_input_ids": reference.batch(decoder_tokens)}
    with torch.no_grad():
        out = ordinary(input_ids=reference.batch(tokens), **arguments, use_cache=False)
    move = moved(reference.output(result), (out.logits if "logits" in out else out.last_hidden_state)[0])
    if move > 1e-3:
        fail(case, f"the result differs from float32 by {move:g}")


def cache_agrees(case, model, tokens, decoder_tokens, chosen, rows):
    """The cached steps equal fresh evaluations, except where a dynamic rope makes them differ."""
    fresh = reference.greedy_without_cache(model, tokens, decoder_tokens, chosen)
    difference = moved(fresh, rows)
    if case.config.get("rope_parameters", {}).get("rope_type") == "dynamic":
        if difference < 1e-3:
            fail(case, "the cache of a dynamic rope should matter")
        return not torch.equal(fresh.argmax(-1), rows.argmax(-1))
    if difference > 1e-12:
        fail(case, f"the cached steps differ from fresh evaluations by {difference:g}")
    return True


def spread(case, result):
    """The result's standard deviation and how far attention is from uniform, both checked."""
    sd = float(reference.output(result).std())
    if "logits" in result and not 0.5 < sd < 10:
        fail(case, f"the logits have standard deviation {sd:g}")
    least = math.inf
    for name, weights in result.items():
        if "attention." in name:
            seen = weights > 0
            excess = weights.amax(-1) - 1 / seen.sum(-1)
            rows = seen.sum(-1) > 1
            least = min(least, float(excess[rows].mean()))
    if least < 0.1:
        fail(case, f"attention is close to uniform (the largest weight exceeds uniform by {least:g} on average)")
    return sd, least


def inverse_frequencies(config, rope, length):
    """The rotary inverse frequencies of the parameters `rope` and the factor on cos and sin, in plain Python."""
    dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    dim = int(dim * rope.get("partial_rotary_factor", 1.0))
    theta, kind = rope["rope_theta"], rope["rope_type"]
    factor, attention = rope.get("factor"), 1.0
    if kind == "dynamic":
        limit = config.max_position_embeddings
        stretch = factor * max(length, limit) / limit - (factor - 1)
        theta *= stretch ** (dim / (dim - 2))
    frequencies = [theta ** (-2 * i / dim) for i in range(dim // 2)]
    original = rope.get("original_max_position_embeddings")
    if kind == "linear":
        frequencies = [f / factor for f in frequencies]
    elif kind == "llama3":
        low, high = rope["low_freq_factor"], rope["high_freq_factor"]
        bands = set()
        for i, f in enumerate(frequencies):
            turns = original * f / (2 * math.pi)
            blend = min(max((turns - low) / (high - low), 0.0), 1.0)
            bands.add(blend if blend in (0.0, 1.0) else 0.5)
            frequencies[i] = (1 - blend) * f / factor + blend * f
        assert bands == {0.0, 0.5, 1.0}, "a llama3 band has no frequency"
    elif kind == "yarn":

        def dimension(turns):
            return dim * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(theta))

        def mscale(weight):
            return 0.1 * weight * math.log(factor) + 1.0

        low, high = dimension(rope.get("beta_fast", 32)), dimension(rope.get("beta_slow", 1))
        if rope.get("truncate", True):
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, dim - 1)
        ramps = set()
        for i, f in enumerate(frequencies):
            ramp = min(max((i - low) / (high - low), 0.0), 1.0)
            ramps.add(ramp if ramp in (0.0, 1.0) else 0.5)
            frequencies[i] = f * (1 - ramp) + f / factor * ramp
        assert ramps == {0.0, 0.5, 1.0}, "a yarn band has no frequency"
        attention = mscale(1.0)
        if "mscale" in rope:
            attention = mscale(rope["mscale"]) / mscale(rope["mscale_all_dim"])
        attention = rope.get("attention_factor", attention)
    return frequencies, attention


def tables_are_exact(case, model, tokens):
    """Recomputes rotary frequencies and sinusoid tables; `model` is as its evaluation left it."""
    for parameters, inv_freq, scaling in reference.rope_states(model):
        frequencies, attention = inverse_frequencies(model.config, parameters, len(tokens))
        expected = torch.tensor(frequencies, dtype=F64)
        error = float((inv_freq / expected - 1).abs().max())
        if inv_freq.dtype != F64 or error > 1e-14 or abs(scaling / attention - 1) > 1e-15:
            fail(case, f"the rotary frequencies are off by {error:g}")
    for name, module in model.named_modules():
        if "Sinusoidal" in type(module).__name__:
            rows, width = module.weight.shape
            for p in range(rows):
                angles = [p / 10000 ** (2 * i / width) for i in range(width // 2)]
                exact = torch.tensor([*map(math.sin, angles), *map(math.cos, angles)], dtype=F64)
                error = float((module.weight[p] - exact).abs().max())
                if error > 1e-14:
                    fail(case, f"row {p} of {name} is off by {error:g}")


def the_guard_works(case, model, tokens):
    """Without the redirection the model computes in float32 somewhere, which OnlyFloat64 must notice."""
    try:
        with torch.no_grad(), OnlyFloat64():
            model(input_ids=reference.batch(tokens))
    except TypeError:
        return
    fail(case, "OnlyFloat64 did not notice a float32 tensor")
