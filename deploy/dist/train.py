"""What `millrace` is optimised for: the work that it does in production, on generated events.

A binary that counts runs through it; what is left out here counts as rare, and is built to be small rather than fast.

| what                                                                   | by                           |
|------------------------------------------------------------------------|------------------------------|
| hour jobs from Kafka, compactions, handoff into PostgreSQL, models, verify | loadtest/bench/day.py        |
| a prefix of S3, keys claimed between workers and not, `run`               | loadtest/bench/cluster.py    |
| every format and compression of files, a query                            | here                         |

Needs MILLRACE_BIN and LOADTEST_BIN.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
BENCH = ROOT / "loadtest" / "bench"
PYTHON = ROOT / "deploy" / "local" / "python.sh"
EXAMPLE = ROOT / "client" / "examples" / "shop"
HASH_KEY = "a key for training only, 32 bytes or more"


def main():
    options = arguments()
    shutil.rmtree(options.work, ignore_errors=True)
    options.work.mkdir(parents=True)
    results = options.work / "results"
    python(BENCH / "day.py", "--events", options.events, "--work", options.work / "day", "--results", results)
    python(BENCH / "cluster.py", "--events", options.events, "--rounds", 1, "--work", options.work / "cluster", "--results", results)
    files(options.work / "files", options.events // 5)
    shutil.rmtree(options.work)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--events", type=int, default=1_000_000, help="for each benchmark; a fifth for each format of files")
    parser.add_argument("--work", type=Path, required=True, help="folder of its own, which is removed")
    return parser.parse_args()


def python(*command):
    run(sys.executable, *command)


def files(folder, events):
    """Runs over files of every format; the lines of the first one are turned into the other formats."""
    lines = folder / "json"
    for kind, compress in [("json", "none"), ("gzip", "gzip"), ("zstd", "zstd")]:
        run(os.environ["LOADTEST_BIN"], "generate", "--events", events, "--files", 2, "--broken", 0, "--compress", compress, "--out", folder / kind)
    interpreter = run(PYTHON, "install", "polars==2.1.0", capture=True).splitlines()[-1]
    run(interpreter, "-c", CONVERT, lines / "events", folder)
    for kind in ("json", "gzip", "zstd", "csv", "avro", "parquet"):
        through(folder, kind)


CONVERT = """
import pathlib, sys, polars
lines, folder = map(pathlib.Path, sys.argv[1:])
for kind in ("csv", "avro", "parquet"):
    (folder / kind / "events").mkdir(parents=True)
    for file in sorted(lines.iterdir()):
        rows = polars.read_ndjson(file, infer_schema_length=None)
        getattr(rows, f"write_{kind}")(folder / kind / "events" / f"{file.stem}.{kind}")
"""


def through(folder, kind):
    pipeline, lake = folder / kind / "pipeline", folder / kind / "lake"
    shutil.copytree(EXAMPLE, pipeline)
    file = pipeline / "shop.yaml"
    format = kind if kind in ("csv", "avro", "parquet") else "json"
    file.write_text(file.read_text().replace("format: json", f"format: {format}"))
    millrace = os.environ["MILLRACE_BIN"]
    told = json.loads(run(millrace, "run", file, "--input", folder / kind / "events", "--lake", lake, "--output", "json", capture=True).splitlines()[-1])
    if told["events_written"] == 0:
        raise SystemExit(f"{kind}: nothing was written")
    sql = "SELECT channel, count(*), count(DISTINCT user_id), sum(price) FROM events GROUP BY channel ORDER BY channel"
    run(millrace, "query", sql, "--lake", lake)


def run(*command, capture=False):
    ran = subprocess.run([str(part) for part in command], env={**os.environ, "MILLRACE_HASH_KEY": HASH_KEY},
                         stdout=subprocess.PIPE if capture else sys.stderr, text=True)
    if ran.returncode not in (0, 3):
        raise SystemExit(f"{' '.join(map(str, command))}: exit code {ran.returncode}")
    return ran.stdout


if __name__ == "__main__":
    main()
