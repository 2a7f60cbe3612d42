"""The results as Markdown."""

from measure import LOSS_MAX, P99_MS_MAX, ours

SIZES = ["1200", "120"]
CELLS = ["us", "beside", "saturation", "scaling", "latency", "storm", "memory"]


def all_cells(results):
    return [cell for part in CELLS for cell in results.get(part, [])]


def name(cell):
    """One line that says all of a cell."""
    text = f"{server(cell)}, {cell['viewers']} viewers, {cell['media']}"
    if ours(cell):
        text += f", {cell['workers']} worker" + "s" * (cell["workers"] > 1) + f", {cell['io']}"
    text += f", {cell['rooms']} rooms" if cell["rooms"] > 1 else ""
    text += f", storm of {cell['storm']} at {rate(cell)}" if cell["storm"] else ""
    return text


def server(cell):
    return f"distributary, {hold(cell)}" if ours(cell) else cell["who"]


def hold(cell):
    text = f"hold {cell['hold']}" + (f" up to {cell['max_hold']} ms" if cell["max_hold"] else "")
    text += "" if cell["gro"] else ", viewers without UDP_GRO"
    return text + (f", spin {cell['spin']} µs" if cell["spin"] else "") + (", sink" if cell["sink"] else "")


def rate(cell):
    return f"{cell['storm_rate']}/s" if cell["storm_rate"] else "once"


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
        return f"{ns['median']:.0f} ({ns['min']:.0f}–{ns['max']:.0f})" if ns["median"] is not None else "–"

    seal = [cell(found["seal_ns"][size]) for size in SIZES]
    text += f"AES-128-GCM, {found['receivers']} keys in turn, copy included: {seal[0]} for 1200 bytes, {seal[1]} for 120.\n\n"
    for index, step in enumerate(columns[0]["steps"]):
        lines.append([step["step"], *(cell(sink["steps"][index]["ns"][size]) for sink in columns for size in SIZES)])
    text += rows(["send", *(f"{sink['name']}, {size} B" for sink in columns for size in SIZES)], lines)
    text += "\n" + rows(
        ["receive on loopback, the reader's part", *(f"{size} B" for size in SIZES)],
        [[step["step"], *(cell(step["ns"][size]) for size in SIZES)] for step in found["receive"]],
    )
    for sink in found["missing"]:
        text += f"\nNot available: {sink['name']}: {sink['reason']}.\n"
    return text


def us(cells, cores):
    text = "\n## This server: one publisher, all viewers on loopback\n\n"
    order = sorted(cells, key=lambda c: (c["media"] != "video", c["workers"], c["viewers"], c["io"] != "uring", c["hold"]))
    lines = [[f"{c['media']}, {c['viewers']} viewers", c["workers"], c["io"], hold(c), *measured(c)] for c in order]
    text += rows(["media", "workers", "io", "hold", *headings()], lines)
    if any(cell["workers"] >= cores for cell in cells):
        text += "\nWith as many workers as cores the generator shares them: only the CPU time counts there, not the latency.\n"
    if any(cell["sink"] for cell in cells):
        text += "\nWith a sink nobody's receiving is billed to the server: such rows are not to be compared with the others.\n"
    return text


def beside(cells):
    text = "\n## Beside its peers: 2.5 Mb/s VP8 and Opus, loopback, one core for the server\n\n"
    no_trains = ("train",)
    order = sorted(cells, key=lambda c: (c["viewers"], not ours(c)))
    lines = [[f"{c['viewers']} viewers, {server(c)}", c["profile"] or "–", *measured(c, no_trains)] for c in order]
    return text + rows(["server", "SRTP profile", *headings(no_trains)], lines)


def found(cell):
    """The most viewers, and what is to be known of that number."""
    if not cell["viewers"]:
        return "none"
    remark = "" if cell["holds"] else ", did not hold when repeated"
    return f"{cell['viewers']}" + (", at least: the generator ended it" if cell["generator_limited"] else "") + remark


def saturation(cells):
    text = "\n## Saturation: the most viewers of one stream that one core serves well\n\n"
    text += f"Less than {LOSS_MAX} % lost and p99 up to {P99_MS_MAX} ms, found by doubling and bisecting, then repeated. "
    text += "Without \"sink\" on loopback, where the receiver's part is billed to the server.\n\n"
    columns = ["cpu", "cores", "p50", "p99", "p999", "loss", "train"]
    skip = [value for _, value in MEASURES if value not in columns]
    lines = []
    for cell in cells:
        what = cell["media"] + (f", {cell['io']}" if ours(cell) else "")
        lines.append([server(cell), what, cell["profile"] or "–", found(cell), *measured(cell, skip), spread(cell, "generator")])
    text += rows(["server", "load", "SRTP profile", "viewers", *headings(skip), "generator's core"], lines)
    best = max((c["viewers"] for c in cells if not ours(c)), default=0)
    if best:
        text += "\nViewers on one core for each of the best peer's, video on loopback: "
        loopback = [c for c in cells if ours(c) and not c["sink"] and c["media"] == "video"]
        text += "; ".join(f"{hold(c)} {c['viewers'] / best:.1f}" for c in loopback) + ".\n"
    return text


def scaling(cells):
    text = "\n## Two workers for a single stream\n\n"
    lines = []
    for one, two in zip(cells[::2], cells[1::2]):
        cost = [cell["values"].get("cpu", [None])[0] for cell in (one, two)]
        ratio = f"{2 * cost[0] / cost[1]:.2f}" if all(cost) else "–"
        for cell, times in ((one, ""), (two, ratio)):
            lines.append([cell["workers"], cell["viewers"], spread(cell, "cpu"), spread(cell, "cores"), spread(cell, "loss"), times, marks(cell)])
    text += rows(["workers", "viewers", "CPU µs/packet", "server cores", "lost %", "× one worker's viewers", "marks"], lines)
    return text + "\nBy CPU time for each packet with as many viewers for each worker: the generator shares the workers' cores.\n"


def latency(cells):
    text = "\n## Latency at half load: from the publisher's send to the viewer's socket, no hold, loopback\n\n"
    text += "The numbers of viewers are half of what this server, and each of its peers, was found to serve well, or as given.\n\n"
    columns = ["p50", "p99", "p999", "loss", "cores"]
    skip = [value for _, value in MEASURES if value not in columns]
    order = sorted(cells, key=lambda c: (c["viewers"], c["rooms"], not ours(c)))
    lines = [[c["viewers"], c["rooms"], server(c), *measured(c, skip)] for c in order]
    return text + rows(["viewers", "rooms", "server", *headings(skip)], lines)


def storm(cells):
    text = "\n## A storm of joins: from the request to the first packet, while others watch\n\n"
    columns = ["storm_p50", "storm_p95", "storm_max", "storm_seconds", "storm_generator", "loss", "cores"]
    lines = [
        [c["media"], c["viewers"], c["storm"], rate(c), *(spread(c, value) for value in columns), marks(c)] for c in cells
    ]
    headings = ["media", "watching", "joining", "asked at", "p50 ms", "p95 ms", "most ms", "took s", "generator's cores"]
    text += rows([*headings, "lost % by those who watch", "server cores", "marks"], lines)
    return text + "\nThe generator does as many handshakes as the server; the mark says where its own core was what limited.\n"


def memory(cells):
    text = "\n## Memory\n\n"
    columns = ["idle_mib", "rss_beyond_publisher", "rss"]
    lines = [[c["media"], c["viewers"], *(spread(c, value) for value in columns), marks(c)] for c in cells]
    headings = ["media", "viewers", "idle MiB", "KiB/viewer beyond the server with its publisher", "KiB/viewer beyond the idle server"]
    return text + rows([*headings, "marks"], lines)


def write(results):
    about, options = results["machine"], results["options"]
    text = "# What a packet costs here\n\n"
    text += f"{about['cpu']}, {about['cores']} cores, {about['memory_gib']} GiB, Linux {about['kernel']}; "
    # The server says itself what it was built from; a program given by --binaries may be older than the sources.
    commits = {cell["commit"] for cell in all_cells(results)} - {None}
    text += f"commit {' '.join(sorted(commits)) or about['commit']}; {about['date']}.\n"
    text += f"Median (least–most) of {options['repeat']} runs of {options['seconds']} s. Latency is from the publisher's send to the "
    text += "viewer's socket. On loopback the receiver's part is billed to the server.\n\n"
    if "limits" in results:
        text += limits(results["limits"])
    if results.get("us"):
        text += us(results["us"], about["cores"])
    for part, write_part in [
        ("beside", beside),
        ("saturation", saturation),
        ("scaling", scaling),
        ("latency", latency),
        ("storm", storm),
        ("memory", memory),
    ]:
        if results.get(part):
            text += write_part(results[part])
    if results["peers"]:
        text += "\n## The peers\n\n"
    for peer, what in results["peers"].items():
        text += f"- {peer}: {what['title']}" + (f" — **missing**: {what['missing']}" if what["missing"] else "") + "\n"
    for cell in all_cells(results):
        text += "".join(f"\nFailed: {name(cell)}: {error}\n" for error in cell["errors"])
    return text
