#!/usr/bin/env python3
"""Runs the scripts of analysis/ on made-up files, and checks what they write and refuse."""
import csv
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).resolve().parents[2]
NEEDED = ("h5py", "numpy", "matplotlib")
missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
if missing:
    print(f"skipped: this python has no {', '.join(missing)}")
    sys.exit(77)

sys.path.insert(0, str(ROOT / "analysis"))
import figures  # noqa: E402
import h5py  # noqa: E402
import numpy as np  # noqa: E402
import terminal  # noqa: E402
import traces  # noqa: E402
import vocabulary  # noqa: E402


def run(script, *arguments, **variables):
    return subprocess.run([sys.executable, "-W", "error::RuntimeWarning", ROOT / script,
                           *map(str, arguments)], capture_output=True, text=True,
                          env={**os.environ, "PYTHONIOENCODING": "utf-8", **variables})


class Analysis(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.dir = Path(folder.name)

    def trace(self, name, *arguments):
        path = self.dir / name
        path.parent.mkdir(exist_ok=True)
        done = run("tests/support/make_trace.py", path, *arguments)
        self.assertEqual(done.returncode, 0, done.stderr)
        return path

    def report(self, *traces):
        done = run("analysis/report.py", *traces, "-o", self.dir / "report")
        self.assertEqual(done.returncode, 0, done.stderr)
        return (self.dir / "report/index.html").read_text(encoding="utf-8")

    def test_report_compares_runs(self):
        """A report of two runs names both and shows the drop share of the one that dropped."""
        page = self.report(self.trace("a/trace.h5", "--dropping", "--steps", 12),
                           self.trace("b/trace.h5", "--steps", 9))
        self.assertIn("<th>a</th><th>b</th>", page)
        self.assertIn("<td>last step</td><td class=number>12</td><td class=number>9</td>", page)
        self.assertTrue((self.dir / "report/1_dropped.png").is_file())
        self.assertFalse((self.dir / "report/2_dropped.png").exists())
        self.assertNotIn("src=\"http", page)

    def test_report_of_unusual_traces(self):
        """One row, no expert layer, no evaluation and score traces each still make a page."""
        for name, options in (("one", ["--steps", 1, "--no-eval"]), ("dense", ["--layers", 0]),
                              ("score", ["--score", "--ranks", 1, "--tasks", "none"]),
                              ("wide", ["--steps", 5, "--ranks", 12, "--layers", 1])):
            self.assertIn("data:image/png", self.report(self.trace(f"{name}.h5", *options)))

    def test_report_of_experts_per_token(self):
        """Only where a threshold lets tokens stop early the page shows how many experts they take."""
        self.report(self.trace("all.h5", "--steps", 4))
        self.assertFalse((self.dir / "report/experts_per_token.png").exists())
        self.report(self.trace("fewer.h5", "--steps", 4, "--threshold"))
        self.assertTrue((self.dir / "report/experts_per_token.png").is_file())

    def test_report_of_steps_without_targets(self):
        """A loss of nothing is told of."""
        path = self.trace("some.h5", "--steps", 4)
        self.assertNotIn("without a target", self.report(path))
        with h5py.File(path, "a") as file:
            for name in ("step", "kind", "message"):
                file.pop(f"events/{name}", None)
            file["events/step"] = [2, 3]
            file["events/kind"] = ["no_targets", "no_targets"]
            file["events/message"] = ["nothing", "nothing"]
        self.assertIn("Steps without a target: 2.", self.report(path))

    def test_report_as_text(self):
        """Without matplotlib, of every kind of trace: 80 columns, with the numbers of the file."""
        (self.dir / "matplotlib.py").write_text("raise ImportError('none')")
        wide = self.trace("wide.h5", "--steps", 60, "--layers", 20, "--experts", 64, "--dropping")
        others = [self.trace(f"{name}.h5", *options) for name, options in (
            ("one", ["--steps", 1, "--no-eval"]), ("dense", ["--layers", 0]), ("score", ["--score"]))]
        done = run("analysis/report.py", wide, *others, "--text", PYTHONPATH=str(self.dir))
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        lines = done.stdout.splitlines()
        self.assertLessEqual(max(map(len, lines)), 80)
        self.assertEqual(lines[0], "wide: train, tp=1 pp=1 ep=4 dp=1, 4 ranks")
        with h5py.File(wide) as file:
            held_out = [f"{file[f'eval/{name}'][1]:.4f}" for name in ("loss", "bits_per_byte")]  # of step 50
            loss, tokens, seconds = file["lm_loss"][48:54], file["tokens"][48:54], file["seconds"][48:54]
            dropped = file["expert_dropped"][()].sum() / file["expert_tokens"][()].sum()
        (row,) = [line.split() for line in lines[:20] if line.split()[:1] == ["54"]]
        self.assertEqual(row[1:], [f"{loss.mean():.4f}", *held_out, f"{tokens.sum() / seconds.sum():,.0f}"])
        self.assertIn(f"  dropped choices, all steps: {dropped:.2%}", lines)
        self.assertIn("  (the 16 least even of 20 layers)", lines)
        self.assertIn("        17  restart: resumed from step 10", lines)
        done = run("analysis/report.py", wide)
        self.assertEqual((done.returncode, "-o DIR or --text" in done.stderr), (2, True))

    def test_numbers_of_the_text(self):
        """Losses are means since the row before, with the last evaluation in it; phases and loads add up."""
        steps = np.arange(1.0, 101)
        tokens = np.full((100, 2, 4), 7)
        tokens[90:] = [[10, 10, 10, 10], [0, 20, 20, 60]]
        state = np.ones((100, 2, 4), int)
        state[:, 1, 0] = 3
        trace = self.made(100, lm_loss=steps, tokens=np.full(100, 50), seconds=np.full(100, 0.5),
                          unix_time=1.8e9 + steps, expert_tokens=tokens, expert_state=state,
                          time=np.array([[1.0, 0.0, 3.0]] * 100),
                          **{"eval/step": np.array([25, 28, 60]), "eval/loss": np.array([5.0, 4.0, 3.0])})
        trace.layers, trace.phases = [1, 3], ["forward", "eval", "backward"]
        rows = terminal.loss_rows(trace)
        self.assertEqual([row[0] for row in rows], [1, *range(10, 101, 10)])
        step, loss, held_out, bits, speed = rows[3]
        self.assertEqual((step, loss, held_out, speed), (30, 25.5, 4.0, 100.0))
        self.assertTrue(np.isnan(bits))
        self.assertEqual(sum(np.isfinite(row[2]) for row in rows), 2)
        self.assertEqual(terminal.phase_shares(trace), [("backward", 0.75), ("forward", 0.25)])
        np.testing.assert_allclose(terminal.expert_loads(trace), [[1, 1, 1, 1], [np.nan, 0.6, 0.6, 1.8]])
        self.assertEqual(terminal.bar(np.array([0, 1, 2, 9, np.nan])), "▁▄██ ")
        trace.attributes.update({"job": "train", "train.steps": "0", "train.tokens": "4800",
                                 "train.batch": "4", "data.seq_len": "12"})
        self.assertEqual(terminal.ending(trace),
                         "step 100 of 100, complete, at 2027-01-15 08:01:40 UTC after 0:01:39")
        trace.attributes["train.steps"] = "150"
        self.assertTrue(terminal.ending(trace).startswith("step 100 of 100, complete"))
        trace.attributes.update({"train.tokens": "0", "train.epochs": "1.1", "train.epoch_samples": "370"})
        self.assertTrue(terminal.ending(trace).startswith("step 100 of 102, at"))

    def test_reader_waits_for_a_writer(self):
        """A trace that another process holds is read once that lets go (here: while we wait)."""
        path = self.trace("busy.h5", "--steps", 4)
        hold = "import h5py, sys; f = h5py.File(sys.argv[1], 'a'); print('held', flush=True); input()"
        with subprocess.Popen([sys.executable, "-c", hold, path], stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE, text=True) as writer:
            writer.stdout.readline()
            release = mock.Mock(side_effect=lambda seconds: writer.communicate("\n"))
            with mock.patch("traces.time.sleep", release):
                trace = traces.read_trace(path)
        self.assertEqual(release.call_count, 1)
        self.assertEqual(list(trace.steps), [1, 2, 3, 4])

    def made(self, steps, name="run", **arrays):
        """A trace in memory, of steps 1, 2, ..."""
        arrays = {"step": np.arange(1, steps + 1), **arrays}
        return traces.Trace(Path("t.h5"), name, {}, arrays, layers=[1], groups=["dp"])

    def test_learning_rate_is_exact(self):
        """The learning rate has its peak where it was."""
        steps = np.arange(1, 501)
        rate = np.where(steps <= 60, steps / 60, 60 / steps)
        (line,) = figures.learning_rate([self.made(500, lr=rate)]).axes[0].lines
        np.testing.assert_array_equal(line.get_xdata(), steps)
        np.testing.assert_array_equal(line.get_ydata(), rate)

    def test_outliers_are_points(self):
        """The step of an evaluation is a point beside the curve, and changes no mean around it."""
        values = 1 + 0.01 * (np.arange(500) % 3)
        values[[249, 399]] = 20.0
        trace = self.made(500, traffic=values[:, None] * 2**20, rank_seconds=values[:, None])
        for figure in (figures.traffic(trace), figures.rank_seconds(trace)):
            (points,) = [line for line in figure.axes[0].lines if line.get_marker() == "."]
            curves = [line for line in figure.axes[0].lines if line.get_marker() == "None"]
            self.assertEqual(points.get_xdata().tolist(), [250, 400])
            self.assertEqual(points.get_ydata().tolist(), [20, 20])
            self.assertTrue(all(np.nanmax(line.get_ydata()) < 1.03 for line in curves))

    def test_long_steps_are_points(self):
        """A step that the axis has no room for is a point at its edge, which says how long it was."""
        seconds = np.full(3000, 0.5)
        seconds[[700, 2000]] = [9.0, 4.0]
        trace = self.made(3000, time=seconds[:, None] * [0.25, 0.75], rank_seconds=seconds[:, None])
        trace.phases = ["forward", "backward"]
        for figure in (figures.phases(trace), figures.rank_seconds(trace)):
            ax = figure.axes[0]
            points = ax.lines[-1]
            self.assertEqual(points.get_xdata().tolist(), [701, 2001])
            self.assertEqual(points.get_ydata().tolist(), [ax.get_ylim()[1]] * 2)
            self.assertEqual(points.get_label(), "2 longer, up to 9 s")

    def test_evaluations_have_markers_while_they_are_few(self):
        """Each of few evaluations is a marker, hundreds are a thin line of the same values."""
        for count, marker in ((8, "D"), (400, "None")):
            values = np.linspace(3, 2, count)
            trace = self.made(400, lm_loss=np.linspace(4, 2, 400), **{
                "eval/step": np.arange(1, count + 1), "eval/loss": values, "eval/bits_per_byte": values,
                "eval/loss_by_task": np.stack([values, values + 1], 1)})
            for figure in (figures.loss([trace]), figures.bits_per_byte([trace]),
                           figures.eval_by(trace, "task", ["a", "b"])):
                line = figure.axes[0].lines[-1]
                self.assertEqual((line.get_marker(), len(line.get_ydata())), (marker, count))
                self.assertIn(line.get_ydata()[-1], (2, 3))  # 3: of the second task
                self.assertLess(line.get_linewidth(), 1.6)

    def test_mean_stands_over_its_steps(self):
        """A step in a noisy curve stays where it is: the mean is of both sides."""
        values = np.where(np.arange(1, 401) > 200, 3.0, 2.0)
        mean = figures.curves([self.made(400, grad_norm=values)], "grad_norm", "", "").axes[0].lines[1]
        self.assertAlmostEqual(np.interp(200.5, mean.get_xdata(), mean.get_ydata()), 2.5)

    def test_legends_name_runs_where_there_are_several(self):
        values = np.linspace(3, 2, 20)
        one, other = (self.made(20, name, lm_loss=values, grad_norm=values) for name in ("a", "b"))
        self.assertIsNone(figures.curves([one], "grad_norm", "", "").axes[0].get_legend())

        def names(figure):
            return [text.get_text() for text in figure.axes[0].get_legend().get_texts()]

        self.assertEqual(names(figures.loss([one])), ["language model"])
        self.assertEqual(names(figures.loss([one, other])), ["a: language model", "b: language model"])
        self.assertEqual(names(figures.curves([one, other], "grad_norm", "", "")), ["a", "b"])

    def test_load_map_leaves_no_step_out(self):
        """One step of 1000 in which an expert took all shows in the map."""
        tokens = np.full((1000, 1, 4), 10)
        tokens[501, 0] = [40, 0, 0, 0]
        image = figures.expert_load(self.made(1000, expert_tokens=tokens)).axes[0].images[0]
        shown = image.get_array()
        self.assertEqual(shown.shape, (4, 200))
        np.testing.assert_allclose(shown[0], np.where(np.arange(200) == 100, 1.6, 1.0))
        self.assertEqual(tuple(image.get_extent()), (0.5, 1000.5, -0.5, 3.5))

    def test_report_refuses_other_files(self):
        """Not a trace: exit 65, and a missing one 66, with its absolute path."""
        (self.dir / "text.h5").write_text("no trace")
        done = run("analysis/report.py", self.dir / "text.h5", "-o", self.dir / "r")
        self.assertEqual(done.returncode, 65)
        done = run("analysis/report.py", self.dir / "none.h5", "-o", self.dir / "r")
        self.assertEqual((done.returncode, str(self.dir / "none.h5") in done.stderr), (66, True))

    def test_scaling_rows_and_figure(self):
        """A row leaves out the first three steps and the phases that are no part of a step."""
        path = self.trace("run/trace.h5", "--steps", 8, "--ranks", 2)
        (path.parent / "config.cfg").write_text(
            "[parallel]\ntp = 1\npp = 1\nep = 2\n[model]\nexperts = 16\n"
            "[train]\nbatch = 8\n[data]\nseq_len = 64\n")
        head = run("analysis/scaling_row.py", "head").stdout
        table = self.dir / "scaling.csv"
        row = run("analysis/scaling_row.py", "row", path.parent, "--mode", "strong", "--ranks", 2,
                  "--threads", 1, "--nodes", 1, "--repeat", 1, "--host", "h")
        self.assertEqual(row.returncode, 0, row.stderr)
        table.write_text(head + row.stdout)
        values = next(csv.DictReader(table.read_text().splitlines()))
        self.assertEqual((values["steps"], values["ep"], values["dp"]), ("5", "2", "1"))
        with h5py.File(path) as file:
            spent = file["time"][3:].sum() - file["time"][3:, 9:11].sum()
            self.assertAlmostEqual(float(values["tokens_per_second"]), 5 * 4096 / spent, places=1)
        done = run("analysis/scaling.py", table, "-o", self.dir / "figure.pdf")
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_pieces_of_a_vocabulary(self):
        """Pieces, bytes and marks of a SentencePiece model are read without its library."""
        message = b"".join(bytes([10, len(one)]) + one for one in (
            bytes([10, 5]) + b"<unk>" + bytes([21, 0, 0, 0, 0, 24, 2]),
            bytes([10, 6]) + b"<0x0A>" + bytes([24, 6]),
            bytes([10, 6]) + "▁one".encode() + bytes([21, 0, 0, 128, 191])))
        (self.dir / "vocabulary.model").write_bytes(message + bytes([18, 2, 8, 1]))
        (self.dir / "text.json").write_text('{"tokenizer": "vocabulary.model"}')
        self.assertEqual(vocabulary.pieces_of(self.dir), ["⟨unk⟩".encode(), b"\n", b" one"])

    def test_pieces_of_a_tokenizer_json(self):
        """So are those of a tokenizer.json: letters for bytes, bytes, marks and added tokens."""
        content = {"pre_tokenizer": {"type": "ByteLevel"}, "added_tokens": [
            {"id": 3, "content": "<|end|>", "special": True},
            {"id": 5, "content": "<b>", "special": False}],
            "model": {"vocab": {"Ġone": 0, "é": 1, "Ċ": 2}}}
        (self.dir / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
        (self.dir / "text.json").write_text('{"tokenizer": "tokenizer.json"}')
        self.assertEqual(vocabulary.pieces_of(self.dir),
                         [b" one", b"\xe9", b"\n", "⟨|end|⟩".encode(), b"", b"<b>"])
        content["pre_tokenizer"] = None
        content["model"]["vocab"] = [["▁one", -1.0], ["<0x0A>", -2.0], ["é", -3.0]]
        (self.dir / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
        self.assertEqual(vocabulary.pieces_of(self.dir)[:3], [b" one", b"\n", "é".encode()])

    def scores(self, name, ids):
        path = self.dir / "scores" / name
        path.parent.mkdir(exist_ok=True)
        with h5py.File(path, "w") as file:
            file["documents/id"] = ids
            file["documents/logprob"] = [-3.0] * len(ids)
            file["documents/tokens"] = [2] * len(ids)
            file["documents/greedy"] = [0] * len(ids)
            file["documents/offsets"] = list(range(0, 2 * len(ids) + 1, 2))
            file["tokens/logprob"] = [-1.5] * (2 * len(ids))

    def test_long_ids(self):
        """Ids that a shard cuts are read whole."""
        with h5py.File(self.dir / "shard.h5", "w") as file:
            file["documents/id"] = ["a", "bbbb", "c", "dd"]
            file["documents/id_long/row"] = [1, 3]
            file["documents/id_long/offsets"] = [0, 6, 9]
            file["documents/id_long/text"] = np.frombuffer(b"bbbbbbddd", "u1")
            self.assertEqual(traces.id_list(file["documents"]), ["a", "bbbbbb", "c", "ddd"])

    def test_scores_table(self):
        """All parts make one table, also with equal ids; missing and repeated parts are refused."""
        table = self.dir / "scores.csv"
        self.scores("scores-00000-of-00002.h5", ["a", "b"])
        done = run("analysis/scores.py", self.dir / "scores", "-o", table)
        self.assertEqual((done.returncode, "scores-00001-of-00002.h5" in done.stderr), (65, True))
        self.scores("scores-00001-of-00002.h5", ["c"])
        done = run("analysis/scores.py", self.dir / "scores", "-o", table)
        self.assertEqual(done.returncode, 0, done.stderr)
        rows = list(csv.DictReader(table.read_text().splitlines()))
        self.assertEqual([(row["id"], row["logprob"]) for row in rows],
                         [("a", "-3.0"), ("b", "-3.0"), ("c", "-3.0")])
        self.scores("scores-00001-of-00002.h5", ["a"])  # of another file than the first a
        done = run("analysis/scores.py", self.dir / "scores", "-o", table)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(len(table.read_text().splitlines()), 4)
        done = run("analysis/scores.py", self.dir / "scores", self.dir / "scores", "-o", table)
        self.assertEqual((done.returncode, "00000-of-00002.h5 is there twice" in done.stderr), (65, True))


if __name__ == "__main__":
    unittest.main(verbosity=2)
