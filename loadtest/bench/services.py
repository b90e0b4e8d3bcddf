"""What a benchmark of the cluster runs on: services on loopback, one coordinator and two workers. They end with the block.

    with Services(work) as services:            MinIO, etcd, the cluster
        services.start_kafka()                  and a broker
        warehouse = services.start_warehouse()  and PostgreSQL

Needs MILLRACE_BIN and LOADTEST_BIN.
"""

import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from datetime import datetime, timezone
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
LOCAL = ROOT / "deploy" / "local"
EXAMPLE = ROOT / "client" / "examples" / "shop"
HASH_KEY = "a key for benchmarks only, 32 bytes or more"


class Services:
    """MinIO, etcd, one coordinator and two workers; more when it is asked for."""

    def __init__(self, work):
        self.work = work
        self.folder = work / "services"
        self.millrace = os.environ["MILLRACE_BIN"]
        self.processes = []
        self.kafka = None
        self.warehouse = None

    def __enter__(self):
        signal.signal(signal.SIGTERM, end)
        drop(self.folder)
        try:
            self.begin()
        except BaseException:
            self.__exit__()
            raise
        return self

    def begin(self):
        self.s3 = self.service("s3")
        etcd = self.service("etcd", "endpoints")
        listen, scheduler = free_ports(2)
        self.env = {
            **os.environ,
            "AWS_ENDPOINT_URL": self.s3, "AWS_ACCESS_KEY_ID": "millrace", "AWS_SECRET_ACCESS_KEY": "millrace-local-only",
            "AWS_REGION": "us-east-1", "MILLRACE_HASH_KEY": HASH_KEY, "MILLRACE_COORDINATORS": f"127.0.0.1:{listen}",
        }
        self.curl("-X", "PUT", f"{self.s3}/millrace")
        self.start("coordinator", f"name: bench\nlisten: 127.0.0.1:{listen}\nscheduler_listen: 127.0.0.1:{scheduler}\n"
                   f'etcd: {{endpoints: ["{etcd}"]}}\n')
        for worker in ("one", "two"):
            self.start("worker", f'name: {worker}\netcd: {{endpoints: ["{etcd}"]}}\nslots: 1\n'
                       f"work_dir: {self.folder}/{worker}\n")
        wait_for("the cluster", 60, self.is_complete)

    def is_complete(self):
        shown = subprocess.run([self.millrace, "cluster", "show", "--output", "json"], env=self.env,
                               capture_output=True, text=True)
        return shown.returncode == 0 and len(json.loads(shown.stdout).get("workers", [])) == 2

    def __exit__(self, *_):
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            try:
                process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()
        if self.warehouse:
            self.warehouse.remove()
        for name in ("kafka", "etcd", "s3"):
            folder = self.folder / name
            if folder.exists():
                subprocess.run([LOCAL / f"{name}.sh", "stop", "--dir", folder], check=False, stderr=subprocess.DEVNULL)

    def service(self, name, told="endpoint"):
        folder = self.folder / name
        start = [LOCAL / f"{name}.sh", "start", "--dir", folder]
        # On a busy machine the first one may give up waiting too early.
        if subprocess.run(start, stdout=subprocess.DEVNULL).returncode != 0:
            subprocess.run(start, check=True, stdout=subprocess.DEVNULL)
        return (folder / told).read_text().split()[0].split(",")[0]

    def start(self, kind, config):
        number = len(self.processes)
        file = self.folder / f"{kind}{number}.yaml"
        file.write_text(config)
        log = open(file.with_suffix(".log"), "w")
        self.processes.append(
            subprocess.Popen([self.millrace, "--log", "info", kind, "--config", file], env=self.env, stdout=log, stderr=log))

    def check(self):
        """Ends the benchmark when one of our processes has ended: nothing that is measured then is the cluster's."""
        for process in self.processes:
            if process.poll() is not None:
                raise SystemExit(f"a process of the cluster has ended with {process.returncode}; its log is in {self.folder}")

    def start_kafka(self):
        self.kafka = self.service("kafka")
        return self.kafka

    def start_warehouse(self):
        self.warehouse = Postgres(self.folder / "postgres")
        self.warehouse.start()
        return self.warehouse

    def send(self, topic, rate, seconds, out, *more):
        """Starts to send events of this moment: their times and their sending go on at the same pace."""
        command = [os.environ["LOADTEST_BIN"], "generate", "--events", rate * seconds, "--out", out, "--overwrite", "--kafka", self.kafka,
                   "--topic", topic, "--rate", rate, "--start", f"{datetime.now(timezone.utc):%Y-%m-%dT%H:%M:%SZ}",
                   "--hours", seconds / 3600, *more]
        return subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, text=True)

    def cpu(self):
        """CPU seconds of our processes, and of nobody else's: by their clocks, since /proc counts whole ticks for whoever wakes at one."""
        return sum(time.clock_gettime(~process.pid << 3 | 2) for process in self.processes)

    def memory_peak(self):
        """Most bytes that one of our processes had in memory."""
        peaks = [re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text()) for process in self.processes]
        return max(int(peak.group(1)) for peak in peaks) * 1024

    def curl(self, *arguments):
        subprocess.run(["curl", "-fsS", "-o", "/dev/null", "--aws-sigv4", "aws:amz:us-east-1:s3", "--user",
                        "millrace:millrace-local-only", *arguments], check=True)

    def upload(self, folder):
        for file in sorted(folder.iterdir()):
            self.curl("-T", file, f"{self.s3}/millrace/events/{file.name}")
        one = self.work / "one.json"
        first = next(file for file in sorted(folder.iterdir()))
        with open(first, "rb") as lines:
            one.write_bytes(next(line for line in lines if line.endswith(b"}\n")))
        self.curl("-T", one, f"{self.s3}/millrace/one/one.json")

    def s3_source(self, prefix="events/"):
        return f's3: {{url: "s3://millrace/{prefix}", format: json}}'

    def kafka_source(self, topic):
        return f'kafka: {{brokers: ["{self.kafka}"], topic: {topic}, format: json}}'

    def pipeline(self, name, scope, source, example="shop.yaml", more=""):
        """The shop's pipeline under a name, from a source, with a lake of its own. `more` is appended."""
        folder = self.work / "pipelines" / name
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(EXAMPLE, folder)
        text = (EXAMPLE / example).read_text()
        text = text.replace("pipeline: shop", f"pipeline: {name}")
        text = text.replace("files: {path: events/, format: json}", source)
        text = text.replace("dedup:     {key: [event_id]}", f"dedup: {{key: [event_id], scope: {scope}}}")
        text = text.replace('url: "./lake"', f'url: "s3://millrace/lake-{name}"')
        file = folder / "pipeline.yaml"
        file.write_text(text + more)
        return file

    def apply(self, file):
        self.cli("pipeline", "apply", file)

    def cli(self, *arguments):
        ran = subprocess.run([self.millrace, *map(str, arguments)], env=self.env, capture_output=True, text=True)
        if ran.returncode not in (0, 3):
            raise SystemExit(f"{' '.join(map(str, arguments))}: {ran.stderr}")
        return ran.stdout

    def told(self, *arguments):
        """What a command of the cluster says, as JSON."""
        return json.loads(self.cli(*arguments, "--timeout", 300, "--output", "json").splitlines()[-1])


class Postgres:
    """A PostgreSQL server on loopback. It keeps its address and its data over stops."""

    SETTINGS = {"shared_buffers": "1GB", "work_mem": "64MB", "maintenance_work_mem": "512MB", "max_wal_size": "4GB",
                "checkpoint_timeout": "15min", "random_page_cost": "1.1", "max_connections": "120"}

    def __init__(self, folder):
        self.folder = folder

    def start(self):
        run(LOCAL / "postgres.sh", "start", "--dir", self.folder)
        self.dsn = (self.folder / "endpoint").read_text().strip()

    def stop(self):
        run(LOCAL / "postgres.sh", "stop", "--dir", self.folder)

    def tune(self):
        """As a server of dashboards is set up, not as it is delivered."""
        for name, value in self.SETTINGS.items():
            self.sql(f"ALTER SYSTEM SET {name} = '{value}'")
        self.stop()
        self.start()

    def remove(self):
        if self.folder.exists():
            subprocess.run([LOCAL / "postgres.sh", "stop", "--dir", self.folder], check=False, stderr=subprocess.DEVNULL)
        drop(self.folder)

    def sql(self, sql):
        return run("psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-d", self.dsn, "-f", "-", stdin=sql)

    def bytes(self):
        return int(self.sql("SELECT pg_database_size(current_database())"))


class Session:
    """One connection that answers query after query; `ask` gives nothing while the server is away."""

    END = "that is all"

    def __init__(self, dsn):
        self.dsn, self.psql = dsn, None

    def ask(self, sql):
        """The answer's lines; None if the server did not give one."""
        if self.psql is None:
            self.psql = subprocess.Popen(["psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-d", self.dsn], stdin=subprocess.PIPE,
                                         stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        try:
            self.psql.stdin.write(f"{sql};\n\\echo {self.END}\n")
            self.psql.stdin.flush()
        except OSError:
            return self.close()
        lines = []
        for line in self.psql.stdout:
            if line.rstrip("\n") == self.END:
                return lines
            lines.append(line.rstrip("\n"))
        return self.close()

    def close(self):
        if self.psql is not None:
            self.psql.kill()
            self.psql.communicate()
            self.psql = None


def end(*_):
    """What is told to stop leaves no service behind."""
    raise SystemExit("stopped")


def loadtest(*arguments):
    """What the load generator says, as JSON."""
    out = subprocess.run([os.environ["LOADTEST_BIN"], *map(str, arguments)], check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(out.stdout.splitlines()[-1])


def wait_for(what, seconds, is_there, every=0.2):
    """Whatever `is_there` gives, once that is something."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = is_there()
        if found:
            return found
        time.sleep(every)
    raise SystemExit(f"gave up after {seconds} s: {what} is not there")


def free_ports(count):
    """Below those that the kernel hands to clients and those that services take, so that nobody comes in between."""
    free = []
    while len(free) < count:
        port = random.randrange(10_000, 20_000)
        with socket.socket() as one:
            if port not in free and one.connect_ex(("127.0.0.1", port)) != 0:
                free.append(port)
    return free


def percentile(numbers, share):
    """The value that so many percent of the numbers do not exceed; None of nothing."""
    numbers = sorted(numbers)
    return round(numbers[min(len(numbers) - 1, int(len(numbers) * share / 100))], 4) if numbers else None


def tell(folder, name, results, text):
    """Writes a benchmark's figures and its report, which is shown too."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(results, indent=1) + "\n")
    (folder / f"{name}.md").write_text(text)
    print(text)


def verdict(is_kept):
    return "kept" if is_kept else "**missed**"


def machine():
    return {"cores": os.cpu_count(), "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")}


def note(text):
    print(text, file=sys.stderr, flush=True)


def run(*command, stdin=None):
    ran = subprocess.run([str(part) for part in command], input=stdin, capture_output=True, text=True,
                         env={**os.environ, "MILLRACE_HASH_KEY": HASH_KEY})
    if ran.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, command))}: {ran.stderr}")
    return ran.stdout.strip()


def drop(folder):
    """PostgreSQL's data lies where its user may go: a link leads there."""
    for data in [folder / "data", *folder.glob("*/data")]:
        if data.is_symlink():
            shutil.rmtree(data.resolve(), ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)
