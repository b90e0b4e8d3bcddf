"""The shop events with DuckDB: decode, first of each event_id, Parquet by date, hour and source. No checks, no masks.

Usage: duckdb_shop.py INPUT LAKE THREADS
"""

import sys

from timing import timed

import duckdb

COLUMNS = {
    "event_id": "VARCHAR", "event_time": "TIMESTAMP", "user_id": "BIGINT", "session_id": "VARCHAR", "email": "VARCHAR",
    "ip": "VARCHAR", "event_type": "VARCHAR", "channel": "VARCHAR", "product_id": "VARCHAR", "price": "DOUBLE",
    "quantity": "INTEGER", "country": "VARCHAR", "url": "VARCHAR", "user_agent": "VARCHAR",
}

# ignore_errors leaves out what is no JSON, and reads a value of a wrong type as null: the filter drops the rows
# that lost what the schema requires.
# Of the forms tried (DISTINCT *, any_value with GROUP BY, row_number; names of hours before or after DISTINCT), this
# one took the least CPU time.
QUERY = """
COPY (
  SELECT *, event_time::DATE AS date, right('0' || hour(event_time), 2) AS hour, channel AS source
  FROM (
    SELECT DISTINCT ON (event_id) *
    FROM read_json($input, format = 'newline_delimited', columns = {columns}, ignore_errors = true)
    WHERE event_id IS NOT NULL AND event_time IS NOT NULL
  )
) TO '{lake}' (FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 1, PARTITION_BY (date, hour, source))
"""


def main(source, lake, threads):
    connection = duckdb.connect()
    connection.execute(f"SET threads = {int(threads)}")
    connection.execute("SET preserve_insertion_order = false")
    connection.execute("SET partitioned_write_max_open_files = 1000")
    connection.execute("SET enable_progress_bar = false")
    query = QUERY.format(columns=COLUMNS, lake=lake)
    with timed():
        connection.execute(query, {"input": source})


if __name__ == "__main__":
    main(*sys.argv[1:])
