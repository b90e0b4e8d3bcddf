"""Times `millrace run` beside DuckDB, Polars and PySpark on the same events.

Runs are interleaved: each round runs every tool once, so that a disturbance hits all of them. A figure is the
median of its runs; ratios compare medians. Every tool's rows are checked against the ledger: each good event once.

Writes results/bench.json, bench.md, bench.svg and bench.png.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import judge
import measure
import plot
import report

HERE = Path(__file__).resolve().parent
PEERS = HERE / "peers"
# 100k is for trying the benchmark out: its times mean nothing.
SIZES = {"100k": 100_000, "3M": 3_000_000, "20M": 20_000_000}
ROUNDS = {"100k": 1, "3M": 5, "20M": 3}
# PySpark takes minutes where the others take seconds; more runs would only warm the room.
SPARK_ROUNDS = {"100k": 1, "3M": 2, "20M": 1}
HASH_KEY = "a key for benchmarks only, 32 bytes or more"


def main():
    options = arguments()
    options.work.mkdir(parents=True, exist_ok=True)
    tools = [tool for tool in options.tools.split(",") if tool]
    results = {"machine": measure.machine(), "seed": options.seed, "runs": []}
    for size in options.sizes.split(","):
        data = Data(options, size)
        failed = set()
        for round_number in range(options.rounds or ROUNDS[size]):
            for threads in (1, 2):
                for tool in tools:
                    is_enough = tool == "pyspark" and round_number >= SPARK_ROUNDS[size]
                    if is_enough or (tool, threads) in failed:
                        continue
                    try:
                        run = run_once(options, data, tool, threads, check=round_number == 0)
                    except measure.Failed as error:
                        if tool == "millrace":
                            raise
                        failed.add((tool, threads))
                        print(error, file=sys.stderr, flush=True)
                        run = {"tool": tool, "threads": threads, "failed": error.ended}
                    results["runs"].append({"size": size, "events": data.events, "round": round_number, **run})
                    print(describe(results["runs"][-1]), file=sys.stderr, flush=True)
        results.setdefault("inputs", {})[size] = data.facts()
    write(options.results, results)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--millrace", default=os.environ.get("MILLRACE_BIN"), help="binary; also MILLRACE_BIN")
    parser.add_argument("--generator", required=True, help="the millrace-loadtest binary")
    parser.add_argument("--work", type=Path, default=Path.home() / ".cache/millrace/bench")
    parser.add_argument("--results", type=Path, default=HERE.parent / "results")
    parser.add_argument("--sizes", default="3M,20M")
    parser.add_argument("--tools", default="millrace,duckdb,polars,pyspark")
    parser.add_argument("--rounds", type=int, help="instead of 5 for 3M and 3 for 20M")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    if "millrace" in options.tools and not options.millrace:
        parser.error("set MILLRACE_BIN or --millrace to the binary")
    return options


class Data:
    """The events of one size, generated once and kept for the next benchmark."""

    def __init__(self, options, size):
        self.events = SIZES[size]
        self.folder = options.work / f"{size}-seed{options.seed}"
        wanted = {"events": self.events, "seed": options.seed, "generator": measure.digest(options.generator)}
        stamp = self.folder / "stamp.json"
        if not stamp.exists() or json.loads(stamp.read_text()) != wanted:
            need = self.events * 1_300  # events twice, and the largest lake
            free = shutil.disk_usage(options.work).free
            if free < need:
                sys.exit(f"{size} events need {need >> 30} GiB in {options.work}, {free >> 30} are free: use --sizes 3M")
            print(f"generating {size} events, seed {options.seed}", file=sys.stderr, flush=True)
            command = [options.generator, "generate", "--events", str(self.events), "--seed", str(options.seed)]
            subprocess.run([*command, "--out", str(self.folder), "--overwrite"], check=True, stdout=subprocess.DEVNULL)
            subprocess.run([sys.executable, str(HERE / "sound.py"), str(self.folder), str(self.sound())], check=True)
            stamp.write_text(json.dumps(wanted))
        self.truth = judge.Truth(self.folder)

    def all(self):
        return self.folder / "events" / "events-00000.ndjson"

    def sound(self):
        return self.folder / "sound.ndjson"

    def facts(self):
        sent = json.loads((self.folder / "sent.json").read_text())
        return {"bytes": sent["counts"]["bytes"], "counts": sent["counts"], "recipe": sent["recipe"]}


def command(options, data, tool, threads, lake):
    if tool == "millrace":
        return [options.millrace, "run", str(HERE / "shop.yaml"), "--input", str(data.all()), "--lake", str(lake),
                "--threads", str(threads), "--output", "json"]
    # Polars cannot leave out a line that is no JSON: it gets the same events without the broken lines.
    source = data.sound() if tool == "polars" else data.all()
    script = {"duckdb": "duckdb_shop.py", "polars": "polars_shop.py", "pyspark": "spark_shop.py"}[tool]
    line = [sys.executable, str(PEERS / script), str(source), str(lake), str(threads)]
    # Polars keeps every distinct row in memory: it must run out of it before the machine does.
    limit = [f"--data={measure.memory_bytes() * 3 // 4}"]
    return ["prlimit", *limit, *line] if tool == "polars" else line


def run_once(options, data, tool, threads, check):
    lake = options.work / "lakes" / f"{tool}-{threads}"
    scratch = Path(f"{lake}.spark")
    for folder in (lake, scratch):
        shutil.rmtree(folder, ignore_errors=True)
    lake.parent.mkdir(exist_ok=True)
    measure.warm(data.sound() if tool == "polars" else data.all())
    environment = {**os.environ, "MILLRACE_HASH_KEY": HASH_KEY}
    run = measure.run(command(options, data, tool, threads, lake), threads, environment)
    run.update(tool=tool, threads=threads, bytes_written=judge.parquet_bytes(lake))
    if check:
        run["rows"] = data.truth.judge(lake)
    for folder in (lake, scratch):
        shutil.rmtree(folder, ignore_errors=True)
    return run


def describe(run):
    if "failed" in run:
        return f"{run['size']:>4} {run['tool']} on {run['threads']} failed: {run['failed']}"
    rate = run["events"] / run["work_seconds"] / 1e6
    rows = run.get("rows")
    return (
        f"{run['size']:>4} round {run['round'] + 1} {run['tool']:>8} on {run['threads']}: {run['work_seconds']:7.2f} s "
        f"({rate:.2f}M events/s), CPU {run['cpu_seconds']:7.2f} s, {run['rss_bytes'] / 2**20:6.0f} MiB, "
        f"others {run['others_cpu_seconds'] / run['wall_seconds']:.2f} cores"
        + (f", rows {rows}" if rows else "")
    )


def write(folder, results):
    results["summary"] = summary(results["runs"])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "bench.json").write_text(json.dumps(results, indent=1) + "\n")
    (folder / "bench.md").write_text(report.table(results))
    plot.draw(results["summary"], folder)
    print(report.table(results))


def summary(runs):
    groups = {}
    for run in runs:
        groups.setdefault((run["size"], run["threads"], run["tool"]), []).append(run)
    lines = []
    for (size, threads, tool), group in groups.items():
        if any("failed" in run for run in group):
            lines.append({"size": size, "threads": threads, "tool": tool, "failed": True})
            continue
        line = {"size": size, "threads": threads, "tool": tool, "runs": len(group), "events": group[0]["events"]}
        for figure in ("work_seconds", "wall_seconds", "cpu_seconds", "rss_bytes", "bytes_written"):
            line[figure] = statistics.median(run[figure] for run in group)
        line["others_share"] = statistics.median(run["others_cpu_seconds"] / run["wall_seconds"] for run in group)
        line["spread"] = max(run["work_seconds"] for run in group) / min(run["work_seconds"] for run in group)
        line["events_per_second"] = line["events"] / line["work_seconds"]
        line["rows"] = next((run["rows"] for run in group if "rows" in run), None)
        lines.append(line)
    done = [line for line in lines if "failed" not in line]
    for line in done:
        base = next((b for b in done if b["tool"] == "duckdb" and same(b, line)), None)
        line["speed_to_duckdb"] = base and base["work_seconds"] / line["work_seconds"]
        line["cpu_to_duckdb"] = base and base["cpu_seconds"] / line["cpu_seconds"]
    return lines


def same(a, b):
    return (a["size"], a["threads"]) == (b["size"], b["threads"])


if __name__ == "__main__":
    main()
