#!/usr/bin/env python3
"""Times scoring and generation with transformers, in bf16; see inference.py for the work.

usage: transformers_infer.py FOLDER [--threads N] [--experts grouped_mm|eager] [--prompt N]
"""
import argparse
import json
import time

import torch
from transformers import AutoModelForCausalLM


def seconds(work):
    work()
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def score(model, tokens):
    hidden = model.model(tokens, use_cache=False).last_hidden_state
    for row, text in zip(hidden, tokens):  # logits of one document at a time
        log_probs = torch.log_softmax(model.lm_head(row[:-1]).float(), -1)
        log_probs.gather(1, text[1:, None]).sum()


def decode(model, batch, prompt=64, new=64):
    out = model(torch.randint(model.config.vocab_size, (batch, prompt)), use_cache=True,
                logits_to_keep=1)
    begin = time.perf_counter()
    for _ in range(new):
        token = out.logits[:, -1:].argmax(-1)
        out = model(token, past_key_values=out.past_key_values, use_cache=True)
    return batch * new / (time.perf_counter() - begin)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--experts", default="eager")
    parser.add_argument("--prompt", type=int, default=2048)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(
        options.model, dtype=torch.bfloat16, experts_implementation=options.experts).eval()
    vocabulary = model.config.vocab_size
    documents = torch.randint(vocabulary, (8, 513))
    prompt = torch.randint(vocabulary, (1, options.prompt))
    with torch.inference_mode():
        speeds = {
            "score": 8 * 512 / seconds(lambda: score(model, documents)),
            "prefill": options.prompt / seconds(
                lambda: model(prompt, use_cache=False, logits_to_keep=1))}
        for batch in (1, 8, 32):
            speeds[f"decode {batch}"] = decode(model, batch)
    for work, speed in speeds.items():
        print(json.dumps({"work": work, "tokens_per_second": speed}))


if __name__ == "__main__":
    main()
