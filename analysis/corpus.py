"""Writes token ids as a corpus: shards (HDF5) and their manifest, as `moesaic tokenize` does."""
import hashlib
import json
import os
import shutil
from pathlib import Path

import h5py
import numpy as np

TOKEN_CHUNK, COLUMN_CHUNK = 16384, 2048  # bytes: samples are read from places all over a shard
BUFFER = 1 << 18  # tokens that are gathered for one write


class CorpusError(RuntimeError):
    """What went wrong, and the exit code that says of what kind it is."""

    def __init__(self, code, message):
        super().__init__(message)
        self.code = code


class Vocabulary:
    """What a corpus says of its tokens; of another corpus, or bare numbers."""

    def __init__(self, vocab_size, eos_id=-1, bos_id=-1):
        self.vocab_size, self.eos_id, self.bos_id = vocab_size, eos_id, bos_id
        self.sha256, self.tokenizer, self.file = "", "byte", None

    @staticmethod
    def of(path):
        """That of a corpus which `moesaic tokenize` made: a folder or its manifest."""
        path = Path(path)
        files = [path] if path.is_file() else sorted(
            file for file in path.glob("*.json") if file.name != "tokenizer.json")
        if len(files) != 1:
            raise CorpusError(66, f"--vocabulary {path.resolve()}: there is no corpus manifest "
                                  "(NAME.json), or more than one: name the manifest")
        try:
            content = json.loads(files[0].read_text(encoding="utf-8"))
            vocabulary = Vocabulary(content["vocab_size"], content["eos_id"], content["bos_id"])
            vocabulary.sha256, vocabulary.tokenizer = content["vocab_sha256"], content["tokenizer"]
        except (KeyError, TypeError, ValueError) as error:
            raise CorpusError(65, f"{files[0].resolve()} is no corpus manifest: {error!r}") from error
        if vocabulary.tokenizer != "byte":
            vocabulary.file = files[0].parent / vocabulary.tokenizer
        return vocabulary


class Shard:
    """One file, made longer by pieces of documents; memory for their ends and ids alone."""

    def __init__(self, path, vocabulary):
        self.path, self.vocabulary = path, vocabulary
        self.offsets, self.ids = [0], []
        self.tokens, self.documents = 0, 0
        self.content = hashlib.sha256()
        kind = np.dtype("<u2" if vocabulary.vocab_size <= 65536 else "<u4")
        self.file = h5py.File(path, "w")
        self.data = self.file.create_dataset("tokens", (0,), kind, maxshape=(None,), fletcher32=True,
                                             chunks=(TOKEN_CHUNK // kind.itemsize,))

    def append(self, tokens):
        self.data.resize((self.tokens + len(tokens),))
        self.data[self.tokens:] = tokens
        self.content.update(tokens.astype("<i4").tobytes())
        self.tokens += len(tokens)

    def close(self):
        """Writes all but its place among the shards."""
        self.documents = len(self.ids)
        offsets = np.array(self.offsets, "<u8")
        self.content.update(offsets.astype("<i8").tobytes())
        for name, values, level in (("offsets", offsets, None),
                                    ("id", np.array(self.ids or [], "S"), 1)):
            chunk = max(1, COLUMN_CHUNK // values.dtype.itemsize)
            self.file.create_dataset(f"documents/{name}", data=values, fletcher32=True,
                                     chunks=(chunk,), maxshape=(None,), compression=level)
        vocabulary = self.vocabulary
        texts = {"schema": "moesaic-corpus", "tokenizer": vocabulary.tokenizer,
                 "vocab_sha256": vocabulary.sha256, "content_sha256": self.content.hexdigest()}
        self.file.attrs.update({name: np.bytes_(text) for name, text in texts.items() if text})
        self.file.attrs.update({
            "version": 1, "vocab_size": vocabulary.vocab_size, "eos_id": vocabulary.eos_id,
            "bos_id": vocabulary.bos_id, "task_names": np.array([b"none"]),
            "num_tokens": self.tokens, "num_documents": self.documents})
        self.file.close()
        self.data, self.offsets, self.ids = None, [], []

    def publish(self, path, index, count):
        """Gives it its name; returns its entry in the manifest."""
        with h5py.File(self.path, "r+") as file:
            file.attrs.update({"shard_index": index, "shard_count": count})
        self.path.rename(path)
        sha256 = hashlib.sha256()
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            while block := file.read(1 << 20):
                sha256.update(block)
        return {"file": path.name, "bytes": path.stat().st_size, "tokens": self.tokens,
                "documents": self.documents, "sha256": sha256.hexdigest()}


class CorpusWriter:
    """Writes documents one after the other into FOLDER/NAME-00000-of-00001.h5 and so on. A document
    lies in one shard; a new one begins once a shard has `shard_tokens`."""

    def __init__(self, folder, name, vocabulary, shard_tokens):
        self.folder, self.name, self.vocabulary = Path(folder), name, vocabulary
        self.shard_tokens, self.shards = shard_tokens, []
        self.open, self.pieces, self.buffered = None, [], 0

    def add(self, tokens, where):
        """Some tokens of the document that is being written; `where` says which it is."""
        most = self.vocabulary.vocab_size
        if tokens.dtype.kind not in "ui":
            raise CorpusError(65, f"{where}: its tokens are of type {tokens.dtype}, not integers")
        if len(tokens) and not 0 <= int(tokens.min()) <= int(tokens.max()) < most:
            wrong = tokens.min() if tokens.min() < 0 else tokens.max()
            raise CorpusError(65, f"{where}: token {wrong} is not in a vocabulary of {most}")
        if self.open is None:  # how many there will be is known at the end: names come then
            self.open = Shard(self.folder / f"{len(self.shards)}.h5", self.vocabulary)
        self.pieces.append(tokens)
        self.buffered += len(tokens)
        if self.buffered >= BUFFER:
            self.flush()

    def flush(self):
        if self.pieces:
            self.open.append(np.concatenate([piece.astype("i8") for piece in self.pieces]))
            self.pieces, self.buffered = [], 0

    def end_document(self, name):
        self.open.offsets.append(self.open.tokens + self.buffered)
        self.open.ids.append(name.encode())
        if self.open.offsets[-1] >= self.shard_tokens:
            self.close_shard()

    def close_shard(self):
        self.flush()
        self.open.close()
        self.shards.append(self.open)
        self.open = None

    def finish(self):
        """Names the shards and writes the manifest; returns it."""
        if self.open is not None:
            self.close_shard()
        if not self.shards:
            raise CorpusError(65, "the inputs have no document")
        count = len(self.shards)
        entries = [shard.publish(self.folder / f"{self.name}-{index:05d}-of-{count:05d}.h5", index, count)
                   for index, shard in enumerate(self.shards)]
        vocabulary = self.vocabulary
        if vocabulary.file is not None:
            shutil.copy(vocabulary.file, self.folder / vocabulary.tokenizer)
        content = {
            "schema": "moesaic-corpus", "version": 1, "name": self.name,
            "vocab_size": vocabulary.vocab_size, "vocab_sha256": vocabulary.sha256,
            "tokenizer": vocabulary.tokenizer, "eos_id": vocabulary.eos_id,
            "bos_id": vocabulary.bos_id, "task_names": ["none"],
            "tokens": sum(entry["tokens"] for entry in entries),
            "documents": sum(entry["documents"] for entry in entries), "source_bytes": 0,
            "fingerprint": hashlib.sha256(
                "".join(entry["sha256"] for entry in entries).encode()).hexdigest(),
            "shards": entries}
        (self.folder / f"{self.name}.json").write_text(json.dumps(content, indent=1) + "\n",
                                                       encoding="utf-8")
        return content
