"""What the end-to-end tests share: a corpus made by script, a tiny model, and ways to run moesaic."""
import functools
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import tempfile
import time
import unittest
import zlib

import h5py
import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
MOESAIC = os.environ.get("MOESAIC", str(ROOT / "build/release/moesaic"))
WORDS = "expert router token layer gradient cluster mesh loss batch model train shard corpus".split()
TURNS = 3
LIMIT = 300  # seconds until a command counts as hanging, also on a busy machine
KILLED = (137, -signal.SIGPIPE)  # mpirun's code for a killed rank, which may break its pipes as well

KEYS = {
    "model.layers": 2, "model.d_model": 32, "model.heads": 2, "model.experts": 4,
    "model.shared_experts": 1, "model.max_seq": 32, "data.corpus": "corpus/train",
    "data.seq_len": 32, "train.batch": 8, "train.micro_batch": 2, "train.lr": 0.01,
    "train.warmup": 2, "train.decay_steps": 20, "train.steps": 20, "parallel.ep": 2,
    "run.precision": "fp32", "run.dir": "run", "checkpoint.every": 5, "trace.flush": 0}


def in_turn(test):
    """A slow case of something that seldom breaks: it runs at one commit in TURNS, and in
    `tests/run.sh --all`."""
    test.turn = zlib.crc32(test.__qualname__.encode()) % TURNS
    return test


@functools.cache
def turn_now():
    commit = subprocess.run(["git", "rev-parse", "--short=8", "HEAD"], cwd=ROOT, capture_output=True,
                            text=True)
    return int(commit.stdout[:8], 16) % TURNS if commit.returncode == 0 else 0


def has_turn(test):
    """Whether this run has a case. MOESAIC_TESTS=all has all."""
    return os.environ.get("MOESAIC_TESTS") == "all" or getattr(test, "turn", turn_now()) == turn_now()


def config(changed):
    """The text of a config file: the keys of all tests, some of them changed or (None) left out."""
    return "".join(f"{key} = {value}\n" for key, value in {**KEYS, **changed}.items()
                   if value is not None)


def environment():
    fixed = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
             "OMPI_MCA_mpi_yield_when_idle": "1", "OMP_NUM_THREADS": "1"}
    return {**os.environ, **fixed}


class Result:
    """Exit code and output of one command."""

    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out, err
        self.text = out + err


def command(ranks, arguments, wrapper=()):
    # Unbound: ranks of two jobs, bound, would share a core while others are free.
    launcher = ["mpirun", "--oversubscribe", "--bind-to", "none", "-n", str(ranks)] if ranks else []
    return launcher + list(wrapper) + [MOESAIC] + [str(argument) for argument in arguments]


def write_text(path, documents, seed):
    choose = random.Random(seed)
    with open(path, "w", encoding="utf-8") as file:
        for number in range(documents):
            text = " ".join(choose.choices(WORDS, k=choose.randint(5, 60)))
            row = {"id": f"d{number}", "task": ["code", "prose"][number % 2], "text": text}
            file.write(json.dumps(row) + "\n")


def tensors(folder):
    """Every tensor of a checkpoint folder, put together from its blocks."""
    manifest = json.loads((folder / "manifest.json").read_text())
    whole = {}
    for name, tensor in manifest["tensors"].items():
        whole[name] = np.full(tensor["shape"], np.nan, np.float32)
        for block in tensor["blocks"]:
            box = tuple(slice(o, o + e) for o, e in zip(block["offset"], block["extent"]))
            with h5py.File(folder / block["part"]) as part:
                whole[name][box] = part[block["dataset"]][()]
    return whole


def column(trace, name):
    with h5py.File(trace) as file:
        return file[name][()]


def contents(path):
    """Every dataset of an HDF5 file, by name."""
    with h5py.File(path) as file:
        names = []
        file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset)
                        else None)
        return {name: file[name][()].tobytes() for name in names}


def flip_bit(path, at):
    with open(path, "r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))


def truncate(path):
    os.truncate(path, os.path.getsize(path) * 2 // 3)


def processes_of(folder):
    """Ids of the moesaic processes that work in a folder."""
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        try:
            if (entry.name.isdigit() and os.readlink(entry / "cwd") == str(folder)
                    and os.path.realpath(entry / "exe") == os.path.realpath(MOESAIC)):
                found.append(int(entry.name))
        except OSError:
            pass  # it ended meanwhile, or belongs to someone else
    return found


def is_gone(pid):
    """Whether a killed process has closed its files, which are locked until then."""
    try:
        threads = os.listdir(f"/proc/{pid}/task")
        state = pathlib.Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return len(threads) == 1 and state.split()[0] == "Z"


def build_faults(library):
    source = ROOT / "tests/support/faults.c"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(library), str(source)], check=True)


def is_stopped(pid):
    """Whether a process has been stopped by SIGSTOP."""
    stat = pathlib.Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    return stat.rpartition(")")[2].split()[0] == "T"


def rank_of(pid):
    """The world rank of a process that mpirun started; None if it just starts or ends."""
    try:
        variables = pathlib.Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return None
    return next((int(v.split(b"=")[1]) for v in variables if v.startswith(b"OMPI_COMM_WORLD_RANK=")),
                None)


class EndToEnd(unittest.TestCase):
    """Each test has a folder of its own with config.cfg, corpus/train and corpus/heldout."""

    @classmethod
    def setUpClass(cls):
        cls.shared = pathlib.Path(tempfile.mkdtemp(prefix="moesaic-e2e-")).resolve()
        write_text(cls.shared / "text.jsonl", 300, seed=1)
        cls.tokenize(cls.shared)

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.shared)

    @staticmethod
    def tokenize(folder):
        subprocess.run(command(0, ["tokenize", "--tokenize.input", "text.jsonl", "--tokenize.output",
                                   "corpus", "--tokenize.holdout", "0.1", "--tokenize.shards", "3"]),
                       cwd=folder, env=environment(), check=True, capture_output=True, timeout=LIMIT)

    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="moesaic-e2e-")).resolve()
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        shutil.copytree(self.shared / "corpus", self.folder / "corpus")
        (self.folder / "config.cfg").write_text(config({}))

    def run_job(self, ranks, *arguments, wrapper=()):
        """Runs one job in the test's folder; ranks = 0 runs it without mpirun. A wrapper is a command
        that each rank runs, and that runs moesaic."""
        child = subprocess.Popen(command(ranks, arguments, wrapper), cwd=self.folder, env=environment(),
                                 stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                 errors="replace",  # a damaged name is shown as it is
                                 start_new_session=True)
        try:
            out, err = child.communicate(timeout=LIMIT)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            out, err = child.communicate()
            self.fail(f"{arguments} hangs:\n{out}\n{err}")
        return Result(child.returncode, out, err)

    def faulty(self, fault, **settings):
        """A wrapper that gives each rank a fault of tests/support/faults.c."""
        library = self.folder / "faults.so"
        if not library.exists():
            build_faults(library)
        return ["env", f"LD_PRELOAD={library}", f"FAULT={fault}",
                *(f"{name}={value}" for name, value in settings.items())]

    def stopping(self, once, at="*", **settings):
        """A wrapper that stops ranks before their first use of a file like `at`, once a file like
        `once` is there: what a test then does falls where it shall, however slow the machine is."""
        return self.faulty("stop", STOP_ONCE=once, STOP_AT=at, **settings)

    def start(self, ranks, *arguments, wrapper=()):
        """Starts a job that goes on while the test does something; it is killed at the end."""
        child = subprocess.Popen(command(ranks, arguments, wrapper), cwd=self.folder, env=environment(),
                                 stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                 start_new_session=True)
        self.addCleanup(self.end, child)
        return child

    def kill(self, number):
        """Sends a signal to all ranks of the job that runs in the test's folder."""
        for pid in processes_of(self.folder):
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                pass  # it has just ended

    def end(self, child):
        """Kills all ranks of a job; mpirun gets some time to remove what it shared with them."""
        ranks = processes_of(self.folder)
        self.kill(signal.SIGKILL)
        try:
            child.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.communicate(timeout=LIMIT)
        self.wait_for(lambda: all(map(is_gone, ranks)), "the end of killed ranks")

    def process_of(self, rank):
        """Id of the process of a rank of the job that runs in the test's folder."""
        return self.wait_for(lambda: [pid for pid in processes_of(self.folder) if rank_of(pid) == rank],
                             f"rank {rank}")[0]

    def train(self, ranks, *arguments):
        return self.run_job(ranks, "train", "--config", "config.cfg", *arguments)

    def trained(self, ranks, *arguments):
        result = self.train(ranks, *arguments)
        self.assertEqual(result.code, 0, result.text)
        return result

    def wait_for(self, condition, what):
        """Waits until condition() is true, and returns it."""
        end = time.monotonic() + LIMIT
        while not (found := condition()):
            self.assertLess(time.monotonic(), end, f"waited in vain for {what}")
            time.sleep(0.02)
        return found

    def checkpoint(self, step, run="run"):
        return self.folder / run / "checkpoints" / f"step-{step:08d}"

    def newest_step(self, run="run"):
        """Step of the newest complete checkpoint, -1 before the first."""
        steps = [int(path.parent.name[5:])
                 for path in (self.folder / run / "checkpoints").glob("step-????????/manifest.json")]
        return max(steps, default=-1)

    def assert_fault(self, result, code, *words):
        """The exit code, and a message on stderr with every word."""
        self.assertEqual(result.code, code, result.text)
        for word in words:
            self.assertIn(word.lower(), result.err.lower())

    def assert_sound(self, *paths):
        result = self.run_job(0, "verify", *paths)
        self.assertEqual(result.code, 0, result.text)


class Trained(EndToEnd):
    """Tests that share a model, trained with `keys`: checkpoints in run/ and the keys in config.cfg."""

    keys = {}

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        (cls.shared / "config.cfg").write_text(config(cls.keys))
        subprocess.run(command(2, ["train", "--config", "config.cfg"]), cwd=cls.shared,
                       env=environment(), check=True, capture_output=True, timeout=LIMIT)

    def setUp(self):
        super().setUp()
        (self.folder / "run").symlink_to(self.shared / "run")
        (self.folder / "config.cfg").write_text(config(self.keys))

    def score(self, output, *arguments, ranks=1, model="run/checkpoints"):
        result = self.run_job(ranks, "score", "--model.path", model, "--data.corpus",
                              "corpus/heldout", "--run.precision", "fp32", "--score.output", output,
                              *arguments)
        self.assertEqual(result.code, 0, result.text)
        return result
