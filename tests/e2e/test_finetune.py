"""Fine-tuning: frozen tensors keep every bit on any layout, checkpoints of what was trained name their
base, adapters resume, merge and leave as PEFT folders, and gradients and moments take what plan says."""
import json
import pathlib
import re
import shutil

import h5py
import numpy as np
import pytest

import harness

GOLDEN = pathlib.Path(__file__).parent.parent / "golden"
# Ranks, and what differs.
LAYOUTS = [(1, []), (1, ["--train.recompute", 1]), (2, ["--parallel.ep", 2]), (2, ["--parallel.pp", 2]),
           (2, ["--parallel.tp", 2, "--parallel.sequence", 1]),
           (4, ["--parallel.tp", 2, "--parallel.ep", 2, "--parallel.zero", 1])]
KEYS = {"model.layers": 4, "train.steps": 10, "train.warmup": 2, "checkpoint.every": 5, "parallel.ep": 1}
LAST_TWO = ["--train.trainable", "last:2,head"]
ADAPTERS = ["--adapter.rank", 3, "--adapter.targets", "q_proj,v_proj,experts", "--train.lr", 0.01]


@pytest.fixture(scope="module")
def base(module_run):
    """A model of ten steps to go on from: in fp32, so that a copy in bf16 would be another one."""
    run = module_run(KEYS)
    run.train(1, "--run.dir", "base")
    return run


def weights(folder):
    return {name: values for name, values in harness.tensors(folder).items() if "/" not in name}


def newest(run, name):
    return sorted((run.folder / name / "checkpoints").glob("step-*"))[-1]


def test_frozen_tensors_keep_every_bit(base):
    before = weights(newest(base, "base"))
    losses = []
    for number, (ranks, keys) in enumerate(LAYOUTS):
        name = f"frozen{number}"
        base.train(ranks, "--model.path", "base/checkpoints", "--run.dir", name,
                   "--run.precision", "bf16", *LAST_TWO, *keys)
        after = weights(newest(base, name))
        assert after.keys() == before.keys()
        for tensor, values in after.items():
            frozen = not re.match(r"model\.layers\.[23]\.|lm_head", tensor)
            assert np.array_equal(values, before[tensor]) == frozen, (name, tensor)
        losses.append(harness.column(base.folder / name / "trace.h5", "lm_loss"))
    for loss in losses[1:]:
        np.testing.assert_allclose(loss, losses[0], rtol=5e-3)


def test_frozen_tensors_have_neither_gradient_nor_moment(base):
    for keys in ([], LAST_TWO, ["--train.trainable", "head"], ADAPTERS):
        for ranks, layout in LAYOUTS[3:]:
            base.train(ranks, "--run.dir", "bytes", "--checkpoint.resume", "none", "--train.steps", 1,
                       "--model.path", "base/checkpoints", *keys, *layout)
            with h5py.File(base.folder / "bytes" / "trace.h5") as trace:
                elements, gradients, moments = (trace.attrs[name] for name in (
                    "trained_elements", "gradient_bytes", "moment_bytes"))
            for all_of_it, each in ((gradients, 4), (moments, 8)):
                assert (all_of_it >= each * elements).all() or "--parallel.zero" in layout
            assert gradients[1] < 1.2 * 4 * elements[1] + 1e4  # tensors are rounded up
    # What is trained alone counts: the adapters are few.
    assert elements[1] < 60_000


def test_checkpoints_of_what_was_trained(base):
    run = base.folder
    for name, content in (("part", "trained"), ("whole", "all")):
        base.train(2, "--model.path", "base/checkpoints", "--run.dir", name, "--parallel.ep", 2,
                   "--checkpoint.content", content, *LAST_TWO)
    part, whole = newest(base, "part"), newest(base, "whole")
    assert not any(name.startswith("model.layers.0.") and not name.endswith(".load")
                   for name in weights(part))
    for name, values in weights(part).items():
        np.testing.assert_array_equal(values, weights(whole)[name])
    # verify says where it comes from; a copy of it is whole.
    text = base.moesaic(1, "verify", part)
    assert "of what was trained" in text and f"from {newest(base, 'base')} (step 10, lm," in text
    base.moesaic(1, "convert", part, "copy", "--convert.to", "moesaic", "--convert.check", 0)
    copied, expected = weights(run / "copy/step-00000000"), weights(whole)
    assert copied.keys() == expected.keys()
    for name, values in copied.items():
        np.testing.assert_array_equal(values, expected[name], err_msg=name)
    # It goes on to the same bits.
    shutil.copytree(run / "part", run / "again")
    shutil.rmtree(newest(base, "again"))
    base.train(2, "--model.path", "base/checkpoints", "--run.dir", "again", "--parallel.ep", 2,
               "--checkpoint.content", "trained", *LAST_TWO)
    for name, values in harness.tensors(newest(base, "again")).items():
        np.testing.assert_array_equal(values, harness.tensors(part)[name], err_msg=name)


def test_a_base_that_is_gone_or_another_one(base):
    run = base.folder
    base.train(1, "--run.dir", "moving", "--train.steps", 1)
    base.train(1, "--model.path", "moving/checkpoints", "--run.dir", "part1", "--train.steps", 1,
               "--checkpoint.content", "trained", *LAST_TWO)
    part, moving = newest(base, "part1"), newest(base, "moving")
    jobs = [["verify", part], ["convert", part, "x", "--convert.to", "moesaic"],
            ["train", "--model.path", part, "--run.dir", "next"]]
    aside = moving.with_name("aside")
    moving.rename(aside)
    for job in jobs:
        text = base.moesaic(1, *job, code=66)
        assert f"Its base {moving} cannot be read" in text and "Put it back there" in text
    shutil.copytree(newest(base, "base"), moving)
    for job in jobs:
        text = base.moesaic(1, *job, code=76)
        assert f"from {moving} with fingerprint" in text and "put the base back there" in text
    assert not (run / "x").exists()


def test_adapters_resume_and_merge(base):
    run = base.folder
    base.train(2, "--model.path", "base/checkpoints", "--run.dir", "lora", "--parallel.ep", 2, *ADAPTERS)
    lora = newest(base, "lora")
    assert all(".lora_" in name or re.search(r"\.gate\.\w*load$", name) for name in weights(lora))
    # The same run, cut after five steps, gives the same bits.
    shutil.copytree(run / "lora", run / "lora2")
    shutil.rmtree(newest(base, "lora2"))
    base.train(2, "--model.path", "base/checkpoints", "--run.dir", "lora2", "--parallel.ep", 2, *ADAPTERS)
    for name, values in harness.tensors(newest(base, "lora2")).items():
        np.testing.assert_array_equal(values, harness.tensors(lora)[name], err_msg=name)
    # W + scale B A, on any number of ranks to the byte.
    before, trained = weights(newest(base, "base")), weights(lora)
    merged = []
    for ranks in (1, 2, 4):
        base.moesaic(ranks, "convert", lora, f"merged{ranks}", "--convert.to", "moesaic",
                     "--convert.check", 0)
        merged.append(weights(run / f"merged{ranks}/step-00000000"))
        assert merged[-1].keys() == before.keys()
        for name, values in merged[-1].items():
            np.testing.assert_array_equal(values, merged[0][name], err_msg=name)
    changed = 0
    for name, values in merged[0].items():
        a, b = (trained.get(name.replace(".weight", f".lora_{half}.weight")) for half in "AB")
        if a is None:
            np.testing.assert_array_equal(values, before[name], err_msg=name)
        else:
            changed += 1
            np.testing.assert_allclose(values, before[name] + 2 * (b @ a), atol=1e-6, err_msg=name)
    assert changed == 4 * (2 + 3 * 8)
    # Beside its base as model.adapter, as model.path, and merged: the same scores.
    scores = []
    for number, keys in enumerate((["--model.path", lora], ["--model.path", "merged1"],
                                   ["--model.path", "base/checkpoints", "--model.adapter", lora])):
        base.moesaic(1, "score", *keys, "--data.corpus", "text.h5", "--score.output", f"s{number}.h5",
                     "--run.precision", "fp32")
        with h5py.File(run / f"s{number}.h5") as file:
            scores.append(file["tokens/logprob"][...])
    np.testing.assert_array_equal(scores[0], scores[1])
    np.testing.assert_array_equal(scores[0], scores[2])


def test_adapters_leave_as_a_peft_folder(base):
    """PEFT's own folder in, ours out: of a published family, here with the tensors of its tests."""
    run = base.folder
    harness.write_text(run / "mixtral.h5", documents=20, seed=3) if False else None
    folder = GOLDEN / "families" / "mixtral"
    vocabulary = json.loads((folder / "config.json").read_text())["vocab_size"]
    with h5py.File(run / "small.h5", "w") as file:
        file.attrs["schema"], file.attrs["vocab_size"], file.attrs["version"] = "moesaic-corpus", vocabulary, 1
        tokens = np.random.default_rng(1).integers(0, vocabulary, 2000)
        file["tokens"], file["documents/offsets"] = tokens.astype("u2"), np.array([0, 2000], "u8")
    base.moesaic(2, "train", "--model.path", folder, "--run.dir", "peft", "--data.corpus", "small.h5",
                 "--data.seq_len", 16, "--train.batch", 4, "--train.micro_batch", 2, "--train.steps", 4,
                 "--train.warmup", 1, "--adapter.rank", 2, "--adapter.targets", "all-linear,gate",
                 "--parallel.ep", 2, "--checkpoint.export", "peft", "--run.precision", "fp32")
    made = run / "peft/checkpoints/peft"
    settings = json.loads((made / "adapter_config.json").read_text())
    assert (settings["peft_type"], settings["r"], settings["lora_alpha"]) == ("LORA", 2, 4)
    scores = []
    for number, keys in enumerate((["--model.path", folder, "--model.adapter", made],
                                   ["--model.path", run / "peft/checkpoints"])):
        base.moesaic(1, "score", *keys, "--data.corpus", "small.h5", "--score.output", f"p{number}.h5",
                     "--score.window", 16, "--run.precision", "fp32")
        with h5py.File(run / f"p{number}.h5") as file:
            scores.append(file["tokens/logprob"][...])
    np.testing.assert_array_equal(scores[0], scores[1])


def test_refusals(base):
    """Each names the key, what is wrong and what to do."""
    path = ["--model.path", "base/checkpoints", "--run.dir", "refused"]
    for keys, code, text in (
            (["--train.trainable", "*.q_porj.*"], 64, "the nearest is model.layers.0.self_attn.q_proj"),
            (["--adapter.rank", 2, "--adapter.targets", "qproj"], 64, "no product that can have an adapter"),
            (["--adapter.rank", 2, "--adapter.targets", "lm_head"], 64, "no product that can have an adapter"),
            (["--adapter.rank", 2, "--adapter.targets", "*.experts.1.*"], 64, "have them all or none"),
            (["--checkpoint.export", "peft"], 64, "set adapter.rank"),
            (["--model.adapter", "base/checkpoints"], 65, "a checkpoint without adapters")):
        assert text in base.moesaic(1, "train", "--config", "run.cfg", *path, *keys, code=code), keys
    assert "set model.path" in base.moesaic(1, "train", "--config", "run.cfg", "--run.dir", "refused",
                                            "--checkpoint.content", "trained", code=64)
    assert not (base.folder / "refused").exists()
