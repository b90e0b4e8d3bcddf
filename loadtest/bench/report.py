"""The benchmark's results as Markdown."""

NAMES = {"millrace": "Millrace", "duckdb": "DuckDB", "polars": "Polars", "pyspark": "PySpark"}
DOES = {
    "millrace": "decode, 10 expectations, quarantine, dedup, 2 masked columns, manifest",
    "duckdb": "decode, DISTINCT ON key",
    "polars": "decode (broken lines removed beforehand), unique by key",
    "pyspark": "decode, dropDuplicates by key",
}
# What the measuring itself and the kernel may take, in cores, before times are called disturbed.
QUIET_CORES = 0.25


def table(results):
    lines = ["# One machine, one file, JSON lines to partitioned Parquet", ""]
    lines += introduction(results)
    summary = results["summary"]
    disturbed = max((line["others_share"] for line in summary if "failed" not in line), default=0)
    if disturbed > QUIET_CORES:
        lines += [f"**Not a quiet machine**: other processes kept up to {disturbed:.1f} cores busy. Trust CPU seconds only.", ""]
    for size in dict.fromkeys(line["size"] for line in summary):
        for threads in (1, 2):
            group = [line for line in summary if (line["size"], line["threads"]) == (size, threads)]
            if group:
                lines += section(size, threads, group)
    lines += footnotes(results)
    return "\n".join(lines) + "\n"


def introduction(results):
    machine, versions = results["machine"], results["machine"]["versions"]
    peers = ", ".join(f"{NAMES[name]} {version}" for name, version in versions.items() if version)
    sizes = "; ".join(
        f"{size}: {facts['recipe']['events']:,} events, {facts['bytes'] / 1e9:.2f} GB, "
        f"{facts['counts']['duplicates'] / facts['recipe']['events']:.0%} duplicates"
        for size, facts in results["inputs"].items()
    )
    return [
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_bytes'] / 2**30:.0f} GiB; {peers}; "
        f"seed {results['seed']}.",
        f"{sizes}.",
        "",
        "All write Parquet (zstd level 1) by date, hour and source, on the same cores. Runs are interleaved; figures are",
        "medians. Time is the whole process for Millrace, and for the others the query without imports and JVM start.",
        "",
        "| tool | does |",
        "|---|---|",
        *[f"| {NAMES[tool]} | {does} |" for tool, does in DOES.items() if tool in used(results)],
        "",
    ]


def used(results):
    return {line["tool"] for line in results["summary"]}


def section(size, threads, group):
    head = f"## {size} events, {threads} thread{'s' if threads > 1 else ''}"
    rows = [
        head,
        "",
        "| tool | seconds | events/s | speed against DuckDB | CPU seconds | CPU against DuckDB | peak memory | written | runs | slowest/fastest |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for line in sorted(group, key=lambda line: list(NAMES).index(line["tool"])):
        if "failed" in line:
            rows.append(f"| {NAMES[line['tool']]} | did not finish (see bench.json) | | | | | | | | |")
            continue
        rows.append(
            f"| {NAMES[line['tool']]} | {line['work_seconds']:.2f} | {line['events_per_second'] / 1e6:.2f}M "
            f"| {ratio(line['speed_to_duckdb'])} | {line['cpu_seconds']:.2f} | {ratio(line['cpu_to_duckdb'])} "
            f"| {line['rss_bytes'] / 2**20:,.0f} MiB | {line['bytes_written'] / 1e6:,.0f} MB | {line['runs']} "
            f"| {line['spread']:.2f} |"
        )
    return [*rows, ""]


def ratio(value):
    return f"{value:.2f}x" if value else ""


def footnotes(results):
    lines = ["## Which rows", "", "Checked event by event against the generator's ledger, in the first round.", ""]
    seen = set()
    for line in results["summary"]:
        rows, key = line.get("rows"), (line["size"], line["tool"])
        if not rows or key in seen:
            continue
        seen.add(key)
        broken = ", ".join(f"{count} {kind}" for kind, count in rows["broken_taken_for_good"].items()) or "none"
        lines.append(
            f"- {line['size']} {NAMES[line['tool']]}: {rows['written']:,} rows, {rows['missing']} good events missing, "
            f"{rows['repeated']} repeated, {rows['unknown']} unknown; broken lines taken for events: {broken}."
        )
    lines += [
        "",
        "Without checks, a negative price stays in the table, and so does a row whose wrong value was read as null. Polars",
        "stops at a line that is no JSON: its input is the same file without its broken lines.",
    ]
    return lines
