"""A table goes straight into packed tables: id for id what its atomic files give, whatever the configuration says."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch

from recbole_msr.data.cell_counts import CellCounts
from recbole_msr.data.packed import PackedTable
from recbole_msr.data.streaming import interactions, order, scratch, tensor_file
from recbole_msr.data.streaming.encoding import TokenCodes, numbers
from recbole_msr.data.tables.dataset import place_tables, write_dataset
from recbole_msr.errors import InputError
from recbole_msr.schema import Schema

ROWS = 1500
TASKS = {"click": {"field": "click"}, "like": {"field": "stars", "at_least": 3}}


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Let 1500 rows be many blocks, ranges and files."""
    for module in (scratch, interactions):
        monkeypatch.setattr(module, "BLOCK", 128)
    monkeypatch.setattr(order, "_SORTED_AT_ONCE", 200)
    monkeypatch.setattr(order, "_MOST_FILES", 5)
    monkeypatch.setattr(tensor_file, "AT_ONCE", 10_000)
    monkeypatch.setattr(tensor_file, "IN_MEMORY", 0)


@pytest.fixture(scope="module")
def frames():
    """A log with gaps, its users and its items, as frames."""
    draw = np.random.default_rng(3)
    inter = pd.DataFrame(
        {
            "user_id": draw.integers(0, 90, ROWS).astype(float),
            "item_id": [f"i{number:02}" for number in (40 * draw.random(ROWS) ** 2).astype(int)],
            "tab": draw.integers(1, 4, ROWS),
            "stars": draw.integers(1, 6, ROWS).astype(float),
            "click": draw.integers(0, 2, ROWS).astype(bool),
            "price": draw.random(ROWS).astype(np.float32),
            "pages": draw.integers(0, 100, ROWS).astype(float),
            "timestamp": pd.to_datetime(draw.integers(1_700_000_000, 1_700_000_400, ROWS), unit="s"),
            "tag": pd.Categorical.from_codes(draw.integers(-1, 5, ROWS), ["e", "d", "c", "b", "a"]),
        }
    )
    for field, rows in (("user_id", 7), ("item_id", 5), ("price", 200), ("pages", 50)):
        inter.loc[draw.choice(ROWS, rows, replace=False), field] = None
    users = pd.DataFrame({"user_id": range(80), "age": draw.integers(18, 60, 80), "city": draw.choice(list("xyz"), 80)})
    words = [" ".join(draw.choice(["p", "q", "r"], draw.integers(0, 3))) for _ in range(45)]
    items = pd.DataFrame({"item_id": [f"i{n:02}" for n in range(45)], "words": words, "size": draw.random(45)})
    return {"data": inter, "users": users, "items": items}


@pytest.fixture
def given(frames, tmp_path):
    """Settings with the tables as Parquet files."""
    paths = {}
    for key, frame in frames.items():
        paths[key] = str(tmp_path / f"{key}.parquet")
        frame.to_parquet(paths[key], index=False, row_group_size=400)
    return {
        **{**paths, "types": {"words": "token_seq", "age": "token"}, "dataset": "shop", "tasks": TASKS, "data_seed": 7},
        **{"scenario": {"field": "tab"}, "cache_dir": str(tmp_path / "cache"), "numerical_features": ["price", "size"]},
    }


def built(settings):
    from recbole.data import create_dataset

    from recbole_msr.config.build import build_config

    settings = dict(settings)
    dataset = create_dataset(build_config("SharedBottom", settings.pop("dataset"), settings))
    return dataset, dataset.build()


def by_atomic_files(given, tmp_path):
    folder = write_dataset(given, tmp_path / "atomic")
    kept = {key: value for key, value in given.items() if key not in ("data", "users", "items", "types")}
    return built({"load_col": None, **kept, "data_path": str(folder.parent), "cache_dir": str(tmp_path / "other")})


CONFIGURATIONS = {
    "by default": {},
    "in order of time, by user": {"eval_args": {"order": "TO", "group_by": "user", "split": {"RS": [0.6, 0.2, 0.2]}}},
    "in order of time": {"eval_args": {"order": "TO", "group_by": None, "split": {"RS": [8, 1, 1]}}},
    "at random": {"eval_args": {"order": "RO", "group_by": None, "split": {"RS": [0.7, 0.2, 0.1]}}},
    "by scenario": {"eval_args": {"order": "RO", "group_by": "scenario", "split": {"RS": [0.7, 0.2, 0.1]}}},
    "users held out": {"eval_args": {"order": "RO", "group_by": "cold_user", "split": {"RS": [0.6, 0.2, 0.2]}}},
    "items held out": {
        "eval_args": {"order": "TO", "group_by": "cold_item", "split": {"RS": [0.6, 0.2, 0.2]}},
        "rows_after": 1_700_000_200,
    },
    "last ones": {"eval_args": {"order": "TO", "split": {"LS": "valid_and_test"}}},
    "five-core": {"user_inter_num_interval": "[9,inf)", "item_inter_num_interval": "[15,200]"},
    "all users and items": {"filter_inter_by_user_or_item": False},
    "scenarios of users": {"scenario": {"field": "city"}},
    "groups of users": {"scenario": {"field": "age", "groups": {"thirty": [30]}, "other": "rest", "keep_field": False}},
    "bins of a number": {"scenario": {"field": "pages", "bins": [30, 60]}, "val_interval": None, "pages": True},
    "a single scenario": {"scenario": None},
    "later rows": {"rows_after": 1_700_000_200},
    "normalised": {"normalize_field": ["price", "pages", "size"], "numerical_features": ["price", "pages"]},
    "numbers to predict": {"tasks": {"long": {"field": "stars", "type": "number"}, **TASKS}},
    "some columns": {
        "load_col": {"inter": ["user_id", "item_id", "tab", "click", "stars"], "user": ["user_id", "age"]},
        "numerical_features": [],
    },
    "one scenario alone": {"only_scenario": 2, "eval_args": {"group_by": "scenario", "split": {"RS": [0.8, 0.1, 0.1]}}},
    "one of users": {"scenario": {"field": "city"}, "only_scenario": "x"},
}


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_a_table_gives_what_its_atomic_files_give(name, given, frames, tmp_path):
    changes = dict(CONFIGURATIONS[name])
    if changes.pop("pages", False):
        frames = {**frames, "data": frames["data"].fillna({"pages": 50.0})}
        frames["data"].to_parquet(given["data"], index=False)
    given = {**given, **changes}
    if given["scenario"] is None:
        del given["scenario"]
    ours, our_splits = built(place_tables(given))
    assert not list(Path(given["cache_dir"]).rglob("shop.inter")), "no atomic file of the interactions on the way"
    theirs, their_splits = by_atomic_files(given, tmp_path)
    for own, other in zip(our_splits, their_splits, strict=True):
        assert set(own.inter_feat.columns) == set(other.inter_feat.columns)
        for field in other.inter_feat.columns:
            np.testing.assert_array_equal(own.inter_feat[field].numpy(), other.inter_feat[field].numpy(), field)
        np.testing.assert_array_equal(own.row_times(), other.row_times())
        for feat in ("user_feat", "item_feat"):
            table = getattr(other, feat)
            for field, values in ({} if table is None else table.interaction).items():
                np.testing.assert_array_equal(getattr(own, feat)[field].numpy(), values.numpy(), field)
        batches = [PackedTable(split).batch(torch.arange(20).flip(0)) for split in (own, other)]
        for field, values in batches[1].interaction.items():
            assert torch.equal(batches[0][field], values), field
        names = [field for field, values in batches[1].interaction.items() if values.dim() == 1]
        wholes = [PackedTable(split).whole(names) for split in (own, other)]
        for field in names:
            assert torch.equal(wholes[0][field], wholes[1][field]), field
    assert list(ours.field2id_token) == list(theirs.field2id_token)
    for field, tokens in theirs.field2id_token.items():
        assert list(ours.field2id_token[field]) == list(tokens), field
    assert (ours.cells, ours.scenario_names, ours.label_scale) == (
        theirs.cells,
        theirs.scenario_names,
        theirs.label_scale,
    )
    assert ours.scenario_shares == theirs.scenario_shares
    for field, scale in theirs.number_scale.items():
        assert ours.number_scale[field] == pytest.approx(scale, rel=1e-12)
    reports = [dataset.row_report() for dataset in (ours, theirs)]
    for report in reports:  # the file has another name, and a place in it is a row instead of a line
        inter = report["files"]["inter"]
        report["counts"] = [inter["read"], inter["used"], *((d["rule"], d["rows"]) for d in inter["dropped"])]
    assert reports[0]["counts"] == reports[1]["counts"]
    assert reports[0]["splits"] == reports[1]["splits"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"rm_dup_inter": "first"}, "rm_dup_inter"),
        ({"val_interval": {"stars": "[2,5]"}}, "val_interval"),
        ({"tasks": {"kind": {"field": "stars", "type": "classes"}}}, "task 'kind', of classes"),
        ({"packed_cache": False}, "packed_cache: False"),
        ({"history": {"fields": ["item_id"]}, "TIME_FIELD": "timestamp"}, "history"),
    ],
)
def test_what_takes_atomic_files_says_so_and_gives_the_same(changes, reason, given, tmp_path, caplog):
    given = {**given, **changes}
    _, splits = built(place_tables(given))
    assert f"is read by way of an atomic file, for {reason}" in caplog.text
    _, others = by_atomic_files(given, tmp_path)
    for own, other in zip(splits, others, strict=True):
        for field in other.inter_feat.columns:
            np.testing.assert_array_equal(own.inter_feat[field].numpy(), other.inter_feat[field].numpy(), field)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("stars", np.nan, "stars"),
        ("click", 0.5, "field 'click' must hold 0 and 1, but holds 0.5 in 1 rows"),
        ("tab", None, "belong to no scenario"),
        ("item_id", "[PAD]", "'item_id' is '\\[PAD\\]'"),
        ("price", np.inf, "'price' is inf"),
    ],
)
def test_a_wrong_value_is_told_as_with_atomic_files(column, value, message, given, frames, tmp_path):
    frame = frames["data"].astype({"click": float}).astype({column: object})
    frame.loc[700, column] = value
    frame.convert_dtypes().to_parquet(given["data"], index=False)
    given = {**given, "tasks": {**TASKS, "like": {"field": "stars", "at_least": 3}}}
    errors = []
    for way in (lambda: built(place_tables(given)), lambda: by_atomic_files(given, tmp_path)):
        with pytest.raises(InputError, match=message) as error:
            way()
        told = re.sub(r"the first is .*?\)", "the first)", str(error.value))  # the line of another file
        errors.append(told.split("; ")[-1].split(": ", 1)[-1])
    assert errors[0] == errors[1]
    assert not list(Path(given["cache_dir"]).glob(".shop-*")), "no scratch files are left"


def test_a_second_process_finds_the_entry_and_a_changed_table_is_refused(given, caplog):
    placed = place_tables(given)
    first, _ = built(placed)
    again, splits = built(placed)
    assert again._restored
    assert len(splits[0].inter_feat) == first.split_sizes[0]
    Path(given["data"]).write_bytes(Path(given["users"]).read_bytes())
    with pytest.raises(InputError, match=r"data\.parquet has changed since the dataset was made of it"):
        built({**placed, "data_seed": 8})


def test_a_table_that_was_moved_is_found_at_its_new_place(given, tmp_path):
    place_tables(given)
    moved = Path(given["data"]).rename(tmp_path / "moved.parquet")
    _, splits = built(place_tables({**given, "data": str(moved)}))
    assert sum(map(len, splits)) > 1000


def test_files_of_a_folder_that_differ_are_named(given, frames, tmp_path):
    folder = tmp_path / "days"
    folder.mkdir()
    frames["data"].to_parquet(folder / "1.parquet", index=False)
    frames["data"].astype({"tab": str}).to_parquet(folder / "2.parquet", index=False)
    with pytest.raises(InputError, match=r"2\.parquet: column 'tab' is a .*string, and .*1\.parquet has it as int64"):
        place_tables({**given, "data": str(folder)})


def test_codes_are_those_of_the_text_of_cells():
    codes = TokenCodes("x")
    place = "row {}".format
    assert codes.encode(pa.array([5, 3, 5]), place).tolist() == [0, 1, 0]
    assert codes.encode(pa.array([3, None, 9]), place).tolist() == [1, -1, 2]
    assert codes.encode(pa.array([9.0, 1.5, float("nan")]), place).tolist() == [2, 3, -1]
    assert codes.encode(pa.array(["5", "", None, "1.5"]).dictionary_encode(), place).tolist() == [0, -1, -1, 3]
    assert codes.tokens == ["5", "3", "9", "1.5"]
    with pytest.raises(InputError, match="row 1: 'x' is 'a\\\\tb'"):
        codes.encode(pa.array(["a", "a\tb"]), place)


def test_numbers_are_those_that_the_text_of_cells_gives():
    assert numbers("x", pa.array([0.1, 2.0, None], pa.float32()), str).tolist()[:2] == [0.1, 2.0]
    assert np.isnan(numbers("x", pa.array([None, 1], pa.int8()), str)).tolist() == [True, False]
    assert np.isnan(numbers("x", pa.array(["NA", "1e3"]), str)).tolist() == [True, False]
    with pytest.raises(InputError, match="row 1: 'x' is a column of numbers, but holds 'b'"):
        numbers("x", pa.array(["1", "b"]), "row {}".format)


def test_cells_counted_by_blocks_are_those_of_all_rows():
    schema = Schema.from_config({"tasks": {"n": {"field": "n", "type": "number"}, "b": {"field": "b"}},
                                 "scenario": {"field": "s"}, "main_task": "b"})  # fmt: skip
    draw = np.random.default_rng(0)
    scenario, split = draw.integers(1, 3, 300), draw.integers(0, 3, 300)
    missing = schema.tasks[0].missing_label
    numbers_ = np.where(draw.random(300) < 0.2, missing, draw.integers(0, 4, 300)).astype(np.float32)
    binary = draw.integers(-1, 2, 300).astype(np.float32)
    counts = CellCounts(schema, 2)
    for part in np.split(np.arange(300), [50, 180]):
        counts.add(split[part], scenario[part], {"n": numbers_[part], "b": binary[part]})
    found = counts.cells()
    for number in range(3):
        for index in range(2):
            inside = (split == number) & (scenario == index + 1)
            assert found["rows"][number][index] == inside.sum()
            own = numbers_[inside & (numbers_ != missing)]
            assert found["labels"]["n"][number][1][index] == (own > own.min()).sum()
            for value in (0, 1):
                assert found["labels"]["b"][number][value][index] == (binary[inside] == value).sum()
