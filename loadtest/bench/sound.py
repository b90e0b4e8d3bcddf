"""Copies generated events without the broken lines, for readers that stop at the first one.

Usage: sound.py LEDGER_DIR TARGET
"""

import json
import os
import sys
from pathlib import Path

import numpy

ENTRY = numpy.dtype([("id", "V16"), ("tail", "<u4")])  # loadtest/src/ledger.rs says what stands in it


def main(folder, target):
    folder = Path(folder)
    sent = json.loads((folder / "sent.json").read_text())
    tails = numpy.fromfile(folder / "sent.ledger", dtype=ENTRY)["tail"]
    first = 0
    with open(target, "wb") as out:
        for file in sent["files"]:
            part = tails[first : first + file["lines"]]
            first += file["lines"]
            ends = numpy.cumsum(part >> 8, dtype=numpy.int64)
            start = 0
            with open(folder / "events" / file["name"], "rb") as source:
                for line in numpy.flatnonzero(part & 0xF):
                    copy(source, out, start, int(ends[line] - (part[line] >> 8)))
                    start = int(ends[line])
                copy(source, out, start, int(ends[-1]))


def copy(source, out, start, end):
    out.flush()
    while start < end:
        start += os.sendfile(out.fileno(), source.fileno(), start, end - start)


if __name__ == "__main__":
    main(*sys.argv[1:])
