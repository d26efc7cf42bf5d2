#!/usr/bin/env python3
"""Times scoring and generation with a model, next to transformers and llama.cpp.

usage: inference.py --moesaic FILE --model FOLDER -o DIR [--threads N] [--rounds N] [--limit N]
                    [--vocabulary N] [--prompt N] [--torch PYTHON] [--llama FOLDER --gguf FOLDER]
--vocabulary, --prompt: for a checkpoint, which has no config.json, and where max_seq is small.
--torch: a python that has torch and transformers. --llama: the folder of llama.cpp's programs;
--gguf: the same model for it, X.gguf for each format X. Every engine runs once in each round, the
rounds follow each other, and medians are compared. Documents are random tokens:
  score     documents of 512 tokens, 8 at once, the log-probability of each token
  prefill   a prompt of --prompt (2048) tokens, up to the next token
  decode B  B prompts of 64 tokens and 64 more tokens of each; only these are counted
Writes DIR/inference.jsonl (every figure) and DIR/inference.md (the table).
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

import h5py

from score_job import write_shard

HERE = pathlib.Path(__file__).resolve().parent
OURS = {"fp32": ["--run.precision", "fp32"], "bf16": ["--run.precision", "bf16"],
        "int8": ["--run.precision", "bf16", "--run.quantize", "int8"],
        "int4": ["--run.precision", "bf16", "--run.quantize", "int4"]}
WORK = ["score", "prefill", "decode 1", "decode 8", "decode 32"]
BATCHES = (1, 8, 32)


def output_of(options, name, command):
    """What a command prints; None, with its last words, if it fails or takes too long."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False,
                              timeout=options.limit,
                              env={**os.environ, "OMPI_ALLOW_RUN_AS_ROOT": "1",
                                   "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"})
    except subprocess.TimeoutExpired:
        print(f"inference.py: {name} left out: no result in {options.limit} s", file=sys.stderr)
        return None
    if done.returncode != 0:
        said = "\n".join((done.stdout + done.stderr).splitlines()[-3:])
        print(f"inference.py: {name} left out: status {done.returncode}\n{said}", file=sys.stderr)
        return None
    return done.stdout


class Moesaic:
    """Speeds from the traces, without the first batch, which meets cold memory."""

    def __init__(self, options, folder):
        self.options, self.folder = options, folder
        vocabulary = options.vocabulary
        if not vocabulary:
            config = (pathlib.Path(options.model) / "config.json").read_text(encoding="utf-8")
            vocabulary = json.loads(config)["vocab_size"]
        write_shard(folder / "score.h5", vocabulary, 32, 513)
        write_shard(folder / "prefill.h5", vocabulary, 4, options.prompt)
        for batch in BATCHES:
            write_shard(folder / f"decode {batch}.h5", vocabulary, batch, 64)

    def job(self, job, precision, name, *keys):
        trace, output = self.folder / "out.trace.h5", self.folder / "out.h5"
        for left in self.folder.glob("out*"):
            left.unlink()
        done = output_of(self.options, f"moesaic {precision}, {name}",
                         [self.options.moesaic, job, "--model.path", self.options.model,
                          "--data.corpus", str(self.folder / f"{name}.h5"), f"--{job}.output",
                          str(output), "--trace.path", str(trace), "--run.threads",
                          str(self.options.threads), *OURS[precision], *keys])
        if done is None:
            return None
        with h5py.File(trace) as file:
            return file["tokens"][1:], file["seconds"][1:]

    def run(self):
        for precision in OURS:
            rows = {"score": self.job("score", precision, "score", "--score.batch", "8"),
                    "prefill": self.job("generate", precision, "prefill", "--generate.batch", "1",
                                        "--generate.max_tokens", "1")}
            for batch in BATCHES:
                rows[f"decode {batch}"] = self.job(
                    "generate", precision, f"decode {batch}", "--generate.batch", str(batch),
                    "--generate.max_tokens", "65")
            for work, row in rows.items():
                if row is not None:
                    yield "moesaic", precision, work, row[0].sum() / row[1].sum()


class Transformers:
    def __init__(self, options):
        self.options = options

    def run(self):
        for experts in ("grouped_mm", "eager"):
            said = output_of(self.options, f"transformers {experts}",
                             [self.options.torch, str(HERE / "transformers_infer.py"),
                              self.options.model, "--threads", str(self.options.threads),
                              "--experts", experts, "--prompt", str(self.options.prompt)])
            for line in (said or "").splitlines():
                row = json.loads(line)
                yield "transformers", f"bf16, {experts}", row["work"], row["tokens_per_second"]


class LlamaCpp:
    def __init__(self, options):
        self.options = options
        self.models = sorted(pathlib.Path(options.gguf).glob("*.gguf"))
        if not self.models:
            sys.exit(f"inference.py: no *.gguf in {options.gguf}")

    def lines(self, program, model, *keys):
        threads = str(self.options.threads)
        said = output_of(self.options, f"{program} {model.stem}",
                         [str(pathlib.Path(self.options.llama) / program), "-m", str(model), "-t",
                          threads, "-fa", "on", *keys])
        return [json.loads(line) for line in (said or "").splitlines() if line.startswith("{")]

    def run(self):
        for model in self.models:
            for row in self.lines("llama-bench", model, "-p", str(self.options.prompt), "-n", "0",
                                  "-r", "1", "-o", "jsonl"):
                yield "llama.cpp", model.stem, "prefill", row["avg_ts"]
            for row in self.lines("llama-batched-bench", model, "-c", "8192", "-b", "2048", "-ub",
                                  "512", "-npp", "64", "-ntg", "64", "-npl",
                                  ",".join(map(str, BATCHES)), "--output-format", "jsonl"):
                yield "llama.cpp", model.stem, f"decode {row['pl']}", row["speed_tg"]


def table(rows):
    speeds = {}
    for row in rows:
        speeds.setdefault((row["engine"], row["variant"]), {}).setdefault(row["work"], []).append(
            row["tokens_per_second"])
    yield "| tokens/s (spread) | " + " | ".join(WORK) + " |"
    yield "|---|" + "--:|" * len(WORK)
    for (engine, variant), by_work in speeds.items():
        cells = []
        for work in WORK:
            runs = by_work.get(work)
            cells.append("" if not runs else f"{statistics.median(runs):.0f} "
                         f"({100 * (max(runs) - min(runs)) / max(runs):.0f} %)")
        yield f"| {engine} {variant} | " + " | ".join(cells) + " |"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--moesaic", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("-o", "--out", required=True, type=pathlib.Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--limit", type=int, default=300)
    parser.add_argument("--vocabulary", type=int)
    parser.add_argument("--prompt", type=int, default=2048)
    parser.add_argument("--torch")
    parser.add_argument("--llama")
    parser.add_argument("--gguf")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    rows = []
    with tempfile.TemporaryDirectory() as name, \
            open(options.out / "inference.jsonl", "w", encoding="utf-8") as file:
        engines = [Moesaic(options, pathlib.Path(name))]
        if options.torch:
            engines.append(Transformers(options))
        if options.llama:
            engines.append(LlamaCpp(options))
        for number in range(1, options.rounds + 1):
            print(f"round {number} of {options.rounds}, {options.threads} threads", flush=True)
            for engine in engines:
                for who, variant, work, speed in engine.run():
                    rows.append({"engine": who, "variant": variant, "work": work, "round": number,
                                 "threads": options.threads, "tokens_per_second": float(speed)})
                    file.write(json.dumps(rows[-1]) + "\n")
                    print(f"{who + ' ' + variant:28} {work:10} {speed:9.1f} tokens/s", flush=True)
    text = "\n".join(table(rows)) + "\n"
    (options.out / "inference.md").write_text(text, encoding="utf-8")
    print(text, end="")


if __name__ == "__main__":
    main()
