"""Experts that come, go and move: by the job experts, and in a running job through run.control."""
import json
import os
import re
import shutil
import signal

import h5py
import numpy as np

import harness

STEP = 6  # of the checkpoint that the job changes
SCORE = ["score", "--data.corpus", "corpus/heldout", "--run.precision", "fp32"]


class Experts(harness.EndToEnd):
    @classmethod
    def setUpClass(cls):
        """Trains the model that is changed: 4 regular experts and 2 spares in each layer."""
        super().setUpClass()
        made = cls("make_run")
        made.setUp()
        made.trained(2, "--train.steps", STEP)
        shutil.copytree(made.folder / "run", cls.shared / "run")
        made.doCleanups()

    def setUp(self):
        super().setUp()
        keys = {"router.spare_experts": 2, "router.overflow": "spare", "router.capacity_factor": 1.0,
                "router.balance": "bias"}
        (self.folder / "config.cfg").write_text(harness.config(keys))
        if (self.shared / "run").exists():
            shutil.copytree(self.shared / "run", self.folder / "run")

    def make_run(self):
        """Names the instance that trains the run from which the others start."""

    def change(self, action, out, *arguments, ranks=0):
        result = self.run_job(ranks, "experts", action, "run/checkpoints", out, *arguments)
        self.assertEqual(result.code, 0, result.text)
        self.assert_sound(out)
        return self.folder / out / f"step-{STEP:08d}"

    def perplexity(self, model, name, ranks=1, *arguments):
        result = self.run_job(ranks, *SCORE, "--model.path", model, "--score.output", name, *arguments)
        self.assertEqual(result.code, 0, result.text)
        with h5py.File(self.folder / name) as file:
            return file.attrs["perplexity"], file["tokens/logprob"][()]

    def pool(self, checkpoint):
        return json.loads((checkpoint / "manifest.json").read_text())["state"]["pool"]

    def events(self, run):
        with h5py.File(self.folder / run / "trace.h5") as trace:
            return list(zip(trace["events/step"][()].tolist(), trace["events/kind"].asstr()[()],
                            trace["events/message"].asstr()[()]))

    def kinds(self, run):
        wanted = ("experts", "control_refused")
        return [(step, kind) for step, kind, _ in self.events(run) if kind in wanted]

    # Protects: where nothing changes, nothing does: the same tensors, and the same scores bit for bit.
    def test_nothing(self):
        same = self.change("promote", "same", "--experts.count", 0)
        before, after = harness.tensors(self.checkpoint(STEP)), harness.tensors(same)
        self.assertEqual(before.keys(), after.keys())
        for name, values in before.items():
            np.testing.assert_array_equal(after[name], values, err_msg=name)
        np.testing.assert_array_equal(self.perplexity("same", "a.h5")[1],
                                      self.perplexity("run/checkpoints", "b.h5")[1])

    # Protects: experts that lie on other ranks compute the same.
    def test_placement(self):
        scores = [self.perplexity("run/checkpoints", f"{placement}.h5", 2, "--parallel.ep", 2,
                                  "--parallel.placement", placement)[1]
                  for placement in ("blocks", "load")]
        np.testing.assert_array_equal(*scores)
        shutil.copytree(self.folder / "run", self.folder / "load")
        self.trained(2, "--train.steps", 9)
        self.trained(2, "--train.steps", 9, "--run.dir", "load", "--parallel.placement", "load")
        np.testing.assert_allclose(harness.column(self.folder / "load/trace.h5", "loss"),
                                   harness.column(self.folder / "run/trace.h5", "loss"), rtol=1e-5)

    # Protects: a change is the same on any ranks, and so is what is trained from it.
    @harness.in_turn
    def test_layouts(self):
        actions = {"add": (), "clone": ("--experts.count", 2), "remove": (), "promote": ()}
        pools = {"add": "rrrrssr", "clone": "rrrrssrr"}
        before = self.perplexity("run/checkpoints", "before.h5")[0]
        for action, arguments in actions.items():
            with self.subTest(action):
                one = self.change(action, f"{action}1", *arguments)
                expected = harness.tensors(one)
                two = self.change(action, f"{action}2", *arguments, "--parallel.ep", 2,
                                  "--parallel.zero", 1, ranks=2)
                tp = self.change(action, f"{action}3", *arguments, "--parallel.tp", 2,
                                 "--parallel.pp", 2, ranks=4)
                folded = self.change(action, f"{action}4", *arguments, "--parallel.tp", 2,
                                     "--parallel.expert_tp", 1, "--parallel.placement", "load", ranks=2)
                for other in (two, tp, folded):
                    found = harness.tensors(other)
                    self.assertEqual(found.keys(), expected.keys())
                    for name, values in expected.items():
                        np.testing.assert_array_equal(found[name], values, err_msg=name)
                for pool in self.pool(one):
                    self.assertEqual(pool, pools.get(action, pool))
                perplexity = self.perplexity(f"{action}1", f"{action}.h5")[0]
                self.assertTrue(np.isfinite(perplexity))
                if action == "clone":  # two of a kind share what one had
                    self.assertLess(abs(perplexity / before - 1), 0.05)
                losses = []
                for ep in (1, 2, 4):
                    if ep == 4 and action == "remove":
                        continue  # 3 regular experts
                    run = f"{action}-ep{ep}"
                    self.trained(ep, "--run.dir", run, "--checkpoint.resume", f"{action}1",
                                 "--train.steps", STEP + 4, "--parallel.ep", ep)
                    self.assert_sound(f"{run}/checkpoints", f"{run}/trace.h5")
                    losses.append(harness.column(self.folder / run / "trace.h5", "loss"))
                    self.assertEqual(len(losses[-1]), 4)
                    np.testing.assert_allclose(losses[-1], losses[0], rtol=1e-5)

    # Protects: what is asked and cannot be is refused, and nothing is overwritten.
    def test_refusals(self):
        def refused(code, *words, action="remove", out="out", arguments=()):
            result = self.run_job(0, "experts", action, "run/checkpoints", out, *arguments)
            self.assert_fault(result, code, *words)
            self.assertFalse((self.folder / "out").exists())
        refused(64, "layer 0", "regular experts would be left", arguments=("--experts.count", 3))
        refused(64, "no expert 9", arguments=("--experts.source", 9))
        refused(64, "grow", "clone", action="grow")
        refused(73, "exists", out="run/checkpoints")
        self.assert_fault(self.run_job(0, "experts", "add", "run/checkpoints"), 64, "PATH OUT")

    def control(self, text):
        """Never seen half-written, which would be refused."""
        (self.folder / "control.new").write_text(text)
        (self.folder / "control.new").rename(self.folder / "control")

    def steered(self, run, *arguments, ranks=2):
        return self.trained(ranks, "--run.dir", run, "--run.control", "control", *arguments)

    def assert_changed_at(self, run, step, experts):
        """The trace has the event once, and columns that are absent before the step."""
        self.assertEqual(self.kinds(run), [(step, "experts")])
        trace = self.folder / run / "trace.h5"
        state = harness.column(trace, "expert_state")
        self.assertEqual(state.shape[2], experts)
        steps = harness.column(trace, "step")
        np.testing.assert_array_equal(state[steps <= step][:, :, 6:], 0)
        np.testing.assert_array_equal(state[steps > step][:, :, 6:], 1)
        self.assert_sound(f"{run}/trace.h5", f"{run}/checkpoints")

    # Protects: a file of run.control is done once between two steps, whether the job goes on, is
    # killed before the new experts are saved, or between that save and the file's new name.
    def test_control(self):
        shutil.copytree(self.folder / "run", self.folder / "whole")
        self.control("clone --experts.count 2\nremove\n")
        self.steered("whole")
        self.assert_changed_at("whole", STEP, 8)
        self.assertEqual(sorted(p.name for p in self.folder.glob("control*")), ["control.done"])
        whole = harness.column(self.folder / "whole/trace.h5", "loss")
        self.assertEqual(len(whole), 20)
        last = harness.tensors(self.checkpoint(20, "whole"))

        def assert_same(run):
            np.testing.assert_array_equal(harness.column(self.folder / run / "trace.h5", "loss"), whole)
            for name, values in harness.tensors(self.checkpoint(20, run)).items():
                np.testing.assert_array_equal(values, last[name], err_msg=name)

        # Killed at some time behind the change.
        shutil.copytree(self.folder / "run", self.folder / "killed")
        self.control("clone --experts.count 2\nremove\n")
        child = self.start(2, "train", "--config", "config.cfg", "--run.dir", "killed",
                           "--run.control", "control")
        for line in child.stdout:
            if "copies" in line:
                break
        self.end(child)
        self.steered("killed")
        self.assertTrue((self.folder / "control.done").exists())
        assert_same("killed")

        # Killed between the save and the name: the first save with the new experts is there.
        shutil.copytree(self.folder / "run", self.folder / "between")
        self.control("clone --experts.count 2\nremove\n")
        self.steered("between", "--train.steps", STEP + 1)
        os.rename(self.folder / "control.done", self.folder / "control")
        self.steered("between")
        self.assertTrue((self.folder / "control.done").exists())
        self.assertFalse((self.folder / "control").exists())
        self.assert_changed_at("between", STEP, 8)
        assert_same("between")

    # Protects: a stop and a new start behind a change leave no trace in the numbers.
    def test_resume(self):
        for run in ("whole", "parts"):
            shutil.copytree(self.folder / "run", self.folder / run)
        self.control("add\npromote --experts.source 5\n")
        self.steered("whole")
        self.control("add\npromote --experts.source 5\n")
        self.steered("parts", "--train.steps", 11)
        self.steered("parts")
        np.testing.assert_array_equal(harness.column(self.folder / "parts/trace.h5", "loss"),
                                      harness.column(self.folder / "whole/trace.h5", "loss"))
        self.assertEqual(self.pool(self.checkpoint(20, "parts")), ["rrrrsrr"] * 2)

    # Protects: the same in the middle of a run, and after pipeline stages have other layers.
    def test_between_steps(self):
        child = self.start(2, "train", "--config", "config.cfg", "--run.dir", "run", "--run.control",
                           "control", "--train.steps", 10**6, "--train.decay_steps", 10**6,
                           "--checkpoint.allow", "train.decay_steps", "--parallel.pp", 2,
                           "--parallel.ep", 1, "--checkpoint.every", 50)
        self.wait_for(lambda: self.newest_step() >= 50, "the first checkpoint")
        self.control("remove --experts.source 0\n")
        self.wait_for(lambda: (self.folder / "control.done").exists(), "the change")
        os.kill(self.process_of(1), signal.SIGTERM)  # it ends as it should, with whole rows
        child.communicate(timeout=harness.LIMIT)
        step, message = next((s, m) for s, kind, m in self.events("run") if kind == "experts")
        self.assertIn("layer 0: 0 retired; layer 1: 0 retired", message)
        self.assertGreater(step, 50)
        self.assertGreater(self.newest_step(), step)
        trace = self.folder / "run/trace.h5"
        later = harness.column(trace, "step") > step
        np.testing.assert_array_equal(harness.column(trace, "expert_state")[later][:, :, 0], 3)
        np.testing.assert_array_equal(harness.column(trace, "expert_tokens")[later][:, :, 0], 0)
        self.assert_sound("run/trace.h5", "run/checkpoints")

    # Protects: a file that cannot be done harms nothing: it is set aside with the reason.
    def test_refused_control(self):
        for text, word in (("grow\n", "control:1"), ("remove --experts.count 3\n", "top_k"),
                           ("add --train.lr 1\n", "train.lr")):
            with self.subTest(text):
                self.control(text)
                shutil.rmtree(self.folder / "other", ignore_errors=True)
                shutil.copytree(self.folder / "run", self.folder / "other")
                result = self.steered("other", "--train.steps", STEP + 2)
                self.assertIn(word, result.text)
                self.assertEqual(self.kinds("other"), [(STEP, "control_refused")])
                self.assertFalse((self.folder / "control").exists())
                self.assertTrue((self.folder / "control.refused").exists())
        # Which expert the loads choose shows when it is done: the second line cannot be done then.
        self.control("remove --experts.count 1\n")
        shutil.copytree(self.folder / "run", self.folder / "chosen")
        self.steered("chosen", "--train.steps", STEP + 2)
        message = next(m for _, kind, m in self.events("chosen") if kind == "experts")
        chosen = next(number for number in re.findall(r"layer \d: (\d+) retired", message)
                      if number != "0")
        self.control(f"remove --experts.count 1\nremove --experts.source {chosen}\n")
        shutil.rmtree(self.folder / "other")
        shutil.copytree(self.folder / "run", self.folder / "other")
        result = self.steered("other", "--train.steps", STEP + 2)
        self.assertIn(f"expert {chosen} is retired", result.text)
        self.assertEqual(self.kinds("other"), [(STEP, "control_refused")])
        self.assertTrue((self.folder / "control.refused").exists())
        self.assertEqual(self.newest_step("other"), STEP + 2)
        self.control("add\n")
        result = self.trained(2, "--train.steps", 2, "--run.dir", "", "--run.control", "control")
        self.assertIn("needs run.dir or checkpoint.dir", result.text)
        self.assertTrue((self.folder / "control.refused").exists())
