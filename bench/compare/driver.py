"""Builds, starts and measures: the limits of this machine, this server, and its peers; writes a table, JSON and plots.

Every repetition goes through all cells in turn, peers among them, so that a disturbance meets all alike. Nothing is dropped
from the results: runs that a busy machine or a busy generator spoilt are counted in the table.
"""

import argparse
import ctypes
import datetime
import json
import os
import platform
import re
import select
import shutil
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import plot
import table

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
HOLDS = ["off", "adaptive", "frame"]
START_SECONDS = 30
PR_SET_PDEATHSIG = 1


class Failure(Exception):
    """Something that ends the program, with its message."""


# ---- Processes -----------------------------------------------------------------------------------------------------------------


def bound_to(cores):
    """A function for a child's start: it runs on `cores`, and ends when this program does, however that ends."""
    libc = ctypes.CDLL(None)

    def bind():
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if cores:
            os.sched_setaffinity(0, cores)

    return bind


def run(command, what, **options):
    """Runs to the end; its standard output, or a Failure with the last line of its errors."""
    result = subprocess.run(command, capture_output=True, text=True, preexec_fn=bound_to(None), **options)
    if result.returncode != 0:
        lines = [line for line in result.stderr.strip().splitlines() if line.strip()]
        raise Failure(f"{what}: {lines[-1].removeprefix(what + ': ') if lines else f'code {result.returncode}'}")
    return result.stdout


class Server:
    """A peer's program: it prints "listening on ADDRESS", and before that "process PID" if another process is to be measured."""

    def __init__(self, command, core, log):
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, bufsize=0, start_new_session=True,
            preexec_fn=bound_to({core}),
        )
        self.pid, self.url, text = self.process.pid, None, b""
        deadline = time.monotonic() + START_SECONDS
        while not self.url:
            ready, _, _ = select.select([self.process.stdout], [], [], max(0, deadline - time.monotonic()))
            part = os.read(self.process.stdout.fileno(), 65536) if ready else b""
            if not part:
                self.stop()
                raise Failure(f"{command[0]} did not start; see {log.name}")
            text += part
            if match := re.search(rb"^listening on (\S+)\n", text, re.M):
                self.url = f"http://{match[1].decode()}"
            if match := re.search(rb"^process (\d+)\n", text, re.M):
                self.pid = int(match[1])

    def stop(self):
        for signal_number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self.process.pid, signal_number)
                self.process.wait(timeout=3)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                continue
        self.process.stdout.close()


# ---- Peers ---------------------------------------------------------------------------------------------------------------------


def needs(*programs):
    """Why not, or nothing."""
    missing = [program for program in programs if not shutil.which(program)]
    return f"not installed: {', '.join(missing)}" if missing else None


def pion(context):
    if why := needs("go"):
        return None, why
    program = context.out / "pion-sfu"
    try:
        run(["nice", "go", "build", "-o", str(program), "."], "go build", cwd=HERE / "pion")
    except Failure as error:
        return None, str(error)
    return [str(program)], None


def janus(event_loops):
    def find(_context):
        why = needs("janus", "node")
        return None if why else ["node", str(HERE / "janus" / "adapter.mjs"), str(event_loops)], why

    return find


def str0m(context):
    program = context.binaries / "str0m-sfu"
    return ([str(program)], None) if program.is_file() else (None, f"{program.name} was not built")


def absent(why):
    return lambda _context: (None, why)


# Name, what it is, and how to find it: a command, or why there is none.
PEERS = {
    "str0m": ("str0m 0.25, a minimal SFU (ICE lite, RTP mode)", str0m),
    "pion": ("Pion v4, a minimal SFU (ICE lite, its default interceptors)", pion),
    "janus-1": ("Janus videoroom, ICE lite, event_loops = 1", janus(1)),
    "janus": ("Janus videoroom, ICE lite, a thread for each session (its default)", janus(0)),
    "mediasoup": (
        "mediasoup",
        absent("no adapter here yet; npm's package downloads its worker, or the sources of the worker's libraries, from GitHub"),
    ),
    "livekit": ("LiveKit", absent("no adapter here yet; viewers join by its own signalling, not by WHEP")),
}


# ---- Measuring -----------------------------------------------------------------------------------------------------------------


class Context:
    def __init__(self, options):
        self.options = options
        self.out = Path(options.out).resolve()
        self.out.mkdir(parents=True, exist_ok=True)
        self.cores = sorted(os.sched_getaffinity(0))
        target = Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target")
        self.binaries = Path(options.binaries).resolve() if options.binaries else (ROOT / target / "release")


def build(context):
    if context.options.binaries:
        return
    say("building (the first time takes minutes)")
    server = ["cargo", "build", "--release", "--bin", "distributary"]
    bench = ["cargo", "build", "--release", "-p", "distributary-bench", "--bins", "--features", "compare"]
    for command in (server, bench):
        # Its progress is of interest, and its errors even more.
        if subprocess.run(["nice", *command], cwd=ROOT, preexec_fn=bound_to(None)).returncode != 0:
            raise Failure(f"{' '.join(command)} failed")


def say(text):
    print(f"bench: {text}", file=sys.stderr, flush=True)


def cells_of(options, peers):
    """What to measure, each a dictionary; the first column of a row is its `who`."""
    cells = []

    def us(viewers, hold, io="uring", workers=1, media="video", gro=True):
        cell = {"who": "distributary", "viewers": viewers, "hold": hold, "io": io, "workers": workers, "media": media, "gro": gro}
        if cell not in cells:
            cells.append(cell)

    if "us" in options.parts and options.quick:
        for hold in HOLDS:
            us(options.viewers[-1], hold)
        us(options.viewers[-1], "off", io="mmsg")
        us(options.viewers[-1], "off", media="audio")
        us(options.viewers[0], "off")
    elif "us" in options.parts:
        for viewers in options.viewers:
            for hold in HOLDS:
                for media in ("video", "audio"):
                    for io in ("uring", "mmsg"):
                        us(viewers, hold, io=io, media=media)
            for hold in HOLDS:
                us(viewers, hold, workers=2)
    if "peers" in options.parts:
        for viewers in options.peer_viewers:
            for hold in HOLDS:
                us(viewers, hold)
            # What trains are worth when the viewers' kernel takes them apart, as most viewers' would.
            us(viewers, "frame", gro=False)
            cells += [{"who": peer, "viewers": viewers, "media": "video", "gro": True} for peer in peers]
    return cells


def measure(context, cell, commands):
    """One run of the load generator; its report, or what went wrong."""
    options = context.options
    server_core = context.cores[0]
    command = [str(context.binaries / "loadgen"), "run", "--viewers", str(cell["viewers"]), "--seconds", str(options.seconds)]
    command += ["--settle", "1" if options.quick else "3", "--join-seconds-max", "45"]
    command += ["--audio", "only" if cell["media"] == "audio" else "on"]
    command += [] if cell["gro"] else ["--no-gro"]
    # The defaults that one would want to see written down.
    command += ["--bitrate", "2500000", "--pacing", "2.5", "--sample", "16"]
    environment, server = dict(os.environ), None
    with open(context.out / "servers.log", "ab") as log:
        try:
            if cell["who"] == "distributary":
                environment["DISTRIBUTARY_MEDIA_HOLD"] = cell["hold"]
                command += ["--server-binary", str(context.binaries / "distributary"), "--io", cell["io"]]
                command += ["--workers", str(cell["workers"])]
                command += ["--server-cores", ",".join(map(str, context.cores[: cell["workers"]]))]
            else:
                server = Server(commands[cell["who"]], server_core, log)
                command += ["--url", server.url, "--server-pid", str(server.pid)]
                others = context.cores[1:] or context.cores
                command += ["--cores", ",".join(map(str, others))]
            output = run(command, "loadgen", env=environment, timeout=options.seconds + 240)
            return json.loads(output)
        except (Failure, subprocess.TimeoutExpired, json.JSONDecodeError) as error:
            return {"error": str(error)}
        finally:
            if server:
                server.stop()


def limits(context):
    rounds = 5 if context.options.quick else 15
    return json.loads(run([str(context.binaries / "limits"), "--rounds", str(rounds), "--core", str(context.cores[0])], "limits"))


def summarise(cell):
    """Median, least and most of what the tables and plots show."""
    reports = [report for report in cell["runs"] if "error" not in report]
    cell["errors"] = [report["error"] for report in cell["runs"] if "error" in report]
    cell["busy"] = sum(not report["machine"]["quiet"] for report in reports)
    cell["limited"] = sum(report["generator"]["bottleneck"] for report in reports)
    cell["commit"] = next((report["commit"] for report in reports), None)
    cell["profile"] = next((report["srtp_profile"] for report in reports), None)
    picks = {
        "cpu": lambda r: r["cpu_us_per_forwarded_packet"],
        "p50": lambda r: r["latency_us"]["p50"] / 1e3,
        "p99": lambda r: r["latency_us"]["p99"] / 1e3,
        "p999": lambda r: r["latency_us"]["p999"] / 1e3,
        "loss": lambda r: 100 * r["lost"] / max(r["packets_expected"], 1),
        "rss": lambda r: r["rss_kib_per_viewer"],
        "cores": lambda r: r["cpu_cores"],
        "train": lambda r: r["datagrams_per_send"],
        "join": lambda r: r["join_to_first_packet_ms"]["p95"],
    }
    cell["values"] = {}
    for name, pick in picks.items():
        values = [value for value in map(pick, reports) if value is not None]
        if values:
            cell["values"][name] = [statistics.median(values), min(values), max(values)]


def machine():
    def first(path, pattern):
        try:
            match = re.search(pattern, Path(path).read_text(), re.M)
        except OSError:
            match = None
        return match[1].strip() if match else "unknown"

    try:
        commit = run(["git", "describe", "--always", "--dirty", "--abbrev=12"], "git", cwd=ROOT).strip()
    except (Failure, OSError):
        commit = "unknown"
    return {
        "cpu": first("/proc/cpuinfo", r"^model name\s*: (.*)$"),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "memory_gib": round(int(first("/proc/meminfo", r"^MemTotal:\s*(\d+)")) / 2**20),
        "commit": commit,
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
    }


# ---- The command line ----------------------------------------------------------------------------------------------------------


def listed(allowed=None):
    def parse(text):
        items = [item.strip() for item in text.split(",") if item.strip()]
        wrong = [item for item in items if allowed and item not in allowed]
        if wrong or not items:
            raise argparse.ArgumentTypeError(f"{', '.join(wrong) or 'nothing'} given; there are: {', '.join(allowed)}")
        return items

    return parse


def numbers(text):
    try:
        values = sorted({int(item) for item in text.split(",")})
    except ValueError:
        values = []
    if not values or not all(1 <= value <= 100_000 for value in values):
        raise argparse.ArgumentTypeError(f"{text!r} is no list of numbers of viewers, like 10,100,500")
    return values


def positive(text):
    if not text.isdigit() or not 1 <= int(text) <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r} must be a number from 1 to 3600")
    return int(text)


def arguments():
    parser = argparse.ArgumentParser(
        prog="bench/run",
        description="Measures this machine's limits, this server, and its peers, and writes table.md, results.json and SVG plots.",
        epilog="A full run takes two hours or so; --quick takes about three minutes. How it is done, and what is fair about it, "
        "stands in bench/README.md.",
    )
    parser.add_argument("--quick", action="store_true", help="few cells, few seconds, two repetitions")
    parser.add_argument("--parts", type=listed(["limits", "us", "peers"]), default=["limits", "us", "peers"], help="default: all")
    parser.add_argument("--peers", type=listed(list(PEERS)), default=list(PEERS), help="default: all that can be had")
    defaults = "10,100,500,1000, and beside peers 10,100,200,500; with --quick 10,100 and 100"
    parser.add_argument("--viewers", type=numbers, help=f"default: {defaults}")
    parser.add_argument("--seconds", type=positive, help="length of a run's measurement; default: 15, with --quick 4")
    parser.add_argument("--repeat", type=positive, help="runs of each cell; default: 3, with --quick 2")
    parser.add_argument("--out", default=str(ROOT / "bench" / "out"), help="folder for the results; default: bench/out")
    parser.add_argument("--binaries", metavar="DIR", help="programs that are built already; nothing is built then")
    options = parser.parse_args()
    # Most peers cannot serve 500 on one core; 200 shows them near their end.
    options.peer_viewers = options.viewers or ([100] if options.quick else [10, 100, 200, 500])
    options.viewers = options.viewers or ([10, 100] if options.quick else [10, 100, 500, 1000])
    options.seconds = options.seconds or (4 if options.quick else 15)
    options.repeat = options.repeat or (2 if options.quick else 3)
    if options.binaries:
        wanted = ["loadgen", "distributary"] + (["limits"] if "limits" in options.parts else [])
        if missing := [name for name in wanted if not (Path(options.binaries) / name).is_file()]:
            parser.error(f"--binaries {options.binaries}: there is no {', '.join(missing)}")
    return options


def interrupted(*_):
    raise KeyboardInterrupt


def main():
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupted)
    options = arguments()
    context = Context(options)
    build(context)
    results = {"machine": machine(), "options": vars(options), "peers": {}, "cells": []}
    commands = {}
    for name in options.peers if "peers" in options.parts else []:
        title, find = PEERS[name]
        commands[name], why = find(context)
        results["peers"][name] = {"title": title, "missing": why}
        if why:
            say(f"{name} is left out: {why}")
            del commands[name]
    if "limits" in options.parts:
        say("limits of this machine")
        results["limits"] = limits(context)
    cells = results["cells"] = cells_of(options, commands)
    for repetition in range(options.repeat):
        # Peers that could not serve so many viewers; more of them would only take time.
        too_many = {}
        for index, cell in enumerate(cells):
            say(f"repetition {repetition + 1}/{options.repeat}, {index + 1}/{len(cells)}: " + table.name(cell))
            if cell["viewers"] > too_many.get(cell["who"], cell["viewers"]):
                report = {"error": f"not tried, as it failed with {too_many[cell['who']]} viewers"}
            else:
                report = measure(context, cell, commands)
            if "error" in report:
                say(report["error"])
                if cell["who"] != "distributary":
                    too_many.setdefault(cell["who"], cell["viewers"])
            cell.setdefault("runs", []).append(report)
    for cell in cells:
        summarise(cell)
    text = table.write(results)
    (context.out / "table.md").write_text(text)
    (context.out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    plots = plot.write(results, context.out)
    print(text)
    say(f"written to {context.out}: table.md, results.json, {', '.join(plots)}")
    # A peer that cannot serve so many is a result; this server failing is an error.
    return 1 if any(cell["who"] == "distributary" and len(cell["errors"]) == options.repeat for cell in cells) else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failure as error:
        sys.exit(f"bench/run: {error}")
    except KeyboardInterrupt:
        sys.exit("bench/run: interrupted")
