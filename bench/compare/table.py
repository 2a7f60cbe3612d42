"""The results as Markdown."""

SIZES = ["1200", "120"]


def name(cell):
    if cell["who"] != "distributary":
        return f"{cell['who']}, {cell['viewers']} viewers"
    workers = f"{cell['workers']} worker" + "s" * (cell["workers"] > 1)
    return f"distributary, {cell['viewers']} viewers, {cell['media']}, {workers}, {cell['io']}, {hold(cell)}"


def hold(cell):
    return f"hold {cell['hold']}" + ("" if cell["gro"] else ", viewers without UDP_GRO")


def rows(header, lines):
    rule = ["---" if column < 1 else "--:" for column in range(len(header))]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in [header, rule, *lines]) + "\n"


def digits(value):
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def spread(cell, value):
    """Median, and the range if there was more than one run."""
    if value not in cell["values"]:
        return "–"
    median, least, most = cell["values"][value]
    return digits(median) if least == most else f"{digits(median)} ({digits(least)}–{digits(most)})"


def marks(cell):
    runs = len(cell["runs"])
    texts = [(cell["busy"], "machine busy"), (cell["limited"], "generator limited"), (len(cell["errors"]), "failed")]
    return ", ".join(f"{text} {count}/{runs}" for count, text in texts if count)


MEASURES = [
    ("CPU µs/packet", "cpu"),
    ("server cores", "cores"),
    ("p50 ms", "p50"),
    ("p99 ms", "p99"),
    ("p99.9 ms", "p999"),
    ("lost %", "loss"),
    ("packets/send", "train"),
    ("KiB/viewer", "rss"),
    ("join p95 ms", "join"),
]


def measured(cell, leave_out=()):
    return [spread(cell, value) for _, value in MEASURES if value not in leave_out] + [marks(cell)]


def headings(leave_out=()):
    return [title for title, value in MEASURES if value not in leave_out] + ["marks"]


def limits(found):
    text = f"## Limits of this machine: ns of CPU per packet, median (range) of {found['rounds']} interleaved rounds\n\n"
    columns = found["sinks"]
    lines = []

    def cell(ns):
        return f"{ns['median']:.0f} ({ns['min']:.0f}–{ns['max']:.0f})"

    seal = [cell(found["seal_ns"][size]) for size in SIZES]
    text += f"AES-128-GCM, {found['receivers']} keys in turn, copy included: {seal[0]} for 1200 bytes, {seal[1]} for 120.\n\n"
    for index, step in enumerate(columns[0]["steps"]):
        lines.append([step["step"], *(cell(sink["steps"][index]["ns"][size]) for sink in columns for size in SIZES)])
    text += rows(["send", *(f"{sink['name']}, {size} B" for sink in columns for size in SIZES)], lines)
    for sink in found["missing"]:
        text += f"\nNot available: {sink['name']}: {sink['reason']}.\n"
    return text


def us(cells, cores):
    text = "\n## This server: one publisher, all viewers on loopback\n\n"
    order = sorted(cells, key=lambda c: (c["media"] != "video", c["workers"], c["viewers"], c["io"] != "uring", c["hold"]))
    lines = [[f"{c['media']}, {c['viewers']} viewers", c["workers"], c["io"], c["hold"], *measured(c)] for c in order if c["gro"]]
    text += rows(["media", "workers", "io", "hold", *headings()], lines)
    if any(cell["workers"] >= cores for cell in cells):
        text += "\nWith as many workers as cores the generator shares them: only the CPU time counts there, not the latency.\n"
    return text


def peers(results):
    cells = [c for c in results["cells"] if c["media"] == "video"]
    ours = [c for c in cells if c["who"] == "distributary" and (c["workers"], c["io"]) == (1, "uring")]
    theirs = [c for c in cells if c["who"] != "distributary"]
    viewers = {c["viewers"] for c in theirs}
    text = "\n## Beside its peers: 2.5 Mb/s VP8 and Opus, loopback, one core for the server\n\n"
    no_trains = ("train",)
    lines = []
    for cell in sorted([c for c in ours if c["viewers"] in viewers] + theirs, key=lambda c: c["viewers"]):
        who = f"distributary, {hold(cell)}" if cell["who"] == "distributary" else cell["who"]
        lines.append([f"{cell['viewers']} viewers, {who}", cell["profile"] or "–", *measured(cell, no_trains)])
    text += rows(["server", "SRTP profile", *headings(no_trains)], lines) + "\n"
    for peer, about in results["peers"].items():
        text += f"- {peer}: {about['title']}" + (f" — **missing**: {about['missing']}" if about["missing"] else "") + "\n"
    return text


def write(results):
    about, options = results["machine"], results["options"]
    text = "# What a packet costs here\n\n"
    text += f"{about['cpu']}, {about['cores']} cores, {about['memory_gib']} GiB, Linux {about['kernel']}; "
    # The server says itself what it was built from; a program given by --binaries may be older than the sources.
    commits = {cell["commit"] for cell in results["cells"]} - {None}
    text += f"commit {' '.join(sorted(commits)) or about['commit']}; {about['date']}.\n"
    text += f"Median (least–most) of {options['repeat']} runs of {options['seconds']} s. Latency is from the publisher's send to the "
    text += "viewer's socket. On loopback the receiver's part is billed to the server.\n\n"
    if "limits" in results:
        text += limits(results["limits"])
    ours = [cell for cell in results["cells"] if cell["who"] == "distributary"]
    if "us" in options["parts"] and ours:
        text += us(ours, about["cores"])
    if results["peers"]:
        text += peers(results)
    for cell in results["cells"]:
        text += "".join(f"\nFailed: {name(cell)}: {error}\n" for error in cell["errors"])
    return text
