"""Odd but legal corpora, paths, file systems and clocks: they work, or the message says what to do."""
import os
import shutil
import subprocess
import time

import h5py
import numpy as np

import harness
from test_faults import write_bare

LONGEST = 60  # seconds of a step, where the clock jumps by 3600


class OddCorpora(harness.EndToEnd):
    def refused(self, corpus, code, *words, ranks=2):
        result = self.train(ranks, "--data.corpus", corpus)
        self.assert_fault(result, code, *words)
        self.assertNotIn("HDF5-DIAG", result.text)  # the library's own stack of errors
        self.assertEqual(self.newest_step(), -1)

    # Protects: documents and shards of no token are passed over.
    def test_empty_parts(self):
        write_bare(self.folder / "a.h5", [0, 0, 2000, 2000, 4000, 4000], np.arange(4000) % 257)
        write_bare(self.folder / "b.h5", [0], [])
        write_bare(self.folder / "c.h5", [0, 3000], np.arange(3000) % 257)
        self.trained(2, "--data.corpus", "[abc].h5", "--train.steps", 3)
        self.assert_sound("run/checkpoints", "run/trace.h5")

    # Protects: where there is nothing to train on, the message says how much there is.
    def test_nothing_to_train_on(self):
        write_bare(self.folder / "empty.h5", [0], [])
        self.refused("empty.h5", 66, "empty.h5", "0 tokens", "data.seq_len + 1 = 33")
        write_bare(self.folder / "short.h5", [0, 20], np.arange(20))
        self.refused("short.h5", 66, "20 tokens")
        (self.folder / "folder").mkdir()
        self.refused("folder", 66, str(self.folder / "folder"))

    # Protects: more ranks than shards, and than samples of a step: some compute nothing, all go on.
    def test_more_ranks_than_shards(self):
        write_bare(self.folder / "one.h5", [0, 2000], np.arange(2000) % 257)
        self.trained(4, "--data.corpus", "one.h5", "--train.steps", 3, "--train.batch", 2)
        self.assert_sound("run/checkpoints", "run/trace.h5")

    # Protects: offsets that end elsewhere than the tokens are found before they are followed.
    def test_offsets_beyond_the_end(self):
        for end in (9000, 5000):
            write_bare(self.folder / "bare.h5", [0, 2000, end], np.arange(6000) % 257)
            self.refused("bare.h5", 65, "bare.h5", "/documents/offsets", str(end), "6000")

    # Protects: what is no corpus is called so, by its path, without the library's noise.
    def test_other_files(self):
        (self.folder / "text.h5").write_text("no HDF5 at all\n" * 100)
        self.refused("text.h5", 65, "text.h5")
        (self.folder / "classic.h5").write_bytes(b"CDF\x01" + bytes(500))  # netCDF-3
        self.refused("classic.h5", 65, "classic.h5")
        with h5py.File(self.folder / "other.h5", "w") as file:
            file["x"] = np.arange(10)
        self.refused("other.h5", 65, "other.h5")
        os.mkdir(self.folder / "dir.h5")
        self.refused("dir.h5", 66, "dir.h5")
        os.symlink("loop.h5", self.folder / "loop.h5")
        self.refused("loop.h5", 66, "loop.h5", "symbolic links")

    # Protects: a file that may not be read is said with the system's reason.
    def test_unreadable(self):
        if os.geteuid() == 0 and shutil.which("setpriv") is None:
            self.skipTest("root may read everything")
        shard = self.folder / "corpus/train/corpus-00000-of-00003.h5"
        shard.chmod(0)
        wrapper = []
        if os.geteuid() == 0:
            wrapper = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--"]
        result = self.run_job(2, "train", "--config", "config.cfg", wrapper=wrapper)
        self.assert_fault(result, 66, shard.name, "Permission denied")

    # Protects: names with blanks, quotes and letters of other scripts.
    def test_names(self):
        name = "Daten größer; a'b 数据"
        os.rename(self.folder / "corpus", self.folder / name)
        self.trained(2, "--data.corpus", f'"{name}/train"', "--run.dir", f'"{name}/run"',
                     "--train.steps", 2)
        self.assert_sound(f"{name}/run/checkpoints", f"{name}/train")


class OddSystems(harness.EndToEnd):
    # Protects: a file system without locks works; one warning says what is not noticed there.
    def test_no_locks(self):
        result = self.run_job(2, "train", "--config", "config.cfg", "--train.steps", 3,
                              wrapper=self.faulty("flock"))
        self.assertEqual(result.code, 0, result.text)
        self.assertEqual(result.err.count("would not be noticed"), 1, result.err)
        self.assert_sound("run/checkpoints", "run/trace.h5")

    # Protects: durations and the order of the trace do not come from the wall clock.
    def test_jumping_clock(self):
        result = self.run_job(2, "train", "--config", "config.cfg", "--train.steps", 6,
                              "--run.step_timeout", "50 s", "--run.max_wall", "20 min",
                              wrapper=self.faulty("clock"))
        self.assertEqual(result.code, 0, result.text)
        trace = self.folder / "run/trace.h5"
        np.testing.assert_array_equal(harness.column(trace, "step"), np.arange(1, 7))
        seconds = harness.column(trace, "seconds")
        self.assertTrue(((seconds > 0) & (seconds < LONGEST)).all(), seconds)
        self.assertGreater(np.ptp(harness.column(trace, "unix_time")), 1800)  # it did jump

    # Protects: cores beyond the 1024 of a plain cpu_set_t are found.
    def test_large_host(self):
        result = self.run_job(0, "train", "--config", "config.cfg", "--parallel.ep", 1,
                              "--train.steps", 1,
                              wrapper=self.faulty("cpus", OMP_NUM_THREADS=""))
        self.assertEqual(result.code, 0, result.text)
        self.assertIn("1 rank, cores 0,1500, 2 threads each", result.text)

    # Protects: a launcher that binds each rank to one of many cores is noticed, by name of the remedy.
    def test_bound_ranks(self):
        if len(os.sched_getaffinity(0)) < 2:
            self.skipTest("needs two cores")
        run = ["train", "--config", "config.cfg", "--parallel.ep", 1, "--train.steps", 1]
        bound = harness.command(1, run)
        bound[bound.index("none")] = "core"
        for command, warns in ((bound, True), (harness.command(1, run), False)):
            done = subprocess.run(command, cwd=self.folder, env=harness.environment(), text=True,
                                  capture_output=True, timeout=harness.LIMIT)
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
            self.assertEqual("mpirun --bind-to none" in done.stderr, warns, done.stderr)

    # Protects: tasks that srun starts as jobs of their own are told so.
    def test_singletons(self):
        result = self.run_job(0, "train", "--config", "config.cfg", "--parallel.ep", 1,
                              "--train.steps", 1,
                              wrapper=["env", "SLURM_STEP_NUM_TASKS=4", "SLURM_PROCID=0"])
        self.assertEqual(result.code, 0, result.text)
        self.assertIn("started 4 tasks, but each of them is a job of one rank", result.err)
        self.assertIn("srun --mpi=pmix", result.err)

    # Protects: threads that OMP_PROC_BIND pins use every core of the process, not the first one alone.
    def test_pinned_threads(self):
        result = self.run_job(0, "train", "--config", "config.cfg", "--parallel.ep", 1,
                              "--train.steps", 1,
                              wrapper=["env", "-u", "OMP_NUM_THREADS", "OMP_PROC_BIND=true"])
        self.assertEqual(result.code, 0, result.text)
        cores = len(os.sched_getaffinity(0))
        self.assertRegex(result.text, rf"1 rank, cores [-\d,]+, {cores} threads? each, pinned")
        self.assertNotIn("share cores", result.text)

    # Protects: a reader that holds the trace open never stops the run, nor costs it rows.
    def test_reader_of_the_trace(self):
        child = self.start(2, "train", "--config", "config.cfg", "--train.steps", 40,
                           "--checkpoint.every", 0)
        self.wait_for(lambda: (self.folder / "run/trace.h5").exists(), "a trace")
        while child.poll() is None:
            try:
                with h5py.File(self.folder / "run/trace.h5") as file:
                    file["step"][()]
                    time.sleep(0.1)
                time.sleep(0.2)
            except (OSError, KeyError):
                pass  # it is being written
        out = child.communicate(timeout=harness.LIMIT)[0]
        self.assertEqual(child.returncode, 0, out)
        np.testing.assert_array_equal(harness.column(self.folder / "run/trace.h5", "step"),
                                      np.arange(1, 41))
