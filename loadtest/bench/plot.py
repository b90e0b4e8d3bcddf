"""The benchmark's results as a picture: events per second, by tool, threads and size."""

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as pyplot  # noqa: E402

from report import NAMES  # noqa: E402

COLORS = {"millrace": "#0b6e4f", "duckdb": "#d9a404", "polars": "#3b73b9", "pyspark": "#c2562d"}

# No date in the picture: the same results give the same file.
METADATA = {"svg": {"Date": None}, "png": None}


def draw(summary, folder):
    summary = [line for line in summary if "failed" not in line]
    sizes = list(dict.fromkeys(line["size"] for line in summary))
    figure, axes = pyplot.subplots(1, len(sizes), figsize=(5.6 * len(sizes), 3.9), sharey=True, squeeze=False)
    highest = max(line["events_per_second"] for line in summary) / 1e6
    for axis, size in zip(axes[0], sizes):
        panel(axis, size, [line for line in summary if line["size"] == size])
        axis.set_ylim(0, highest * 1.22)
    axes[0][0].set_ylabel("million events per second")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=len(labels), frameon=False)
    figure.suptitle("JSON lines to deduplicated, partitioned Parquet\nhigher is better; x: speed against DuckDB", fontsize=11)
    figure.tight_layout(rect=(0, 0.07, 1, 1))
    for suffix in ("svg", "png"):
        figure.savefig(folder / f"bench.{suffix}", dpi=150, metadata=METADATA[suffix])
    pyplot.close(figure)


def panel(axis, size, lines):
    tools = [tool for tool in NAMES if any(line["tool"] == tool for line in lines)]
    width = 0.8 / len(tools)
    for place, tool in enumerate(tools):
        group = {line["threads"]: line for line in lines if line["tool"] == tool}
        xs = [index + (place - (len(tools) - 1) / 2) * width for index, threads in enumerate((1, 2)) if threads in group]
        heights = [group[threads]["events_per_second"] / 1e6 for threads in (1, 2) if threads in group]
        axis.bar(xs, heights, width * 0.92, color=COLORS[tool], label=NAMES[tool])
        for x, threads, height in zip(xs, [t for t in (1, 2) if t in group], heights):
            axis.annotate(label(group[threads], tool), (x, height), xytext=(0, 3), textcoords="offset points",
                          ha="center", va="bottom", fontsize=8, linespacing=1.1,
                          bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.4})
    axis.set_xticks([0, 1], ["1 thread", "2 threads"])
    axis.set_title(f"{size} events", fontsize=11)
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="y", color="#dddddd", linewidth=0.7)
    axis.set_axisbelow(True)


def label(line, tool):
    rate = line["events_per_second"]
    rate = f"{rate / 1e6:.2f}M" if rate >= 1e5 else f"{rate / 1e3:.0f}k"
    if tool == "duckdb" or not line["speed_to_duckdb"]:
        return rate
    return f"{rate}\n{line['speed_to_duckdb']:.2g}x"
