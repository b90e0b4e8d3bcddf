"""A day of shop events through a cluster: hour jobs from Kafka, the handoff into PostgreSQL, the example's models, and the proof.

| phase    | what                                                                                                     | counted |
|----------|----------------------------------------------------------------------------------------------------------|---------|
| sending  | the next hour's lines to the topic, with the times of that hour; copies of an event may come in later hours | no      |
| job      | `millrace job submit --hour`, until it has succeeded                                                       | yes     |
| handoff  | until every batch of it has its row in `millrace_loads`                                                    | yes     |
| (room)   | the hour's records are deleted from the topic                                                              | no      |
| models   | after the last hour the pipeline is applied with its models: until every period is current and in its table | yes     |
| verify   | `millrace verify`, which reads every byte of the lake                                                      | no      |

Each hour is sent before the job of the hour before it begins, as in life: a topic that is read out has its watermark at the clock,
which left these hours behind long ago. Behind the day lie a few events of the next one, so that its last hour is complete too.
Models come last: their time is told apart, and none of it is spent while something that is not counted goes on.

| figure                                                  | bar       |
|---------------------------------------------------------|-----------|
| counted seconds                                         | <= 2 h    |
| rows in the table = good events of the generator's ledger, each once; `verify` finds no fault | |

It also tells what 500 GB of such events would take at the rate that was measured. Sender, broker, store, cluster and PostgreSQL
share this machine. Needs MILLRACE_BIN and LOADTEST_BIN, and 600 bytes of disk for an event and 8 GB more: 68 GB for 100M events.
Writes results/day.json and day.md.
"""

import argparse
import json
import shutil
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

from services import HERE, Services, loadtest, machine, note, tell, verdict, wait_for

HOURS = 24
EVENTS_BEHIND = 1000
START = datetime(2026, 1, 1, tzinfo=timezone.utc)
LEVEL_SECONDS = 2 * 3600
SCALE_BYTES = 500e9
DISK_BYTES, DISK_BYTES_AN_EVENT = 8e9, 600
DISK_BYTES_MIN = 2e9
MODELS = ("sessions", "hourly_sessions", "daily_funnel", "campaign_attribution", "revenue_by_segment", "daily_revenue")
PHASES = ("job", "handoff", "models")


def main():
    options = arguments()
    options.work.mkdir(parents=True, exist_ok=True)
    needed, free = DISK_BYTES + options.events * DISK_BYTES_AN_EVENT, shutil.disk_usage(options.work).free
    if free < needed:
        raise SystemExit(f"{options.events:,} events need {needed / 1e9:.0f} GB of disk below {options.work}, {free / 1e9:.0f} GB are free; "
                         "take fewer with --events, or another disk with --work")
    with Services(options.work) as services:
        services.start_kafka()
        services.start_warehouse().tune()
        results = Day(options, services).through()
    tell(options.results, "day", results, report(results))
    if results["faults"] or not results["rows"] == results["distinct"] == results["good_events"]:
        raise SystemExit("the day is not what was sent")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--events", type=int, default=100_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--partitions", type=int, default=4)
    parser.add_argument("--patience", type=int, default=3600, help="seconds that an hour's handoff, and then the models, may take")
    parser.add_argument("--work", type=Path, default=Path.home() / ".cache/millrace/bench/day")
    parser.add_argument("--results", type=Path, default=HERE.parent / "results")
    return parser.parse_args()


class Day:
    def __init__(self, options, services):
        self.options, self.services, self.warehouse = options, services, services.warehouse
        self.disk_before = shutil.disk_usage(options.work).free
        self.disk_most = 0

    def through(self):
        self.services.apply(self.pipeline("shop.yaml"))
        epoch = self.epoch()
        next_hour = self.send(0)
        hours = []
        for hour in range(HOURS):
            this_hour, next_hour = next_hour, self.send(hour + 1)
            hours.append(self.hour(hour, this_hour, next_hour))
        after = self.hour(HOURS, next_hour, None)
        models = self.models()
        note("verifying")
        began = time.monotonic()
        verdict = self.services.told("verify", "day")
        verified = time.monotonic() - began
        note("counting the table's rows")
        rows, distinct = self.warehouse.sql("SELECT count(*), count(DISTINCT event_id) FROM analytics.day").split("|")
        total = lambda key: sum(hour[key] for hour in hours)
        seconds = {"sending": total("sending"), "job": total("job"), "handoff": total("handoff"), "models": models["seconds"], "verify": verified}
        counted = sum(seconds[phase] for phase in PHASES)
        return {
            "options": {key: getattr(self.options, key) for key in ("events", "seed", "partitions")},
            "machine": machine(),
            "server": self.warehouse.sql("SHOW server_version"),
            "events": total("lines"), "bytes": total("bytes"), "good_events": total("good") + after["good"],
            "rows": int(rows), "distinct": int(distinct), "batches": total("batches"),
            "seconds": {phase: round(value, 1) for phase, value in seconds.items()},
            "counted_seconds": round(counted, 1),
            "seconds_of_500_gb": round(counted * SCALE_BYTES / total("bytes"), 1),
            "slowest_hour_seconds": round(max(hour["job"] + hour["handoff"] for hour in hours), 1),
            "models": models,
            "warehouse_bytes": self.warehouse.bytes(), "disk_bytes_most": self.disk_most,
            "verified": {key: verdict[key] for key in ("batches", "objects", "bytes", "keys")}, "faults": verdict["faults"],
            "led_throughout": self.epoch() == epoch,
            "cluster_cpu_seconds": round(self.services.cpu(), 1), "memory_peak_bytes": self.services.memory_peak(),
            "hours": hours,
        }

    def epoch(self):
        """It grows whenever the coordinator has lost its lease, and leads again."""
        return self.services.told("cluster", "show")["epoch"]

    def pipeline(self, example):
        file = self.services.pipeline("day", "global", self.services.kafka_source("day"), example)
        text = file.read_text().replace("minimum_clean: 0.99, ", "")
        # Files that compactions replaced do not pile up over the day.
        text = text.replace("retention: {", "retention: {replaced: 10m, ")
        for model in MODELS:
            text = text.replace(f"  - name: {model}\n", f"  - name: {model}\n    warehouse: {{table: analytics.{model}}}\n")
        file.write_text(f'{text}warehouse: {{postgres: {{dsn: "{self.warehouse.dsn}", table: analytics.day}}}}\n')
        return file

    def hour(self, hour, sent, behind):
        """The job and the handoff of an hour; what is behind it in the topic stays there."""
        at = f"{START + timedelta(hours=hour):%Y-%m-%dT%H}"
        began = time.monotonic()
        job = self.services.told("job", "submit", "day", "--hour", at, "--wait")
        if job["state"] != "succeeded" or int(job["events_read"]) != sent["lines"]:
            raise SystemExit(f"hour {at}: {sent['lines']} lines were sent, the job is {job['state']} with {job['events_read']}: {job['error']}")
        written = time.monotonic()
        wait_for(f"the handoff of hour {at}", self.options.patience, lambda: self.is_loaded(job["job"], int(job["batches"])))
        loaded = time.monotonic()
        if behind:
            loadtest("forget", "--kafka", self.services.kafka, "--topic", "day", "--before", ",".join(map(str, behind["offsets"])))
        done = {
            "hour": at, **{key: sent[key] for key in ("lines", "bytes", "good")}, "written": int(job["events_written"]),
            "batches": int(job["batches"]), "sending": sent["seconds"], "job": round(written - began, 2),
            "handoff": round(loaded - written, 2),
        }
        note(f"{json.dumps(done)}; {self.look_at_disk() / 1e9:.1f} GB of disk")
        return done

    def send(self, hour):
        """An hour of the day's lines; of the day behind it, a few."""
        folder, options = self.options.work / "sent", self.options
        began = time.monotonic()
        recipe = {"events": options.events, "seed": options.seed, "start": START, "hours": HOURS}
        more = []
        if hour < HOURS:
            first, end = (-(-options.events * at // HOURS) for at in (hour, hour + 1))
            more = ["--lines", f"{first}..{end}"]
        else:
            recipe = {"events": EVENTS_BEHIND, "seed": options.seed + 1, "start": START + timedelta(hours=HOURS), "hours": 1}
            more = [part for share in ("late", "out-of-order", "duplicates", "broken") for part in (f"--{share}", 0)]
        loadtest("generate", "--events", recipe["events"], "--seed", recipe["seed"], "--start", f"{recipe['start']:%Y-%m-%dT%H:%M:%SZ}",
                 "--hours", recipe["hours"], *more, "--out", folder, "--overwrite", "--kafka", self.services.kafka, "--topic", "day",
                 "--partitions", options.partitions)
        sent = json.loads((folder / "sent.json").read_text())
        shutil.rmtree(folder)
        return {
            "lines": sum(file["lines"] for file in sent["files"]), "bytes": sent["counts"]["bytes"], "good": sent["counts"]["good"],
            "offsets": sent["topic"]["first_offsets"], "seconds": round(time.monotonic() - began, 2),
        }

    def is_loaded(self, job, batches):
        self.services.check()
        is_there = self.warehouse.sql("SELECT to_regclass('analytics.millrace_loads') IS NOT NULL")
        if is_there != "t":
            return False
        status = self.services.told("handoff", "status", "day")
        loaded = [batch for batch in status["batches"] if batch["job"] == job and batch["state"] == "loaded"]
        return len(loaded) == batches

    def look_at_disk(self):
        free = shutil.disk_usage(self.options.work).free
        used = max(0, self.disk_before - free)
        self.disk_most = max(self.disk_most, used)
        if free < DISK_BYTES_MIN:
            raise SystemExit(f"{free / 1e9:.1f} GB of disk are left: stopped before it is full")
        return used

    def models(self):
        note("the models")
        self.services.apply(self.pipeline("models.yaml"))
        began = time.monotonic()
        wait_for("the models", self.options.patience, self.is_current, every=2)
        seconds = time.monotonic() - began
        rows = {model: int(self.warehouse.sql(f"SELECT count(*) FROM analytics.{model}")) for model in MODELS}
        self.look_at_disk()
        return {"seconds": round(seconds, 2), "periods": len(self.periods()), "rows": rows}

    def periods(self):
        return self.services.told("models", "list", "day")["periods"]

    def is_current(self):
        self.services.check()
        periods = self.periods()
        standing = {}
        for period in periods:
            standing[period["state"]] = standing.get(period["state"], 0) + 1
        if list(standing) != ["current"]:
            note(f"periods: {standing}")
            return False
        if self.warehouse.sql("SELECT to_regclass('analytics.millrace_models') IS NOT NULL") != "t":
            return False
        loaded = int(self.warehouse.sql("SELECT count(*) FROM analytics.millrace_models"))
        note(f"periods: {len(periods)} current, {loaded} in the warehouse")
        return loaded == len(periods)


def report(results):
    seconds, bytes_sent = results["seconds"], results["bytes"]
    rate = results["events"] / results["counted_seconds"]
    lines = [
        "# A day of events",
        "",
        f"{results['events']:,} shop events of {HOURS} hours, {bytes_sent / 1e9:.1f} GB of JSON: through hour jobs from Kafka, into PostgreSQL "
        f"{results['server']}, with {results['models']['periods']} periods of {len(results['models']['rows'])} models; everything on the same "
        f"{results['machine']['cores']} cores.",
        "",
        "| phase | seconds |",
        "|---|--:|",
        *[f"| {phase} | {seconds[phase]:,.1f} |" for phase in PHASES],
        f"| **counted** ({rate:,.0f} events/s) | **{results['counted_seconds']:,.1f}** |",
        f"| sending, not counted | {seconds['sending']:,.1f} |",
        f"| verify, not counted | {seconds['verify']:,.1f} |",
        "",
        "| bar | found | |",
        "|---|--:|---|",
        bar("the day within 2 h", results["counted_seconds"]),
        bar("500 GB at this rate within 2 h", results["seconds_of_500_gb"]),
        "",
        f"The slowest hour took {results['slowest_hour_seconds']:,.1f} s from the job to its last row. {results['good_events']:,} good events were sent, "
        f"the table has {results['rows']:,} rows with {results['distinct']:,} ids; `verify` read {results['verified']['objects']:,} objects "
        f"({results['verified']['bytes'] / 1e9:.1f} GB) and found {len(results['faults'])} faults. Up to {results['disk_bytes_most'] / 1e9:.0f} GB of disk, "
        f"{results['warehouse_bytes'] / 1e9:.1f} GB of it PostgreSQL's tables; {results['cluster_cpu_seconds']:,.0f} s of the cluster's CPU; "
        f"no process of it had more than {results['memory_peak_bytes'] / 2**20:,.0f} MiB of memory. "
        + ("The coordinator led throughout." if results["led_throughout"] else "The coordinator lost its lease on the way, and led again."),
    ]
    return "\n".join(lines) + "\n"


def bar(what, found):
    return f"| {what} | {found:,.0f} s | {verdict(found <= LEVEL_SECONDS)} |"


if __name__ == "__main__":
    main()
