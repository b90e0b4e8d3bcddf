"""Times events from their sending to their row in the warehouse, while `follow` loads a topic into PostgreSQL in batches of 10 s.

| step    | what                                                                                                       |
|---------|------------------------------------------------------------------------------------------------------------|
| sending | `--rate` shop events a second to Kafka, each with the time when it is sent; they are of this moment            |
| probing | of one event in 16^N (those whose ids end with N zeros) it is noted when it was sent and when a query of the table first gave its row, each by itself, four times a second; a partial index of just these rows makes the query cheap |
| outage  | with `--outage S` PostgreSQL is stopped for S seconds and started again, while sending goes on                |
| proof   | in the end the table's rows are the good events of the generator's ledger, each once                         |

| figure                                                                  | bar      |
|-------------------------------------------------------------------------|----------|
| p99 of the delay, from `--warmup` on, before the outage                  | <= 30 s  |
| longest delay with the warehouse down for 180 s (`--outage 180`)         | <= 300 s |

Sender, broker, store, cluster and PostgreSQL share this machine's cores. Needs MILLRACE_BIN and LOADTEST_BIN, and about
1 GB of disk for each million events. Writes results/freshness.json and freshness.md. It ends by itself: what is not in
the table `--patience` seconds after the last event is told as a failure.
"""

import argparse
import json
import math
import threading
import time
from pathlib import Path

from services import HERE, Services, Session, machine, note, percentile, tell, verdict, wait_for

PROBE_SECONDS = 0.25
# An event that is sent so long before the warehouse is stopped may still be on its way then.
MARGIN_SECONDS = 40
FRESH_SECONDS = 30
LEVEL_SECONDS = 300


def main():
    options = arguments()
    options.work.mkdir(parents=True, exist_ok=True)
    with Services(options.work) as services:
        services.start_kafka()
        services.start_warehouse().tune()
        results = Bench(options, services).measure()
    tell(options.results, "freshness", results, report(results))
    if results["rows"] != results["good_events"] or results["distinct"] != results["rows"] or results["never_seen"]:
        raise SystemExit("the table is not what was sent")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rate", type=int, default=50_000, help="events a second")
    parser.add_argument("--seconds", type=int, default=300, help="of sending that are measured")
    parser.add_argument("--warmup", type=int, default=30, help="seconds of sending before that")
    parser.add_argument("--outage", type=int, default=0, help="seconds that the warehouse is down for, afterwards")
    parser.add_argument("--after", type=int, default=120, help="seconds of sending after the outage")
    parser.add_argument("--interval", default="10s", help="of the follow job's batches")
    parser.add_argument("--partitions", type=int, default=4)
    parser.add_argument("--patience", type=int, default=900)
    parser.add_argument("--work", type=Path, default=Path.home() / ".cache/millrace/bench/freshness")
    parser.add_argument("--results", type=Path, default=HERE.parent / "results")
    return parser.parse_args()


class Bench:
    def __init__(self, options, services):
        self.options, self.services, self.warehouse = options, services, services.warehouse
        # About five sampled events a second, or more.
        self.digits = max(0, int(math.log(max(options.rate, 1) * 0.8 / 5, 16)))
        self.sent = options.work / "sent"

    def measure(self):
        options = self.options
        self.prepare()
        seconds = options.warmup + options.seconds
        if options.outage:
            seconds += MARGIN_SECONDS + options.outage + options.after
        sender = self.services.send("fresh", options.rate, seconds, self.sent, "--partitions", options.partitions, "--sample", self.digits)
        try:
            sampled = self.sent / "sampled.ndjson"
            wait_for("the first event", 60, lambda: sampled.exists() and sampled.stat().st_size)
            probe = Probe(self.warehouse.dsn, sampled, self.digits)
            job = self.services.told("job", "submit", "fresh", "--follow", "--interval", options.interval)["job"]
            probe.start()
            down = self.watch(job, sender, probe)
            said = json.loads(sender.communicate()[0].splitlines()[-1])
        finally:
            sender.kill()
        note(f"{said['events']:,} events are sent; waiting for the rest of them")
        self.drain(job, probe)
        cpu = self.services.cpu()
        probe.stop()
        self.services.cli("job", "cancel", job)
        return self.results(probe, down, said, cpu, job)

    def prepare(self):
        more = f'warehouse: {{postgres: {{dsn: "{self.warehouse.dsn}", table: analytics.fresh}}}}\n'
        file = self.services.pipeline("fresh", "global", self.services.kafka_source("fresh"), more=more)
        file.write_text(file.read_text().replace("minimum_clean: 0.99, ", ""))
        table = self.services.cli("pipeline", "ddl", file, "--dialect", "postgres")
        self.warehouse.sql(f"CREATE SCHEMA IF NOT EXISTS analytics;\n{table}")
        self.warehouse.sql(f"CREATE INDEX sampled ON analytics.fresh (event_id) WHERE {sampled_rows(self.digits)}")
        self.services.apply(file)

    def watch(self, job, sender, probe):
        """Until everything is sent; when the warehouse went away and came back, if it did."""
        began, down = time.time(), None
        stop_at = began + self.options.warmup + self.options.seconds + MARGIN_SECONDS
        while sender.poll() is None:
            self.check(job, probe)
            if self.options.outage and down is None and time.time() >= stop_at:
                down = [time.time()]
                self.warehouse.stop()
                note(f"the warehouse is stopped for {self.options.outage} s")
                while time.time() < down[0] + self.options.outage:
                    self.check(job, probe)
                    time.sleep(1)
                down.append(time.time())
                self.warehouse.start()
                note("the warehouse is back")
            time.sleep(1)
        if sender.returncode != 0:
            raise SystemExit(f"the sender ended with {sender.returncode}")
        return down

    def check(self, job, probe):
        self.services.check()
        if time.time() < probe.told_at + 10:
            return
        probe.told_at = time.time()
        shown = self.services.told("job", "show", job)
        if shown["state"] != "running":
            raise SystemExit(f"the job is {shown['state']}: {shown['error']}")
        seen, waiting = probe.counts()
        last = percentile(probe.last_delays(), 50)
        note(f"{shown['events_read']:,} events read, {shown['batches']} batches; {seen} of the sampled events seen, {waiting} on their way"
             f", the last ones after {last} s")

    def drain(self, job, probe):
        end = time.time() + self.options.patience
        while probe.counts()[1] > 0 and time.time() < end:
            self.check(job, probe)
            time.sleep(0.5)

    def results(self, probe, down, said, cpu, job):
        options = self.options
        first = min((sent for sent, _ in probe.seen), default=0)
        steady_from, steady_to = first + options.warmup, first + options.warmup + options.seconds
        steady = [delay for sent, delay in probe.seen if steady_from <= sent < steady_to]
        shown = self.services.told("job", "show", job)
        counts = json.loads((self.sent / "sent.json").read_text())["counts"]
        note("counting the table's rows")
        rows, distinct = self.warehouse.sql("SELECT count(*), count(DISTINCT event_id) FROM analytics.fresh").split("|")
        return {
            "options": {key: getattr(options, key) for key in ("rate", "seconds", "warmup", "outage", "after", "interval", "partitions")},
            "machine": machine(),
            "server": self.warehouse.sql("SHOW server_version"),
            "events": said["events"], "events_per_second": said["events_per_second"], "good_events": counts["good"],
            "rows": int(rows), "distinct": int(distinct),
            "batches": shown["batches"], "cluster_cpu_seconds": round(cpu, 1),
            "sampled_one_in": 16 ** self.digits, "never_seen": probe.counts()[1],
            "steady": distribution(steady),
            "outage": self.outage(probe, down) if down else None,
        }

    def outage(self, probe, down):
        stopped, back = down
        hit = [(sent, delay) for sent, delay in probe.seen if sent >= stopped - MARGIN_SECONDS]
        slow = [sent + delay for sent, delay in hit if delay > FRESH_SECONDS]
        return {
            **distribution([delay for _, delay in hit]),
            "down_seconds": round(back - stopped, 1),
            # From when on every row came within the freshness that holds without an outage.
            "fresh_again_seconds": round(max(slow) - back, 1) if slow else 0,
        }


class Probe:
    """Looks for the sampled events in the table, in a thread of its own."""

    def __init__(self, dsn, file, digits):
        self.session, self.file, self.digits = Session(dsn), file, digits
        self.pending, self.seen = {}, []
        self.told_at = time.time()
        self.stopped = threading.Event()
        self.lock = threading.Lock()
        self.thread = threading.Thread(target=self.look, daemon=True)

    def start(self):
        self.thread.start()

    def stop(self):
        self.stopped.set()
        self.thread.join()
        self.session.close()

    def counts(self):
        with self.lock:
            return len(self.seen), len(self.pending)

    def last_delays(self):
        with self.lock:
            return [delay for _, delay in self.seen[-50:]]

    def look(self):
        with open(self.file) as lines:
            rest = ""
            while not self.stopped.wait(PROBE_SECONDS):
                *whole, rest = (rest + lines.read()).split("\n")
                with self.lock:
                    for line in whole:
                        event = json.loads(line)
                        self.pending[event["event_id"]] = event["sent_ms"] / 1000
                    asked = list(self.pending)
                found = self.ask(asked) if asked else None
                # The row may have been there a little earlier: this is when somebody had it.
                now = time.time()
                with self.lock:
                    for event in found or []:
                        sent = self.pending.pop(event)
                        self.seen.append((sent, now - sent))

    def ask(self, events):
        ids = ",".join(f"'{event}'" for event in events)
        return self.session.ask(f"SELECT DISTINCT event_id FROM analytics.fresh WHERE {sampled_rows(self.digits)} AND event_id IN ({ids})")


def sampled_rows(digits):
    return f"right(event_id, {digits}) = '{'0' * digits}'" if digits else "event_id IS NOT NULL"


def distribution(delays):
    return {"samples": len(delays), "p50": percentile(delays, 50), "p95": percentile(delays, 95), "p99": percentile(delays, 99),
            "max": round(max(delays), 3) if delays else None}


def report(results):
    options, steady, outage = results["options"], results["steady"], results["outage"]
    lines = [
        "# From sending to the warehouse's row",
        "",
        f"{results['events']:,} shop events at {results['events_per_second']:,.0f} a second (asked for: {options['rate']:,}) through Kafka, a `follow` "
        f"job in batches of {options['interval']} and PostgreSQL {results['server']}, all of them on the same {results['machine']['cores']} cores. "
        f"One event in {results['sampled_one_in']:,} was looked for by its id, four times a second; seconds from the time that its record has in "
        "the topic to the answer that first had its row.",
        "",
        "| events | sampled | p50 | p95 | p99 | longest |",
        "|---|--:|--:|--:|--:|--:|",
        row(f"{options['seconds']} s of sending", steady),
    ]
    bars = [("p99", steady["p99"], FRESH_SECONDS)]
    if outage:
        lines.append(row(f"sent from {MARGIN_SECONDS} s before an outage of {outage['down_seconds']:.0f} s on", outage))
        bars.append((f"longest with the warehouse down for {outage['down_seconds']:.0f} s", outage["max"], LEVEL_SECONDS))
    lines += ["", "| bar | found | |", "|---|--:|---|"]
    lines += [f"| {what} <= {bar} s | {found} s | {verdict(found is not None and found <= bar)} |" for what, found, bar in bars]
    proof = f"{results['good_events']:,} good events were sent, the table has {results['rows']:,} rows with {results['distinct']:,} ids"
    lines += ["", f"{proof}; {results['never_seen']} sampled events were never seen. {results['batches']} batches, "
              f"{results['cluster_cpu_seconds']:.0f} s of the cluster's CPU."]
    if outage:
        lines.append(f"{outage['fresh_again_seconds']:.0f} s after it was back every row came within {FRESH_SECONDS} s again.")
    return "\n".join(lines) + "\n"


def row(what, found):
    return f"| {what} | {found['samples']:,} | {found['p50']} | {found['p95']} | {found['p99']} | {found['max']} |"


if __name__ == "__main__":
    main()
