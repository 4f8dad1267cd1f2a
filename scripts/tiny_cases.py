# SPDX-License-Identifier: MIT
"""The tiny checkpoints of the parity tests: which configs, and which tensors a
config asks for.

Every architecture meets every rope type, and each config field that changes
the arithmetic has a case. Prompts are longer than the length that dynamic rope
starts from and than the sliding windows, so that a field that is ignored
changes the logits. "ablations" of a case are configs
with one field changed: the golden script proves that each gives other logits.
"""

import copy
import math

VOCAB_SIZE = 96
PROMPT_LENGTH = 40
THETA = 10000.0


def dense(model_type: str, **changes) -> dict:
    config = {
        "architectures": [
            {"qwen2": "Qwen2", "qwen3": "Qwen3", "llama": "Llama"}[model_type]
            + "ForCausalLM"
        ],
        "model_type": model_type,
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "hidden_act": "silu",
        "max_position_embeddings": 128,
        "rms_norm_eps": 1e-6,
        "rope_theta": THETA,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
    }
    if model_type == "qwen3":
        config |= {"head_dim": 32, "attention_bias": False}
    if model_type == "llama":
        config |= {"attention_bias": False, "mlp_bias": False, "rms_norm_eps": 1e-5}
    return edit(config, changes)


def moe(model_type: str, **changes) -> dict:
    config = dense(model_type.removesuffix("_moe"))
    config |= {
        "architectures": [
            {"qwen2_moe": "Qwen2Moe", "qwen3_moe": "Qwen3Moe"}[model_type]
            + "ForCausalLM"
        ],
        "model_type": model_type,
        "num_experts": 6,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "norm_topk_prob": model_type == "qwen3_moe",
    }
    if model_type == "qwen2_moe":
        config["shared_expert_intermediate_size"] = 80
    return edit(config, changes)


def edit(config: dict, changes: dict) -> dict:
    """A copy of `config` with `changes`; a value of None removes the key."""
    config = copy.deepcopy(config)
    for key, value in changes.items():
        if value is None:
            config.pop(key, None)
        else:
            config[key] = copy.deepcopy(value)
    return config


def without(mapping: dict, *keys: str) -> dict:
    return {k: v for k, v in mapping.items() if k not in keys}


LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
# 512, so that both ends of the ramp lie inside head_dim / 2 and every field counts.
YARN_FIELDS = YARN | {
    "original_max_position_embeddings": 512,
    "beta_fast": 6.0,
    "beta_slow": 0.5,
    "attention_factor": 1.4,
    "truncate": False,
}
YARN_MSCALE = YARN | {"mscale": 1.2, "mscale_all_dim": 0.4}

NO_SCALING = {"rope_scaling": None, "rope_parameters": None, "rope_theta": THETA}


def scaled(make, model_type: str, rope: dict, **changes):
    """A case in transformers 4's spelling (rope_theta and rope_scaling)."""
    config = make(model_type, rope_scaling=rope, **changes)
    return config, [NO_SCALING]


def parameters(make, model_type: str, rope: dict, **changes):
    """A case in transformers 5's spelling (rope_parameters)."""
    config = make(
        model_type,
        rope_theta=None,
        rope_parameters=rope | {"rope_theta": 5000.0},
        torch_dtype=None,
        dtype="float32",
        **changes,
    )
    plain = {"rope_type": "default", "rope_theta": 5000.0}
    return config, [{"rope_parameters": plain}, {"rope_parameters": rope}]


def case_configs() -> dict[str, tuple[dict, list[dict]]]:
    """name -> (config, ablations)."""
    linear = {"type": "linear", "factor": 3.0}
    dynamic = {"type": "dynamic", "factor": 4.0}
    sliding = {"use_sliding_window": True, "sliding_window": 12}
    no_sliding = [{"use_sliding_window": False}]
    cases = {}

    # qwen2: q, k and v have biases, o has none.
    cases["qwen2-default"] = dense("qwen2", rope_scaling={}), []
    cases["qwen2-tied"] = dense("qwen2", tie_word_embeddings=True), []
    cases["qwen2-linear"] = scaled(dense, "qwen2", linear)
    cases["qwen2-dynamic"] = scaled(
        dense, "qwen2", dynamic, max_position_embeddings=32
    )
    cases["qwen2-yarn-sharded"] = scaled(
        dense, "qwen2", without(YARN, "rope_type") | {"type": "yarn"}
    )
    cases["qwen2-llama3"] = parameters(dense, "qwen2", LLAMA3)
    cases["qwen2-sliding"] = (
        dense(
            "qwen2",
            num_hidden_layers=4,
            max_window_layers=2,
            num_attention_heads=2,
            **sliding,
        ),
        no_sliding + [{"max_window_layers": 0}, {"sliding_window": 13}],
    )
    layer_types = ["sliding_attention", "full_attention", "sliding_attention"]
    cases["qwen2-layer-types"] = (
        dense("qwen2", num_hidden_layers=3, layer_types=layer_types, **sliding),
        [{"layer_types": layer_types[1:] + layer_types[:1]}],
    )
    cases["qwen2-mha-head-dim-64"] = (
        dense("qwen2", head_dim=64, num_key_value_heads=4, rope_theta=1000000.0),
        [{"rope_theta": THETA}],
    )

    # qwen3: q and k are normalized by head; head_dim is its own number.
    cases["qwen3-default"] = dense("qwen3"), []
    cases["qwen3-tied-mqa-head-dim-16"] = (
        dense("qwen3", tie_word_embeddings=True, head_dim=16, num_key_value_heads=1),
        [],
    )
    cases["qwen3-bias"] = dense("qwen3", attention_bias=True), []
    cases["qwen3-linear"] = parameters(
        dense, "qwen3", {"rope_type": "linear", "factor": 3.0}
    )
    cases["qwen3-dynamic"] = parameters(
        dense,
        "qwen3",
        {"rope_type": "dynamic", "factor": 4.0},
        max_position_embeddings=32,
    )
    cases["qwen3-yarn"] = scaled(dense, "qwen3", YARN)
    config, ablations = scaled(dense, "qwen3", YARN_FIELDS)
    cases["qwen3-yarn-fields"] = (
        config,
        ablations
        + [
            {"rope_scaling": without(YARN_FIELDS, field)}
            for field in ("beta_fast", "beta_slow", "attention_factor", "truncate")
        ],
    )
    config, ablations = parameters(dense, "qwen3", YARN_MSCALE)
    cases["qwen3-yarn-mscale"] = (
        config,
        ablations
        + [
            {"rope_parameters": without(config["rope_parameters"], field)}
            for field in ("mscale", "mscale_all_dim")
        ],
    )
    # Without the original length, max_position_embeddings stands for it.
    cases["qwen3-yarn-no-original"] = scaled(
        dense,
        "qwen3",
        without(YARN, "original_max_position_embeddings"),
        max_position_embeddings=32,
    )
    cases["qwen3-llama3"] = scaled(dense, "qwen3", LLAMA3)
    cases["qwen3-sliding"] = (
        dense("qwen3", num_hidden_layers=3, max_window_layers=1, **sliding),
        no_sliding + [{"max_window_layers": 0}],
    )

    # qwen2_moe: a shared expert with its own gate.
    cases["qwen2_moe-default"] = moe("qwen2_moe"), [{"norm_topk_prob": True}]
    cases["qwen2_moe-norm-topk-no-bias"] = (
        moe("qwen2_moe", norm_topk_prob=True, qkv_bias=False, tie_word_embeddings=True),
        [{"norm_topk_prob": False}],
    )
    cases["qwen2_moe-sparse-step"] = (
        moe(
            "qwen2_moe",
            num_hidden_layers=4,
            decoder_sparse_step=2,
            mlp_only_layers=[3],
            num_attention_heads=2,
        ),
        [],
    )
    cases["qwen2_moe-linear"] = scaled(moe, "qwen2_moe", linear)
    cases["qwen2_moe-dynamic"] = scaled(
        moe, "qwen2_moe", dynamic, max_position_embeddings=32
    )
    cases["qwen2_moe-yarn"] = parameters(moe, "qwen2_moe", YARN)
    cases["qwen2_moe-llama3"] = scaled(moe, "qwen2_moe", LLAMA3)
    cases["qwen2_moe-sliding"] = (
        moe(
            "qwen2_moe",
            num_hidden_layers=4,
            max_window_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            **sliding,
        ),
        no_sliding + [{"max_window_layers": 4}],
    )

    # qwen3_moe
    cases["qwen3_moe-default"] = moe("qwen3_moe"), [{"norm_topk_prob": False}]
    cases["qwen3_moe-no-norm-topk-bias"] = (
        moe("qwen3_moe", norm_topk_prob=False, attention_bias=True, num_experts=8),
        [{"norm_topk_prob": True}, {"num_experts_per_tok": 3}],
    )
    cases["qwen3_moe-sparse-step-sharded"] = (
        moe(
            "qwen3_moe",
            num_hidden_layers=4,
            decoder_sparse_step=2,
            mlp_only_layers=[1],
            tie_word_embeddings=True,
        ),
        [],
    )
    cases["qwen3_moe-local-experts"] = (
        moe("qwen3_moe", num_experts=None, num_local_experts=5, head_dim=16),
        [],
    )
    cases["qwen3_moe-fused-experts"] = parameters(
        moe, "qwen3_moe", {"rope_type": "linear", "factor": 2.0}
    )
    cases["qwen3_moe-linear"] = scaled(moe, "qwen3_moe", linear)
    cases["qwen3_moe-dynamic"] = scaled(
        moe, "qwen3_moe", dynamic, max_position_embeddings=32
    )
    cases["qwen3_moe-yarn"] = scaled(moe, "qwen3_moe", YARN_FIELDS)
    cases["qwen3_moe-llama3"] = parameters(moe, "qwen3_moe", LLAMA3)
    cases["qwen3_moe-sliding"] = moe("qwen3_moe", **sliding), no_sliding

    # llama
    cases["llama-tied"] = dense("llama", tie_word_embeddings=True), []
    cases["llama-bias-head-dim-32"] = (
        dense("llama", attention_bias=True, head_dim=32),
        [],
    )
    cases["llama-linear"] = scaled(dense, "llama", linear)
    cases["llama-dynamic"] = scaled(
        dense, "llama", dynamic, max_position_embeddings=32
    )
    cases["llama-yarn"] = parameters(dense, "llama", YARN_MSCALE)
    config, ablations = scaled(dense, "llama", LLAMA3)
    cases["llama-llama3"] = (
        config,
        ablations
        + [
            {"rope_scaling": LLAMA3 | {field: value}}
            for field, value in (
                ("factor", 4.0),
                ("low_freq_factor", 2.0),
                ("high_freq_factor", 8.0),
                ("original_max_position_embeddings", 128),
            )
        ],
    )
    return cases


def num_shards(name: str) -> int:
    return 3 if name.endswith("-sharded") else 1


# A uniform number in [-s, s) has the standard deviation s / sqrt(3).
def spread(std: float) -> float:
    return math.sqrt(3.0) * std


def tensors(config: dict, fused_experts: bool = False) -> list[dict]:
    """What the checkpoint of `config` holds: [{name, shape, center, scale}].

    Projections keep the variance of their input; those of q and k are wider, so
    that attention is far from uniform and positions matter.
    """
    rows = []
    model_type = config["model_type"]
    hidden = config["hidden_size"]
    n_heads = config["num_attention_heads"]
    n_kv_heads = config["num_key_value_heads"]
    head_dim = config.get("head_dim", hidden // n_heads)
    qkv_bias = {
        "qwen2": True,
        "qwen2_moe": config.get("qkv_bias", True),
    }.get(model_type, config.get("attention_bias", False))
    o_bias = model_type not in ("qwen2", "qwen2_moe") and qkv_bias

    def add(name, shape, center, scale):
        rows.append(
            {"name": name, "shape": list(shape), "center": center, "scale": scale}
        )

    def linear(name, out, in_, bias=False, gain=1.0):
        add(f"{name}.weight", (out, in_), 0.0, round(spread(gain / in_**0.5), 6))
        if bias:
            add(f"{name}.bias", (out,), 0.0, 0.5)

    def norm(name, size):
        add(f"{name}.weight", (size,), 1.0, 0.25)

    def mlp(name, width):
        linear(f"{name}.gate_proj", width, hidden)
        linear(f"{name}.up_proj", width, hidden)
        linear(f"{name}.down_proj", hidden, width)

    def experts(name):
        n_experts = config.get("num_experts", config.get("num_local_experts"))
        width = config["moe_intermediate_size"]
        if not fused_experts:
            for expert in range(n_experts):
                mlp(f"{name}.{expert}", width)
            return
        add(
            f"{name}.gate_up_proj",
            (n_experts, 2 * width, hidden),
            0.0,
            round(spread(hidden**-0.5), 6),
        )
        add(
            f"{name}.down_proj",
            (n_experts, hidden, width),
            0.0,
            round(spread(width**-0.5), 6),
        )

    tied = config["tie_word_embeddings"]
    # A tied embedding is the head as well, whose logits shall spread.
    embed_std = 2.0 / hidden**0.5 if tied else 1.0
    add(
        "model.embed_tokens.weight",
        (config["vocab_size"], hidden),
        0.0,
        round(spread(embed_std), 6),
    )
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}"
        norm(f"{prefix}.input_layernorm", hidden)
        attn = f"{prefix}.self_attn"
        linear(f"{attn}.q_proj", n_heads * head_dim, hidden, qkv_bias, gain=1.5)
        linear(f"{attn}.k_proj", n_kv_heads * head_dim, hidden, qkv_bias, gain=1.5)
        linear(f"{attn}.v_proj", n_kv_heads * head_dim, hidden, qkv_bias)
        linear(f"{attn}.o_proj", hidden, n_heads * head_dim, o_bias, gain=1.5)
        if model_type in ("qwen3", "qwen3_moe"):
            norm(f"{attn}.q_norm", head_dim)
            norm(f"{attn}.k_norm", head_dim)
        norm(f"{prefix}.post_attention_layernorm", hidden)
        sparse = (
            model_type.endswith("_moe")
            and layer not in config["mlp_only_layers"]
            and (layer + 1) % config["decoder_sparse_step"] == 0
        )
        if not sparse:
            mlp(f"{prefix}.mlp", config["intermediate_size"])
            continue
        n_experts = config.get("num_experts", config.get("num_local_experts"))
        linear(f"{prefix}.mlp.gate", n_experts, hidden)
        experts(f"{prefix}.mlp.experts")
        if model_type == "qwen2_moe":
            mlp(
                f"{prefix}.mlp.shared_expert",
                config["shared_expert_intermediate_size"],
            )
            linear(f"{prefix}.mlp.shared_expert_gate", 1, hidden)
    norm("model.norm", hidden)
    if not tied:
        linear("lm_head", config["vocab_size"], hidden, gain=2.0)
    return rows
