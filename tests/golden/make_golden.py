"""Writes the .h5 files of this folder: small models whose logits, losses, gradients and AdamW curves
the engine must reproduce. PyTorch on the CPU in float64, written as float32; the parameters are
rounded to float32 first, so that both sides compute with the same numbers.

Dims: B rows, T positions, N = B T tokens, D model, H heads, E experts, K choices, V vocabulary.
"""

import argparse
import pathlib

import h5py
import numpy as np
import torch
import torch.nn.functional as F

MARGIN = 1e-4  # smallest gap between a taken and a refused score, at every step of the AdamW curve
STEPS = 10
ADAMW = {"lr": 1e-3, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.1, "clip": 1.0}

DEFAULTS = {
    "model.rope_theta": 10000.0, "model.norm_eps": 1e-5, "model.tie_embeddings": 0,
    "model.dense_layers": 0, "router.normalize": 1, "router.scale": 1.0, "router.aux_loss": 0.0,
    "router.z_loss": 0.0, "router.capacity": 0,
}

# How the numbers of a case are drawn. weights, gate: deviation of the matrices and of the router's,
# times sqrt(inputs). margin: as MARGIN, at the first step. documents: for each row the lengths of its
# documents; the last one goes on past the row's end.
DRAWN = {"weights": 1.2, "gate": 1.5, "margin": MARGIN, "documents": []}
CASES = {
    "softmax": {
        "model.layers": 2, "model.d_model": 32, "model.heads": 4, "model.kv_heads": 2,
        "model.head_dim": 8, "model.d_ff": 64, "model.vocab_size": 61, "model.experts": 5,
        "model.shared_experts": 1, "model.top_k": 2, "model.expert_d_ff": 12,
        "router.score": "softmax", "router.balance": "aux_loss", "router.aux_loss": 0.02,
        "router.z_loss": 0.003, "documents": [[19], [5, 1, 9, 4], [12, 7]],
    },
    "sigmoid_bias": {
        "model.layers": 3, "model.d_model": 24, "model.heads": 3, "model.kv_heads": 1,
        "model.head_dim": 10, "model.d_ff": 40, "model.vocab_size": 53, "model.experts": 6,
        "model.shared_experts": 2, "model.top_k": 3, "model.expert_d_ff": 9,
        "model.rope_theta": 500.0, "model.norm_eps": 1e-6, "model.tie_embeddings": 1,
        "model.dense_layers": 1, "router.score": "sigmoid", "router.scale": 2.5,
        "router.balance": "bias", "router.aux_loss": 0.001, "documents": [[3, 10], [13]],
    },
    "capacity": {
        "model.layers": 2, "model.d_model": 16, "model.heads": 2, "model.kv_heads": 2,
        "model.head_dim": 8, "model.d_ff": 32, "model.vocab_size": 67, "model.experts": 4,
        "model.shared_experts": 0, "model.top_k": 2, "model.expert_d_ff": 10,
        "router.score": "softmax", "router.normalize": 0, "router.balance": "aux_loss",
        "router.aux_loss": 0.05, "router.z_loss": 0.01, "router.capacity": 13,
        "documents": [[17], [2, 8, 7]],
    },
}
# bf16 moves a score by about 1e-3, and large weights multiply what each rounding loses.
FOR_BF16 = {"weights": 0.8, "gate": 3.0, "margin": 1e-2, "documents": [[7, 5], [12]]}
CASES["softmax_bf16"] = CASES["softmax"] | FOR_BF16
CASES["sigmoid_bias_bf16"] = CASES["sigmoid_bias"] | FOR_BF16


def shapes(c):
    """Public name -> shape of every parameter, the router's bias included."""
    d, v, hd = c["model.d_model"], c["model.vocab_size"], c["model.head_dim"]
    e, f = c["model.experts"], c["model.expert_d_ff"]

    def swiglu(prefix, width):
        return {f"{prefix}.gate_proj.weight": (width, d), f"{prefix}.up_proj.weight": (width, d),
                f"{prefix}.down_proj.weight": (d, width)}

    out = {"model.embed_tokens.weight": (v, d)}
    for layer in range(c["model.layers"]):
        p = f"model.layers.{layer}"
        out[f"{p}.input_layernorm.weight"] = (d,)
        out[f"{p}.self_attn.q_proj.weight"] = (c["model.heads"] * hd, d)
        out[f"{p}.self_attn.k_proj.weight"] = (c["model.kv_heads"] * hd, d)
        out[f"{p}.self_attn.v_proj.weight"] = (c["model.kv_heads"] * hd, d)
        out[f"{p}.self_attn.o_proj.weight"] = (d, c["model.heads"] * hd)
        out[f"{p}.post_attention_layernorm.weight"] = (d,)
        if layer < c["model.dense_layers"]:
            out |= swiglu(f"{p}.mlp", c["model.d_ff"])
            continue
        out[f"{p}.mlp.gate.weight"] = (e, d)
        if c["router.balance"] == "bias":
            out[f"{p}.mlp.gate.e_score_correction_bias"] = (e,)
        for expert in range(e):
            out |= swiglu(f"{p}.mlp.experts.{expert}", f)
        if c["model.shared_experts"] > 0:
            out |= swiglu(f"{p}.mlp.shared_experts", c["model.shared_experts"] * f)
    out["model.norm.weight"] = (d,)
    if not c["model.tie_embeddings"]:
        out["lm_head.weight"] = (v, d)
    return out


def make_parameters(c, rng):
    """Large enough weights that no score is near another, no softmax is flat, no gradient is 0."""
    out = {}
    for name, shape in shapes(c).items():
        value = rng.standard_normal(shape)
        if name.endswith("e_score_correction_bias"):
            value *= 0.2
        elif len(shape) == 1:
            value = 1 + 0.2 * value
        elif name.endswith("embed_tokens.weight"):
            value *= 0.5
        elif name.endswith("mlp.gate.weight"):
            value *= c["gate"] / shape[1] ** 0.5
        else:
            value *= c["weights"] / shape[1] ** 0.5
        rounded = torch.from_numpy(value.astype(np.float32)).double()
        out[name] = rounded.requires_grad_(not name.endswith("bias"))
    return out


def make_batch(c, rng):
    """Input ids, begin of each token's document, and targets (-1: not counted), each (B, T)."""
    rows = c["documents"]
    width = sum(rows[0])
    tokens = rng.integers(0, c["model.vocab_size"], (len(rows), width + 1))
    begin = np.empty((len(rows), width + 1), np.int64)
    for row, lengths in enumerate(rows):
        assert sum(lengths) == width
        starts = np.cumsum([0] + lengths[:-1])
        begin[row, :width] = np.repeat(starts, lengths)
        begin[row, width] = starts[-1]
    first = begin[:, 1:] == np.arange(1, width + 1)
    targets = np.where(first, -1, tokens[:, 1:])
    return torch.from_numpy(tokens[:, :-1]), torch.from_numpy(begin[:, :-1]), torch.from_numpy(targets)


def rms_norm(x, weight, eps):
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + eps) * weight


def swiglu(x, p, prefix):
    hidden = F.silu(x @ p[f"{prefix}.gate_proj.weight"].T) * (x @ p[f"{prefix}.up_proj.weight"].T)
    return hidden @ p[f"{prefix}.down_proj.weight"].T


def rope(x, position, theta):
    """x (B, T, H, d): turns the pair (i, i + d/2) by position * theta^(-2i/d)."""
    d = x.shape[-1]
    frequency = theta ** (-2.0 * torch.arange(d // 2, dtype=x.dtype) / d)
    angle = (position.to(x.dtype)[..., None] * frequency)[:, :, None, :]
    a, b = x[..., : d // 2], x[..., d // 2:]
    return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], -1)


def attention(x, begin, p, prefix, c):
    rows, width, _ = x.shape
    hd, group = c["model.head_dim"], c["model.heads"] // c["model.kv_heads"]
    at = torch.arange(width)
    q, k, v = ((x @ p[f"{prefix}.{n}_proj.weight"].T).view(rows, width, -1, hd) for n in "qkv")
    q = rope(q, at - begin, c["model.rope_theta"])
    k = rope(k, at - begin, c["model.rope_theta"]).repeat_interleave(group, dim=2)
    v = v.repeat_interleave(group, dim=2)
    scores = torch.einsum("bqhd,bkhd->bhqk", q, k) / hd ** 0.5
    visible = (at[None, None, :] <= at[None, :, None]) & (at[None, None, :] >= begin[:, :, None])
    weights = scores.masked_fill(~visible[:, None], float("-inf")).softmax(-1)
    mixed = torch.einsum("bhqk,bkhd->bqhd", weights, v).reshape(rows, width, -1)
    return mixed @ p[f"{prefix}.o_proj.weight"].T


def keep_within_capacity(chosen, weight, experts, capacity):
    """Which choices (N, K) get a slot: per expert the highest weights, ties to the lower token.
    Also the smallest gap between a kept and a dropped weight."""
    keep = torch.ones_like(chosen, dtype=torch.bool)
    gap = float("inf")
    for expert in range(experts) if capacity > 0 else ():
        places = (chosen == expert).nonzero().tolist()  # ordered by token
        places.sort(key=lambda place: -weight[place[0], place[1]].item())
        for token, choice in places[capacity:]:
            keep[token, choice] = False
        if len(places) > capacity:
            last, first = places[capacity - 1], places[capacity]
            gap = min(gap, (weight[last[0], last[1]] - weight[first[0], first[1]]).item())
    return keep, gap


def moe(x, p, prefix, c, report):
    """x (N, D); adds this layer's losses, counts and routing margin to the report."""
    tokens, experts, k = x.shape[0], c["model.experts"], c["model.top_k"]
    with torch.autocast("cpu", enabled=False):  # fp32 in every precision
        logits = x @ p[f"{prefix}.gate.weight"].T
    if c["router.score"] == "softmax":
        scores = logits.softmax(-1)
        shares = scores
    else:
        scores = logits.sigmoid()
        shares = scores / scores.sum(-1, keepdim=True)
    selection = scores.detach()
    if c["router.balance"] == "bias":
        selection = selection + p[f"{prefix}.gate.e_score_correction_bias"]
    ordered, order = selection.sort(dim=-1, descending=True, stable=True)
    chosen = order[:, :k]
    weight = scores.gather(1, chosen)
    if c["router.normalize"]:
        weight = weight / (weight.sum(-1, keepdim=True) + 1e-20)
    weight = weight * c["router.scale"]
    keep, gap = keep_within_capacity(chosen, weight, experts, c["router.capacity"])

    out = torch.zeros_like(x)
    for expert in range(experts):
        token, choice = ((chosen == expert) & keep).nonzero(as_tuple=True)
        y = swiglu(x[token], p, f"{prefix}.experts.{expert}") * weight[token, choice][:, None]
        out = out.index_add(0, token, y.to(out.dtype))
    if c["model.shared_experts"] > 0:
        out = out + swiglu(x, p, f"{prefix}.shared_experts")

    count = torch.bincount(chosen.flatten(), minlength=experts)
    report["aux_loss"].append(experts / (k * tokens) * (count * shares.mean(0)).sum())
    report["z_loss"].append((logits.logsumexp(-1) ** 2).mean())
    report["expert_tokens"].append(count)
    report["expert_dropped"].append(torch.bincount(chosen[~keep], minlength=experts))
    report["margin"] = min(report["margin"], gap, (ordered[:, k - 1] - ordered[:, k]).min().item())
    return out


def forward(p, batch, c):
    """The logits (B, T, V) and a report: losses (total, lm, each layer), counts, least margin."""
    ids, begin, targets = batch
    report = {"aux_loss": [], "z_loss": [], "expert_tokens": [], "expert_dropped": [],
              "margin": float("inf")}
    x = p["model.embed_tokens.weight"][ids]
    eps = c["model.norm_eps"]
    for layer in range(c["model.layers"]):
        prefix = f"model.layers.{layer}"
        normed = rms_norm(x, p[f"{prefix}.input_layernorm.weight"], eps)
        x = x + attention(normed, begin, p, f"{prefix}.self_attn", c)
        normed = rms_norm(x, p[f"{prefix}.post_attention_layernorm.weight"], eps)
        if layer < c["model.dense_layers"]:
            x = x + swiglu(normed, p, f"{prefix}.mlp")
        else:
            x = x + moe(normed.flatten(0, 1), p, f"{prefix}.mlp", c, report).view_as(x)
    head = "model.embed_tokens.weight" if c["model.tie_embeddings"] else "lm_head.weight"
    logits = rms_norm(x, p["model.norm.weight"], eps) @ p[head].T

    counted = targets >= 0
    report["lm_loss"] = F.cross_entropy(logits[counted], targets[counted])
    report["aux_loss"] = torch.stack(report["aux_loss"])
    report["z_loss"] = torch.stack(report["z_loss"])
    report["loss"] = (report["lm_loss"] + c["router.aux_loss"] * report["aux_loss"].sum()
                      + c["router.z_loss"] * report["z_loss"].sum())
    return logits, report


def adamw_curve(parameters, batch, c):
    """Losses and gradient norms before each step, and the least margin on the way. The bias of the
    router is held fixed. Gradients are scaled by min(1, clip / norm)."""
    p = {name: value.detach().clone().requires_grad_(value.requires_grad)
         for name, value in parameters.items()}
    trained = [value for value in p.values() if value.requires_grad]
    groups = [{"params": [v for v in trained if v.dim() >= 2],
               "weight_decay": ADAMW["weight_decay"]},
              {"params": [v for v in trained if v.dim() < 2], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=ADAMW["lr"], betas=(ADAMW["beta1"], ADAMW["beta2"]),
                                  eps=ADAMW["eps"])
    losses, norms, margin = [], [], float("inf")
    for _ in range(STEPS):
        optimizer.zero_grad()
        _, report = forward(p, batch, c)
        report["loss"].backward()
        norm = torch.sqrt(sum((v.grad ** 2).sum() for v in trained)).item()
        for v in trained:
            v.grad *= min(1.0, ADAMW["clip"] / norm)
        optimizer.step()
        losses.append(report["loss"].item())
        norms.append(norm)
        margin = min(margin, report["margin"])
    return losses, norms, margin


def make_case(c):
    """The first seed whose routing margins are large enough, with all that it gives."""
    for seed in range(100000):
        rng = np.random.default_rng(seed)
        p, batch = make_parameters(c, rng), make_batch(c, rng)
        with torch.no_grad():
            first_margin = forward(p, batch, c)[1]["margin"]
        if first_margin <= c["margin"]:
            continue
        losses, norms, margin = adamw_curve(p, batch, c)
        if margin > MARGIN:
            logits, report = forward(p, batch, c)
            report["loss"].backward()
            return seed, p, batch, logits, report, losses, norms, margin
    raise SystemExit("no seed gives the routing margin")


def distance(values, expected):
    """|a - b| / |b| over lists of tensors."""
    a, b = (torch.cat([v.detach().double().flatten() for v in side]) for side in (values, expected))
    return ((a - b).norm() / b.norm()).item()


def autocast_error(p, batch, c, logits, report):
    """How far PyTorch's own bf16 (autocast) is from the truth: loss, logits, whole gradient, worst
    gradient. A yardstick for the engine's bf16."""
    q = {name: v.detach().float().requires_grad_(v.requires_grad) for name, v in p.items()}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits16, report16 = forward(q, batch, c)
    report16["loss"].backward()
    trained = [name for name, v in p.items() if v.requires_grad]
    each = [distance([q[name].grad], [p[name].grad]) for name in trained]
    return (distance([report16["loss"]], [report["loss"]]), distance([logits16], [logits]),
            distance([q[n].grad for n in trained], [p[n].grad for n in trained]), max(each))


def write_case(path, c):
    seed, p, (ids, begin, targets), logits, report, losses, norms, margin = make_case(c)
    with h5py.File(path, "w", track_order=False) as file:
        def put(name, value, dtype):
            value = value.detach().numpy() if torch.is_tensor(value) else np.asarray(value)
            file.create_dataset(name, data=value.astype(dtype), track_times=False)

        for key, value in sorted(c.items()):
            if key not in DRAWN:
                file.attrs[key] = value
        put("input_ids", ids, np.int32)
        put("document_begin", begin, np.int64)
        put("targets", targets, np.int32)
        put("logits", logits, np.float32)
        for name in ("loss", "lm_loss", "aux_loss", "z_loss"):
            put(name, report[name], np.float32)
        for name in ("expert_tokens", "expert_dropped"):
            put(name, torch.stack(report[name]), np.int32)
        for name, value in p.items():
            put(f"parameters/{name}", value, np.float32)
            if value.requires_grad:
                put(f"grad/{name}", value.grad, np.float32)
        put("adamw/losses", losses, np.float32)
        put("adamw/grad_norms", norms, np.float32)
        for key, value in ADAMW.items():
            file["adamw"].attrs[key] = value
    dropped = torch.stack(report["expert_dropped"]).sum().item()
    print(f"{path.name}: {path.stat().st_size} bytes, seed {seed}, margin {margin:.1e}, "
          f"dropped {dropped}, loss {losses[0]:.4f} -> {losses[-1]:.4f}, "
          f"norm {norms[0]:.3f} -> {norms[-1]:.3f}")
    print("  bf16 autocast: loss {:.2%}, logits {:.2%}, gradient {:.2%}, worst gradient {:.2%}".format(
        *autocast_error(p, (ids, begin, targets), c, logits, report)))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).parent)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for name, case in CASES.items():
        write_case(arguments.out / f"{name}.h5", DEFAULTS | DRAWN | case)


if __name__ == "__main__":
    main()
