#!/usr/bin/env bash
# Makes a folder of real text of three kinds from what the system has installed, one file a document:
#   prose   the King James Bible as the program `bible` prints it, a chapter a file
#   code    the sources of the Python standard library
#   docs    the Perl manual's pages (.pod)
#   bash jobs/make_text.sh DIR [--bytes N]     N: at most so many bytes together (default 25000000)
# The same packages give the same files. A complete DIR is left as it is.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
export LC_ALL=C

out='' bytes=25000000
while [ $# -gt 0 ]; do
  case "$1" in
    --bytes) need_value "$1" "${2:-}"; bytes=$2; shift 2 ;;
    -*) fail 64 "unknown option $1 (see the head of this file)" ;;
    *) out=$1; shift ;;
  esac
done
[ -n "$out" ] || fail 64 "the folder to make is missing: bash jobs/make_text.sh DIR"
if [ -f "$out/.complete-$bytes" ]; then
  exit 0
fi
if [ -e "$out" ] && ! compgen -G "$out/.complete-*" >/dev/null; then
  fail 73 "$out exists and was not made by this script: name another folder"
fi
command -v bible >/dev/null || fail 69 "no program 'bible' (Debian: bible-kjv); or bring your own text"
command -v perl >/dev/null || fail 69 "no perl (Debian: perl perl-doc); or bring your own text"

partial=$out.partial
rm -rf "$partial"
mkdir -p "$partial"/{source,prose,code,docs}

# Reads lines "SIZE NAME PATH" (tab-separated, sorted by name) and links those it keeps into
# FOLDER. Over the cap, files are left out evenly along the list.
keep_up_to() {  # FOLDER CAP
  awk -F'\t' -v cap="$2" '
    { size[NR] = $1; line[NR] = $3 "\t" $2; total += $1 }
    END {
      for (i = 1; i <= NR; i++) {
        seen += size[i]
        if (total <= cap || kept + size[i] <= cap * seen / total) {
          kept += size[i]
          print line[i]
        }
      }
    }' |
    while IFS=$'\t' read -r path name; do
      cp "$path" "$1/$name"
    done
}

# Lists a tree's files as "SIZE NAME PATH"; the name is the relative path with - for /.
list_files() {  # TREE FIND-TEST...
  local tree=$1
  shift
  find -L "$tree" -type f -size +0 "$@" -printf '%s\t%P\t%p\n' |
    awk -F'\t' -v OFS='\t' '{ gsub("/", "-", $2); print }' | sort -t$'\t' -k2,2
}

# Each line is "BookChapter:Verse text".
bible -f 'Ge1:1-Re22:21' | awk -v folder="$partial/source" '
  {
    chapter = substr($1, 1, index($1, ":") - 1)
    match(chapter, /[0-9]+$/)
    file = sprintf("%s/%s-%03d.txt", folder, substr(chapter, 1, RSTART - 1), substr(chapter, RSTART))
    if (file != last && last != "") close(last)
    last = file
    print > file
  }'

python_tree=$(find /usr/lib -maxdepth 1 -name 'python3.[0-9]*' | sort -V | tail -n 1)
[ -n "$python_tree" ] ||
  python_tree=$(python3 -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')
perl_tree=$(perl -MConfig -e 'print $Config{privlib}')

# Left out: what other packages than the library itself may or may not have installed beside it.
list_files "$partial/source" -name '*.txt' | keep_up_to "$partial/prose" $((bytes * 18 / 100))
list_files "$python_tree" -name '*.py' -not -path '*/site-packages/*' -not -path '*/dist-packages/*' \
  -not -path '*/test/*' -not -path '*/tkinter/*' -not -path '*/idlelib/*' -not -path '*/lib2to3/*' \
  -not -path '*/distutils/*' -not -path '*/turtledemo/*' |
  keep_up_to "$partial/code" $((bytes * 44 / 100))
list_files "$perl_tree" -name '*.pod' | keep_up_to "$partial/docs" $((bytes * 38 / 100))
rm -rf "$partial/source"

for kind in prose code docs; do
  count=$(find "$partial/$kind" -type f | wc -l)
  [ "$count" -gt 0 ] || fail 69 "no text of kind $kind found (Debian: bible-kjv libpython3-stdlib perl-doc)"
  echo "$kind: $count documents, $(find "$partial/$kind" -type f -printf '%s\n' |
    awk '{ n += $1 } END { printf "%.1f MB", n / 1e6 }')"
done
touch "$partial/.complete-$bytes"
rm -rf "$out"
mv "$partial" "$out"
