"""The case of quantised weights: a GGUF file with one of every block format, and what transformers computes with its values.

Blocks are drawn, not fitted: random codes and scales, with f16 scales such that a matrix has the spread that its place in the
model asks for. The gguf package decodes them (checked there against llama.cpp), and the reference model takes those
values. Query and key are interleaved in the file, as llama.cpp's converter lays them out.
"""

import argparse
import json

import gguf
import numpy as np
import torch
import transformers as hf
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType as Type
from safetensors.torch import save_file

import checks
import reference
from precision import F32, F64

NAME = "gguf-blocks"
LAYER = "model.layers.0."
# Tensor, its name in the file, its format.
TENSORS = [
    ("model.embed_tokens.weight", "token_embd.weight", "Q8_0"),
    ("lm_head.weight", "output.weight", "Q5_0"),
    ("model.norm.weight", "output_norm.weight", "F32"),
    (LAYER + "input_layernorm.weight", "blk.0.attn_norm.weight", "F32"),
    (LAYER + "self_attn.q_proj.weight", "blk.0.attn_q.weight", "Q4_K"),
    (LAYER + "self_attn.k_proj.weight", "blk.0.attn_k.weight", "Q5_K"),
    (LAYER + "self_attn.v_proj.weight", "blk.0.attn_v.weight", "Q6_K"),
    (LAYER + "self_attn.o_proj.weight", "blk.0.attn_output.weight", "Q3_K"),
    (LAYER + "post_attention_layernorm.weight", "blk.0.ffn_norm.weight", "F32"),
    (LAYER + "mlp.gate_proj.weight", "blk.0.ffn_gate.weight", "Q2_K"),
    (LAYER + "mlp.up_proj.weight", "blk.0.ffn_up.weight", "Q5_1"),
    (LAYER + "mlp.down_proj.weight", "blk.0.ffn_down.weight", "Q4_1"),
]
# Where a block's scale lies, and its minimum with the mean of what it is taken from.
SCALES = {
    "Q8_0": (0, None, 0), "Q4_0": (0, None, 0), "Q5_0": (0, None, 0), "Q3_K": (108, None, 0), "Q6_K": (208, None, 0),
    "Q4_1": (0, 2, -7.5), "Q5_1": (0, 2, -15.5), "Q2_K": (80, 82, 1.5), "Q4_K": (0, 2, 7.5), "Q5_K": (0, 2, 15.5),
}  # fmt: skip


def settings(sizes):
    return dict(
        vocab_size=sizes.vocabulary, hidden_size=256, intermediate_size=256, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=1, max_position_embeddings=64, rms_norm_eps=1e-5, rope_theta=5000.0,
        tie_word_embeddings=False, eos_token_id=None, bos_token_id=None,
    )


def put(blocks, at, value):
    blocks[:, at:at + 2] = np.frombuffer(np.float16(value).tobytes(), np.uint8)


def draw(kind, shape, sd, key):
    """Bytes of a matrix and its values."""
    block, size = GGML_QUANT_SIZES[Type[kind]]
    bits = torch.randint(256, (shape[0] * shape[1] // block, size), generator=reference.generator(*key))
    blocks = bits.numpy().astype(np.uint8)
    scale, minimum, mean = SCALES[kind]
    unit = 2.0**-7  # f16 holds what the spread makes of it
    put(blocks, scale, unit)
    if minimum is not None:
        put(blocks, minimum, unit * mean)
    spread = gguf.dequantize(blocks, Type[kind]).std()
    put(blocks, scale, unit * sd / spread)
    if minimum is not None:
        put(blocks, minimum, mean * np.float16(unit * sd / spread))
    raw = blocks.reshape(shape[0], -1)
    return raw, torch.from_numpy(gguf.dequantize(raw, Type[kind]).astype(np.float64))


def untangled(values, width):
    """Rows of heads, halves first, from neighbours first."""
    return values.reshape(-1, width // 2, 2, values.shape[1]).transpose(1, 2).reshape(values.shape)


def case(sizes):
    return argparse.Namespace(
        name=NAME, family="llama", model=hf.LlamaForCausalLM, config=settings(sizes), embedding_sd=1.0, dtype=F32,
        untie_head=False,
    )


def make(sizes, draw_tokens, seed, directory, thorough, margin, distinct, draws):
    directory.mkdir(parents=True, exist_ok=True)
    one = case(sizes)
    tokens = draw_tokens(sizes.vocabulary, 12, set(), seed, NAME, "tokens")
    model = reference.build(one)
    parameters = dict(model.named_parameters())
    for attempt in range(draws):
        stored = {}
        for name, own, kind in TENSORS:
            mean, sd = reference.distribution(one, model, name)
            key = (seed, NAME, attempt, name)
            if kind == "F32":
                values = mean + sd * torch.randn(parameters[name].shape, generator=reference.generator(*key), dtype=F64)
                values = values.to(F32)
                stored[own] = (values.numpy(), None)
            else:
                raw, values = draw(kind, parameters[name].shape, sd, key)
                stored[own] = (raw, Type[kind])
                if "q_proj" in name or "k_proj" in name:
                    values = untangled(values, 64)
            parameters[name].copy_(values.to(F64))
        chosen, least, rows = reference.greedy(model, tokens)
        if least >= margin and len(set(chosen)) >= distinct and checks.cache_agrees(one, model, tokens, None, chosen, rows):
            break
    else:
        checks.fail(one, f"no draw out of {draws} has a clear and varied greedy continuation")
    result, _ = reference.evaluate(model, tokens)
    write(directory / "model.gguf", one.config, stored)
    save_file(result, directory / "expected.safetensors")
    description = {"family": "llama", "tokens": tokens, "greedy": chosen, "unused": []}
    (directory / "case.json").write_text(json.dumps(description, indent=2) + "\n")
    if not thorough:
        return None
    checks.float32_agrees(one, model, result, tokens, None)
    sd, peak = checks.spread(one, result)
    return sd, peak, checks.every_tensor_matters(one, model, result, tokens, None, [])


def write(path, config, stored):
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_rope_dimension_count(config["hidden_size"] // config["num_attention_heads"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("no_vocab")
    for name, (data, kind) in stored.items():
        writer.add_tensor(name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
