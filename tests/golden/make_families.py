"""Writes families/NAME: tiny random models of the public Mixture-of-Experts families as Hugging
Face folders, each with oracle.h5, what transformers computes from it in float64 (families/README.md
says which datasets). Seeds are chosen so that float32 makes the same choices of experts and tokens.

B rows, T positions, V vocabulary, D model, L layers, M layers with experts, E experts, K choices.
"""

import argparse
import collections
import copy
import json
import math
import pathlib
import re

import h5py
import numpy as np
import safetensors.torch
import torch
import transformers

ROWS, LENGTH, VOCABULARY = 2, 40, 67
PROMPT, GENERATED = 8, 16
STEPS = 4
ADAMW = {"lr": 1e-3, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.1}
MARGIN = 1e-4  # of a choice of experts, at every step and token
LEAD = 2e-3    # of the best logit while generating
FP8_BLOCK, FP8_MAX = 128, 448.0

COMMON = {"attention_dropout": 0.0, "bos_token_id": None, "eos_token_id": None,
          "hidden_act": "silu", "initializer_range": 0.02, "max_position_embeddings": 256,
          "tie_word_embeddings": False,
          "use_cache": True, "vocab_size": VOCABULARY, "rms_norm_eps": 1e-6}
OLD = {"rope_scaling": None, "torch_dtype": "float32"}
DEEPSEEK = COMMON | {
    "attention_bias": False, "aux_loss_alpha": 0.001, "ep_size": 1, "first_k_dense_replace": 1,
    "hidden_size": 24, "intermediate_size": 28, "kv_lora_rank": 14, "moe_intermediate_size": 9,
    "moe_layer_freq": 1, "num_attention_heads": 4, "num_hidden_layers": 2, "num_key_value_heads": 4,
    "pretraining_tp": 1, "qk_nope_head_dim": 12, "qk_rope_head_dim": 8, "seq_aux": True,
    "v_head_dim": 10}
V2 = DEEPSEEK | {"model_type": "deepseek_v2", "architectures": ["DeepseekV2ForCausalLM"],
                 "norm_topk_prob": False, "scoring_func": "softmax"}
V3 = DEEPSEEK | {"model_type": "deepseek_v3", "architectures": ["DeepseekV3ForCausalLM"],
                 "norm_topk_prob": True, "scoring_func": "sigmoid", "topk_method": "noaux_tc",
                 "q_lora_rank": 11, "n_shared_experts": 1, "n_routed_experts": 12, "n_group": 3,
                 "topk_group": 2, "num_experts_per_tok": 4, "routed_scaling_factor": 2.5}
QWEN = COMMON | {"decoder_sparse_step": 1, "max_window_layers": 28, "mlp_only_layers": [],
                 "output_router_logits": False, "router_aux_loss_coef": 0.001,
                 "sliding_window": 32768, "use_sliding_window": False, "dtype": "float32"}

CASES = {
    "mixtral": COMMON | OLD | {
        "model_type": "mixtral", "architectures": ["MixtralForCausalLM"], "hidden_size": 24,
        "intermediate_size": 24, "num_attention_heads": 4, "num_experts_per_tok": 2,
        "num_hidden_layers": 2, "num_key_value_heads": 2, "num_local_experts": 6,
        "output_router_logits": False, "rms_norm_eps": 1e-5, "rope_theta": 1000000.0,
        "router_aux_loss_coef": 0.02, "sliding_window": 7},
    "qwen2_moe": QWEN | {
        "model_type": "qwen2_moe", "architectures": ["Qwen2MoeForCausalLM"], "hidden_size": 30,
        "decoder_sparse_step": 2, "intermediate_size": 17, "moe_intermediate_size": 8,
        "norm_topk_prob": False, "num_attention_heads": 5, "num_experts": 7,
        "num_experts_per_tok": 3, "num_hidden_layers": 4, "num_key_value_heads": 1,
        "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
        "shared_expert_intermediate_size": 13, "tie_word_embeddings": True},
    "qwen3_moe": QWEN | {
        "model_type": "qwen3_moe", "architectures": ["Qwen3MoeForCausalLM"], "hidden_size": 24,
        "attention_bias": False, "head_dim": 10, "intermediate_size": 21, "mlp_only_layers": [0],
        "moe_intermediate_size": 10, "norm_topk_prob": True, "num_attention_heads": 4,
        "num_experts": 8, "num_experts_per_tok": 3, "num_hidden_layers": 3,
        "num_key_value_heads": 2,
        "rope_parameters": {"factor": 2.0, "rope_theta": 1000.0, "rope_type": "linear"}},
    "olmoe": COMMON | OLD | {
        "model_type": "olmoe", "architectures": ["OlmoeForCausalLM"], "hidden_size": 24,
        "attention_bias": False, "clip_qkv": 1.1, "intermediate_size": 13,
        "norm_topk_prob": False, "num_attention_heads": 4, "num_experts": 8,
        "num_experts_per_tok": 3, "num_hidden_layers": 2, "num_key_value_heads": 2,
        "output_router_logits": False, "pad_token_id": None,  # else that row has no gradient
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "router_aux_loss_coef": 0.01},
    "deepseek_v2": V2 | OLD | {
        "n_group": 1, "n_routed_experts": 6, "n_shared_experts": 2, "num_experts_per_tok": 2,
        "q_lora_rank": None, "rope_theta": 10000.0, "routed_scaling_factor": 1.5,
        "topk_group": 1, "topk_method": "greedy"},
    "deepseek_v2_yarn": V2 | {
        "n_group": 4, "n_routed_experts": 8, "n_shared_experts": 1, "num_experts_per_tok": 3,
        "q_lora_rank": 11, "rms_norm_eps": 1e-5, "rope_theta": 50.0, "routed_scaling_factor": 2.5,
        "topk_group": 2, "topk_method": "group_limited_greedy", "torch_dtype": "float32",
        "rope_scaling": {"beta_fast": 8, "beta_slow": 1, "factor": 4, "mscale": 0.707,
                         "mscale_all_dim": 1.2, "original_max_position_embeddings": 64,
                         "type": "yarn"}},
    "deepseek_v3": V3 | {
        "num_hidden_layers": 3, "num_nextn_predict_layers": 0, "dtype": "float32",
        "rope_parameters": {"beta_fast": 32, "beta_slow": 1, "factor": 40, "mscale": 1.0,
                            "mscale_all_dim": 1.0, "original_max_position_embeddings": 64,
                            "rope_theta": 40.0, "rope_type": "yarn"}},
    "deepseek_v3_fp8": V3 | {
        "intermediate_size": 140, "num_nextn_predict_layers": 1, "qk_nope_head_dim": 24,
        "v_head_dim": 12, "rope_scaling": None, "rope_theta": 10000.0, "torch_dtype": "bfloat16",
        "quantization_config": {"activation_scheme": "dynamic", "fmt": "e4m3",
                                "quant_method": "fp8", "weight_block_size": [128, 128]}},
    "gpt_oss": COMMON | {
        "model_type": "gpt_oss", "architectures": ["GptOssForCausalLM"], "attention_bias": True,
        "experts_per_token": 2, "head_dim": 12, "hidden_act": "silu", "hidden_size": 24,
        "initial_context_length": 64, "intermediate_size": 14,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        "num_attention_heads": 4, "num_experts_per_tok": 2, "num_hidden_layers": 3,
        "num_key_value_heads": 2, "num_local_experts": 6, "output_router_logits": False,
        "rms_norm_eps": 1e-5, "rope_theta": 60.0, "router_aux_loss_coef": 0.9,
        "rope_scaling": {"beta_fast": 32.0, "beta_slow": 1.0, "factor": 8.0,
                         "original_max_position_embeddings": 64, "rope_type": "yarn",
                         "truncate": False},
        "sliding_window": 9, "swiglu_limit": 1.5, "torch_dtype": "float32"},
}
SHARDS = {"deepseek_v3": 3}
EAGER = {"attn_implementation": "eager", "experts_implementation": "eager"}
LEFT_OUT = {"dtype", "torch_dtype", "quantization_config"}  # say how values are stored


def build(config):
    """The model in float64, eager everywhere. transformers pins some steps to float32, and these
    are widened by giving it float64 under that name (main)."""
    kept = {k: v for k, v in config.items() if k not in LEFT_OUT and k != "model_type"}
    kept["num_nextn_predict_layers"] = 0
    config = transformers.AutoConfig.for_model(config["model_type"], **copy.deepcopy(kept))
    return transformers.AutoModelForCausalLM.from_config(config, **EAGER).double().eval()


def draw(model, rng):
    """Random values, rounded to float32: matrices by their inputs, norms around 1."""
    trained = dict(model.named_parameters())
    for name, value in {**trained, **dict(model.named_buffers())}.items():
        shape = tuple(value.shape)
        stacked = name.endswith(("experts.gate_up_proj", "experts.down_proj"))
        if "layernorm" in name or "norm.weight" in name:
            drawn = 1 + 0.25 * rng.standard_normal(shape)
        elif name.endswith("e_score_correction_bias"):
            drawn = 0.1 * rng.standard_normal(shape)
        elif name.endswith("sinks"):
            drawn = rng.standard_normal(shape)
        elif "bias" in name:
            drawn = 0.3 * rng.standard_normal(shape)
        elif "embed_tokens" in name:
            scale = 0.25 if model.config.tie_word_embeddings else 1.0
            drawn = scale * rng.standard_normal(shape)
        elif name in trained:
            transposed = stacked and model.config.model_type == "gpt_oss"
            inputs = shape[-2] if transposed else shape[-1]
            drawn = 1.3 / math.sqrt(inputs) * rng.standard_normal(shape)
        else:
            continue  # the angles' buffers
        value.data.copy_(torch.from_numpy(drawn.astype(np.float32)))


def to_fp8(weight):
    """e4m3 values and the scales of the blocks of 128 x 128: weight = values * scale."""
    rows, columns = (math.ceil(n / FP8_BLOCK) for n in weight.shape)
    values = torch.empty(weight.shape, dtype=torch.float8_e4m3fn)
    scales = torch.empty(rows, columns, dtype=torch.double)
    for r in range(rows):
        for c in range(columns):
            block = (slice(r * FP8_BLOCK, (r + 1) * FP8_BLOCK),
                     slice(c * FP8_BLOCK, (c + 1) * FP8_BLOCK))
            scales[r, c] = round32(weight[block].abs().max() / FP8_MAX)
            values[block] = (weight[block] / scales[r, c]).to(torch.float8_e4m3fn)
    return values, scales


def round32(value):
    return torch.from_numpy(value.detach().numpy().astype(np.float32).astype(np.float64))


def quantise(model, config):
    """Rounds the model's values to what an FP8 folder can hold; returns that folder's tensors."""
    tensors = {}
    for name, value in public(model, config, dict(model.named_parameters())
                              | dict(model.named_buffers())).items():
        if re.search(r"(_proj|kv_a_proj_with_mqa)\.weight$", name):
            values, scales = to_fp8(value)
            tensors[name] = values
            tensors[f"{name}_scale_inv"] = torch.from_numpy(scales.numpy().astype(np.float32))
            block = scales.repeat_interleave(FP8_BLOCK, 0).repeat_interleave(FP8_BLOCK, 1)
            value.copy_(round32(values.double() * block[: value.shape[0], : value.shape[1]]))
        elif name.endswith("e_score_correction_bias"):
            tensors[name] = torch.from_numpy(value.numpy().astype(np.float32))
        else:
            tensors[name] = value.to(torch.bfloat16)
            value.copy_(tensors[name].double())
    extra = config["num_hidden_layers"]  # what a module for multi-token prediction looks like
    tensors[f"model.layers.{extra}.enorm.weight"] = torch.ones(24, dtype=torch.bfloat16)
    tensors[f"model.layers.{extra}.eh_proj.weight"] = torch.ones(24, 48, dtype=torch.bfloat16)
    return tensors


def public(model, config, tensors):
    """Views of the tensors under the names and in the shapes of the public files."""
    family = config["model_type"]
    out = {}
    for name, value in tensors.items():
        value = value.detach()
        if "inv_freq" in name or (config["tie_word_embeddings"] and name == "lm_head.weight"):
            continue
        if family != "gpt_oss" and ".experts." in name:
            prefix, kind = name.rsplit(".", 1)
            width = value.shape[1] // 2
            for e in range(value.shape[0]):
                parts = ({"gate_proj": value[e, :width], "up_proj": value[e, width:]}
                         if kind == "gate_up_proj" else {"down_proj": value[e]})
                out |= {f"{prefix}.{e}.{part}.weight": v for part, v in parts.items()}
        else:
            out[name] = value
    if family == "mixtral":
        of = {"gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"}
        for name in list(out):
            renamed = name.replace(".mlp.", ".block_sparse_moe.")
            for ours, theirs in of.items():
                renamed = renamed.replace(f"{ours}.weight", f"{theirs}.weight")
            out[renamed] = out.pop(name)
    return out


def choice_margin(logits, module, config):
    """By how much the choice of each token (T, E) is clear."""
    family, k = config["model_type"], config["num_experts_per_tok"]
    groups, top = config.get("n_group", 1), config.get("topk_group", 1)
    if family == "gpt_oss":
        score = logits
    elif family == "deepseek_v3":
        score = logits.sigmoid() + module.e_score_correction_bias
    else:
        score = logits.softmax(-1)
    margin = torch.full(score.shape[:1], float("inf"), dtype=score.dtype)
    if groups > 1:
        inside = score.view(len(score), groups, -1)
        best = inside.topk(2 if family == "deepseek_v3" else 1, dim=-1)[0].sum(-1)
        ordered, order = best.sort(dim=-1, descending=True)
        margin = ordered[:, top - 1] - ordered[:, top]
        out = torch.ones_like(best).scatter(1, order[:, :top], 0.0) > 0
        score = score.masked_fill(out.repeat_interleave(inside.shape[-1], 1), float("-inf"))
    ordered = score.sort(dim=-1, descending=True)[0]
    return torch.minimum(margin, ordered[:, k - 1] - ordered[:, k])


class Watch:
    """Keeps what each router and layer puts out, of the last forward pass."""

    def __init__(self, model, config):
        self.routers, self.hidden, self.config = {}, {}, config
        for number, layer in enumerate(model.model.layers):
            layer.register_forward_hook(self.of_layer(number))
            for module in layer.modules():
                if module.__class__.__name__.lower().endswith("topkrouter"):
                    module.register_forward_hook(self.of_router(number))

    def of_layer(self, number):
        def hook(_, __, output):
            self.hidden[number] = (output[0] if isinstance(output, tuple) else output).detach()
        return hook

    def of_router(self, number):
        def hook(module, _, output):
            logits, weight, choice = (o.detach() for o in output)
            order = weight.argsort(dim=-1, descending=True, stable=True)
            self.routers[number] = (logits, choice.gather(1, order), weight.gather(1, order),
                                    choice_margin(logits, module, self.config))
        return hook

    def margin(self):
        return min(router[3].min().item() for router in self.routers.values())


def loss_of(logits, ids):
    logprobs = logits.log_softmax(-1)[:, :-1].gather(2, ids[:, 1:, None].long())[..., 0]
    return -logprobs.mean(), logprobs


def adamw(model, watch, ids):
    """Losses before each step, the loss after the last one, and the least margin on the way."""
    trained = [p for p in model.parameters() if p.requires_grad]
    decayed = [p for p in trained if not is_vector(model, p)]
    plain = [p for p in trained if is_vector(model, p)]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": ADAMW["weight_decay"]},
         {"params": plain, "weight_decay": 0.0}],
        lr=ADAMW["lr"], betas=(ADAMW["beta1"], ADAMW["beta2"]), eps=ADAMW["eps"], foreach=False)
    losses, margin = [], float("inf")
    for step in range(STEPS + 1):
        optimizer.zero_grad()
        loss = loss_of(model(ids.long()).logits, ids)[0]
        margin = min(margin, watch.margin())
        losses.append(loss.item())
        if step < STEPS:
            loss.backward()
            for p in trained:  # an expert without tokens has gradient 0, and decays
                p.grad = torch.zeros_like(p) if p.grad is None else p.grad
            optimizer.step()
    return losses[:STEPS], losses[STEPS], margin


def is_vector(model, parameter):
    """Whether one expert's or layer's tensor is a vector: gpt-oss stacks the experts' biases."""
    return parameter.dim() < 2 or any(
        parameter is p for n, p in model.named_parameters() if n.endswith("proj_bias"))


def generate(model, watch, ids):
    tokens, logprobs, lead, margin = ids[0, :PROMPT].tolist(), [], float("inf"), float("inf")
    for _ in range(GENERATED):
        logits = model(torch.tensor([tokens])).logits[0, -1]
        best = logits.topk(2)
        lead = min(lead, (best.values[0] - best.values[1]).item())
        margin = min(margin, watch.margin())
        logprobs.append(logits.log_softmax(-1)[best.indices[0]].item())
        tokens.append(best.indices[0].item())
    return tokens[PROMPT:], logprobs, lead, margin


def make(config, seed):
    """All of a case for one seed, or nothing if a choice is too close."""
    rng = np.random.default_rng(seed)
    model = build(config)
    quantised = None
    with torch.no_grad():
        draw(model, rng)
        if "quantization_config" in config:
            quantised = quantise(model, config)
        state = dict(model.named_parameters()) | dict(model.named_buffers())
        tensors = quantised or {n: torch.from_numpy(v.numpy().astype(np.float32))
                                for n, v in public(model, config, state).items()}
    ids = torch.from_numpy(rng.integers(0, VOCABULARY, (ROWS, LENGTH)).astype(np.int32))
    watch = Watch(model, config)
    logits = model(ids.long()).logits
    if watch.margin() <= MARGIN:
        return None
    loss, logprobs = loss_of(logits, ids)
    loss.backward()
    layers = sorted(watch.routers)
    routers = [torch.stack(parts).numpy() for parts in zip(*(watch.routers[n] for n in layers))]
    arrays = {"input_ids": ids.numpy(), "logits": logits, "logprobs": logprobs, "loss": loss,
              "hidden_states": torch.stack([watch.hidden[n] for n in sorted(watch.hidden)]),
              "router/layers": np.array(layers, np.int32), "router/logits": routers[0],
              "router/topk_indices": routers[1], "router/topk_weights": routers[2],
              "router/margin": routers[3]}
    with torch.no_grad():
        tokens, scores, lead, margin = generate(model, watch, ids)
    if lead <= LEAD or margin <= MARGIN:
        return None
    arrays |= {"generation/prompt": ids[0, :PROMPT].numpy(),
               "generation/logprobs": np.array(scores),
               "generation/tokens": np.array(tokens, np.int32)}
    gradients = {n: torch.zeros_like(p) if p.grad is None else p.grad
                 for n, p in model.named_parameters()}
    gradients = {n: g.clone() for n, g in public(model, config, gradients).items()}
    model.zero_grad(set_to_none=True)
    losses, after, margin = adamw(model, watch, ids)
    if margin <= MARGIN:
        return None
    if quantised is None:
        arrays |= {f"grad/{n}": g for n, g in gradients.items()}
        arrays |= {"adamw/losses": np.array(losses), "adamw/loss_after": np.array(after)}
    return tensors, arrays


def write(folder, name, config, tensors, arrays):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    tensors = {n: t.contiguous() for n, t in tensors.items()}
    shards = SHARDS.get(name, 1)
    if shards == 1:
        safetensors.torch.save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    else:
        names, index = sorted(tensors), {}
        for s in range(shards):
            file = f"model-{s + 1:05d}-of-{shards:05d}.safetensors"
            part = {n: tensors[n] for n in names[s::shards]}
            index |= {n: file for n in part}
            safetensors.torch.save_file(part, folder / file, {"format": "pt"})
        size = sum(t.numel() * t.element_size() for t in tensors.values())
        (folder / "model.safetensors.index.json").write_text(json.dumps(
            {"metadata": {"total_size": size}, "weight_map": index}, indent=2) + "\n")
    with h5py.File(folder / "oracle.h5", "w", libver="latest") as file:
        for key, value in arrays.items():
            value = value.detach().numpy() if isinstance(value, torch.Tensor) else value
            dtype = np.int32 if value.dtype.kind in "iu" else np.float32
            file.create_dataset(key, data=value.astype(dtype), track_times=False)
        if "adamw" in file:
            file["adamw"].attrs.update(ADAMW)


def check(folder, arrays):
    """How far what transformers loads from the folder is from the oracle, in float32."""
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float, **EAGER)
    with torch.no_grad():
        logits = model(torch.from_numpy(arrays["input_ids"]).long()).logits
    return (logits.double() - arrays["logits"].detach().double()).abs().max().item()


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="which of the cases (default: all)")
    parser.add_argument("--out", type=pathlib.Path,
                        default=pathlib.Path(__file__).parent / "families")
    options = parser.parse_args()
    torch.use_deterministic_algorithms(True)
    narrow, to_float = torch.float32, torch.Tensor.float
    for name in options.names or CASES:
        config = CASES[name]
        torch.set_default_dtype(torch.float64)
        torch.float32 = torch.float = torch.float64
        torch.Tensor.float = torch.Tensor.double
        made, seed = None, -1
        while made is None:
            seed += 1
            made = make(config, seed)
        torch.set_default_dtype(narrow)
        torch.float32 = torch.float = narrow
        torch.Tensor.float = to_float
        write(options.out / name, name, config, *made)
        arrays = made[1]
        known = "quantization_config" not in config  # transformers wants a GPU for FP8
        error = f", loads to {check(options.out / name, arrays):.1e}" if known else ""
        size = sum(f.stat().st_size for f in (options.out / name).iterdir())
        print(f"{name}: seed {seed}, loss {arrays['loss'].item():.3f}, margin "
              f"{arrays['router/margin'].min():.1e}, std of logits {arrays['logits'].std():.2f}, "
              f"{size} bytes{error}", flush=True)


if __name__ == "__main__":
    main()
