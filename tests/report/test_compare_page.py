import copy
import csv
import html as entities
import json
import re
import shutil
import statistics
from importlib import resources
from pathlib import Path
from urllib.parse import unquote

import pytest

from recbole_msr import load
from recbole_msr.errors import InputError
from recbole_msr.report.comparison.figures import Point, pareto_front
from recbole_msr.report.comparison.latex_markdown import markdown
from recbole_msr.report.comparison.page import write_compare_page
from recbole_msr.report.html.page import Page, choice, heat_map
from tests.report.comparisons import (
    SCENARIOS,
    SEEDS,
    TASKS,
    compare,
    difference,
    failed,
    make_summary,
    transfer,
    write_data,
)

SECTIONS = [
    "Verdict", "Leaderboard", "Differences", "Quality and cost", "Scenarios and tasks", "Training curves", "Searches",
    "What the models have learnt", "Configurations", "How to do it again",
]  # fmt: skip
EVIL = "<script>document.title='taken'</script>"


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """A comparison that was really trained: its summary and its folder. Tests change copies of the summary."""
    base = tmp_path_factory.mktemp("compared")
    write_data(base / "data")
    summary = compare(base / "data", base / "out")
    return json.loads(json.dumps(summary)), base / "out"


@pytest.fixture
def summary(compared):
    return copy.deepcopy(compared[0])


@pytest.fixture
def page(compared, tmp_path):
    """page(summary, folder=None) -> its HTML without plotly.js, and the figures in it by name."""

    def make(summary, folder=None):
        path = (folder or compared[1]) / "report.html"
        write_compare_page(path, summary, folder or compared[1])
        html = path.read_text(encoding="utf-8").replace(_plotly_js(), "PLOTLY")
        found = re.findall(r'aria-label="([^"]*)" style="[^"]*" data-buttons="\w+"><script [^>]*>(.*?)</script>', html)
        assert "could not be made" not in html
        assert "could not be drawn" not in html
        return html, {entities.unescape(name): json.loads(content) for name, content in found}

    return make


def _plotly_js():
    return (resources.files("plotly") / "package_data" / "plotly.min.js").read_text(encoding="utf-8")


def _section(html, title):
    (found,) = re.findall(rf"<h2>{re.escape(title)}</h2>(.*?)</section>", html, flags=re.DOTALL)
    return found


def _words(markup):
    return " ".join(entities.unescape(re.sub(r"<[^>]*>", " ", markup)).split())


def _board(html):
    """The leaderboard as {model: {column: words of the cell}}."""
    section = _section(html, "Leaderboard")
    header = [_words(cell) for cell in re.findall(r"<th scope=\"col\".*?</th>", section)]
    rows = re.findall(r"<tr data-name.*?</tr>", section, flags=re.DOTALL)
    lines = [[_words(c) for c in re.findall(r"<t[hd][ >].*?</t[hd]>", row, flags=re.DOTALL)] for row in rows]
    return {line[0]: dict(zip(header, line, strict=True)) for line in lines}


def _trace(figure, name):
    (found,) = [trace for trace in figure["data"] if trace.get("name") == name]
    return found


def _entry(summary, label):
    (found,) = [entry for entry in summary["entries"] if entry["label"] == label]
    return found


def test_the_page_is_one_file_with_plotly_once_and_links_only_to_its_own_folder(page, summary, compared):
    html, figures = page(summary)
    assert html.count("PLOTLY") == 1
    assert re.findall("<h2>(.*?)</h2>", html) == SECTIONS
    assert not re.findall(r'src="', html)
    links = [link for link in re.findall(r'href="([^"]*)"', html) if not link.startswith(("#", "data:"))]
    assert links
    assert all((compared[1] / unquote(link)).is_file() for link in links)
    assert "searches/SharedBottom/all/report.html" in links
    assert "runs/LR/like/joint/seed-2021/config.yaml" in links
    assert len(figures) > 10


def test_the_leaderboard_has_mean_and_deviation_of_the_runs_own_results(page, summary, compared):
    html, _ = page(summary)
    board = _board(html)
    results = [
        json.loads((compared[1] / f"runs/SharedBottom/all/joint/seed-{seed}/result.json").read_text())["test"]
        for seed in SEEDS
    ]
    for metric, heading in (("auc", "AUC"), ("gauc", "GAUC"), ("logloss", "LogLoss"), ("ece", "ECE"), ("pcoc", "PCOC")):
        values = [result["macro"][metric] for result in results]
        told = f"{statistics.mean(values):.4f} ± {statistics.stdev(values):.4f}"
        assert board["SharedBottom"][f"{heading}: macro"].split(" ▲")[0].split(" ▼")[0] == told
        of_cell = [result["cells"]["mid & old"]["like"][metric] for result in results]
        assert f"{statistics.mean(of_cell):.4f}" in board["SharedBottom"][f"{heading}: mid & old · like"]
        pooled = [result["pooled"]["like"][metric] for result in results]
        assert f"{statistics.mean(pooled):.4f}" in board["SharedBottom"][f"{heading}: like"]
    # RecBole's LR is two runs a seed, one a task, and one line.
    of_task = {
        task: json.loads((compared[1] / f"runs/LR/{task}/joint/seed-2020/result.json").read_text())["parameters"]
        for task in TASKS
    }
    assert board["LR"]["Parameters"] == f"{sum(of_task.values()):,}"
    assert board["LR"]["Kind"] == "single-task"
    worst = _entry(summary, "LR")["worst_cell"]
    assert board["LR"]["AUC: worst"].endswith(f"{worst['scenario']} · {worst['task']}")
    assert "HiNet (reference)" in board


def test_only_a_significant_difference_has_a_mark_and_nothing_is_bold(page, summary):
    bottom, lr = _entry(summary, "SharedBottom"), _entry(summary, "LR")
    bottom["differences"]["auc/macro"] = difference(0.02, half=0.015, p=0.0123)
    bottom["differences"]["logloss/macro"] = difference(0.02, half=0.015, p=0.012, smaller=True)
    lr["differences"]["auc/macro"] = difference(0.05, half=0.06, p=0.09)
    lr["differences"]["logloss/macro"] = difference(-0.02, half=0.015, p=0.012, smaller=True)
    html, figures = page(summary)
    board = _board(html)
    assert board["SharedBottom"]["AUC: macro"].endswith("▲")
    assert board["SharedBottom"]["LogLoss: macro"].endswith("▼")  # more of it is worse
    assert board["LR"]["LogLoss: macro"].endswith("▲")
    assert not re.search("[▲▼]", board["LR"]["AUC: macro"] + board["HiNet (reference)"]["AUC: macro"])
    assert not any(re.search("[▲▼]", cell) for line in board.values() for key, cell in line.items() if "GAUC" in key)
    titles = [entities.unescape(title) for title in re.findall('<span class="mark[^"]*" title="([^"]*)"', html)]
    assert "+0.0200 against HiNet, 95 % interval +0.0050 to +0.0350, p adjusted 0.012: significantly better" in titles
    assert "+0.0500 against HiNet, 95 % interval -0.0100 to +0.1100, p adjusted 0.090: not significant" in titles
    assert not re.search("<(b|strong)>", html)
    forest = figures["differences in AUC macro to HiNet"]
    assert _trace(forest, "significantly better")["x"] == [0.02]
    assert _trace(forest, "not significant")["x"] == [0.05]
    assert "significantly worse" not in {trace.get("name") for trace in forest["data"]}
    assert _trace(forest, "not significant")["error_x"]["array"] == pytest.approx([0.06])
    loss = figures["differences in LogLoss macro to HiNet"]
    assert "better to the left" in loss["layout"]["xaxis"]["title"]["text"]
    assert _trace(loss, "significantly better")["x"] == [-0.02]
    places = dict(zip(loss["layout"]["yaxis"]["ticktext"], loss["layout"]["yaxis"]["tickvals"], strict=True))
    assert places["LR"] > places["SharedBottom"]  # the better one is at the top


def test_the_differences_stand_in_a_table_too(page, summary):
    _entry(summary, "LR")["differences"]["auc/macro"] = difference(0.05, half=0.06, p=0.09)
    _entry(summary, "SharedBottom")["differences"]["auc/macro"] = difference(-0.05)
    html, _ = page(summary)
    section = _section(html, "Differences")
    assert re.findall(r'<th scope="row">(\w+)</th>', section)[:2] == ["LR", "SharedBottom"]
    row = re.search(r'<tr><th scope="row">LR</th>(.*?)</tr>', section).group(1)
    assert _words(row) == "+0.0500 -0.0100 +0.1100 0.0200 0.0150 0.045 0.090 not significant"


def test_the_leaderboard_has_the_numbers_of_the_tables_for_a_paper(page, summary):
    """Markdown and the page are drawn from the same columns: what both have is the same, mark by mark."""
    _entry(summary, "LR")["differences"]["auc/macro"] = difference(-0.05)
    board = _board(page(summary)[0])
    compared = set()
    for table in re.split(r"(?m)^## ", markdown(summary))[1:]:
        lines = [re.split(r" *\| *", line.strip("| ")) for line in table.splitlines() if line.startswith("|")]
        for label, *cells in lines[2:]:
            for name, cell in zip(lines[0][1:], cells, strict=True):
                if name in board[label]:
                    compared.add(name)
                    worse = "†" if "▼" in board[label][name] else ""
                    assert cell.replace("**", "") == re.sub(" [▲▼]", "", board[label][name]) + worse, (label, name)
                    assert ("**" in cell) == ("▲" in board[label][name])
    assert compared >= {"AUC: macro", "GAUC: macro", "LogLoss: macro", "Parameters", "Training: seconds"}


def test_a_reference_that_loses_is_told_first(page, summary):
    summary["verdict"] = ["HiNet loses: LR is significantly better.", "More."]
    html, _ = page(summary)
    first, _ = re.findall('<p class="verdict">(.*?)</p>', html)
    assert first == "HiNet loses: LR is significantly better."
    assert html.index(first) < html.index("<dl>")


def test_the_front_has_what_no_other_beats():
    costs = [3, 1, 2, 2, 5, 4, 1, 6]
    qualities = [0.7, 0.6, 0.65, 0.72, 0.72, 0.8, 0.55, 0.8]
    points = [Point(str(n), n, "multi-task", c, q, None) for n, (c, q) in enumerate(zip(costs, qualities, strict=True))]
    # From the cheapest on, a point is on the front if it is better than all before it.
    best, expected = -1.0, []
    for cost in sorted(set(costs)):
        top = max((p for p in points if p.cost == cost), key=lambda p: p.quality)
        if top.quality > best:
            best, expected = top.quality, [*expected, top.label]
    assert [point.label for point in pareto_front(points)] == expected == ["1", "3", "5"]
    twins = [Point("a", 0, "", 1.0, 0.5, None), Point("b", 1, "", 1.0, 0.5, None)]
    assert pareto_front(twins) == twins


def test_quality_stands_against_every_known_cost(page, summary):
    for entry in summary["entries"]:
        entry["cost"]["flops"] = None
    _entry(summary, "LR")["cost"]["latency"] = None
    _, figures = page(summary)
    names = [name for name in figures if name.startswith("macro AUC against")]
    assert len(names) == 4
    assert not any("FLOPs" in name for name in names)

    def shown(name):
        return {place for t in figures[name]["data"] if "markers" in t["mode"] for place in t["x"]}

    assert shown("macro AUC against parameters") == {entry["cost"]["parameters"] for entry in summary["entries"]}
    assert shown("macro AUC against latency of 4096 rows in ms") == {3.0}
    assert shown("macro AUC against seconds of training") == {1.6, 3.2}
    # On the front of two costs: the best of the cheaper, and of the dearer one if it is better still.
    quality = {entry["label"]: entry["test"]["auc/macro"]["mean"] for entry in summary["entries"]}
    cheap = max(("HiNet", "SharedBottom"), key=quality.get)
    named = [t["name"] for t in figures["macro AUC against seconds of training"]["data"] if "text" in t["mode"]]
    assert named == [cheap, *(["LR"] if quality["LR"] > quality[cheap] else [])]


def test_the_heat_map_has_every_cell_and_its_difference(page, summary):
    _entry(summary, "LR")["differences"]["auc/young/like"] = difference(-0.04)
    _entry(summary, "LR")["differences"]["logloss/young/like"] = difference(-0.7, smaller=True)
    html, _ = page(summary)
    section = _section(html, "Scenarios and tasks")
    for entry in summary["entries"]:
        for scenario in SCENARIOS:
            for task in TASKS:
                assert f">{entry['test'][f'auc/{scenario}/{task}']['mean']:.4f}</td>" in section
    cells = [f"/{scenario}/{task}" for scenario in SCENARIOS for task in TASKS]
    for metric, pick in (("auc", max), ("logloss", min), ("ece", min)):
        best = pick(entry["test"][metric + cell]["mean"] for entry in summary["entries"] for cell in cells)
        assert f'<td class="s10">{best:.4f}</td>' in section
    assert re.search(r'<td class="d[0-4]">-0.0400 ▼</td>', section)
    assert '<td class="d10">-0.7000 ▲</td>' in section  # of LogLoss less is better: the end of the scale that is blue
    options = [entities.unescape(option) for option in re.findall("<option>(.*?)</option>", section)]
    assert options == [
        "AUC", "AUC, difference to HiNet", "GAUC", "LogLoss", "LogLoss, difference to HiNet", "ECE", "PCOC",
    ]  # fmt: skip
    ratios = [entry["test"]["pcoc" + cell]["mean"] for entry in summary["entries"] for cell in cells]
    farthest = max(ratios, key=lambda ratio: abs(ratio - 1))  # the end of the scale whose middle is 1
    assert f'<td class="d{10 if farthest > 1 else 0}">{farthest:.4f}</td>' in section


def test_curves_are_those_of_every_run_on_all_scenarios(page, summary, compared):
    runs = _entry(summary, "HiNet")["runs"]
    runs.append({**runs[0], "scenario": "young"})  # one of a scenario alone is none of them
    _, figures = page(summary)

    def column(where, name):
        with open(compared[1] / where / "metrics.csv", newline="") as file:
            return [float(row[name]) for row in csv.DictReader(file)]

    together = _trace(figures["validation auc/macro by epoch"], "HiNet")
    expected = [[*column(f"runs/HiNet/all/joint/seed-{seed}", "valid/auc/macro"), None] for seed in SEEDS]
    assert together["y"] == expected[0] + expected[1]
    assert together["x"] == [1, 2, None, 1, 2, None]
    assert {trace["name"] for trace in figures["validation auc/macro by epoch"]["data"]} == {"HiNet", "SharedBottom"}
    of_like = figures["validation auc/like/macro by epoch"]
    assert {trace["name"] for trace in of_like["data"]} == {"HiNet", "SharedBottom", "LR"}
    assert _trace(of_like, "LR")["y"][:2] == column("runs/LR/like/joint/seed-2020", "valid/auc/macro")
    hinet = _trace(of_like, "HiNet")
    assert hinet["y"][:2] == column("runs/HiNet/all/joint/seed-2020", "valid/auc/like/macro")
    assert hinet["line"]["color"] == together["line"]["color"]


def test_searches_show_their_best_so_far_and_what_mattered(page, summary, compared):
    html, figures = page(summary)
    with open(compared[1] / "searches/SharedBottom/all/trials.csv", newline="") as file:
        values = [float(row["auc/macro"]) for row in csv.DictReader(file) if row["state"] == "complete"]
    best = _trace(figures["auc/macro by trial"], "SharedBottom")["y"]
    assert best == [*(max(values[: n + 1]) for n in range(len(values))), None]
    (bars,) = figures["importance of parameters for auc/macro"]["data"]
    assert set(bars["y"]) == {"learning_rate", "dropout"}
    assert f"{_entry(summary, 'SharedBottom')['searches'][0]['value']:.4g}" in _section(html, "Searches")


def test_attention_and_gates_are_those_that_explain_finds(page, summary, compared):
    section = _section(page(summary)[0], "What the models have learnt")
    found = load(compared[1] / "runs/HiNet/all/joint/seed-2020").explain(n=1)
    weights = [value for line in found.between[0].values for value in line if value is not None]
    assert len(weights) == 6
    for value in [*weights, *(value for use in found.gates for line in use.weights for value in line)]:
        assert f">{value:.3f}</td>" in section
    assert "takes from" in section
    assert "This SharedBottom has neither gates over experts nor attention" in section
    assert "<option>LR</option>" not in section


def test_dead_experts_are_named(page, summary, monkeypatch):
    monkeypatch.setattr("recbole_msr.runs.gate_use.NEVER", 1.1)  # no weight is so great
    section = _section(page(summary)[0], "What the models have learnt")
    assert 'aria-label="Dead experts"' in section
    assert "expert of mid &amp; old, sub-expert 2: no row gives it more weight than" in section


def test_negative_transfer_is_told_by_scenario(page, summary):
    for entry, harm in zip(summary["entries"], (0.05, -0.03, 0.001), strict=True):
        entry["transfer"] = transfer(entry, {"young": harm, "mid & old": 0.0, "[35,<50)": 0.0})
    html, _ = page(summary)
    section = _section(html, "Negative transfer")
    entry = summary["entries"][0]
    joint = entry["test"]["auc/young/click"]["mean"]
    row = re.search(r'<tr><th scope="row">HiNet</th>(.*?)</tr>', section.split("Joint and alone")[-1]).group(1)
    assert _words(row).startswith(f"young click {joint:.4f} {joint + 0.05:.4f} -0.0500 -0.0600 -0.0400")
    assert _words(row).endswith("▼ negative transfer")
    assert ">+0.0300 ▲</td>" in section
    assert ">-0.0010</td>" in section  # not significant, no mark
    assert _board(html)["HiNet (reference)"]["Transfer"] == "-0.0167 ▼"
    assert "Negative transfer" not in re.findall("<h2>(.*?)</h2>", page(make_summary([failed("a", "b")]))[0])


def test_configurations_begin_with_what_differs_and_have_the_command(page, summary):
    summary["entries"][1]["settings"] = {"dropout": 0.25}
    html, _ = page(summary)
    section = _section(html, "Configurations")
    parts = re.findall(r'<details class="entry">(.*?)(?=<details class="entry">|$)', section, flags=re.DOTALL)
    assert len(parts) == 3
    texts = re.findall(r'<pre class="text">(.*?)</pre>', parts[0], flags=re.DOTALL)
    assert "sub_experts: 3" in texts[0]
    assert "\nembedding_size: 4" not in texts[0]
    assert "\nembedding_size: 4" in texts[1]
    assert "dropout: 0.25" in re.search(r'<pre class="text">(.*?)</pre>', parts[1], flags=re.DOTALL).group(1)
    assert "run_recbole --config_files runs/LR/like/joint/seed-2021/config.yaml" in _words(parts[2])


def test_words_of_others_are_never_markup(page, summary):
    label, reason = f"LR {EVIL}", f"seed 2020: <img src=x onerror=alert(1)> {EVIL}"
    entry = _entry(summary, "LR")
    entry["label"], entry["settings"] = label, {"note": EVIL}
    entry["runs"][0]["task"] = summary["tasks"][0] = f"click{EVIL}"
    summary["entries"].append(failed(f"Bad {EVIL}", reason))
    summary["verdict"].append(EVIL)
    summary["scenarios"][0] = f"young {EVIL}"
    html, figures = page(summary)
    assert EVIL not in html
    assert "<img" not in html
    assert html.count("&lt;script&gt;document") > 10
    ticks = figures["differences in AUC macro to HiNet"]["layout"]["yaxis"]["ticktext"]
    assert not any("<script" in tick for tick in ticks)
    assert any("&lt;script" in tick for tick in ticks)


def test_a_failed_entry_stays_with_its_reason(page, summary):
    reason = "seed 2020: SASRec is a sequential model"
    summary["entries"].insert(1, failed("SASRec", reason))
    html, _ = page(summary)
    board = _board(html)
    assert list(board)[-1] == "SASRec: failed"  # behind those with a result
    assert board["SASRec: failed"]["Status"] == f"failed {reason}"
    assert board["SASRec: failed"]["AUC: macro"] == "\N{EN DASH}"
    assert "There is no configuration: no run began" in _section(html, "Configurations")


def test_a_partial_entry_is_marked_and_keeps_its_numbers(page, summary):
    entry = _entry(summary, "SharedBottom")
    entry.update(status="partial", reasons=["seed 2021: the loss is not a number"], seeds=[2020])
    entry["runs"][1].update(status="failed", reason="the loss is not a number", folder="runs/nowhere")
    for spread in entry["test"].values():
        spread.update(deviation=None)
    html, _ = page(summary)
    line = _board(html)["SharedBottom (1 of 2 seeds)"]
    assert line["Seeds"] == "1"
    assert re.match(r"0\.\d{4}( [▲▼])?$", line["AUC: macro"])
    assert "Without a curve: SharedBottom, seed 2021." in html


def test_a_failed_reference_leaves_nothing_tested(page, summary):
    summary["entries"][0] = failed("HiNet", "out of memory")
    for entry in summary["entries"]:
        entry["differences"] = None
    html, _ = page(summary)
    assert "Nothing could be tested against HiNet" in _section(html, "Differences")
    assert not re.search("[▲▼]", "".join(cell for line in _board(html).values() for cell in line.values()))


def test_one_entry_alone_has_a_page(page, summary):
    html, _ = page(make_summary(summary["entries"][:1]))
    assert "There is nothing but the reference." in html
    assert "1 model, compared with HiNet" in html


def test_only_failed_entries_have_a_page(page):
    html, _ = page(make_summary([failed("A", "no field age"), failed("B", "no field age")]))
    assert "No model has a result." in html
    assert "No cost is known" in html
    assert "No run has left validation values" in html


def test_one_seed_and_no_knowledge_of_costs_is_told(page, summary):
    summary["seeds"], summary["trials"] = [2020], 0
    for entry in summary["entries"]:
        for values in (entry["differences"] or {}).values():
            values.update(seed_error=None, p_seeds=None, degrees=None, seeds=1)
    html, _ = page(summary)
    assert "There is one seed: how much the result depends on the seed is not known." in html
    assert "every model with its defaults" in html


def test_what_is_not_there_any_more_is_a_sentence(page, summary, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    html, figures = page(summary, tmp_path / "elsewhere")
    assert re.findall("<h2>(.*?)</h2>", html) == SECTIONS
    assert "No run has left validation values by epoch (metrics.csv)." in html
    assert "No search has left a table of finished trials (trials.csv)." in html
    assert "The study&#39;s journal (study.journal) is not there" in html
    assert "HiNet cannot be looked into: there is no run folder" in html
    assert "there is no config.yaml" in html
    assert "differences in AUC macro to HiNet" in figures
    assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == ["report.html"]  # nothing was made there


def test_damaged_files_cost_only_their_part(page, summary, compared, tmp_path):
    folder = tmp_path / "damaged"
    shutil.copytree(compared[1], folder)
    (folder / "runs/HiNet/all/joint/seed-2020/metrics.csv").write_bytes(b"epoch,valid/auc/macro\nx,\xff\xfe")
    (folder / "runs/HiNet/all/joint/seed-2020/best.ckpt").write_bytes(b"nothing")
    (folder / "searches/SharedBottom/all/trials.csv").write_text("a\n")
    (folder / "searches/SharedBottom/all/study.journal").write_text("{]\n{]\n")
    html, figures = page(summary, folder)
    assert "Without a curve: HiNet, seed 2020." in html
    assert len(_trace(figures["validation auc/macro by epoch"], "HiNet")["x"]) == 3
    assert "HiNet cannot be looked into:" in html
    assert "The study in all cannot be read" in html
    assert "No search has left a table" in html


def test_without_the_data_attention_is_shown_and_gates_are_explained_away(page, summary, compared):
    data = Path(summary["entries"][0]["config"]["data_path"])
    data.rename(data.with_name("gone"))
    try:
        section = _section(page(summary)[0], "What the models have learnt")
    finally:
        data.with_name("gone").rename(data)
    assert "HiNet: attention between scenarios, layer 1" in section
    assert "No numbers of training rows" in section


def test_one_part_that_fails_does_not_cost_the_others(summary, compared, monkeypatch, tmp_path):
    def broken(*_, **__):
        raise RuntimeError("no <luck>")

    monkeypatch.setattr("recbole_msr.report.comparison.page.forest", broken)
    write_compare_page(tmp_path / "p.html", summary, compared[1])
    html = (tmp_path / "p.html").read_text(encoding="utf-8")
    assert "This part could not be made: RuntimeError: no &lt;luck&gt;" in html
    assert "validation auc/macro by epoch" in html


def test_a_page_that_cannot_be_written_is_told(summary, compared, tmp_path):
    with pytest.raises(InputError, match="cannot be written"):
        write_compare_page(tmp_path / "nowhere" / "report.html", summary, compared[1])


def test_a_heat_map_can_have_the_good_end_at_the_bottom_and_marks():
    usual = heat_map(["a"], ["x", "y"], [[0.1, 0.9]])
    turned = heat_map(["a"], ["x", "y"], [[0.1, 0.9]], reverse=True, marks=[["", "!"]])
    assert re.findall(r'<td class="(\w+)">(.*?)</td>', usual) == [("s0", "0.100"), ("s10", "0.900")]
    assert re.findall(r'<td class="(\w+)">(.*?)</td>', turned) == [("s10", "0.100"), ("s0", "0.900 !")]


# In a browser.


def _open(browser, path):
    from selenium.webdriver.support.ui import WebDriverWait

    browser.get(path.as_uri())
    WebDriverWait(browser, 60).until(_drawn)


def _drawn(driver):
    return driver.execute_script(
        "const shown = [...document.querySelectorAll('.figure')].filter(f => f.offsetWidth);"
        "return window.Plotly !== undefined && shown.length > 0 && shown.every(f => f.dataset.drawn)"
    )


@pytest.fixture
def written(summary, compared):
    """A page with a failed entry and negative transfer, and its summary."""
    summary["entries"].append(failed("SASRec", f"seed 2020: {EVIL}"))
    for entry in summary["entries"][:3]:
        entry["transfer"] = transfer(entry, {"young": 0.05, "mid & old": 0.0, "[35,<50)": -0.02})
    write_compare_page(compared[1] / "report.html", summary, compared[1])
    return summary, compared[1] / "report.html"


def _models(browser):
    """Names in the leaderboard that are shown, from top to bottom."""
    return browser.execute_script(
        "return [...document.querySelectorAll('.board tbody tr')].filter(r => r.offsetHeight).map(r => r.dataset.name)"
    )


def _headings(browser):
    return browser.execute_script(
        "return [...document.querySelectorAll('.board thead th')].filter(h => h.offsetWidth).map(h => h.textContent)"
    )


def _pick(browser, name, words):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import Select

    Select(browser.find_element(By.CSS_SELECTOR, f".board [name={name}]")).select_by_visible_text(words)


def test_a_browser_draws_what_is_shown_and_every_choice_and_asks_for_nothing(browser, written):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import Select, WebDriverWait

    _, path = written
    _open(browser, path)
    n_figures, n_shown = browser.execute_script(
        "const all = [...document.querySelectorAll('.figure')];"
        "return [all.length, all.filter(f => f.querySelector('.main-svg')).length]"
    )
    assert 4 <= n_shown < n_figures  # the others when they are chosen
    points = "return document.querySelectorAll('[aria-label=\"differences in AUC macro to HiNet\"] path.point').length"
    assert browser.execute_script(points) == 2
    assert browser.title == "Comparison on tiny"
    assert browser.get_log("browser") == []

    for box in browser.find_elements(By.CSS_SELECTOR, ".choice"):
        select = Select(box.find_element(By.TAG_NAME, "select"))
        for number, option in enumerate(select.options):
            select.select_by_index(number)
            visible = [part.is_displayed() for part in box.find_elements(By.CSS_SELECTOR, ":scope > .option")]
            assert visible == [place == number for place in range(len(visible))], option.text
            WebDriverWait(browser, 20).until(_drawn)
    assert browser.execute_script("return document.querySelectorAll('.figure:not([data-drawn])').length") == 0
    widths = "return [...document.querySelectorAll('.figure .main-svg')].map(s => s.getAttribute('width'))"
    place = "return [...document.querySelectorAll('.figure')].find(f => f.offsetWidth).clientWidth"
    assert {float(width) for width in browser.execute_script(widths)} == {float(browser.execute_script(place))}
    assert browser.get_log("browser") == []
    asked = "return performance.getEntriesByType('resource').map(e => e.name).filter(n => !/^(data|blob):/.test(n))"
    assert browser.execute_script(asked) == []


def test_the_leaderboard_sorts_filters_and_shows_what_is_asked_for(browser, written):
    summary, path = written
    _open(browser, path)
    _sorts_by_a_click_and_by_the_keyboard(browser, summary)
    _filters_by_name_kind_and_status(browser, summary)
    _shows_one_metric_and_the_columns_asked_for(browser, summary)


def _sorts_by_a_click_and_by_the_keyboard(browser, summary):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    macro = {e["label"]: e["test"]["auc/macro"]["mean"] for e in summary["entries"] if e["test"]}
    assert _models(browser) == [*sorted(macro, key=macro.get, reverse=True), "SASRec"]
    buttons = {b.text: b for b in browser.find_elements(By.CSS_SELECTOR, ".board thead button")}
    buttons["AUC: macro"].click()
    assert _models(browser) == [*sorted(macro, key=macro.get), "SASRec"]
    assert buttons["AUC: macro"].find_element(By.XPATH, "..").get_attribute("aria-sort") == "ascending"
    browser.execute_script("arguments[0].scrollIntoView()", buttons["Parameters"])
    buttons["Parameters"].send_keys(Keys.ENTER)
    size = {e["label"]: e["cost"]["parameters"] for e in summary["entries"] if e["test"]}
    assert _models(browser) == [*sorted(size, key=size.get), "SASRec"]
    buttons["Parameters"].send_keys(Keys.SPACE)
    assert _models(browser) == [*sorted(size, key=size.get, reverse=True), "SASRec"]
    buttons["Model"].click()
    assert _models(browser) == sorted([*macro, "SASRec"], key=str.lower)


def _filters_by_name_kind_and_status(browser, summary):
    from selenium.webdriver.common.by import By

    everyone = {entry["label"] for entry in summary["entries"]}
    said = browser.find_element(By.CSS_SELECTOR, ".board output")
    box = browser.find_element(By.CSS_SELECTOR, ".board [name=name]")
    box.send_keys("BOTTOM shar")
    assert _models(browser) == ["SharedBottom"]
    assert said.text == "1 of 4 models"
    box.clear()
    assert set(_models(browser)) == everyone
    for name, value, hidden in (
        ("kind", "single-task", {"LR", "SASRec"}),
        ("status", "failed", {"SASRec"}),
        ("kind", "multi-task", {"HiNet", "SharedBottom"}),
    ):
        check = browser.find_element(By.CSS_SELECTOR, f".board [name={name}][value={value}]")
        check.click()
        assert set(_models(browser)) == everyone - hidden
        check.click()
        assert set(_models(browser)) == everyone


def _shows_one_metric_and_the_columns_asked_for(browser, summary):
    places = [*TASKS, *(f"{scenario} · {task}" for scenario in SCENARIOS for task in TASKS)]
    for heading in ("AUC", "GAUC", "ECE", "PCOC", "LogLoss"):
        _pick(browser, "metric", heading)
        shown = _headings(browser)
        assert [h for h in shown if re.match("(AUC|GAUC|LogLoss|ECE|PCOC): ", h)] == [
            f"{heading}: {place}" for place in ("macro", "worst", *places)
        ]
        assert set(shown) >= {
            *("Transfer", "Parameters", "FLOPs a row", "Latency, ms: 1 row", "Latency, ms: 4096 rows"),
            *("Training: seconds", "Training: rows/s", "Search: trials", "Search: seconds", "Search: epochs"),
        }
    _pick(browser, "columns", "cost")
    assert _headings(browser)[:2] == ["Model", "Parameters"]
    _pick(browser, "columns", "quality")
    assert "Parameters" not in _headings(browser)
    assert "LogLoss: macro" in _headings(browser)  # the metric stays
    loss = {e["label"]: e["test"]["logloss/macro"]["mean"] for e in summary["entries"] if e["test"]}
    cells = browser.execute_script(
        "return [...document.querySelectorAll('.board tbody tr')].map(r => [r.dataset.name,"
        "[...r.cells].filter(c => c.offsetWidth)[1].innerText])"
    )
    assert all(words.startswith(f"{loss[name]:.4f} ±") for name, words in cells if name in loss)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_readable_in_both_schemes_and_fits_a_narrow_window(browser, written, scheme):
    from recbole_msr.report.html.colours import contrast

    _, path = written
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    size = {"width": 400, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    _open(browser, path)
    browser.execute_script("for (const d of document.querySelectorAll('details')) d.open = true")
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 400
    colours = browser.execute_script(
        "const of = (query, what) => [...document.querySelectorAll(query)].filter(e => e.textContent.trim())"
        "  .map(e => getComputedStyle(e)[what]);"
        "return [getComputedStyle(document.body).backgroundColor, ...of('.figure text', 'fill'),"
        "...of('.mark', 'color'), ...of('.board th, .board td, small, select, input, output, legend, p', 'color')]"
    )
    paper, *inks = ["#" + "".join(f"{int(n):02x}" for n in re.findall(r"\d+", colour)[:3]) for colour in colours]
    assert len(inks) > 100
    assert min(contrast(paper, ink) for ink in set(inks)) >= 4.5
    assert browser.get_log("browser") == []


def test_a_choice_inside_another_is_its_own(browser, tmp_path):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import Select

    inner = choice("Inner", {"x": "in x", "<y>": "in y"})
    made = Page("Choices", scripts=True)
    made.section("One", choice("Outer", {"a": [inner, "in a"], "b": "in b"}))
    made.write(tmp_path / "choices.html")
    browser.get((tmp_path / "choices.html").as_uri())

    def shown():
        return [p.text for p in browser.find_elements(By.CSS_SELECTOR, ".option > p") if p.is_displayed()]

    outer, nested = (Select(s) for s in browser.find_elements(By.TAG_NAME, "select"))
    assert shown() == ["in x", "in a"]
    nested.select_by_visible_text("<y>")
    assert shown() == ["in y", "in a"]
    outer.select_by_visible_text("b")
    assert shown() == ["in b"]
    outer.select_by_visible_text("a")
    assert shown() == ["in y", "in a"]
