"""Times keep their 64 bits up to the sort: seconds and milliseconds since 1970 are more than float32 can tell apart."""

import numpy as np
import pytest
import torch

from recbole_msr.errors import InputError
from recbole_msr.prompts.facts import Facts

SETTINGS = {
    "scenario": {"field": "country"},
    "tasks": {"click": {"field": "clicked"}},
    "use_gpu": False,
    "state": "ERROR",
}
SECONDS, MILLISECONDS = 1_700_000_000, 1_700_000_000_000
SPLITS = {
    "ratios": {"split": {"RS": [0.8, 0.1, 0.1]}, "group_by": None},
    "ratios by user": {"split": {"RS": [0.8, 0.1, 0.1]}, "group_by": "user"},
    "ratios by scenario": {"split": {"RS": [0.8, 0.1, 0.1]}, "group_by": "scenario"},
    "last of every user": {"split": {"LS": "valid_and_test"}, "group_by": "user"},
    "one time for all": {"split": {"TS": [0.7, 0.1, 0.2]}, "group_by": "user"},
}


@pytest.fixture
def start(tmp_path):
    """start(times, ...) -> the splits of 200 interactions of ten users, each item once, row n at times[n]."""
    from recbole.config import Config
    from recbole.data import create_dataset

    def go(times, kind="float", **settings):
        draw = np.random.default_rng(4)
        folder = tmp_path / "shop"
        folder.mkdir(exist_ok=True)
        lines = [f"user_id:token\titem_id:token\tcountry:token\tclicked:float\ttimestamp:{kind}"]
        for row, time in enumerate(times):
            lines.append(f"u{draw.integers(10)}\ti{row}\t{'FR' if row % 3 else 'DE'}\t{draw.integers(2)}\t{time}")
        (folder / "shop.inter").write_text("\n".join(lines) + "\n")
        (folder / "shop.item").write_text("item_id:token\ttitle:token\n" + "".join(f"i{n}\t{n}\n" for n in range(200)))
        given = SETTINGS | {"data_path": str(tmp_path), "packed_cache": False} | settings
        return create_dataset(Config(model="HiNet", dataset="shop", config_dict=given)).build()

    return go


def _rows(split):
    """Which row of the file each row of a split was."""
    return np.array([int(i[1:]) for i in split.field2id_token["item_id"][split.inter_feat["item_id"].numpy()]])


def _ordered(how):
    return {"eval_args": how | {"order": "TO", "mode": "labeled"}}


def _in_random_order(first):
    return first + np.random.default_rng(5).permutation(200)


@pytest.mark.parametrize("first", [SECONDS, MILLISECONDS])
@pytest.mark.parametrize("how", SPLITS.values(), ids=SPLITS)
@pytest.mark.parametrize("scaled", [False, True])
def test_a_split_in_time_is_that_of_the_whole_numbers(how, first, scaled, start):
    """The same order with the numbers 0 to 199, which float32 holds, gives the same rows."""
    times = _in_random_order(first)
    expected = [_rows(split).tolist() for split in start(times - first, **_ordered(how))]
    own = {"normalize_field": ["timestamp"]} if scaled else {}
    splits = start(times, **_ordered(how), **own)
    assert [_rows(split).tolist() for split in splits] == expected
    train, valid, test = (times[_rows(split)] for split in splits)
    if how["group_by"] is None:
        assert train.max() < valid.min() <= valid.max() < test.min()


def test_later_rows_are_not_trained_on(start):
    splits = start([SECONDS + 199 - n for n in range(200)], **_ordered(SPLITS["ratios"]))
    assert [sorted(_rows(split)) for split in splits[1:]] == [list(range(20, 40)), list(range(20))]


@pytest.mark.parametrize("cached", [False, True])
def test_histories_are_newest_first(cached, start, tmp_path):
    times = _in_random_order(MILLISECONDS)
    given = {"packed_cache": cached, "cache_dir": str(tmp_path / "cache")}
    for _ in range(2):  # the second start reads what the first has kept
        train = start(times, **given)[0]
        facts = Facts(train)
        assert train.row_times().tolist() == times[_rows(train)].tolist()
        for index in range(len(facts.users)):
            shown = [int(item.id[1:]) for part in facts.history(index, 50) for item in part.liked]
            assert len(shown) > 2
            by_scenario = [[row for row in shown if (row % 3 == 0) == german] for german in (True, False)]
            for rows in by_scenario:
                assert [times[row] for row in rows] == sorted((times[row] for row in rows), reverse=True)


def test_batches_hold_what_they_held(start):
    train = start(_in_random_order(SECONDS))[0]
    batch = train[torch.arange(3)]
    assert batch["timestamp"].dtype == torch.float32
    assert set(batch.columns) == {"user_id", "item_id", "timestamp", "title", "scenario", "label_click"}


def test_times_that_cannot_order_rows_are_an_error(start):
    times = [SECONDS + n for n in range(200)]
    with pytest.raises(InputError, match=r"'timestamp' is a token: write timestamp:float"):
        start(times, kind="token", **_ordered(SPLITS["ratios"]))
    with pytest.raises(InputError, match=r"'timestamp' is empty in 2 of 200"):
        start([*times[:100], "", "", *times[102:]], **_ordered(SPLITS["ratios"]))
    with pytest.raises(InputError, match=r"'timestamp' is infinite in 1 of 200 rows"):
        start([*times[:100], "inf", *times[101:]], **_ordered(SPLITS["ratios"]))
    with pytest.raises(InputError, match=r"every 'timestamp' is 1700000000"):
        start([SECONDS] * 200, **_ordered(SPLITS["ratios"]))
