#!/usr/bin/env python3
"""EleutherAI's lm-evaluation-harness with moesaic as its model: the harness' own command line.

usage: lm_eval_moesaic.py --model moesaic --model_args path=FOLDER,KEY=VALUE,... --tasks TASK,...
path       the model: a Hugging Face folder, or a checkpoint
tokenizer  the folder of its tokenizer, where path has none (checkpoints)
launcher   what stands before the program: "mpirun -n 4", "srun --mpi=pmix"
binary     the program (that of the clone or of the installed tree)
precision  bf16 (default) or fp32
workdir    keeps requests and scores: an evaluation that was killed goes on with the same command.
           On several hosts: a folder that all of them see. Default: a temporary folder
           (TMPDIR)
max_length add_bos_token prefix_token_id    as those of the harness' model hf
SECTION.KEY    any key of the program: parallel.ep=2, run.device=cuda
From Python: from lm_eval_moesaic import Moesaic; lm_eval.simple_evaluate(model=Moesaic(...), ...).
Requests are those of the harness' model hf, token by token. No chat templates.
"""
import signal
import sys
from pathlib import Path

try:
    from engine import Engine, EngineError, model_keys
    from lm_eval import utils
    from lm_eval.api.model import TemplateLM
    from lm_eval.api.registry import register_model
    from lm_eval.models.utils import (handle_stop_sequences, normalize_gen_kwargs,
                                      postprocess_generated_text)
    from traces import fail
    from transformers import AutoConfig, AutoTokenizer
except ImportError as error:
    if __name__ != "__main__":
        raise
    print(f"lm_eval_moesaic.py: {error}: pip install lm_eval transformers h5py", file=sys.stderr)
    sys.exit(69)

DEFAULT_MAX_LENGTH = 2048  # the harness' own, where neither model nor tokenizer has one
NO_LIMIT = 10 ** 29        # tokenizers without a length say 1e30
MAX_GEN_TOKS = 256         # the harness' own, where a task has none
SAMPLING = ("top_k", "top_p", "min_p")


@register_model("moesaic")
class Moesaic(TemplateLM):
    """Answers all requests of one kind by one run of `moesaic score`, and continues all prompts
    with the same settings by one of `moesaic generate`."""

    def __init__(self, path, tokenizer=None, launcher=None, binary=None, precision="bf16",
                 workdir=None, max_length=None, add_bos_token=None, prefix_token_id=None,
                 device=None, batch_size=None, max_batch_size=None, **keys):
        """device, batch_size, max_batch_size: of no meaning here, but always given by the harness'
        command line (device: cuda:0). keys: the program's, which are those with a dot."""
        super().__init__()
        unknown = [name for name in keys if "." not in name]
        if unknown:
            raise EngineError(64, f"no such model argument: {', '.join(unknown)} (keys of the "
                                  "program are written SECTION.KEY)")
        path = Path(str(path)).expanduser()
        vocab_size, model_length = model_keys(path)
        options = {} if add_bos_token is None else {"add_bos_token": add_bos_token}
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(tokenizer or path, **options)
        except (OSError, ValueError) as problem:
            raise EngineError(66, f"no tokenizer in {tokenizer or path}: name a folder that has "
                                  f"one with tokenizer= ({problem})") from problem
        self.add_bos_token = add_bos_token
        self._prefix_token_id = prefix_token_id
        files = [path / name for name in ("tokenizer.json", "tokenizer.model")
                 if tokenizer is None and (path / name).is_file()]
        self.tokenizer_file = files[0] if files else None
        if self.prefix_token_id is None:
            raise EngineError(64, "the tokenizer has neither bos nor eos: name the token before a "
                                  "text without context with prefix_token_id=")
        self.engine = Engine(path=str(path), vocab_size=vocab_size,
                             max_length=max_length or model_length or self.default_length(path),
                             launcher=launcher or "", workdir=workdir,
                             keys={"run.precision": precision, **keys},
                             **({"binary": str(binary)} if binary else {}))

    def default_length(self, path):
        """Where config.json does not say: what its family has, else the tokenizer."""
        length = getattr(AutoConfig.from_pretrained(path), "max_position_embeddings", None)
        length = length or getattr(self.tokenizer, "model_max_length", NO_LIMIT)
        return length if length < NO_LIMIT else DEFAULT_MAX_LENGTH

    @property
    def eot_token_id(self):
        return self.tokenizer.eos_token_id

    @property
    def prefix_token_id(self):
        for token in (self._prefix_token_id, self.tokenizer.bos_token_id):
            if token is not None:
                return token
        return self.tokenizer.eos_token_id

    @property
    def max_length(self):
        return self.engine.max_length

    def tok_encode(self, string, add_special_tokens=None, **_):
        """Tokens of a text. A bos that the text begins with is not put before it once more."""
        options = {}
        if add_special_tokens is not None:
            options["add_special_tokens"] = add_special_tokens
        elif string.startswith(self.tokenizer.decode([self.prefix_token_id])):
            options["add_special_tokens"] = False
        elif self.add_bos_token is not None:
            options["add_special_tokens"] = self.add_bos_token
        return self.tokenizer.encode(string, **options)

    def _loglikelihood_tokens(self, requests, **_):
        return self.engine.score([(tuple(given), tuple(continuation))
                                  for _, given, continuation in requests])

    def loglikelihood_rolling(self, requests, disable_tqdm=False):
        """The log-probability of each whole text, in windows that do not overlap but for what the
        last one is given."""
        windows, owners = [], []
        for number, (text,) in enumerate(request.args for request in requests):
            for window in utils.get_rolling_token_windows(
                    token_list=self.tok_encode(text), prefix_token=self.prefix_token_id,
                    max_seq_len=self.max_length, context_len=1):
                given, continuation = utils.make_disjoint_window(window)
                windows.append((tuple(given), tuple(continuation)))
                owners.append(number)
        sums = [0.0] * len(requests)
        for number, (logprob, _) in zip(owners, self.engine.score(windows)):
            sums[number] += logprob
        return sums

    def generate_until(self, requests, disable_tqdm=False):
        """The text that continues each context, up to the first stop string; greedy unless the task
        samples (do_sample). Settings of sampling that are not named are the program's."""
        groups = {}
        for number, (_, settings) in enumerate(request.args for request in requests):
            groups.setdefault(repr(sorted(settings.items())), []).append(number)
        texts = [None] * len(requests)
        for numbers in groups.values():
            contexts = [requests[number].args[0] for number in numbers]
            settings = requests[numbers[0]].args[1]
            for number, text in zip(numbers, self.continue_all(contexts, settings)):
                texts[number] = text
        return texts

    def continue_all(self, contexts, settings):
        settings = normalize_gen_kwargs(settings, MAX_GEN_TOKS)
        eos = self.tokenizer.decode([self.eot_token_id]) if self.eot_token_id is not None else None
        stop = handle_stop_sequences(settings.pop("until"), eos=eos)
        max_tokens = settings.pop("max_gen_toks")
        keys = {"max_tokens": max_tokens, "temperature": settings.pop("temperature", 0.0)}
        if not settings.pop("do_sample"):
            keys["temperature"] = 0.0
        keys.update({name: settings.pop(name) for name in SAMPLING if name in settings})
        if settings:
            raise EngineError(64, f"generation_kwargs {settings} are not known: temperature, "
                                  f"{', '.join(SAMPLING)}, do_sample, until and max_gen_toks are")
        room = self.max_length - max_tokens
        if room <= 0:
            raise EngineError(64, f"max_gen_toks = {max_tokens} leaves no room for a context "
                                  f"within max_length = {self.max_length}")
        prompts = [tuple(self.tok_encode(context)[-room:]) or (self.prefix_token_id,)
                   for context in contexts]
        tokens = self.engine.generate(prompts, keys, [text for text in stop if text],
                                      self.tokenizer_file)
        return [postprocess_generated_text(
            self.tokenizer.decode(continuation, skip_special_tokens=True), stop, None)
            for continuation in tokens]


def main():
    from lm_eval.__main__ import cli_evaluate
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: the program stops, too
    try:
        cli_evaluate()
    except EngineError as problem:
        fail(problem.code, problem)


if __name__ == "__main__":
    main()
