"""Dates and times of a table mean the same when a run is trained on them and when it predicts."""

import datetime

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import recbole_msr
from recbole_msr.data.tables.columns import time_text
from recbole_msr.runs.predict import predict_file
from recbole_msr.runs.row_ids import Vocabulary
from tests.runs.tiny import SMALL

SETTINGS = SMALL | {
    "columns": {"time": "at"},
    "types": {"day": "token"},
    "numerical_features": ["since"],
    "normalize_field": ["since"],
    "save_predictions": True,
    "history": {"fields": ["item_id"], "length": 5},
    "tasks": {"click": {"field": "clicked"}},
    "eval_args": {"split": {"RS": [0.6, 0.2, 0.2]}, "order": "TO", "group_by": None, "mode": "labeled"},
}


@pytest.fixture(scope="module")
def rows():
    draw, first = np.random.default_rng(5), pd.Timestamp("2024-01-01")
    pairs = draw.permutation(20 * 30)[:400]
    return pd.DataFrame(
        {
            "user_id": [f"u{pair // 30}" for pair in pairs],
            "item_id": [f"i{pair % 30}" for pair in pairs],
            "at": first + pd.to_timedelta(np.arange(400) * 3601, unit="s"),
            "day": (first + pd.to_timedelta(draw.integers(0, 3, 400), unit="D")).date,
            "season": first + pd.to_timedelta(draw.integers(0, 2, 400) * 90.5, unit="D"),
            "since": first - pd.to_timedelta(draw.integers(1, 10**6, 400), unit="s"),
            "clicked": draw.integers(0, 2, 400),
        }
    )


@pytest.mark.parametrize(
    "scenario", [{"field": "season"}, {"field": "season", "bins": [pd.Timestamp("2024-02-01").timestamp()]}]
)
def test_the_rows_of_a_table_with_dates_are_predicted_as_in_training(rows, scenario, tmp_path):
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.Table.from_pandas(rows, preserve_index=False), path)
    given = SETTINGS | {"data": str(path), "scenario": scenario, "output_dir": str(tmp_path / "run")}
    given["cache_dir"] = str(tmp_path / "cache")
    recbole_msr.run("SharedBottom", config=given)
    run = recbole_msr.load(tmp_path / "run")
    assert len(run.dataset.scenario_names) == 2
    expected = pd.read_parquet(tmp_path / "run" / "predictions.parquet")["score_click"].to_numpy()
    test = rows.iloc[-len(expected) :]
    np.testing.assert_allclose(run.predict(test)["click"], expected, atol=1e-6)
    # The same file, with times in another unit.
    table = pa.Table.from_pandas(test, preserve_index=False)
    for name in ("at", "season", "since"):
        table = table.set_column(table.schema.get_field_index(name), name, table[name].cast(pa.timestamp("ms")))
    pq.write_table(table, tmp_path / "test.parquet")
    predict_file(tmp_path / "run", tmp_path / "test.parquet", tmp_path / "scores.parquet")
    np.testing.assert_allclose(pd.read_parquet(tmp_path / "scores.parquet")["click"], expected, atol=1e-6)


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC", "+05:30"])
def test_a_time_has_one_text_in_every_unit(unit, zone):
    ends = {None: "", "UTC": "Z", "+05:30": "+0530"}[zone]
    hour = "13:30" if zone == "+05:30" else "08:00"
    times = [datetime.datetime(2024, 1, 31, 8, 0, 10)]
    expected = [f"2024-01-31 {hour}:10{ends}"]
    if unit in ("us", "ns"):
        times.append(datetime.datetime(2024, 1, 31, 8, 0, 0, 250_000))
        expected.append(f"2024-01-31 {hour}:00.25{ends}")
    column = pa.array(times, pa.timestamp(unit)).cast(pa.timestamp(unit, zone))
    assert time_text(column).to_pylist() == expected
    ids, empty = Vocabulary({text: number for number, text in enumerate(expected, start=1)}).ids_of("at", column)
    assert ids.tolist() == [*range(1, len(ids) + 1)]
    assert not empty.any()


def test_dates_and_durations_have_the_text_of_their_day_and_their_seconds():
    dates = pa.array([datetime.date(2024, 10, 10), None], pa.date32())
    assert time_text(dates).to_pylist() == ["2024-10-10", None]
    assert time_text(pa.array([datetime.timedelta(minutes=2)], pa.duration("ns"))).to_pylist() == ["120"]
