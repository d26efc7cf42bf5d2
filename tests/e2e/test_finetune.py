"""Fine-tuning: frozen tensors keep every bit on any layout, checkpoints of what was trained name their
base, adapters resume, merge and leave as PEFT folders, and gradients and moments take what plan says."""
import json
import re
import shutil

import h5py
import numpy as np

import harness

# Ranks, and what differs.
LAYOUTS = [(1, []), (1, ["--train.recompute", 1]), (2, ["--parallel.ep", 2]), (2, ["--parallel.pp", 2]),
           (2, ["--parallel.tp", 2, "--parallel.sequence", 1]),
           (4, ["--parallel.tp", 2, "--parallel.ep", 2, "--parallel.zero", 1])]
LAST_TWO = ["--train.trainable", "last:2,head"]
ADAPTERS = ["--adapter.rank", 3, "--adapter.targets", "q_proj,v_proj,experts"]
TRAINED_BYTES = ("trained_elements", "gradient_bytes", "moment_bytes")


def weights(folder):
    return {name: values for name, values in harness.tensors(folder).items() if "/" not in name}


class Finetune(harness.Trained):
    keys = {"model.layers": 4, "train.steps": 10, "train.decay_steps": 10, "parallel.ep": 1}

    def tune(self, ranks, run, *arguments):
        return self.trained(ranks, "--model.path", "run/checkpoints", "--run.dir", run, *arguments)

    def assert_same(self, one, other):
        self.assertEqual(one.keys(), other.keys())
        for name, values in one.items():
            np.testing.assert_array_equal(values, other[name], err_msg=name)

    def scores(self, output, *arguments, **settings):
        self.score(output, *arguments, **settings)
        return harness.column(self.folder / output, "tokens/logprob")

    def family(self, name):
        """The folder of a published family; small.h5 has tokens for it."""
        folder = harness.ROOT / "tests/golden/families" / name
        size = json.loads((folder / "config.json").read_text())["vocab_size"]
        with h5py.File(self.folder / "small.h5", "w") as file:
            file.attrs["schema"], file.attrs["version"], file.attrs["vocab_size"] = "moesaic-corpus", 1, size
            file["tokens"] = np.random.default_rng(1).integers(0, size, 500).astype("u2")
            file["documents/offsets"] = np.array([0, 500], "u8")
        return folder

    def made_by(self, job, output, *arguments):
        """The dataset that a job is for, which has run on one rank."""
        result = self.run_job(1, job, *arguments, f"--{job}.output", output)
        self.assertEqual(result.code, 0, result.text)
        return harness.column(self.folder / output, {"score": "tokens/logprob", "generate": "tokens/token"}[job])

    # Protects: a frozen tensor is copied from its base, never from the copy in bf16 that products
    # read; on every layout.
    def test_frozen_tensors_keep_every_bit(self):
        before = weights(self.checkpoint(10))
        losses = []
        for number, (ranks, keys) in enumerate(LAYOUTS):
            run = f"frozen{number}"
            self.tune(ranks, run, "--run.precision", "bf16", "--train.steps", 50, *LAST_TWO, *keys)
            after = weights(self.checkpoint(50, run))
            self.assertEqual(after.keys(), before.keys())
            for name, values in after.items():
                frozen = not re.match(r"model\.layers\.[23]\.|lm_head", name)
                self.assertEqual(np.array_equal(values, before[name]), frozen, (run, name))
            losses.append(harness.column(self.folder / run / "trace.h5", "lm_loss"))
        for loss in losses[1:]:
            np.testing.assert_allclose(loss, losses[0], rtol=5e-3)

    # Protects: what is frozen has neither gradients nor moments, and the trace says what the others take.
    def test_trained_bytes(self):
        elements = {}
        for name, keys in (("all", []), ("last", LAST_TWO), ("head", ["--train.trainable", "head"]),
                           ("adapters", ADAPTERS), ("narrow", [*ADAPTERS, "--train.moments", "bf16"])):
            self.tune(2, name, "--train.steps", 1, "--parallel.pp", 2, *keys)
            with h5py.File(self.folder / name / "trace.h5") as trace:
                count, gradients, moments = (trace.attrs[one] for one in TRAINED_BYTES)
            elements[name] = count[1]
            self.assertTrue((4 * count <= gradients).all() and (gradients < 4.2 * count + 4096).all())
            np.testing.assert_array_equal(moments, gradients * (1 if name == "narrow" else 2))
        # width 32, vocabulary 257; q, v and the experts of four layers
        self.assertEqual(elements["head"], 257 * 32)
        self.assertEqual(elements["adapters"], 4 * 3 * (2 * 32 * 2 + 4 * 3 * 2 * 32))
        self.assertLess(elements["last"], 0.6 * elements["all"])

    # Protects: a checkpoint of what was trained is as good as a whole one, while its base is there.
    def test_checkpoints_of_what_was_trained(self):
        for run, content in (("part", "trained"), ("whole", "all")):
            self.tune(2, run, "--parallel.ep", 2, "--checkpoint.content", content, *LAST_TWO)
        part, whole = self.checkpoint(10, "part"), self.checkpoint(10, "whole")
        trained = weights(part)
        self.assertFalse([name for name in trained if re.match(r"model\.layers\.[01]\..*_proj", name)])
        for name, values in trained.items():
            np.testing.assert_array_equal(values, weights(whole)[name], err_msg=name)
        judged = self.run_job(0, "verify", part)
        self.assertIn("of what was trained", judged.text)
        self.assertIn(f"from {self.checkpoint(10)} (step 10, lm, ", judged.text)
        copy = self.run_job(1, "convert", part, "copy", "--convert.to", "moesaic", "--convert.check", 0)
        self.assertEqual(copy.code, 0, copy.text)
        self.assert_same(weights(self.folder / "copy/step-00000000"), weights(whole))
        # A run that goes on gets to the same bits.
        shutil.copytree(self.folder / "part", self.folder / "again")
        shutil.rmtree(self.checkpoint(10, "again"))
        self.tune(2, "again", "--parallel.ep", 2, "--checkpoint.content", "trained", *LAST_TWO)
        self.assert_same(harness.tensors(self.checkpoint(10, "again")), harness.tensors(part))

    # Protects: what was trained is never read on top of another base than its own.
    def test_a_base_that_is_gone_or_another_one(self):
        base = self.folder / "base"
        shutil.copytree(self.checkpoint(10), base)
        self.trained(1, "--model.path", base, "--run.dir", "part", "--train.steps", 1,
                     "--checkpoint.content", "trained", *LAST_TWO)
        part = self.checkpoint(1, "part")
        jobs = [["verify", part], ["convert", part, "copy", "--convert.to", "moesaic"],
                ["train", "--config", "config.cfg", "--model.path", part, "--run.dir", "next"]]
        base.rename(self.folder / "aside")
        for job in jobs:
            gone = self.run_job(1, *job)
            self.assertEqual(gone.code, 66, gone.text)
            self.assertIn(f"Its base {base} cannot be read", gone.text)
        shutil.copytree(self.checkpoint(5), base)
        for job in jobs:
            other = self.run_job(1, *job)
            self.assertEqual(other.code, 76, other.text)
            self.assertIn("put the base back there", other.text)
        self.assertFalse((self.folder / "copy").exists() or (self.folder / "next").exists())

    # Protects: adapters go on with the same bits, are added to the weights alike on any ranks, and say
    # the same as model.path, as model.adapter and merged.
    def test_adapters(self):
        for run in ("lora", "cut"):
            self.tune(2, run, "--parallel.ep", 2, *ADAPTERS)
        lora = self.checkpoint(10, "lora")
        trained, before = weights(lora), weights(self.checkpoint(10))
        self.assertFalse([name for name in trained if ".lora_" not in name and ".gate." not in name])
        shutil.rmtree(self.checkpoint(10, "cut"))
        self.tune(2, "cut", "--parallel.ep", 2, *ADAPTERS)
        self.assert_same(harness.tensors(self.checkpoint(10, "cut")), harness.tensors(lora))
        for ranks in (1, 2, 4):
            made = self.run_job(ranks, "convert", lora, f"merged{ranks}", "--convert.to", "moesaic",
                                "--convert.check", 0)
            self.assertEqual(made.code, 0, made.text)
        apart = self.run_job(1, "convert", lora, "apart", "--convert.to", "moesaic", "--convert.merge", 0)
        self.assertEqual(apart.code, 0, apart.text)
        merged = weights(self.folder / "merged1/step-00000000")
        for ranks in (2, 4):
            self.assert_same(weights(self.folder / f"merged{ranks}/step-00000000"), merged)
        changed = 0
        for name, values in merged.items():
            a, b = (trained.get(f"{name.removesuffix('.weight')}.lora_{half}.weight") for half in "AB")
            if a is None:
                np.testing.assert_array_equal(values, before[name], err_msg=name)
            else:
                changed += 1
                np.testing.assert_allclose(values, before[name] + 2 * (b @ a), atol=1e-6, err_msg=name)
        self.assertEqual(changed, 4 * (2 + 4 * 3))
        expected = self.scores("path.h5", model=lora)
        for model in ("merged1", "apart"):
            np.testing.assert_array_equal(self.scores(f"{model}.h5", model=model), expected)
        np.testing.assert_array_equal(self.scores("both.h5", "--model.adapter", lora), expected)
        self.assertFalse(np.array_equal(self.scores("base.h5"), expected))
        # Training goes on from the merged weights, whichever way they are named; new adapters begin anew.
        more = [["--model.path", "merged1"], ["--model.path", lora],
                ["--model.path", "run/checkpoints", "--model.adapter", lora]]
        for number, model in enumerate(more):
            self.trained(1, *model, "--run.dir", f"more{number}", "--train.steps", 3, *ADAPTERS)
            np.testing.assert_array_equal(
                harness.column(self.folder / f"more{number}/trace.h5", "loss"),
                harness.column(self.folder / "more0/trace.h5", "loss"))
        for number in (1, 2):
            np.testing.assert_array_equal(self.scores(f"more{number}.h5", model=f"more{number}/checkpoints"),
                                          self.scores(f"more0{number}.h5", model="more0/checkpoints"))
        judged = self.run_job(0, "verify", self.checkpoint(3, "more2")).text
        self.assertIn(f"{self.checkpoint(10)} with {lora}", judged)

    # Protects: the same adapters, losses and gradients on every layout.
    def test_adapters_on_any_layout(self):
        for number, (ranks, keys) in enumerate(LAYOUTS):
            self.tune(ranks, f"run{number}", "--train.steps", 3, "--router.aux_loss", 0, *ADAPTERS, *keys)
            for name in ("lm_loss", "grad_norm"):
                np.testing.assert_allclose(
                    harness.column(self.folder / f"run{number}/trace.h5", name),
                    harness.column(self.folder / "run0/trace.h5", name), rtol=2e-5)

    # Protects: a model of a published family with adapters becomes a PEFT folder, which is read again.
    def test_a_peft_folder(self):
        folder = self.family("deepseek_v3")
        keys = ["--model.path", folder, "--data.corpus", "small.h5", "--run.precision", "fp32"]
        made = self.run_job(2, "train", *keys, "--run.dir", "peft", "--data.seq_len", 16, "--train.batch", 4,
                            "--train.micro_batch", 2, "--train.steps", 4, "--train.warmup", 1,
                            "--adapter.rank", 2, "--adapter.targets", "all-linear,gate", "--parallel.ep", 2,
                            "--checkpoint.export", "peft")
        self.assertEqual(made.code, 0, made.text)
        written = self.folder / "peft/checkpoints/peft"
        settings = json.loads((written / "adapter_config.json").read_text())
        self.assertEqual((settings["peft_type"], settings["r"], settings["lora_alpha"]), ("LORA", 2, 4))
        merged = self.run_job(1, "convert", "peft/checkpoints", "merged", "--convert.to", "moesaic", "--convert.check",
                              0)
        self.assertEqual(merged.code, 0, merged.text)
        # The latent path of generate reads the merged weights as well.
        for job, more in (("score", ["--score.window", 16]), ("generate", ["--generate.max_tokens", 8])):
            beside = self.made_by(job, f"{job}1.h5", *keys, "--model.adapter", written, *more)
            for model in ("peft/checkpoints", "merged"):
                own = self.made_by(job, f"{job}-{model[:4]}.h5", "--model.path", model, *keys[2:], *more)
                np.testing.assert_array_equal(beside, own, err_msg=model)

    # Protects: a whole folder leaves at the end of a run, and one that cannot is told at the start.
    def test_export(self):
        folder = self.family("mixtral")
        keys = ["--data.corpus", "small.h5", "--run.precision", "fp32"]
        for steps in (1, 2):  # the second run replaces the folder of the first
            made = self.run_job(2, "train", "--model.path", folder, *keys, "--run.dir", "new",
                                "--data.seq_len", 16, "--train.batch", 4, "--train.micro_batch", 2,
                                "--train.steps", steps, "--train.warmup", 1, "--train.decay_steps", 9,
                                "--train.trainable", "last:1", "--checkpoint.export", "hf")
            self.assertEqual(made.code, 0, made.text)
        self.assert_sound("new/checkpoints/hf")
        own = self.made_by("score", "own.h5", "--model.path", "new/checkpoints", *keys, "--score.window", 16)
        left = self.made_by("score", "left.h5", "--model.path", "new/checkpoints/hf", *keys, "--score.window",
                            16)
        self.assertLess(np.mean(np.abs(left - own)), 0.05)  # it is stored in bf16
        refused = self.train(1, "--model.path", "run/checkpoints", "--run.dir", "refused",
                             "--checkpoint.export", "hf")
        self.assertEqual(refused.code, 64, refused.text)
        self.assertEqual(self.newest_step("refused"), -1)

    # Protects: each refusal names the key, what is wrong and what to do.
    def test_refusals(self):
        for keys, code, text in (
                (["--train.trainable", "*.q_porj.*"], 64, "the nearest is model.layers.0.self_attn.q_proj"),
                (["--adapter.rank", 2, "--adapter.targets", "qproj"], 64, "no product that can have"),
                (["--adapter.rank", 2, "--adapter.targets", "lm_head"], 64, "no product that can have"),
                (["--adapter.rank", 2, "--adapter.targets", "*.experts.1.*"], 64, "all or none"),
                (["--checkpoint.export", "peft"], 64, "set adapter.rank"),
                (["--model.adapter", "run/checkpoints"], 65, "a checkpoint without adapters")):
            self.assert_fault(self.train(1, "--model.path", "run/checkpoints", "--run.dir", "new", *keys),
                              code, text)
        self.assert_fault(self.train(1, "--run.dir", "new", "--checkpoint.content", "trained"), 64,
                          "set model.path")
        self.assertEqual(self.newest_step("new"), -1)
