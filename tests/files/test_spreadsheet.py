"""No cell of a table that people open in a spreadsheet runs as a formula."""

import csv

import pandas as pd
import pytest

from recbole_msr.files.spreadsheet import write_csv
from recbole_msr.tuning.trials_table import write_trials


@pytest.mark.parametrize("text", ["=1+1", "+cmd", "@SUM(A1)", "-x", "\tx", "\rx", '=HYPERLINK("a","b")'])
def test_what_a_spreadsheet_would_run_begins_with_an_apostrophe(text, tmp_path):
    write_csv(pd.DataFrame({"label": [text, "a=b"], text: [1, 2]}), tmp_path / "table.csv")
    with open(tmp_path / "table.csv", newline="") as file:
        assert list(csv.reader(file)) == [["label", f"'{text}"], [f"'{text}", "1"], ["a=b", "2"]]


def test_numbers_stay_numbers(tmp_path):
    frame = pd.DataFrame({
        "a": [-1.5, None], "b": pd.Series([-1, None], dtype="Int64"), "c": ["-3", "+1e-3"], "d": [None, ""],
        "e": pd.to_datetime(["2024-01-01", None]), "f": pd.Series([True, None], dtype="boolean"),
    })  # fmt: skip
    write_csv(frame, tmp_path / "table.csv")
    assert (tmp_path / "table.csv").read_text() == frame.to_csv(index=False)


def test_the_table_of_trials_holds_no_formula(tmp_path):
    import optuna

    study = optuna.create_study()
    study.add_trial(
        optuna.trial.create_trial(
            params={"activation": "=1+1"},
            distributions={"activation": optuna.distributions.CategoricalDistribution(["=1+1", "relu"])},
            value=0.5,
        )
    )
    write_trials(study, tmp_path)
    assert "'=1+1" in (tmp_path / "trials.csv").read_text()
    assert "=1+1" in pd.read_parquet(tmp_path / "trials.parquet").astype(str).to_numpy().ravel()
