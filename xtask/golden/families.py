"""The cases: for each, its model class, configuration, storage dtype, and what a change must move."""

import copy
import dataclasses

import transformers as hf

from precision import BF16, F16, F32


# In a list of changes: the opposite of the configured flag.
TOGGLE = object()


@dataclasses.dataclass(frozen=True)
class Sizes:
    vocabulary: int
    decoder_vocabulary: int  # where the decoder has its own
    width: int  # a multiple of `heads`
    free_width: int  # for families that do not tie the width to the heads
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    prompt: int
    decoder_prompt: int
    rope_length: int  # the original context of a scaled rope, shorter than the prompt
    window: int
    positions: int
    small_width: int  # for the larger families and the rope variants: a multiple of the small heads
    small_heads: int
    small_kv_heads: int
    small_decoder_heads: int
    small_intermediate: int
    plain_width: int  # for rotary families without head_dim: width / heads must be even
    t5_width: int
    t5_heads: int
    t5_head_dim: int


SIZES = {
    "odd": Sizes(
        vocabulary=131, decoder_vocabulary=127, width=36, free_width=37, heads=6, kv_heads=2, head_dim=10,
        intermediate=52, prompt=23, decoder_prompt=11, rope_length=12, window=7, positions=40,
        small_width=24, small_heads=6, small_kv_heads=2, small_decoder_heads=4, small_intermediate=44,
        plain_width=36, t5_width=27, t5_heads=4, t5_head_dim=6,
    ),
    "other": Sizes(
        vocabulary=97, decoder_vocabulary=89, width=28, free_width=29, heads=4, kv_heads=1, head_dim=14,
        intermediate=44, prompt=17, decoder_prompt=9, rope_length=9, window=5, positions=32,
        small_width=20, small_heads=4, small_kv_heads=1, small_decoder_heads=5, small_intermediate=38,
        plain_width=40, t5_width=23, t5_heads=3, t5_head_dim=8,
    ),
}  # fmt: skip


@dataclasses.dataclass
class Case:
    name: str
    family: str
    model: type
    config: dict
    # Config changes that must each move the output; "rope.x" reaches into rope_parameters.
    moves: list
    dtype: object = F32
    shards: int = 1
    embedding_sd: float = 1.0
    strip_prefix: str = ""  # removed from the tensor names in the file
    causal_masks: bool = False  # store the mask buffers that early GPT-2 files carry
    saved_names: dict = dataclasses.field(default_factory=dict)  # where the file has another name than the model
    untie_head: bool = False  # for a class that ties whatever its configuration says
    v4: object = None  # None, or a function of the transformers-4 style dictionary (changes it in place)
    old_rope_key: bool = False  # write "type" for "rope_type" in the transformers-4 style


def keep(config):
    """The transformers-4 dictionary needs no change beyond the general ones."""


def without_layer_types(config):
    """Configurations written before `layer_types` existed leave the layout to the family's rule."""
    config.pop("layer_types", None)


def with_dormant_window(window):
    """transformers 4 wrote the window even where use_sliding_window is false."""

    def change(config):
        without_layer_types(config)
        config["sliding_window"] = window

    return change


def with_pattern(pattern):
    """Gemma 3 had a number where later configurations have `layer_types`."""

    def change(config):
        without_layer_types(config)
        config["sliding_window_pattern"] = pattern

    return change


def neox_names(config):
    """GPT-NeoX has names of its own for what the others share."""
    config["rotary_emb_base"] = config.pop("rope_theta")
    config["rotary_pct"] = config.pop("partial_rotary_factor")


def cases(s):
    """All cases at the sizes `s`, in a fixed order."""
    gpt2 = dict(
        vocab_size=s.vocabulary, n_embd=s.width, n_head=s.heads, n_layer=2, n_positions=s.positions,
        bos_token_id=s.vocabulary - 1, eos_token_id=s.vocabulary - 1,
    )  # fmt: skip
    llama = dict(
        vocab_size=s.vocabulary, hidden_size=s.width, intermediate_size=s.intermediate, num_hidden_layers=2,
        num_attention_heads=s.heads, num_key_value_heads=s.kv_heads, head_dim=s.head_dim,
        max_position_embeddings=s.positions, rms_norm_eps=2e-3, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    small_llama = llama | dict(
        hidden_size=s.small_width, num_attention_heads=s.small_heads, num_key_value_heads=s.small_kv_heads,
        intermediate_size=s.small_intermediate,
    )  # fmt: skip
    plain_llama = {k: v for k, v in llama.items() if k != "head_dim"} | dict(hidden_size=s.plain_width)
    neox = dict(
        vocab_size=s.vocabulary, hidden_size=s.plain_width, intermediate_size=s.intermediate, num_hidden_layers=2,
        num_attention_heads=s.small_decoder_heads,
        max_position_embeddings=s.positions, layer_norm_eps=2e-3, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    falcon = dict(
        vocab_size=s.vocabulary, hidden_size=s.plain_width, num_hidden_layers=2, num_attention_heads=s.heads,
        max_position_embeddings=s.positions, layer_norm_epsilon=2e-3, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    bert = dict(
        vocab_size=s.vocabulary, hidden_size=s.width, num_attention_heads=s.heads, num_hidden_layers=2,
        intermediate_size=s.intermediate, max_position_embeddings=s.positions, type_vocab_size=2, pad_token_id=0,
    )  # fmt: skip
    t5 = dict(
        vocab_size=s.vocabulary, d_model=s.t5_width, d_kv=s.t5_head_dim, num_heads=s.t5_heads,
        d_ff=s.small_intermediate, num_layers=2, num_decoder_layers=2,
        pad_token_id=0, eos_token_id=1, decoder_start_token_id=0,
    )  # fmt: skip
    bart = dict(
        vocab_size=s.vocabulary, d_model=s.small_width, encoder_layers=2, decoder_layers=2,
        encoder_attention_heads=s.small_heads, decoder_attention_heads=s.small_decoder_heads,
        encoder_ffn_dim=s.intermediate, decoder_ffn_dim=s.small_intermediate, max_position_embeddings=s.positions,
    )  # fmt: skip
    pad = s.vocabulary - 1
    marian = bart | dict(
        activation_function="swish", scale_embedding=True, pad_token_id=pad, decoder_start_token_id=pad,
        eos_token_id=0, forced_eos_token_id=0,
    )  # fmt: skip
    separate_pad = s.decoder_vocabulary - 1
    separate = marian | dict(
        share_encoder_decoder_embeddings=False, decoder_vocab_size=s.decoder_vocabulary,
        pad_token_id=separate_pad, decoder_start_token_id=separate_pad,
    )  # fmt: skip

    def rope(theta, kind="default", **rest):
        return dict(rope_parameters=dict(rope_theta=theta, rope_type=kind, **rest))

    gpt2_moves = [
        {"activation_function": "gelu"},
        {"layer_norm_epsilon": 1e-4},
        {"scale_attn_weights": False},
        {"scale_attn_by_inverse_layer_idx": True},
    ]
    llama_moves = [{"hidden_act": "gelu"}, {"rms_norm_eps": 1e-6}, {"rope.rope_theta": 777.0}]
    untied = [{"tie_word_embeddings": True}]
    bert_moves = [{"hidden_act": "gelu_new"}, {"layer_norm_eps": 1e-5}]
    t5_moves = [
        {"layer_norm_epsilon": 1e-6},
        {"relative_attention_max_distance": 11},
        {"scale_decoder_outputs": TOGGLE},
    ]
    bart_moves = [{"activation_function": "gelu_new"}, {"scale_embedding": TOGGLE}]

    return [
        Case(
            "gpt2", "gpt2", hf.GPT2LMHeadModel,
            gpt2 | dict(n_embd=s.small_width, n_head=s.small_heads), gpt2_moves, embedding_sd=0.4,
        ),
        Case(
            "gpt2-options", "gpt2", hf.GPT2LMHeadModel,
            gpt2 | dict(
                scale_attn_by_inverse_layer_idx=True, activation_function="relu", n_inner=s.intermediate,
                tie_word_embeddings=False, layer_norm_epsilon=1e-3,
            ),
            [
                {"activation_function": "gelu_new"}, {"layer_norm_epsilon": 1e-5}, {"scale_attn_weights": False},
                {"scale_attn_by_inverse_layer_idx": False}, *untied,
            ],
            strip_prefix="transformer.", causal_masks=True,
        ),
        Case(
            "llama", "llama", hf.LlamaForCausalLM, llama | rope(500.0), llama_moves + untied, dtype=BF16, v4=keep,
        ),
        Case(
            "llama-tied-bias", "llama", hf.LlamaForCausalLM,
            small_llama | rope(10000.0) | dict(tie_word_embeddings=True, attention_bias=True, mlp_bias=True),
            llama_moves, embedding_sd=0.5, strip_prefix="model.", v4=keep,
        ),
        Case(
            "llama-sharded", "llama", hf.LlamaForCausalLM,
            small_llama | rope(10000.0) | dict(head_dim=s.head_dim + 2), llama_moves + untied, shards=3, v4=keep,
        ),
        Case(
            "llama-linear", "llama", hf.LlamaForCausalLM, small_llama | rope(10000.0, "linear", factor=2.5),
            llama_moves + [{"rope.factor": 2.6}], dtype=F16, v4=keep, old_rope_key=True,
        ),
        Case(
            "llama-dynamic", "llama", hf.LlamaForCausalLM,
            small_llama | rope(10000.0, "dynamic", factor=3.0) | dict(max_position_embeddings=s.rope_length),
            llama_moves + [{"rope.factor": 3.1}, {"max_position_embeddings": s.rope_length + 1}], v4=keep,
        ),
        # The factors are chosen so that each of the three bands (kept, blended, divided) has a frequency.
        Case(
            "llama-llama3", "llama", hf.LlamaForCausalLM,
            small_llama | rope(
                50.0, "llama3", factor=8.0, low_freq_factor=round(0.025 * s.rope_length, 6),
                high_freq_factor=round(0.125 * s.rope_length, 6), original_max_position_embeddings=s.rope_length,
            ),
            llama_moves + [
                {"rope.factor": 8.1}, {"rope.low_freq_factor": 0.2}, {"rope.high_freq_factor": 1.6},
                {"rope.original_max_position_embeddings": s.rope_length + 1},
            ],
            v4=keep,
        ),
        # A small theta and a wider head leave frequencies on the ramp with the default betas.
        Case(
            "llama-yarn", "llama", hf.LlamaForCausalLM,
            small_llama | rope(10.0, "yarn", factor=4.0, original_max_position_embeddings=s.rope_length)
            | dict(head_dim=16, max_position_embeddings=4 * s.rope_length),
            llama_moves + [
                {"rope.factor": 4.1}, {"rope.original_max_position_embeddings": 3 * s.rope_length},
                {"rope.beta_slow": 0.1}, {"rope.truncate": False}, {"rope.attention_factor": 1.0},
            ],
            v4=keep,
        ),
        Case(
            "llama-yarn-mscale", "llama", hf.LlamaForCausalLM,
            small_llama | rope(
                10.0, "yarn", factor=4.0, original_max_position_embeddings=s.rope_length, beta_fast=0.8,
                beta_slow=0.35, truncate=False, mscale=1.3, mscale_all_dim=0.7,
            )
            | dict(head_dim=16, max_position_embeddings=4 * s.rope_length),
            llama_moves + [
                {"rope.factor": 4.1}, {"rope.beta_fast": 0.9}, {"rope.beta_slow": 0.3}, {"rope.truncate": True},
                {"rope.mscale": 1.2}, {"rope.mscale_all_dim": 0.8},
                {"rope.original_max_position_embeddings": s.rope_length + 1},
            ],
            v4=keep,
        ),
        Case(
            "llama-yarn-attention", "llama", hf.LlamaForCausalLM,
            small_llama | rope(
                10.0, "yarn", factor=4.0, original_max_position_embeddings=s.rope_length, attention_factor=1.35,
            )
            | dict(head_dim=16, max_position_embeddings=4 * s.rope_length),
            llama_moves + [{"rope.factor": 4.1}, {"rope.attention_factor": 1.3}],
            dtype=BF16, v4=keep,
        ),
        Case(
            "mistral", "mistral", hf.MistralForCausalLM,
            llama | rope(2000.0) | dict(hidden_size=s.free_width, sliding_window=s.window),
            llama_moves + untied + [{"sliding_window": s.window + 1}, {"sliding_window": None}], dtype=BF16, v4=keep,
        ),
        Case(
            "qwen2", "qwen2", hf.Qwen2ForCausalLM,
            {k: v for k, v in llama.items() if k != "head_dim"} | rope(10000.0) | dict(
                hidden_size=s.plain_width, tie_word_embeddings=True, use_sliding_window=False,
                sliding_window=s.window, max_window_layers=1, pad_token_id=3,
            ),
            llama_moves + [{"use_sliding_window": True, "sliding_window": s.window}],
            embedding_sd=0.4, v4=with_dormant_window(s.window),
        ),
        Case(
            "qwen2-window", "qwen2", hf.Qwen2ForCausalLM,
            {k: v for k, v in llama.items() if k != "head_dim"} | rope(1000.0) | dict(
                hidden_size=s.plain_width, num_hidden_layers=3, use_sliding_window=True, sliding_window=s.window,
                max_window_layers=1, pad_token_id=3,
            ),
            llama_moves + untied + [
                {"sliding_window": s.window + 1}, {"use_sliding_window": False},
                {"max_window_layers": 2}, {"max_window_layers": 0},
            ],
            dtype=BF16, v4=without_layer_types,
        ),
        Case(
            "qwen3", "qwen3", hf.Qwen3ForCausalLM,
            llama | rope(3000.0) | dict(hidden_size=s.free_width, tie_word_embeddings=True, pad_token_id=3),
            llama_moves, embedding_sd=0.4, v4=keep,
        ),
        Case(
            "gemma2", "gemma2", hf.Gemma2ForCausalLM,
            llama | rope(800.0) | dict(
                num_hidden_layers=3, sliding_window=s.window, query_pre_attn_scalar=23, attn_logit_softcapping=3.0,
                final_logit_softcapping=5.0, pad_token_id=0, bos_token_id=2, eos_token_id=1,
            ),
            [
                {"hidden_activation": "gelu"}, {"rms_norm_eps": 1e-6}, {"rope.rope_theta": 777.0},
                {"sliding_window": s.window + 1}, {"query_pre_attn_scalar": 24}, {"attn_logit_softcapping": 3.1},
                {"attn_logit_softcapping": None}, {"final_logit_softcapping": 5.1}, {"final_logit_softcapping": None},
                {"layer_types": ["full_attention", "sliding_attention", "full_attention"]},
                {"layer_types": ["sliding_attention"] * 3},
            ],
            dtype=F16, embedding_sd=0.4, v4=without_layer_types,
        ),
        Case(
            "gemma", "gemma", hf.GemmaForCausalLM,
            llama | rope(700.0) | dict(hidden_size=s.free_width, pad_token_id=0, bos_token_id=2, eos_token_id=1),
            [{"hidden_act": "relu"}, {"rms_norm_eps": 1e-6}, {"rope.rope_theta": 777.0}],
            dtype=BF16, embedding_sd=0.15, v4=lambda config: config.update(hidden_act="gelu"),
        ),
        Case(
            "phi3", "phi3", hf.Phi3ForCausalLM,
            plain_llama | rope(900.0, partial_rotary_factor=0.8) | dict(sliding_window=s.window, pad_token_id=3),
            llama_moves + untied + [
                {"sliding_window": s.window + 1}, {"sliding_window": None}, {"rope.partial_rotary_factor": 1.0},
            ],
            dtype=BF16, v4=keep,
        ),
        Case(
            "starcoder2", "starcoder2", hf.Starcoder2ForCausalLM,
            {k: v for k, v in plain_llama.items() if k != "rms_norm_eps"} | rope(600.0) | dict(
                norm_epsilon=2e-3, sliding_window=s.window,
            ),
            [
                {"hidden_act": "relu"}, {"norm_epsilon": 1e-5}, {"rope.rope_theta": 777.0},
                {"sliding_window": s.window + 1}, {"sliding_window": None},
            ],
            dtype=F16, embedding_sd=0.4, v4=keep,
        ),
        Case(
            "bloom", "bloom", hf.BloomForCausalLM,
            dict(
                vocab_size=s.vocabulary, hidden_size=s.width, n_layer=2, n_head=s.heads, layer_norm_epsilon=1e-3,
                bos_token_id=1, eos_token_id=2, pad_token_id=3,
            ),
            [{"layer_norm_epsilon": 1e-5}, {"n_head": s.heads // 2}],
            dtype=BF16, embedding_sd=0.4,
        ),
        Case(
            "gpt-neox", "gpt_neox", hf.GPTNeoXForCausalLM, neox | rope(500.0, partial_rotary_factor=0.5),
            [
                {"hidden_act": "gelu_new"}, {"layer_norm_eps": 1e-5}, {"rope.rope_theta": 777.0},
                {"rope.partial_rotary_factor": 0.25}, {"use_parallel_residual": False}, *untied,
            ],
            dtype=BF16, v4=neox_names, saved_names={"lm_head.weight": "embed_out.weight"},
        ),
        Case(
            "gpt-neox-sequence", "gpt_neox", hf.GPTNeoXForCausalLM,
            neox | rope(10000.0, "linear", partial_rotary_factor=0.5, factor=2.0) | dict(
                use_parallel_residual=False, attention_bias=False, tie_word_embeddings=True, hidden_size=s.small_width * 2,
            ),
            [
                {"hidden_act": "relu"}, {"layer_norm_eps": 1e-5}, {"rope.factor": 2.1}, {"rope.rope_theta": 777.0},
                {"rope.partial_rotary_factor": 0.34}, {"use_parallel_residual": True},
            ],
            dtype=F16, embedding_sd=0.4, v4=neox_names,
        ),
        Case(
            "falcon", "falcon", hf.FalconForCausalLM,
            falcon | rope(500.0),
            [
                {"activation": "gelu_new"}, {"layer_norm_epsilon": 1e-5}, {"rope.rope_theta": 777.0},
            ],
            dtype=BF16, embedding_sd=0.4, v4=keep,
        ),
        Case(
            "falcon-new", "falcon", hf.FalconForCausalLM,
            falcon | rope(900.0) | dict(
                new_decoder_architecture=True, num_kv_heads=s.kv_heads, bias=True, ffn_hidden_size=s.intermediate,
                tie_word_embeddings=False,
            ),
            [
                {"activation": "relu"}, {"layer_norm_epsilon": 1e-5}, {"rope.rope_theta": 777.0}, *untied,
            ],
            dtype=BF16, v4=keep,
        ),
        Case(
            "falcon-sequence", "falcon", hf.FalconForCausalLM,
            falcon | rope(900.0) | dict(multi_query=False, parallel_attn=False, bias=True),
            [
                {"activation": "relu"}, {"layer_norm_epsilon": 1e-5}, {"rope.rope_theta": 777.0},
            ],
            dtype=F16, embedding_sd=0.4, v4=keep,
        ),
        Case(
            "gemma3", "gemma3_text", hf.Gemma3ForCausalLM,
            llama | dict(
                hidden_size=s.heads * 6, sliding_window=s.window, sliding_window_pattern=2, query_pre_attn_scalar=23,
                final_logit_softcapping=5.0, pad_token_id=0, bos_token_id=2, eos_token_id=1,
                rope_parameters=dict(
                    full_attention=dict(rope_type="linear", factor=2.5, rope_theta=800.0),
                    sliding_attention=dict(rope_type="default", rope_theta=90.0),
                ),
            ),
            [
                {"hidden_activation": "gelu"}, {"rms_norm_eps": 1e-6}, {"sliding_window": s.window + 1},
                {"query_pre_attn_scalar": 24}, {"final_logit_softcapping": 5.1}, {"final_logit_softcapping": None},
                {"rope.full_attention": dict(rope_type="linear", factor=2.6, rope_theta=800.0)},
                {"rope.full_attention": dict(rope_type="linear", factor=2.5, rope_theta=777.0)},
                {"rope.sliding_attention": dict(rope_type="default", rope_theta=91.0)},
                {"layer_types": ["full_attention", "sliding_attention"]}, {"sliding_window_pattern": 3},
            ],
            dtype=F16, embedding_sd=0.4, v4=with_pattern(2),
        ),
        Case("bert", "bert", hf.BertForMaskedLM, bert, bert_moves),
        Case(
            "bert-base", "bert", hf.BertModel, bert | dict(layer_norm_eps=1e-3, hidden_act="relu"),
            [{"hidden_act": "gelu"}, {"layer_norm_eps": 1e-12}],
        ),
        Case(
            "t5", "t5", hf.T5ForConditionalGeneration, t5 | dict(layer_norm_epsilon=1e-3),
            t5_moves + [{"feed_forward_proj": "silu"}], v4=keep,
        ),
        Case(
            "flan-t5", "t5", hf.T5ForConditionalGeneration,
            t5 | dict(
                feed_forward_proj="gated-gelu", tie_word_embeddings=False, relative_attention_num_buckets=8,
                relative_attention_max_distance=20, layer_norm_epsilon=1e-3, num_decoder_layers=1,
            ),
            t5_moves + [{"feed_forward_proj": "gated-silu"}, {"feed_forward_proj": "gated-gelu_python"}],
            untie_head=True, v4=lambda config: config.update(tie_word_embeddings=False),
        ),
        Case("bart", "bart", hf.BartForConditionalGeneration, bart, bart_moves, embedding_sd=0.4),
        Case(
            "bart-scaled", "bart", hf.BartForConditionalGeneration,
            bart | dict(scale_embedding=True, activation_function="relu", decoder_layers=3), bart_moves,
            dtype=F16, embedding_sd=0.3,
        ),
        Case("marian", "marian", hf.MarianMTModel, marian, bart_moves, embedding_sd=0.3),
        Case(
            "marian-separate", "marian", hf.MarianMTModel, separate, bart_moves, dtype=F16, embedding_sd=0.3,
        ),
        Case(
            "marian-untied", "marian", hf.MarianMTModel,
            separate | dict(
                tie_word_embeddings=False, activation_function="relu", scale_embedding=False, encoder_layers=1,
            ),
            bart_moves + untied, dtype=BF16,
        ),
    ]  # fmt: skip


def transformers_4_style(case, config):
    """`config` (as transformers 5 writes it) the way transformers 4 wrote it."""
    old = copy.deepcopy(config)
    old["torch_dtype"] = old.pop("dtype")
    old["transformers_version"] = "4.46.0"
    parameters = old.pop("rope_parameters", None)
    if parameters is not None and "full_attention" in parameters:
        full, sliding = parameters["full_attention"], parameters["sliding_attention"]
        old["rope_theta"], old["rope_local_base_freq"] = full.pop("rope_theta"), sliding.pop("rope_theta")
        old["rope_scaling"] = full
    elif parameters is not None:
        old["rope_theta"] = parameters.pop("rope_theta")
        if "partial_rotary_factor" in parameters:
            old["partial_rotary_factor"] = parameters.pop("partial_rotary_factor")
        kind = parameters.pop("rope_type")
        key = "type" if case.old_rope_key else "rope_type"
        old["rope_scaling"] = None if kind == "default" else {key: kind, **parameters}
    # transformers 5 derives this from tie_word_embeddings and writes both; 4 wrote only the latter.
    old.pop("scale_decoder_outputs", None)
    case.v4(old)
    return dict(sorted(old.items()))
