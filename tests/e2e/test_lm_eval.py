"""Evaluation with lm-evaluation-harness: requests as a corpus, and the numbers of its model hf."""
import contextlib
import importlib.util
import io
import json
import os
import subprocess
import sys
import unittest
from unittest import mock

import h5py
import numpy as np

import harness

sys.path.insert(0, str(harness.ROOT / "analysis"))
import engine  # noqa: E402

FAMILIES = harness.ROOT / "tests/golden/families"
MISSING = [name for name in ("lm_eval", "transformers", "torch", "accelerate")
           if importlib.util.find_spec(name) is None]


def launcher(ranks):
    return f"mpirun --oversubscribe -n {ranks}" if ranks > 1 else ""


def oracle(name):
    """tokens [B,T], log-probability [B,T-1] of each next one, and whether it is the likeliest."""
    with h5py.File(FAMILIES / name / "oracle.h5") as file:
        tokens = file["input_ids"][()]
        likeliest = file["logits"][()].argmax(axis=2)[:, :-1] == tokens[:, 1:]
        return tokens, file["logprobs"][()], likeliest


def requests_of(name):
    """Requests cut from the oracle's rows at several places, with what they must be answered."""
    tokens, logprobs, likeliest = oracle(name)
    requests, answers = [], []
    for row in range(len(tokens)):
        for cut, end in ((20, 26), (1, 40), (39, 40), (20, 23), (5, 6), (20, 26), (20, 21)):
            requests.append((tuple(tokens[row, :cut].tolist()), tuple(tokens[row, cut:end].tolist())))
            answers.append((logprobs[row, cut - 1:end - 1].sum(), likeliest[row, cut - 1:end - 1].all()))
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

    # Protects: a continuation whose tokens are all the likeliest ones is called so, others are not.
    def test_greedy(self):
        tokens, _, _ = oracle("mixtral")
        with h5py.File(FAMILIES / "mixtral/oracle.h5") as file:
            best = file["logits"][()].argmax(axis=2)
        given = tuple(tokens[0, :20].tolist())
        likeliest = int(best[0, 19])
        found = self.engine("mixtral").score([(given, (likeliest,)), (given, ((likeliest + 1) % 67,))])
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

    # Protects: vocabulary and length are found for folders and for checkpoints.
    def test_model_keys(self):
        self.assertEqual(engine.model_keys(FAMILIES / "mixtral"), (67, 256))
        result = self.run_job(1, "convert", FAMILIES / "mixtral", "checkpoint")
        self.assertEqual(result.code, 0, result.text)
        self.assertEqual(engine.model_keys(self.folder / "checkpoint"), (67, 256))


if __name__ == "__main__":
    unittest.main()
