"""Runs moesaic's jobs score and generate on sequences of tokens: they are written as a corpus, and
the answers are read from what the job made of it. A request is a pair of tuples of tokens:
(given, continuation); that of a prompt has no continuation.
"""
import contextlib
import hashlib
import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
SHARD_TOKENS = 1 << 20  # of one file: what a killed run computes again at most
LAST_LINES = 15  # of a failed job, shown once more


def default_program():
    """That of the clone, or of the installed tree (jobs/common.sh looks alike)."""
    built = ROOT / "build/release/moesaic"
    return str(built if built.exists() else ROOT.parents[1] / "bin/moesaic")


class EngineError(RuntimeError):
    """What went wrong, and the exit code that says of what kind it is."""

    def __init__(self, code, message):
        super().__init__(message)
        self.code = code


def shards_of(requests, most):
    """Neighbours in lists of at most so many tokens, or of one request."""
    shards, room = [], 0
    for request in requests:
        size = sum(map(len, request))
        if not shards or size > room:
            shards.append([])
            room = most
        shards[-1].append(request)
        room -= size
    return shards


def write_shard(path, requests, vocab_size, first, attributes):
    """A shard with a document for each request, whose ids count from `first`."""
    lengths = [len(given) + len(continuation) for given, continuation in requests]
    kind = "u2" if vocab_size <= 1 << 16 else "u4"
    tokens = np.fromiter((token for request in requests for part in request for token in part),
                         dtype="i8", count=sum(lengths))
    if len(tokens) and not 0 <= tokens.min() <= tokens.max() < vocab_size:
        raise EngineError(65, f"the tokenizer gives tokens from {tokens.min()} to {tokens.max()}, "
                              f"but the model has a vocabulary of {vocab_size}: it is not its own")
    with h5py.File(path, "w") as file:
        file.attrs.update({"schema": np.bytes_("moesaic-corpus"), "version": 1,
                           "vocab_size": vocab_size, **attributes})
        file.create_dataset("tokens", data=tokens.astype(kind), chunks=True, fletcher32=True)
        file["documents/offsets"] = np.cumsum([0, *lengths]).astype("u8")
        file["documents/context"] = np.array([len(given) for given, _ in requests], "u8")
        file["documents/id"] = np.array([str(first + i) for i in range(len(requests))], "S")


def write_requests(folder, requests, vocab_size, tokenizer=None, shard_tokens=SHARD_TOKENS):
    """A new folder of shards, complete as soon as it has its name. Returns the glob that names them
    as one corpus. tokenizer: the manifest of a corpus whose tokenizer makes texts of the tokens."""
    folder = Path(folder)
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    attributes = {}
    if tokenizer is not None:
        content = json.loads(Path(tokenizer).read_text(encoding="utf-8"))
        shutil.copy(Path(tokenizer).parent / content["tokenizer"], partial)
        attributes = {name: np.bytes_(content[name]) for name in ("tokenizer", "vocab_sha256")}
        attributes["eos_id"] = content["eos_id"]
    shards, first = shards_of(requests, shard_tokens), 0
    for number, shard in enumerate(shards):
        name = f"requests-{number:05d}-of-{len(shards):05d}.h5"
        write_shard(partial / name, shard, vocab_size, first, attributes)
        first += len(shard)
    partial.rename(folder)
    return corpus_in(folder)


def corpus_in(folder):
    return str(Path(folder) / "requests-*.h5")


def read_answers(path, requests):
    """For each request the log-probability of its continuation (nats), and whether each token of it
    is the argmax."""
    try:
        with h5py.File(path, "r") as file:
            documents = file["documents"]
            ids, tokens = documents["id"][:].astype("i8"), documents["tokens"][:]
            logprob, greedy = documents["logprob"][:], documents["greedy"][:]
    except (OSError, KeyError, ValueError) as error:
        raise EngineError(65, f"{path} holds no scores of requests: {error}") from error
    if not (np.array_equal(ids, np.arange(len(requests)))
            and np.array_equal(tokens, [len(continuation) for _, continuation in requests])):
        raise EngineError(65, f"{path} has {len(ids)} documents of {tokens.sum()} tokens, which "
                              f"are not the {len(requests)} requests: delete it")
    return [(float(value), bool(is_argmax)) for value, is_argmax in zip(logprob, greedy)]


def read_continuations(path, prompts):
    """The tokens that continue each prompt."""
    try:
        with h5py.File(path, "r") as file:
            documents = file["documents"]
            ids, given = documents["id"][:].astype("i8"), documents["prompt_tokens"][:]
            offsets, tokens = documents["offsets"][:].tolist(), file["tokens/token"][:].tolist()
    except (OSError, KeyError, ValueError) as error:
        raise EngineError(65, f"{path} holds no continuations of prompts: {error}") from error
    if not (np.array_equal(ids, np.arange(len(prompts)))
            and np.array_equal(given, [len(prompt) for prompt, _ in prompts])):
        raise EngineError(65, f"{path} continues {len(ids)} prompts, which are not the "
                              f"{len(prompts)} requests: delete it")
    return [tokens[begin:end] for begin, end in zip(offsets, offsets[1:])]


def truncated(request, max_length):
    """The request with no more context than the model can read with the continuation, of
    which it does not read the last one."""
    given, continuation = request
    if not given or not continuation:
        raise EngineError(65, "a request needs a token that is given and one that is predicted, "
                              f"but it has {len(given)} and {len(continuation)}")
    if len(continuation) > max_length:
        raise EngineError(65, f"a continuation of {len(continuation)} tokens is longer than "
                              f"max_length = {max_length}")
    return tuple(given)[-(max_length + 1 - len(continuation)):], tuple(continuation)


def digest(requests, *more):
    """Names the requests: the same for the same tokens in the same order (and the same `more`)."""
    sha256 = hashlib.sha256(repr(more).encode())
    for given, continuation in requests:
        numbers = [len(given), len(continuation), *given, *continuation]
        sha256.update(np.array(numbers, "<u4").tobytes())
    return sha256.hexdigest()[:16]


def quoted(value):
    """A value as the program's command line reads it back, whatever is in it."""
    text = str(int(value) if isinstance(value, bool) else value)
    if re.fullmatch(r"[\w./:*-]+", text):
        return text
    for letter in '\\"$':
        text = text.replace(letter, "\\" + letter)
    return f'"{text}"'


def model_keys(path):
    """The vocabulary and the longest sequence of a Hugging Face folder or a checkpoint (its newest
    step); a length of None where config.json does not say."""
    path = Path(path)
    steps = sorted(path.glob("step-*/manifest.json"))
    for file in (path / "config.json", path / "manifest.json", *steps[-1:]):
        if file.is_file():
            break
    else:
        raise EngineError(66, f"no model at {path.resolve()}: name a Hugging Face folder or a "
                              "checkpoint")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if file.name == "config.json":
            return int(content["vocab_size"]), content.get("max_position_embeddings")
        config = content["state"]["config"]
        return int(config["model.vocab_size"]), int(config["model.max_seq"])
    except (KeyError, TypeError, ValueError) as error:
        raise EngineError(65, f"{file.resolve()} does not say the size of the vocabulary: "
                              f"{error!r}") from error


@dataclass
class Engine:
    """How the program is run, and on what."""
    path: str                    # of the model
    vocab_size: int
    max_length: int              # tokens that the model reads at once
    binary: str = default_program()
    launcher: str = ""           # "mpirun -n 4": stands before the program
    workdir: str | None = None   # keeps corpora and scores; None: a temporary folder for each run
    keys: dict = field(default_factory=dict)  # further ones, "parallel.ep": 2

    def score(self, requests):
        """The answer to each request, in order. Equal ones are computed once, and those that begin
        alike stand next to each other."""
        requests = [truncated(request, self.max_length) for request in requests]
        if not requests:
            return []
        different = sorted(set(requests))
        with self.folder(digest(different)) as folder:
            if not (folder / "requests").is_dir():
                write_requests(folder / "requests", different, self.vocab_size)
            self.run("score", {"data.corpus": corpus_in(folder / "requests"),
                               "score.output": folder / "scores.h5",
                               "score.window": self.max_length, **self.of_model()})
            answers = dict(zip(different, read_answers(folder / "scores.h5", different)))
        return [answers[request] for request in requests]

    def generate(self, prompts, keys, stop=(), tokenizer=None):
        """Tokens that continue each prompt, in order; equal prompts are computed apart, since they
        may be sampled. keys: max_tokens, temperature and so on, of the section generate. stop:
        texts after which nothing more is computed, if the program can read the tokenizer (a
        tokenizer.json or a SentencePiece model); the tokens of a text may go on behind it."""
        if not prompts:
            return []
        requests = [(tuple(prompt), ()) for prompt in prompts]
        keys = {f"generate.{key}": value for key, value in keys.items()}
        with self.folder(digest(requests, sorted(keys.items()), stop)) as folder:
            manifest = self.vocabulary(folder, tokenizer) if tokenizer is not None else None
            if not (folder / "requests").is_dir():
                write_requests(folder / "requests", requests, self.vocab_size, manifest)
            if stop and manifest is not None:
                keys["generate.stop"] = list(stop)
            self.run("generate", {"data.corpus": corpus_in(folder / "requests"),
                                  "generate.output": folder / "generations.h5",
                                  **self.of_model(), **keys})
            return read_continuations(folder / "generations.h5", requests)

    def vocabulary(self, folder, tokenizer):
        """The manifest of a corpus that has this tokenizer, in the form that the program keeps;
        None where the program cannot read it."""
        manifest = folder / "vocabulary/vocabulary.json"
        if manifest.is_file():
            return manifest
        text = folder / "vocabulary.txt"
        text.write_text("text\n", encoding="utf-8")
        try:
            self.run("tokenize", {"tokenize.input": text, "tokenize.output": folder / "vocabulary",
                                  "tokenize.tokenizer": tokenizer, "tokenize.eos": 0})
        except EngineError as error:
            if error.code != 65:
                raise
            return None
        return manifest

    def of_model(self):
        return {"model.path": self.path, **self.keys}

    @contextlib.contextmanager
    def folder(self, name):
        if self.workdir is None:
            with tempfile.TemporaryDirectory(prefix="moesaic-requests-") as folder:
                yield Path(folder)
        else:
            folder = Path(self.workdir) / name
            folder.mkdir(parents=True, exist_ok=True)
            yield folder

    def run(self, job, keys):
        """Runs one job, its output going to stderr. EngineError with its exit code if it fails."""
        if shutil.which(self.binary) is None:
            raise EngineError(69, f"no program at {Path(self.binary).resolve()}: build it, or name "
                                  "another with binary=")
        command = [*shlex.split(self.launcher), self.binary, job]
        for key, value in keys.items():
            items = value if isinstance(value, list) else [value]
            command += [f"--{key}", ",".join(quoted(item) for item in items)]
        last = deque(maxlen=LAST_LINES)
        try:
            with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT, text=True, errors="replace",
                              start_new_session=True) as child:  # Ctrl-C would reach mpirun itself
                try:
                    for line in child.stdout:
                        print(line, end="", file=sys.stderr, flush=True)
                        last.append(line)
                except BaseException:
                    # It stops well, and what it has finished stays. After TERM, Open MPI would kill
                    # ranks that are not done within a second.
                    child.send_signal(signal.SIGUSR1)
                    child.communicate()
                    raise
        except OSError as error:
            raise EngineError(69, f"cannot start {command[0]}: {error}") from error
        if child.returncode != 0:
            again = ": the same evaluation goes on from here if it has a workdir" \
                if child.returncode == 75 else ""
            code = child.returncode if child.returncode > 0 else 128 - child.returncode
            raise EngineError(code, f"{shlex.join(command)}\nended with exit code {code}{again}. "
                                    f"Its last lines:\n{''.join(last)}")
