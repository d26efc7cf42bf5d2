"""With run.deterministic scores and continuations are the same bits on any layout and in any batch;
over tp the tokens are the same."""
import random

import h5py
import numpy as np

import harness

PRECISIONS = [["--run.precision", precision, "--run.quantize", quantize]
              for precision in ("fp32", "bf16") for quantize in ("none", "int8", "int4")]
FAMILY = harness.ROOT / "tests/golden/families/deepseek_v3"
# Ranks, what a batch holds, and the layout.
LAYOUTS = [
    (1, 1, []),
    (1, 7, []),
    (2, 7, []),
    (2, 1, ["--parallel.ep", 2]),
    (2, 32, ["--parallel.pp", 2]),
    (4, 7, ["--parallel.ep", 2, "--parallel.pp", 2]),
]


def write_documents(path, vocab_size, longest, seed):
    """Questions with four answers each, which share their context, and long texts."""
    choose = random.Random(seed)
    lengths, given, tokens = [], [], []

    def draw(count):
        return [choose.randrange(vocab_size) for _ in range(count)]

    for question in range(8):
        context = draw(choose.choice([3, 20, 63, 64, 65, 90, longest // 2]))
        for _ in range(4):
            answer = draw(choose.randint(1, 9))
            tokens += context + answer
            lengths.append(len(context) + len(answer))
            given.append(len(context))
        if question % 3 == 0:
            lengths.append(choose.randint(longest, 3 * longest))
            tokens += draw(lengths[-1])
            given.append(0)
    with h5py.File(path, "w") as file:
        file.attrs["schema"], file.attrs["version"] = "moesaic-corpus", 1
        file.attrs["vocab_size"] = vocab_size
        file["tokens"] = np.array(tokens, "u2")
        file["documents/offsets"] = np.cumsum([0] + lengths).astype("u8")
        file["documents/context"] = np.array(given, "u8")
        file["documents/bytes"] = np.array(lengths, "u8")


def contents(path):
    """Every dataset, and the attributes that are results."""
    with h5py.File(path) as file:
        names = []
        file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset)
                        else None)
        found = {name: file[name][()].tobytes() for name in names}
        found |= {name: np.float64(value).tobytes() for name, value in file.attrs.items()
                  if name in ("perplexity", "bits_per_byte", "tokens")}
    return found


class Exact(harness.EndToEnd):
    def run_jobs(self, ranks, batch, name, model, keys):
        """What score and generate make of score.h5 and generate.h5, by name."""
        outputs = {}
        for job in ("score", "generate"):
            output = self.folder / f"{job}-{name}.h5"
            result = self.run_job(
                ranks, job, "--model.path", model, "--data.corpus", f"{job}.h5", f"--{job}.output",
                output, f"--{job}.batch", batch, *keys)
            self.assertEqual(result.code, 0, result.text)
            outputs |= {f"{job} {name}": value for name, value in contents(output).items()}
        return outputs

    def check(self, model, vocab_size, longest, keys):
        write_documents(self.folder / "score.h5", vocab_size, longest, seed=3)
        write_documents(self.folder / "generate.h5", vocab_size, longest // 3, seed=4)
        keys = [*keys, "--run.deterministic", 1, "--generate.max_tokens", 12]
        whole = self.run_jobs(1, 32, "whole", model, keys)
        self.assertGreater(len(whole), 15)
        for number, (ranks, batch, layout) in enumerate(LAYOUTS):
            with self.subTest(f"{ranks} ranks {layout}, batches of {batch}, {keys}"):
                found = self.run_jobs(ranks, batch, number, model, [*keys, *layout])
                self.assertEqual([name for name in whole if found.get(name) != whole[name]], [])
                self.assertEqual(len(found), len(whole))
        if "fp32" in keys:  # over tp sums have other terms
            found = self.run_jobs(2, 7, "tp", model, [*keys, "--parallel.tp", 2])
            for name in ("score documents/greedy", "generate tokens/token"):
                self.assertEqual(found[name], whole[name], f"{name} over tp, {keys}")

    def trained_model(self):
        self.trained(2, "--train.steps", 12, "--model.max_seq", 160, "--data.seq_len", 80,
                     "--model.kv_heads", 1, "--model.experts", 6, "--router.task_gate", 1,
                     "--router.capacity", 64, "--router.spare_experts", 2, "--router.overflow",
                     "spare")
        return "run/checkpoints"

    # Protects: what a rank computes for a document depends on no other document and on no other rank.
    @harness.in_turn
    def test_reference_model(self):
        model = self.trained_model()
        for keys in PRECISIONS:
            self.check(model, 257, 160, keys)

    # Protects: the same for latent attention, also where it is computed from a cache.
    @harness.in_turn
    def test_latent_attention(self):
        for keys in PRECISIONS:
            self.check(FAMILY, 67, 256, keys)
