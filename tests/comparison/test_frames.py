import os
import statistics

import numpy as np
import pandas as pd
import pytest

from recbole_msr.report.comparison.frames import cells_frame, differences_frame, leaderboard_frame, write_tables
from tests.comparison.summaries import SCENARIOS, TASKS, entry, evaluation, failed, make_summary, spread

SKILLS = {"HiNet": 1.5, "PLE": 2.0, "LR": 0.5, "STAR": 1.51}
P = {"PLE": 0.001, "LR": 1e-6, "HiNet": 0.01}
FAILED = failed("DeepFM", "seed 2020, task click: the loss is nan", 'seed 2021: "x", y')


@pytest.fixture(scope="module")
def summary():
    return make_summary(SKILLS, P, single_scenario=True, others=[FAILED])


def _line(frame, label):
    (found,) = [row for _, row in frame.iterrows() if row["label"] == label]
    return found


def test_the_best_macro_auc_is_first_and_what_failed_last():
    partial = entry("FM", [2020], "partial", reasons=["seed 2021: out of memory"], test={"auc/click": spread([0.9])})
    summary = make_summary(SKILLS, P, others=[FAILED, partial])
    frame = leaderboard_frame(summary)
    assert frame["label"].tolist() == ["PLE", "STAR", "HiNet", "LR", "FM", "DeepFM"]
    assert frame["auc/macro"].dropna().is_monotonic_decreasing
    assert frame["status"].tolist() == ["complete"] * 4 + ["partial", "failed"]
    assert frame["seeds"].tolist() == [3, 3, 3, 3, 1, 0]
    assert frame.loc[frame["reference"], "label"].tolist() == ["HiNet"]


def test_values_are_those_of_the_evaluations(summary):
    frame = leaderboard_frame(summary)
    for label, skill in SKILLS.items():
        flats = [evaluation(skill, seed).flat() for seed in summary["seeds"]]
        for key in ("auc/macro", "auc/worst", "gauc/like", "logloss/click/macro", f"logloss/{SCENARIOS[1]}/like"):
            values = [flat[key] for flat in flats]
            line = _line(frame, label)
            assert line[key] == pytest.approx(np.mean(values), abs=1e-12)
            assert line[f"deviation.{key}"] == pytest.approx(np.std(values, ddof=1), abs=1e-12)


def test_everything_of_a_leaderboard_has_a_column(summary):
    frame = leaderboard_frame(summary)
    for metric in ("auc", "gauc", "logloss", "ece", "pcoc"):
        for name in ("macro", "worst", *TASKS, *(f"{s}/{t}" for s in SCENARIOS for t in TASKS)):
            assert f"{metric}/{name}" in frame
    assert "auc" not in frame
    line, made = _line(frame, "PLE"), summary["entries"][1]
    against = made["differences"]["auc/macro"]
    assert (
        line["difference"] == against["mean"] == pytest.approx(line["auc/macro"] - _line(frame, "HiNet")["auc/macro"])
    )
    assert (line["difference_low"], line["difference_high"]) == (against["low"], against["high"])
    assert line["p_adjusted"] == pytest.approx(0.002)  # 0.001, the second smallest of three
    assert line["significant"]
    assert not _line(frame, "STAR")["significant"]
    assert pd.isna(_line(frame, "HiNet")[["difference", "p_adjusted", "significant"]]).all()
    worst = min(
        (made["test"][f"auc/{s}/{t}"]["mean"], s, t)
        for s in SCENARIOS
        for t in TASKS
        if (s, t) != (SCENARIOS[2], "like")
    )
    assert (line["worst_scenario"], line["worst_task"]) == worst[1:]
    assert (line["parameters"], line["flops"], line["latency_1"], line["latency"]) == (8000, 123457, 1.5, 12.25)
    assert (line["train_seconds"], line["deviation.train_seconds"]) == (12.0, 1.0)
    assert (line["rows_per_second"], line["epochs"]) == (19999.0, 4.0)
    assert (line["search_seconds"], line["search_trials"], line["search_epochs"]) == (61.5, 4, 9)
    assert _line(frame, "DeepFM")["reasons"] == 'seed 2020, task click: the loss is nan; seed 2021: "x", y'
    assert pd.isna(_line(frame, "DeepFM")[["auc/macro", "parameters", "train_seconds", "worst_task"]]).all()


def test_transfer_by_scenario_is_the_mean_over_the_tasks_that_have_one(summary):
    line, transfer = _line(leaderboard_frame(summary), "LR"), summary["entries"][2]["transfer"]
    assert line["transfer"] == transfer["macro"]["mean"]
    assert line["transfer_significant"]
    for scenario in SCENARIOS:
        cells = [cell for cell in transfer["cells"][scenario].values() if cell]
        joint, alone = (statistics.fmean(cell[name] for cell in cells) for name in ("joint", "alone"))
        assert line[f"transfer.{scenario}"] == pytest.approx(joint - alone, abs=1e-12)
    assert len(cells) == 1  # the last has one class of likes
    assert line[f"transfer.{SCENARIOS[0]}"] > 0 > line[f"transfer.{SCENARIOS[1]}"]


def test_columns_depend_on_scenarios_and_tasks_alone(summary):
    other = make_summary({"MMoE": 1.0}, seeds=[1])
    assert list(leaderboard_frame(other)) == list(leaderboard_frame(summary))
    assert leaderboard_frame(other).dtypes.equals(leaderboard_frame(summary).dtypes)


def test_every_value_of_every_seed_is_in_the_cells(summary):
    frame = cells_frame(summary)
    assert list(frame) == ["label", "seed", "split", "key", "scenario", "task", "metric", "value"]
    for split in ("valid", "test"):
        for seed in summary["seeds"]:
            flat = evaluation(SKILLS["PLE"], seed, split=split).flat()
            some = frame[(frame["label"] == "PLE") & (frame["seed"] == seed) & (frame["split"] == split)]
            assert dict(zip(some["key"], some["value"], strict=True)) == {k: v for k, v in flat.items() if "/" in k}
    cell = frame[frame["key"] == f"auc/{SCENARIOS[2]}/click"].iloc[0]
    assert (cell["scenario"], cell["task"], cell["metric"]) == (SCENARIOS[2], "click", "auc")
    pooled, macro = (frame[frame["key"] == key].iloc[0] for key in ("logloss/like", "logloss/macro"))
    assert (pooled["scenario"], pooled["task"], pooled["metric"]) == (None, "like", "logloss")
    assert (macro["scenario"], macro["task"]) == (None, None)
    assert "DeepFM" not in set(frame["label"])


def test_a_scenario_with_a_slash_stays_one_name():
    summary = make_summary({"HiNet": 1.0}, scenarios=["a/b", "click"], seeds=[1])
    frame = cells_frame(summary)
    assert set(frame[frame["key"] == "auc/a/b/like"]["scenario"]) == {"a/b"}
    assert set(frame[frame["key"] == "auc/click/click"]["scenario"]) == {"click"}
    assert frame[frame["key"] == "auc/click"]["scenario"].isna().all()


def test_every_difference_has_its_line(summary):
    frame = differences_frame(summary)
    fields = list(summary["entries"][1]["differences"]["auc/macro"])
    assert list(frame) == ["label", "against", "key", "scenario", "task", "metric", *fields]
    against = frame[frame["against"] == "reference"]
    assert set(against["label"]) == {"PLE", "LR", "STAR"}
    for made in summary["entries"][1:4]:
        some = against[against["label"] == made["label"]].set_index("key")
        assert set(some.index) == set(made["differences"])
        for key, one in made["differences"].items():
            assert some.loc[key, fields].to_dict() == one
    alone = frame[(frame["against"] == "alone") & (frame["label"] == "HiNet")].set_index("key")
    assert len(alone) == 1 + 5
    key = f"auc/{SCENARIOS[0]}/like"
    assert (
        alone.loc[key, "mean"] == summary["entries"][0]["transfer"]["cells"][SCENARIOS[0]]["like"]["difference"]["mean"]
    )


def test_one_seed_and_no_differences_leave_columns_empty():
    summary = make_summary({"HiNet": 1.0}, seeds=[5], others=[FAILED])
    frame = leaderboard_frame(summary)
    assert frame["deviation.auc/macro"].isna().all()
    assert frame["transfer"].isna().all()
    assert len(differences_frame(summary)) == 0
    assert set(cells_frame(summary)["seed"]) == {5}
    nothing = make_summary({"HiNet": 1.0}, seeds=[5]) | {"entries": [failed("HiNet", "x")]}
    assert len(cells_frame(nothing)) == 0
    assert len(leaderboard_frame(nothing)) == 1


def _plain(frame):
    return frame.astype(object).where(frame.notna(), None)


@pytest.mark.parametrize("name", ["leaderboard", "cells", "differences"])
def test_files_hold_the_tables(summary, tmp_path, name):
    write_tables(summary, tmp_path)
    makers = {"leaderboard": leaderboard_frame, "cells": cells_frame, "differences": differences_frame}
    frame = makers[name](summary)
    parquet = pd.read_parquet(tmp_path / f"{name}.parquet")
    pd.testing.assert_frame_equal(_plain(parquet), _plain(frame))
    numbers = frame.select_dtypes("number").columns
    assert parquet[numbers].dtypes.equals(frame[numbers].dtypes)
    read = pd.read_csv(tmp_path / f"{name}.csv", float_precision="round_trip")
    assert list(read) == list(frame)
    for column in frame:
        if column in numbers:
            np.testing.assert_array_equal(read[column].astype(float), frame[column].astype(float))
        else:
            assert [None if pd.isna(x) else str(x) for x in read[column]] == [
                None if pd.isna(x) else str(x) for x in frame[column]
            ]


def test_empty_tables_are_files_too(tmp_path):
    write_tables(make_summary({"HiNet": 1.0}, seeds=[5]), tmp_path)
    assert list(pd.read_csv(tmp_path / "differences.csv"))[:3] == ["label", "against", "key"]
    assert pd.read_parquet(tmp_path / "differences.parquet")["seeds"].dtype == "Int64"


def test_files_are_written_whole_or_not_at_all(summary, tmp_path, monkeypatch):
    names = {f"{name}.{kind}" for name in ("leaderboard", "cells", "differences") for kind in ("csv", "parquet")}
    write_tables(summary, tmp_path)
    assert set(os.listdir(tmp_path)) == names | {"leaderboard.md", "leaderboard.tex"}
    before = (tmp_path / "leaderboard.csv").read_bytes()

    def half(frame, path, **options):
        with open(path, "w") as file:
            file.write("half")
        raise OSError("no space left on device")

    monkeypatch.setattr(pd.DataFrame, "to_csv", half)
    with pytest.raises(OSError, match="no space left"):
        write_tables(make_summary({"HiNet": 1.0}, seeds=[5]), tmp_path)
    assert (tmp_path / "leaderboard.csv").read_bytes() == before
    assert set(os.listdir(tmp_path)) == names | {"leaderboard.md", "leaderboard.tex"}
