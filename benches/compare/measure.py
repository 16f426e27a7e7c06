"""Runs one contender, measures it, checks what it left behind, and prints its line of the table.

    measure.py NAME VERSION ANSWER EVENTS [--lake-only] [--iceberg TABLE] -- COMMAND…

CPU is user and system time of the process and of the children it waited for, by wait4. Memory is
the sum of what each of its processes had at most (VmHWM). Both ends of the job are checked against
ANSWER, the generator's own table: the table in PostgreSQL, and the same grouping of all rows of the
lake, which must hold each offset and each tap once, below the path of its date and hour.

With `--lake-only` the contender does that half of the job, and its line says so. With `--iceberg` the
lake is this table of a Hadoop catalog, its files those of the current snapshot, and the command runs
on for ever, as a sink does: it is told to end (SIGTERM) when that snapshot has as many rows as there
are events, and that moment is the end of the job. Its CPU is counted until it has ended, ours never.
"""

import argparse
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import fastavro
import polars as pl
import psycopg

LINE = "{:<14} {:<14} {:>8} {:>8} {:>9} {:>8} {:>6} {:>8}  {}"
HEADER = ("name", "version", "CPU-s", "CPU-s/M", "events/s", "RSS MiB", "files", "B/event", "result")
SECONDS_MIN, EVENTS_PER_SECOND_MIN = 300, 5_000
LOOK_SECONDS = 0.02

GROUP = ["window_start", "stop_id", "mode"]
COLUMNS = GROUP + ["taps", "fare_cents", "fare_cents_min", "fare_cents_max"]
TYPES = [pl.Int64, pl.String, pl.String] + [pl.Int64] * 4
DATE_AND_HOUR = "date=%Y-%m-%d/hour=%H"
# Of a table that is partitioned by the hour of `event_time`.
ICEBERG_HOUR = "event_time_hour=%Y-%m-%d-%H"
MANIFEST_ENTRY_DELETED = 2
TABLE = """
COPY (SELECT (extract(epoch FROM window_start) * 1000)::bigint, stop_id, mode,
             taps, fare_cents, fare_cents_min, fare_cents_max FROM taps_by_stop_5m)
TO STDOUT (FORMAT csv)
"""


def resident_kib_max(pid):
    """Of a process and its children up to now; nothing of one that is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    own = [int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")]
    return sum(own) + sum(resident_kib_max(int(child)) for child in children)


class Iceberg:
    """A table of a Hadoop catalog, which has a file for each version and one with the last's number."""

    def __init__(self, folder):
        self.metadata = folder / "metadata"
        self.version = self.snapshot = None

    def rows(self):
        """As its current snapshot says; reads it when there is another version."""
        try:
            version = int((self.metadata / "version-hint.text").read_text())
        except (FileNotFoundError, ValueError):
            version = self.version
        if version != self.version:
            text = json.loads((self.metadata / f"v{version}.metadata.json").read_text())
            current = text.get("current-snapshot-id")
            of_id = {snapshot["snapshot-id"]: snapshot for snapshot in text.get("snapshots", [])}
            self.version, self.snapshot = version, of_id.get(current)
        return int(self.snapshot["summary"]["total-records"]) if self.snapshot else 0

    def files(self):
        if not self.rows():
            return []
        entries = (
            entry
            for manifest in avro(self.snapshot["manifest-list"])
            for entry in avro(manifest["manifest_path"])
        )
        live = (entry for entry in entries if entry["status"] != MANIFEST_ENTRY_DELETED)
        return [local(entry["data_file"]["file_path"]) for entry in live]


def local(url):
    return Path("/" + url.removeprefix("file:").lstrip("/"))


def avro(url):
    with local(url).open("rb") as file:
        yield from fastavro.reader(file)


def run(command, patience, is_done):
    """Exit code, seconds, CPU-seconds, KiB; tells it to end when it is done, should that ever be."""
    started, resident, done = time.monotonic(), 0, None
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sys.stderr)
    try:
        while True:
            resident = max(resident, resident_kib_max(child.pid))
            pid, status, usage = os.wait4(child.pid, os.WNOHANG)
            if pid:
                break
            if time.monotonic() - started > patience:
                child.kill()
            if not done and is_done():
                done = time.monotonic()
                child.terminate()
            time.sleep(LOOK_SECONDS)
    except BaseException:
        child.kill()
        raise
    child.returncode = os.waitstatus_to_exitcode(status)
    # Java's own code for the signal that it handled.
    code = 0 if done and child.returncode == 128 + signal.SIGTERM else child.returncode
    seconds = (done or time.monotonic()) - started
    return code, seconds, usage.ru_utime + usage.ru_stime, resident


def read_csv(source):
    return pl.read_csv(source, has_header=False, new_columns=COLUMNS, schema_overrides=TYPES)


def differences(what, found, answer):
    """Sentences."""
    both = found.join(answer, on=GROUP, how="full", suffix="_right", coalesce=True)
    for name, condition in [
        ("missing", pl.col("taps").is_null()),
        ("too many", pl.col("taps_right").is_null()),
        (
            "wrong",
            pl.any_horizontal(
                pl.col(c).ne_missing(pl.col(f"{c}_right")) for c in COLUMNS if c not in GROUP
            )
            & pl.col("taps").is_not_null()
            & pl.col("taps_right").is_not_null(),
        ),
    ]:
        count = len(both.filter(condition))
        if count:
            yield f"{count} of {len(answer)} groups of the {what} are {name}"
    if len(found) != found.select(GROUP).n_unique():
        yield f"groups of the {what} are there twice"


def check_table(answer):
    try:
        with psycopg.connect(os.environ["COMPARE_DATABASE"]) as db, db.cursor() as cursor:
            with cursor.copy(TABLE) as copy:
                text = b"".join(copy)
    except psycopg.Error as error:
        yield f"the table cannot be read: {str(error).splitlines()[0]}"
        return
    if not text:
        yield "the table is empty"
        return
    yield from differences("table", read_csv(io.BytesIO(text)), answer)


def check_lake(files, layout, events, answer):
    if not files:
        yield "the lake is empty"
        return
    event_time = pl.col("event_time").dt.replace_time_zone(None).dt.cast_time_unit("us")
    lake = pl.scan_parquet(files, hive_partitioning=False, include_file_paths="path")
    lake = lake.with_columns(event_time)
    path = pl.col("path").str.extract(r"/([^/=]*=.*)/[^/]*$")
    fare = pl.col("fare_cents")
    counts = lake.select(
        rows=pl.len(),
        offsets=pl.struct("_partition", "_offset").n_unique(),
        taps=pl.col("tap_id").n_unique(),
        astray=path.ne_missing(event_time.dt.strftime(layout)).sum(),
    ).collect()
    for name, count in counts.row(0, named=True).items():
        if count != (0 if name == "astray" else events):
            yield f"the lake has {count} {name} of {events}"
    groups = lake.group_by(
        event_time.dt.truncate("5m").dt.epoch("ms").alias("window_start"), "stop_id", "mode"
    ).agg(
        taps=pl.len().cast(pl.Int64),
        fare_cents=pl.when(fare.count() > 0).then(fare.sum()),
        fare_cents_min=fare.min(),
        fare_cents_max=fare.max(),
    )
    yield from differences("lake", groups.collect(), answer)


def main():
    if sys.argv[1:] == ["--header"]:
        print(LINE.format(*HEADER))
        return
    parser = argparse.ArgumentParser()
    parser.add_argument("--lake-only", action="store_true")
    parser.add_argument("--iceberg", metavar="TABLE")
    for name, kind in [("name", str), ("version", str), ("answer", str), ("events", int)]:
        parser.add_argument(name, type=kind)
    separator = sys.argv.index("--")
    options = parser.parse_args(sys.argv[1:separator])
    events, command = options.events, sys.argv[separator + 1 :]

    lake = Path(os.environ["COMPARE_LAKE"])
    table = Iceberg(lake / options.iceberg) if options.iceberg else None
    patience = SECONDS_MIN + events / EVENTS_PER_SECOND_MIN
    code, seconds, cpu, resident = run(
        command, patience, lambda: table is not None and table.rows() >= events
    )
    if table:
        files, layout = table.files(), ICEBERG_HOUR
    else:
        # What begins so is not there yet, or not data.
        files = [path for path in lake.rglob("*") if path.is_file() and path.name[0] not in "._"]
        layout = DATE_AND_HOUR
    answer = read_csv(options.answer)
    wrong = [f"ended with {code}"] if code else []
    if not code and not options.lake_only:
        wrong += check_table(answer)
    if not code:
        wrong += check_lake(files, layout, events, answer)
    result = "; ".join(wrong) or "right"
    print(
        LINE.format(
            options.name,
            options.version,
            f"{cpu:.1f}",
            f"{cpu * 1e6 / events:.2f}",
            f"{events / seconds:.0f}",
            f"{resident / 1024:.0f}",
            len(files),
            f"{sum(path.stat().st_size for path in files) / events:.1f}",
            f"{result}, of the lake alone" if options.lake_only else result,
        ),
        flush=True,
    )
    sys.exit(bool(wrong))


main()
