"""Times the cluster beside `millrace run` on the same events, in the same minutes.

The cluster is one coordinator and two workers of one slot; `millrace run --threads 2` reads and writes the same
MinIO. Rounds are interleaved, a figure is the median of its rounds, ratios compare medians. Every result is checked:
written = the good events of the generator's ledger.

| case        | input | dedup                                   | bar                    |
|-------------|-------|------------------------------------------|------------------------|
| partition   | S3    | within each object, no row moves         | >= 0.85 x `run`        |
| exchange    | S3    | everywhere, rows exchanged by key        | >= 0.7 x `run`         |
| kafka       | Kafka | everywhere, the broker on the same cores | >= 0.6 x `run`         |
| colocated   | Kafka | within each partition, where the         | >= 0.6 x `run`         |
|             |       | generator puts the copies of an event    |                        |
| empty       | S3    | a batch of one event: the overhead       | <= 300 ms              |

Needs MILLRACE_BIN and LOADTEST_BIN. Writes results/cluster.json and results/cluster.md.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
LOCAL = HERE.parent.parent / "deploy" / "local"
EXAMPLE = HERE.parent.parent / "client" / "examples" / "shop"
HASH_KEY = "a key for benchmarks only, 32 bytes or more"
TICKS = os.sysconf("SC_CLK_TCK")


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
    report(options.results, options.events, results)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--events", type=int, default=3_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cases", default="run,partition,exchange,kafka,colocated,empty")
    parser.add_argument("--work", type=Path, default=Path.home() / ".cache/millrace/bench/cluster")
    parser.add_argument("--results", type=Path, default=HERE.parent / "results")
    return parser.parse_args()


def measure(options, services, sent):
    good = sent["counts"]["good"]
    runs = []
    cases = options.cases.split(",")
    if "kafka" in cases or "colocated" in cases:
        services.produce(options.events)
    for round_number in range(options.rounds):
        for case in cases:
            run = CASES[case](services, f"{case}{round_number}")
            if case in ("run", "exchange", "kafka", "colocated") and run["written"] != good:
                raise SystemExit(f"{case}: wrote {run['written']} events, the ledger has {good} good ones")
            runs.append({"case": case, "round": round_number, **run})
            print(json.dumps(runs[-1]), file=sys.stderr, flush=True)
    return runs


def run_embedded(services, name):
    lake = f"s3://millrace/{name}"
    pipeline = services.pipeline(name, "global", services.s3_source())
    began = time.monotonic()
    out = subprocess.run(
        [services.millrace, "run", pipeline, "--lake", lake, "--threads", "2", "--output", "json"],
        env=services.env, check=True, capture_output=True, text=True,
    )
    seconds = time.monotonic() - began
    summary = json.loads(out.stdout.splitlines()[-1])
    return {"seconds": seconds, "written": summary["events_written"], "read": summary["events_read"]}


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
    source = f'kafka: {{brokers: ["{services.kafka}"], topic: shop, format: json}}'
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


class Services:
    """MinIO, etcd, Kafka, one coordinator and two workers; all of them end with the block."""

    def __init__(self, work):
        self.work = work
        self.millrace = os.environ["MILLRACE_BIN"]
        self.processes = []
        self.kafka = None

    def __enter__(self):
        shutil.rmtree(self.work / "services", ignore_errors=True)
        self.s3 = self.service("s3")
        etcd = self.service("etcd", "endpoints")
        self.env = {
            **os.environ,
            "AWS_ENDPOINT_URL": self.s3, "AWS_ACCESS_KEY_ID": "millrace", "AWS_SECRET_ACCESS_KEY": "millrace-local-only",
            "AWS_REGION": "us-east-1", "MILLRACE_HASH_KEY": HASH_KEY, "MILLRACE_COORDINATORS": "127.0.0.1:27401",
        }
        self.curl("-X", "PUT", f"{self.s3}/millrace")
        self.start("coordinator", f"name: bench\nlisten: 127.0.0.1:27401\nscheduler_listen: 127.0.0.1:27411\n"
                   f'etcd: {{endpoints: ["{etcd}"]}}\n')
        for worker in ("one", "two"):
            self.start("worker", f'name: {worker}\netcd: {{endpoints: ["{etcd}"]}}\nslots: 1\n'
                       f"work_dir: {self.work}/services/{worker}\n")
        for _ in range(200):
            shown = subprocess.run([self.millrace, "cluster", "show", "--output", "json"], env=self.env,
                                   capture_output=True, text=True)
            if shown.returncode == 0 and shown.stdout.count('"executor') + shown.stdout.count('"name"') >= 2:
                if len(json.loads(shown.stdout).get("workers", [])) == 2:
                    return self
            time.sleep(0.1)
        raise SystemExit("the cluster did not start")

    def __exit__(self, *_):
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.wait(timeout=60)
        for name in ("kafka", "etcd", "s3"):
            folder = self.work / "services" / name
            if folder.exists():
                subprocess.run([LOCAL / f"{name}.sh", "stop", "--dir", folder], check=False, stderr=subprocess.DEVNULL)

    def service(self, name, told="endpoint"):
        folder = self.work / "services" / name
        subprocess.run([LOCAL / f"{name}.sh", "start", "--dir", folder], check=True, stdout=subprocess.DEVNULL)
        return (folder / told).read_text().split()[0].split(",")[0]

    def start(self, kind, config):
        number = len(self.processes)
        file = self.work / "services" / f"{kind}{number}.yaml"
        file.write_text(config)
        log = open(file.with_suffix(".log"), "w")
        self.processes.append(
            subprocess.Popen([self.millrace, "--log", "info", kind, "--config", file], env=self.env, stdout=log, stderr=log))

    def cpu(self):
        """CPU seconds of our processes, and of nobody else's."""
        ticks = 0
        for process in self.processes:
            fields = Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / TICKS

    def curl(self, *arguments):
        subprocess.run(["curl", "-fsS", "-o", "/dev/null", "--aws-sigv4", "aws:amz:us-east-1:s3", "--user",
                        "millrace:millrace-local-only", *arguments], check=True)

    def upload(self, folder):
        for file in sorted(folder.iterdir()):
            self.curl("-T", file, f"{self.s3}/millrace/events/{file.name}")
        one = self.work / "one.json"
        first = next(file for file in sorted(folder.iterdir()))
        with open(first, "rb") as lines:
            one.write_bytes(next(line for line in lines if line.endswith(b"}\n")))
        self.curl("-T", one, f"{self.s3}/millrace/one/one.json")

    def produce(self, events):
        self.kafka = self.service("kafka")
        loadtest("generate", "--events", events, "--out", self.work / "topic", "--overwrite", "--kafka", self.kafka,
                 "--topic", "shop", "--partitions", 4, "--codec", "lz4")

    def s3_source(self, prefix="events/"):
        return f's3: {{url: "s3://millrace/{prefix}", format: json}}'

    def pipeline(self, name, scope, source):
        folder = self.work / "pipelines" / name
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(EXAMPLE / "suite.json", folder)
        text = (EXAMPLE / "shop.yaml").read_text()
        text = text.replace("pipeline: shop", f"pipeline: {name}")
        text = text.replace("files: {path: events/, format: json}", source)
        text = text.replace("dedup:     {key: [event_id]}", f"dedup: {{key: [event_id], scope: {scope}}}")
        text = text.replace('url: "./lake"', f'url: "s3://millrace/lake-{name}"')
        file = folder / "pipeline.yaml"
        file.write_text(text)
        return file

    def apply(self, file):
        self.cli("pipeline", "apply", file)

    def cli(self, *arguments):
        ran = subprocess.run([self.millrace, *arguments], env=self.env, capture_output=True, text=True)
        if ran.returncode not in (0, 3):
            raise SystemExit(f"{' '.join(map(str, arguments))}: {ran.stderr}")
        return ran.stdout


def loadtest(*arguments):
    subprocess.run([os.environ["LOADTEST_BIN"], *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)


def report(folder, events, runs):
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
    text = "\n".join(rows) + "\n"
    (folder / "cluster.json").write_text(json.dumps({"events": events, "runs": runs}, indent=1) + "\n")
    (folder / "cluster.md").write_text(f"{events:,} events, medians of {len(by_case.get('run', runs))} rounds.\n\n{text}")
    print(text)


if __name__ == "__main__":
    main()
