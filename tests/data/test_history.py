"""Histories: of every row the strictly earlier training rows of its user, and never anything else."""

import numpy as np
import pytest
import torch

from recbole_msr.data.history import HISTORY_FIELD, HistoryRows, last_rows
from recbole_msr.errors import InputError

N, USERS = 300, 12
SETTINGS = {
    "scenario": {"field": "tab"},
    "tasks": {"click": {"field": "clicked"}, "like": {"field": "liked", "missing": "ignore"}},
    "use_gpu": False,
    "state": "ERROR",
    "packed_cache": False,
}
SPLITS = {
    "random": {"split": {"RS": [0.7, 0.15, 0.15]}, "group_by": None, "order": "RO", "mode": "labeled"},
    "in time": {"split": {"RS": [0.7, 0.15, 0.15]}, "group_by": "user", "order": "TO", "mode": "labeled"},
    "by scenario": {"split": {"RS": [0.7, 0.15, 0.15]}, "group_by": "scenario", "order": "RO", "mode": "labeled"},
}


def _log():
    """Rows with many ties; item n is that of row n alone, so that it names the row."""
    draw = np.random.default_rng(3)
    return {
        "user_id:token": draw.integers(USERS, size=N),
        "item_id:token": np.arange(N),
        "tab:token": draw.choice(["a", "b", "c"], N),
        "clicked:float": draw.integers(2, size=N),
        "liked:float": draw.choice(["0", "1", ""], N),
        "timestamp:float": 1_700_000_000 + draw.integers(40, size=N),
    }


@pytest.fixture
def build(tmp_path):
    """build(log, history, ...) -> the three splits."""
    from recbole.config import Config
    from recbole.data import create_dataset

    folder = tmp_path / "shop"
    folder.mkdir()
    (folder / "shop.item").write_text(
        "item_id:token\tshelf:token\n" + "".join(f"{n}\ts{n % 7}\n" for n in range(N))
    )  # fmt: skip

    def go(log, history, **settings):
        lines = ["\t".join(log), *("\t".join(map(str, row)) for row in zip(*log.values(), strict=True))]
        (folder / "shop.inter").write_text("\n".join(lines) + "\n")
        given = SETTINGS | {"data_path": str(tmp_path), "history": history} | settings
        return create_dataset(Config(model="HiNet", dataset="shop", config_dict=given)).build()

    return go


def _files_rows(split):
    return [int(i) for i in split.field2id_token["item_id"][split.inter_feat["item_id"].numpy()]]


def _histories(split, length=10**6):
    """Each row of a split, as its number in the file -> the numbers of the rows in its history, the latest first."""
    tokens = split.field2id_token["item_id"]
    rows, there = last_rows(split.inter_feat[HISTORY_FIELD], length)
    items = split.history.values["item_id"][rows]
    return {
        own: [int(i) for i in tokens[found[some].numpy()]]
        for own, found, some in zip(_files_rows(split), items, there, strict=True)
    }


def _slow(log, train, row, scenario="all", of=None, order="time"):
    """Return the rows of a history, in any order, by looking at every training row."""
    when = np.arange(N) if order == "position" else log["timestamp:float"]
    return {
        other
        for other in train
        if log["user_id:token"][other] == log["user_id:token"][row]
        and when[other] < when[row]
        and (scenario == "all" or log["tab:token"][other] == log["tab:token"][row])
        and (of is None or log[{"click": "clicked:float", "like": "liked:float"}[of]][other] in (1, "1"))
    }


@pytest.mark.parametrize("how", SPLITS.values(), ids=SPLITS)
@pytest.mark.parametrize(
    "declared", [{}, {"scenario": "own"}, {"of": "click"}, {"of": "like", "scenario": "own"}, {"order": "position"}]
)
def test_a_history_is_what_a_loop_over_all_training_rows_finds(build, how, declared):
    log = _log()
    splits = build(log, {"fields": ["item_id"]} | declared, eval_args=how)
    train = _files_rows(splits[0])
    for split in splits:
        for row, found in _histories(split).items():
            assert len(found) == len(set(found))
            assert set(found) == _slow(log, train, row, **declared)


def test_the_latest_rows_come_first_and_no_more_than_the_length(build):
    log = _log()
    split = build(log, {"fields": ["item_id"]})[0]
    whole = _histories(split)
    for row, found in _histories(split, length=3).items():
        assert found == whole[row][:3]
        times = log["timestamp:float"][whole[row]]
        assert (np.diff(times) <= 0).all()


def test_no_later_row_no_validation_or_test_row_and_no_label_of_them_changes_a_history(build):
    """Of a split in time, everything after the training rows is replaced: the histories of training rows stay."""
    log, declared = _log(), {"fields": ["item_id"], "of": "click"}
    splits = build(log, declared, eval_args=SPLITS["random"])
    held_out = [row for split in splits[1:] for row in _files_rows(split)]
    before = [_histories(split) for split in splits]
    for name in ("clicked:float", "liked:float"):
        for row in held_out:
            log[name][row] = 1 - int(log["clicked:float"][row])
    after = [_histories(split) for split in build(log, declared, eval_args=SPLITS["random"])]
    assert after == before

    latest = log["timestamp:float"].max()
    for row in held_out:  # their time goes beyond all others
        log["timestamp:float"][row] = latest + 1
    moved = [_histories(split) for split in build(log, declared, eval_args=SPLITS["random"])]
    assert moved[0] == before[0]
    assert moved[1] != before[1]


def test_a_later_training_row_changes_no_earlier_history(build):
    log = _log()
    splits = build(log, {"fields": ["item_id", "shelf"]})
    before = _histories(splits[0])
    last = max(_files_rows(splits[0]), key=lambda row: log["timestamp:float"][row])
    log["user_id:token"][last] = (log["user_id:token"][last] + 1) % USERS
    after = _histories(build(log, {"fields": ["item_id", "shelf"]})[0])
    earlier = [row for row in before if log["timestamp:float"][row] <= log["timestamp:float"][last] and row != last]
    assert {row: after[row] for row in earlier} == {row: before[row] for row in earlier}


def test_a_cached_dataset_has_the_same_histories(build, tmp_path):
    given = {"packed_cache": True, "cache_dir": str(tmp_path / "cache")}
    log, declared = _log(), {"fields": ["item_id"], "length": 5}
    first = [_histories(split) for split in build(log, declared, **given)]
    again = [_histories(split) for split in build(log, declared | {"length": 9}, **given)]
    assert again == first
    own = [_histories(split) for split in build(log, declared | {"scenario": "own"}, **given)]
    assert own != first


@pytest.mark.parametrize("scenario", ["all", "own"])
def test_with_one_scenario_histories_are_of_its_rows(build, scenario):
    log = _log()
    splits = build(log, {"fields": ["item_id"], "scenario": scenario}, only_scenario="b", eval_args=SPLITS["random"])
    train = _files_rows(splits[0])
    assert {log["tab:token"][row] for row in train} == {"b"}
    for split in splits:
        for row, found in _histories(split).items():
            assert set(found) == _slow(log, train, row)


@pytest.mark.parametrize(
    ("declared", "settings", "message"),
    [
        ({"fields": ["itm_id"]}, {}, "there is no feature field 'itm_id'; fields of histories are item_id, shelf"),
        ({"fields": ["user_id"]}, {}, "'user_id' is the same in all rows of a user"),
        ({"fields": ["item_id"], "length": 0}, {}, "history: length must be at least 1, got 0"),
        ({"fields": []}, {}, "history: needs fields"),
        ({"fields": ["item_id"], "lenght": 5}, {}, "history: unknown key 'lenght'"),
        ({"fields": ["item_id"], "of": "buy"}, {}, "of: 'buy' is no binary task; there are click, like"),
        ({"fields": ["item_id"]}, {"unload_col": {"inter": ["timestamp"]}}, "needs the time of every interaction"),
        ("item_id", {}, "history must be a mapping such as {fields: \\[item_id\\], length: 50}"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_one_clear_line(build, declared, settings, message):
    with pytest.raises(InputError, match=message):
        build(_log(), declared, **({"load_col": None} | settings))


def test_a_row_without_a_time_is_refused_with_the_count(build):
    log = _log()
    log["timestamp:float"] = log["timestamp:float"].astype(object)
    log["timestamp:float"][5] = ""
    with pytest.raises(InputError, match=r"'timestamp' is empty in 1 of 300 interactions.*order: position"):
        build(log, {"fields": ["item_id"]})


def test_a_user_or_scenario_that_no_row_has_finds_nothing():
    ids = torch.tensor([1, 1, 2])
    rows = HistoryRows.from_rows(ids, torch.tensor([1, 2, 1]), torch.arange(3), np.array([0.0, 1.0, 2.0]), {})
    found = rows.find(torch.tensor([0, 9, 1, 1, 1]), torch.tensor([1, 1, 3, 0, 2]), np.full(5, np.inf))
    assert (found[:, 1] - found[:, 0]).tolist() == [0, 0, 0, 0, 1]
