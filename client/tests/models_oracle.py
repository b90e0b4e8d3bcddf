"""The example models, told again in DuckDB's SQL over the lake's Parquet files, and compared with what was computed.

In: the lake's folder, and the models that are meant (none: all). Out: JSON, by model the periods compared, the rows, and
the rows that differ (none), and what DuckDB expects, columns joined by `|`. Of a period's objects the one of the highest version counts.
"""

import glob
import json
import os
import re
import sys

import duckdb

SESSIONS = """
WITH e AS (
  SELECT *, row_number() OVER (PARTITION BY user_id ORDER BY event_time, event_id) AS n FROM lake
  WHERE user_id IS NOT NULL AND event_time >= $start - INTERVAL 12 HOUR AND event_time < $end),
first AS (
  SELECT a.user_id, a.n FROM e a LEFT JOIN e b ON b.user_id = a.user_id AND b.n = a.n - 1
  WHERE b.n IS NULL OR date_diff('microsecond', b.event_time, a.event_time) > 30 * 60 * 1000000),
s AS (SELECT e.*, first.n AS session FROM e ASOF JOIN first ON e.user_id = first.user_id AND e.n >= first.n)
SELECT user_id, min(event_time), max(event_time), count(*), count(DISTINCT channel),
  count(*) FILTER (event_type = 'view'), count(*) FILTER (event_type = 'purchase'),
  coalesce(sum(round(price * quantity, 2)::DECIMAL(12, 2)) FILTER (event_type = 'purchase'), 0)
FROM s GROUP BY user_id, session
HAVING max(event_time) >= $start - INTERVAL 30 MINUTE AND max(event_time) < $end - INTERVAL 30 MINUTE"""

ORACLES = {
    "sessions": SESSIONS,
    "hourly_sessions": f"""
SELECT time_bucket(INTERVAL 1 HOUR, ended), count(*), sum(events), sum(epoch_ms(ended) // 1000 - epoch_ms(started) // 1000), sum(orders),
  count(*) FILTER (orders > 0), sum(revenue)
FROM ({SESSIONS}) AS s (user_id, started, ended, events, channels, views, orders, revenue) GROUP BY 1""",
    "daily_funnel": """
WITH e AS (SELECT channel, user_id, event_time AS t, event_type FROM lake
  WHERE user_id IS NOT NULL AND event_time >= $start AND event_time < $end),
v AS (SELECT channel, user_id, min(t) AS t FROM e WHERE event_type = 'view' GROUP BY ALL),
c AS (SELECT e.channel, e.user_id, min(e.t) AS t FROM e JOIN v USING (channel, user_id)
  WHERE event_type = 'add_to_cart' AND e.t >= v.t GROUP BY ALL),
o AS (SELECT DISTINCT e.channel, e.user_id FROM e JOIN c USING (channel, user_id)
  WHERE event_type = 'purchase' AND e.t >= c.t)
SELECT v.channel, count(*), count(c.user_id), count(o.user_id)
FROM v LEFT JOIN c USING (channel, user_id) LEFT JOIN o USING (channel, user_id) GROUP BY v.channel""",
    "campaign_attribution": """
WITH e AS (
  SELECT *, row_number() OVER (PARTITION BY user_id ORDER BY event_time, event_id) AS n,
    regexp_extract(url, 'utm_campaign=([^&]+)', 1) AS campaign
  FROM lake WHERE user_id IS NOT NULL AND event_time >= $start - INTERVAL 1 DAY AND event_time < $end),
p AS (SELECT * FROM e WHERE event_type = 'purchase' AND event_time >= $start),
t AS (SELECT * FROM e WHERE campaign <> '')
SELECT coalesce(t.campaign, 'none'), count(*), count(DISTINCT p.user_id),
  sum(round(p.price * p.quantity, 2)::DECIMAL(12, 2))
FROM p ASOF LEFT JOIN t ON p.user_id = t.user_id AND p.n >= t.n GROUP BY 1""",
    "revenue_by_segment": """
SELECT CASE country WHEN 'DE' THEN 'dach' WHEN 'AT' THEN 'dach' WHEN 'CH' THEN 'dach' WHEN 'US' THEN 'overseas'
  WHEN 'CA' THEN 'overseas' WHEN 'AU' THEN 'overseas' WHEN 'JP' THEN 'overseas' ELSE 'europe' END, channel,
  count(*) FILTER (event_type = 'purchase'), coalesce(sum(quantity) FILTER (event_type = 'purchase'), 0),
  coalesce(sum(round(price * quantity, 2)::DECIMAL(12, 2)) FILTER (event_type = 'purchase'), 0),
  coalesce(sum(round(price * quantity, 2)::DECIMAL(12, 2)) FILTER (event_type = 'refund'), 0)
FROM lake WHERE event_type IN ('purchase', 'refund') AND event_time >= $start AND event_time < $end GROUP BY ALL""",
    "daily_revenue": """
SELECT CASE WHEN country IN ('DE', 'AT', 'CH') THEN 'dach' WHEN country IN ('US', 'CA', 'AU', 'JP') THEN 'overseas'
  ELSE 'europe' END, count(*) FILTER (event_type = 'purchase'),
  sum(CASE event_type WHEN 'refund' THEN -1 ELSE 1 END * round(price * quantity, 2)::DECIMAL(12, 2))
FROM lake WHERE event_type IN ('purchase', 'refund') AND event_time >= $start AND event_time < $end GROUP BY ALL""",
}


def current(lake, model):
    """Objects that count, by period."""
    newest = {}
    for path in sorted(glob.glob(f"{lake}/models/{model}/**/*.parquet", recursive=True)):
        newest[os.path.dirname(path)] = path
    periods = {}
    for folder, path in newest.items():
        date = re.search(r"date=([0-9-]+)", folder).group(1)
        hour = re.search(r"hour=(\d+)", folder)
        periods[f"{date}T{hour.group(1)}" if hour else date] = path
    return periods


def counting(lake):
    """Data files that count: those that manifests name and none replaces."""
    named, gone = set(), set()
    for path in glob.glob(f"{lake}/manifests/*.json"):
        manifest = json.load(open(path))
        named |= {file["object"]["key"] for file in manifest["files"]}
        gone |= {file["object"]["key"] for file in manifest.get("replaces", {}).get("files", [])}
    return sorted(named - gone)


def shown(rows):
    return sorted(tuple("" if value is None else value for value in row) for row in rows)


def main():
    lake, meant = sys.argv[1], sys.argv[2:]
    db = duckdb.connect()
    db.execute("SET TimeZone = 'UTC'")
    paths = [os.path.join(lake, file) for file in counting(lake)]
    db.execute("CREATE TABLE lake AS SELECT * FROM read_parquet(?, union_by_name = true, hive_partitioning = false)", [paths])
    verdict = {}
    for model, sql in ORACLES.items():
        if meant and model not in meant:
            continue
        periods, rows, differing, everything = current(lake, model), 0, [], []
        for period, path in periods.items():
            hours = 1 if "T" in period else 24
            start = f"TIMESTAMPTZ '{period.replace('T', ' ') + ':00:00' if hours == 1 else period + ' 00:00:00'}+00'"
            end = f"({start} + INTERVAL {hours} HOUR)"
            sql_of = sql.replace("$start", start).replace("$end", end)
            expected = shown(db.execute(f"SELECT COLUMNS(*)::VARCHAR FROM ({sql_of})").fetchall())
            found = "SELECT COLUMNS(* EXCLUDE (period))::VARCHAR FROM read_parquet(?, hive_partitioning = false)"
            found = shown(db.execute(found, [path]).fetchall())
            everything += ["|".join(row) for row in expected]
            rows += len(found)
            differing += [f"{period} expected {row}" for row in sorted(set(expected) - set(found))[:3]]
            differing += [f"{period} found {row}" for row in sorted(set(found) - set(expected))[:3]]
            if len(expected) != len(found):
                differing.append(f"{period}: {len(found)} rows, expected {len(expected)}")
        verdict[model] = {"periods": sorted(periods), "rows": rows, "differing": differing, "expected": sorted(everything)}
    print(json.dumps(verdict))


main()
