"""Which events a tool wrote, against the generator's ledger: equal speed for other rows would be no comparison."""

import json
from pathlib import Path

import numpy
import pyarrow.compute as compute
import pyarrow.parquet as parquet

ENTRY = numpy.dtype([("low", "<u8"), ("high", "<u8"), ("tail", "<u4")])  # loadtest/src/ledger.rs says what stands in it
KINDS = ["good", "cut_off", "encoding", "wrong_type", "missing_id", "out_of_range", "not_json", "zero_byte", "too_deep"]


class Truth:
    def __init__(self, folder):
        self.entries = numpy.fromfile(Path(folder) / "sent.ledger", dtype=ENTRY)
        originals = self.entries[(self.entries["tail"] & 0x40) == 0]
        self.kind = (originals["tail"] & 0xF).astype(numpy.uint8)
        # 64 of the id's bits tell events apart here: checked, not assumed.
        self.ids = originals["low"] ^ (originals["high"] * numpy.uint64(0x9E3779B97F4A7C15))
        order = numpy.argsort(self.ids, kind="stable")
        self.ids, self.kind = self.ids[order], self.kind[order]
        assert (self.ids[1:] != self.ids[:-1]).all(), "two events share a fingerprint: take another seed"

    def judge(self, lake):
        """Counts of the lake's rows: good events, repeats, unknown ones, and broken lines that were taken for events."""
        written = numpy.concatenate([fingerprints(file) for file in data_files(lake)])
        distinct, counts = numpy.unique(written, return_counts=True)
        places = numpy.minimum(numpy.searchsorted(self.ids, distinct), len(self.ids) - 1)
        known = self.ids[places] == distinct
        kinds = numpy.bincount(self.kind[places[known]], minlength=len(KINDS))
        return {
            "written": len(written),
            "repeated": int((counts - 1).sum()),
            "unknown": int((~known).sum()),
            "missing": int((self.kind == 0).sum() - kinds[0]),
            "broken_taken_for_good": {KINDS[i]: int(n) for i, n in enumerate(kinds) if i and n},
        }


def data_files(lake):
    """What a manifest names, where there are manifests; else every Parquet file."""
    lake = Path(lake)
    manifests = sorted((lake / "manifests").glob("*.json"))
    if manifests:
        read = [json.loads(path.read_text()) for path in manifests]
        gone = {file["object"]["key"] for one in read for file in one.get("replaces", {}).get("files", [])}
        named = [file["object"]["key"] for one in read for file in one["files"]]
        return [lake / key for key in named if key not in gone]
    return sorted(lake.rglob("*.parquet"))


def parquet_bytes(lake):
    return sum(file.stat().st_size for file in data_files(lake))


def fingerprints(path):
    ids = parquet.ParquetFile(path).read(columns=["event_id"]).column(0)
    text = compute.replace_substring(ids.cast("string"), "-", "").combine_chunks()
    digits = numpy.frombuffer("".join(text.to_pylist()).encode(), dtype=numpy.uint8)
    nibbles = numpy.where(digits > 57, digits - 87, digits - 48).astype(numpy.uint64).reshape(-1, 32)
    shifts = numpy.arange(60, -4, -4, dtype=numpy.uint64)
    high = (nibbles[:, :16] << shifts).sum(axis=1, dtype=numpy.uint64)
    low = (nibbles[:, 16:] << shifts).sum(axis=1, dtype=numpy.uint64)
    return low ^ (high * numpy.uint64(0x9E3779B97F4A7C15))
