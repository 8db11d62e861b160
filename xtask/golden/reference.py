"""Builds a case's model with drawn parameters and evaluates it, all in float64."""

import copy
import hashlib
import re

import torch
from torch import nn
from transformers.models.bloom import modeling_bloom

from families import TOGGLE
from precision import F64, Float64, OnlyFloat64

NEW_TOKENS = 12

# BLOOM spells gelu's tanh form out, with eight digits of the square root of 2/pi: float64 sees the rest.
modeling_bloom.bloom_gelu_forward = lambda x: nn.functional.gelu(x, approximate="tanh")


def generator(*key):
    """A random generator that depends on nothing but `key`."""
    digest = hashlib.sha256("/".join(map(str, key)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def configuration(case, change=None):
    """The case's configuration object, with `change` applied to its keys."""
    values = copy.deepcopy(case.config)
    for key, value in (change or {}).items():
        if value is TOGGLE:
            value = not getattr(configuration(case), key)
        if key.startswith("rope."):
            values["rope_parameters"][key.removeprefix("rope.")] = value
        else:
            values[key] = value
    return case.model.config_class(**values, attn_implementation="eager")


def build(case, change=None):
    """The model with whatever parameters its class starts from."""
    with Float64():
        model = case.model(configuration(case, change)).eval().requires_grad_(False)
    if case.untie_head:
        model.lm_head.weight = nn.Parameter(model.lm_head.weight.clone(), requires_grad=False)
        model.all_tied_weights_keys.pop("lm_head.weight")
    return model


def stored(model):
    """What a file holds: parameters (tied ones once) and final_logits_bias, by name."""
    found = {name: p for name, p in model.named_parameters() if is_learned(model, name)}
    found |= {name: b for name, b in model.named_buffers() if name.endswith("final_logits_bias")}
    return found


def is_learned(model, name):
    """False for the sinusoid tables, which are frozen parameters that no file holds."""
    return "Sinusoidal" not in type(model.get_submodule(name.rpartition(".")[0])).__name__


def distribution(case, model, name):
    """Mean and standard deviation of the parameter `name`."""
    owner, _, local = name.rpartition(".")
    module = model.get_submodule(owner)
    kind = type(module).__name__
    post_norm = case.family in ("bart", "marian")
    if local == "final_logits_bias":
        return 0.0, 0.5
    if local == "bias":
        return 0.0, 0.2
    if "Norm" in kind:
        # Query and key norms set the spread of the scores.
        centre = 1.4 if re.search("[qk]_norm$", owner) else 1.0
        if case.family.startswith("gemma"):
            # Gemma multiplies by 1 + weight. The norms after each block decide how much the blocks
            # add to the large embeddings; without weight there, a tied head only repeats its input.
            after = case.family != "gemma" and re.search("post_.*layernorm$", owner)
            centre = 2.0 if after else centre - 1.0
        return centre, 0.2
    if isinstance(module, nn.Embedding):
        if "relative_attention_bias" in owner:
            return 0.0, 1.0
        if re.search("position|token_type|wpe$", owner):
            return 0.0, 1.0 if post_norm else 0.6
        return 0.0, case.embedding_sd
    fan_in = module.weight.shape[0 if kind == "Conv1D" else 1]
    if re.search(r"(lm_head|embed_out)$", owner):
        gain = 3.0
    elif re.search(r"(q_proj|k_proj|query|key|c_attn|qkv_proj|query_key_value)$", owner):
        gain = 2.5 if post_norm else 1.5
    elif re.search(r"Attention\.[qk]$", owner):  # T5 does not scale its scores
        gain = 0.95
    elif re.search(r"(o_proj|down_proj|c_proj|out_proj|fc2|\.o|\.wo|output\.dense|attention\.dense|dense_4h_to_h)$", owner):
        # What the blocks write must outweigh the embeddings, for a tied head not to repeat its
        # input; with a norm after each block it already does.
        gain = 0.8 if post_norm else 2.0
    else:
        gain = 1.2
    return 0.0, gain / fan_in**0.5


def draw(case, model, *key):
    """Redraws every stored tensor, rounded to the dtype of the file."""
    for name, tensor in stored(model).items():
        mean, sd = distribution(case, model, name)
        value = mean + sd * torch.randn(tensor.shape, generator=generator(*key, name), dtype=F64)
        tensor.copy_(value.to(case.dtype).to(F64))


def transfer(source, target):
    """Copies the stored tensors of `source` to a model of another configuration."""
    values = dict(source.named_parameters(remove_duplicate=False)) | dict(source.named_buffers())
    for name, tensor in stored(target).items():
        tensor.copy_(values[name])


def batch(tokens):
    return torch.tensor([tokens])


def rope_states(model):
    """Parameters, inverse frequencies and factor of each rotation of a decoder-only model; none without rotation."""
    rope = getattr(model.base_model, "rotary_emb", None)
    if rope is None:
        return []
    parameters = model.config.rope_parameters
    if "full_attention" not in parameters:
        return [(parameters, rope.inv_freq, rope.attention_scaling)]
    return [
        (parameters[kind], getattr(rope, f"{kind}_inv_freq"), getattr(rope, f"{kind}_attention_scaling"))
        for kind in rope.layer_types
    ]


def evaluate(model, tokens, decoder_tokens=None):
    """All recorded outputs of one forward pass, and the model as the pass left it."""
    # A dynamic rope remembers the longest length it has seen, so every pass takes a fresh copy.
    model = copy.deepcopy(model)
    arguments = {} if decoder_tokens is None else {"decoder_input_ids": batch(decoder_tokens)}
    with Float64(), torch.no_grad(), OnlyFloat64():
        out = model(
            input_ids=batch(tokens), **arguments, use_cache=False, output_hidden_states=True, output_attentions=True
        )
    result = {}
    if "logits" in out:
        result["logits"] = out.logits[0]
    else:
        result["last_hidden_state"] = out.last_hidden_state[0]
    if decoder_tokens is None:
        lists = {"hidden": out.hidden_states, "attention": out.attentions}
    else:
        result["encoder_last_hidden_state"] = out.encoder_last_hidden_state[0]
        lists = {
            "hidden": out.decoder_hidden_states,
            "attention": out.decoder_attentions,
            "cross_attention": out.cross_attentions,
            "encoder_hidden": out.encoder_hidden_states,
            "encoder_attention": out.encoder_attentions,
        }
    for kind, values in lists.items():
        result |= {f"{kind}.{i}": value[0] for i, value in enumerate(values)}
    # Cloned because the last hidden state may appear under two names.
    return {name: value.clone(memory_format=torch.contiguous_format) for name, value in result.items()}, model


def output(result):
    """The model's result proper among what `evaluate` recorded."""
    return result["logits"] if "logits" in result else result["last_hidden_state"]


def margin(row):
    """The distance between the two largest entries."""
    first, second = row.topk(2).values.tolist()
    return first - second


def greedy(model, tokens, decoder_tokens=None):
    """NEW_TOKENS greedy tokens by the cached forward: the prompt at once, then token by token.

    Returns the tokens, the least margin, and the logits each token was taken from.
    """
    model = copy.deepcopy(model)
    chosen, rows, past, encoded = [], [], None, None
    step = tokens if decoder_tokens is None else decoder_tokens
    with Float64(), torch.no_grad(), OnlyFloat64():
        if decoder_tokens is not None:
            encoded = model.get_encoder()(input_ids=batch(tokens))
        for _ in range(NEW_TOKENS):
            if decoder_tokens is None:
                out = model(input_ids=batch(step), past_key_values=past, use_cache=True)
            else:
                out = model(
                    encoder_outputs=encoded, decoder_input_ids=batch(step), past_key_values=past, use_cache=True
                )
            past = out.past_key_values
            rows.append(out.logits[0, -1])
            step = [int(rows[-1].argmax())]
            chosen += step
    return chosen, min(map(margin, rows)), torch.stack(rows)


def greedy_without_cache(model, tokens, decoder_tokens, chosen):
    """The logits of every greedy step when each prefix is evaluated afresh."""
    rows = []
    for count in range(NEW_TOKENS):
        if decoder_tokens is None:
            result, _ = evaluate(model, tokens + chosen[:count])
        else:
            result, _ = evaluate(model, tokens, decoder_tokens + chosen[:count])
        rows.append(result["logits"][-1])
    return torch.stack(rows)
