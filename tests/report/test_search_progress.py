"""How a search went by time, against what was put in."""

import datetime
import re

import pytest
from optuna.trial import TrialState, create_trial

from recbole_msr.report.tuning.confirmation import confirmation_parts
from recbole_msr.report.tuning.progress import best_so_far, by_model, by_source, looks, looks_frame, source_of

BEGIN = datetime.datetime(2026, 1, 1, 12)


def _trial(number, start, end, epochs, *, rungs=(), state=TrialState.COMPLETE, **attributes):
    """A trial between two seconds; `epochs` are (second, value) on all rows."""
    history = [
        {"epoch": epoch, "valid/auc/macro": value, "at": BEGIN.timestamp() + second}
        for epoch, (second, value) in enumerate(epochs, start=1)
    ]
    trial = create_trial(
        state=state,
        value=max(value for _, value in epochs) if state == TrialState.COMPLETE else None,
        user_attrs={"history": history, "rungs": list(rungs), "seconds": float(end - start), **attributes},
    )
    trial.number = number
    trial.datetime_start = BEGIN + datetime.timedelta(seconds=start)
    trial.datetime_complete = BEGIN + datetime.timedelta(seconds=end)
    return trial


@pytest.fixture
def trials():
    rung = {"rung": 0, "share": 0.25, "epochs": 2, "value": 0.71, "seconds": 1.5}
    return [
        _trial(0, 0, 10, [(5, 0.70), (10, 0.72)], model="HiNet", origin="defaults"),
        _trial(1, 10, 14, [(13, 0.71), (14, 0.74)], rungs=[rung], model="LR", origin="first configuration 2"),
        _trial(2, 10, 12, [], rungs=[rung | {"value": 0.65}], state=TrialState.PRUNED, model="LR"),
        # The next command begins 1000 seconds later.
        _trial(3, 1014, 1024, [(1020, 0.73), (1024, 0.75)], model="HiNet", origin="retry of 3"),
        _trial(4, 1014, 1016, [], state=TrialState.FAIL, model="LR", reason="diverged: NaN"),
    ]


def test_looks_are_in_order_and_pauses_are_left_out(trials):
    found = looks(trials, "auc/macro", "HiNet")
    assert [(look.seconds, look.value, look.trial, look.share) for look in found] == [
        (5, 0.70, 0, 1), (10, 0.72, 0, 1), (11.5, 0.71, 1, 0.25), (11.5, 0.65, 2, 0.25),
        (13, 0.71, 1, 1), (14, 0.74, 1, 1), (20, 0.73, 3, 1), (24, 0.75, 3, 1),
    ]  # fmt: skip
    assert [look.model for look in found[:3]] == ["HiNet", "HiNet", "LR"]


def test_a_trial_with_a_training_for_each_task_has_one_value_that_of_all_tasks(trials):
    valid = {"macro": {"auc": 0.76}}
    of_tasks = _trial(5, 1024, 1030, [(1025, 0.9), (1029, 0.62)], model="FM", values_so_far=[0.76], valid=valid)
    of_tasks.user_attrs["history"] = [
        row | {"task": task} for row, task in zip(of_tasks.user_attrs["history"], ("click", "like"), strict=True)
    ]
    (look,) = [look for look in looks([*trials, of_tasks], "auc/macro", "HiNet") if look.trial == 5]
    assert (look.seconds, look.value, look.epoch) == (29, 0.76, 2)
    of_tasks.user_attrs["values_so_far"] = None  # cut off before its second task
    assert all(look.trial != 5 for look in looks([*trials, of_tasks], "auc/macro", "HiNet"))


def test_the_best_so_far_leaves_out_shares_of_the_rows(trials):
    trials[2].user_attrs["rungs"] = [{"rung": 0, "share": 0.25, "epochs": 2, "value": 0.99, "seconds": 1.5}]
    found = looks(trials, "auc/macro", "HiNet")
    assert best_so_far(found, bigger=True) == [(5, 0.70), (10, 0.72), (14, 0.74), (24, 0.75)]
    assert best_so_far(found, bigger=False) == [(5, 0.70)]
    assert list(looks_frame(found, bigger=True)["best"]) == [0.70, 0.72, 0.72, 0.72, 0.72, 0.74, 0.74, 0.75]


def test_time_by_model_and_by_source(trials):
    found = looks(trials, "auc/macro", "HiNet")
    hinet, lr = by_model(trials, found, "HiNet", bigger=True)
    assert (hinet.name, hinet.trials, hinet.seconds, hinet.defaults, hinet.best) == ("HiNet", 2, 20, 0.72, 0.75)
    assert (lr.name, lr.trials, lr.failed, lr.seconds, lr.defaults, lr.best) == ("LR", 3, 1, 8, None, 0.74)
    assert (hinet.leads, lr.leads) == (2, 1)
    groups = {group.name: group for group in by_source(trials, found, bigger=True)}
    assert list(groups) == ["defaults", "first configuration", "sampled"]
    assert groups["sampled"].trials == 3
    assert groups["sampled"].best == 0.75


def test_a_retry_shows_the_epochs_of_its_first_try_once(trials):
    again = _trial(5, 1024, 1030, [(5, 0.70), (10, 0.72), (1030, 0.76)], model="HiNet", retry_of=0)
    found = looks([*trials, again], "auc/macro", "HiNet")
    assert [(look.trial, look.epoch) for look in found if look.trial in (0, 5)] == [(0, 1), (0, 2), (5, 3)]


def test_sources(trials):
    assert [source_of(trial) for trial in trials] == [
        "defaults", "first configuration", "sampled", "sampled", "sampled"
    ]  # fmt: skip


def _difference(mean, p, **verdict):
    flags = {"significant": False, "better": False, "worse": False} | verdict
    return {"mean": mean, "low": mean - 0.001, "high": mean + 0.001, "p": p, "p_adjusted": p, **flags}


def _candidate(trial, told, values):
    mean = sum(values) / len(values)
    confirmed = {"mean": mean, "deviation": 0.001, "values": values}
    return {"trial": trial, "model": "PLE", "told": told, "confirmed": confirmed, "optimism": told - mean}


def test_the_confirmation_shows_candidates_and_tested_gains():
    gain = {"trial": 4, "model": "PLE", "seeds": [2021, 2022], "metric": "auc/macro", "reason": None}
    differences = {
        "auc/macro": _difference(0.0041, 1e-6, significant=True, better=True), "auc/click": _difference(-0.0002, 0.4)
    }  # fmt: skip
    summary = {
        "confirmation": {
            "metric": "auc/macro", "seeds": [2021, 2022], "winner": 9, "left_out": "the time allows less: 2 of 3",
            "tested_before": [3],
            "candidates": [_candidate(7, 0.7812, [0.77, 0.774]), _candidate(9, 0.78, [0.778, 0.776])],
            "gain": {
                "defaults": gain | {"differences": differences},
                "reference": gain | {"trial": 1, "model": "FM", "differences": {}, "reason": "they were not tested"},
            },
        }
    }  # fmt: skip
    words = " ".join(re.sub(r"<script.*?</script>|<[^>]+>", " ", str(part)) for part in confirmation_parts(summary))
    words = " ".join(words.split())
    assert "The time allows less: 2 of 3." in words
    assert "The test rows have been read before, by trial 3." in words
    assert "7 PLE 0.7812 0.7720 0.0010 +0.0092" in words
    assert "9 PLE 0.7800 0.7770 0.0010 +0.0030 winner" in words
    assert "auc/macro +0.0041 +0.0031 to +0.0051 &lt; 0.0001 better" in words
    assert "auc/click -0.0002 -0.0012 to +0.0008 0.4000 no difference shown" in words
    assert "The winner less the best defaults of all models (trial 1, FM): they were not tested." in words


def test_without_a_confirmation_a_sentence_says_so():
    assert "No trial was trained again with fresh seeds." in str(confirmation_parts({"confirmation": None}))
