"""Times the cluster beside `millrace run` on the same events, in the same minutes.

The cluster is one coordinator and two workers of one slot; `millrace run --threads 2` reads and writes the same
MinIO. Rounds are interleaved, a figure is the median of its rounds, ratios compare medians. Every result is checked:
written = the good events of the generator's ledger.

| case        | input | dedup                                   | bar                    |
|-------------|-------|------------------------------------------|------------------------|
| partition   | S3    | within each object, no row moves         | >= 0.85 x `run`        |
| exchange    | S3    | everywhere, keys claimed between workers | >= 0.7 x `run`         |
| kafka       | Kafka | everywhere, the broker on the same cores | >= 0.6 x `run`         |
| colocated   | Kafka | within each partition, where the         | >= 0.6 x `run`         |
|             |       | generator puts the copies of an event    |                        |
| empty       | S3    | a batch of one event: the overhead       | <= 300 ms              |

Needs MILLRACE_BIN and LOADTEST_BIN. Writes results/cluster.json and results/cluster.md; what `make dist` builds has
results of its own (`--name cluster-dist`).
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

from services import HERE, Services, loadtest, tell, wait_for


def main():
    options = arguments()
    work = options.work
    work.mkdir(parents=True, exist_ok=True)
    events = work / f"events-{options.events}"
    if not (events / "sent.json").exists():
        loadtest("generate", "--events", options.events, "--files", 8, "--out", events, "--overwrite")
    sent = json.loads((events / "sent.json").read_text())
    with Services(work) as services:
        services.upload(events / "events")
        results = measure(options, services, sent)
    report(options, results)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--events", type=int, default=3_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cases", default="run,partition,exchange,kafka,colocated,empty")
    parser.add_argument("--name", default="cluster", help="of the results")
    parser.add_argument("--work", type=Path, default=Path.home() / ".cache/millrace/bench/cluster")
    parser.add_argument("--results", type=Path, default=HERE.parent / "results")
    return parser.parse_args()


def measure(options, services, sent):
    good = sent["counts"]["good"]
    runs = []
    cases = options.cases.split(",")
    if "kafka" in cases or "colocated" in cases:
        produce(services, options.events)
    for round_number in range(options.rounds):
        for case in cases:
            run = CASES[case](services, f"{case}{round_number}")
            if case in ("run", "exchange", "kafka", "colocated") and run["written"] != good:
                raise SystemExit(f"{case}: wrote {run['written']} events, the ledger has {good} good ones")
            runs.append({"case": case, "round": round_number, **run})
            settle(services, f"{case}{round_number}", case)
            print(json.dumps(runs[-1]), file=sys.stderr, flush=True)
    return runs


def settle(services, name, case):
    """Waits until the leader has compacted what a job has made complete: it would do so beside the next case."""
    if case == "run":
        return

    def is_settled():
        hours = json.loads(services.cli("job", "list", "--hours", name, "--output", "json"))["hours"]
        return not any(hour["state"] == "complete" for hour in hours)

    wait_for("the hours are compacted", 120, is_settled)


def run_embedded(services, name):
    lake = f"s3://millrace/{name}"
    pipeline = services.pipeline(name, "global", services.s3_source())
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.monotonic()
    out = subprocess.run(
        [services.millrace, "run", pipeline, "--lake", lake, "--threads", "2", "--output", "json"],
        env=services.env, check=True, capture_output=True, text=True,
    )
    seconds = time.monotonic() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    summary = json.loads(out.stdout.splitlines()[-1])
    return {
        "seconds": seconds, "read": summary["events_read"], "written": summary["events_written"],
        "cpu_seconds": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
    }


def run_job(services, name, scope, source, *submit):
    services.apply(services.pipeline(name, scope, source))
    before = services.cpu()
    began = time.monotonic()
    out = services.cli("job", "submit", name, *submit, "--wait", "--output", "json")
    seconds = time.monotonic() - began
    job = json.loads(out.splitlines()[-1])
    counts = job.get("counts", job)
    read = int(counts.get("read", counts.get("events_read", 0)))
    written = int(counts.get("written", counts.get("events_written", 0)))
    return {"seconds": seconds, "read": read, "written": written, "cpu_seconds": services.cpu() - before}


def run_partition(services, name):
    return run_job(services, name, "partition", services.s3_source())


def run_exchange(services, name):
    return run_job(services, name, "global", services.s3_source())


def run_kafka(services, name, scope="global"):
    source = services.kafka_source("shop")
    # By the records' timestamps, which are the events' own.
    span = ("--from", "2025-12-25T00:00:00Z", "--to", "2026-01-10T00:00:00Z")
    return run_job(services, name, scope, source, *span)


def run_colocated(services, name):
    return run_kafka(services, name, "partition")


def run_empty(services, name):
    source = services.s3_source("one/")
    return run_job(services, name, "global", source)


CASES = {
    "run": run_embedded, "partition": run_partition, "exchange": run_exchange, "kafka": run_kafka,
    "colocated": run_colocated, "empty": run_empty,
}


def produce(services, events):
    services.start_kafka()
    loadtest("generate", "--events", events, "--out", services.work / "topic", "--overwrite", "--kafka", services.kafka,
             "--topic", "shop", "--partitions", 4, "--codec", "lz4")


def report(options, runs):
    by_case = {}
    for run in runs:
        by_case.setdefault(run["case"], []).append(run)
    median = {case: statistics.median(run["seconds"] for run in runs) for case, runs in by_case.items()}
    base = median.get("run")
    rows = ["| case | seconds | x `run` | CPU s per 1M events |", "|---|---:|---:|---:|"]
    for case, runs_of in by_case.items():
        ratio = f"{base / median[case]:.2f}" if base and case not in ("run", "empty") else ""
        cpu = [run["cpu_seconds"] / run["read"] * 1e6 for run in runs_of if run.get("cpu_seconds") and run["read"] > 1000]
        rows.append(f"| {case} | {median[case]:.2f} | {ratio} | {f'{statistics.median(cpu):.2f}' if cpu else ''} |")
    text = f"{options.events:,} events, medians of {len(by_case.get('run', runs))} rounds.\n\n" + "\n".join(rows) + "\n"
    tell(options.results, options.name, {"events": options.events, "runs": runs}, text)


if __name__ == "__main__":
    main()
