"""YAML files hold plain values, every key once; names stay as they are written."""

import pytest

from recbole_msr.errors import InputError
from recbole_msr.files.yaml import (
    LARGEST,
    parse_argument,
    parse_yaml,
    python_literal,
    read_defaults,
    read_yaml,
    write_yaml_text,
)

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12)
)


def _refused(text):
    with pytest.raises(InputError) as error:
        parse_yaml(text, "shop.yaml")
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: 1\nb: 2\na: 3\n", "shop.yaml:3: the key 'a' stands here already, in line 1"),
        ("tasks:\n  click: {field: x}\n  buy: {field: y}\n  click: {field: z}\n", "shop.yaml:4: .* 'click'"),
        ("a: {1: x, 1.0: y}\n", "the key '1.0' stands here already"),
        ("a: !!python/name:os.system ''\n", "shop.yaml:1: .*python/name:os.system.*only plain values"),
        ("a: !!python/object/apply:os.system ['true']\n", "only plain values"),
        ("a: !!set {x, y}\n", "only plain values"),
        ("a: " + "[" * 5000, "nested deeper than 64 levels"),
        ("a: &a [*a]\n", "an anchor contains itself"),
        (BOMB, "its anchors stand for 1,234,567,901,245 values"),
        ("a: " + "9" * 5000, "limit"),
        ("? [1]\n: 2\n", "a key must be a word or a number"),
        ("a: \x00\n", "special characters are not allowed"),
        ("a: [1\n", "shop.yaml:2"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else None,
)
def test_what_is_no_plain_yaml_is_refused_with_its_line(text, told):
    import re

    assert re.search(told, _refused(text))


def test_anchors_that_save_typing_are_read():
    text = "sizes: &sizes [64, 32]\nexpert: *sizes\nbase: &base {a: 1, b: 2}\nother: {<<: *base, b: 3}\n"
    assert parse_yaml(text) == {
        "sizes": [64, 32],
        "expert": [64, 32],
        "base": {"a": 1, "b": 2},
        "other": {"a": 1, "b": 3},
    }


def test_numbers_are_as_recbole_reads_them_and_dates_are_text():
    assert parse_yaml("[1e-3, 1.5, 010, 1_000, .inf, yes, ~, 2020-01-01]") == [
        0.001, 1.5, 8, 1000, float("inf"), True, None, "2020-01-01",
    ]  # fmt: skip


def test_names_stay_as_they_are_written():
    text = """
    main_task: 1e3
    only_scenario: NO
    tasks: {1e3: {field: YES}, 01: on}
    scenario: {field: no, groups: {nordic: [NO, SE, 01], off: [12:30, 3]}, other: y}
    """
    content = parse_yaml(text)
    assert content["main_task"] == "1e3"
    assert content["only_scenario"] == "NO"
    assert content["tasks"] == {"1e3": {"field": "YES"}, "01": "on"}
    assert content["scenario"]["field"] == "no"
    assert content["scenario"]["groups"] == {"nordic": ["NO", "SE", "01"], "off": ["12:30", 3]}
    assert content["scenario"]["other"] == "y"
    assert parse_yaml("only_scenario: ~") == {"only_scenario": None}
    assert parse_yaml("epochs: 010\nflag: NO") == {"epochs": 8, "flag": False}  # no names: as YAML has them


def test_what_is_written_is_read_back_to_the_same_in_the_same_order():
    content = {"z": "1e3", "click": {"b": "NO", "a": "01"}, "1e5": [2.5, "~", None, True, "é", "=1"], "a": {}}
    read = parse_yaml(write_yaml_text(content))
    assert read == content
    assert list(read) == list(content)
    assert list(read["click"]) == ["b", "a"]
    assert parse_yaml(write_yaml_text(content, flow=True, width=10**6)) == content


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("metrics", "['AUC']", ["AUC"]),
        ("metrics", "[AUC, LogLoss]", ["AUC", "LogLoss"]),
        ("x", "None", None),
        ("x", "True", True),
        ("x", "false", False),
        ("x", "1e-3", 0.001),
        ("x", "(1, 2)", (1, 2)),
        ("gpu_id", "0,1", (0, 1)),
        ("x", "{'a': 1}", {"a": 1}),
        ("x", '"AUC"', "AUC"),
        ("x", "18-25", "18-25"),
        ("x", "2*3", "2*3"),
        ("x", "__import__('os').getcwd()", "__import__('os').getcwd()"),
        ("x", "exit(0)", "exit(0)"),
        ("x", "'12", "'12"),
        ("main_task", "value", "value"),
        ("main_task", "1e3", "1e3"),
        ("only_scenario", "NO", "NO"),
        ("only_scenario", "None", None),
        ("only_scenario", "'None'", "None"),
        ("tasks", "{NO: {field: 01}}", {"NO": {"field": "01"}}),
    ],
)
def test_an_argument_is_a_literal_or_the_text(key, text, value):
    read = parse_argument(key, text)
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize("text", ["{a: 1, a: 2}", "!!python/name:os.system x", "[" * 500 + "]" * 500])
def test_an_argument_that_is_no_plain_value_is_refused(text):
    with pytest.raises(InputError, match="--tasks"):
        parse_argument("tasks", text)


def test_a_literal_is_never_evaluated():
    for text in ("len([])", "value", "key", "self", "[len([])]", "(" * 5000, "-" * 100_000 + "1", "1" * 5000):
        assert python_literal(text) == text


def test_files_that_are_no_settings(tmp_path):
    path = tmp_path / "shop.yaml"
    for content, told in (
        (b"caf\xe9: 1\n", "line 1 is not UTF-8"),
        (b"- 1\n- 2\n", "must hold keys and values"),
        (b"1: 2\n", "the key 1 is no word"),
        (b"#" * (LARGEST + 1), "more than 10,000,000 bytes"),
    ):
        path.write_bytes(content)
        with pytest.raises(InputError, match=told):
            read_yaml(path)
    path.write_bytes(b"\xef\xbb\xbfepochs: 3\n")
    assert read_yaml(path) == {"epochs": 3}
    for missing in (tmp_path, tmp_path / "nowhere.yaml", f"{tmp_path}/a\x00b", f"{tmp_path}/\udcff"):
        with pytest.raises(InputError, match="cannot read the configuration file"):
            read_yaml(missing)


def test_defaults_are_each_callers_own(tmp_path):
    path = tmp_path / "HiNet.yaml"
    path.write_text("sizes: [64, 32]\ntower: {dropout: 0.1}\n")
    first = read_defaults(path)
    first["sizes"].append(16)
    first["tower"]["dropout"] = 0.9
    first["more"] = True
    assert read_defaults(path) == {"sizes": [64, 32], "tower": {"dropout": 0.1}} == read_yaml(path)


def test_defaults_are_read_again_after_their_file_has_changed(tmp_path):
    path = tmp_path / "HiNet.yaml"
    path.write_text("epochs: 10\n")
    assert read_defaults(path) == {"epochs": 10}
    path.write_text("epochs: 200\n")
    assert read_defaults(path) == {"epochs": 200}
    path.unlink()
    with pytest.raises(InputError, match=r"HiNet\.yaml"):
        read_defaults(path)


def test_defaults_are_refused_for_what_any_file_is_refused_for(tmp_path):
    path = tmp_path / "HiNet.yaml"
    path.write_text("epochs: 10\nepochs: 20\n")
    for _ in range(2):
        with pytest.raises(InputError, match=r"HiNet\.yaml:2: the key 'epochs' stands here already, in line 1"):
            read_defaults(path)
