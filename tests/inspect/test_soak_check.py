"""What scripts/soak-check takes for flat, and what not."""

import importlib.machinery
import importlib.util
import json
import pathlib
import unittest

PATH = pathlib.Path(__file__).parents[2] / "scripts" / "soak-check"
LOADER = importlib.machinery.SourceFileLoader("soak_check", str(PATH))
SPEC = importlib.util.spec_from_loader("soak_check", LOADER)
soak_check = importlib.util.module_from_spec(SPEC)
LOADER.exec_module(soak_check)


def interval(p99=2000, count=100, errors=None, missing=0):
    """As `annals bench mixed --json` prints it, but for what is not looked at."""
    latency = {"count": count, "p50": p99 // 2, "p99": p99} if count else None
    parts = {kind: {"events": count, "latency_us": latency, "errors": {}} for kind in soak_check.KINDS}
    parts["read"]["errors"] = errors or {}
    return {"kind": "interval", **parts, "verified": {"missing": missing, "repeated": 0, "wrong_answers": 0}}


class SoakCheck(unittest.TestCase):
    def wrong(self, load, memory):
        return soak_check.judge(load, memory)[1]

    def test_flat_is_flat_and_the_warm_up_does_not_count(self):
        load = [interval(p99=50_000, count=5)] * 3 + [interval()] * 6
        self.assertEqual(self.wrong(load, [10] * 3 + [100] * 6), [])

    def test_memory_may_grow_by_a_tenth(self):
        load = [interval()] * 9
        self.assertEqual(self.wrong(load, [100] * 6 + [110] * 3), [])
        self.assertEqual(self.wrong(load, [100] * 6 + [111] * 3), ["memory: 100 KiB, then 111 KiB (1.11)"])
        # One peak is no growth.
        self.assertEqual(self.wrong(load, [100] * 8 + [1000]), [])

    def test_latency_may_grow_by_half_or_a_millisecond(self):
        memory = [100] * 9
        for before, after, flat in [(4000, 6000, True), (4000, 6001, False), (100, 1100, True), (100, 1101, False)]:
            load = [interval(p99=before)] * 6 + [interval(p99=after)] * 3
            self.assertEqual(not self.wrong(load, memory), flat, (before, after))

    def test_a_load_that_stalls_is_not_flat(self):
        load = [interval()] * 6 + [interval(count=49)] * 3
        self.assertEqual(len(self.wrong(load, [100] * 9)), 3)
        load = [interval()] * 8 + [interval(count=0)]
        self.assertEqual(self.wrong(load, [100] * 9), [])

    def test_errors_and_missing_events_count_anywhere(self):
        load = [interval(errors={"UNAVAILABLE": 2, "OUT_OF_RANGE": 5}), *[interval()] * 7, interval(missing=3)]
        expected = ["interval 1: 2 UNAVAILABLE", "interval 9: 3 missing"]
        self.assertEqual(self.wrong(load, [100] * 9), expected)

    def test_too_little_is_no_verdict(self):
        with self.assertRaises(soak_check.TooLittle):
            soak_check.judge([interval()] * 5, [100] * 9)
        with self.assertRaises(soak_check.TooLittle):
            soak_check.judge([interval()] * 9, [100] * 5)
        with self.assertRaises(soak_check.TooLittle):
            soak_check.judge([], [100] * 9)

    def test_the_total_is_no_interval(self):
        lines = [json.dumps(it) for it in [interval(), {"kind": "total"}]]
        self.assertEqual(soak_check.intervals([*lines, "\n"]), [interval()])


if __name__ == "__main__":
    unittest.main()
