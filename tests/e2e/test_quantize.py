"""Checkpoints whose weights are stored quantized: what convert.quantize writes is what run.quantize
computes with, any reader can decode it, and what cannot be done with it is refused."""
import json

import h5py
import numpy as np

import harness
from test_readme import blocks

BLOCK, GROUP = 256, 32
# Columns enough for slices of tp = 2 to be block-aligned in the experts' down; not so in attention.
MODEL = {"model.expert_d_ff": 512, "model.d_model": 64, "model.experts": 4, "train.steps": 10,
         "train.decay_steps": 10}
PACKABLE = ("_proj.weight", "lm_head.weight")


def decode(group):
    """The weights that one block's codes stand for, as tensor/quantized.h says."""
    codes, scales = group["codes"][()], group["scales"][()]
    if group.attrs["type"] in (b"int8", "int8"):
        level = codes.astype(np.int64)
    else:
        both = np.stack([codes & 15, codes >> 4], axis=-1).reshape(len(codes), -1).astype(np.int64)
        step = np.repeat(group["steps"][()].astype(np.int64), GROUP, axis=1)[:, :both.shape[1]]
        level = both[:, :step.shape[1]] * step[:, :, 0] + step[:, :, 1]
    scale = np.repeat(scales, BLOCK, axis=1)[:, :level.shape[1]]
    return scale * (level - 128).astype(np.float32)


def tensors(folder):
    """Every tensor of a checkpoint by name: (type, values)."""
    manifest = json.loads((folder / "manifest.json").read_text())
    found = {}
    for name, tensor in manifest["tensors"].items():
        (block,) = tensor["blocks"]
        kind = block.get("type", "fp32")
        with h5py.File(folder / block["part"]) as part:
            data = part[block["dataset"]]
            if kind in ("int8", "int4"):
                values = decode(data)[:, :tensor["shape"][1]]
            elif kind == "fp16":
                values = data[()].view(np.float16).astype(np.float32)
            elif kind == "bf16":
                values = (data[()].astype(np.uint32) << 16).view(np.float32)
            else:
                values = data[()]
        found[name] = (kind, values.reshape(tensor["shape"]))
    return found


class Quantize(harness.Trained):
    keys = MODEL

    def convert(self, ranks, out, *arguments, precision="fp32"):
        result = self.run_job(ranks, "convert", "run/checkpoints", out, "--run.precision", precision,
                              *arguments)
        self.assertEqual(result.code, 0, result.text)
        return result

    def logprobs(self, ranks, model, output, *arguments):
        self.score(output, *arguments, ranks=ranks, model=model)
        with h5py.File(self.folder / output) as file:
            return file["tokens/logprob"][()]

    # Protects: the checkpoint computes bit for bit what the original does with run.quantize, with no
    # key; its bytes do not depend on the ranks that made it; and it is small.
    def test_computes_what_run_quantize_does(self):
        for kind, most in (("int8", 9.5), ("int4", 6.0)):
            with self.subTest(kind):
                result = self.convert(1, kind, "--convert.quantize", kind, "--convert.dtype", "bf16")
                self.assertRegex(result.out, r"weights: .* in fp32 -> .* bits each")
                self.convert(1, f"{kind}-exact", "--convert.quantize", kind)
                self.convert(2, f"{kind}-2", "--convert.quantize", kind, "--parallel.ep", 2)
                self.assert_sound(kind, f"{kind}-2")
                one = tensors(self.folder / f"{kind}-exact/step-00000000")
                two = tensors(self.folder / f"{kind}-2/step-00000000")
                self.assertEqual(one.keys(), two.keys())
                for name, (stored, values) in one.items():
                    self.assertEqual(stored, kind if name.endswith(PACKABLE) else "fp32", name)
                    np.testing.assert_array_equal(values, two[name][1], err_msg=name)
                np.testing.assert_array_equal(
                    self.logprobs(1, f"{kind}-exact", f"{kind}.h5"),
                    self.logprobs(1, "run/checkpoints", f"{kind}-run.h5", "--run.quantize", kind))
                generate = ["generate", "--data.corpus", "corpus/heldout", "--run.precision", "fp32",
                            "--generate.max_tokens", 5]
                texts = []
                for model, keys in ((f"{kind}-exact", []), ("run/checkpoints", ["--run.quantize", kind])):
                    output = f"{kind}-{len(texts)}"
                    made = self.run_job(1, *generate, "--model.path", model, "--generate.output",
                                        f"{output}.h5", *keys)
                    self.assertEqual(made.code, 0, made.text)
                    texts.append((self.folder / f"{output}.jsonl").read_text())
                self.assertEqual(*texts)
                sizes = json.loads((self.folder / kind / "step-00000000/manifest.json").read_text())
                weights = sum(np.prod(t["shape"]) for name, t in sizes["tensors"].items()
                              if name.endswith(PACKABLE))
                bytes_there = sum(
                    data.size * data.dtype.itemsize for data in self.arrays(kind, PACKABLE))
                self.assertLess(8 * bytes_there / weights, most)

    def arrays(self, model, names):
        folder = self.folder / model / "step-00000000"
        manifest = json.loads((folder / "manifest.json").read_text())
        for name, tensor in manifest["tensors"].items():
            if name.endswith(names):
                block = tensor["blocks"][0]
                with h5py.File(folder / block["part"]) as part:
                    yield from [data[()] for data in part[block["dataset"]].values()]

    # Protects: numpy alone decodes the weights, which are as near as the codes allow.
    def test_decodes_with_numpy(self):
        original = harness.tensors(self.checkpoint(10))
        for kind, error in (("int8", 0.012), ("int4", 0.12)):
            self.convert(1, kind, "--convert.quantize", kind, "--convert.dtype", "fp16")
            for name, (stored, values) in tensors(self.folder / f"{kind}/step-00000000").items():
                w = original[name]
                if name.endswith(PACKABLE):
                    self.assertEqual(stored, kind)
                    self.assertLess(np.linalg.norm(values - w), error * np.linalg.norm(w), name)
                else:
                    self.assertEqual(stored, "fp16" if "gate.load" not in name and
                                     "previous_load" not in name else "fp32", name)
                    np.testing.assert_allclose(values, w, rtol=1e-3, atol=1e-7, err_msg=name)

    # Protects: the lines of analysis/README.md that decode a tensor do.
    def test_decodes_as_the_readme_says(self):
        readme = (harness.ROOT / "analysis/README.md").read_text(encoding="utf-8")
        (lines,) = blocks(readme, "Quantised tensors", "python")
        name = "model.layers.1.mlp.experts.2.down_proj.weight"
        for kind in ("int8", "int4"):
            self.convert(1, kind, "--convert.quantize", kind)
            folder = self.folder / kind / "step-00000000"
            with h5py.File(folder / "part-00000.h5") as part:
                names = {"np": np, "group": part[f"{name}[0,0]"]}
                exec(lines, names)  # pylint: disable=exec-used
            np.testing.assert_array_equal(names["w"], tensors(folder)[name][1])

    # Protects: any layout reads it; where slices are block-aligned with the very codes.
    def test_layouts(self):
        for kind, bound in (("int8", 0.02), ("int4", 0.25)):
            self.convert(1, kind, "--convert.quantize", kind)
            one = self.logprobs(1, kind, f"{kind}.h5")
            np.testing.assert_allclose(
                self.logprobs(2, kind, f"{kind}-ep.h5", "--parallel.ep", 2), one, atol=1e-5)
            split = self.logprobs(2, kind, f"{kind}-tp.h5", "--parallel.tp", 2)
            self.assertLess(np.abs(split - one).mean(), bound)

    # Protects: calibration changes the codes of int4, and finds the same in every layout.
    @harness.in_turn
    def test_calibration(self):
        keys = ["--convert.quantize", "int4", "--convert.calibration", "corpus/train"]
        result = self.convert(1, "one", *keys)
        self.assertRegex(result.out, r"calibration: .* tokens, perplexity")
        self.convert(2, "ep", *keys, "--parallel.ep", 2)
        self.convert(2, "tp", *keys, "--parallel.tp", 2)
        self.convert(2, "folded", *keys, "--parallel.tp", 2, "--parallel.expert_tp", 1)
        self.convert(2, "pp", *keys, "--parallel.pp", 2)
        self.convert(1, "bf16", *keys, precision="bf16")
        self.assert_sound("bf16")
        self.convert(1, "plain", "--convert.quantize", "int4")
        self.assert_sound("one", "folded")
        one, plain = (tensors(self.folder / f"{name}/step-00000000") for name in ("one", "plain"))
        for name, (kind, values) in one.items():
            if kind == "int4":
                self.assertTrue((values != plain[name][1]).any(), name)
        for layout in ("ep", "tp", "folded", "pp"):
            other = tensors(self.folder / f"{layout}/step-00000000")
            for name, (_, values) in one.items():
                same = np.isclose(values, other[name][1], atol=1e-7).mean()
                self.assertGreater(same, 0.98, f"{name} with {layout}")

    # Protects: experts without tokens are told, in one line for each layer.
    def test_experts_that_met_few_tokens(self):
        harness.write_text(self.folder / "few.jsonl", 4, seed=9)
        made = self.run_job(0, "tokenize", "--tokenize.input", "few.jsonl", "--tokenize.output", "few")
        self.assertEqual(made.code, 0, made.text)
        result = self.convert(1, "out", "--convert.quantize", "int4", "--convert.calibration", "few")
        lines = [line for line in result.err.splitlines() if "fewer than 256 tokens" in line]
        self.assertLessEqual(len(lines), 2)
        self.assertGreaterEqual(len(lines), 1)
        self.assertRegex(lines[0], r"model\.layers\.[01]: \d of its experts met fewer")

    # Protects: 16 bits for a checkpoint to train from.
    def test_sixteen_bits(self):
        for kind in ("fp16", "bf16"):
            self.convert(1, kind, "--convert.to", "moesaic", "--convert.dtype", kind)
            self.assert_sound(kind)
            stored = {k for k, _ in tensors(self.folder / f"{kind}/step-00000000").values()}
            self.assertEqual(stored, {kind, "fp32"})
            result = self.train(1, "--model.path", kind, "--run.dir", f"of-{kind}",
                                "--train.steps", 1, "--parallel.ep", 1)
            self.assertEqual(result.code, 0, result.text)

    # Protects: what quantized weights cannot do is refused, and the message says what to use instead.
    def test_refusals(self):
        self.convert(1, "few", "--convert.quantize", "int4")
        original = "that it was made of"
        self.assert_fault(self.train(1, "--model.path", "few", "--run.dir", "r", "--parallel.ep", 1),
                          64, "int4", original)
        self.assert_fault(self.train(1, "--checkpoint.resume", "few", "--run.dir", "r",
                                     "--parallel.ep", 1), 64, "int4", original)
        for arguments in (["convert", "few", "hf"], ["convert", "few", "again", "--convert.quantize", "int8"],
                          ["experts", "clone", "few", "grown"],
                          ["score", "--model.path", "few", "--data.corpus", "corpus/heldout",
                           "--score.output", "s.h5", "--run.quantize", "int8"]):
            self.assert_fault(self.run_job(1, *arguments), 64, "int4", original)
        self.assert_fault(self.run_job(1, "convert", "run/checkpoints", "hf", "--convert.quantize",
                                       "int4", "--convert.to", "hf"), 64, "convert.to = hf")
        self.assert_fault(self.run_job(1, "convert", "run/checkpoints", "o", "--convert.quantize",
                                       "int8", "--convert.calibration", "corpus/train"),
                          64, "convert.calibration", "int8")

    # Protects: a flipped bit is found, and told with file and tensor.
    def test_damage(self):
        self.convert(1, "few", "--convert.quantize", "int4")
        part = self.folder / "few/step-00000000/part-00000.h5"
        with h5py.File(part) as file:
            name = next(name for name in file if name.startswith("lm_head"))
            at = file[name]["codes"].id.get_offset()
        harness.flip_bit(part, at + 3)
        for arguments in (["verify", "few"],
                          ["score", "--model.path", "few", "--data.corpus", "corpus/heldout",
                           "--score.output", "s.h5"]):
            result = self.run_job(1, *arguments)
            self.assertEqual(result.code, 65, result.text)
            self.assertIn("lm_head.weight", result.text)
            self.assertIn("part-00000.h5", result.text)
