"""What `benchmarks.fidelity` makes of its records, against records whose rungs are known to tell all or nothing."""

import pytest

from benchmarks import fidelity


def record(number, final, at_rung):
    """Ten seconds of full training in two epochs; a tenth, three tenths on the shares."""
    full = [
        {"value": final - 0.1, "seconds": 6.0},
        {"value": final, "seconds": 10.0},
        {"value": number / 100, "seconds": 10.0},
    ]
    shares = {
        share: [{"value": at_rung, "seconds": seconds}, {"value": at_rung, "seconds": 2 * seconds}]
        for share, seconds in (("1/9", 1.0), ("1/3", 3.0))
    }
    return {"dataset": "d", "model": "M", "number": number, "rows": 9, "full": full, "shares": shares}


FINALS = [0.50, 0.61, 0.55, 0.72, 0.58, 0.66, 0.53, 0.59, 0.60]
TELLING = [record(n, value, value / 2) for n, value in enumerate(FINALS)]
MISLEADING = [record(n, value, -value) for n, value in enumerate(FINALS)]


def test_a_rung_has_its_rank_correlation_its_survivors_and_its_cost():
    rows = {name: rest for name, *rest in fidelity.rung_rows(TELLING)}
    assert rows["1/9 x 1"] == pytest.approx([1.0, 3, 0.1])
    assert rows["1/3 x 2"] == pytest.approx([1.0, 3, 0.6])
    assert rows["all x 1"] == pytest.approx([1.0, 3, 0.6])
    rows = {name: rest for name, *rest in fidelity.rung_rows(MISLEADING)}
    assert rows["1/9 x 1"] == pytest.approx([-1.0, 0, 0.1])


def test_random_search_gains_by_a_rung_that_tells_and_loses_by_one_that_misleads(monkeypatch):
    monkeypatch.setattr(fidelity, "DRAWS", 100)
    plain = fidelity.random_search(TELLING, (), 6, draws=300)
    assert fidelity.random_search(TELLING, ("1/9 x 1",), 6, draws=300) > plain
    assert fidelity.random_search(MISLEADING, ("1/9 x 1",), 6, draws=300) < plain
    assert fidelity.random_search(TELLING, ("all x 1",), 6, draws=300) > plain
    lines = "\n".join(fidelity.tables(TELLING))
    assert "M. d: 9 configurations, 9 training rows" in lines
    assert "| 1/9 x 1 | 1.00, 3 | 0.10 |" in lines
