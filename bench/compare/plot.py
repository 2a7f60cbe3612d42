"""The results as SVG, written by hand: lines over the number of viewers, and bars."""

import math
from xml.sax.saxutils import escape

import table
from measure import ours

# Ours in blues, from no hold to the longest; peers in other colours.
COLOURS = {
    "distributary, hold off": "#9ecae1",
    "distributary, hold adaptive": "#4292c6",
    "distributary, hold frame": "#08519c",
    "str0m": "#d95f02",
    "pion": "#7570b3",
    "janus-1": "#1b9e77",
    "janus": "#66a61e",
    "livekit": "#e7298a",
}
OTHER = "#888888"
LEFT, TOP, RIGHT, BOTTOM = 70, 50, 210, 55
WIDTH, HEIGHT = 840, 440


class Drawing:
    def __init__(self, title, width=WIDTH, height=HEIGHT):
        self.parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
            'font-family="sans-serif" font-size="12">',
            '<rect width="100%" height="100%" fill="white"/>',
        ]
        self.text(LEFT, 26, title, size=15, weight="bold")

    def text(self, x, y, text, anchor="start", size=12, weight="normal", colour="#222", turn=None):
        rotation = f' transform="rotate({turn} {x:.1f} {y:.1f})"' if turn else ""
        self.parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" font-weight="{weight}" '
            f'fill="{colour}"{rotation}>{escape(text)}</text>'
        )

    def line(self, x1, y1, x2, y2, colour="#ddd", width=1.0):
        self.parts.append(
            f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" stroke-width="{width}"/>'
        )

    def add(self, part):
        self.parts.append(part)

    def save(self, path):
        path.write_text("\n".join([*self.parts, "</svg>"]) + "\n")


def logarithmic(values, start, end):
    """A scale that puts the values between two coordinates, and its ticks: 1, 2 and 5 of each power of ten."""
    least, most = min(values), max(values)
    low, high = math.log10(least) - 0.05, math.log10(most) + 0.05
    if high - low < 0.5:
        low, high = low - 0.25, high + 0.25
    ticks = [digit * 10.0**power for power in range(math.floor(low), math.ceil(high) + 1) for digit in (1, 2, 5)]
    ticks = [tick for tick in ticks if low <= math.log10(tick) <= high]
    return lambda value: start + (math.log10(value) - low) / (high - low) * (end - start), ticks


def apart(places, distance):
    """Moves labels so far apart that they can be read; the order stays."""
    result, last = {}, -math.inf
    for key, y in sorted(places.items(), key=lambda place: place[1]):
        last = max(y, last + distance)
        result[key] = last
    return result


def lines(path, title, unit, series):
    """`series`: name → [(viewers, median, least, most)]."""
    points = [point for values in series.values() for point in values]
    if not points:
        return False
    drawing = Drawing(title)
    x, _ = logarithmic([point[0] for point in points], LEFT, WIDTH - RIGHT)
    y, y_ticks = logarithmic([max(value, 1e-3) for point in points for value in point[1:]], HEIGHT - BOTTOM, TOP)
    for tick in y_ticks:
        drawing.line(LEFT, y(tick), WIDTH - RIGHT, y(tick))
        drawing.text(LEFT - 8, y(tick) + 4, f"{tick:g}", anchor="end")
    for viewers in sorted({point[0] for point in points}):
        drawing.line(x(viewers), TOP, x(viewers), HEIGHT - BOTTOM)
        drawing.text(x(viewers), HEIGHT - BOTTOM + 18, str(viewers), anchor="middle")
    drawing.text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 14, "viewers", anchor="middle")
    drawing.text(18, (TOP + HEIGHT - BOTTOM) / 2, unit, anchor="middle", turn=-90)
    labels = apart({name: y(max(sorted(values)[-1][1], 1e-3)) for name, values in series.items() if values}, 15)
    for name, values in series.items():
        if not values:
            continue
        colour, values = COLOURS.get(name, OTHER), sorted(values)
        path_points = " ".join(f"{x(viewers):.1f},{y(max(median, 1e-3)):.1f}" for viewers, median, _, _ in values)
        drawing.add(f'<polyline points="{path_points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for viewers, median, least, most in values:
            drawing.line(x(viewers), y(max(least, 1e-3)), x(viewers), y(max(most, 1e-3)), colour, 1.2)
            drawing.add(f'<circle cx="{x(viewers):.1f}" cy="{y(max(median, 1e-3)):.1f}" r="3.5" fill="{colour}"/>')
        viewers, median, _, _ = values[-1]
        drawing.line(x(viewers) + 5, y(max(median, 1e-3)), WIDTH - RIGHT + 22, labels[name], colour, 0.8)
        drawing.text(WIDTH - RIGHT + 26, labels[name] + 4, f"{name}: {median:.3g}", colour="#222")
    drawing.save(path)
    return True


SHADES = ["#bdbdbd", "#4292c6", "#9ecae1"]
ALONE = "#d95f02"


def bars(path, title, rows, legend=()):
    """`rows`: label and [(median, least, most)], one for each entry of the legend; one alone has a colour of its own."""
    values = [value for _, group in rows for value in group]
    if not values:
        return False
    most = max(max(value) for value in values) or 1
    bar, left, right = 15, 300, 70
    height = TOP + 40 + sum(len(group) * bar + 12 for _, group in rows) + 16 * len(legend)
    drawing = Drawing(title, height=height)
    y, scale = TOP + 4, (WIDTH - left - right) / most
    for label, group in rows:
        drawing.text(left - 10, y + len(group) * bar / 2 + 4, label, anchor="end", size=11)
        for shade, (median, low, high) in zip(SHADES if len(group) > 1 else [ALONE], group):
            drawing.add(f'<rect x="{left}" y="{y}" width="{median * scale:.1f}" height="{bar - 3}" fill="{shade}"/>')
            drawing.line(left + low * scale, y + 6, left + high * scale, y + 6, "#444", 1)
            drawing.text(left + max(median, high) * scale + 6, y + 10, f"{median:.3g}" if median < 100 else f"{median:.0f}", size=11)
            y += bar
        y += 12
    for shade, text in zip(SHADES, legend):
        y += 16
        drawing.add(f'<rect x="{left}" y="{y - 10}" width="12" height="12" fill="{shade}"/>')
        drawing.text(left + 18, y, text)
    drawing.save(path)
    return True


def limits(path, found, size):
    def range_of(ns):
        # 0 for a step that could not be taken.
        return ns["median"] or 0, ns["min"] or 0, ns["max"] or 0

    steps = [step["step"] for step in found["sinks"][0]["steps"]]
    rows = [(step, [range_of(sink["steps"][index]["ns"][size]) for sink in found["sinks"]]) for index, step in enumerate(steps)]
    rows += [(f"receive, {step['step']}", [range_of(step["ns"][size])]) for step in found["receive"]]
    rows.append(("AES-128-GCM, 500 keys", [range_of(found["seal_ns"][size])]))
    title = f"CPU ns for one packet of {size} bytes: median, and range"
    return bars(path, title, rows, [sink["name"] for sink in found["sinks"]])


def over_viewers(results, out):
    cells = [cell for part in ("us", "beside") for cell in results.get(part, [])]
    for value, title, unit in [
        ("cpu", "CPU time for each forwarded packet (one core, loopback, 2.5 Mb/s video and audio)", "µs, logarithmic"),
        ("p50", "Latency from publisher to viewer's socket, median", "ms, logarithmic"),
        ("p99", "Latency from publisher to viewer's socket, 99 %", "ms, logarithmic"),
    ]:
        series = {name: {} for name in COLOURS}
        for cell in cells:
            usual = not ours(cell) or (cell["workers"], cell["io"], cell["gro"]) == (1, "uring", True)
            if cell["media"] != "video" or value not in cell["values"] or not usual:
                continue
            name = f"distributary, hold {cell['hold']}" if ours(cell) else cell["who"]
            # What stands beside the peers is what is to be compared with them.
            series.setdefault(name, {})[cell["viewers"]] = (cell["viewers"], *cell["values"][value])
        if lines(out / f"{value}.svg", title, unit, {name: list(points.values()) for name, points in series.items()}):
            yield f"{value}.svg"


def write(results, out):
    """What was written."""
    written = []
    if "limits" in results:
        written += [f"limits-{size}.svg" for size in ("1200", "120") if limits(out / f"limits-{size}.svg", results["limits"], size)]
    written += over_viewers(results, out)
    rows = [
        (f"{table.server(cell)}" + (f", {cell['media']}, {cell['io']}" if ours(cell) else ""), [(cell["viewers"],) * 3])
        for cell in results.get("saturation", [])
    ]
    if bars(out / "saturation.svg", "The most viewers of one stream that one core serves well", rows):
        written.append("saturation.svg")
    rows = [
        (f"{cell['viewers']} viewers, {cell['rooms']} rooms, {table.server(cell)}", [cell["values"][v] for v in ("p50", "p99", "p999")])
        for cell in results.get("latency", [])
        if "p50" in cell["values"]
    ]
    if bars(out / "latency.svg", "Latency at half load, ms", rows, ["p50", "p99", "p99.9"]):
        written.append("latency.svg")
    return written
