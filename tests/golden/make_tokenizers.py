"""Writes tokenizers/: small tokenizer.json files in the style of published models, and
expected.json: what the tokenizers package makes of many texts with each of them.

To write them again: a venv with `pip install tokenizers==0.23.3`, then run this file with it. Besides
the texts below it learns from GPL-3 of Debian's common-licenses and from Python's argparse.py.

expected.json: texts; for each name `tokens` (a list for each text) and `decoded`. Variants change a
file by a JSON merge patch (RFC 7396), to save space.
"""
import argparse
import copy
import json
import pathlib
import random

from tokenizers import (AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers,
                        trainers)

HERE = pathlib.Path(__file__).resolve().parent / "tokenizers"
VOCABULARY = 640

# Sentences written for this file. Some have marks that combine, in composed and in single letters.
SCRIPTS = [
    "The quick answer wasn't what they'd hoped for: we'll see, I'm sure you've known.",
    "WE'LL SEE IT'S THEY'RE I'VE HE'D I'M ISN'T; we\u2019ll see it\u2019s isn\u2019t",
    "Ça va déjà été l'œuvre naïve; Äpfel über Öl, straße; čeština, žluťoučký kůň",
    "C\u0327a va de\u0301ja\u0300 e\u0301te\u0301; A\u0308pfel u\u0308ber O\u0308l; n\u0303 a\u0302\u0301 q\u0323\u0307 q\u0307\u0323",
    "Привет, как дела? Всё хорошо; ёлка и ежик. ПРИВЕТ МИР",
    "Καλημέρα κόσμε, τι κάνεις; ΟΔΟΣ ὀδός ᾳ ΐ",
    "مرحبا بالعالم، كيف الحال؟ اللُّغَةُ العَرَبِيَّةُ ١٢٣",
    "שלום עולם, מה שלומך? שָׁלוֹם",
    "नमस्ते दुनिया, आप कैसे हैं? क़ ज़ १२३४५",
    "สวัสดีชาวโลก วันนี้เป็นอย่างไรบ้าง ๑๒๓",
    "你好，世界！今天天气怎么样？我们去公园散步吧。 漢字",
    "こんにちは世界、カタカナとひらがなと漢字。 が か\u3099 ﾊﾝｶｸ Ａｂ１",
    "안녕하세요 세계, 오늘 날씨가 어때요? \u1112\u1161\u11ab\u1100\u1173\u11af",
    "😀 👍🏽 👩‍👩‍👧‍👦 🏳️‍🌈 🇩🇪🇫🇷 1️⃣ ❤️ ✌🏿",
    "def f(x):\n\tif x > 0:\n\t\treturn x**2 + 3.14159e-10  # ok\r\n\r\n    return {'a': [1, 22, 333, 4444]}\n",
    "for (int i = 0; i < n; ++i) { sum += a[i] * b[i]; } /* done */ #include <vector>\n\n\n",
    "12 345 6789 1234567 3.14 1,000,000 ½ ² Ⅷ ① ٣",
]
ODD = [
    "", " ", "  ", "\n", "\r\n", "\t", "\n\n\n", "   \n   ", "a", " a", "a ", "  a  ", "\u00a0", "a\u00a0b",
    "\u3000a\u3000", "a\u2028b\u2029c", "\u0085a\u0085", "\u180ea\u200bb\u2060c\ufeffd", "\x00a\x00\x01\x1f\x7f",
    "x\x0by\x0cz", "▁", "▁▁ ▁a▁", "a▁b", "<0x41><0xE2>", "Ġa ĠĊ Â", "\u0301\u0301a", "\u0344 \u0958 \u2126 \u212b \ufb01 \u017f \u212a",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    " " * 77 + "x" + " " * 100, "\n" * 60, "ab" * 70, "=" * 80, "!?" * 30, "1" * 40, "的" * 60, "İıIiſK ẞß",
    "\U0001F600\U0001F3FB\u200d\u2642\ufe0f", "\u0378\ue000\U000f0000", "hello\ufffdworld", "don't DON'T 'S 's 'll 'LL 'ſ",
    "_snake_case__ and-kebab-case, CamelCaseWords HTTPServer", "thatistheinformation" * 9, "x²y½z①ⓐa\u200db Ⅷv", "return" * 40 + "的" * 20,
    "http://example.org/a?b=c&d=%20#frag",
]
SPECIAL = ["<|endoftext|>", "<s>", "</s>", "<unk>", "<|im_start|>", "<|im_end|>", "<think>", "</think>",
           "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<|left|>", "<|right|>", "<|both|>", "word", "WORD",
           "Été", "<|", "|>", "<|endof"]

GPT2_LIKE_QWEN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
                  r"|\s*[\r\n]+|\s+(?!\S)|\s+")
LLAMA3 = GPT2_LIKE_QWEN.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
CL100K = (r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]"
          r"|\s+(?!\S)|\s+")
O200K = "|".join([
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"\p{N}{1,3}", r" ?[^\s\p{L}\p{N}]+[\r\n/]*", r"\s*[\r\n]+", r"\s+(?!\S)", r"\s+"])
DEEPSEEK = [r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+",
            r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
            r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"]
DEEPSEEK_V2 = ["[\r\n]", r"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-Ֆ]+",
               r"\s?[!-/:-~！-／：-～‘-‟　-。]+", r"\s+$", "[一-龥ࠀ-一가-퟿]+"]


def training_texts():
    files = ["/usr/share/common-licenses/GPL-3", argparse.__file__]
    texts = [pathlib.Path(file).read_text(encoding="utf-8")[:40000] for file in files]
    return texts + SCRIPTS * 6


def test_texts():
    """The sentences, odd texts, and mixtures drawn from both and from special tokens."""
    draw = random.Random(20261126)
    characters = sorted(set("".join(SCRIPTS + ODD)))
    texts = SCRIPTS + ODD
    for count in range(60):
        parts = []
        for _ in range(draw.randint(1, 7)):
            kind = draw.random()
            if kind < 0.3:
                parts.append(draw.choice(SPECIAL))
            elif kind < 0.6:
                sentence = draw.choice(SCRIPTS)
                begin = draw.randrange(len(sentence))
                parts.append(sentence[begin:begin + draw.randint(1, 12)])
            elif kind < 0.8:
                parts.append(draw.choice([" ", "  ", "\n", "\t", "\r\n", "\u00a0", " \n "]))
            else:
                parts.append("".join(draw.choices(characters, k=draw.randint(1, 6))))
        texts.append("".join(parts))
    return texts


def split(pattern, behavior="isolated", invert=False):
    return pre_tokenizers.Split(Regex(pattern), behavior, invert)


def byte_level_words(*patterns):
    steps = [split(pattern) for pattern in patterns]
    return pre_tokenizers.Sequence(
        steps + [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def byte_level(words, normalizer=None, added=(), **options):
    tokenizer = Tokenizer(models.BPE(**options))
    tokenizer.pre_tokenizer = words
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(training_texts(), trainers.BpeTrainer(
        vocab_size=VOCABULARY, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    tokenizer.add_tokens(list(added))
    return json.loads(tokenizer.to_str())


def special(content, **options):
    return AddedToken(content, special=True, normalized=False, **options)


def sentencepiece_bpe(fallback):
    """As Mixtral's: a learnt vocabulary behind <unk>, <s>, </s> and the bytes; no pre-tokenizer."""
    marks = ["<unk>", "<s>", "</s>"]
    size = [f"<0x{byte:02X}>" for byte in range(256)] if fallback else []
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.train_from_iterator(training_texts(), trainers.BpeTrainer(
        vocab_size=VOCABULARY + len(size), show_progress=False, special_tokens=marks + size,
        limit_alphabet=200))
    file = json.loads(tokenizer.to_str())
    file["added_tokens"] = [token for token in file["added_tokens"] if token["content"] in marks]
    file["pre_tokenizer"] = None
    file["normalizer"] = json.loads(normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]).__getstate__())
    file["decoder"] = json.loads(decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
         decoders.Strip(" ", 1, 0)]).__getstate__())
    file["model"].update(byte_fallback=fallback, fuse_unk=True)
    return file


def unigram():
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    tokenizer.train_from_iterator(training_texts(), trainers.UnigramTrainer(
        vocab_size=VOCABULARY, show_progress=False, special_tokens=["<unk>", "<s>", "</s>"],
        unk_token="<unk>"))
    return json.loads(tokenizer.to_str())


def with_bytes(file):
    """The Unigram file with tokens for bytes, in place of the last of its vocabulary."""
    vocab = file["model"]["vocab"][:300] + [[f"<0x{byte:02X}>", -20.0] for byte in range(256)]
    return {"model": {"vocab": vocab, "byte_fallback": True}}


def splits(*steps):
    last = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return {"pre_tokenizer": {"type": "Sequence", "pretokenizers": list(steps) + [last]}}


def variants(files):
    """name: (file, merge patch)"""
    def cut(behavior, invert=False, **pattern):
        return splits({"type": "Split", "pattern": pattern, "behavior": behavior, "invert": invert})

    def token(content, **options):
        flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
        return {"content": content, **flags, **options}

    first = files["gpt2"]["added_tokens"][0]["id"]
    hard = [token("<|left|>", lstrip=True), token("<|right|>", rstrip=True, special=True),
            token("<|both|>", lstrip=True, rstrip=True, normalized=True), token("word", single_word=True),
            token("WORD", single_word=True, normalized=True), token("Été", normalized=True),
            token("<|"), token("<|endof", normalized=True), token("<|endoftext|>", special=True)]
    hard = [{"id": first + i, **one} for i, one in enumerate(hard)]
    lower = [{"type": "NFD"}, {"type": "Lowercase"}, {"type": "StripAccents"}]
    made = {f"split_{behavior}{'_inverted' * invert}": ("gpt2", cut(behavior, invert, Regex=r"\s|\p{N}+|x*"))
            for behavior in ("Isolated", "Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous")
            for invert in (False, True)}
    made.update({
        "split_string": ("gpt2", cut("MergedWithNext", String="a.")),
        "split_space": ("gpt2", cut("MergedWithPrevious", String=" ")),
        "cl100k": ("gpt2", cut("Isolated", Regex=CL100K)),
        "repeated_interval": ("gpt2", cut("Isolated", Regex=r"\p{N}{1,3}+|\p{^L}{2}|\S{,3}|^.|.$|[\w]+?")),
        "words": ("gpt2", cut("Isolated", Regex=r"\w+|\W|\p{Han}")),
        "digits": ("gpt2", splits({"type": "Digits", "individual_digits": True})),
        "numbers": ("gpt2", splits({"type": "Digits", "individual_digits": False})),
        "punctuation": ("gpt2", splits({"type": "Punctuation", "behavior": "Contiguous"})),
        "whitespace": ("gpt2", splits({"type": "Whitespace"})),
        "whitespace_split": ("gpt2", splits({"type": "WhitespaceSplit"})),
        "prefix_space": ("gpt2", {"pre_tokenizer": {"add_prefix_space": True}}),
        "deepseek_v2": ("gpt2", splits(*[{"type": "Split", "pattern": {"Regex": pattern},
                                         "behavior": "Isolated", "invert": False}
                                        for pattern in DEEPSEEK_V2])),
        "added": ("gpt2", {"added_tokens": hard}),
        "added_lowercase": ("gpt2", {"added_tokens": hard,
                                     "normalizer": {"type": "Sequence", "normalizers": lower}}),
        "strip": ("gpt2", {"normalizer": {"type": "Strip", "strip_left": True, "strip_right": True}}),
        "nfkc": ("gpt2", {"normalizer": {"type": "NFKC"}}),
        "nfkd": ("gpt2", {"normalizer": {"type": "NFKD"}}),
        "replace_regex": ("gpt2", {"normalizer": {"type": "Replace", "pattern": {"Regex": r"\s+|e+"},
                                                  "content": "·"}}),
        "mixtral_metaspace": ("mixtral", {
            "normalizer": None, "pre_tokenizer": {"type": "Metaspace", "replacement": "▁",
                                                  "prepend_scheme": "first", "split": False}}),
        "mixtral_always": ("mixtral", {
            "normalizer": None, "pre_tokenizer": {"type": "Metaspace", "replacement": "▁",
                                                  "add_prefix_space": True}}),
        "mixtral_ignore_merges": ("mixtral", {"model": {"ignore_merges": True}}),
        "unknown_apart": ("unknown", {"model": {"fuse_unk": False}}),
        "no_unknown": ("unknown", {"model": {"unk_token": None}}),
        "no_decoder": ("unknown", {"decoder": None}),
        "unigram_bytes": ("unigram", with_bytes(files["unigram"])),
        "unigram_whole": ("unigram", {"pre_tokenizer": {"prepend_scheme": "never", "split": False},
                                      "decoder": {"prepend_scheme": "never"}}),
    })
    return made


def patched(value, patch):
    """A JSON merge patch (RFC 7396)."""
    if not isinstance(patch, dict):
        return patch
    value = copy.deepcopy(value) if isinstance(value, dict) else {}
    for key, change in patch.items():
        if change is None:
            value.pop(key, None)
        else:
            value[key] = patched(value.get(key), change)
    return value


def main():
    chat = [special("<|endoftext|>"), special("<|im_start|>"), special("<|im_end|>")]
    thought = [AddedToken(content, special=False, normalized=False) for content in ("<think>", "</think>")]
    spaces = [AddedToken(" " * count, special=False, normalized=True) for count in range(24, 1, -1)]
    files = {
        "gpt2": byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False), added=chat[:1]),
        "olmoe": byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False), normalizers.NFC(),
                            chat[:1] + spaces + [special("<|padding|>")]),
        "qwen2": byte_level(byte_level_words(GPT2_LIKE_QWEN), normalizers.NFC(), chat + thought),
        "llama3": byte_level(byte_level_words(LLAMA3), None, chat[:1], ignore_merges=True),
        "gpt_oss": byte_level(byte_level_words(O200K), None, chat[:1], ignore_merges=True),
        "deepseek_v3": byte_level(byte_level_words(*DEEPSEEK), normalizers.Sequence([]), [
            special("<｜begin▁of▁sentence｜>"), special("<｜end▁of▁sentence｜>")] + thought),
        "mixtral": sentencepiece_bpe(fallback=True),
        "unknown": sentencepiece_bpe(fallback=False),
        "unigram": unigram(),
    }
    texts = test_texts()
    expected = {"texts": texts, "variants": {}, "tokens": {}, "decoded": {}}
    everything = dict(files)
    for name, (base, patch) in variants(files).items():
        expected["variants"][name] = {"file": base, "patch": patch}
        everything[name] = patched(files[base], patch)
    for name, file in everything.items():
        tokenizer = Tokenizer.from_str(json.dumps(file))
        encoded = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
        expected["tokens"][name] = encoded
        expected["decoded"][name] = [tokenizer.decode(ids) for ids in encoded]
    HERE.mkdir(exist_ok=True)
    for name, content in {**files, "expected": expected}.items():
        (HERE / f"{name}.json").write_text(json.dumps(content, ensure_ascii=False,
                                                      separators=(",", ":")) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
