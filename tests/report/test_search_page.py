import json
import re
from collections import Counter
from importlib import resources

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from recbole_msr.errors import InputError
from recbole_msr.report.tuning.page import write_search_page
from tests.report.studies import SCENARIOS, evaluation, make_study, make_summary

SECTIONS = [
    "Result", "Best against defaults", "Confirmation", "Final test", "Quality against time", "Where the time went",
    "Best configuration", "History", "Importance of parameters",
    "Parallel coordinates", "Slices", "Curves", "Timeline", "Trials", "How to do it again",
]  # fmt: skip


@pytest.fixture
def page(tmp_path):
    """page(study, summary=None) -> its HTML without plotly.js, and the figures in it by name."""

    def make(study, summary=None):
        path = tmp_path / "report.html"
        write_search_page(path, study, make_summary(study) if summary is None else summary)
        html = path.read_text(encoding="utf-8").replace(_plotly_js(), "PLOTLY")
        found = re.findall(r'aria-label="([^"]*)" style="[^"]*" data-buttons="\w+"><script [^>]*>(.*?)</script>', html)
        assert len({name for name, _ in found}) == len(found)
        return html, {name: json.loads(content) for name, content in found}

    return make


def _plotly_js():
    return (resources.files("plotly") / "package_data" / "plotly.min.js").read_text(encoding="utf-8")


def _section(html, title):
    (found,) = re.findall(rf"<h2>{re.escape(title)}</h2>(.*?)</section>", html, flags=re.DOTALL)
    return found


def _trace(figure, name):
    (found,) = [trace for trace in figure["data"] if (trace.get("name") or "").split(" (")[0] == name]
    return found


def test_the_page_is_one_file_with_plotly_once(page):
    html, figures = page(make_study(12))
    assert html.count("PLOTLY") == 1
    assert re.findall("<h2>(.*?)</h2>", html) == SECTIONS
    assert not re.findall(r'(?:src|href)="(?!#|data:)', html)
    assert len(figures) >= 8
    assert "<b>" not in html  # a choice of a parameter
    assert "<script>alert" not in html  # a reason of a failure
    assert "&amp; &lt;echo&gt;" in html


@pytest.mark.parametrize("bigger", [True, False])
def test_the_best_so_far_follows_the_direction(page, bigger):
    study = optuna.create_study(direction="maximize" if bigger else "minimize")
    study.set_user_attr("objectives", ["logloss"])
    for value in (0.5, 0.7, 0.3, 0.6):
        study.add_trial(create_trial(value=value))
    _, figures = page(study, _bare_summary(study))
    assert _trace(figures["logloss by trial"], "best so far")["y"] == (
        [0.5, 0.7, 0.7, 0.7] if bigger else [0.5, 0.5, 0.3, 0.3]
    )
    colours = figures["parallel coordinates of the trials"]
    best_on_top = [trace["text"][0] for trace in colours["data"] if trace["mode"] == "lines"][-1]
    assert best_on_top.startswith("trial 1<" if bigger else "trial 2<")
    assert f"logloss ({'higher' if bigger else 'lower'} is better)" in best_on_top
    scale = colours["data"][-1]["marker"]["colorscale"]
    assert [place for place, _ in scale] == [0, 0.5, 1]
    assert scale[2 if bigger else 0][1] == "#3b82d6"  # what is better is blue


def _bare_summary(study):
    names, directions = study.user_attrs["objectives"], study.directions
    return {
        "study": "bare", "model": "LR", "dataset": "d", "valid_metric": names[0],
        "objectives": [{"name": n, "direction": d.name.lower()} for n, d in zip(names, directions, strict=True)],
        "trials": {}, "best": None, "defaults": None, "final": None,
    }  # fmt: skip


def test_curves_tell_pruned_and_failed_trials_from_the_others(page):
    study = make_study(20)
    html, figures = page(study)
    curves = figures["auc/macro by epoch of every trial"]
    states = Counter(trial.state for trial in study.trials)
    best = study.best_trial
    pruned = _trace(curves, "pruned")
    assert pruned["name"] == f"pruned ({states[TrialState.PRUNED]})"
    assert pruned["line"]["dash"] == "dot"
    assert pruned["x"] == [1, 2, None] * states[TrialState.PRUNED]
    first = next(trial for trial in study.trials if trial.state == TrialState.PRUNED)
    assert pruned["y"][:2] == [first.intermediate_values[1], first.intermediate_values[2]]
    assert _trace(curves, "best")["y"][:-1] == [best.intermediate_values[epoch] for epoch in range(1, 7)]
    crosses = [trace for trace in curves["data"] if trace["marker"].get("symbol") == "x"]
    assert sum(len(trace["x"]) for trace in crosses) == states[TrialState.PRUNED] + states[TrialState.FAIL]
    assert f"{states[TrialState.PRUNED]} pruned, {states[TrialState.FAIL]} failed" in html


def test_conditional_parameters_have_slices_and_lines_of_every_trial(page):
    study = make_study(20)
    _, figures = page(study)
    finished = [trial for trial in study.trials if trial.state == TrialState.COMPLETE]
    deep = [trial for trial in finished if "layers.3" in trial.params]
    assert 0 < len(deep) < len(finished)
    (points,) = figures["auc/macro by layers.3"]["data"]
    assert points["x"] == [trial.params["layers.3"] for trial in deep]
    assert points["y"] == [trial.value for trial in deep]
    lines = [t for t in figures["parallel coordinates of the trials"]["data"] if t["mode"] == "lines"]
    assert len(lines) == len(finished)
    assert sum(any("layers.3: not in the trial" in text for text in t["text"]) for t in lines) == len(finished) - len(
        deep
    )
    assert not any("dropout" in name for name in figures)  # it is always 0.2


def test_scenarios_and_tasks_of_the_best_trial_stand_against_those_of_the_defaults(page):
    study = make_study(20)
    html, _ = page(study)
    section = _section(html, "Best against defaults")
    best, defaults = evaluation(study.best_value, seed=1), evaluation(study.trials[0].value, seed=1)
    assert study.best_trial.number != 0
    for scenario in SCENARIOS[:2]:
        for task in ("click", "like"):
            after, before = best.cells[scenario][task].auc, defaults.cells[scenario][task].auc
            for shown in (f"{after:.4f}", f"{before:.4f}", f"{after - before:+.4f}"):
                assert f">{shown}</td>" in section
    assert "mid &amp; old" in section


def test_the_final_test_shows_means_deviations_and_every_seed(page):
    html, _ = page(make_study(8))
    section = _section(html, "Final test")
    for shown in ("0.7712", "0.0012", "0.7700", "0.7724", "seed 2020", "seed 2022"):
        assert shown in section
    html, _ = page(study := make_study(8), make_summary(study, final=False))
    assert "There is no final test" in _section(html, "Final test")


def test_the_best_configuration_is_yaml(page):
    import html as entities

    import yaml

    study = make_study(12)
    content, _ = page(study)
    (shown,) = re.findall(r'<pre class="text">(.*?)</pre>', _section(content, "Best configuration"), re.DOTALL)
    settings = yaml.safe_load(entities.unescape(shown))
    assert settings == {"model": "HiNet", "dataset": "ml-100k", **study.best_trial.user_attrs["settings"]}


def test_several_objectives_have_a_front_and_a_picture_for_every_pair(page):
    study = make_study(20, n_objectives=3)
    html, figures = page(study)
    names = ["auc/macro", "parameters", "latency"]
    assert {name for name in figures if "against" in name} == {
        "auc/macro against parameters", "auc/macro against latency", "parameters against latency",
    }  # fmt: skip
    finished = [trial for trial in study.trials if trial.state == TrialState.COMPLETE]

    def beaten(trial):
        auc, size, ms = trial.values
        others = [t.values for t in finished if t is not trial]
        return any(a >= auc and s <= size and m <= ms and (a, s, m) != (auc, size, ms) for a, s, m in others)

    front = [trial for trial in finished if not beaten(trial)]
    drawn = _trace(figures["auc/macro against parameters"], "Pareto front")
    assert sorted(drawn["x"]) == sorted(trial.values[1] for trial in front)
    assert sorted(drawn["y"]) == sorted(trial.values[0] for trial in front)
    others = _trace(figures["auc/macro against parameters"], "other trials")
    assert len(others["x"]) == len(finished) - len(front)
    assert "Pareto front" in html
    for name in names:
        assert f"{name} by trial" in figures
        assert f"importance of parameters for {name}" in figures


def test_labels_do_not_carry_what_a_trial_keeps_beside_its_parameters(page):
    html, _ = page(make_study(20, n_objectives=2))
    assert "train_loss" not in html


@pytest.mark.parametrize(
    ("n_trials", "outcome", "told"),
    [
        (0, "complete", ["No trial has begun", "No trial has finished", "at least two finished trials; there are 0"]),
        (1, "complete", ["need at least two finished trials; there are 1", "No parameter has two values"]),
        (5, "failed", ["No trial has finished", "out of memory"]),
        (5, "pruned", ["No trial has finished", "5 pruned"]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("n_objectives", [1, 2])
def test_what_cannot_be_drawn_is_a_sentence(page, n_trials, outcome, told, n_objectives):
    if n_trials:
        study = make_study(n_trials, n_objectives, outcome=lambda number: outcome)
    else:
        study = optuna.create_study(directions=["maximize", "minimize"][:n_objectives])
        study.set_user_attr("objectives", ["auc/macro", "parameters"][:n_objectives])
    html, _ = page(study)
    for sentence in told:
        assert sentence in html
    assert "could not be drawn" not in html
    assert set(SECTIONS) <= set(re.findall("<h2>(.*?)</h2>", html))


def test_values_that_are_all_the_same_or_infinite_are_no_obstacle(page):
    same = optuna.create_study()
    same.set_user_attr("objectives", ["logloss"])
    distribution = optuna.distributions.FloatDistribution(0, 1)
    for i in range(3):
        same.add_trial(create_trial(value=0.5, params={"x": i / 3}, distributions={"x": distribution}))
    html, figures = page(same, _bare_summary(same))
    assert "logloss is the same in all finished trials" in html
    assert "could not be drawn" not in html
    same.add_trial(create_trial(value=float("inf"), params={"x": 0.9}, distributions={"x": distribution}))
    html, figures = page(same, _bare_summary(same))
    assert "could not be drawn" not in html
    assert _trace(figures["logloss by trial"], "trial")["y"] == [0.5] * 3


def test_one_picture_that_fails_does_not_cost_the_others(page, monkeypatch):
    import optuna.visualization

    def broken(*_, **__):
        raise RuntimeError("no <luck>")

    monkeypatch.setattr(optuna.visualization, "plot_timeline", broken)
    html, figures = page(make_study(12))
    assert "The timeline could not be drawn: RuntimeError: no &lt;luck&gt;" in html
    assert "auc/macro by trial" in figures


def test_a_study_still_under_way_has_a_page(page):
    study = make_study(10)
    study.enqueue_trial({"rate": 0.01})
    study.ask().suggest_float("rate", 1e-4, 1e-1, log=True)
    study.ask()
    html, _ = page(study)
    assert "running" in _section(html, "Trials")
    assert "could not be drawn" not in html


def test_the_study_is_left_as_it_was(page):
    study = make_study(8, n_objectives=2)
    before, verbosity = [(t.number, t.values, dict(t.user_attrs)) for t in study.trials], optuna.logging.get_verbosity()
    page(study)
    assert [(t.number, t.values, dict(t.user_attrs)) for t in study.trials] == before
    assert study.metric_names is None
    assert optuna.logging.get_verbosity() == verbosity


def test_a_page_that_cannot_be_written_is_told(tmp_path):
    study = make_study(2)
    with pytest.raises(InputError, match="cannot be written"):
        write_search_page(tmp_path / "nowhere" / "report.html", study, make_summary(study))


def _open(browser, path):
    from selenium.webdriver.support.ui import WebDriverWait

    browser.get(path.as_uri())
    every = "return document.querySelectorAll('.figure:not([data-drawn])').length === 0 && window.Plotly !== undefined"
    WebDriverWait(browser, 60).until(lambda driver: driver.execute_script(every))


@pytest.fixture
def written(tmp_path):
    study = make_study(20, n_objectives=2)
    write_search_page(tmp_path / "report.html", study, make_summary(study))
    return study, tmp_path / "report.html"


def test_a_browser_draws_every_figure_sorts_the_trials_and_asks_for_nothing(browser, written):
    study, path = written
    _open(browser, path)
    drawn = "return [...document.querySelectorAll('.figure')].map(f => f.querySelectorAll('.main-svg').length)"
    assert min(browser.execute_script(drawn)) >= 1
    points = "return document.querySelectorAll('[aria-label=\"auc/macro by trial\"] path.point').length"
    finished = [trial for trial in study.trials if trial.state == TrialState.COMPLETE]
    assert browser.execute_script(points) == len(finished) + 1  # and the star of the defaults
    # plotly.js would have a button that sends the figure to its makers.
    assert not browser.execute_script(
        "return document.querySelectorAll('[data-title*=loud], [data-title*=Chart]').length"
    )
    _a_click_sorts_the_trials_by_number_and_nothing_stays_last(browser, study)
    assert browser.get_log("browser") == []
    asked = "return performance.getEntriesByType('resource').map(e => e.name).filter(n => !/^(data|blob):/.test(n))"
    assert browser.execute_script(asked) == []


def _a_click_sorts_the_trials_by_number_and_nothing_stays_last(browser, study):
    from selenium.webdriver.common.by import By

    table = browser.find_element(By.CSS_SELECTOR, 'table.sortable[aria-label="All trials"]')
    (button,) = [b for b in table.find_elements(By.TAG_NAME, "button") if b.text == "auc/macro"]
    finished = {trial.number: trial.values[0] for trial in study.trials if trial.state == TrialState.COMPLETE}
    rest = [trial.number for trial in study.trials if trial.number not in finished]

    def numbers():
        rows = table.find_elements(By.CSS_SELECTOR, "tbody th")
        return [int(row.get_attribute("textContent")) for row in rows]

    assert numbers() == list(range(20))
    for descending in (False, True):
        browser.execute_script("arguments[0].click()", button)
        order = numbers()
        assert order[: len(finished)] == sorted(finished, key=finished.get, reverse=descending)
        assert order[len(finished) :] == rest
        header = button.find_element(By.XPATH, "..")
        assert header.get_attribute("aria-sort") == ("descending" if descending else "ascending")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_figures_are_readable_in_both_schemes_and_fit_a_narrow_window(browser, written, scheme):
    from recbole_msr.report.html.colours import contrast

    _, path = written
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    size = {"width": 400, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    _open(browser, path)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 400
    colours = browser.execute_script(
        "return [getComputedStyle(document.body).backgroundColor,"
        "...[...document.querySelectorAll('.figure text')].filter(t => t.textContent.trim())"
        ".map(t => getComputedStyle(t).fill)]"
    )
    paper, *inks = ["#" + "".join(f"{int(n):02x}" for n in re.findall(r"\d+", colour)[:3]) for colour in colours]
    assert len(inks) > 50
    assert min(contrast(paper, ink) for ink in set(inks)) >= 4.5
