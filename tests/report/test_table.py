import io

import numpy as np
import pytest

from recbole_msr.evaluation.cells import Cell, Evaluation, evaluate_cells
from recbole_msr.report import markdown, print_result


def _cell(auc, rows=1000, gauc=None, logloss=0.5, ece=0.02, pcoc=1.25):
    return Cell(rows, rows // 4, {"auc": auc, "gauc": gauc, "logloss": logloss, "ece": ece, "pcoc": pcoc})


def _undefined(rows, reason, logloss=None, ece=None):
    return Cell(rows, 0, {"auc": None, "gauc": None, "logloss": logloss, "ece": ece, "pcoc": None}, reason)


def _result(**changes):
    cells = {
        "age<25": {"click": _cell(0.71, gauc=0.61), "like": _cell(0.72, gauc=0.62)},
        "[25,35)": {
            "click": _cell(0.73, gauc=0.63),
            "like": _undefined(9, "one class: all 0", 0.01, 0.03),
        },
        "a|b": {"click": _cell(0.75), "like": _undefined(0, "no rows")},
    }
    pooled = {"click": _cell(0.7411, 3012, 0.64), "like": _cell(0.77, 1009, 0.65)}
    return Evaluation("click", pooled, cells | changes)


def _single():
    predictions = np.array([[0.2], [0.4], [0.3], [0.9]])
    labels = np.array([[0], [0], [1], [1]])
    return evaluate_cells(predictions, labels, np.ones(4, int), None, ["all"], ["label"], "label")


def _printed(result, width=80, title="HiNet, test"):
    out = io.StringIO()
    print_result(result, title, file=out, width=width)
    return out.getvalue()


def _fields(text, *start):
    """What follows the words `start` in their line."""
    (found,) = [line for line in text.splitlines() if line.split()[: len(start)] == list(start)]
    return found.split()[len(start) :]


def test_a_line_for_every_cell_then_all_rows_macro_and_worst():
    text = _printed(_result())
    assert "HiNet, test" in text
    assert _fields(text, "age<25", "click") == ["1000", "25.0%", "0.7100", "0.6100", "0.5000", "0.0200", "1.2500"]
    assert _fields(text, "all", "rows", "like")[:5] == ["1009", "25.0%", "0.7700", "0.6500", "0.5000"]
    assert _fields(text, "macro", "mean", "click") == ["0.7300", "0.6200", "0.5000", "0.0200", "1.2500"]
    assert _fields(text, "macro", "mean", "all")[0] == "0.7275"
    assert _fields(text, "worst:", "age<25", "click")[2] == "0.7100"


def test_undefined_cells_are_named_with_their_reason():
    text = _printed(_result())
    assert _fields(text, "[25,35)", "like") == ["9", "0.0%", "–", "–", "0.0100", "0.0300", "–"]  # noqa: RUF001
    joined = " ".join(text.split())
    assert "[25,35)/like (one class: all 0)" in joined
    assert "a|b/like (no rows)" in joined
    assert "a|b/click (GAUC: no user has both classes)" in joined
    assert "no declared scenario, counted in 'all rows' only: 12 (click)" in joined


def test_segments_stand_behind_all_rows_and_what_is_undefined_is_told():
    result = _result()
    of = {"click": _cell(0.71, gauc=0.61), "like": _undefined(5, "one class: all 0")}
    text = _printed(Evaluation("click", result.pooled, result.cells, {"item_rows:1-5": of}))
    lines = [line.split()[0] for line in text.splitlines() if line.strip()]
    assert lines.index("all") < lines.index("item_rows:1-5") < lines.index("macro")
    assert _fields(text, "item_rows:1-5", "click")[2] == "0.7100"
    assert "item_rows:1-5/like (one class: all 0)" in " ".join(text.split())
    assert [_fields(text, "macro", "mean", "click")] == [_fields(_printed(result), "macro", "mean", "click")]


@pytest.mark.parametrize("width", [60, 80, 200])
def test_fits_the_terminal_and_keeps_the_numbers(width):
    name = "a scenario with a name that is far too long for any terminal " * 2
    text = _printed(_result(**{name: {"click": _cell(0.6543, 1), "like": _cell(0.6, 10**7)}}), width)
    assert max(map(len, text.splitlines())) <= width
    assert "0.6543" in text
    assert "10000000" in text


@pytest.mark.parametrize("width", [60, 72])
def test_a_narrow_terminal_gets_the_metrics_in_parts_with_their_names(width):
    text = _printed(_result(), width)
    assert [line.split()[4:] for line in text.splitlines() if "Positive" in line] == [
        ["AUC", "GAUC", "LogLoss"],
        ["ECE", "PCOC"],
    ]
    lines = [line.split() for line in text.splitlines() if line.split()[:2] == ["age<25", "click"]]
    assert lines == [
        ["age<25", "click", "1000", "25.0%", "0.7100", "0.6100", "0.5000"],
        ["age<25", "click", "1000", "25.0%", "0.0200", "1.2500"],
    ]
    assert text.count("HiNet, test") == text.count("a|b/like (no rows)") == 1


def test_a_file_gets_no_colours(monkeypatch):
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    assert "\x1b" not in _printed(_result())


def test_one_scenario_and_one_task_are_one_line():
    text = _printed(_single(), title=None)
    assert _fields(text, "all", "label")[:3] == ["4", "50.0%", "0.7500"]
    assert not any(word in text for word in ("all rows", "macro", "worst", "GAUC", "undefined"))


def test_nothing_defined_still_prints():
    empty = {"click": _undefined(0, "no rows")}
    text = _printed(Evaluation("click", empty, {"a": empty, "b": empty}))
    assert "undefined, in no mean: a/click, b/click (no rows)" in " ".join(text.split())


def test_markdown_is_a_table_with_its_notes():
    lines = markdown(_result()).splitlines()
    assert lines[0] == "| Scenario | Task | Rows | Positive | AUC | GAUC | LogLoss | ECE | PCOC |"
    assert lines[1] == "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    assert "| age<25 | click | 1000 | 25.0% | 0.7100 | 0.6100 | 0.5000 | 0.0200 | 1.2500 |" in lines
    assert "| [25,35) | like | 9 | 0.0% | undefined | undefined | 0.0100 | 0.0300 | undefined |" in lines
    assert any(line.startswith(r"| a\|b | click |") for line in lines)
    assert "- undefined, in no mean: [25,35)/like (one class: all 0)" in lines
    assert "\n- " not in markdown(_single())


def test_the_worst_cells_of_other_metrics_are_named_where_auc_has_another():
    def row(auc, pcoc):
        return {"click": _cell(auc, gauc=0.6, ece=0.01, pcoc=pcoc)}

    cells = {"young": row(0.7, 1.0), "mid": row(0.8, 1.8), "old": row(0.9, 0.5)}  # 0.5 is farther from 1 than 1.8 is
    text = " ".join(_printed(Evaluation("click", {"click": _cell(0.8)}, cells)).split())
    assert "worst: young click" in text
    assert "worst of other metrics: PCOC 0.5000 (old/click)" in text
    assert "- worst of other metrics: PCOC 0.5000 (old/click)" in markdown(
        Evaluation("click", {"click": _cell(0.8)}, cells)
    )


def test_a_result_of_a_version_with_fewer_metrics_says_which_it_lacks():
    written = _result().to_dict()
    for row in [written["pooled"], *written["cells"].values()]:
        for cell in row.values():
            del cell["ece"], cell["pcoc"]
    text = _printed(Evaluation.from_dict(written))
    assert _fields(text, "age<25", "click") == ["1000", "25.0%", "0.7100", "0.6100", "0.5000", "n/a", "n/a"]
    assert "n/a: the version that wrote this result did not compute ECE, PCOC" in " ".join(text.split())
    assert "| 0.5000 | n/a | n/a |" in markdown(Evaluation.from_dict(written))
