"""Times the handoff into PostgreSQL beside `psql \\copy` of the same rows as CSV, on the same server in the same minutes.

| figure   | what                                                                                       | bar      |
|----------|--------------------------------------------------------------------------------------------|----------|
| speed    | rows a second of `millrace handoff load` / those of `\\copy ... FROM ... CSV`, same table and partitions | >= 0.7   |
| overhead | seconds for each batch of one event, the start of the process taken off: the warehouse's own work is in it | <= 0.5 s |

Rounds are interleaved; figures are medians. Every load is checked: the rows are the ledger's good events. Needs
MILLRACE_BIN and LOADTEST_BIN. Writes results/handoff.json and handoff.md.
"""

import argparse
import json
import os
import shutil
import statistics
import time
from pathlib import Path

from services import EXAMPLE, HERE, Postgres, machine, note, run, tell, verdict


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batches", type=int, default=20, help="batches of one event for the overhead")
    parser.add_argument("--work", type=Path, default=Path.home() / ".cache/millrace/bench/handoff")
    parser.add_argument("--results", type=Path, default=HERE.parent / "results")
    options = parser.parse_args()
    shutil.rmtree(options.work, ignore_errors=True)
    options.work.mkdir(parents=True)
    server = Postgres(options.work / "postgres")
    server.start()
    try:
        results = measure(options, server)
    finally:
        server.remove()
    tell(options.results, "handoff", results, report(results))


def measure(options, server):
    work = options.work
    run(os.environ["LOADTEST_BIN"], "generate", "--events", options.events, "--files", 4, "--out", work / "sent")
    good = json.loads((work / "sent" / "sent.json").read_text())["counts"]["good"]
    pipeline = shop(work, "shop", server.dsn)
    millrace("run", pipeline, "--input", work / "sent" / "events", "--no-handoff")
    table, csv, runs = "analytics.shop", work / "rows.csv", []
    for number in range(options.rounds):
        server.sql("DROP SCHEMA IF EXISTS analytics CASCADE")
        load = timed(lambda: millrace("handoff", "load", pipeline))
        rows = int(server.sql(f"SELECT count(*) FROM {table}"))
        if rows != good:
            raise SystemExit(f"{rows} rows were loaded, the ledger has {good} good events")
        if not csv.exists():
            server.sql(f"\\copy (SELECT * FROM {table}) TO '{csv}' CSV")
        server.sql(f"TRUNCATE {table}")
        copy = timed(lambda: server.sql(f"\\copy {table} FROM '{csv}' CSV"))
        runs.append({"round": number, "rows": rows, "load_seconds": round(load, 3), "copy_seconds": round(copy, 3)})
        note(json.dumps(runs[-1]))
    partitions = int(server.sql(f"SELECT count(*) FROM pg_inherits WHERE inhparent = '{table}'::regclass"))
    load, copy = (statistics.median(run[key] for run in runs) for key in ("load_seconds", "copy_seconds"))
    return {
        "machine": machine(),
        "server": server.sql("SHOW server_version"),
        "rows": good,
        "partitions": partitions,
        "rows_per_second": round(good / load),
        "copy_rows_per_second": round(good / copy),
        "speed": round(copy / load, 3),
        "overhead_seconds": round(overhead(options, server), 4),
        "runs": runs,
    }


def report(results):
    lines = [
        "# The handoff into PostgreSQL",
        "",
        f"{results['rows']:,} rows of shop events into a table of {results['partitions']} day partitions of PostgreSQL {results['server']}, on the same "
        f"{results['machine']['cores']} cores; medians of {len(results['runs'])} interleaved rounds.",
        "",
        "| | rows/s |",
        "|---|--:|",
        f"| `millrace handoff load`, from Parquet | {results['rows_per_second']:,} |",
        f"| `psql \\copy`, from CSV | {results['copy_rows_per_second']:,} |",
        "",
        "| bar | found | |",
        "|---|--:|---|",
        f"| at least 0.7x `\\copy` | {results['speed']:.2f}x | {verdict(results['speed'] >= 0.7)} |",
        f"| a batch of one event within 0.5 s, with the warehouse's own work | {results['overhead_seconds']:.3f} s | {verdict(results['overhead_seconds'] <= 0.5)} |",
    ]
    return "\n".join(lines) + "\n"


def overhead(options, server):
    """Seconds of a batch of one event, with the process's start taken off."""
    work = options.work
    pipeline = shop(work, "small", server.dsn)
    first = next((work / "sent" / "events").iterdir())
    with open(first) as lines:
        for number in range(options.batches):
            file = work / f"one-{number}.json"
            file.write_text(next(line for line in lines if line.endswith("}\n")))
            millrace("run", pipeline, "--input", file, "--no-handoff")
    all_of_them = timed(lambda: millrace("handoff", "load", pipeline))
    loaded = int(server.sql("SELECT count(*) FROM analytics.millrace_loads WHERE pipeline = 'small'"))
    nothing = timed(lambda: millrace("handoff", "load", pipeline))
    return (all_of_them - nothing) / loaded


def shop(work, name, dsn):
    folder = work / name
    folder.mkdir()
    shutil.copy(EXAMPLE / "suite.json", folder)
    text = (EXAMPLE / "shop.yaml").read_text().replace("pipeline: shop", f"pipeline: {name}")
    text = text.replace("minimum_clean: 0.99, ", "").replace("retention:", "# retention:")
    file = folder / "pipeline.yaml"
    file.write_text(f'{text}warehouse: {{postgres: {{dsn: "{dsn}", table: analytics.{name}}}}}\n')
    return file


def timed(what):
    began = time.monotonic()
    what()
    return time.monotonic() - began


def millrace(*arguments):
    return run(os.environ["MILLRACE_BIN"], *arguments)


if __name__ == "__main__":
    main()
