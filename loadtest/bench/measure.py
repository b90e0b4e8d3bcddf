"""Runs a command on some cores and says what it cost, its children included."""

import hashlib
import json
import os
import platform
import subprocess
import tempfile
import threading
import time
from pathlib import Path

SAMPLE_SECONDS = 0.05


class Failed(Exception):
    """The command ended with an error. `ended` names neither a path nor what it printed: that much is a result."""

    def __init__(self, command, code, printed):
        super().__init__(f"{' '.join(command)}\nended with {code}:\n{printed}")
        self.ended = f"ended with {code}"


def run(command, threads, environment):
    """Wall and CPU time, peak memory. Cores are fixed, so that one thread is one core for helpers too."""
    os.sync()  # the last run's pages are not this run's debt
    cores = ",".join(str(core) for core in sorted(os.sched_getaffinity(0))[:threads])
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
        busy = busy_seconds()
        began = time.perf_counter()
        process = subprocess.Popen(
            ["taskset", "-c", cores, *command], stdout=out, stderr=errors, stdin=subprocess.DEVNULL, env=environment
        )
        peak = Peak(process.pid)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        busy = busy_seconds() - busy
        sampled = peak.stop()
        out.seek(0)
        errors.seek(0)
        text = out.read().decode(errors="replace")
        if process.returncode != 0:
            tail = errors.read().decode(errors="replace")[-3000:]
            raise Failed(command, process.returncode, f"{text[-1000:]}\n{tail}")
    cpu = usage.ru_utime + usage.ru_stime
    return {
        "work_seconds": reported(text) or wall,
        "wall_seconds": wall,
        "cpu_seconds": cpu,
        "others_cpu_seconds": max(0.0, busy - cpu),
        "system_seconds": usage.ru_stime,
        "rss_bytes": max(usage.ru_maxrss * 1024, sampled),
    }


def busy_seconds():
    """CPU time that the whole machine spent on work since its start."""
    user, nice, system, _idle, _wait, irq, softirq = map(int, Path("/proc/stat").read_text().split()[1:8])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def reported(text):
    """A peer says how long its own work took; for all others the whole process counts."""
    for line in reversed(text.splitlines()):
        try:
            return json.loads(line)["work_seconds"]
        except (ValueError, KeyError, TypeError):
            continue
    return None


class Peak:
    """Peak memory of a process and its descendants together, sampled: the kernel keeps it for single ones only."""

    def __init__(self, root):
        self.root = root
        self.bytes = 0
        self.done = threading.Event()
        self.thread = threading.Thread(target=self.watch, daemon=True)
        self.thread.start()

    def watch(self):
        while not self.done.wait(SAMPLE_SECONDS):
            self.bytes = max(self.bytes, sum(resident(pid) for pid in descendants(self.root)))

    def stop(self):
        self.done.set()
        self.thread.join()
        return self.bytes


def descendants(root):
    found, queue = [], [root]
    while queue:
        pid = queue.pop()
        found.append(pid)
        try:
            for task in Path(f"/proc/{pid}/task").iterdir():
                queue += [int(child) for child in (task / "children").read_text().split()]
        except OSError:
            continue
    return found


def resident(pid):
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return 0


def warm(path):
    """Reads a file into the page cache."""
    with open(path, "rb", buffering=0) as file:
        buffer = bytearray(1 << 22)
        while file.readinto(buffer):
            pass


def memory_bytes():
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def machine():
    model = next((l.split(":")[1].strip() for l in open("/proc/cpuinfo") if l.startswith("model name")), "unknown")
    versions = {name: version(name) for name in ("duckdb", "polars", "pyspark")}
    return {"cpu": model, "cores": os.cpu_count(), "memory_bytes": memory_bytes(), "system": platform.platform(),
            "python": platform.python_version(), "versions": versions}


def version(name):
    from importlib.metadata import PackageNotFoundError, version as installed

    try:
        return installed(name)
    except PackageNotFoundError:
        return None


def digest(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]
