"""The datasets `sft` of make_adapters.py: masked conversations, and TRL's loss of the same."""

import re

import numpy as np
import torch
import transformers

import make_families


def conversations(model, config):
    """Loss and gradients of two masked conversations of unequal length, all weights trained."""
    watch = make_families.Watch(model, config)
    for seed in range(1000):
        rng = np.random.default_rng(seed)
        rows = [rng.integers(0, config["vocab_size"], n) for n in (26, 17)]
        masks = [np.zeros(26, np.int64), np.zeros(17, np.int64)]
        masks[0][7:12] = masks[0][20:26] = masks[1][9:16] = 1  # two answers, and one
        model.zero_grad(set_to_none=True)
        total, margin = 0, float("inf")
        for tokens, mask in zip(rows, masks):
            logits = model(torch.from_numpy(tokens)[None]).logits[0, :-1].log_softmax(-1)
            picked = logits.gather(1, torch.from_numpy(tokens[1:, None]))[:, 0]
            total = total - (picked * torch.from_numpy(mask[1:])).sum()
            margin = min(margin, watch.margin())
        if margin > make_families.MARGIN:
            break
    loss = total / sum(m[1:].sum() for m in masks)
    loss.backward()
    gradients = {n: torch.zeros_like(p) if p.grad is None else p.grad
                 for n, p in model.named_parameters()}
    gradients = make_families.public(model, config | {"model_type": "qwen3_moe"}, gradients)
    last = config["num_hidden_layers"] - 1
    kept = re.compile(
        rf"model\.embed_tokens\.weight|model\.norm\.weight|"
        rf"model\.layers\.0\.self_attn\.(v_proj|q_a_proj|kv_b_proj)\.weight|"
        rf"model\.layers\.{last}\.mlp\.(gate|experts\.[01]\.(up|down)_proj)\.weight")
    arrays = {"tokens": np.concatenate(rows).astype(np.int32),
              "lengths": np.array([len(r) for r in rows], np.int32),
              "mask": np.concatenate(masks).astype(np.int32), "loss": loss.detach()}
    arrays |= {f"grad/{n}": g for n, g in gradients.items() if kept.fullmatch(n)}
    return arrays


def check_trl(model, arrays, out):
    """The same loss by TRL's SFTTrainer, which pads the rows."""
    import datasets
    import tokenizers
    import trl
    vocabulary = {f"t{i}": i for i in range(make_families.VOCABULARY)}
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, "t0")),
        pad_token="t1", eos_token="t2", unk_token="t0")
    ends = np.cumsum(arrays["lengths"])
    parts = [slice(e - n, e) for e, n in zip(ends, arrays["lengths"])]
    rows = datasets.Dataset.from_list([{"input_ids": arrays["tokens"][p].tolist(),
                                        "completion_mask": arrays["mask"][p].tolist()}
                                       for p in parts])
    trainer = trl.SFTTrainer(
        model=model, train_dataset=rows, processing_class=tokenizer,
        args=trl.SFTConfig(output_dir=str(out), max_steps=1, per_device_train_batch_size=2,
                           learning_rate=0.0, report_to=[], use_cpu=True, bf16=False,
                           gradient_checkpointing=False, completion_only_loss=True,
                           router_aux_loss_coef=0.0, save_strategy="no", logging_steps=1, disable_tqdm=True))
    trainer.train()
    return trainer.state.log_history[0]["loss"] - arrays["loss"].item()
