"""Hugging Face folders: scored, trained from, converted both ways, and refused where they are damaged."""
import json
import os
import pathlib
import shutil
import signal
import struct

import h5py
import numpy as np

import harness

FAMILIES = harness.ROOT / "tests/golden/families"
LAYOUTS = {"mixtral": ["--parallel.ep", 2], "qwen2_moe": ["--parallel.pp", 2],
           "qwen3_moe": ["--parallel.tp", 2], "olmoe": ["--parallel.tp", 2, "--parallel.expert_tp", 1],
           "deepseek_v2": ["--parallel.tp", 2], "deepseek_v2_yarn": ["--parallel.pp", 2],
           "deepseek_v3": ["--parallel.ep", 2], "deepseek_v3_fp8": ["--parallel.tp", 2],
           "gpt_oss": ["--parallel.tp", 2]}


def stored(folder):
    """The tensors of a folder, each as (dtype, shape, bytes)."""
    tensors = {}
    for path in sorted(pathlib.Path(folder).glob("*.safetensors")):
        data = path.read_bytes()
        length = struct.unpack("<Q", data[:8])[0]
        for name, entry in json.loads(data[8:8 + length]).items():
            if name != "__metadata__":
                begin, end = (8 + length + at for at in entry["data_offsets"])
                tensors[name] = (entry["dtype"], tuple(entry["shape"]), data[begin:end])
    return tensors


class Folders(harness.EndToEnd):
    def setUp(self):
        super().setUp()
        for name in LAYOUTS:
            shutil.copytree(FAMILIES / name, self.folder / name)

    def corpus_of(self, name):
        """The oracle's tokens as a bare shard, a row a document."""
        with h5py.File(self.folder / name / "oracle.h5") as oracle:
            tokens = oracle["input_ids"][()]
            logprobs, loss = oracle["logprobs"][()], float(oracle["loss"][()])
            vocabulary = oracle["logits"].shape[2]
        with h5py.File(self.folder / f"{name}.h5", "w") as shard:
            shard.attrs.update({"schema": "moesaic-corpus", "version": 1, "vocab_size": vocabulary})
            shard["tokens"] = tokens.ravel().astype("u2")
            shard["documents/offsets"] = (np.arange(len(tokens) + 1) * tokens.shape[1]).astype("u8")
        return logprobs.ravel(), loss

    def scores(self, ranks, model, corpus, *arguments):
        out = f"scores-{pathlib.Path(model).name}-{ranks}.h5"
        result = self.run_job(ranks, "score", "--model.path", model, "--data.corpus", corpus,
                              "--score.output", out, "--run.precision", "fp32", *arguments)
        self.assertEqual(result.code, 0, result.text)
        with h5py.File(self.folder / out) as file:
            return file["tokens/logprob"][()]

    # Protects: a folder of any family is scored as transformers computes it, on any kind of layout.
    def test_score(self):
        for name, layout in LAYOUTS.items():
            with self.subTest(name):
                expected, _ = self.corpus_of(name)
                np.testing.assert_allclose(self.scores(1, name, f"{name}.h5"), expected, atol=2e-4)
                np.testing.assert_allclose(self.scores(2, name, f"{name}.h5", *layout), expected,
                                           atol=2e-4)

    # Protects: a context that neighbours have in common is computed once, and nothing changes by it.
    def test_shared_contexts(self):
        rng = np.random.default_rng(5)
        for name in ("qwen3_moe", "deepseek_v2", "mixtral"):  # the last has a sliding window
            with self.subTest(name):
                contexts = rng.integers(0, 67, (3, 20))
                pairs = [np.concatenate([contexts[c], rng.integers(0, 67, 3 + n)])
                         for c in range(3) for n in range(4)]
                mixed = [c * 4 + n for n in range(4) for c in range(3)]  # no two neighbours share
                scores, tokens = [], []
                for order, file in ((range(12), "sorted.h5"), (mixed, "mixed.h5")):
                    with h5py.File(self.folder / file, "w") as shard:
                        shard.attrs.update({"schema": "moesaic-corpus", "version": 1, "vocab_size": 67})
                        rows = [pairs[i] for i in order]
                        shard["tokens"] = np.concatenate(rows).astype("u2")
                        shard["documents/offsets"] = np.cumsum([0] + [len(r) for r in rows]).astype("u8")
                        shard["documents/context"] = np.full(12, 20, "u8")
                    result = self.run_job(2, "score", "--model.path", name, "--data.corpus", file,
                                          "--score.output", f"of-{name}-{file}", "--run.precision", "fp32")
                    self.assertEqual(result.code, 0, result.text)
                    with h5py.File(self.folder / f"of-{name}-{file}") as out:
                        sums = np.empty(12)
                        sums[list(order)] = out["documents/logprob"][()]
                        scores.append(sums)
                    with h5py.File(self.folder / f"of-{name}-{file[:-3]}.trace.h5") as trace:
                        tokens.append(trace["tokens"][()].sum())
                np.testing.assert_allclose(scores[0], scores[1], atol=2e-4)
                # The last of 20 tokens is read again, and the rest is shared in pairs.
                saved = 0 if name == "mixtral" else 3 * 3 * 18
                self.assertEqual(tokens[1] - tokens[0], saved)

    # Protects: a checkpoint made of a folder scores the same bits, and a folder made of that one has
    # the same tensors.
    @harness.in_turn
    def test_there_and_back(self):
        for name in LAYOUTS:
            with self.subTest(name):
                self.corpus_of(name)
                result = self.run_job(2, "convert", name, f"{name}-checkpoint")
                self.assertEqual(result.code, 0, result.text)
                self.assert_sound(f"{name}-checkpoint")
                np.testing.assert_array_equal(
                    self.scores(1, f"{name}-checkpoint", f"{name}.h5"),
                    self.scores(1, name, f"{name}.h5"))
                result = self.run_job(2, "convert", f"{name}-checkpoint", f"{name}-back",
                                      "--convert.dtype", "fp32")
                self.assertEqual(result.code, 0, result.text)
                before, after = stored(self.folder / name), stored(self.folder / f"{name}-back")
                if name != "deepseek_v3_fp8":  # which comes back dequantised
                    self.assertEqual(before, after)
                np.testing.assert_array_equal(self.scores(1, f"{name}-back", f"{name}.h5"),
                                              self.scores(1, name, f"{name}.h5"))

    # Protects: quantized, a checkpoint made of a folder scores the bits that the folder does with
    # run.quantize: tied tables, latent attention, biases and all.
    @harness.in_turn
    def test_quantized(self):
        for name in LAYOUTS:
            with self.subTest(name):
                self.corpus_of(name)
                result = self.run_job(1, "convert", name, f"{name}-few", "--convert.quantize", "int4",
                                      "--convert.calibration", f"{name}.h5")
                self.assertEqual(result.code, 0, result.text)
                result = self.run_job(2, "convert", name, f"{name}-few-2", "--convert.quantize",
                                      "int4", *LAYOUTS[name])
                self.assertEqual(result.code, 0, result.text)
                self.assert_sound(f"{name}-few", f"{name}-few-2")
                result = self.run_job(2, "score", "--model.path", f"{name}-few", "--data.corpus",
                                      f"{name}.h5", "--score.output", f"{name}-cost.h5",
                                      "--score.reference", name, "--score.reference_detail", "both",
                                      *LAYOUTS[name])
                self.assertEqual(result.code, 0, result.text)
                np.testing.assert_array_equal(
                    self.scores(1, f"{name}-few-2", f"{name}.h5"),
                    self.scores(1, name, f"{name}.h5", "--run.quantize", "int4"))

    # Protects: fp16 holds what it can, and a weight beyond it is named, in both kinds of output.
    def test_half_precision(self):
        keys = ["--convert.dtype", "fp16"]
        for to in ("hf", "moesaic"):
            result = self.run_job(1, "convert", "mixtral", f"half-{to}", "--convert.to", to, *keys)
            self.assertEqual(result.code, 0, result.text)
            self.assert_sound(f"half-{to}")
        self.assertEqual({dtype for dtype, _, _ in stored(self.folder / "half-hf").values()}, {"F16"})
        model = self.folder / "mixtral/model.safetensors"
        data = bytearray(model.read_bytes())
        length = struct.unpack("<Q", data[:8])[0]
        name = "model.layers.1.block_sparse_moe.experts.2.w3.weight"
        begin = 8 + length + json.loads(data[8:8 + length])[name]["data_offsets"][0]
        data[begin:begin + 4] = struct.pack("<f", 70000.0)
        model.write_bytes(bytes(data))
        for to in ("hf", "moesaic"):
            result = self.run_job(1, "convert", "mixtral", f"large-{to}", "--convert.to", to, *keys)
            self.assert_fault(result, 77, "experts.2.", "70000")
            self.assertFalse((self.folder / f"large-{to}/step-00000000").exists())
            self.assertFalse((self.folder / f"large-{to}/config.json").exists())

    # Protects: training begins where the folder ends, and its checkpoints become folders again.
    def test_training_continues(self):
        for name in ("gpt_oss", "deepseek_v3"):
            with self.subTest(name):
                _, loss = self.corpus_of(name)
                config = json.loads((self.folder / f"{name}/config.json").read_text())
                (self.folder / f"{name}/config.json").write_text(
                    json.dumps({**config, "eos_token_id": [5, 9]}))
                (self.folder / f"{name}/tokenizer_config.json").write_text('{"a": 1}')
                keys = {"model.path": name, "data.corpus": f"{name}.h5", "data.seq_len": 39,
                        "train.batch": 2, "train.micro_batch": 2, "train.steps": 3,
                        "train.decay_steps": 3, "run.dir": f"{name}-run", "train.warmup": 1,
                        "parallel.ep": 2}
                keys.update({key: None for key in harness.KEYS if key.startswith("model.")
                             and key not in keys})
                (self.folder / "from.cfg").write_text(harness.config(keys))
                result = self.run_job(2, "train", "--config", "from.cfg")
                self.assertEqual(result.code, 0, result.text)
                with h5py.File(self.folder / f"{name}-run/trace.h5") as trace:
                    losses = trace["lm_loss"][()]
                self.assertAlmostEqual(losses[0], loss, delta=0.05)  # of all but each row's last
                self.assertLess(losses[-1], losses[0])
                # What lay beside the model comes from the checkpoint then.
                (self.folder / f"{name}/tokenizer_config.json").unlink()
                result = self.run_job(2, "train", "--config", "from.cfg", "--train.steps", 4,
                                      "--checkpoint.allow", "train.steps", "--checkpoint.keep", 1)
                self.assertEqual(result.code, 0, result.text)
                result = self.run_job(1, "convert", f"{name}-run/checkpoints", f"{name}-tuned")
                self.assertEqual(result.code, 0, result.text)
                tuned = json.loads((self.folder / f"{name}-tuned/config.json").read_text())
                self.assertEqual((tuned["model_type"], tuned["eos_token_id"]), (name, [5, 9]))
                self.assertEqual(
                    (self.folder / f"{name}-tuned/tokenizer_config.json").read_text(), '{"a": 1}')
                self.assertEqual({dtype for dtype, _, _ in stored(self.folder / f"{name}-tuned").values()},
                                 {"BF16", "F32"} if name == "deepseek_v3" else {"BF16"})

    # Protects: what lies beside a model comes along to a checkpoint and back, with the tokens that
    # begin and end a text.
    def test_sidecar_files(self):
        beside = {"generation_config.json": '{"bos_token_id": 3, "eos_token_id": [5, 9]}',
                  "tokenizer_config.json": '{"model_max_length": 64}'}
        for name, text in beside.items():
            (self.folder / "mixtral" / name).write_text(text)
        for source, made in (("mixtral", "ours"), ("ours", "back")):
            result = self.run_job(1, "convert", source, made)
            self.assertEqual(result.code, 0, result.text)
        self.assert_sound("ours", "back")
        for name, text in beside.items():
            self.assertEqual((self.folder / "back" / name).read_text(), text)
        config = json.loads((self.folder / "back/config.json").read_text())
        self.assertEqual((config["bos_token_id"], config["eos_token_id"]), (3, [5, 9]))

    # Protects: a model that computes something else than the original does not stay.
    def test_failed_check(self):
        model = self.folder / "mixtral/model.safetensors"
        data = bytearray(model.read_bytes())
        length = struct.unpack("<Q", data[:8])[0]
        begin, end = (8 + length + place for place in
                      json.loads(data[8:8 + length])["lm_head.weight"]["data_offsets"])
        logits = np.frombuffer(data[begin:end], "f4")  # which int4 then misses by whole nats
        data[begin:end] = (200 * logits).tobytes()
        model.write_bytes(bytes(data))
        result = self.run_job(2, "convert", "mixtral", "few", "--convert.quantize", "int4")
        self.assert_fault(result, 76, "few", "it is removed")
        self.assertEqual(list((self.folder / "few").iterdir()), [])
        # What a killed conversion left makes way; anything else beside it does not.
        for name in (".unfinished", "model-00001-of-00002.safetensors", "merges.txt.tmp"):
            (self.folder / "few" / name).write_text("")
        (self.folder / "few/notes.txt").write_text("mine")
        for to in ("hf", "moesaic"):
            result = self.run_job(1, "convert", "mixtral", "few", "--convert.to", to)
            self.assert_fault(result, 73, "few: is not empty")
        (self.folder / "few/notes.txt").unlink()
        result = self.run_job(1, "convert", "mixtral", "few", "--convert.to", "moesaic")
        self.assertEqual(result.code, 0, result.text)
        self.assertEqual({path.name for path in (self.folder / "few").iterdir()},
                         {"latest", "step-00000000"})

    # Protects: neither does a copy that cannot be read back.
    def test_unreadable_copy(self):
        for made, once, at in (("ours", "ours/latest", "*/ours/*.h5"),
                               ("hf", "hf/config.json", "*/hf/*.safetensors")):
            child = self.start(2, "convert", "mixtral", made, "--convert.to",
                               "moesaic" if made == "ours" else "hf",
                               wrapper=self.stopping(once, at, FAULT_RANK=1))
            self.wait_for(lambda: len(harness.processes_of(self.folder)) == 2, "both ranks")
            rank = self.process_of(1)
            self.wait_for(lambda: harness.is_stopped(rank), "the check")
            for path in (self.folder / made).rglob(at.rpartition("/")[2]):
                harness.truncate(path)
            os.kill(rank, signal.SIGCONT)
            out = child.communicate(timeout=harness.LIMIT)[0]
            self.assertEqual(child.returncode, 65, out)
            self.assertIn("the copy cannot be read back, and is removed", out)
            self.assertEqual(list((self.folder / made).iterdir()), [])

    # Protects: the tokens that end a text come along to a checkpoint and back.
    def test_end_tokens(self):
        with h5py.File(self.folder / "mixtral/oracle.h5") as oracle:
            prompt, tokens = oracle["generation/prompt"][()], oracle["generation/tokens"][()]
        with h5py.File(self.folder / "prompt.h5", "w") as shard:
            shard.attrs.update({"schema": "moesaic-corpus", "version": 1, "vocab_size": 67})
            shard["tokens"] = prompt.astype("u2")
            shard["documents/offsets"] = np.array([0, len(prompt)], "u8")
        ends = [int(tokens[5]), 66 if int(tokens[5]) != 66 else 65]
        config = json.loads((self.folder / "mixtral/config.json").read_text())
        (self.folder / "mixtral/config.json").write_text(json.dumps({**config, "eos_token_id": ends}))
        for source, made in (("mixtral", "ours"), ("ours", "back")):
            result = self.run_job(1, "convert", source, made, "--convert.dtype", "fp32")
            self.assertEqual(result.code, 0, result.text)
        self.assertEqual(json.loads((self.folder / "back/config.json").read_text())["eos_token_id"], ends)
        for model in ("mixtral", "ours", "back"):
            result = self.run_job(1, "generate", "--model.path", model, "--data.corpus", "prompt.h5",
                                  "--generate.output", f"{model}.h5", "--run.precision", "fp32")
            self.assertEqual(result.code, 0, result.text)
            row = json.loads((self.folder / f"{model}.jsonl").read_text())
            first = next(i for i, token in enumerate(tokens) if token in ends)
            self.assertEqual((row["reason"], row["tokens"]), ("eos", first + 1), model)

    # Protects: a corpus whose ids mean other texts is refused; another file of the same is not.
    def test_other_tokenizer(self):
        tokenizer = {"version": "1.0", "added_tokens": [], "normalizer": None, "post_processor": None,
                     "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
                     "decoder": {"type": "ByteLevel"},
                     "model": {"type": "BPE", "merges": [],
                               "vocab": {chr(33 + i): i for i in range(67)}}}
        (self.folder / "mixtral/tokenizer.json").write_text(json.dumps(tokenizer))
        vocab = tokenizer["model"]["vocab"]
        (self.folder / "same").mkdir()
        (self.folder / "same/tokenizer.json").write_text(json.dumps(tokenizer, indent=1))
        (self.folder / "other").mkdir()
        tokenizer["model"]["vocab"] = {text: 66 - i for text, i in vocab.items()}
        (self.folder / "other/tokenizer.json").write_text(json.dumps(tokenizer))
        (self.folder / "letters.txt").write_text("ABCABCABABAABCBC")
        for name, code in (("same", 0), ("other", 65)):
            made = self.run_job(0, "tokenize", "--tokenize.input", "letters.txt", "--tokenize.output",
                                f"{name}-corpus", "--tokenize.tokenizer", name, "--tokenize.eos", 0)
            self.assertEqual(made.code, 0, made.text)
            for job in ("score", "generate"):
                result = self.run_job(1, job, "--model.path", "mixtral", "--data.corpus",
                                      f"{name}-corpus", f"--{job}.output", f"{name}-{job}.h5",
                                      "--run.precision", "fp32")
                self.assertEqual(result.code, code, result.text)
                self.assertEqual("another tokenizer" in result.err, code == 65, result.text)

    # Protects: what no family can hold is refused by its key; outputs are never overwritten.
    def test_refusals(self):
        self.trained(2, "--train.steps", 5)
        result = self.run_job(1, "convert", "run/checkpoints", "out")
        self.assert_fault(result, 64, "model.shared_experts")
        self.assertFalse((self.folder / "out").exists())
        result = self.run_job(1, "convert", "mixtral", "mixtral", "--convert.to", "hf")
        self.assert_fault(result, 73, "mixtral: is not empty")
        for to in ("hf", "moesaic"):  # whatever lies there
            (self.folder / "own").mkdir(exist_ok=True)
            (self.folder / "own/tokenizer.json").write_text("mine")
            result = self.run_job(2, "convert", "mixtral", "own", "--convert.to", to)
            self.assert_fault(result, 73, "own: is not empty")
            self.assertEqual((self.folder / "own/tokenizer.json").read_text(), "mine")
            result = self.run_job(1, "convert", "mixtral", "own/tokenizer.json", "--convert.to", to)
            self.assert_fault(result, 73, "tokenizer.json")
            result = self.run_job(1, "convert", "mixtral", "own/tokenizer.json/out", "--convert.to", to)
            self.assert_fault(result, 73, "own/tokenizer.json/out")
        result = self.run_job(1, "convert", "run/checkpoints", "out", "--convert.to", "moesaic")
        self.assert_fault(result, 64, "is a checkpoint of moesaic already")

    # Protects: verify reads every number and what lies beside them.
    def test_verify(self):
        self.assert_sound(*LAYOUTS)
        model = self.folder / "olmoe/model.safetensors"
        data = bytearray(model.read_bytes())
        data[-4:] = struct.pack("<f", float("nan"))
        model.write_bytes(bytes(data))
        (self.folder / "olmoe/tokenizer.json").write_text('{"model":')
        (self.folder / "olmoe/generation_config.json").write_text('{"eos_token_id": "x"}')
        result = self.run_job(0, "verify", "olmoe")
        self.assertEqual(result.code, 65, result.text)
        for word in ("3 problems", "nan", "tokenizer.json", "eos_token_id"):
            self.assertIn(word, result.out)

    # Protects: a damaged folder ends in one clear message, whatever is wrong with it.
    def test_damage(self):
        self.corpus_of("mixtral")
        model = self.folder / "mixtral/model.safetensors"
        whole = model.read_bytes()
        length = struct.unpack("<Q", whole[:8])[0]
        header = json.loads(whole[8:8 + length])

        def with_header(changed):
            text = json.dumps(changed).encode()
            model.write_bytes(struct.pack("<Q", len(text)) + text + whole[8 + length:])

        def fault(*words):
            result = self.run_job(2, "score", "--model.path", "mixtral", "--data.corpus", "mixtral.h5",
                                  "--score.output", "s.h5")
            self.assert_fault(result, 65, *words)
            self.assertFalse((self.folder / "s.h5").exists())

        model.write_bytes(whole[:-100])
        fault("model.safetensors")
        model.write_bytes(struct.pack("<Q", 1 << 40) + whole[8:])
        fault("model.safetensors")
        name = "model.layers.1.block_sparse_moe.experts.2.w3.weight"
        renamed = {("spare" if key == name else key): entry for key, entry in header.items()}
        with_header(renamed)
        fault(name, "spare")
        data = bytearray(whole)
        begin = 8 + length + header[name]["data_offsets"][0]
        data[begin:begin + 4] = struct.pack("<f", float("nan"))
        model.write_bytes(bytes(data))
        fault(name, "nan")
        model.write_bytes(whole)
        config = json.loads((self.folder / "mixtral/config.json").read_text())
        (self.folder / "mixtral/config.json").write_text(json.dumps({**config, "new_feature": 3}))
        fault("new_feature", "config.json")


if __name__ == "__main__":
    harness.unittest.main()
