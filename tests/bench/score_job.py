#!/usr/bin/env python3
"""Times the job `moesaic score` on a model with random weights and random tokens.

usage: score_job.py --moesaic FILE [--config configs/model/bench.cfg] [--threads N]
                    [--precision bf16|fp32] [--vocabulary N] [--tokens 16384,131072]
                    [--forward FILE]
Documents of 513 tokens (the last one is only predicted) are scored in batches of 8 x 512, once for
each number of tokens. One line of JSON for each: speed from the trace's second row to its last, and
the peak of memory. --forward: a file whose last line `train_step forward` wrote for the same keys;
its FLOP of a token and oneDNN's rate give the row's.
"""
import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import h5py
import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
LENGTH = 512
WIDTH = LENGTH + 1  # of a document


def write_shard(path, vocabulary, documents, length):
    """Documents of random tokens, the same every time."""
    draw = np.random.default_rng(1)
    with h5py.File(path, "w") as file:
        file.attrs.update({"schema": "moesaic-corpus", "version": 1, "vocab_size": vocabulary})
        file["tokens"] = draw.integers(0, vocabulary, documents * length, dtype="u4")
        file["documents/offsets"] = np.arange(documents + 1, dtype="u8") * length


def run(options, job, *keys):
    command = [options.moesaic, job, "--run.threads", str(options.threads), "--run.precision",
               options.precision, *keys]
    done = subprocess.run(command, capture_output=True, text=True, check=False,
                          env={**os.environ, "OMPI_ALLOW_RUN_AS_ROOT": "1",
                               "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"})
    if done.returncode != 0:
        sys.exit(f"score_job.py: {' '.join(command)} ended with {done.returncode}\n"
                 f"{done.stdout}{done.stderr}")


def make_model(options, folder):
    write_shard(folder / "train.h5", options.vocabulary, 1, WIDTH)
    run(options, "train", "--config", options.config, "--data.corpus", str(folder / "train.h5"),
        "--data.seq_len", str(LENGTH), "--train.steps", "1", "--train.batch", "1",
        "--train.micro_batch", "1", "--model.vocab_size", str(options.vocabulary), "--run.dir",
        str(folder / "model"))
    os.sync()  # nothing is still being written while the job is timed
    return folder / "model" / "checkpoints"


def score(options, folder, model, tokens):
    corpus, output = folder / f"{tokens}.h5", folder / f"scores-{tokens}.h5"
    trace = folder / f"{tokens}.trace.h5"
    write_shard(corpus, options.vocabulary, tokens // LENGTH, WIDTH)
    run(options, "score", "--model.path", str(model), "--data.corpus", str(corpus),
        "--score.output", str(output), "--trace.path", str(trace))
    with h5py.File(trace) as file:
        end, done = file["unix_time"][()], file["tokens"][()]
        peak = int(file["peak_memory"][-1])
    return {"name": f"score, vocabulary {options.vocabulary}, {tokens} tokens", "job": "score", "precision": options.precision,
            "threads": options.threads, "routing": "natural", "tokens": tokens,
            "tokens_per_second": done[1:].sum() / (end[-1] - end[0]), "peak_mib": peak / 2**20}


def compare(row, forward):
    """Adds the FLOP of the model and what that is of oneDNN's rate."""
    rate = row["tokens_per_second"] * forward["flop_per_second"] / forward["tokens_per_second"]
    return {**row, "flop_per_second": rate, "of_onednn": rate / forward["onednn_flop_per_second"]}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--moesaic", required=True)
    parser.add_argument("--config", default=str(ROOT / "configs/model/bench.cfg"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--vocabulary", type=int, default=8192)
    parser.add_argument("--tokens", default="16384,131072")
    parser.add_argument("--forward")
    options = parser.parse_args()
    forward = options.forward and json.loads(
        pathlib.Path(options.forward).read_text(encoding="utf-8").splitlines()[-1])
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        model = make_model(options, folder)
        for tokens in map(int, options.tokens.split(",")):
            row = score(options, folder, model, tokens)
            print(json.dumps(compare(row, forward) if forward else row), flush=True)


if __name__ == "__main__":
    main()
