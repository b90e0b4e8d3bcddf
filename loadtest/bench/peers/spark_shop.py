"""The shop events with PySpark: permissive JSON, dropDuplicates, Parquet by date, hour and source.

Usage: spark_shop.py INPUT LAKE THREADS
"""

import os
import sys

os.environ["SPARK_LOCAL_IP"] = "127.0.0.1"
os.environ["SPARK_LOCAL_DIRS"] = sys.argv[2] + ".spark"

from timing import timed  # noqa: E402

from pyspark.sql import SparkSession  # noqa: E402
from pyspark.sql import functions as F  # noqa: E402

SCHEMA = """event_id STRING, event_time TIMESTAMP, user_id BIGINT, session_id STRING, email STRING, ip STRING,
event_type STRING, channel STRING, product_id STRING, price DOUBLE, quantity INT, country STRING, url STRING,
user_agent STRING"""


def main(source, lake, threads):
    spark = (
        SparkSession.builder.master(f"local[{threads}]")
        .config("spark.driver.memory", "6g")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        .config("spark.sql.session.timeZone", "UTC")
        .config("spark.driver.extraJavaOptions", "-XX:+UseParallelGC")
        # Each task writes a file for every partition of the lake: more tasks would only make more and smaller files.
        .config("spark.sql.shuffle.partitions", str(2 * int(threads)))
        .config("spark.sql.parquet.compression.codec", "zstd")
        .config("spark.hadoop.parquet.compression.codec.zstd.level", "1")
        .getOrCreate()
    )
    spark.sparkContext.setLogLevel("ERROR")
    with timed():
        (
            spark.read.schema(SCHEMA)
            .option("mode", "PERMISSIVE")
            .json(source)
            .where("event_id IS NOT NULL AND event_time IS NOT NULL")
            .dropDuplicates(["event_id"])
            .withColumn("date", F.to_date("event_time"))
            .withColumn("hour", F.lpad(F.hour("event_time").cast("string"), 2, "0"))
            .withColumn("source", F.col("channel"))
            .write.partitionBy("date", "hour", "source")
            .parquet(lake)
        )
    spark.stop()
    # The JVM must end before we do, or its CPU time is nobody's.
    gateway = spark.sparkContext._gateway
    process = gateway.proc
    gateway.shutdown()
    process.stdin.close()
    process.wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
