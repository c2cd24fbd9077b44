import copy

import pytest

from recbole_msr.report.comparison.differences import p_clause
from recbole_msr.report.comparison.verdict import verdict
from tests.comparison.summaries import SCENARIOS, TASKS, entry, failed, make_summary

SKILLS = {"HiNet": 1.5, "PLE": 2.0, "LR": 0.5, "STAR": 1.51}
P = {"PLE": 0.001, "LR": 1e-6}


def _about(said, start):
    (found,) = [sentence for sentence in said if sentence.startswith(start)]
    return found


def _mean(summary, label, key="auc/macro"):
    (found,) = [one for one in summary["entries"] if one["label"] == label]
    return found["test"][key]["mean"], found["test"][key]["deviation"]


def test_a_reference_that_loses_is_said_to_lose():
    summary = make_summary(SKILLS, P)
    said = verdict(summary)
    mean, deviation = _mean(summary, "HiNet")
    assert said[0] == (
        f"HiNet (reference) loses to PLE: it reaches a macro AUC of {mean:.4f} ± {deviation:.4f} on test, "
        "mean ± deviation over 3 seeds."
    )
    better = _about(said, "Significantly better than HiNet:")
    assert f"PLE ({_mean(summary, 'PLE')[0] - mean:+.4f}, 95 % interval " in better
    assert "corrected p = 0.002)" in better
    assert "STAR" not in better
    assert "LR (-" in _about(said, "Significantly worse than HiNet:")
    assert "STAR (" in _about(said, "No significant difference to HiNet")


def test_a_higher_mean_alone_is_no_loss():
    summary = make_summary({"HiNet": 1.5, "PLE": 2.0}, {"PLE": 0.2})
    said = verdict(summary)
    assert _mean(summary, "PLE") > _mean(summary, "HiNet")
    assert "loses" not in said[0]
    assert said[0].endswith("No other is significantly better.")
    assert "PLE (+" in _about(said, "No significant difference")
    assert not any(sentence.startswith("Significantly") for sentence in said)


def test_a_reference_that_wins():
    said = verdict(make_summary({"HiNet": 2.0, "PLE": 1.0, "LR": 0.5}, {"PLE": 0.001, "LR": 0.001}))
    assert "loses" not in said[0]
    assert said[0].endswith("It is significantly better than all 2 others.")
    assert "In no cell is another significantly better than HiNet." in said


def test_what_a_correction_takes_away_is_not_significant():
    others = {f"M{i}": 2.0 + i / 10 for i in range(5)}
    said = verdict(make_summary({"HiNet": 1.5} | others, dict.fromkeys(others, 0.02)))
    assert said[0].endswith("No other is significantly better.")
    assert "In no cell does any other differ significantly from HiNet." in said


def test_cells_are_told_with_the_best_of_those_that_are_better():
    summary = make_summary(SKILLS, P)
    first, second = f"auc/{SCENARIOS[0]}/click", f"auc/{SCENARIOS[1]}/like"
    for made in summary["entries"][1:]:
        made["differences"] = {
            key: one | {"significant": key == first, "better": key == first and one["mean"] > 0, "worse": False}
            for key, one in made["differences"].items()
        }
    gain = summary["entries"][1]["differences"][first]["mean"]
    said = verdict(summary)
    assert f"with the best of them: {SCENARIOS[0]}/click (PLE {gain:+.4f})." in _about(said, "Cells where another")
    level = _about(said, "No other differs significantly from HiNet in")
    assert second.removeprefix("auc/") in level
    assert first.removeprefix("auc/") not in level
    assert f"{SCENARIOS[2]}/like" not in level  # it was not tested


def test_undefined_cells_are_named_with_their_rows():
    summary = make_summary(SKILLS, P)
    rows = summary["test_cells"][SCENARIOS[2]]["like"]["rows"]
    assert f"Without an AUC, and in no mean: {SCENARIOS[2]}/like ({rows} rows, 0 positive)." in verdict(summary)
    empty = copy.deepcopy(summary)
    empty["entries"][0]["test"]["auc/macro"] = {"mean": None, "deviation": None, "values": [None] * 3}
    for made in empty["entries"]:
        made["differences"] = None
    said = verdict(empty)
    assert said[0].startswith("HiNet (reference) has no macro AUC: no difference to it could be tested")
    assert f"PLE {_mean(summary, 'PLE')[0]:.4f}" in said[1]


def test_a_failed_reference_tests_nothing_and_says_so():
    summary = make_summary({"PLE": 1.5, "STAR": 2.0}, {"STAR": 0.001})
    summary["entries"][1]["differences"] = None
    summary["entries"].append(failed("HiNet", "seed 2020: the loss is nan"))
    summary["reference"] = "HiNet"
    said = verdict(summary)
    assert said[0].startswith("HiNet (reference) failed: no difference to it could be tested")
    assert said[1].startswith("Macro AUC on test, not tested: STAR 0.")
    assert "HiNet failed: seed 2020: the loss is nan." in said
    assert not any("ignificant" in sentence for sentence in said)


def test_all_failed():
    summary = make_summary({"HiNet": 1.0}) | {"entries": [failed("HiNet", "x"), failed("PLE")]}
    said = verdict(summary)
    assert len(said) == 3
    assert said[1:] == ["HiNet failed: x.", "PLE failed: no reason is known."]


def test_one_entry_alone():
    said = verdict(make_summary({"HiNet": 1.0}))
    assert said[0].endswith("There is nothing to compare it with.")
    assert not any("ignificant" in sentence for sentence in said)


def test_one_seed_says_what_is_not_known():
    summary = make_summary({"HiNet": 1.5, "PLE": 2.0}, {"PLE": 0.001}, seeds=[7])
    said = verdict(summary)
    assert "±" not in " ".join(said)
    assert "nothing is known about other seeds" in _about(said, "There is one seed (7)")
    assert "one seed" not in " ".join(verdict(make_summary({"HiNet": 1.5}, seeds=[7, 8])))


def test_a_difference_over_fewer_seeds_says_so():
    summary = make_summary({"HiNet": 1.5, "PLE": 2.0, "LR": 0.5}, {"PLE": 0.001, "LR": 0.001})
    summary["entries"][1]["differences"]["auc/macro"]["seeds"] = 2
    said = verdict(summary)
    assert _about(said, "Significantly better than HiNet").endswith("corrected p = 0.002, 2 of 3 seeds).")
    assert "seeds" not in _about(said, "Significantly worse than HiNet")


def test_failed_and_partial_entries_are_told_with_their_reasons():
    partial = entry("FM", [], "partial", reasons=["seed 2021: out of\nmemory.", "seed 2022: x"])
    said = verdict(make_summary({"HiNet": 1.5}, others=[failed("DeepFM", "no field 'age'"), partial]))
    assert "DeepFM failed: no field 'age'." in said
    assert "FM is there only in part: seed 2021: out of memory; seed 2022: x." in said
    assert "Not compared, for want of a macro AUC of the same seeds: FM." in said


def test_negative_transfer_is_told_by_entry():
    summary = make_summary({"HiNet": 1.5, "PLE": 2.0}, {"HiNet": 0.001, "PLE": 0.3}, single_scenario=True)
    said = verdict(summary)
    harmed = _about(said, "Negative transfer: HiNet")
    cells = summary["entries"][0]["transfer"]["cells"]
    for scenario in SCENARIOS:
        for task in TASKS:
            cell = cells[scenario][task]
            if cell is None or scenario == SCENARIOS[0]:  # the first gains
                assert f"{scenario}/{task}" not in harmed
            else:
                assert f"{scenario}/{task} ({cell['joint'] - cell['alone']:+.4f})" in harmed
    assert harmed.endswith("significantly better in 2 of 5 cells.")
    assert _about(said, "No significant negative transfer for PLE").endswith("in none of 5 cells, and worse in none.")
    assert "transfer" not in " ".join(verdict(make_summary({"HiNet": 1.5, "PLE": 2.0})))


def test_the_smallest_that_holds_out():
    # each has half the parameters of the one before
    said = verdict(make_summary({"HiNet": 1.5, "PLE": 1.6, "STAR": 1.51, "LR": 0.5}, {"LR": 1e-6}))
    smallest = _about(said, "The smallest model that is not significantly worse than HiNet is")
    assert smallest.endswith("STAR, with 4,000 parameters to 16,000.")
    said = verdict(make_summary({"HiNet": 2.0, "LR": 0.5}, {"LR": 1e-6}))
    assert "Every model smaller than HiNet (4,000 parameters) is significantly worse." in said
    larger = make_summary({"HiNet": 1.5, "PLE": 2.0})
    larger["entries"][1]["cost"]["parameters"] = 10**6
    assert "HiNet is the smallest of those compared (4,000 parameters)." in verdict(larger)
    larger["entries"][1]["cost"]["parameters"] = None
    assert "parameters" not in " ".join(verdict(larger))


def test_long_lists_are_cut():
    scenarios = [f"s{i}" for i in range(9)]
    summary = make_summary({"HiNet": 1.5, "PLE": 2.5}, {"PLE": 1e-6}, scenarios=scenarios, tasks=["click"], seeds=[1])
    told = _about(verdict(summary), "Cells where another")
    assert "s7/click" in told
    assert told.endswith(" and 1 more.")


def test_one_cell_is_not_told_twice():
    said = verdict(make_summary({"HiNet": 1.5, "PLE": 2.0}, {"PLE": 0.001}, scenarios=["all"], tasks=["click"]))
    assert not any("ell" in sentence.split() or sentence.startswith(("Cells", "In no cell")) for sentence in said)


@pytest.mark.parametrize(
    ("p", "text"), [(0.04961, "p = 0.0496"), (1e-5, "p < 0.0001"), (1.0, "p = 1"), (None, "p unknown")]
)
def test_p_values_are_not_rounded_to_the_border(p, text):
    assert p_clause(p) == text
