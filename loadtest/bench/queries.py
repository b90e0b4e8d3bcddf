"""Times dashboard queries on PostgreSQL: a wide table of events as `pipeline ddl` makes it, and the example's models beside it.

| step    | what                                                                                                     |
|---------|----------------------------------------------------------------------------------------------------------|
| tables  | by `millrace pipeline ddl` of the shop's models, each with a table                                       |
| events  | `--rows` of them over `--days`, made by the server (`generate_series`) in the order of their time         |
| models  | the example's own queries, day by day and hour by hour (campaign_attribution in PostgreSQL's words)       |
| (sessions) | a model with a row for each session is asked like the events, of which it has more than half as many rows; dashboards read their sums by the hour |
| queries | 50 clients (pgbench), two rounds: `--rate` queries a second of all of them together, latency from the moment at which each was due; then without any pause |
| loading | with `--follow EVENTS`: a third round, paced like the first one, while a cluster follows a topic with so many events a second into the same table |

| figure                                        | bar                    |
|-----------------------------------------------|------------------------|
| P95 of queries on models, paced               | < 1 s                  |
| P50 and P95 of all queries, paced             | < 3 s, < 10 s          |
| the same while events are loaded              | < 3 s, < 10 s          |

Needs MILLRACE_BIN (and LOADTEST_BIN for `--follow`), and for 50M rows about 25 GB of disk. Writes results/queries.md and queries.json.
"""

import argparse
import json
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from pathlib import Path

from services import EXAMPLE, HERE, Postgres, Services, machine, note, percentile, run, tell, verdict, wait_for

FIRST = datetime(2026, 1, 1, tzinfo=timezone.utc)
MODELS = {"sessions": "day", "daily_funnel": "day", "campaign_attribution": "day", "revenue_by_segment": "hour"}
MODELS_OF_MODELS = {"hourly_sessions": "day"}

# Name, what it asks, its share of 100, and the query; `:day` is a day of those that there are.
MODEL_QUERIES = [
    ("revenue of a day, by segment", 23, """SELECT segment, sum(orders), sum(revenue), sum(refunded)
FROM analytics.revenue_by_segment WHERE period >= DATE '2026-01-01' + :day AND period < DATE '2026-01-02' + :day GROUP BY 1"""),
    ("revenue of a week, hour by hour", 18, """SELECT period, sum(orders), sum(revenue) FROM analytics.revenue_by_segment
WHERE period >= DATE '2025-12-26' + :day AND period < DATE '2026-01-02' + :day GROUP BY 1 ORDER BY 1"""),
    ("funnel of a month, by channel", 18, """SELECT channel, sum(viewed), sum(carted), sum(ordered),
sum(ordered)::float / nullif(sum(viewed), 0) FROM analytics.daily_funnel GROUP BY 1"""),
    ("campaigns of a week", 18, """SELECT campaign, sum(orders), sum(revenue) FROM analytics.campaign_attribution
WHERE period >= DATE '2025-12-26' + :day AND period < DATE '2026-01-02' + :day GROUP BY 1 ORDER BY 3 DESC"""),
    ("sessions of a day, hour by hour", 17, """SELECT hour, sessions, events::float / sessions, seconds::float / sessions, revenue, with_orders
FROM analytics.hourly_sessions WHERE period = TIMESTAMPTZ '2026-01-01 00:00+00' + :day * INTERVAL '1 day' ORDER BY 1"""),
]
WIDE_QUERIES = [
    ("events of a day, by hour and kind", 2, """SELECT hour, event_type, count(*) FROM analytics.shop
WHERE event_time >= TIMESTAMPTZ '2026-01-01 00:00+00' + :day * INTERVAL '1 day'
AND event_time < TIMESTAMPTZ '2026-01-02 00:00+00' + :day * INTERVAL '1 day' GROUP BY 1, 2"""),
    ("products of a day's orders", 2, """SELECT product_id, sum(quantity), sum(price * quantity) FROM analytics.shop
WHERE event_time >= TIMESTAMPTZ '2026-01-01 00:00+00' + :day * INTERVAL '1 day'
AND event_time < TIMESTAMPTZ '2026-01-02 00:00+00' + :day * INTERVAL '1 day' AND event_type = 'purchase'
GROUP BY 1 ORDER BY 3 DESC LIMIT 20"""),
    ("a day's longest sessions", 1, """SELECT user_id, started_at, ended_at, events, revenue FROM analytics.sessions
WHERE period = TIMESTAMPTZ '2026-01-01 00:00+00' + :day * INTERVAL '1 day' ORDER BY events DESC LIMIT 20"""),
    ("a visitor's events of a day", 1, """SELECT event_time, event_type, url FROM analytics.shop
WHERE event_time >= TIMESTAMPTZ '2026-01-01 00:00+00' + :day * INTERVAL '1 day'
AND event_time < TIMESTAMPTZ '2026-01-02 00:00+00' + :day * INTERVAL '1 day' AND user_id = 100000 + :visitor ORDER BY 1"""),
]
# Model queries of which PostgreSQL 15 lacks a word (IGNORE NULLS): the last touch, counted up.
IN_POSTGRES = {
    "campaign_attribution": """
WITH touches AS (
  SELECT user_id, event_id, event_time, event_type, price, quantity,
    nullif(split_part(split_part(url, 'utm_campaign=', 2), '&', 1), '') AS campaign
  FROM events WHERE user_id IS NOT NULL),
numbered AS (SELECT *, count(campaign) OVER (PARTITION BY user_id ORDER BY event_time, event_id) AS touch FROM touches),
attributed AS (SELECT *, max(campaign) OVER (PARTITION BY user_id, touch) AS led FROM numbered)
SELECT coalesce(led, 'none'), count(*), count(DISTINCT user_id), sum(CAST(price * quantity AS DECIMAL(12, 2)))
FROM attributed WHERE event_type = 'purchase' AND event_time >= $start GROUP BY 1"""
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", type=int, default=50_000_000)
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--rate", type=float, default=10.0, help="queries a second of all clients together, in the paced round")
    parser.add_argument("--seconds", type=int, default=180, help="of each round")
    parser.add_argument("--follow", type=int, default=0, metavar="EVENTS", help="events a second that are loaded in a round of its own")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", action="store_true", help="leave the server's data, and use it again the next time")
    parser.add_argument("--work", type=Path, default=Path.home() / ".cache/millrace/bench/queries")
    parser.add_argument("--results", type=Path, default=HERE.parent / "results")
    options = parser.parse_args()
    server = Postgres(options.work / "postgres")
    done = options.work / f"filled-{options.rows}-{options.days}-{options.seed}"
    if not done.exists():
        server.remove()
        shutil.rmtree(options.work, ignore_errors=True)
    options.work.mkdir(parents=True, exist_ok=True)
    server.start()
    try:
        bench = Bench(options, server)
        filled = json.loads(done.read_text()) if done.exists() else bench.fill()
        done.write_text(json.dumps(filled))
        results = bench.rounds(filled)
    finally:
        server.stop()
        # What was loaded meanwhile stays in the table: the next time it is filled anew.
        if not options.keep or options.follow:
            server.remove()
            done.unlink(missing_ok=True)
    tell(options.results, "queries", results, report(results))


class Bench:
    def __init__(self, options, server):
        self.options, self.server, self.dsn, self.psql = options, server, server.dsn, server.sql

    def fill(self):
        began = time.monotonic()
        self.server.tune()
        self.psql(self.ddl())
        # One day after the other, as they come; two at once would mix the days in the table's pages.
        for day in range(self.options.days):
            self.psql(self.partition(day))
            self.psql(self.events(day))
            note(f"day {day + 1} of {self.options.days}")
        self.psql("VACUUM (ANALYZE) analytics.shop")
        loaded = time.monotonic()
        with ThreadPoolExecutor(2) as pool:
            for model in pool.map(self.model, MODELS):
                note(model)
        for model in MODELS_OF_MODELS:
            note(self.model(model))
        for model in [*MODELS, *MODELS_OF_MODELS]:
            self.psql(f"VACUUM (ANALYZE) analytics.{model}")
        size = lambda table: int(self.psql(
            f"SELECT pg_total_relation_size(t.oid) + coalesce(sum(pg_total_relation_size(inhrelid)), 0) "
            f"FROM (SELECT 'analytics.{table}'::regclass AS oid) t LEFT JOIN pg_inherits ON inhparent = t.oid GROUP BY t.oid"))
        count = lambda table: int(self.psql(f"SELECT count(*) FROM analytics.{table}"))
        return {
            "rows": count("shop"),
            "bytes": size("shop"),
            "models": {model: {"rows": count(model), "bytes": size(model)} for model in [*MODELS, *MODELS_OF_MODELS]},
            "load_seconds": round(loaded - began, 1),
            "model_seconds": round(time.monotonic() - loaded, 1),
        }

    def ddl(self):
        folder = self.options.work / "pipeline"
        shutil.copytree(EXAMPLE, folder, dirs_exist_ok=True)
        text = (EXAMPLE / "models.yaml").read_text()
        for model in [*MODELS, *MODELS_OF_MODELS]:
            text = text.replace(f"  - name: {model}\n", f"  - name: {model}\n    warehouse: {{table: analytics.{model}}}\n")
        file = folder / "models.yaml"
        file.write_text(f'{text}warehouse: {{postgres: {{dsn: "{self.dsn}", table: analytics.shop}}}}\n')
        return "CREATE SCHEMA analytics;\n" + run(os.environ["MILLRACE_BIN"], "pipeline", "ddl", file, "--dialect", "postgres")

    def partition(self, day):
        """A day of the table, as a load makes it."""
        start, end = (f"'{FIRST + timedelta(days=at):%Y-%m-%d} 00:00+00'" for at in (day, day + 1))
        return f"CREATE TABLE analytics.shop_{day} PARTITION OF analytics.shop FOR VALUES FROM ({start}) TO ({end})"

    def events(self, day):
        """A day of events by the server: kinds, channels, prices and skewed visitors as the generator has them."""
        rows = self.options.rows // self.options.days
        start = FIRST + timedelta(days=day)
        return f"""SELECT setseed({(self.options.seed + day) % 1000 / 1000});
INSERT INTO analytics.shop (event_id, event_time, user_id, session_id, email, ip, event_type, channel, product_id, price, quantity,
  country, url, user_agent, date, hour, source)
SELECT md5('{self.options.seed}-{day}-' || i)::uuid::text, at, 100000 + visitor, md5(visitor || to_char(at, 'HH24')),
  CASE WHEN visitor % 8 > 2 THEN md5(visitor::text) || '@example.com' END, '10.' || visitor % 250 || '.0.0/24', kind, channel,
  CASE WHEN kind <> 'search' THEN 'P-' || lpad(product::text, 7, '0') END,
  CASE WHEN kind <> 'search' THEN (99 + product * 7919 % 19901) / 100.0 END,
  CASE WHEN kind <> 'search' THEN 1 + (r3 * r3 * r3 * 4)::int END,
  (ARRAY['DE','US','GB','FR','NL','AT','CH','PL','IT','ES'])[1 + visitor % 10],
  'https://shop.example/' || kind || '/' || product || '?utm_source=' || channel
    || CASE WHEN r4 < 0.125 THEN '&utm_campaign=' || (ARRAY['spring','summer','autumn','winter'])[1 + (r4 * 32)::int % 4] ELSE '' END,
  'Mozilla/5.0 (' || channel || ') shop/' || visitor % 40, at::date, extract(hour FROM at)::int, channel
FROM (
  SELECT i, TIMESTAMPTZ '{start:%Y-%m-%d} 00:00+00' + i * INTERVAL '86400 seconds' / {rows} AS at, r3, r4,
    (power(r1, 7) * {max(self.options.rows // 16, 1000)})::int AS visitor, (r3 * r4 * {max(self.options.rows // 200, 500)})::int AS product,
    CASE WHEN r2 < .54 THEN 'view' WHEN r2 < .77 THEN 'click' WHEN r2 < .86 THEN 'search' WHEN r2 < .93 THEN 'add_to_cart'
      WHEN r2 < .95 THEN 'remove_from_cart' WHEN r2 < .968 THEN 'wishlist' WHEN r2 < .996 THEN 'purchase' ELSE 'refund' END AS kind,
    CASE WHEN r5 < .34 THEN 'web' WHEN r5 < .65 THEN 'ios' WHEN r5 < .93 THEN 'android' ELSE 'email' END AS channel
  FROM (SELECT i, random() AS r1, random() AS r2, random() AS r3, random() AS r4, random() AS r5
    FROM generate_series(0, {rows} - 1) AS i) AS dice
) AS made"""

    def model(self, model):
        """Every period of a model, as its own query gives it."""
        hours = 1 if MODELS.get(model) == "hour" else 24
        look_back = {"sessions": 12, "campaign_attribution": 24}.get(model, 0)
        sql = IN_POSTGRES.get(model) or (EXAMPLE / "models" / f"{model}.sql").read_text()
        statements = ["SET work_mem = '256MB'; SET timezone = 'UTC'; SET client_min_messages = warning"]
        for at in range(0, self.options.days * 24, hours):
            start, end = (f"TIMESTAMPTZ '{FIRST + timedelta(hours=hour):%Y-%m-%d %H}:00+00'" for hour in (at, at + hours))
            query = sql.replace("$start", start).replace("$end", end)
            statements += [
                f"CREATE OR REPLACE TEMP VIEW events AS SELECT * FROM analytics.shop WHERE event_time >= {start} - INTERVAL '{look_back} hours' "
                f"AND event_time < {end}",
                f"CREATE OR REPLACE TEMP VIEW sessions AS SELECT * FROM analytics.sessions WHERE period = {start}",
                f"INSERT INTO analytics.{model} SELECT *, {start} FROM ({query}) AS given",
            ]
        self.psql(";\n".join(statements))
        return model

    def rounds(self, filled):
        results = {
            "options": {key: getattr(self.options, key) for key in ("rows", "days", "clients", "rate", "seconds", "follow", "seed")},
            "machine": machine(),
            "server": self.psql("SHOW server_version"),
            "filled": filled,
        }
        for name, rate in [("paced", self.options.rate), ("unpaced", None)]:
            note(f"{name}: {self.options.clients} clients for {self.options.seconds} s")
            results[name] = self.round(name, rate)
        if self.options.follow:
            results["loading"] = self.loading()
        return results

    def loading(self):
        """The paced round again, while a cluster loads what is sent to a topic at this moment."""
        options = self.options
        with Services(options.work) as services:
            services.start_kafka()
            more = f'warehouse: {{postgres: {{dsn: "{self.dsn}", table: analytics.shop}}}}\n'
            file = services.pipeline("loading", "global", services.kafka_source("loading"), more=more)
            file.write_text(file.read_text().replace("minimum_clean: 0.99, ", ""))
            services.apply(file)
            seconds = options.seconds + 120
            sender = services.send("loading", options.follow, seconds, options.work / "sent", "--partitions", 4)
            try:
                time.sleep(5)  # the topic is made
                job = services.told("job", "submit", "loading", "--follow")["job"]
                wait_for("the first batch in the table", 180, lambda: self.loaded() > 0)
                before, began = self.loaded(), time.monotonic()
                note(f"loading {options.follow:,} events a second: {options.clients} clients for {options.seconds} s")
                found = self.round("loading", options.rate)
                rows, lasted = self.loaded() - before, time.monotonic() - began
                if sender.poll() is not None:
                    raise SystemExit("the sender ended before the round did")
                services.check()
            finally:
                sender.kill()
            services.cli("job", "cancel", job)
        return {**found, "rows_per_second": round(rows / lasted), "rows": rows}

    def loaded(self):
        if self.psql("SELECT to_regclass('analytics.millrace_loads') IS NOT NULL") != "t":
            return 0
        return int(self.psql("SELECT coalesce(sum(rows), 0) FROM analytics.millrace_loads WHERE pipeline = 'loading'"))

    def round(self, name, rate):
        folder = self.options.work / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        command = [pgbench(), "-n", "-c", self.options.clients, "-j", 2, "-T", self.options.seconds, "-l", "--log-prefix", folder / "log",
                   "--random-seed", self.options.seed]
        if rate:
            command += ["--rate", rate]
        queries = MODEL_QUERIES + WIDE_QUERIES
        for at, (_, share, sql) in enumerate(queries):
            file = folder / f"{at}.sql"
            day = f"\\set day random(0, {self.options.days - 1})\n\\set visitor random(0, {max(self.options.rows // 16, 1000)})\n"
            file.write_text(f"{day}{' '.join(sql.split())};\n")
            command += ["-f", f"{file}@{share}"]
        run(*command, self.dsn)
        latencies = {at: [] for at in range(len(queries))}
        for log in folder.glob("log.*"):
            for line in open(log):
                fields = line.split()
                latencies[int(fields[3])].append(int(fields[2]) / 1e6)
        of = lambda numbers: {"queries": len(numbers), "p50": percentile(numbers, 50), "p95": percentile(numbers, 95), "max": max(numbers, default=0)}
        models = [one for at in range(len(MODEL_QUERIES)) for one in latencies[at]]
        wide = [one for at in range(len(MODEL_QUERIES), len(queries)) for one in latencies[at]]
        return {
            "classes": {queries[at][0]: of(numbers) for at, numbers in latencies.items()},
            "models": of(models),
            "wide": of(wide),
            "all": of(models + wide),
        }


def report(results):
    filled, options, paced = results["filled"], results["options"], results["paced"]
    lines = [
        "# Dashboard queries",
        "",
        f"{filled['rows']:,} events over {options['days']} days in PostgreSQL {results['server']} ({filled['bytes'] / 1e9:.1f} GB with its index, as "
        f"`millrace pipeline ddl` makes it), the example's models beside it; {options['clients']} clients at once on {results['machine']['cores']} cores "
        "that the server and the clients share. Seconds.",
        "",
    ]
    for name, what in [
        ("paced", f"Paced: {options['rate']:g} queries a second of all clients together; each timed from when it was due"),
        ("unpaced", "Without a pause: every client asks again as soon as it is answered"),
        ("loading", f"Paced, while `follow` is sent {options['follow']:,} events a second for the same table"),
    ]:
        if name not in results:
            continue
        lines += [f"## {what}", "", "| query | of | queries | P50 | P95 | longest |", "|---|---|--:|--:|--:|--:|"]
        for kind, queries in [("models", MODEL_QUERIES), ("events", WIDE_QUERIES)]:
            for title, _, _ in queries:
                lines.append(row(title, kind, results[name]["classes"][title]))
        for title, key in [("**all of models**", "models"), ("**all of events**", "wide"), ("**all**", "all")]:
            lines.append(row(title, "", results[name][key]))
        lines.append("")
    bars = [
        ("P95 of queries on models", paced["models"]["p95"], 1),
        ("P50 of all", paced["all"]["p50"], 3),
        ("P95 of all", paced["all"]["p95"], 10),
    ]
    if loading := results.get("loading"):
        bars += [
            ("P95 of queries on models while loading", loading["models"]["p95"], 1),
            ("P50 of all while loading", loading["all"]["p50"], 3),
            ("P95 of all while loading", loading["all"]["p95"], 10),
        ]
    lines += ["| bar (paced) | found | |", "|---|--:|---|"]
    lines += [f"| {what} < {bar} s | {found:.3f} s | {verdict(found < bar)} |" for what, found, bar in bars]
    models = ", ".join(f"{name} {of['rows']:,}" for name, of in filled["models"].items())
    lines += ["", f"Rows of the models: {models}. Made in {filled['load_seconds']:.0f} s (events) and {filled['model_seconds']:.0f} s (models).", ""]
    if loading:
        lines += [f"{loading['rows']:,} rows came into the table while it was asked, {loading['rows_per_second']:,} a second; of the events that are sent "
                  "83% are good ones.", ""]
    return "\n".join(lines)


def row(title, kind, found):
    if not found["queries"]:
        return f"| {title} | {kind} | 0 | | | |"
    return f"| {title} | {kind} | {found['queries']:,} | {found['p50']:.3f} | {found['p95']:.3f} | {found['max']:.2f} |"


def pgbench():
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/pgbench"))
    if not found:
        raise SystemExit("needs pgbench: apt-get install postgresql")
    return found[-1]


if __name__ == "__main__":
    main()
