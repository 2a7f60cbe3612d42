"""Builds, starts and measures: the limits of this machine, this server, and its peers; writes a table, JSON and plots.

Every repetition goes through all cells in turn, peers among them, so that a disturbance meets all alike. Nothing is dropped
from the results: runs that a busy machine or a busy generator spoilt are counted in the table.
"""

import argparse
import datetime
import json
import os
import platform
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path

import capacity
import plot
import table
from measure import awake, cell, measure, ours, summarise
from peers import PEERS
from programs import Failure, bound_to, run

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
HOLDS = ["off", "adaptive", "frame"]
PARTS = ["limits", "us", "peers", "saturation", "latency", "storm", "memory"]
QUICK_PARTS = ["limits", "us", "peers"]
# Frees what is sent to viewers; see src/sink.rs.
XDP = "xdp:ifb-sink"


# ---- Measuring -----------------------------------------------------------------------------------------------------------------


class Context:
    """What measuring needs to know."""

    def __init__(self, options):
        self.options = options
        # How to start each peer that is to be had.
        self.commands = {}
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


def backends(context):
    """Those of this machine: AF_XDP where the server was built with it, and may be used."""
    told = run([str(context.binaries / "distributary"), "serve", "--help"], "distributary")
    return ["uring", "mmsg"] + ([XDP] if "xdp" in told and os.geteuid() == 0 else [])


def allow_many_files():
    """A viewer is a socket."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def say(text):
    print(f"bench: {text}", file=sys.stderr, flush=True)


def our_cells(options):
    """This server: viewers, workers, backends and media without a hold; and the holds on one worker."""
    if options.quick:
        most, least = options.viewers[-1], options.viewers[0]
        cells = [cell("distributary", most, hold=hold) for hold in HOLDS]
        cells += [cell("distributary", most, io=io) for io in options.backends if io != "uring"]
        return [*cells, cell("distributary", most, media="audio"), *([cell("distributary", least)] if least < most else [])]
    cells = []
    for viewers in options.viewers:
        for media in ("video", "audio"):
            for workers in (1, 2):
                cells += [cell("distributary", viewers, media=media, workers=workers, io=io) for io in options.backends]
            cells += [cell("distributary", viewers, media=media, hold=hold) for hold in HOLDS if hold != "off"]
    return cells


def peer_cells(options, peers):
    cells = []
    for viewers in options.peer_viewers:
        cells += [awake("distributary", viewers, hold=hold) for hold in HOLDS]
        # What trains are worth when the viewers' kernel takes them apart, as most viewers' would.
        cells += [awake("distributary", viewers, hold="frame", gro=False)]
        cells += [awake(peer, viewers) for peer in peers]
    return cells


def run_all(context, what, cells):
    """Every repetition goes through all cells in turn."""
    options = context.options
    for repetition in range(options.repeat):
        # Peers that could not serve so many viewers; more of them would only take time.
        too_many = {}
        for index, cell in enumerate(cells):
            say(f"{what}, repetition {repetition + 1}/{options.repeat}, {index + 1}/{len(cells)}: {table.name(cell)}")
            if cell["viewers"] > too_many.get(cell["who"], cell["viewers"]):
                report = {"error": f"not tried, as it failed with {too_many[cell['who']]} viewers"}
            else:
                report = measure(context, cell)
            if "error" in report:
                say(report["error"])
                if not ours(cell):
                    too_many.setdefault(cell["who"], cell["viewers"])
            cell.setdefault("runs", []).append(report)
    for cell in cells:
        summarise(cell)
    return cells


def limits(context):
    rounds = 5 if context.options.quick else 15
    return json.loads(run([str(context.binaries / "limits"), "--rounds", str(rounds), "--core", str(context.cores[0])], "limits"))


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
            there_are = f"; there are: {', '.join(allowed)}" if allowed else ""
            raise argparse.ArgumentTypeError(f"{', '.join(wrong) or 'nothing'} given{there_are}")
        return items

    return parse


def backend_names(text):
    names = listed()(text)
    if wrong := [name for name in names if not re.fullmatch(r"uring|mmsg|xdp:\S+", name)]:
        raise argparse.ArgumentTypeError(f"{', '.join(wrong)} given; there are: uring, mmsg, xdp:INTERFACE")
    return names


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
        epilog="limits: what the machine can do at all. us: this server. peers: others beside it. saturation: the most viewers that "
        "one core serves well. latency: at half of that. storm: 2,000 who join at once. memory: of 2,000 viewers. A full run takes "
        "four hours or so; --quick takes about three minutes. How it is done, and what is fair about it, stands in bench/README.md.",
    )
    parser.add_argument("--quick", action="store_true", help="few cells, few seconds, two repetitions")
    parser.add_argument("--parts", type=listed(PARTS), help=f"of {','.join(PARTS)}; default: all, with --quick {','.join(QUICK_PARTS)}")
    parser.add_argument("--peers", type=listed(list(PEERS)), default=list(PEERS), help="default: all that can be had")
    defaults = "10,100,500,1000,2000, and beside peers 10,100,200,500; with --quick 10,100 and 100"
    parser.add_argument("--viewers", type=numbers, help=f"default: {defaults}; latency alone, without saturation, needs it")
    known = f"I/O backends of this server; default: uring,mmsg and, where it can, {XDP}"
    parser.add_argument("--backends", type=backend_names, metavar="LIST", help=known)
    parser.add_argument("--seconds", type=positive, help="length of a run's measurement; default: 15, with --quick 4")
    searching = "the same for a step of the search for saturation; default: 6, with --quick 3"
    parser.add_argument("--search-seconds", type=positive, metavar="SECONDS", help=searching)
    parser.add_argument("--repeat", type=positive, help="runs of each cell; default: 3, with --quick 2")
    parser.add_argument("--out", default=str(ROOT / "bench" / "out"), help="folder for the results; default: bench/out")
    parser.add_argument("--binaries", metavar="DIR", help="programs that are built already; nothing is built then")
    options = parser.parse_args()
    options.parts = options.parts or (QUICK_PARTS if options.quick else PARTS)
    options.given_viewers = options.viewers
    if "latency" in options.parts and "saturation" not in options.parts and not options.viewers:
        parser.error("--parts latency is at half of saturation: measure that too, or say how many --viewers")
    # Most peers cannot serve 500 on one core; 200 shows them near their end.
    options.peer_viewers = options.viewers or ([100] if options.quick else [10, 100, 200, 500])
    options.viewers = options.viewers or ([10, 100] if options.quick else [10, 100, 500, 1000, 2000])
    options.seconds = options.seconds or (4 if options.quick else 15)
    options.search_seconds = options.search_seconds or (3 if options.quick else 6)
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
    allow_many_files()
    context = Context(options)
    build(context)
    options.backends = options.backends or backends(context)
    results = {"machine": machine(), "options": vars(options), "peers": {}}
    for name in options.peers if {"peers", "saturation", "latency"} & set(options.parts) else []:
        title, find = PEERS[name]
        command, why = find(context)
        results["peers"][name] = {"title": title, "missing": why}
        if why:
            say(f"{name} is left out: {why}")
        else:
            context.commands[name] = command
    peers = list(context.commands)
    def part(name, measured):
        """Written at once: what comes later may be interrupted."""
        results[name] = measured
        (context.out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
        return measured

    found = []
    if "limits" in options.parts:
        say("limits of this machine")
        part("limits", limits(context))
    if "us" in options.parts:
        part("us", run_all(context, "us", our_cells(options)))
    if "peers" in options.parts:
        part("beside", run_all(context, "peers", peer_cells(options, peers)))
    if "saturation" in options.parts:
        found = part("saturation", capacity.saturation(context, peers, say, table.name))
        part("scaling", run_all(context, "workers", capacity.scaling_cells(options, found)))
    if "latency" in options.parts:
        part("latency", run_all(context, "latency", capacity.latency_cells(options, found, peers)))
    if "storm" in options.parts:
        part("storm", run_all(context, "storm", capacity.storm_cells(options)))
    if "memory" in options.parts:
        part("memory", run_all(context, "memory", capacity.memory_cells(options)))
    text = table.write(results)
    (context.out / "table.md").write_text(text)
    plots = plot.write(results, context.out)
    print(text)
    say(f"written to {context.out}: {', '.join(['table.md', 'results.json', *plots])}")
    # A peer that cannot serve so many is a result; this server failing is an error.
    return 1 if any(ours(cell) and len(cell["errors"]) == options.repeat for cell in table.all_cells(results)) else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failure as error:
        sys.exit(f"bench/run: {error}")
    except KeyboardInterrupt:
        sys.exit("bench/run: interrupted")
