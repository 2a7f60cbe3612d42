"""Tests of what needs no server: the search, what counts as served well, and the results' tables and plots."""

import tempfile
import types
import unittest
import xml.etree.ElementTree
from pathlib import Path

import capacity
import plot
import table
from measure import cell, shortcomings, summarise


def report(p99_ms=5.0, lost=0, storm=None, bottleneck=False):
    """Of the load generator, as far as it is read here."""
    latency = {"p50": 1000.0, "p99": p99_ms * 1000, "p999": p99_ms * 2000}
    return {
        "packets_expected": 100_000,
        "lost": lost,
        "latency_us": latency,
        "cpu_us_per_forwarded_packet": 1.5,
        "worker_cpu_us_per_forwarded_packet": 1.4,
        "rss_kib_per_viewer": 20.0,
        "rss_kib_per_viewer_beyond_publisher": 19.0,
        "idle_rss_kib": 10_240,
        "cpu_cores": 0.5,
        "datagrams_per_send": 2.0,
        "join_to_first_packet_ms": {"p95": 30.0},
        "generator": {"receiver_load": 0.4, "bottleneck": bottleneck},
        "machine": {"quiet": True},
        "storm": storm,
        "sink": None,
        "commit": "c0ffee",
        "srtp_profile": "AEAD_AES_128_GCM",
    }


STORM = {"to_first_packet_ms": {"p50": 10.0, "p95": 90.0, "max": 100.0}, "seconds": 2.1, "generator_cores": 0.9, "generator_limited": True}


def measured(a_cell, *reports):
    a_cell["runs"] = list(reports) or [report(), report(p99_ms=7.0)]
    summarise(a_cell)
    return a_cell


class Search(unittest.TestCase):
    def test_it_finds_the_most_wherever_it_begins(self):
        for true in (0, 1, 2, 5, 63, 64, 65, 1000):
            for start in (1, 64, 512, 5000):
                tried = []

                def passes(viewers):
                    tried.append(viewers)
                    return viewers <= true

                found = capacity.most(passes, start, 2048)
                self.assertLessEqual(found, true)
                self.assertGreaterEqual(found, min(true, true - max(1, (true + 1) / 14)), (true, start, tried))
                self.assertLessEqual(len(tried), 20)
                self.assertEqual(len(tried), len(set(tried)), "nothing is tried twice")

    def test_it_ends_at_the_ceiling(self):
        self.assertEqual(capacity.most(lambda viewers: True, 64, 1000), 1000)

    def test_a_disturbed_step_is_tried_again(self):
        """And one that nothing disturbed is not."""
        answers = {}

        def measure(_context, tried, seconds):
            runs = answers[tried["viewers"]] = answers.get(tried["viewers"], 0) + 1
            spoilt = tried["viewers"] == 128 and runs == 1
            return report(p99_ms=50 if spoilt or tried["viewers"] > 128 else 1, bottleneck=spoilt)

        original, capacity.measure = capacity.measure, measure
        try:
            context = types.SimpleNamespace(options=types.SimpleNamespace(search_seconds=1))
            found = capacity.searched(context, cell("distributary", 64), lambda _text: None)
        finally:
            capacity.measure = original
        self.assertEqual((found["viewers"], answers[128], answers[256]), (128, 2, 1))
        self.assertFalse(found["generator_limited"])


class Verdict(unittest.TestCase):
    def test_what_is_not_served_well(self):
        self.assertEqual(shortcomings(report()), [])
        self.assertEqual(shortcomings(report(p99_ms=21)), ["p99 21.0 ms"])
        self.assertEqual(shortcomings(report(lost=100)), ["0.10 % lost"])
        self.assertEqual(shortcomings(report(lost=99)), [])
        self.assertEqual(shortcomings({"error": "gone"}), ["gone"])

    def test_with_a_sink_the_worst_counts(self):
        sunk = report() | {"sink": {"forwarded_of_expected": 0.99, "refused": 0, "forwarded": 100}}
        self.assertEqual(shortcomings(sunk), ["1.00 % lost"])
        sunk["sink"] = {"forwarded_of_expected": 1.0, "refused": 5, "forwarded": 100}
        self.assertEqual(shortcomings(sunk), ["5.00 % lost"])


class Results(unittest.TestCase):
    def setUp(self):
        ours = {**cell("distributary", 800), "steps": [], "holds": True, "generator_limited": False}
        theirs = {**cell("pion", 200), "steps": [], "holds": False, "generator_limited": True}
        self.results = {
            "machine": {"cpu": "a CPU", "cores": 2, "memory_gib": 8, "kernel": "6", "commit": "x", "date": "today"},
            "options": {"repeat": 2, "seconds": 4},
            "peers": {"pion": {"title": "Pion", "missing": None}, "mediasoup": {"title": "mediasoup", "missing": "no network"}},
            "us": [measured(cell("distributary", viewers)) for viewers in (10, 100)],
            "beside": [measured(cell("pion", 100), {"error": "it <ended>"})],
            "saturation": [measured(ours), measured(theirs)],
            "scaling": [measured(cell("distributary", 400 * n, workers=n, sink=True)) for n in (1, 2)],
            "latency": [measured(cell("distributary", 400, spin=5000)), measured(cell("pion", 100))],
            "storm": [measured(cell("distributary", 100, storm=2000), report(storm=STORM))],
            "memory": [measured(cell("distributary", 2000, media="audio"))],
        }

    def test_the_table_has_all_parts(self):
        text = table.write(self.results)
        for part in (
            "| distributary, hold off | video, uring | AEAD_AES_128_GCM | 800 |",
            "200, at least: the generator ended it, did not hold when repeated",
            "hold off 4.0.",
            "| 2 | 800 | 1.50 | 0.50 | 0.00 | 2.00 |",
            "spin 5000 µs",
            "| video | 100 | 2000 | once | 10.0 | 90.0 | 100 | 2.10 | 0.90 | 0.00 | 0.50 | generator limited 1/1 |",
            "| audio | 2000 | 10.0 | 19.0 | 20.0 |",
            "mediasoup: mediasoup — **missing**: no network",
            "Failed: pion, 100 viewers, video: it <ended>",
            "6.00 (5.00–7.00)",
        ):
            self.assertIn(part, text)

    def test_plots_are_well_formed(self):
        with tempfile.TemporaryDirectory() as folder:
            written = plot.write(self.results, Path(folder))
            self.assertEqual(written, ["cpu.svg", "p50.svg", "p99.svg", "saturation.svg", "latency.svg"])
            for name in written:
                xml.etree.ElementTree.parse(Path(folder) / name)


class Cells(unittest.TestCase):
    def test_latency_is_at_half_of_what_each_can(self):
        found = [cell("distributary", 800), cell("distributary", 3000, sink=True), cell("pion", 200), cell("janus", 90)]
        cells = capacity.latency_cells(types.SimpleNamespace(given_viewers=None), found, ["pion", "janus"])
        at = {who: sorted(c["viewers"] for c in cells if c["who"] == who) for who in ("pion", "janus")}
        # Each beside the others where that is not hopeless.
        self.assertEqual(at, {"pion": [45, 100, 400], "janus": [45, 100]})
        ours = [(c["viewers"], c["rooms"], c["spin"]) for c in cells if c["who"] == "distributary"]
        self.assertEqual(len(ours), 8)
        self.assertIn((400, 40, 5000), ours)

    def test_two_workers_have_twice_as_many_viewers(self):
        found = [cell("distributary", 3000, sink=True)]
        cells = capacity.scaling_cells(types.SimpleNamespace(given_viewers=None), found)
        self.assertEqual([(c["workers"], c["viewers"]) for c in cells], [(1, 1500), (2, 3000)])

    def test_af_xdp_is_measured_behind_a_sink(self):
        self.assertTrue(cell("distributary", 1, io="xdp:ifb-sink")["sink"])


if __name__ == "__main__":
    unittest.main()
