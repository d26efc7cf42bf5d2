"""Evaluation with lm-evaluation-harness: requests as a corpus, and the numbers of its model hf."""
import contextlib
import hashlib
import importlib.util
import io
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest
from unittest import mock

import h5py
import numpy as np

import harness

sys.path.insert(0, str(harness.ROOT / "analysis"))
import engine  # noqa: E402

FAMILIES = harness.ROOT / "tests/golden/families"
HAS_GENERATE = subprocess.run([harness.MOESAIC, "generate", "--help"], env=harness.environment(),
                              capture_output=True).stdout.startswith(b"Usage: moesaic generate")
MISSING = [name for name in ("lm_eval", "transformers", "torch", "accelerate")
           if importlib.util.find_spec(name) is None]


def launcher(ranks):
    return f"mpirun --oversubscribe --bind-to none -n {ranks}" if ranks > 1 else ""


def oracle(name):
    """tokens [B,T], log-probability [B,T-1] of each next one, and whether it is the argmax."""
    with h5py.File(FAMILIES / name / "oracle.h5") as file:
        tokens = file["input_ids"][()]
        is_argmax = file["logits"][()].argmax(axis=2)[:, :-1] == tokens[:, 1:]
        return tokens, file["logprobs"][()], is_argmax


def requests_of(name):
    """Requests cut from the oracle's rows at several places, with what they must be answered."""
    tokens, logprobs, is_argmax = oracle(name)
    requests, answers = [], []
    for row in range(len(tokens)):
        for cut, end in ((20, 26), (1, 40), (39, 40), (20, 23), (5, 6), (20, 26), (20, 21)):
            requests.append((tuple(tokens[row, :cut].tolist()), tuple(tokens[row, cut:end].tolist())))
            answers.append((logprobs[row, cut - 1:end - 1].sum(), is_argmax[row, cut - 1:end - 1].all()))
    return requests, answers


class Requests(harness.EndToEnd):
    def setUp(self):
        super().setUp()
        self.enterContext(mock.patch.dict(os.environ, harness.environment()))
        self.enterContext(contextlib.redirect_stderr(io.StringIO()))  # what the program prints

    def engine(self, name, ranks=1, **changed):
        return engine.Engine(**{"path": str(FAMILIES / name), "vocab_size": 67, "max_length": 256,
                                "binary": harness.MOESAIC, "launcher": launcher(ranks),
                                "keys": {"run.precision": "fp32"}, **changed})

    def assert_answers(self, found, expected):
        np.testing.assert_allclose([value for value, _ in found], [value for value, _ in expected],
                                   atol=1e-3)
        self.assertEqual([greedy for _, greedy in found], [bool(greedy) for _, greedy in expected])

    # Protects: each request gets its own answer, whatever the order and however often it is there.
    def test_answers(self):
        for name, ranks in (("mixtral", 1), ("qwen3_moe", 2)):
            with self.subTest(name):
                requests, expected = requests_of(name)
                self.assert_answers(self.engine(name, ranks).score(requests), expected)

    # Protects: a continuation whose tokens are all the argmax is called so, others are not.
    def test_greedy(self):
        tokens, _, _ = oracle("mixtral")
        with h5py.File(FAMILIES / "mixtral/oracle.h5") as file:
            best = file["logits"][()].argmax(axis=2)
        given = tuple(tokens[0, :20].tolist())
        is_argmax = int(best[0, 19])
        found = self.engine("mixtral").score([(given, (is_argmax,)), (given, ((is_argmax + 1) % 67,))])
        self.assertEqual([greedy for _, greedy in found], [True, False])

    # Protects: what does not fit is cut from the left, and the model reads all that it can.
    def test_truncation(self):
        given, continuation = engine.truncated((tuple(range(20)), (30, 31, 32)), 10)
        self.assertEqual((given, continuation), (tuple(range(12, 20)), (30, 31, 32)))
        self.assertEqual(engine.truncated(((1, 2), (3,) * 10), 10), ((2,), (3,) * 10))
        for request in (((1,), (2,) * 11), ((), (1,)), ((1,), ())):
            with self.assertRaises(engine.EngineError):
                engine.truncated(request, 10)
        tokens, _, _ = oracle("olmoe")
        row = tokens[0].tolist()
        self.assertEqual(self.engine("olmoe", max_length=8).score([(tuple(row[:30]), tuple(row[30:33]))]),
                         self.engine("olmoe").score([(tuple(row[24:30]), tuple(row[30:33]))]))

    # Protects: the corpus keeps the contract, with neighbours that begin alike and small shards.
    def test_corpus(self):
        requests = sorted(set(requests_of("mixtral")[0]))
        corpus = engine.write_requests(self.folder / "requests", requests, 67, shard_tokens=60)
        shards = sorted((self.folder / "requests").iterdir())
        self.assertGreater(len(shards), 3)
        self.assert_sound(*shards)
        read = []
        for shard in shards:
            with h5py.File(shard) as file:
                self.assertLessEqual(len(file["tokens"]), 60)
                offsets, given = file["documents/offsets"][:], file["documents/context"][:]
                for i, count in enumerate(given):
                    document = tuple(file["tokens"][offsets[i]:offsets[i + 1]].tolist())
                    read.append((document[:count], document[count:]))
        self.assertEqual(read, requests)
        result = self.run_job(2, "score", "--model.path", FAMILIES / "mixtral", "--data.corpus", corpus,
                              "--score.output", "scores.h5", "--run.precision", "fp32")
        self.assertEqual(result.code, 0, result.text)
        expected = dict(zip(*requests_of("mixtral")))
        self.assert_answers(engine.read_answers(self.folder / "scores.h5", requests),
                            [expected[request] for request in requests])
        with self.assertRaisesRegex(engine.EngineError, "not the 3 requests"):
            engine.read_answers(self.folder / "scores.h5", requests[:3])

    # Protects: with a workdir the same requests are not computed twice, and others or another model are.
    def test_workdir(self):
        requests, _ = requests_of("mixtral")
        work = self.folder / "work"
        first = self.engine("mixtral", workdir=work).score(requests)
        scores = list(work.glob("*/scores.h5"))
        self.assertEqual(len(scores), 1)
        time = scores[0].stat().st_mtime_ns
        self.assertEqual(self.engine("mixtral", 2, workdir=work).score(requests), first)
        self.assertEqual(scores[0].stat().st_mtime_ns, time)
        self.engine("mixtral", workdir=work).score(requests[:1])
        self.assertEqual(len(list(work.glob("*/scores.h5"))), 2)
        other = self.engine("qwen3_moe", workdir=work).score(requests)
        self.assertEqual(other, self.engine("qwen3_moe").score(requests))
        self.assertNotEqual(other, first)

    # Protects: a failure shows the program's exit code and message; nothing else is mistaken for one.
    def test_failures(self):
        (self.folder / "empty").mkdir()
        request = [((1, 2), (3,))]
        for code, words, changed in (
                (64, "parallel.ep", {"keys": {"parallel.ep": 7}}),
                (66, "nowhere", {"path": str(self.folder / "nowhere")}),
                (69, "no program at", {"binary": str(self.folder / "absent")}),
                (69, "no-such-launcher", {"launcher": "no-such-launcher -n 2"}),
                (137, "exit code 137", {"launcher": "sh -c 'kill -KILL $$' --"})):
            with self.subTest(words):
                with self.assertRaisesRegex(engine.EngineError, words) as raised:
                    self.engine("mixtral", **changed).score(request)
                self.assertEqual(raised.exception.code, code)
        with self.assertRaisesRegex(engine.EngineError, "vocabulary of 67"):
            self.engine("mixtral").score([((1, 2), (67,))])
        with self.assertRaisesRegex(engine.EngineError, "no model at"):
            engine.model_keys(self.folder / "empty")
        self.assertEqual(self.engine("mixtral").score([]), [])

    # Protects: prompts keep their tokenizer's file and hash, so that stop strings can be found.
    def test_vocabulary(self):
        one = self.engine("mixtral")
        manifest = one.vocabulary(self.folder, harness.ROOT / "tests/golden/tokenizers/qwen2.json")
        engine.write_requests(self.folder / "requests", [((1, 2), ()), ((3,), ())], 67, manifest)
        shard = self.folder / "requests/requests-00000-of-00001.h5"
        self.assert_sound(shard)
        with h5py.File(shard) as file:
            self.assertEqual(file.attrs["tokenizer"], b"tokenizer.json")
            content = (self.folder / "requests/tokenizer.json").read_bytes()
            self.assertEqual(file.attrs["vocab_sha256"].decode(), hashlib.sha256(content).hexdigest())
            self.assertEqual(file["documents/context"][:].tolist(), [2, 1])
        (self.folder / "other").mkdir()
        (self.folder / "other.json").write_text('{"model": {"type": "Nothing"}}', encoding="utf-8")
        self.assertIsNone(one.vocabulary(self.folder / "other", self.folder / "other.json"))

    # Protects: texts reach the program as they are, whatever is in them.
    def test_quoted(self):
        self.assertEqual([engine.quoted(value) for value in (2, True, "a/b.h5", 'a "$x\\', "\n,")],
                         ["2", "1", "a/b.h5", '"a \\"\\$x\\\\"', '"\n,"'])

    # Protects: who stops the evaluation stops the program, which can end well.
    def test_stop(self):
        script = "trap 'touch stopped; kill $!; exit 75' USR1; echo begin; sleep 60 >/dev/null & wait"
        self.enterContext(contextlib.chdir(self.folder))
        with mock.patch("builtins.print", side_effect=KeyboardInterrupt):
            with self.assertRaises(KeyboardInterrupt):
                self.engine("mixtral", launcher=f'sh -c "{script}" --').score([((1,), (2,))])
        self.assertTrue((self.folder / "stopped").exists())

    # Protects: greedy continuations are those of transformers, and end behind a stop string.
    @unittest.skipUnless(HAS_GENERATE, "this program has no job generate")
    def test_generate(self):
        with h5py.File(FAMILIES / "mixtral/oracle.h5") as file:
            prompt = file["generation/prompt"][()].ravel().tolist()
            tokens = file["generation/tokens"][()].ravel().tolist()
        for ranks in (1, 2):
            found = self.engine("mixtral", ranks).generate([prompt, prompt[:3], prompt],
                                                           {"max_tokens": len(tokens)})
            self.assertEqual([found[0], found[2]], [tokens, tokens])
            self.assertEqual(len(found[1]), len(tokens))

    # Protects: who lacks the harness is told what to install.
    def test_missing_packages(self):
        (self.folder / "lm_eval.py").write_text("raise ImportError('nothing here')\n", encoding="utf-8")
        done = subprocess.run([sys.executable, harness.ROOT / "analysis/lm_eval_moesaic.py"], text=True,
                              env={**os.environ, "PYTHONPATH": str(self.folder)}, capture_output=True)
        self.assertEqual(done.returncode, 69)
        self.assertIn("nothing here: pip install lm_eval transformers h5py", done.stderr)

    # Protects: vocabulary and length are found for folders and for checkpoints.
    def test_model_keys(self):
        self.assertEqual(engine.model_keys(FAMILIES / "mixtral"), (67, 256))
        result = self.run_job(1, "convert", FAMILIES / "mixtral", "checkpoint")
        self.assertEqual(result.code, 0, result.text)
        self.assertEqual(engine.model_keys(self.folder / "checkpoint"), (67, 256))


CHOICE = """
task: local_choice
dataset_path: json
dataset_kwargs: {data_files: {train: shots.json, test: choice.json}}
output_type: multiple_choice
training_split: train
test_split: test
num_fewshot: 3
doc_to_text: "Question: {{question}}\\nAnswer:"
doc_to_choice: "{{choices}}"
doc_to_target: "{{gold}}"
metric_list: [{metric: acc}, {metric: acc_norm}]
"""
NEXT = """
task: local_next
dataset_path: json
dataset_kwargs: {data_files: {test: next.json}}
output_type: loglikelihood
test_split: test
doc_to_text: "{{context}}"
doc_to_target: "{{next}}"
target_delimiter: ""
metric_list: [{metric: acc}, {metric: perplexity}]
"""
TEXT = """
task: local_text
dataset_path: json
dataset_kwargs: {data_files: {test: text.json}}
output_type: loglikelihood_rolling
test_split: test
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: word_perplexity}, {metric: byte_perplexity}, {metric: bits_per_byte}]
"""
ANSWER = """
task: local_answer
dataset_path: json
dataset_kwargs: {data_files: {test: choice.json}}
output_type: generate_until
test_split: test
doc_to_text: "Question: {{question}}\\nAnswer:"
doc_to_target: "{{choices[0]}}"
generation_kwargs: {until: ["e", "\\n\\n"], max_gen_toks: 20}
metric_list: [{metric: exact_match}]
"""
SCORED = ["local_choice", "local_next", "local_text"]
TASKS = {"local_choice": CHOICE, "local_next": NEXT, "local_text": TEXT, "local_answer": ANSWER}
MAX_LENGTH = 96  # shorter than contexts of three shots and than texts


def passages():
    """Texts of 18 words each, always the same."""
    words = (harness.ROOT / "LICENSE").read_text(encoding="utf-8").split()
    return [" ".join(words[i:i + 18]) for i in range(0, len(words) - 17, 18)]


def make_model(folder, family):
    """A tiny random model of a family with a tokenizer of its own, and the greedy tokens' text after
    some contexts."""
    import torch
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(passages(), trainers.BpeTrainer(
        vocab_size=1000, special_tokens=["<|end|>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>")
    torch.manual_seed(5)
    shape = {"vocab_size": 1000, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
             "num_attention_heads": 4, "num_key_value_heads": 2, "num_experts_per_tok": 2,
             "max_position_embeddings": MAX_LENGTH, "initializer_range": 0.3, "eos_token_id": 0,
             "bos_token_id": None}
    if family == "mixtral":
        config = transformers.MixtralConfig(num_local_experts=8, **shape)
        model = transformers.MixtralForCausalLM(config)
    else:
        config = transformers.Qwen3MoeConfig(num_experts=8, moe_intermediate_size=32, head_dim=16, **shape)
        model = transformers.Qwen3MoeForCausalLM(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    following = []
    for line in passages()[40:48]:
        tokens = tokenizer.encode(line[:60])
        with torch.no_grad():
            best = model(torch.tensor([tokens])).logits[0, -1].argmax()
        following.append({"context": line[:60], "next": tokenizer.decode([int(best)])})
    return following


def write_tasks(folder, following):
    lines = passages()
    choice = [{"question": line[:50], "choices": [" " + words[5], " " + " ".join(words[5:9]), " no"],
               "gold": number % 3} for number, line in enumerate(lines[:20]) for words in [line.split()]]
    rows = {"shots": choice[12:], "choice": choice[:12],
            "text": [{"text": " ".join(lines[i:i + 4])} for i in range(0, 12, 4)] + [{"text": "one"}],
            "next": [*following, {"context": "", "next": "the"}, {"context": "rank ", "next": "of"}]}
    for name, values in rows.items():
        (folder / f"{name}.json").write_text("\n".join(map(json.dumps, values)), encoding="utf-8")
    for name, text in TASKS.items():
        for file in rows:
            text = text.replace(f"{file}.json", str(folder / f"{file}.json"))
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")


def answers_of(samples):
    """document -> its requests, and a row of numbers for the answer to each."""
    found = {}
    for sample in samples:
        rows = [[float({"True": 1, "False": 0}.get(value, value)) for value in np.ravel(response[0])]
                for response in sample["resps"]]
        found[sample["doc_id"]] = (sample["arguments"], np.array(rows))
    return found


@unittest.skipIf(MISSING, f"this python has no {', '.join(MISSING)}")
class Harness(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="moesaic-e2e-")).resolve()
        self.addCleanup(shutil.rmtree, self.folder)
        offline = {"HF_DATASETS_OFFLINE": "1", "HF_HUB_OFFLINE": "1", "HF_HOME": str(self.folder / "hf")}
        self.enterContext(mock.patch.dict(os.environ, {**harness.environment(), **offline}))

    def evaluate(self, tasks, model, *arguments):
        """Runs the command line: the metrics, and the samples of each task."""
        out = pathlib.Path(tempfile.mkdtemp(dir=self.folder))
        script = [harness.ROOT / "analysis/lm_eval_moesaic.py"] if model == "moesaic" else ["-m", "lm_eval"]
        done = subprocess.run([sys.executable, *script, "--model", model, "--model_args", *arguments,
                               "--tasks", ",".join(tasks), "--include_path", self.folder,
                               "--output_path", out, "--log_samples", "--device", "cpu"],
                              capture_output=True, text=True, cwd=self.folder)
        self.assertEqual(done.returncode, 0, done.stderr)
        samples = {task: [json.loads(line) for line in
                          next(out.rglob(f"samples_{task}_*")).read_text().splitlines()]
                   for task in tasks}
        metrics = {f"{task} {name}": value for task, values in
                   json.loads(next(out.rglob("results_*.json")).read_text())["results"].items()
                   for name, value in values.items() if isinstance(value, float)}
        return metrics, samples

    def both(self, family, tasks, ranks):
        """What the harness' own model finds, and what ours does."""
        model = self.folder / "model"
        if not model.is_dir():
            write_tasks(self.folder, make_model(model, family))
        return (self.evaluate(tasks, "hf", f"pretrained={model},dtype=float32"),
                self.evaluate(tasks, "moesaic", f"path={model},precision=fp32,parallel.ep={ranks}",
                              f"launcher={launcher(ranks)}", f"binary={harness.MOESAIC}"))

    def compare(self, family, ranks):
        (metrics, samples), (ours, found) = self.both(family, SCORED, ranks)
        for task in SCORED:
            answers, mine = answers_of(samples[task]), answers_of(found[task])
            self.assertEqual(mine.keys(), answers.keys())
            for number, (arguments, rows) in answers.items():
                self.assertEqual(mine[number][0], arguments)
                np.testing.assert_allclose(mine[number][1], rows, atol=2e-3, rtol=0,
                                           err_msg=f"{task} {number}")
        greedy = [row[1] for _, rows in answers_of(samples["local_next"]).values() for row in rows]
        self.assertEqual({0, 1}, set(greedy))
        self.assertEqual(ours.keys(), metrics.keys())
        for name, value in metrics.items():
            self.assertAlmostEqual(ours[name], value, delta=1e-4 * abs(value), msg=name)

    # Protects: every answer and every metric is that of the harness' own model, on any ranks.
    def test_mixtral(self):
        self.compare("mixtral", 1)

    def test_qwen3_moe(self):
        self.compare("qwen3_moe", 2)

    # Protects: so is every generated text, with its stop strings and its room for the context.
    @unittest.skipUnless(HAS_GENERATE, "this program has no job generate")
    def test_generate(self):
        (metrics, samples), (ours, found) = self.both("mixtral", ["local_answer"], 2)
        self.assertEqual(ours, metrics)
        texts = [(sample["doc_id"], sample["resps"]) for sample in samples["local_answer"]]
        self.assertEqual([(sample["doc_id"], sample["resps"]) for sample in found["local_answer"]], texts)
        self.assertGreater(len({str(text) for _, text in texts}), 6)


if __name__ == "__main__":
    unittest.main()
