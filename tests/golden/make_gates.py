"""Writes gates.h5: routers alone, as PyTorch computes them in float64 from parameters that are
rounded to float32: choices, weights, the auxiliary loss and every gradient.

deepseek_v3: the gate of DeepSeek-V3 (technical report, section 2.1.2 and equations 12 to 20): sigmoid
scores, a bias on the choice alone, groups by the sum of their two best, normalised weights times a
scale, and the sequence-wise balance loss.
tasks: a gate of two layers: attention of a query over one key for each expert leaves candidates over,
the weights of the token's task are added, then temperature, softmax and the two best.

T tokens in sequences of equal length, D inputs, E experts, K choices, d width of the query.
"""

import argparse
import pathlib

import h5py
import numpy as np
import torch

MARGIN = 1e-4  # smallest gap between what is taken and what is refused
AUX_LOSS = 0.01


def deepseek_v3(p, x, c):
    """Scores (T, E), choices (T, K), logits of the scores, and the least margin."""
    scores = torch.sigmoid(x @ p["gate.weight"].T)
    with torch.no_grad():
        selection = scores + p["gate.e_score_correction_bias"]
        groups = selection.view(len(x), c["groups"], -1)
        of_group = groups.topk(2, dim=-1)[0].sum(-1)
        ordered = of_group.sort(dim=-1, descending=True)[0]
        margin = (ordered[:, c["top_groups"] - 1] - ordered[:, c["top_groups"]]).min()
        kept = torch.zeros_like(of_group).scatter(1, of_group.topk(c["top_groups"])[1], 1.0)
        inside = kept.repeat_interleave(groups.shape[-1], dim=1) > 0
        selection = selection.masked_fill(~inside, float("-inf"))
    return scores, selection, margin


def tasks(p, x, c):
    query = x @ p["gate.query_proj.weight"].T
    keys = p["gate.weight"]
    logits = query @ keys.T / keys.shape[1] ** 0.5
    ordered, order = logits.detach().sort(dim=-1, descending=True)
    margin = (ordered[:, c["candidates"] - 1] - ordered[:, c["candidates"]]).min()
    candidate = torch.zeros_like(logits).scatter(1, order[:, : c["candidates"]], 1.0) > 0
    table = torch.cat([torch.zeros_like(p["task_weight"][:1]), p["task_weight"]])  # 0: no task
    logits = (logits + table[c["task"]]) / c["temperature"]
    scores = logits.masked_fill(~candidate, float("-inf")).softmax(-1)
    return scores, scores.detach().masked_fill(~candidate, float("-inf")), margin


def route(p, x, c):
    scores, selection, margin = c["gate"](p, x, c)
    ordered, order = selection.sort(dim=-1, descending=True, stable=True)
    k = c["top_k"]
    margin = min(margin, (ordered[:, :k] - ordered[:, 1 : k + 1]).min()).item()
    choice = order[:, :k]
    weight = scores.gather(1, choice)
    weight = weight / (weight.sum(-1, keepdim=True) + 1e-20) * c["scale"]

    shares = scores / scores.sum(-1, keepdim=True)
    aux = 0.0
    experts, length = scores.shape[1], len(x) // c["sequences"]
    for begin in range(0, len(x), length):
        rows = slice(begin, begin + length)
        counts = torch.bincount(choice[rows].flatten(), minlength=experts)
        aux = aux + experts / (k * length) * (counts * shares[rows].mean(0)).sum() / c["sequences"]
    return choice, weight, aux, margin


def case(c, shapes, seed):
    rng = np.random.default_rng(seed)
    drawn = {name: rng.standard_normal(shape) * std for name, (shape, std) in shapes.items()}
    p = {name: torch.from_numpy(value.astype(np.float32)).double() for name, value in drawn.items()}
    x = p.pop("x")
    dweight = p.pop("dweight")
    trained = [x] + [v for name, v in p.items() if not name.endswith("bias")]
    for value in trained:
        value.requires_grad_(True)
    choice, weight, aux, margin = route(p, x, c)
    ((weight * dweight).sum() + AUX_LOSS * aux).backward()
    arrays = {"x": x, "dweight": dweight, "choice": choice, "weight": weight, "aux": aux,
              "grad/x": x.grad} | p
    return arrays | {f"grad/{n}": v.grad for n, v in p.items() if v.grad is not None}, margin


CASES = {
    "deepseek_v3": ({"gate": deepseek_v3, "groups": 8, "top_groups": 3, "top_k": 6, "scale": 2.5,
                     "sequences": 3},
                    {"x": ((48, 40), 1.0), "gate.weight": ((64, 40), 0.15), "dweight": ((48, 6), 1.0),
                     "gate.e_score_correction_bias": ((64,), 0.1)}),
    "tasks": ({"gate": tasks, "candidates": 5, "temperature": 0.7, "top_k": 2, "scale": 1.0,
               "sequences": 2, "task": torch.arange(40) * 7 % 4},
              {"x": ((40, 24), 1.0), "gate.query_proj.weight": ((12, 24), 0.4),
               "gate.weight": ((16, 12), 1.0), "task_weight": ((3, 16), 0.8),
               "dweight": ((40, 2), 1.0)}),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).parent)
    options = parser.parse_args()
    with h5py.File(options.out / "gates.h5", "w") as file:
        for name, (c, shapes) in CASES.items():
            seed = 0
            arrays, margin = case(c, shapes, seed)
            while margin <= MARGIN:
                seed += 1
                arrays, margin = case(c, shapes, seed)
            for key, value in arrays.items():
                value = torch.as_tensor(value).detach().numpy()
                dtype = np.int32 if value.dtype == np.int64 else np.float64
                file.create_dataset(f"{name}/{key}", data=np.atleast_1d(value).astype(dtype),
                                    track_times=False)
            print(f"{name}: seed {seed}, margin {margin:.1e}, aux {float(arrays['aux']):.4f}")


if __name__ == "__main__":
    main()
