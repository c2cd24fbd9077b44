import json
import os

import numpy as np
import optuna
import pandas as pd
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from recbole_msr.tuning.trials_table import objective_names, trials_frame, write_trials

LAST = ["worker", "origin", "reason", "started", "ended"]
COSTS = ["seconds", "setup_seconds", "epochs", "best_epoch", "parameters", "flops", "latency", "latency_1"]


@pytest.fixture
def study():
    """A trial that ended, one that was pruned with other parameters, one that failed before it had any."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    made = optuna.create_study(directions=["maximize", "minimize"])
    made.set_user_attr("objectives", ["auc/macro", "parameters"])
    depth, rate = IntDistribution(1, 3), FloatDistribution(1e-5, 0.1, log=True)
    kind, flag = CategoricalDistribution(["relu", "[64, 32]"]), CategoricalDistribution([True, False])
    made.add_trial(
        create_trial(
            values=[0.7251, 12345.0],
            params={"depth": 2, "rate": 1.25e-5, "kind": "[64, 32]", "flag": False},
            distributions={"depth": depth, "rate": rate, "kind": kind, "flag": flag},
            user_attrs={
                "origin": "defaults", "worker": "here-1", "seconds": 2.5, "setup_seconds": 0.25, "epochs": 3,
                "best_epoch": 2, "parameters": 12345, "flops": 10**12, "history": [{"epoch": 1}], "settings": {"a": 1},
            },
        )
    )  # fmt: skip
    made.add_trial(
        create_trial(
            state=TrialState.PRUNED,
            params={"rate": 0.05, "width.1": 16},
            distributions={"rate": rate, "width.1": IntDistribution(8, 64)},
            intermediate_values={1: 0.5},
            user_attrs={"reason": "pruned after epoch 1", "worker": "there,2", "seconds": 1.0, "epochs": 1},
        )
    )
    made.add_trial(create_trial(state=TrialState.FAIL, user_attrs={"reason": 'refused: "x"\nis\tno number'}))
    made.enqueue_trial({"depth": 1})
    return made


def test_a_line_a_trial_and_a_column_for_all_that_is_known(study):
    frame = trials_frame(study)
    params = [f"params.{name}" for name in ("depth", "rate", "kind", "flag", "width.1")]
    assert list(frame) == [
        "number", "state", "auc/macro", "parameters", *params, *(c for c in COSTS if c != "parameters"), *LAST,
    ]  # fmt: skip
    assert frame["number"].tolist() == [0, 1, 2, 3]
    assert frame["state"].tolist() == ["complete", "pruned", "fail", "waiting"]
    first, second, third, fourth = (frame.iloc[i] for i in range(4))
    assert first["auc/macro"] == 0.7251
    assert first["parameters"] == 12345
    assert (first["params.depth"], first["params.rate"], first["params.kind"]) == (2, 1.25e-5, "[64, 32]")
    assert first["params.flag"] is np.False_ or first["params.flag"] is False
    assert first["flops"] == 10**12
    assert first["origin"] == "defaults"
    assert pd.isna(first["params.width.1"])
    assert second["params.width.1"] == 16
    assert second["reason"] == "pruned after epoch 1"
    assert pd.isna(second[["auc/macro", "parameters", "params.depth", "best_epoch", "origin"]]).all()
    assert pd.isna(third[params]).all()
    assert third["reason"] == 'refused: "x"\nis\tno number'
    assert first["ended"] >= first["started"]
    assert pd.isna(fourth["started"])
    assert pd.isna(fourth["ended"])


def test_numbers_are_numbers_even_where_some_are_missing(study):
    kinds = trials_frame(study).dtypes
    assert kinds["params.depth"] == kinds["params.width.1"] == kinds["flops"] == kinds["epochs"] == "Int64"
    assert kinds["params.rate"] == kinds["auc/macro"] == kinds["seconds"] == "float64"
    assert kinds["latency"] == "float64"  # nobody has it
    assert kinds["params.flag"] == "boolean"
    assert kinds["started"].kind == kinds["ended"].kind == "M"


def test_columns_do_not_depend_on_which_trial_ended_last(study):
    before = list(trials_frame(study))
    study.add_trial(
        create_trial(values=[0.7, 1.0], params={"depth": 3}, distributions={"depth": IntDistribution(1, 3)})
    )
    assert list(trials_frame(study)) == before


def test_a_parameter_that_is_a_word_or_a_number_becomes_words():
    study = optuna.create_study()
    for choice in ("auto", 3):
        distribution = CategoricalDistribution(["auto", 3])
        study.add_trial(create_trial(value=1.0, params={"p": choice}, distributions={"p": distribution}))
    assert trials_frame(study)["params.p"].tolist() == ["auto", "3"]


def test_names_of_objectives_that_the_study_does_not_say():
    assert objective_names(optuna.create_study()) == ["value"]
    assert objective_names(optuna.create_study(directions=["minimize"] * 2)) == ["value 1", "value 2"]


def test_a_study_without_trials_has_the_columns():
    frame = trials_frame(optuna.create_study())
    assert list(frame) == ["number", "state", "value", *COSTS, *LAST]
    assert len(frame) == 0


def _plain(frame):
    return frame.astype(object).where(frame.notna(), None)


def test_both_files_hold_the_table(study, tmp_path):
    write_trials(study, tmp_path)
    frame = trials_frame(study)
    parquet = pd.read_parquet(tmp_path / "trials.parquet")
    pd.testing.assert_frame_equal(_plain(parquet), _plain(frame))
    csv = pd.read_csv(tmp_path / "trials.csv")
    assert list(csv) == list(frame)
    assert csv["params.kind"][0] == "[64, 32]"
    assert json.loads(csv["params.kind"][0]) == [64, 32]
    assert csv["reason"][2] == 'refused: "x"\nis\tno number'
    assert csv["worker"][1] == "there,2"
    assert csv["auc/macro"][0] == 0.7251
    assert csv["params.rate"].tolist()[:2] == [1.25e-5, 0.05]
    assert csv["flops"][0] == 10**12
    assert sorted(os.listdir(tmp_path)) == ["trials.csv", "trials.parquet"]


def test_files_of_a_study_without_trials_can_be_read(tmp_path):
    write_trials(optuna.create_study(), tmp_path)
    assert len(pd.read_parquet(tmp_path / "trials.parquet")) == len(pd.read_csv(tmp_path / "trials.csv")) == 0


def test_a_failed_write_leaves_the_file_as_it_was(study, tmp_path, monkeypatch):
    write_trials(study, tmp_path)
    before = (tmp_path / "trials.parquet").read_bytes()

    def half(self, path, **_):
        with open(path, "wb") as file:
            file.write(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(pd.DataFrame, "to_parquet", half)
    with pytest.raises(OSError, match="no space"):
        write_trials(study, tmp_path)
    assert (tmp_path / "trials.parquet").read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["trials.csv", "trials.parquet"]
