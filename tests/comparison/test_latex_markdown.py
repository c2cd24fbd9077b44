import re
import shutil
import subprocess

import pytest

from recbole_msr.report.comparison.latex_markdown import latex, markdown
from tests.comparison.summaries import SCENARIOS, failed, make_summary

SKILLS = {"HiNet": 1.5, "PLE": 2.0, "LR": 0.5, "STAR": 1.51}
P = {"PLE": 0.001, "LR": 1e-6, "HiNet": 0.01}
NASTY = r"""[a]_%&#{}\~^$|<>"'`*--x"""


@pytest.fixture(scope="module")
def summary():
    return make_summary(SKILLS, P, single_scenario=True, others=[failed("DeepFM", "seed 2020: the loss is nan")])


@pytest.fixture(scope="module")
def nasty():
    made = make_summary(
        {"HiNet": 1.5, f"*PLE {NASTY}": 2.0, "[LR": 0.5},
        {f"*PLE {NASTY}": 0.001},
        scenarios=["[0,5)", NASTY, "é"],
        tasks=["click", f"b{NASTY}"],
        seeds=[1, 2],
        single_scenario=True,
        others=[failed("DeepFM", f"{NASTY}\n\tsecond --- line")],
    )
    return made | {"command": f"recbole-msr compare --models='A' {NASTY} ``` --x", "dataset": f"ml_1m {NASTY}"}


def _read_markdown(text):
    """Title: (header, rows, notes), unescaped."""
    tables = {}
    for part in re.split(r"(?m)^## ", text)[1:]:
        title, *lines = part.splitlines()
        rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines if line.startswith("|")]
        plain = [[re.sub(r"\\(.)", r"\1", field.strip()) for field in row] for row in rows]
        notes = [re.sub(r"\\(.)", r"\1", line[2:]) for line in lines if line.startswith("- ")]
        tables[re.sub(r"\\(.)", r"\1", title)] = (plain[:1], plain[2:], notes) if plain else ([], [], notes)
    return tables


_PLAIN = {
    "textbackslash": "\\", "textasciitilde": "~", "textasciicircum": "^", "textless": "<", "textgreater": ">",
    "textbar": "|", "textasciigrave": "`", "textquotesingle": "'",
}  # fmt: skip


def _plain_tex(text):
    """What LaTeX shows, by a reader of its own; anything it does not know is an error."""
    shown, position = "", 0
    text = text.replace(r"{\scriptsize$\pm$", "{ ± ").replace(r"$^{\dagger}$", "†").replace(r"$\dagger$", "†")
    text = text.replace(r"$\pm$", "±").replace(r"\symbol{34}", r"\quote")
    text = re.sub(r"Table~\\ref\{(.*?)\}", r"Table\\{\1\\}", text)
    tokens = re.compile(r"\\([&%$#_{}])|\\([a-z]+)|([{}])|([^\\{}&%$#_^~]+)")
    depth = 0
    while position < len(text):
        found = tokens.match(text, position)
        assert found, f"unescaped: {text[position:]!r} in {text!r}"
        character, command, brace, plain = found.groups()
        position = found.end()
        depth += {"{": 1, "}": -1}.get(brace, 0)
        assert depth >= 0
        if command == "quote":
            shown += '"'
        elif command in _PLAIN:
            shown += _PLAIN[command]
        elif command is not None:
            assert command in ("textbf", "texttt"), command
            shown += "**" if command == "textbf" else ""
        shown += character or plain or ""
        assert plain is None or "--" not in plain or plain == "--"
    assert depth == 0
    return shown


def _read_latex(text):
    """Label: (caption, column names, rows), as shown."""
    tables = {}
    for body in re.findall(r"(?s)\\begin\{table\*\}(.*?)\\end\{table\*\}", text):
        label = re.search(r"\\label\{(.*)\}", body)[1]
        caption = re.search(r"(?m)^\\caption\{(.*)\}$", body)[1]
        columns = re.search(r"\\begin\{tabular\}\{(l(r+))\}", body)[1]
        head, content = re.search(r"(?s)\\toprule\n(.*)\\midrule\n(.*)\\bottomrule", body).groups()
        for line in head.splitlines():
            if line.startswith(r"\cmidrule"):
                continue
            spans = [
                int(re.match(r"\s*\\multicolumn\{(\d+)\}", field)[1]) if r"\multicolumn" in field else 1
                for field in re.split(r"(?<!\\)&", line)
            ]
            assert sum(spans) == len(columns)
        rows = []
        for line in [head.splitlines()[-1], *content.splitlines()]:
            assert line.endswith(r" \\")
            assert not line.startswith(("[", "*"))  # the \\ of the line above would take it
            fields = re.split(r"(?<!\\)&", line.removesuffix(r" \\"))
            assert len(fields) == len(columns)
            rows.append([_plain_tex(field.strip()) for field in fields])
        tables[label] = (_plain_tex(caption), rows[0], rows[1:])
    return tables


def test_markdown_has_the_means_deviations_and_marks(summary):
    header, rows, notes = _read_markdown(markdown(summary))["AUC by scenario and task"]
    assert header[0][:3] == ["Model", "age<25: click", "age<25: like"]
    assert [row[0] for row in rows] == ["PLE", "STAR", "HiNet (reference)", "LR", "DeepFM: failed"]
    spread = {made["label"]: made["test"].get("auc/age<25/click") for made in summary["entries"]}
    text = {label: one and (f"{one['mean']:.4f}", f" ± {one['deviation']:.4f}") for label, one in spread.items()}
    assert [row[1] for row in rows] == [
        f"**{text['PLE'][0]}**{text['PLE'][1]}",
        "".join(text["STAR"]),
        "".join(text["HiNet"]),
        f"{''.join(text['LR'])}†",
        "–",  # noqa: RUF001
    ]
    assert notes[0] == (
        "Bold: significantly better than the reference HiNet; †: significantly worse; no mark: no significant "
        "difference. Paired t test with the error of the test rows (a user's together) and of the seeds; Holm's "
        "correction over the models within a column; alpha = 0.05."
    )


def _marked_markdown(summary):
    rows = [row for _, rows, _ in _read_markdown(markdown(summary)).values() for row in rows]
    return sum("**" in field or "†" in field for row in rows for field in row)


def _marked_latex(summary):
    rows = [row for _, _, rows in _read_latex(latex(summary)).values() for row in rows]
    return sum("**" in field or "†" in field for row in rows for field in row)


@pytest.mark.parametrize("marked", [_marked_markdown, _marked_latex])
def test_no_bold_number_without_a_significant_test(summary, marked):
    assert marked(summary) > 0
    quiet = make_summary(SKILLS, dict.fromkeys(SKILLS, 0.04))  # each alone is, after Holm's correction none
    assert marked(quiet) == 0
    untested = summary | {"entries": [made | {"differences": None, "transfer": None} for made in summary["entries"]]}
    assert marked(untested) == 0


def test_smaller_logloss_is_the_better(summary):
    _, header, rows = _read_latex(latex(summary))["tab:ml-1m-quality-2"]
    place = header.index("like")  # of LogLoss, all rows: ECE and PCOC have no column a task
    marks = {row[0]: row[place] for row in rows}
    ple, lr = (summary["entries"][i]["test"]["logloss/like"]["mean"] for i in (1, 2))
    assert ple < lr
    assert marks["PLE"].startswith(f"**{ple:.4f}")
    assert marks["LR"].startswith(f"{lr:.4f}")
    assert marks["LR"].endswith("†")


def test_what_is_not_tested_is_said(summary):
    tables = _read_markdown(markdown(summary))
    untested = "Not tested: AUC worst cell, GAUC macro, ECE macro, PCOC macro, PCOC worst cell."
    assert untested in tables["Quality over all scenarios (1 of 2)"][2]
    for metric in ("GAUC", "ECE", "PCOC"):
        assert tables[f"{metric} by scenario and task"][2] == ["Nothing in this table was tested."]
    assert "LR" in {row[0] for row in tables["GAUC by scenario and task"][1]}


def test_transfer_is_marked_against_training_alone(summary):
    (title,) = [title for title in _read_markdown(markdown(summary)) if title.startswith("Transfer")]
    header, rows, notes = _read_markdown(markdown(summary))[title]
    assert notes[0].startswith("Bold: significantly better than the same model trained on the scenario alone; †:")
    (row,) = [row for row in rows if row[0] == "HiNet (reference)"]
    cells = summary["entries"][0]["transfer"]["cells"]
    gain, loss = (cells[scenario]["click"]["difference"]["mean"] for scenario in SCENARIOS[:2])
    assert row[header[0].index("age<25: click")] == f"**{gain:+.4f}**"
    assert row[header[0].index("mid_&_old: click")] == f"{loss:+.4f}†"


def test_costs_are_all_there(summary):
    header, rows, _ = _read_markdown(markdown(summary))["Cost"]
    found = dict(zip(header[0], rows[0], strict=True))
    assert found["Model"] == "PLE"
    assert found["Parameters"] == "8,000"
    assert found["FLOPs a row"] == "123,457"
    assert found["Latency, ms: 1 row"] == "1.5"
    assert found["Training: seconds"] == "12.0 ± 1.0"
    assert found["Training: rows/s"] == "19,999 ± 1"
    assert found["Search: trials"] == "4"
    assert set(rows[-1][1:]) == {"–"}  # noqa: RUF001


def test_both_papers_say_the_same(summary):
    from_markdown = [[header[0], *rows] for header, rows, _ in _read_markdown(markdown(summary)).values() if header]
    from_latex = [[header, *rows] for _, header, rows in _read_latex(latex(summary)).values()]
    assert len(from_markdown) == len(from_latex) == 9
    for one, other in zip(from_markdown, from_latex, strict=True):
        for row, same in zip(one[1:], other[1:], strict=True):
            assert [field.replace("**", "").replace("–", "--") for field in row] == [  # noqa: RUF001
                field.replace("**", "") for field in same
            ]


def test_captions_say_marks_seeds_test_and_command(summary):
    tables = _read_latex(latex(summary))
    for caption, _, _ in tables.values():
        assert "Mean ± sample deviation over 3 seeds (2020, 2021, 2022)." in caption
    first, *others = tables.values()
    assert "Bold: significantly better than the reference HiNet; †: significantly worse; no mark: no" in first[0]
    assert "t test with the error of the test rows (a user's together) and of the seeds; Holm's correction" in first[0]
    assert first[0].endswith(f"Command: {summary['command']}.")
    assert "DeepFM failed: seed 2020: the loss is nan." in first[0]
    assert all(caption.endswith("The command and what failed: Table{tab:ml-1m-quality-1}.") for caption, _, _ in others)


def test_one_seed_has_no_deviation():
    summary = make_summary({"HiNet": 1.5, "PLE": 2.0}, {"PLE": 0.001}, seeds=[7])
    for text in (markdown(summary), latex(summary)):
        assert "One seed (7): no deviation, and nothing is known about other seeds." in text
        assert "the error of the test rows (a user's together) alone, as there is one seed;" in text
        assert "±" not in text
        assert r"\pm" not in text
    assert _marked_latex(summary) > 0


def test_names_come_through_unchanged(nasty):
    for tables in (_read_markdown(markdown(nasty)), _read_latex(latex(nasty))):
        for table in tables.values():
            rows = table[1] if isinstance(table[0], list) else table[2]
            if rows:
                labels = {row[0] for row in rows}
                assert labels == {"HiNet (reference)", f"*PLE {NASTY}", "[LR", "DeepFM: failed"}
    headers = [header for _, header, _ in _read_latex(latex(nasty)).values()]
    assert any(f"b{NASTY}" in header for header in headers)
    headers = [header[0] for header, _, _ in _read_markdown(markdown(nasty)).values() if header]
    assert any(f"{NASTY}: b{NASTY}" in header for header in headers)
    caption = next(iter(_read_latex(latex(nasty)).values()))[0]
    assert f"DeepFM failed: {NASTY} second --- line." in caption
    assert caption.endswith(f"Command: {nasty['command']}.")


def test_the_command_is_as_it_was_given(nasty):
    assert f"\n````sh\n{nasty['command']}\n````\n" in markdown(nasty)


def test_many_cells_are_cut_into_pages():
    scenarios = [f"s{i}" for i in range(10)]
    summary = make_summary({"HiNet": 1.5, "PLE": 2.0}, scenarios=scenarios, seeds=[1])
    tables = _read_latex(latex(summary))
    pages = [table for label, table in tables.items() if label.startswith("tab:ml-1m-auc-")]
    assert len(pages) == 3
    assert all("AUC by scenario and task (" in caption for caption, _, _ in pages)
    assert sum(len(header) - 1 for _, header, _ in pages) == 20
    shown = [row[1:] for _, _, rows in pages for row in rows if row[0] == "HiNet (reference)"]
    test = summary["entries"][0]["test"]
    keys = [f"auc/{s}/{t}" for s in scenarios for t in summary["tasks"]]
    assert sum(shown, []) == [f"{test[key]['mean']:.4f}" if key in test else "--" for key in keys]  # noqa: RUF017


def test_a_failed_reference_and_all_failed():
    alone = make_summary({"HiNet": 1.5}, seeds=[1]) | {"entries": [failed("HiNet", "x"), failed("PLE", "y")]}
    for caption, _, rows in _read_latex(latex(alone)).values():
        assert "Bold" not in caption
        assert [row[0] for row in rows] == ["HiNet (reference): failed", "PLE: failed"]
    assert "HiNet (reference) failed" in markdown(alone)


def _compile(summary, folder):
    """What pdflatex says of the tables on pages of A4."""
    head = "\\documentclass{article}\n\\usepackage[a4paper,margin=2cm]{geometry}\n\\usepackage{booktabs}\n"
    text = f"{head}\\begin{{document}}\n{latex(summary)}\\end{{document}}\n"
    (folder / "paper.tex").write_text(text, encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-draftmode", "paper.tex"]
    done = subprocess.run(command, cwd=folder, capture_output=True, timeout=120)
    said = done.stdout.decode(errors="replace")
    assert done.returncode == 0, said[-2000:]
    return said


_NO_LATEX = pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")


@_NO_LATEX
def test_latex_compiles_with_any_names(nasty, tmp_path):
    assert "Output written" in _compile(nasty, tmp_path)


@_NO_LATEX
def test_tables_fit_a_page(summary, tmp_path):
    assert "Overfull" not in _compile(summary, tmp_path)
    many = make_summary(SKILLS, scenarios=[f"s{i}" for i in range(10)], tasks=["purchase"])
    assert "Overfull" not in _compile(many, tmp_path)
