"""One run of the load generator, and what several runs of the same say."""

import json
import os
import statistics
import subprocess

from programs import Failure, Server, run

# A viewer's picture and sound are good: less loss than this in per cent, and 99 % of the packets not later than this.
LOSS_MAX = 0.1
P99_MS_MAX = 20
JOIN_SECONDS_MAX = 45
# So many viewers that the rest of them is no matter.
SAMPLED_ENOUGH = 32

# What a cell is, if it does not say otherwise. The first three are the peers' too.
DEFAULTS = {
    "media": "video",
    "gro": True,
    "rooms": 1,
    "hold": "off",
    # Milliseconds that the hold waits at most. 0: as the server does by itself.
    "max_hold": 0,
    "io": "uring",
    "workers": 1,
    "sink": False,
    "spin": 0,
    "storm": 0,
    "storm_rate": 0,
    # Whether the generator keeps the cores from sleeping.
    "awake": False,
}


def cell(who, viewers, **what):
    """What to measure."""
    assert what.keys() <= DEFAULTS.keys(), what
    made = {"who": who, "viewers": viewers, **DEFAULTS, **what}
    # AF_XDP has nothing to do on loopback.
    made["sink"] = made["sink"] or made["io"].startswith("xdp:")
    return made


def awake(who, viewers, **what):
    """A cell beside others', or of which the time to a packet matters: the cores are kept from sleeping."""
    return cell(who, viewers, awake=True, **what)


def ours(cell):
    return cell["who"] == "distributary"


def measure(context, cell, seconds=None):
    """One run of the load generator; its report, or what went wrong."""
    options = context.options
    seconds = seconds or options.seconds
    command = [str(context.binaries / "loadgen"), "run", "--viewers", str(cell["viewers"]), "--seconds", str(seconds)]
    command += ["--settle", "1" if options.quick else "3", "--join-seconds-max", str(JOIN_SECONDS_MAX)]
    command += ["--audio", "only" if cell["media"] == "audio" else "on", "--rooms", str(cell["rooms"])]
    command += [] if cell["gro"] else ["--no-gro"]
    command += ["--awake"] if cell["awake"] else []
    command += ["--storm", str(cell["storm"]), "--storm-rate", str(cell["storm_rate"])] if cell["storm"] else []
    # The sample goes over the veth pair, which costs the server more than the sink does: not more of it than needed.
    sample = max(16, cell["viewers"] // SAMPLED_ENOUGH) if cell["sink"] else 16
    # The defaults that one would want to see written down.
    command += ["--bitrate", "2500000", "--pacing", "2.5", "--sample", str(sample)]
    environment, server = dict(os.environ), None
    with open(context.out / "servers.log", "ab") as log:
        try:
            if ours(cell):
                environment |= {"DISTRIBUTARY_MEDIA_HOLD": cell["hold"], "DISTRIBUTARY_MEDIA_SPIN_US": str(cell["spin"])}
                command += ["--server-binary", str(context.binaries / "distributary"), "--io", cell["io"]]
                command += ["--workers", str(cell["workers"])]
                command += ["--server-cores", ",".join(map(str, context.cores[: cell["workers"]]))]
                command += ["--sink"] if cell["sink"] else []
                command += [f"--server-argument=--max-hold-ms={cell['max_hold']}"] if cell["max_hold"] else []
            else:
                server = Server(context.commands[cell["who"]], context.cores[0], log)
                command += ["--url", server.url, "--server-pid", str(server.pid)]
                others = context.cores[1:] or context.cores
                command += ["--cores", ",".join(map(str, others))]
            return json.loads(run(command, "loadgen", env=environment, timeout=seconds + 240))
        except (Failure, subprocess.TimeoutExpired, json.JSONDecodeError) as error:
            return {"error": str(error)}
        finally:
            if server:
                server.stop()


def loss(report):
    """Per cent. With a sink: the worse of what the sample misses, what the server did not forward, and what its kernel refused."""
    shares = [report["lost"] / max(report["packets_expected"], 1)]
    if sink := report.get("sink"):
        shares += [1 - sink["forwarded_of_expected"], sink["refused"] / max(sink["forwarded"], 1)]
    return 100 * max(shares)


PICKS = {
    "cpu": lambda r: r["cpu_us_per_forwarded_packet"],
    "worker_cpu": lambda r: r["worker_cpu_us_per_forwarded_packet"],
    "p50": lambda r: r["latency_us"]["p50"] / 1e3,
    "p99": lambda r: r["latency_us"]["p99"] / 1e3,
    "p999": lambda r: r["latency_us"]["p999"] / 1e3,
    "loss": loss,
    "rss": lambda r: r["rss_kib_per_viewer"],
    "rss_beyond_publisher": lambda r: r["rss_kib_per_viewer_beyond_publisher"],
    "idle_mib": lambda r: r["idle_rss_kib"] and r["idle_rss_kib"] / 1024,
    "cores": lambda r: r["cpu_cores"],
    "train": lambda r: r["datagrams_per_send"],
    "join": lambda r: r["join_to_first_packet_ms"]["p95"],
    "generator": lambda r: r["generator"]["receiver_load"],
    "storm_p50": lambda r: r["storm"] and r["storm"]["to_first_packet_ms"]["p50"],
    "storm_p95": lambda r: r["storm"] and r["storm"]["to_first_packet_ms"]["p95"],
    "storm_max": lambda r: r["storm"] and r["storm"]["to_first_packet_ms"]["max"],
    "storm_seconds": lambda r: r["storm"] and r["storm"]["seconds"],
    "storm_generator": lambda r: r["storm"] and r["storm"]["generator_cores"],
}


def values(report):
    """The figures of a report that tables and plots show, without those that it does not have."""
    picked = {name: pick(report) for name, pick in PICKS.items()}
    return {name: value for name, value in picked.items() if value is not None}


def shortcomings(report):
    """Why this was too much for the server; nothing if it was not."""
    if "error" in report:
        return [report["error"]]
    found, reasons = values(report), []
    if found["loss"] >= LOSS_MAX:
        reasons.append(f"{found['loss']:.2f} % lost")
    if found["p99"] > P99_MS_MAX:
        reasons.append(f"p99 {found['p99']:.1f} ms")
    return reasons


def limited(report):
    """The generator was the bottleneck, while viewers joined in a storm if there was one."""
    return report["generator"]["bottleneck"] or bool(report["storm"] and report["storm"]["generator_limited"])


def summarise(cell):
    """Median, least and most of the runs' figures."""
    reports = [report for report in cell["runs"] if "error" not in report]
    cell["errors"] = [report["error"] for report in cell["runs"] if "error" in report]
    cell["busy"] = sum(not report["machine"]["quiet"] for report in reports)
    cell["limited"] = sum(map(limited, reports))
    cell["commit"] = next((report["commit"] for report in reports), None)
    cell["profile"] = next((report["srtp_profile"] for report in reports), None)
    cell["values"] = {}
    for name in PICKS:
        figures = [found[name] for found in map(values, reports) if name in found]
        if figures:
            cell["values"][name] = [statistics.median(figures), min(figures), max(figures)]
