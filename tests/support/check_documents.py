#!/usr/bin/env python3
"""Checks the documents (*.md) and names each FILE:LINE that is wrong: the length of README.md, long
sentences, links and anchors that lead nowhere, keys that the program does not know.

usage: check_documents.py [FILE.md...]      all that git knows or would add, if none is named
"""
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MOST_LINES = 250  # of README.md
MOST_WORDS = 30   # of a sentence; a code span counts as one word

# Dotted names in code spans that are no keys, although they look like some; the last are PTX.
NO_KEYS = {"trace.attrs", "cp.async", "ldmatrix.trans", "mma.m16n8k32", "mma.sync"}
# SECTION.END: names of files and tensors (train.sbatch, trace.h5, model.layers.0.mlp...).
ENDS = {"cfg", "cpp", "csv", "cu", "cuh", "done", "h", "h5", "html", "json", "jsonl", "log", "md", "npy",
        "parquet", "png", "py", "refused", "safetensors", "sbatch", "sh", "txt", "xz"}
ABBREVIATIONS = ("al.", "e.g.", "i.e.", "vs.")
PICTURES = {"text", ""}  # languages of code blocks whose words are not commands


def keys_of(source):
    """Every section.key that src/config/keys_*.cpp declares."""
    keys = set()
    for path in sorted(source.glob("keys_*.cpp")):
        section = None
        text = path.read_text(encoding="utf-8")
        pattern = r'\bSection s\("(\w+)"|\bSection<(\w+)>& s\b|\bs\s*\.\s*\w+\s*\(\s*"(\w+)"'
        for match in re.finditer(pattern, text):
            if match[3]:
                keys.add(f"{section}.{match[3]}")
            else:
                section = match[1] or match[2].lower()
    return keys


class Document:
    """A file cut into headings, code blocks, tables and paragraphs, each with its line."""

    def __init__(self, path):
        self.path = path
        self.lines = path.read_text(encoding="utf-8").splitlines()
        self.code, self.headings, self.rows, self.paragraphs = [], [], [], []
        fence, language, open_paragraph = None, "", None
        for number, line in enumerate(self.lines, start=1):
            mark = re.match(r"\s*(```+)(\w*)", line)
            if mark and (fence is None or line.strip() == fence):
                fence, language = (mark[1], mark[2]) if fence is None else (None, "")
                open_paragraph = None
            elif fence is not None:
                self.code.append((number, language, line))
            elif re.match(r"#{1,6} ", line):
                self.headings.append((number, line.lstrip("#").strip()))
                open_paragraph = None
            elif line.lstrip().startswith("|"):
                self.rows.append((number, line))
                open_paragraph = None
            elif not line.strip():
                open_paragraph = None
            else:
                item = re.match(r"\s*([-*+]|\d+[.)])\s+(.*)", line)
                if item or open_paragraph is None:
                    open_paragraph = []
                    self.paragraphs.append(open_paragraph)
                open_paragraph.append((number, item[2] if item else line.strip()))

    def prose(self):
        """Lines in which code spans and links count: all but code blocks."""
        both = [*self.headings, *self.rows, *(line for part in self.paragraphs for line in part)]
        return sorted(both)

    def anchors(self):
        found, names = {}, set()
        for _, heading in self.headings:
            text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
            slug = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
            count = found.get(slug, 0)
            found[slug] = count + 1
            names.add(f"{slug}-{count}" if count else slug)
        return names


def sentences(paragraph):
    """(line where it begins, words) of each sentence."""
    words = []
    for number, line in paragraph:
        plain = re.sub(r"(?<!`)`[^`]+`(?!`)", "code", line)
        plain = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", plain)
        words += [(number, word) for word in re.sub(r"[*_]{2}", "", plain).split()]
    start, result = 0, []
    for i, (_, word) in enumerate(words):
        end = re.search(r"[.!?][)\"']*$", word) and not word.endswith(ABBREVIATIONS)
        if end or i + 1 == len(words):
            sentence = words[start:i + 1]
            result.append((sentence[0][0], [w for _, w in sentence if re.search(r"\w", w)]))
            start = i + 1
    return result


def is_link_list(paragraph):
    text = " ".join(line for _, line in paragraph)
    rest = re.sub(r"!?\[[^\]]*\]\([^)]*\)", "", text)
    return text != rest and len(re.findall(r"\w+", rest)) < 4


def long_sentences(document):
    for paragraph in document.paragraphs:
        if is_link_list(paragraph):
            continue
        for number, words in sentences(paragraph):
            if len(words) > MOST_WORDS:
                yield number, f"a sentence of {len(words)} words (at most {MOST_WORDS}): " \
                              f"{' '.join(words[:6])} ..."


def dead_links(document, documents):
    for number, line in document.prose():
        line = re.sub(r"`[^`]*`", "", line)
        for target in re.findall(r"\]\(([^)\s]+)\)", line):
            if re.match(r"[a-z]+:", target):
                continue
            file, _, anchor = target.partition("#")
            path = (document.path.parent / file).resolve() if file else document.path
            if not path.exists():
                yield number, f"link to {target}: there is no such file"
            elif anchor:
                if path not in documents:
                    documents[path] = Document(path)
                if anchor not in documents[path].anchors():
                    yield number, f"link to {target}: there is no such heading"


def unknown_keys(document, keys):
    sections = {key.split(".")[0] for key in keys}

    def judge(name, is_option):
        section, field = name.split(".", 1)
        if name in keys or name in NO_KEYS:
            return None
        if not is_option and (section not in sections or ENDS & set(field.split("."))):
            return None
        return f"{name} is no key of the program"

    for number, line in document.prose():
        for span in re.findall(r"`([^`]+)`", line):
            for option, name in re.findall(r"(?<![\w./-])(--)?([a-z]\w*(?:\.\w+)+)(?![\w/*])", span):
                problem = judge(name, bool(option))
                if problem:
                    yield number, problem
            lone = re.fullmatch(r"([a-z]\w*\.([a-z]\w*))(\s*=.*)?", span)
            if lone and lone[1].split(".")[0] not in sections and lone[2] not in ENDS \
                    and lone[1] not in keys | NO_KEYS:
                yield number, f"{lone[1]} is no key of the program (check_documents.py lists others)"
    for number, language, line in document.code:
        names = re.findall(r"(?<!\S)--([a-z]\w*\.\w+)", line)
        if language == "ini":
            names += re.findall(r"^([a-z]\w*\.\w+)\s*=", line)
        for name in names:
            if language not in PICTURES and name not in keys:
                yield number, f"{name} is no key of the program"


def tracked():
    listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard",
                             "*.md"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [ROOT / name for name in sorted(filter(None, listed.split("\0"))) if (ROOT / name).exists()]


def main():
    paths = [Path(name).resolve() for name in sys.argv[1:]] or tracked()
    keys = keys_of(ROOT / "src/config")
    if not paths or len(keys) < 100:
        sys.exit(f"check_documents.py: {len(paths)} documents, {len(keys)} keys: something is missing")
    documents = {path: Document(path) for path in paths}
    found = []
    for path in paths:
        document = documents[path]
        problems = [*long_sentences(document), *dead_links(document, documents),
                    *unknown_keys(document, keys)]
        if path == ROOT / "README.md" and len(document.lines) > MOST_LINES:
            problems.append((len(document.lines), f"{len(document.lines)} lines, more than {MOST_LINES}"))
        name = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
        found += [f"{name}:{number}: {what}" for number, what in sorted(problems)]
    print("\n".join(found) if found else f"check_documents: {len(paths)} documents are sound")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
