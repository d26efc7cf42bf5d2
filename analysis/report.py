#!/usr/bin/env python3
"""One self-contained page of figures and numbers from the traces of runs, or their essence as text.

usage: report.py TRACE... -o DIR      writes DIR/index.html, and each figure as DIR/*.png
       report.py TRACE... --text      prints 80 columns, without matplotlib
Works on a trace that is being written; run it again for the newest steps.
"""
import argparse
import sys
from pathlib import Path

from needs import need
from terminal import text_of
from traces import fail, read_traces


def main():
    parser = argparse.ArgumentParser(description=__doc__, epilog="",
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("traces", nargs="+", metavar="TRACE")
    parser.add_argument("-o", dest="folder", type=Path, metavar="DIR")
    parser.add_argument("--text", action="store_true")
    options = parser.parse_args()
    if options.folder is None and not options.text:
        parser.error("-o DIR or --text is missing")
    traces = read_traces(options.traces)
    for trace in traces:
        if len(trace.steps) == 0:
            fail(65, f"{trace.path.resolve()} has no step yet: try again in a while")
    if options.text:
        sys.stdout.reconfigure(errors="replace")  # bars, where the terminal has no letters for them
        print("\n\n".join(map(text_of, traces)))
    if options.folder is not None:
        need("matplotlib")
        from page import page, write_page  # pylint: disable=import-outside-toplevel
        options.folder.mkdir(parents=True, exist_ok=True)
        write_page(options.folder, page(traces, options.folder))


if __name__ == "__main__":
    main()
