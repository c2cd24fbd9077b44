"""Sequences that are empty everywhere, or cut to nothing, are refused by name; the rest of them is read as ever."""

import pytest

from recbole_msr.errors import InputError

LOAD = {
    "inter": ["user_id", "item_id", "rating", "timestamp"],
    "user": ["user_id", "age", "gender"],
    "item": ["item_id", "class"],
}


@pytest.mark.parametrize("given", [{"class": 0}, {"class": -1}, {"class": 1.5}, {"class": "x"}])
def test_a_length_is_a_whole_number_from_one(make_dataset, given):
    with pytest.raises(InputError, match="seq_len"):
        make_dataset(load_col=LOAD, seq_len=given)


def test_a_length_cuts(make_dataset):
    assert make_dataset(load_col=LOAD, seq_len={"class": 2})[1].item_feat["class"].shape[1] == 2


@pytest.mark.parametrize("kind", ["token_seq", "float_seq"])
def test_a_column_that_is_empty_everywhere_is_named(make_dataset, tiny_data, kind):
    path = tiny_data / "tiny" / "tiny.item"
    rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
    lines = [f"item_id:token\tclass:{kind}", *(f"{row[0]}\t" for row in rows[1:])]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    with pytest.raises(InputError, match="'class'"):
        make_dataset(load_col=LOAD)
