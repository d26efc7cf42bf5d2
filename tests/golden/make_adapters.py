"""Writes adapters/FAMILY: LoRA adapters of the models in families/FAMILY as PEFT folders, and
golden.h5, what PEFT and transformers compute from them in float64 (adapters/README.md says which
datasets). The seed of an adapter is chosen so that float32 makes the same choices of experts.

PEFT on transformers 5 joins the experts of a layer. Here they are modules of their own again, as in
transformers 4, so that PEFT itself writes adapters of single experts. Each such folder is loaded
into the model of transformers 5, and must give the same logits.
"""

import argparse
import contextlib
import json
import math
import os
import pathlib
import re
import warnings

os.environ["HF_HUB_OFFLINE"] = "1"

import h5py
import numpy as np
import peft
import peft.utils.transformers_weight_conversion as conversion
import safetensors.torch
import torch
import transformers

import make_conversations
import make_families

HERE = pathlib.Path(__file__).parent
LENGTH, LOGITS, STEPS = 21, 4, 3  # tokens of a row; rows of logits that are kept of it
RANK, ALPHA = 3, 6
ADAMW = {"lr": 2e-3, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8}
NARROW = torch.float32

# What the modules of an expert are called in files of transformers 4.
PARTS = {"mixtral": ("w1", "w3", "w2")}
OURS = {"mixtral": {"w1": "gate_proj", "w3": "up_proj", "w2": "down_proj"}}
# transformers 5 has no number there when PEFT tries the pattern.
EXPERT = r".*\.experts\.(\d+\.)?(gate_proj|up_proj|down_proj)"
EXPERT_MIXTRAL = r".*\.experts\.(\d+\.)?w[123]"
LATENT = ["q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj"]
FUSED = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]

# Options of LoraConfig; "one": experts are single modules.
CASES = {
    "mixtral": {
        "attention": {"target_modules": ["q_proj", "v_proj"]},
        "experts": {"target_modules": EXPERT_MIXTRAL, "one": True},
        "all": {"target_modules": r".*\.([qkvo]_proj|w[123])", "one": True},
        "fused": {"target_modules": ["k_proj"], "target_parameters": FUSED + ["gate.weight"]},
        "patterns": {"target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"],
                     "use_rslora": True,
                     "rank_pattern": {"v_proj": 2, r"layers\.1\.self_attn\.[ko]_proj": 5},
                     "alpha_pattern": {"1.self_attn.q_proj": 1.5, "k_proj": 4}}},
    "qwen3_moe": {
        "attention": {"target_modules": ["q_proj", "v_proj"]},
        "experts": {"target_modules": EXPERT, "one": True},
        "fused": {"target_modules": [], "target_parameters": FUSED,
                  "rank_pattern": {"gate_up_proj": 2}},
        "down": {"target_modules": [], "target_parameters": FUSED[1:]}},
    "deepseek_v3": {
        "attention": {"target_modules": LATENT},
        "experts": {"target_modules": EXPERT, "one": True},
        "shared": {"target_modules": r".*\.(shared_experts|0\.mlp)\.(gate|up|down)_proj"},
        "fused": {"target_modules": ["q_a_proj"], "target_parameters": FUSED}},
    "gpt_oss": {
        "attention": {"target_modules": ["q_proj", "v_proj"]},
        "fused": {"target_modules": ["o_proj"], "target_parameters": FUSED}},
}
WITH_GRADIENTS = {"mixtral", "qwen3_moe", "deepseek_v3"}


class OneByOne(torch.nn.ModuleList):
    """The experts of a layer as modules of their own."""

    def __init__(self, experts, parts):
        super().__init__()
        self.parts = parts
        for joined, down in zip(experts.gate_up_proj, experts.down_proj):
            expert = torch.nn.Module()
            for name, weight in zip(parts, (*joined.chunk(2), down)):
                linear = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
                linear.weight.data.copy_(weight)
                setattr(expert, name, linear)
            self.append(expert)

    def forward(self, hidden, chosen, factors):
        total = torch.zeros_like(hidden)
        for number, expert in enumerate(self):
            token, place = torch.where(chosen == number)
            gate, up, down = (getattr(expert, name) for name in self.parts)
            x = hidden[token]
            y = down(torch.nn.functional.silu(gate(x)) * up(x))
            total = total.index_add(0, token, y * factors[token, place, None])
        return total


@contextlib.contextmanager
def wide():
    """float64 also where transformers says float32."""
    to_float = torch.Tensor.float
    torch.set_default_dtype(torch.float64)
    torch.float32 = torch.float = torch.float64
    torch.Tensor.float = torch.Tensor.double
    try:
        yield
    finally:
        torch.set_default_dtype(NARROW)
        torch.float32 = torch.float = NARROW
        torch.Tensor.float = to_float


def load(family):
    """The family's model in float32."""
    return transformers.AutoModelForCausalLM.from_pretrained(
        HERE / "families" / family, dtype=NARROW, **make_families.EAGER).eval()


def config_of(family):
    return json.loads((HERE / "families" / family / "config.json").read_text())


def base_model(family, one, narrow):
    model = make_families.build(config_of(family))
    model.load_state_dict({n: v.double() for n, v in narrow.items()})
    for layer in model.model.layers if one else []:
        if hasattr(layer.mlp, "experts"):
            layer.mlp.experts = OneByOne(
                layer.mlp.experts, PARTS.get(family, ("gate_proj", "up_proj", "down_proj")))
    return model


def ours(family, name):
    """Our name of a tensor, from that of a module of the model."""
    name = name.removeprefix("base_model.model.").replace(".default", "")
    for theirs, mine in OURS.get(family, {}).items():
        name = name.replace(f".{theirs}.", f".{mine}.")
    return name.replace(".router.", ".gate.")


def theirs(family, name):
    """The name in files of transformers 4."""
    one = re.search(r"\.experts\.\d", name) or ".gate.lora" in name
    return name.replace(".mlp.", ".block_sparse_moe.") if family == "mixtral" and one else name


def draw(model, rng):
    for name, value in model.named_parameters():
        if "lora_" in name:
            spread = 1 / math.sqrt(value.shape[1]) if "lora_A" in name else 0.3
            drawn = (spread * rng.standard_normal(tuple(value.shape))).astype(np.float32)
            value.data.copy_(torch.from_numpy(drawn))


def adapted(family, options, narrow):
    options = dict(options)
    one = options.pop("one", False)
    model = base_model(family, one, narrow)
    watch = make_families.Watch(model, config_of(family))
    convert = conversion.convert_peft_config_for_transformers
    conversion.convert_peft_config_for_transformers = lambda *_, **__: None
    try:
        config = peft.LoraConfig(r=RANK, lora_alpha=ALPHA, task_type="CAUSAL_LM", **options)
        return peft.get_peft_model(model, config), watch
    finally:
        conversion.convert_peft_config_for_transformers = convert


def train(model, watch, ids):
    """Losses before each AdamW step, the loss after the last, gradients of the first."""
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(
        trained.values(), lr=ADAMW["lr"], betas=(ADAMW["beta1"], ADAMW["beta2"]),
        eps=ADAMW["eps"], weight_decay=0.0, foreach=False)
    losses, gradients, margin = [], {}, float("inf")
    for step in range(STEPS + 1):
        optimizer.zero_grad()
        loss = make_families.loss_of(model(input_ids=ids.long()).logits, ids)[0]
        margin = min(margin, watch.margin())
        losses.append(loss.item())
        loss.backward()
        for p in trained.values():
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad
        gradients = gradients or {n: p.grad.clone() for n, p in trained.items()}
        optimizer.step()
    return losses, gradients, margin


def updates(model, family, experts):
    """Scales of all updated tensors under our names, those of joined experts one by one."""
    found = {}
    for name, module in model.named_modules():
        if not isinstance(module, peft.tuners.lora.LoraLayer):
            continue
        name, scale = ours(family, f"{name}."), module.scaling["default"]
        parts = {"gate_up_proj": ("gate_proj", "up_proj"), "down_proj": ("down_proj",)}.get(
            getattr(module, "parameter_name", "weight"))
        if parts is None:
            found[f"{name}weight"] = scale
        else:
            prefix = name.replace("base_layer.", "")
            found |= {f"{prefix}{e}.{p}.weight": scale for e in range(experts) for p in parts}
    return found


def merged(model, family, config, names):
    """Values of some tensors after merging, under our names."""
    model = model.merge_and_unload()
    if any(isinstance(m, OneByOne) for m in model.modules()):
        tensors = dict(model.named_parameters())
    elif family == "gpt_oss":
        tensors = {}
        for name, value in model.named_parameters():
            if name.endswith("experts.gate_up_proj"):
                for e in range(value.shape[0]):
                    prefix = f"{name.rsplit('.', 1)[0]}.{e}"
                    tensors[f"{prefix}.gate_proj.weight"] = value[e, :, 0::2].T
                    tensors[f"{prefix}.up_proj.weight"] = value[e, :, 1::2].T
            elif name.endswith("experts.down_proj"):
                for e in range(value.shape[0]):
                    tensors[f"{name.rsplit('.', 1)[0]}.{e}.down_proj.weight"] = value[e].T
            else:
                tensors[name] = value
    else:
        tensors = make_families.public(model, config | {"model_type": "qwen3_moe"},
                                       dict(model.named_parameters()))
    tensors = {ours(family, n): v.detach() for n, v in tensors.items()}
    return {n: tensors[n] for n in names}


def shown(names):
    """Some of the adapted tensors: the last of each kind."""
    return sorted({re.sub(r"\d+", "N", name): name for name in names}.values())


def make(family, case, narrow, seed):
    """An adapter and what is computed from it, or nothing if a choice of experts is too close."""
    rng = np.random.default_rng(seed)
    config = config_of(family)
    options = CASES[family][case]
    model, watch = adapted(family, options, narrow)
    draw(model, rng)
    ids = torch.from_numpy(rng.integers(0, config["vocab_size"], (2, LENGTH)).astype(np.int32))
    with torch.no_grad():
        logits = model(input_ids=ids.long()).logits
    if watch.margin() <= make_families.MARGIN:
        return None
    state = {n: v.detach().clone() for n, v in model.state_dict().items()}
    saved = peft.get_peft_model_state_dict(model, state_dict=state, save_embedding_layers=False)
    arrays = {"input_ids": ids.numpy(), "logits": logits[:, -LOGITS:]}
    losses, gradients, margin = train(model, watch, ids)
    if margin <= make_families.MARGIN:
        return None
    arrays["loss"] = np.array(losses[0])
    if family in WITH_GRADIENTS and "target_parameters" not in options:
        arrays |= {"losses": np.array(losses[:STEPS]), "loss_after": np.array(losses[STEPS])}
        gradients = {ours(family, n): g for n, g in gradients.items()}
        arrays["grad"] = np.concatenate([gradients[n].numpy().ravel() for n in sorted(gradients)])
    model.load_state_dict(state)
    count = next(config[k] for k in ("num_local_experts", "num_experts", "n_routed_experts")
                 if k in config)
    found = updates(model, family, count)
    names = sorted(found)
    arrays["scales"] = np.array([found[n] for n in names])
    with torch.no_grad():
        arrays |= {f"merged/{n}": v.clone()
                   for n, v in merged(model, family, config, shown(names)).items()}
    return saved, model.peft_config["default"], arrays, names


def save(folder, family, options, tensors, settings):
    """The adapter as PEFT saves it; single experts under the names of transformers 4."""
    folder.mkdir(exist_ok=True)
    settings.base_model_name_or_path = f"families/{family}"
    settings.inference_mode = True
    settings.save_pretrained(folder)
    file = folder / "adapter_config.json"
    config = json.loads(file.read_text())
    for field in ("target_modules", "target_parameters"):  # sets have no order
        config[field] = sorted(config[field]) if isinstance(config[field], list) else config[field]
    file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    tensors = {theirs(family, n) if options.get("one") else n: v.to(NARROW).contiguous()
               for n, v in tensors.items()}
    safetensors.torch.save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})


def check(folder, family, arrays):
    """How far the folder that PEFT loads into transformers 5 is from the golden logits."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        model = peft.PeftModel.from_pretrained(load(family), folder)
    missing = sum("missing" in str(w.message) for w in said)
    with torch.no_grad():
        logits = model(input_ids=torch.from_numpy(arrays["input_ids"]).long()).logits
    error = (logits[:, -LOGITS:].double() - arrays["logits"]).abs().max().item()
    return error, missing


def store(file, prefix, arrays):
    for key, value in arrays.items():
        value = value.detach().numpy() if isinstance(value, torch.Tensor) else value
        dtype = np.int32 if value.dtype.kind in "iu" else np.float32
        file.create_dataset(f"{prefix}/{key}", data=value.astype(dtype), track_times=False)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="which of the families (default: all)")
    parser.add_argument("--out", type=pathlib.Path, default=HERE / "adapters")
    parser.add_argument("--trl", type=pathlib.Path, help="compare with TRL, which writes here")
    options = parser.parse_args()
    torch.use_deterministic_algorithms(True)
    for family in options.names or CASES:
        narrow = load(family).state_dict()
        folder = options.out / family
        folder.mkdir(parents=True, exist_ok=True)
        with h5py.File(folder / "golden.h5", "w", libver="latest") as file:
            file.attrs.update(ADAMW)
            for case in CASES[family]:
                with wide():
                    made, seed = None, -1
                    while made is None:
                        seed += 1
                        made = make(family, case, narrow, seed)
                tensors, settings, arrays, names = made
                store(file, case, arrays)
                file[case].attrs["names"] = json.dumps(names)
                save(folder / case, family, CASES[family][case], tensors, settings)
                error, missing = check(folder / case, family, arrays)
                print(f"{family}/{case}: seed {seed}, loss {arrays['loss']:.4f}, "
                      f"loads to {error:.1e}" + (", with keys missing" if missing else ""),
                      flush=True)
            if family in WITH_GRADIENTS:
                with wide():
                    arrays = make_conversations.conversations(
                        base_model(family, False, narrow), config_of(family))
                store(file, "sft", arrays)
                off = (make_conversations.check_trl(load(family), arrays, options.trl)
                       if options.trl else float("nan"))
                print(f"{family}/sft: loss {arrays['loss'].item():.6f}, TRL's is off by {off:.1e}")


if __name__ == "__main__":
    main()
