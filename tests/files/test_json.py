"""JSON that is read back: damage and other shapes are one line that names the file and the place."""

import json

import pytest

from recbole_msr.errors import InputError
from recbole_msr.files.json import mismatch, read_json

SHAPE = {"seed": int, "names": [str], "best": ({"value": float}, None), "note?": str | None, "rows": {str: int}}
GOOD = {"seed": 1, "names": ["a"], "best": {"value": 0.5}, "rows": {"train": 3}, "further": []}


@pytest.mark.parametrize("content", [GOOD, GOOD | {"best": None}, GOOD | {"note": None}, GOOD | {"best": {"value": 1}}])
def test_what_has_the_shape_is_read(content, tmp_path):
    (tmp_path / "x.json").write_text(json.dumps(content))
    assert read_json(tmp_path / "x.json", SHAPE) == content


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "cannot be read as JSON"),
        (b"[]", "it must be a mapping, got list"),
        (b"null", "it must be a mapping, got null"),
        (b"7", "it must be a mapping, got 7"),
        (b"{}", "it lacks the key 'seed'"),
        (b'{"seed": NaN}', "it holds NaN"),
        (b"\xff\xfe", "cannot be read as JSON"),
        (b"[" * 100_000, "nested deeper"),
        (json.dumps(GOOD | {"seed": True}).encode(), "'seed' must be a whole number, got True"),
        (json.dumps(GOOD | {"seed": 1.5}).encode(), "'seed' must be a whole number, got 1.5"),
        (json.dumps(GOOD | {"names": ["a", 2]}).encode(), r"'names\[1\]' must be text, got 2"),
        (json.dumps(GOOD | {"best": {"value": "high"}}).encode(), "'best.value' must be a finite number, got 'high'"),
        (json.dumps(GOOD | {"rows": {"train": None}}).encode(), "'rows.train' must be a whole number, got null"),
        (json.dumps(GOOD | {"note": 3}).encode(), "'note' must be text or null, got 3"),
    ],
)
def test_what_has_not_is_one_line_that_names_file_and_place(content, told, tmp_path):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(InputError, match=told) as error:
        read_json(tmp_path / "x.json", SHAPE)
    assert str(error.value).startswith(f"{tmp_path / 'x.json'} is damaged")
    assert "\n" not in str(error.value)


def test_deep_nesting_is_refused_where_any_mapping_would_do(tmp_path):
    (tmp_path / "x.json").write_text('{"a":' * 100 + "1" + "}" * 100)
    with pytest.raises(InputError, match="nested deeper than 64 levels"):
        read_json(tmp_path / "x.json")


def test_infinities_have_no_shape():
    assert mismatch({"value": float("inf")}, {"value": float}) == "'value' must be a finite number, got inf"
