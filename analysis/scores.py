#!/usr/bin/env python3
"""One table of all scored documents, one row a document, from files or folders of `moesaic score`.

usage: scores.py PATH... -o scores.csv|.parquet
Refuses documents that are missing or there twice. Parquet needs pandas and pyarrow.
"""
import argparse
import csv
import json
import os
from math import exp, nan
from pathlib import Path

from needs import need

need("numpy", "h5py")

from traces import fail, open_hdf5, text_list  # noqa: E402

COLUMNS = ("file", "id", "tokens", "logprob", "perplexity", "greedy")


def files_of(path):
    """A scores file, or the parts of a folder, all of which must be there."""
    path = Path(path)
    if path.is_file():
        return [path]
    if not path.is_dir():
        fail(66, f"no such file or folder: {path.resolve()}")
    parts = sorted(path.glob("scores-*-of-*.h5"))
    if not parts:
        fail(66, f"no scores-*-of-*.h5 in {path.resolve()}")
    counts = {int(part.stem.split("-of-")[1]) for part in parts}
    if len(counts) > 1:
        fail(65, f"{path.resolve()} holds parts of {len(counts)} different corpora: "
                 f"of {', '.join(map(str, sorted(counts)))}")
    wanted = [path / f"scores-{i:05d}-of-{max(counts):05d}.h5" for i in range(max(counts))]
    lost = [part.name for part in wanted if not part.is_file()]
    if lost:
        fail(65, f"{path.resolve()}: {len(lost)} of {len(wanted)} parts are missing, such as "
                 f"{lost[0]}: run score again, it makes the missing ones")
    return wanted


def manifest_documents(path):
    """The number of documents that a folder's scores.json promises, or None."""
    manifest = Path(path) / "scores.json"
    if not manifest.is_file():
        return None
    return json.loads(manifest.read_text(encoding="utf-8")).get("documents")


def rows_of(file_path):
    with open_hdf5(file_path) as file:
        if "documents/logprob" not in file:
            fail(65, f"{file_path.resolve()} holds no scores: it has no /documents/logprob")
        documents = file["documents"]
        columns = {name: documents[name][:] for name in ("logprob", "tokens", "greedy", "offsets")}
        if "id" in documents:
            ids = text_list(documents["id"][:])
        else:
            ids = [f"{file_path.stem}:{i}" for i in range(len(columns["tokens"]))]
        scored = file["tokens/logprob"].shape[0] if "tokens/logprob" in file else None
    count = len(ids)
    lengths = {name: len(values) for name, values in columns.items()}
    if any(length != count + (name == "offsets") for name, length in lengths.items()):
        fail(65, f"{file_path.resolve()}: {count} ids, but {lengths}: rows are missing")
    if scored is not None and int(columns["tokens"].sum()) != scored:
        fail(65, f"{file_path.resolve()}: documents count {int(columns['tokens'].sum())} tokens, "
                 f"but {scored} are scored: rows are missing")
    rows = []
    for name, logprob, tokens, greedy in zip(ids, columns["logprob"], columns["tokens"],
                                             columns["greedy"]):
        perplexity = exp(min(700.0, -logprob / tokens)) if tokens > 0 else nan
        rows.append((str(file_path), name, int(tokens), float(logprob), perplexity, int(greedy)))
    return rows


def read_rows(paths):
    rows, seen = [], set()
    for path in paths:
        files = files_of(path)
        again = [file for file in files if file.resolve() in seen]
        if again:
            fail(65, f"{again[0].resolve()} is there twice: name each corpus's scores once")
        seen.update(file.resolve() for file in files)
        mine = [row for file in files for row in rows_of(file)]
        promised = manifest_documents(path)
        if isinstance(promised, int) and promised != len(mine):
            fail(65, f"{Path(path).resolve()}: scores.json promises {promised} documents, "
                     f"the parts hold {len(mine)}")
        rows += mine
    return rows


def write(rows, path):
    partial = path.with_name(path.name + ".partial")
    if path.suffix == ".csv":
        with open(partial, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(COLUMNS)
            writer.writerows(rows)
    else:
        try:
            import pandas
            pandas.DataFrame(rows, columns=COLUMNS).to_parquet(partial)
        except ImportError as error:
            reason = str(error).split("\n", maxsplit=1)[0]
            fail(69, f"{path.name} needs pandas and pyarrow: install them, or write .csv ({reason})")
    os.replace(partial, path)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="+", metavar="PATH")
    parser.add_argument("-o", dest="table", required=True, type=Path,
                        metavar="scores.csv|.parquet")
    options = parser.parse_args()
    if options.table.suffix not in (".csv", ".parquet"):
        fail(64, f"-o {options.table}: name a .csv or a .parquet file")
    rows = read_rows(options.paths)
    write(rows, options.table)
    print(f"{options.table}: {len(rows)} documents")


if __name__ == "__main__":
    main()
