import numpy as np
import pytest

from recbole_msr.errors import InputError
from recbole_msr.options import Options


def test_values_of_the_right_kind_are_returned_as_plain_python():
    option = Options({"k": np.int64(5), "p": 1, "on": False, "act": "relu", "sizes": (np.int64(8), 4), "none": []})
    assert option.integer("k") == 5
    assert type(option.integer("k")) is int
    assert option.number("p", at_least=0) == 1.0
    assert type(option.number("p")) is float
    assert option.flag("on") is False
    assert option.choice("act", ["relu", "gelu"]) == "relu"
    assert option.sizes("sizes") == [8, 4]
    assert option.sizes("none", may_be_empty=True) == []
    assert Options({"fields": ("b", "a")}).words("fields", "abc") == ["b", "a"]
    assert option.words("none", "abc") == []


@pytest.mark.parametrize(
    ("value", "read", "message"),
    [
        (0, lambda o: o.integer("key"), "'key' must be an integer >= 1, got 0"),
        (True, lambda o: o.integer("key"), "'key' must be an integer >= 1, got True"),
        (2.0, lambda o: o.integer("key"), "'key' must be an integer >= 1, got 2.0"),
        (None, lambda o: o.integer("key"), "'key' must be an integer >= 1, but it is not set"),
        (1, lambda o: o.number("key", at_least=0, below=1), "'key' must be a number >= 0 and < 1, got 1"),
        (float("nan"), lambda o: o.number("key"), "'key' must be a number, got nan"),
        ("yes", lambda o: o.flag("key"), "'key' must be true or false, got 'yes'"),
        (
            "rleu",
            lambda o: o.choice("key", ["relu", "tanh"]),
            "'key' must be one of relu, tanh, got 'rleu'; did you mean 'relu'?",
        ),
        (
            [],
            lambda o: o.sizes("key"),
            "'key' must be a non-empty list of integers >= 1, such as [128, 64], got []",
        ),
        ("a", lambda o: o.words("key", "ab"), "'key' must be a list of different words of a, b, got 'a'"),
        (["a", "a"], lambda o: o.words("key", "ab"), "'key' must be a list of different words of a, b, got ['a', 'a']"),
        (["user"], lambda o: o.words("key", ["user_id", "age"]), "got ['user']; did you mean 'user_id'?"),
        ([8, 0], lambda o: o.sizes("key"), "such as [128, 64], got [8, 0]"),
        (128, lambda o: o.sizes("key"), "such as [128, 64], got 128"),
        ("128", lambda o: o.sizes("key", may_be_empty=True), "such as [128, 64], or [], got '128'"),
    ],
)
def test_a_wrong_value_is_refused_with_what_would_be_right(value, read, message):
    with pytest.raises(InputError) as error:
        read(Options({"key": value}))
    assert message in str(error.value)
