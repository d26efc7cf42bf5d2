#!/usr/bin/env bash
# Fails if a tracked C++ file is not as clang-format (14, .clang-format) writes it, if a document is
# not as check_documents.py wants it, or if a file has a word that check_words.py replaces. To correct
# a C++ file: clang-format -i FILE.
set -euo pipefail
cd "$(dirname "$0")/../.."

git ls-files -z '*.h' '*.cpp' | xargs -0 clang-format --dry-run -Werror
echo "check_format: $(git ls-files '*.h' '*.cpp' | wc -l) files are clean"
python3 tests/support/check_documents.py
python3 tests/support/check_words.py
