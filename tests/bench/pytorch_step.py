#!/usr/bin/env python3
"""A training step of the benchmark's model in PyTorch, as fast as PyTorch alone makes it on a CPU.

usage: pytorch_step.py [--threads N] [--steps N] [--variants fp32,fp32-grouped,...]
The model of configs/model/bench.cfg: RMSNorm, causal attention with RoPE, 16 routed SwiGLU experts
(top-2, softmax) beside two shared ones, AdamW, gradients clipped to 1; 4 x 512 random tokens.
"grouped" computes all experts in one grouped product, else one after the other; "compiled" goes
through torch.compile; bf16 is autocast. One line of JSON for each variant, with the median step.
"""
import argparse
import json
import resource
import statistics
import subprocess
import sys
import time

import torch
from torch import nn
from torch.nn import functional as F

WIDTH, LAYERS, HEADS, EXPERTS, SHARED, TOP_K, HIDDEN, VOCABULARY = 512, 8, 8, 16, 2, 2, 512, 8192
BATCH, LENGTH = 4, 512
VARIANTS = ("fp32", "fp32-grouped", "bf16", "bf16-grouped", "bf16-compiled", "bf16-grouped-compiled")


def rotate(x, angle):
    first, second = x.chunk(2, dim=-1)
    cos, sin = angle.cos(), angle.sin()
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.output = nn.Linear(WIDTH, WIDTH, bias=False)

    def forward(self, x, angle):
        batch, length, _ = x.shape
        q, k, v = self.qkv(x).view(batch, length, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        q, k = (rotate(part, angle).to(v.dtype) for part in (q, k))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.output(y.transpose(1, 2).reshape(x.shape))


def grouped_product(x, weight, ends):
    product = getattr(F, "grouped_mm", None) or torch._grouped_mm
    return product(x, weight, offs=ends)


class Experts(nn.Module):
    def __init__(self, grouped):
        super().__init__()
        self.grouped = grouped
        self.gate_up = nn.Parameter(torch.randn(EXPERTS, WIDTH, 2 * HIDDEN) / WIDTH**0.5)
        self.down = nn.Parameter(torch.randn(EXPERTS, HIDDEN, WIDTH) / HIDDEN**0.5)

    def forward(self, rows, counts):
        if self.grouped:
            ends = counts.cumsum(0).to(torch.int32)
            dtype = torch.bfloat16 if torch.is_autocast_enabled("cpu") else rows.dtype
            gate, up = grouped_product(rows.to(dtype), self.gate_up.to(dtype), ends).chunk(2, -1)
            return grouped_product(F.silu(gate) * up, self.down.to(dtype), ends)
        answers = []
        for expert, part in enumerate(rows.split(counts.tolist())):
            gate, up = (part @ self.gate_up[expert]).chunk(2, -1)
            answers.append((F.silu(gate) * up) @ self.down[expert])
        return torch.cat(answers)


class MixtureOfExperts(nn.Module):
    def __init__(self, grouped):
        super().__init__()
        self.router = nn.Linear(WIDTH, EXPERTS, bias=False)
        self.experts = Experts(grouped)
        self.shared_gate_up = nn.Linear(WIDTH, 2 * SHARED * HIDDEN, bias=False)
        self.shared_down = nn.Linear(SHARED * HIDDEN, WIDTH, bias=False)

    def forward(self, x):
        tokens = x.reshape(-1, WIDTH)
        weight, choice = self.router(tokens).float().softmax(-1).topk(TOP_K, dim=-1)
        weight = weight / weight.sum(-1, keepdim=True)
        order = choice.flatten().argsort(stable=True)
        answers = self.experts(tokens[order // TOP_K],
                               choice.flatten().bincount(minlength=EXPERTS))
        gate, up = self.shared_gate_up(tokens).chunk(2, -1)
        y = self.shared_down(F.silu(gate) * up)
        answers = (answers * weight.flatten()[order, None]).to(y.dtype)
        return y.index_add(0, order // TOP_K, answers).view(x.shape)


class Block(nn.Module):
    def __init__(self, grouped):
        super().__init__()
        self.norms = nn.ModuleList(nn.RMSNorm(WIDTH, eps=1e-5) for _ in range(2))
        self.attention, self.experts = Attention(), MixtureOfExperts(grouped)

    def forward(self, x, angle):
        x = x + self.attention(self.norms[0](x), angle)
        return x + self.experts(self.norms[1](x))


class Model(nn.Module):
    def __init__(self, grouped):
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.blocks = nn.ModuleList(Block(grouped) for _ in range(LAYERS))
        self.norm = nn.RMSNorm(WIDTH, eps=1e-5)
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        half = WIDTH // HEADS // 2
        rate = 1e4 ** (-torch.arange(half) / half)
        self.register_buffer("angle", torch.outer(torch.arange(LENGTH).float(), rate))

    def forward(self, token):
        x = self.embedding(token)
        for block in self.blocks:
            x = block(x, self.angle)
        return self.head(self.norm(x))


def step_seconds(variant, steps):
    torch.manual_seed(0)
    model = Model("grouped" in variant)
    call = torch.compile(model) if "compiled" in variant else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, fused=True)
    text = torch.randint(0, VOCABULARY, (BATCH, LENGTH + 1))
    seconds, loss = [], None
    for _ in range(steps):
        begin = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=variant.startswith("bf16")):
            logits = call(text[:, :-1]).float().flatten(0, 1)
            loss = F.cross_entropy(logits, text[:, 1:].flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds[1:]), loss.item()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--variants", default=",".join(VARIANTS))
    arguments = parser.parse_args()
    variants = arguments.variants.split(",")
    if len(variants) > 1:  # a process for each, so that each has a peak of its own
        for variant in variants:
            subprocess.run([sys.executable, __file__, "--threads", str(arguments.threads),
                            "--steps", str(arguments.steps), "--variants", variant], check=False)
        return
    variant = variants[0]
    torch.set_num_threads(arguments.threads)
    try:
        seconds, loss = step_seconds(variant, arguments.steps)
    except Exception as error:  # a variant that this PyTorch or machine cannot run
        print(f"{variant}: {str(error).splitlines()[0]}", file=sys.stderr)
        return
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"job": "pytorch", "variant": variant, "precision": variant.split("-")[0],
                      "threads": arguments.threads, "version": torch.__version__,
                      "seconds": seconds, "tokens_per_second": BATCH * LENGTH / seconds,
                      "last_loss": loss, "peak_mib": peak}))


if __name__ == "__main__":
    main()
