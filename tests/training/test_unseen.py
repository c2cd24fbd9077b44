"""Users, items and values without a training row: all of them are the unknown one."""

import pandas as pd
import pytest

import recbole_msr
from recbole_msr.config.build import build_config
from tests.conftest import SCENARIOS, SETTINGS

COLD = ["late1", "late2"]


def test_users_that_are_held_out_score_as_a_user_that_nobody_knows(shared_tiny_data, tmp_path):
    from recbole.data import create_dataset

    settings = SETTINGS | {
        "data_path": str(shared_tiny_data),
        "scenario": SCENARIOS[3],
        "eval_args": {"split": {"RS": [0.8, 0.1, 0.1]}, "group_by": "cold_user"},
        "epochs": 2,
        "output_dir": str(tmp_path / "run"),
        "save_predictions": True,
    }
    run = recbole_msr.load(recbole_msr.run("HiNet", "tiny", config=settings).folder)
    tested = pd.read_parquet(tmp_path / "run" / "predictions.parquet")
    users = pd.read_csv(shared_tiny_data / "tiny" / "tiny.user", sep="\t", dtype=str)
    users.columns = [name.split(":")[0] for name in users]
    given = {key: value for key, value in settings.items() if key not in ("output_dir", "state")}
    dataset = create_dataset(build_config("HiNet", "tiny", given))
    inter = dataset.build()[2].inter_feat
    pairs = {key: dataset.id2token(key, inter[key].numpy()) for key in ("user_id", "item_id")}
    rows = pd.DataFrame(pairs).merge(users)
    assert rows["user_id"].nunique() == 4
    scores, unknown, _ = run.score(rows.assign(user_id="nobody"))
    assert scores["click"].to_numpy() == pytest.approx(tested["score_click"].to_numpy(), abs=1e-6)
    assert unknown["user_id"] == len(rows)


@pytest.fixture
def cold_data(tiny_data):
    """ "tiny" with two users whose rows are the last, so that a split by time leaves them to the test rows."""
    folder = tiny_data / "tiny"
    with open(folder / "tiny.user", "a") as file:
        file.writelines(f"{user}\t30\tF\n" for user in COLD)
    with open(folder / "tiny.inter", "a") as file:
        file.writelines(f"{user}\ti{item}\t{3 + item % 3}\t{9000 + item}\n" for user in COLD for item in range(8))
    return tiny_data


@pytest.mark.parametrize("model", ["HiNet", "LLM4MSR"])
@pytest.mark.parametrize("gradients", ["dense", "sparse"])
def test_users_of_the_test_rows_alone_score_as_a_user_that_nobody_knows(cold_data, tmp_path, model, gradients):
    settings = SETTINGS | {
        "data_path": str(cold_data),
        "scenario": SCENARIOS[3],
        "eval_args": {"split": {"RS": [0.8, 0.1, 0.1]}, "order": "TO", "group_by": None, "mode": "labeled"},
        "epochs": 2,
        "embedding_gradients": gradients,
        "weight_decay": 0.0,
        "embedding_size": 4,
        "output_dir": str(tmp_path / "run"),
        "save_predictions": True,
    }
    if model == "LLM4MSR":
        settings |= {"backbone": "SharedBottom", "knowledge": "random", "knowledge_size": 8}
    result = recbole_msr.run(model, "tiny", config=settings)
    rows = pd.DataFrame({"user_id": [*COLD, "nobody", "u3"], "item_id": "i4", "age": 30, "gender": "F"})
    scores, unknown, _ = recbole_msr.load(result.folder).score(rows)
    assert scores.iloc[0].tolist() == pytest.approx(scores.iloc[2].tolist(), abs=1e-6)
    assert scores.iloc[1].tolist() == pytest.approx(scores.iloc[2].tolist(), abs=1e-6)
    assert abs(scores["click"][3] - scores["click"][2]) > 1e-5
    assert unknown == {"user_id": 3}
    # The test rows were scored so too: both have the same items, in the same order.
    tested = pd.read_parquet(result.folder / "predictions.parquet")
    (_, one), (_, other) = list(tested.groupby("user", sort=True))[-2:]
    assert len(one) == len(other) == 8
    assert one["score_click"].to_numpy() == pytest.approx(other["score_click"].to_numpy(), abs=1e-6)
