"""Runs suites with the real Great Expectations and writes its results: the oracle of quality_oracle.rs.

In: a JSON file [{"name", "parquet", "engine": "pandas" | "sqlite", "expectations": [...]}]. Out: a JSON file
{name: validation result}. LIKE and SQL queries have no implementation on pandas, so those cases run on SQLite.
"""

import json
import sys
import tempfile
import warnings

import great_expectations as gx
import pandas as pd
import sqlalchemy as sa

warnings.filterwarnings("ignore")


@sa.event.listens_for(sa.Engine, "connect")
def like_is_case_sensitive(connection, _):
    # SQLite's LIKE ignores case unless told; PostgreSQL's and ours does not.
    connection.execute("PRAGMA case_sensitive_like = ON")


def batch_of(context, case):
    frame = pd.read_parquet(case["parquet"])
    if case["engine"] == "pandas":
        source = context.data_sources.add_pandas(case["name"])
        definition = source.add_dataframe_asset("frame").add_batch_definition_whole_dataframe("whole")
        return definition.get_batch({"dataframe": frame})
    path = tempfile.mktemp(suffix=".db")
    frame.drop(columns=["price", "day", "at", "nothing"]).to_sql("frame", sa.create_engine(f"sqlite:///{path}"), index=False)
    source = context.data_sources.add_sqlite(case["name"], connection_string=f"sqlite:///{path}")
    return source.add_table_asset("frame", table_name="frame").add_batch_definition_whole_table("whole").get_batch()


def plain(value):
    # NumPy's booleans are none that JSON knows.
    return bool(value) if type(value).__name__.startswith("bool") else str(value)


def main(cases_path, results_path):
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    results = {}
    for case in json.load(open(cases_path)):
        suite = gx.ExpectationSuite(name=case["name"], expectations=case["expectations"])
        result = batch_of(context, case).validate(suite)
        results[case["name"]] = result.to_json_dict()
    json.dump(results, open(results_path, "w"), default=plain)


main(*sys.argv[1:])
