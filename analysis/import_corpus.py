#!/usr/bin/env python3
"""Makes of other programs' data what moesaic reads: token ids become a corpus, as `moesaic tokenize`
would write it, text becomes the JSONL files that `moesaic tokenize` takes.

usage: import_corpus.py INPUT... -o DIR [options]
INPUT: .parquet, .arrow (with pyarrow), Megatron's .bin with its .idx, .npy of one dimension; or a
folder of such files. Columns of tables: `text`, or lists of token ids (`input_ids`, `tokens`).
DIR is new, and is there when it is complete. Memory does not grow with the input.
"""
import argparse
import json
import os
import shutil
import sys
from pathlib import Path

from needs import need

need("numpy", "h5py")

import numpy as np  # noqa: E402

from corpus import CorpusError, CorpusWriter, Vocabulary  # noqa: E402

BLOCK = 1 << 20  # tokens that are read at once
ROWS = 1024      # rows of a table that are read at once
SUFFIXES = (".parquet", ".arrow", ".bin", ".npy")
TOKEN_COLUMNS = ("input_ids", "tokens")
# Megatron's codes of types (megatron/core/datasets/indexed_dataset.py)
TYPES = {1: "<u1", 2: "<i1", 3: "<i2", 4: "<i4", 5: "<i8", 6: "<f8", 7: "<f4", 8: "<u2"}


def files_below(folder, seen):
    """Also those of linked folders, each once."""
    if folder.resolve() in seen:
        return
    seen.add(folder.resolve())
    for path in folder.iterdir():
        if path.is_dir():
            yield from files_below(path, seen)
        elif path.suffix in SUFFIXES:
            yield path


def inputs_of(paths):
    """The files to read, in order; those of a folder by name."""
    files = []
    for path in map(Path, paths):
        if path.suffix == ".idx" or (not path.exists() and Path(f"{path}.bin").exists()):
            path = Path(f"{path.with_suffix('') if path.suffix == '.idx' else path}.bin")
        if path.is_dir():
            below = sorted(files_below(path, set()))
            if not below:
                raise CorpusError(66, f"{path.resolve()} has no file that ends in {', '.join(SUFFIXES)}")
            files += below
        elif not path.exists():
            raise CorpusError(66, f"no such file: {path.resolve()}")
        elif path.suffix not in SUFFIXES:
            raise CorpusError(65, f"{path.resolve()}: its name does not end in {', '.join(SUFFIXES)} "
                                  "(text files and JSONL need no import: name them to tokenize.input)")
        else:
            files.append(path)
    return files


# ---- token ids: each reader yields (name of the document, its tokens in pieces)

def pieces(tokens, begin, end):
    return (tokens[at:min(at + BLOCK, end)] for at in range(begin, end, BLOCK))


def megatron_index(path):
    """Lengths and places (bytes) of the sequences, first sequence of each document, type of tokens."""
    name = path.with_suffix(".idx")
    if not name.exists():
        raise CorpusError(66, f"{path.resolve()}: there is no {name.name} beside it. If it is bare "
                              "numbers, save them with numpy.save and import the .npy")
    with open(name, "rb") as file:
        head = file.read(34)
    if len(head) < 34 or head[:9] != b"MMIDIDX\x00\x00":
        raise CorpusError(65, f"{name.resolve()} is no index of Megatron: it does not begin with MMIDIDX")
    version, code = int.from_bytes(head[9:17], "little"), head[17]
    sequences, ends = (int.from_bytes(head[at:at + 8], "little") for at in (18, 26))
    if version != 1 or code not in TYPES:
        raise CorpusError(65, f"{name.resolve()} has version {version} and type {code}; known are "
                              f"version 1 and types 1 to {max(TYPES)}")
    if name.stat().st_size < 34 + 12 * sequences + 8 * ends:
        raise CorpusError(65, f"{name.resolve()} is truncated: {sequences} sequences need more than its "
                              f"{name.stat().st_size} bytes")

    def array(kind, at, count):
        return np.memmap(name, kind, "r", at, (count,)) if count else np.zeros(0, kind)

    return (array("<i4", 34, sequences), array("<i8", 34 + 4 * sequences, sequences),
            array("<i8", 34 + 12 * sequences, ends), np.dtype(TYPES[code]))


def read_megatron(path, _):
    lengths, places, firsts, kind = megatron_index(path)
    size = path.stat().st_size
    if len(firsts) == 0 or firsts[0] != 0 or firsts[-1] != len(lengths):
        raise CorpusError(65, f"{path.with_suffix('.idx').resolve()}: its documents do not cover its "
                              f"{len(lengths)} sequences")
    tokens = np.memmap(path, "u1", "r") if size else np.zeros(0, "u1")

    def sequence_pieces(first, last, where):
        for number in range(first, last):
            at, length = int(places[number]), int(lengths[number])
            if length < 0 or at < 0 or at + length * kind.itemsize > size:
                raise CorpusError(65, f"{where}: sequence {number} is not within the {size} bytes of "
                                      f"{path.name}, which is truncated or of another index")
            for begin in range(0, length, BLOCK):
                end = min(begin + BLOCK, length)
                yield tokens[at + begin * kind.itemsize:at + end * kind.itemsize].view(kind)

    for document in range(len(firsts) - 1):
        first, last = int(firsts[document]), int(firsts[document + 1])
        if not first <= last <= len(lengths):
            raise CorpusError(65, f"{path.with_suffix('.idx').resolve()}: document {document} is of "
                                  f"sequences {first} to {last} of {len(lengths)}")
        name = f"{path.name}:{document}"
        yield name, sequence_pieces(first, last, name)


def read_npy(path, options):
    try:
        tokens = np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError as error:
        raise CorpusError(65, f"{path.resolve()} is no sound .npy file: {error}") from error
    if tokens.ndim != 1 or tokens.dtype.kind not in "ui":
        raise CorpusError(65, f"{path.resolve()} has shape {tokens.shape} and type {tokens.dtype}: one "
                              "dimension of integers is needed")
    if options.document_length:
        ends = range(options.document_length, len(tokens) + options.document_length,
                     options.document_length)
    elif options.eos >= 0:
        ends = ends_of(tokens, options.eos)
    else:
        raise CorpusError(64, f"{path.name} does not say where documents end: give --eos ID, the token "
                              "that ends them, or --document-length N")
    begin = 0
    for number, end in enumerate(ends):
        yield f"{path.name}:{number}", pieces(tokens, begin, min(end, len(tokens)))
        begin = end


def ends_of(tokens, eos):
    """Where documents end that eos closes; the last may lack it."""
    end = 0
    for begin in range(0, len(tokens), BLOCK):
        for at in np.flatnonzero(tokens[begin:begin + BLOCK] == eos):
            end = begin + int(at) + 1
            yield end
    if end < len(tokens):
        yield len(tokens)


# ---- tables

def pyarrow():
    need("pyarrow")
    import pyarrow.parquet  # pylint: disable=import-outside-toplevel
    return pyarrow


def batches_of(path, columns=None):
    """The names of a table's columns, and a function that makes an iterator of its rows in batches."""
    arrow = pyarrow()
    try:
        if path.suffix == ".parquet":
            file = arrow.parquet.ParquetFile(path)
            return file.schema_arrow, lambda names: file.iter_batches(ROWS, columns=names)
        source = arrow.memory_map(str(path))
        try:
            table = arrow.ipc.open_file(source)
            every = (table.get_batch(i) for i in range(table.num_record_batches))
        except arrow.ArrowInvalid:
            source.seek(0)
            every = table = arrow.ipc.open_stream(source)
    except (arrow.ArrowInvalid, OSError) as error:
        raise CorpusError(65, f"{path.resolve()} is no sound {path.suffix[1:]} file: {error}") from error
    return table.schema, lambda names: (
        batch.select(names).slice(at, ROWS) for batch in every
        for at in range(0, batch.num_rows, ROWS))


def column_of(path, schema, options):
    """The column to import, and whether it is text."""
    arrow = pyarrow()
    wanted = [options.field] if options.field else ["text", *TOKEN_COLUMNS]
    for name in wanted:
        if name in schema.names:
            kind, types = schema.field(name).type, arrow.types
            of = kind.value_type if types.is_dictionary(kind) else kind
            if types.is_string(of) or types.is_large_string(of):
                return name, True
            if (types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)) \
                    and types.is_integer(kind.value_type):
                return name, False
            raise CorpusError(65, f"{path.resolve()}: column {name} is {kind}, neither text nor lists "
                                  "of integers")
    raise CorpusError(65, f"{path.resolve()} has no column {' or '.join(wanted)} (--field), but "
                          f"{', '.join(schema.names)}")


def whole(batches, path):
    """The batches of a table; what is damaged amid it is bad data, and names the file."""
    arrow = pyarrow()
    try:
        yield from batches
    except arrow.lib.ArrowException as error:
        raise CorpusError(65, f"{path.resolve()}: {error}") from error
    except OSError as error:
        if error.errno is None:  # Arrow's own, of bytes that it cannot decode
            raise CorpusError(65, f"{path.resolve()}: {error}") from error
        raise


def read_table(path, options):
    schema, batches = batches_of(path)
    name, _ = column_of(path, schema, options)
    row = 0
    for batch in whole(batches([name]), path):
        column = batch.column(0)
        for value in column:
            if not value.is_valid:
                raise CorpusError(65, f"{path.resolve()}: row {row} has no {name}")
            yield f"{path.name}:{row}", [value.values.to_numpy(zero_copy_only=False)]
            row += 1


def write_text(path, out, options):
    """One line of JSON for each row; returns how many."""
    schema, batches = batches_of(path)
    name, _ = column_of(path, schema, options)
    keys = {"text": name}
    keys.update({key: field for key, field in (("id", options.id_field), ("task", options.task_field))
                 if field in schema.names})
    names = list(dict.fromkeys(keys.values()))
    row = 0
    with open(out, "w", encoding="utf-8") as file:
        for batch in whole(batches(names), path):
            columns = {key: batch.column(names.index(field)).to_pylist() for key, field in keys.items()}
            for values in zip(*columns.values()):
                line = dict(zip(columns, values))
                if line["text"] is None:
                    raise CorpusError(65, f"{path.resolve()}: row {row} has no {name}")
                for key in ("id", "task"):
                    if line.get(key) is not None:
                        line[key] = str(line[key])
                file.write(json.dumps({key: value for key, value in line.items() if value is not None},
                                      ensure_ascii=False) + "\n")
                row += 1
        file.flush()
        os.fsync(file.fileno())
    return row


# ---- the whole

READERS = {".bin": read_megatron, ".npy": read_npy, ".parquet": read_table, ".arrow": read_table}


def is_text(path, options):
    return READERS[path.suffix] is read_table and column_of(path, batches_of(path)[0], options)[1]


def import_text(files, folder, options):
    rows = 0
    for number, path in enumerate(files):
        rows += write_text(path, folder / f"{number:05d}-{path.stem}.jsonl", options)
    return (f"{rows} documents in {len(files)} files\n"
            f"Next: moesaic tokenize --tokenize.input {options.folder} --tokenize.output CORPUS ...")


def import_tokens(files, folder, options):
    if options.vocabulary:
        vocabulary = Vocabulary.of(options.vocabulary)
    elif options.vocab_size:
        vocabulary = Vocabulary(options.vocab_size)
    else:
        raise CorpusError(64, "token ids need --vocab-size N, or --vocabulary CORPUS, a corpus that "
                              "`moesaic tokenize` made with the same tokenizer")
    if options.eos >= vocabulary.vocab_size:
        raise CorpusError(64, f"--eos {options.eos} is not in a vocabulary of {vocabulary.vocab_size}")
    if options.eos >= 0:
        vocabulary.eos_id = options.eos
    options.eos = vocabulary.eos_id
    writer = CorpusWriter(folder, options.folder.resolve().name, vocabulary, options.shard_tokens)
    for path in files:
        for name, tokens in READERS[path.suffix](path, options):
            writer.add(np.zeros(0, "u2"), name)  # a document may be empty
            for piece in tokens:
                writer.add(piece, name)
            writer.end_document(name)
    content = writer.finish()
    return (f"{content['tokens']} tokens in {content['documents']} documents, "
            f"{len(content['shards'])} shards")


def import_all(options):
    files = inputs_of(options.inputs)
    if options.folder.exists():
        raise CorpusError(73, f"{options.folder.resolve()} is there already: name another folder")
    texts = {is_text(path, options) for path in files}
    if len(texts) > 1:
        raise CorpusError(65, "some inputs are text, others token ids: import them one by one")
    partial = options.folder.with_name(options.folder.name + ".partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    except OSError as error:
        raise CorpusError(73, f"{partial.absolute()} cannot be made: {error.strerror}") from error
    try:
        said = (import_text if texts == {True} else import_tokens)(files, partial, options)
        partial.rename(options.folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    print(f"{options.folder}: {said}")


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("inputs", nargs="+", metavar="INPUT")
    parser.add_argument("-o", dest="folder", required=True, type=Path, metavar="DIR")
    parser.add_argument("--vocab-size", type=int, metavar="N", help="of the token ids")
    parser.add_argument("--vocabulary", metavar="CORPUS",
                        help="the vocabulary, eos and bos are those of this corpus")
    parser.add_argument("--eos", type=int, default=-1, metavar="ID",
                        help="the token that ends a document")
    parser.add_argument("--document-length", type=int, default=0, metavar="N",
                        help=".npy: cut it every N tokens, not at eos")
    parser.add_argument("--shard-tokens", type=int, default=1 << 26, metavar="N",
                        help="a shard ends with the document that reaches them (default 64 Mi)")
    parser.add_argument("--field", metavar="NAME",
                        help="column to import (default: text, input_ids, tokens)")
    parser.add_argument("--id-field", default="id", metavar="NAME")
    parser.add_argument("--task-field", default="task", metavar="NAME")
    options = parser.parse_args()
    try:
        if min(options.document_length, 0) < 0 or options.shard_tokens < 1:
            raise CorpusError(64, "--document-length and --shard-tokens are numbers of tokens")
        import_all(options)
    except CorpusError as error:
        print(f"import_corpus.py: {error}", file=sys.stderr)
        sys.exit(error.code)
    except (FileNotFoundError, PermissionError) as error:
        print(f"import_corpus.py: {error.filename}: {error.strerror}", file=sys.stderr)
        sys.exit(66)
    except (OSError, RuntimeError) as error:  # RuntimeError: HDF5's, where it closes a file
        print(f"import_corpus.py: a write or read failed: {error}", file=sys.stderr)
        sys.exit(74)


if __name__ == "__main__":
    main()
