import io

import pytest
from rich.cells import cell_len

from recbole_msr.report.comparison.terminal import print_comparison
from recbole_msr.report.comparison.verdict import verdict
from tests.comparison.summaries import SCENARIOS, entry, failed, make_summary, spread

SKILLS = {"HiNet": 1.5, "PLE": 2.0, "LR": 0.5, "STAR loss_weighting=gradnorm": 1.51}
P = {"PLE": 0.001, "LR": 1e-6, "HiNet": 0.01}
FAILED = failed("DeepFM", "seed 2020, task click: the loss is nan")


@pytest.fixture(scope="module")
def summary():
    return make_summary(SKILLS, P, single_scenario=True, others=[FAILED])


def _printed(summary, width=120):
    out = io.StringIO()
    print_comparison(summary, file=out, width=width)
    return out.getvalue()


def _words(text):
    return " ".join(text.split())


def _table(text, title):
    """The fields of the rows under a title, by their first word."""
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(title))
    rule = next(i for i in range(start, len(lines)) if "───" in lines[i])
    rows = {}
    for line in lines[rule + 1 :]:
        if not line.strip():
            break
        rows[line.split()[0]] = line
    return rows


@pytest.mark.parametrize("width", [50, 80, 120, 400])
def test_the_verdict_is_first_and_whole(summary, width):
    text = _printed(summary, width)
    words, place = _words(text), 0
    for sentence in verdict(summary):
        found = words.index(_words(sentence), place)
        assert found >= place
        place = found
    assert place < words.index("Leaderboard")
    assert "loses to PLE" in words


@pytest.mark.parametrize("width", [50, 80, 120, 400])
def test_fits_the_terminal_and_keeps_the_numbers(width):
    name = "a scenario with a name that is far too long for any terminal " * 2
    summary = make_summary(SKILLS, P, scenarios=["[a]", name, "c"], single_scenario=True, others=[FAILED])
    summary["verdict"] = ["one sentence"]
    text = _printed(summary, width)
    assert max(map(cell_len, text.splitlines())) <= width
    for made in summary["entries"][:-1]:
        for key in ("auc/macro", "auc/worst", "gauc/macro", "logloss/like", f"auc/{name}/click"):
            one = made["test"][key]
            assert f"{one['mean']:.4f} ± {one['deviation']:.4f}" in text
        assert f"{made['cost']['parameters']:,}" in text


def test_marks_are_of_significant_differences(summary):
    rows = _table(_printed(summary, 200), "AUC by scenario and task")
    test = {made["label"].split()[0]: made["test"] for made in summary["entries"]}
    for label, mark in (("PLE", " ▲"), ("LR", " ▼"), ("HiNet", ""), ("STAR", "")):
        one = test[label]["auc/age<25/click"]
        assert f"{one['mean']:.4f} ± {one['deviation']:.4f}{mark} " in rows[label]
        assert rows[label].count("▲") == (5 if label == "PLE" else 0)
        assert rows[label].count("▼") == (5 if label == "LR" else 0)
    quiet = _printed(make_summary(SKILLS, dict.fromkeys(SKILLS, 0.04)), 200)
    rows = [line for line in quiet.splitlines() if "±" in line]
    assert rows
    assert not any("▲" in line or "▼" in line for line in rows)


def test_the_difference_stands_with_its_interval_and_corrected_p(summary):
    rows = _table(_printed(summary, 400), "Leaderboard")
    one = summary["entries"][1]["differences"]["auc/macro"]
    assert _words(rows["PLE"]).split("▲")[1].strip().startswith(
        f"{one['mean']:+.4f} {one['low']:+.4f} to {one['high']:+.4f} 0.002 "
    )  # fmt: skip
    assert "< 0.0001" in rows["LR"]
    assert list(rows) == ["PLE", "STAR", "HiNet", "LR", "DeepFM:"]
    worst = summary["entries"][1]["worst_cell"]
    assert f"{worst['scenario']}/{worst['task']}" in rows["PLE"]


def test_cost_is_beside_quality_only_where_it_fits(summary):
    wide, narrow = _printed(summary, 400), _printed(summary, 110)
    assert "8,000" in _table(wide, "Leaderboard")["PLE"]
    assert "\nCost" not in wide
    assert "8,000" not in _table(narrow, "Leaderboard")["PLE"]
    cost = _words(_table(narrow, "Cost")["PLE"])
    assert cost.startswith("PLE 8,000 123,457 1.5 12.2 12.0 ± 1.0")
    assert "Measured on cpu, 1 at a time, 1 thread each." in wide
    assert "Measured on cpu, 1 at a time, 1 thread each." in narrow


def test_transfer_has_its_table_with_its_own_marks(summary):
    text = _printed(summary, 200)
    row = _table(text, "Transfer between scenarios")["HiNet"]
    cells = summary["entries"][0]["transfer"]["cells"]
    assert f"{cells[SCENARIOS[0]]['click']['difference']['mean']:+.4f} ▲" in row
    assert f"{cells[SCENARIOS[1]]['click']['difference']['mean']:+.4f} ▼" in row
    assert "significantly worse than the same model trained on the scenario alone" in _words(text)
    assert "Transfer" not in _printed(make_summary(SKILLS, P), 200)


def test_failed_and_partial_entries_stay_with_their_reasons(summary):
    text = _printed(summary, 100)
    assert "DeepFM: failed" in text
    assert "DeepFM failed: seed 2020, task click: the loss is nan." in _words(text)
    partial = entry("FM", [2020], "partial", reasons=["seed 2021: out of memory"], test={"auc/macro": spread([0.6])})
    text = _printed(make_summary({"HiNet": 1.5}, others=[partial]), 200)
    assert "FM (1 of 3 seeds)" in text
    assert _words(_table(text, "Leaderboard")["FM"]).startswith("FM (1 of 3 seeds) 0.6000 –")  # noqa: RUF001


def test_one_seed_one_entry_nothing_tested():
    text = _printed(make_summary({"HiNet": 1.5}, seeds=[7]), 100)
    assert "±" not in text
    assert "▲" not in text
    assert "One seed (7): no deviation" in _words(text)
    text = _printed(make_summary({"HiNet": 1.5}, seeds=[7]) | {"entries": [failed("HiNet", "x"), failed("PLE")]}, 60)
    assert "HiNet (reference) failed" in text


def test_one_scenario_and_one_task_have_no_table_by_cell():
    text = _printed(make_summary({"HiNet": 1.5, "PLE": 2.0}, scenarios=["all"], tasks=["label"]), 200)
    assert "by scenario" not in text


def test_names_are_no_markup_and_a_file_gets_no_colours(monkeypatch):
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    summary = make_summary(
        {"HiNet": 1.5, "[red]PLE": 2.0}, scenarios=["[bold]", "[/x]"], others=[failed("[b]", "[/i]")]
    )
    text = _printed(summary, 200)
    assert "\x1b" not in text
    for name in ("[red]PLE", "[bold]", "[/x]", "[b]: failed", "[b] failed: [/i]."):
        assert name in text
