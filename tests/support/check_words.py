#!/usr/bin/env python3
"""Names each FILE:LINE with a word that this project no longer uses, and the word to use instead.
Also comments that begin with "Of ..." or "Likewise": they cannot be read alone.

usage: check_words.py [FILE...]      all text files that git knows or would add, if none is named
"""
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CODE = r"\.(cfg|cpp|cu|h|py|sbatch|sh|txt)$"
CPP = r"\.(cpp|cu|h)$"
TEXT = r"\.(cfg|cpp|cu|h|md|py|sbatch|sh|txt)$"

# Pattern, what to write instead, files. A blank in a pattern also matches the end of a line.
WORDS = [
    (r"(?://+|#)[!<]*[^\S\n]*(?:Of|[Ll]ikewise)\b", "a sentence that can be read alone", CODE),
    (r'"(?:Of|Likewise)\b', "a sentence that can be read alone", CODE),
    (r"few bits|few_bits", "quantized", TEXT),
    (r"\bcall(?:s|ed)? from memory|on (?:its|their) way from memory", "prefetch", TEXT),
    (r"\breading_format\b|\breading format\b", "inference format", TEXT),
    (r"\bInputSums\b|\bimportance\b", "activation statistics, mean squares", TEXT),
    (r"\bexchange_quantized\b", "swap_layer_weights", TEXT),
    (r"\bnumbers\(\)", "expert_ids()", CPP),
    (r"\bexpert(?:s|'s|s')? answer(?:s|ed)?\b", "output of an expert", TEXT),
    (r"\bmoved\b", "rerouted (of a choice), copied, changed", r"^src/.*\.(cpp|h|md)$|^tests/reference/"),
    (r"\bpull(?:s|ed)?\b", "load fraction", r"^src/"),
    (r"\bh[eo]ld(?:s|ing)? back\b|\bheld_(?:back|rows)\b|\badd_held\b", "deferred", TEXT),
    (r"\bspeaks?\b|\bspeak_", "reports", TEXT),
    (r"\bg[eo]ts?_on\b", "on_progress, makes_progress", TEXT),
    (r"\bis_hungry\b", "has_capacity", TEXT),
    (r"\brounds?\b|\b[a-z]+_rounds?\b|\bRound[A-Z]\w*", "iteration", r"^src/infer/.*\.(cpp|h)$"),
    (r"\brounds\b", "micro_batches, iterations", r"^src/(train|plan|cli)/"),
    (r"\bgiven_\b|\bspan\.given\b", "context", CPP),
    (r"\b\w*[Ll]ikeliest\w*", "argmax, top-1, most probable", TEXT),
    (r"\b\w*[Cc]ompanion\w*", "sidecar files", TEXT),
    (r"\bPool\b|\bpools?_\b|\b(?:make_)?pool_of\b|\bmake_pool\b", "expert_pool, memory_pool", CPP),
    (r"\bpairs? of bf16\b|\bbf16 in pairs\b|\bavx512_pairs\w*", "bf16 dot products", TEXT),
    (r"\bwhole(?: |_)blocks?\b", "block-aligned", TEXT),
    (r"\bFate\b", "DispatchOutcome", CPP),
    (r"\b[Kk][Vv](?: |_)groups?\b|\bmesh\.kv\b", "kv_replicas", TEXT),
    (r"\bpart_shape\b|\bColumnPart\b|\btensor\.part\b", "slice", CPP),
    (r"\bPlacement&? place\b|\b\w*Place\b(?! in| of)|\bplace_of\b", "placement, location, position", r"^src/(cli|config|infer|model|tensor|train)/.*\.(cpp|h)$"),
]


def compiled():
    gap = r'(?:[^\S\n]+|[^\S\n"]*"?\n(?:[\s"]|//+|#)*)'  # also to the next line of a comment or text
    return [(re.compile(pattern.replace(" ", gap)), use, re.compile(where)) for pattern, use, where in WORDS]


def found_in(name, words):
    text = (ROOT / name).read_text(encoding="utf-8")
    for pattern, use, where in words:
        if where.search(name):
            for match in pattern.finditer(text):
                line = text.count("\n", 0, match.start()) + 1
                yield line, f"{' '.join(match[0].split())!r}: write {use}"


def tracked():
    listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
                            cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return sorted(name for name in listed.split("\0") if re.search(TEXT, name) and (ROOT / name).is_file())


def main():
    own = Path(__file__).resolve()
    names = [str(Path(name).resolve().relative_to(ROOT)) for name in sys.argv[1:]] or tracked()
    words, found = compiled(), []
    for name in names:
        if ROOT / name != own:
            found += [f"{name}:{line}: {what}" for line, what in sorted(found_in(name, words))]
    print("\n".join(found) if found else f"check_words: {len(names)} files use the words of the field")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
