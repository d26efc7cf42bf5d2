"""score.reference: what quantized weights cost, against the original model in memory."""
import h5py
import numpy as np

import harness


class ScoreReference(harness.Trained):
    keys = {"train.steps": 10, "train.decay_steps": 10}

    def read(self, output):
        with h5py.File(self.folder / output) as file:
            tokens = {name: data[()] for name, data in file["tokens"].items()}
            return dict(file.attrs), tokens

    # Protects: the model against itself is no different at any token, and the job says so.
    def test_against_itself(self):
        result = self.score("same.h5", "--score.reference", "fp32")
        attributes, tokens = self.read("same.h5")
        self.assertEqual(attributes["divergence_max"], 0.0)
        self.assertEqual(attributes["agreement"], 1.0)
        self.assertEqual(attributes["reference_perplexity"], attributes["perplexity"])
        np.testing.assert_array_equal(tokens["logprob"], tokens["reference_logprob"])
        self.assertIn("KL divergence 0 nats a token, at most 0\n", result.out)
        self.assertIn("same top-1 token 100.00 %", result.out)
        again = self.score("same.h5", "--score.reference", "fp32")
        self.assertIn("already scored", again.out)
        self.assertIn("same top-1 token 100.00 %", again.out)
        self.assert_sound("same.h5")

    # Protects: int4 costs more than int8; the attributes are what numpy makes of the columns; the
    # numbers are those of two runs apart, and of stored codes against their original.
    def test_quantized(self):
        self.score("plain.h5")
        mean = {}
        for kind in ("int8", "int4"):
            self.score(f"{kind}.h5", "--run.quantize", kind, "--score.reference", "fp32")
            attributes, tokens = self.read(f"{kind}.h5")
            mean[kind] = attributes["divergence_mean"]
            self.assertAlmostEqual(tokens["divergence"].astype(float).mean(), mean[kind], places=9)
            self.assertEqual(tokens["divergence"].max(), attributes["divergence_max"])
            self.assertAlmostEqual(tokens["agrees"].mean(), attributes["agreement"], places=9)
            self.assertAlmostEqual(np.exp(-tokens["reference_logprob"].astype(float).mean()),
                                   attributes["reference_perplexity"], places=5)
            self.assertGreaterEqual(tokens["divergence"].min(), 0.0)
            np.testing.assert_array_equal(tokens["reference_logprob"],
                                          self.read("plain.h5")[1]["logprob"])
            self.score(f"{kind}-alone.h5", "--run.quantize", kind)
            np.testing.assert_array_equal(tokens["logprob"],
                                          self.read(f"{kind}-alone.h5")[1]["logprob"])
            made = self.run_job(1, "convert", "run/checkpoints", kind, "--convert.quantize", kind)
            self.assertEqual(made.code, 0, made.text)
            self.score(f"{kind}-stored.h5", "--score.reference", "run/checkpoints", model=kind)
            np.testing.assert_array_equal(tokens["divergence"],
                                          self.read(f"{kind}-stored.h5")[1]["divergence"])
            self.score(f"{kind}-2.h5", "--run.quantize", kind, "--score.reference", "fp32",
                       "--parallel.ep", 2, ranks=2)
            np.testing.assert_allclose(self.read(f"{kind}-2.h5")[1]["divergence"],
                                       tokens["divergence"], rtol=1e-2, atol=1e-7)
        self.assertLess(0.0, mean["int8"])
        self.assertLess(mean["int8"], 0.1 * mean["int4"])

    # Protects: details by layer and by expert, in the file and at the end of the job, also where
    # parts are joined.
    def test_details(self):
        result = self.score("details.h5", "--run.quantize", "int4", "--score.reference", "bf16",
                            "--score.reference_detail", "both", "--parallel.ep", 2, ranks=2)
        self.assertRegex(result.out, r"layer 1 +\S+ +\S+ +\S+ of expert \d on \d+ tokens\n")
        self.assertRegex(result.out, r"head +\S+\n")
        with h5py.File(self.folder / "details.h5") as file:
            layers = file["layers/divergence"][()]
            errors, squares, tokens = (file[f"experts/{name}"][()]
                                       for name in ("errors", "squares", "tokens"))
            total = file.attrs["divergence"]
        self.assertTrue((layers > 0).all(), layers)
        self.assertLess(layers.max(), 2 * total)
        self.assertEqual(errors.shape, tokens.shape)
        got = tokens > 0
        share = errors[got] / squares[got]
        self.assertTrue((share > 1e-4).all() and (share < 0.1).all(), share)
        self.assert_sound("details.h5")
        for name, damaged in (("errors", errors[:, 1:]), ("errors", np.where(got, np.nan, errors)),
                              ("squares", -squares), ("tokens", tokens + 0.5)):
            with h5py.File(self.folder / "details.h5", "a") as file:
                whole = file[f"experts/{name}"][()]
                del file[f"experts/{name}"]
                file[f"experts/{name}"] = damaged
            result = self.run_job(0, "verify", "details.h5")
            self.assertEqual(result.code, 65, result.text)
            self.assertRegex(result.out, "details.h5: /experts")
            with h5py.File(self.folder / "details.h5", "a") as file:
                del file[f"experts/{name}"]
                file[f"experts/{name}"] = whole
        self.assert_sound("details.h5")

    # Protects: what cannot be compared is refused with what to do.
    def test_refusals(self):
        made = self.run_job(1, "convert", "run/checkpoints", "few", "--convert.quantize", "int4")
        self.assertEqual(made.code, 0, made.text)
        score = ["score", "--data.corpus", "corpus/heldout", "--score.output", "s.h5"]
        self.assert_fault(self.run_job(1, *score, "--model.path", "few", "--score.reference", "bf16"),
                          64, "int4", "that it was made of")
        self.assert_fault(self.run_job(1, *score, "--model.path", "run/checkpoints",
                                       "--score.reference_detail", "layers"), 64,
                          "score.reference_detail = layers")
        self.assert_fault(self.run_job(1, *score, "--model.path", "run/checkpoints",
                                       "--score.reference", "nowhere"), 66, "nowhere")
