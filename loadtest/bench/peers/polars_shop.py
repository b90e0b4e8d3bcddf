"""The shop events with Polars' streaming engine: decode, one of each event_id, Parquet by date, hour and source.

Usage: polars_shop.py INPUT LAKE THREADS
"""

import os
import sys

os.environ["POLARS_MAX_THREADS"] = sys.argv[3]

import polars as pl  # noqa: E402  (the number of threads is read at import)
from timing import timed  # noqa: E402

SCHEMA = {
    "event_id": pl.String, "event_time": pl.String, "user_id": pl.Int64, "session_id": pl.String, "email": pl.String,
    "ip": pl.String, "event_type": pl.String, "channel": pl.String, "product_id": pl.String, "price": pl.Float64,
    "quantity": pl.Int32, "country": pl.String, "url": pl.String, "user_agent": pl.String,
}


def main(source, lake):
    time = pl.col("event_time").str.to_datetime("%Y-%m-%dT%H:%M:%S%.3fZ", time_unit="us", time_zone="UTC", strict=False)
    events = (
        pl.scan_ndjson(source, schema=SCHEMA, ignore_errors=True)
        .with_columns(event_time=time)
        .filter(pl.col("event_id").is_not_null() & pl.col("event_time").is_not_null())
        .unique(subset="event_id", keep="any", maintain_order=False)
        .with_columns(
            date=pl.col("event_time").dt.strftime("%Y-%m-%d"),
            hour=pl.col("event_time").dt.strftime("%H"),
            source=pl.col("channel"),
        )
    )
    target = pl.PartitionBy(lake, key=["date", "hour", "source"], include_key=False)
    with timed():
        events.sink_parquet(target, compression="zstd", compression_level=1, mkdir=True, engine="streaming")


if __name__ == "__main__":
    main(*sys.argv[1:3])
