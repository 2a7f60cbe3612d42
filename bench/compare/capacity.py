"""The most viewers that one core serves well, and what it is like at half of that."""

import statistics

from measure import LOSS_MAX, P99_MS_MAX, awake, cell, limited, measure, ours, shortcomings, summarise, values

# Where the search ends: below this part of the viewers there is more noise than difference.
STEP = 1 / 16
VIEWERS_MAX = 16_384
# How often a result that did not hold when it was repeated is lowered by a step.
LOWERED_MAX = 4
# A publisher spreads a frame over 13 ms. With half of one in a send a packet costs a sixth less than without a hold, and p99 is
# nearly the same when a worker is busy.
SHORT_HOLD_MS = 5
# Beyond so many times its saturation a server is not asked.
HOPELESS = 2
ROOM_VIEWERS = 10
SPIN_US = 5000


def most(passes, start, ceiling, step=STEP):
    """The most that was seen to pass: doubles from `start` until it does not, then bisects. 0 if 1 does not."""
    good, bad, next_one = 0, None, min(start, ceiling)
    while bad is None or bad - good > max(1, step * bad):
        if passes(next_one):
            good = next_one
            if good == ceiling:
                break
        else:
            bad = next_one
        next_one = min(2 * good, ceiling) if bad is None else (good + bad) // 2
    return good


def searched(context, candidate, say):
    """A cell with the most viewers that it serves well, and the steps on the way there."""
    options, steps = context.options, []

    def passes(viewers):
        tried = {**candidate, "viewers": viewers}
        for attempt in (1, 2):
            report = measure(context, tried, seconds=options.search_seconds)
            reasons, failed = shortcomings(report), "error" in report
            generator = not failed and limited(report)
            # Of a run that failed it is not known what it was.
            disturbed = failed or generator or not report["machine"]["quiet"]
            figures = {} if failed else values(report)
            steps.append({"viewers": viewers, "reasons": reasons, "generator_limited": generator, "disturbed": disturbed, **figures})
            say(f"{viewers} viewers: {', '.join(reasons) or 'well'}" + (", generator limited" if generator else ""))
            # What a disturbance may have spoilt gets a second chance.
            if not reasons or not disturbed or attempt == 2:
                return not reasons

    start = candidate["viewers"]
    found = {**candidate, "viewers": most(passes, start, VIEWERS_MAX), "steps": steps}
    # The generator ended the search if it was the bottleneck wherever it failed.
    failing = [step for step in steps if step["reasons"]]
    found["generator_limited"] = bool(failing) and all(step["generator_limited"] for step in failing)
    return found


def candidates(options, peers):
    """What is searched, each with where to begin."""
    # Who gives a worker a core of its own may let it look for packets without a pause.
    on_loopback = [awake("distributary", 512), awake("distributary", 512, spin=SPIN_US)]
    short = awake("distributary", 1024, hold="frame", max_hold=SHORT_HOLD_MS, sink=True)
    if options.quick:
        return [*on_loopback, awake("distributary", 1024, sink=True), short, *(awake(peer, 64) for peer in peers)]
    us = [
        *on_loopback,
        awake("distributary", 512, hold="adaptive"),
        *(awake("distributary", 1024, hold=hold, sink=True) for hold in ("off", "adaptive", "frame")),
        short,
        awake("distributary", 4096, media="audio", sink=True),
    ]
    for io in options.backends:
        if io != "uring":
            us.append(awake("distributary", 512, io=io, sink=True))
            us.append(awake("distributary", 2048, io=io, media="audio", sink=True))
    return us + [awake(peer, 64) for peer in peers]


def holds(found):
    """Whether the median of the repetitions is still good."""
    reports = [report for report in found["runs"] if "error" not in report]
    if len(reports) <= len(found["runs"]) // 2:
        return False
    median = {name: statistics.median(values(report)[name] for report in reports) for name in ("loss", "p99")}
    return median["loss"] < LOSS_MAX and median["p99"] <= P99_MS_MAX


def saturation(context, peers, say, describe):
    """Searches, then repeats what was found, all in turn, and lowers what does not hold."""
    results = []
    for number, candidate in enumerate(wanted := candidates(context.options, peers), 1):
        say(f"saturation {number}/{len(wanted)}: {describe(candidate)}")
        results.append(searched(context, candidate, say))
    pending = [found for found in results if found["viewers"] > 0]
    for lowering in range(LOWERED_MAX + 1):
        for found in pending:
            found["runs"] = []
        for repetition in range(context.options.repeat):
            for found in pending:
                say(f"saturation, repetition {repetition + 1}/{context.options.repeat}: {describe(found)}")
                found["runs"].append(measure(context, found))
        pending = [found for found in pending if not holds(found)]
        if lowering < LOWERED_MAX:
            for found in pending:
                found["viewers"] = max(1, int(found["viewers"] * (1 - STEP)))
    for found in results:
        found["holds"] = found not in pending
        found.setdefault("runs", [])
        summarise(found)
    return results


def scaling_cells(options, found):
    """Two workers with as many viewers for each as one has: half of what one can, as the generator shares their cores."""
    one = next((f["viewers"] for f in found if ours(f) and f["sink"] and f["hold"] == "off" and f["media"] == "video"), 0)
    halves = {viewers // 2 for viewers in ([one] if one > 1 else options.given_viewers or [])} - {0}
    return [cell("distributary", half * workers, workers=workers, sink=True) for half in sorted(halves) for workers in (1, 2)]


def latency_cells(options, found, peers):
    """This server at half of what it can, and beside each peer at half of what that can."""
    def half_of(who):
        return next((f["viewers"] // 2 for f in found if f["who"] == who and not f["sink"] and f["hold"] == "off"), 0)

    halves = {who: half_of(who) for who in ("distributary", *peers)}
    cells = []
    for viewers in sorted(set(halves.values()) - {0} | set([] if found else options.given_viewers or [])):
        cells += [awake("distributary", viewers, spin=spin) for spin in (0, SPIN_US)]
        rooms = -(-viewers // ROOM_VIEWERS)
        if viewers == halves["distributary"] or not found:
            cells += [awake("distributary", viewers, spin=spin, rooms=rooms) for spin in (0, SPIN_US)]
        cells += [awake(peer, viewers) for peer in peers if not found or viewers <= HOPELESS * 2 * halves[peer]]
    return cells


def storm_cells(_options):
    """How long it takes 2,000 to join, and whether 100 who watch notice."""
    storms = [(media, rate) for media in ("audio", "video") for rate in (1000, 0)]
    return [awake("distributary", 100, media=media, storm=2000, storm_rate=rate) for media, rate in storms]


def memory_cells(_options):
    """Of 2,000 viewers; with video behind a sink, as otherwise their number would be too much for the generator."""
    return [cell("distributary", 2000, media="audio"), cell("distributary", 2000, sink=True)]
