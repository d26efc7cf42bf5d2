#!/usr/bin/env python3
"""Bits per byte of a model on held-out documents, next to gzip -9 and xz -9 on the same bytes.

usage: compression.py --scores scores.h5 --corpus HELDOUT_FOLDER --text TEXT_FOLDER
"""
import argparse
import math
import shutil
import subprocess
import sys
from pathlib import Path

from needs import need

need("numpy", "h5py")

import h5py  # noqa: E402

from traces import id_list, text_list  # noqa: E402


def read_documents(corpus):
    """Per document of the shards, in order: id, kind (task name), source bytes; and the vocabulary."""
    ids, kinds, sizes, vocab = [], [], [], 0
    shards = sorted(Path(corpus).glob("*.h5"))
    if not shards:
        sys.exit(f"compression.py: no shards (*.h5) in {Path(corpus).resolve()}")
    for shard in shards:
        with h5py.File(shard, "r") as file:
            documents = file["documents"]
            count = len(documents["offsets"]) - 1
            ids += (id_list(documents) if "id" in documents else
                    [f"{shard.name}:{i}" for i in range(count)])
            names = text_list(file.attrs.get("task_names", []))
            tasks = documents["task"][:] if "task" in documents else [0] * count
            kinds += [names[task] if task < len(names) else "none" for task in tasks]
            sizes += [int(size) for size in documents["bytes"][:]]
            vocab = int(file.attrs["vocab_size"])
    return ids, kinds, sizes, vocab


def find_source(text, kind, name, size):
    """The file that a document was made from, or None."""
    for candidate in (text / name, text / kind / name, Path(name), text.parent / name):
        if candidate.is_file() and candidate.stat().st_size == size:
            return candidate
    return None


def compressed_bits(program, data):
    if shutil.which(program) is None:
        return math.nan
    result = subprocess.run([program, "-9", "-c"], input=data, stdout=subprocess.PIPE, check=True)
    return 8 * len(result.stdout)


def model_bits(logprob, vocab):
    """A document's first token has no prediction: it is charged log2 of the vocabulary."""
    return (-logprob.sum() + len(logprob) * math.log(vocab)) / math.log(2)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--scores", required=True)
    parser.add_argument("--corpus", required=True, help="folder of the held-out shards")
    parser.add_argument("--text", required=True, help="folder that the corpus was made from")
    options = parser.parse_args()

    ids, kinds, sizes, vocab = read_documents(options.corpus)
    with h5py.File(options.scores, "r") as file:
        logprob = file["documents/logprob"][:]
        if text_list(file["documents/id"][:]) != ids:
            sys.exit(f"compression.py: {options.scores} does not hold the documents of "
                     f"{options.corpus}: score that corpus again")

    text = Path(options.text)
    sources = [find_source(text, *row) for row in zip(kinds, ids, sizes)]
    if None in sources:
        print(f"No comparison with gzip and xz: the held-out document {ids[sources.index(None)]} "
              f"is not a file of its size below {text.resolve()}")
        return

    groups = {"all": list(range(len(ids)))}
    if len(set(kinds)) > 1:
        groups |= {kind: [row for row in groups["all"] if kinds[row] == kind]
                   for kind in sorted(set(kinds))}
    print(f"Held-out text, bits per byte (smaller is better; {len(ids)} documents)")
    print(f"  {'text':<10} {'bytes':>9} {'moesaic':>8} {'gzip -9':>8} {'xz -9':>8}")
    for group, rows in groups.items():
        data = b"".join(sources[row].read_bytes() for row in rows)
        bits = (model_bits(logprob[rows], vocab), compressed_bits("gzip", data),
                compressed_bits("xz", data))
        print(f"  {group:<10} {len(data):9d} " +
              " ".join(f"{value / max(1, len(data)):8.3f}" for value in bits))
    print("  gzip and xz learn from the held-out text alone; the model has read the training text,")
    print("  and its own size is not counted.")


if __name__ == "__main__":
    main()
