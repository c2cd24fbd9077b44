"""The figures of a study; each says in a sentence why where it cannot be drawn.

Importances, slices, Pareto fronts and the timeline are Optuna's own. Three are drawn here, as Optuna's do not serve:

- `plot_optimization_history` has no line of the best value for a study of two objectives or more, and its points do not
  name their parameters;
- `plot_parallel_coordinate` leaves out every trial that lacks one of the parameters, which in a conditional space are
  most of them;
- `plot_intermediate_values` shows what a trial has reported to its pruner, so nothing where there are two objectives or
  more, and draws complete, pruned and failed trials alike.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import combinations
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from recbole_msr.report.figures import LEGEND_ON_TOP, MARGIN, figure, hover, short
from recbole_msr.report.html.colours import COLOURS, FIGURE_SCALE
from recbole_msr.report.html.page import note

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

logger = logging.getLogger(__name__)

_MAX_LINES = 300
"""Maximum number of trials in parallel coordinates, the best ones; more make a browser slow and a figure grey."""
_OBJECTIVE_HEIGHT = 360


class StudyFigures:
    """Figures of a study, as parts of a page.

    Args:
        study: the study; read once, so that workers may go on writing.
        names: names of its objectives.
        best: number of the best trial; None where there is none.
    """

    def __init__(self, study: optuna.Study, names: Sequence[str], best: int | None) -> None:
        from optuna.trial import TrialState

        self._names, self._best = list(names), best
        self._trials = study.get_trials(deepcopy=False)
        self._bigger = [direction.name == "MAXIMIZE" for direction in study.directions]
        self._finished = [
            t for t in self._trials if t.state == TrialState.COMPLETE and all(map(math.isfinite, t.values))
        ]
        with quiet_optuna():
            self._study = _without_attributes(study, self._trials, self._names)

    def history(self) -> list[Markup]:
        """Return every objective's value by trial, and the best so far."""
        if not self._finished:
            return [_none_finished()]
        return [self._drawn(f"the history of {name}", self._history, i) for i, name in enumerate(self._names)]

    def _history(self, index: int) -> Markup:
        from plotly import graph_objects as go

        numbers = [t.number for t in self._finished]
        values = [t.values[index] for t in self._finished]
        best: list[float] = []
        pick = max if self._bigger[index] else min
        for value in values:
            best.append(pick([*best[-1:], value]))
        texts = [self._hover_label(t) for t in self._finished]
        shape = {"color": COLOURS["best"], "shape": "hv"}
        drawn = go.Figure()
        drawn.add_scatter(x=numbers, y=best, mode="lines", name="best so far", line=shape, hoverinfo="skip")
        drawn.add_scatter(
            **{"x": numbers, "y": values, "mode": "markers", "name": "trial", "text": texts, "hoverinfo": "text"},
            marker={"color": COLOURS["complete"], "size": 8},
        )
        if self._trials and self._trials[0].user_attrs.get("origin") == "defaults" and numbers[:1] == [0]:
            drawn.add_scatter(
                **{"x": [0], "y": values[:1], "mode": "markers", "name": "defaults", "text": texts[:1]},
                **{"hoverinfo": "text", "marker": {"color": COLOURS["defaults"], "size": 13, "symbol": "star"}},
            )
        margin = 0.02 * len(self._trials) + 0.3
        drawn.update_layout(legend=LEGEND_ON_TOP, margin=MARGIN)
        drawn.update_xaxes(title="trial", range=[-margin, len(self._trials) - 1 + margin], zeroline=False)
        drawn.update_xaxes(dtick=1 if len(self._trials) <= 15 else None)
        drawn.update_yaxes(title=self._axis(index))
        return figure(drawn, f"{self._names[index]} by trial", _OBJECTIVE_HEIGHT)

    def importances(self) -> list[Markup]:
        """Return how much each parameter explains of each objective."""
        return [self._drawn(f"the importances for {name}", self._importance, i) for i, name in enumerate(self._names)]

    def _importance(self, index: int) -> Markup:
        from optuna.visualization import plot_param_importances

        name = self._names[index]
        if len(self._finished) < 2:
            return note(f"Importances need at least two finished trials; there are {len(self._finished)}.")
        if len({t.values[index] for t in self._finished}) == 1:
            return note(f"{name} is the same in all finished trials, so no parameter matters for it.")
        if not any(t.params for t in self._finished):
            return note("No finished trial has a parameter.")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a parameter has too few trials to say anything: it is shown as 0
            drawn = plot_param_importances(self._study, target=lambda t: t.values[index], target_name=name)
        n_params = len(drawn.data[0].y)
        drawn.update_traces(marker_color=COLOURS["complete"], cliponaxis=False)
        drawn.update_layout(showlegend=False, margin={**MARGIN, "r": 45})
        drawn.update_xaxes(title=f"share of what explains {name}")
        drawn.update_yaxes(title=None, dtick=1)
        return figure(drawn, f"importance of parameters for {name}", 90 + 26 * n_params)

    def parallel(self) -> Markup:
        """Return a line a trial through the values of its parameters, coloured by the first objective."""
        if len(self._finished) < 2:
            return note(f"A picture of lines needs at least two finished trials; there are {len(self._finished)}.")
        return self._drawn("the parallel coordinates", self._parallel)

    def _parallel(self) -> Markup:
        from plotly import graph_objects as go
        from plotly.colors import sample_colorscale

        ranked = sorted(self._finished, key=lambda t: t.values[0], reverse=self._bigger[0])[:_MAX_LINES]
        axes = [_Axis.of_values(self._axis(i), [t.values[i] for t in ranked]) for i in range(len(self._names))]
        parameters = self._varied(ranked)
        axes += [_Axis.of_parameter(name, ranked) for name in parameters]
        columns = [[t.values[i] for t in ranked] for i in range(len(self._names))]
        columns += [[t.params.get(name) for t in ranked] for name in parameters]
        places = [[axis.place(value) for value in column] for axis, column in zip(axes, columns, strict=True)]

        low, high = min(columns[0]), max(columns[0])
        scale = FIGURE_SCALE if self._bigger[0] else [[1 - place, colour] for place, colour in reversed(FIGURE_SCALE)]
        colours = sample_colorscale(scale, [0.5 if high == low else (v - low) / (high - low) for v in columns[0]])
        drawn = go.Figure()
        for line in reversed(range(len(ranked))):  # the best on top
            trial = ranked[line]
            is_best = trial.number == self._best
            texts = [
                f"trial {trial.number}<br>{hover(axis.name)}: {hover(axis.format(column[line]))}"
                for axis, column in zip(axes, columns, strict=True)
            ]
            drawn.add_scatter(
                x=list(range(len(axes))),
                y=[column[line] for column in places],
                **{"mode": "lines", "text": texts, "hoverinfo": "text", "showlegend": False},
                line={"color": colours[line], "width": 4 if is_best else 1.5},
                opacity=1 if is_best else 0.65,
            )
        bar = {"thickness": 12, "len": 0.9, "title": {"text": self._names[0], "side": "right"}}
        drawn.add_scatter(
            **{"x": [None], "y": [None], "mode": "markers", "showlegend": False},
            marker={"color": [low], "cmin": low, "cmax": high, "colorscale": scale, "showscale": True, "colorbar": bar},
        )
        for x, axis in enumerate(axes):
            for place, words in axis.ticks():
                drawn.add_annotation(
                    **{"x": x, "y": place, "text": hover(words), "showarrow": False, "font": {"size": 11}},
                    **{"xanchor": "left", "xshift": 3, "bgcolor": "rgba(128,128,128,0.18)"},
                )
        if any(None in column for column in columns):
            drawn.add_annotation(
                **{"x": 0, "y": _ABSENT, "text": "not in the trial", "showarrow": False},
                **{"xanchor": "left", "font": {"size": 11}},
            )
        drawn.update_layout(margin={"l": 30, "r": 20, "t": 20, "b": 20}, hovermode="closest")
        drawn.update_xaxes(
            **{"tickmode": "array", "tickvals": list(range(len(axes))), "ticktext": [hover(a.name) for a in axes]},
            **{"side": "top", "tickangle": -30, "range": [-0.15, len(axes) - 0.3], "zeroline": False},
        )
        drawn.update_yaxes(visible=False, range=[_ABSENT - 0.06, 1.06])
        return figure(drawn, "parallel coordinates of the trials", 480, width=105 * len(axes), scale=scale)

    def slices(self) -> Markup:
        """Return the first objective by every parameter."""
        if not self._finished:
            return _none_finished()
        names = self._varied(self._finished)
        if not names:
            return note("No parameter has two values among the finished trials.")
        parts = [self._drawn(f"the slice of {name}", self._slice, name) for name in names]
        return Markup('<div class="grid">{}</div>').format(Markup("\n").join(parts))

    def _slice(self, name: str) -> Markup:
        from optuna.visualization import plot_slice

        drawn = plot_slice(self._study, [name], target=lambda t: t.values[0], target_name=self._names[0])
        drawn.update_traces(marker={"showscale": False, "size": 8, "line": {"width": 0}})
        drawn.update_layout(margin={"l": 10, "r": 10, "t": 10, "b": 10}, showlegend=False)
        drawn.update_yaxes(title=None, nticks=5)
        drawn.update_xaxes(title=hover(name), nticks=6)
        values = [t.params[name] for t in self._finished if name in t.params]
        if all(type(value) is int for value in values) and max(values) - min(values) <= 6:
            drawn.update_xaxes(dtick=1)
        choices = drawn.layout.xaxis.categoryarray
        if choices is not None:
            words = [hover(choice[1:-1] if choice[:1] == choice[-1:] == "'" else choice) for choice in choices]
            drawn.update_xaxes(tickmode="array", tickvals=choices, ticktext=words)
        return figure(drawn, f"{self._names[0]} by {name}", 250, buttons=False)

    @staticmethod
    def _varied(trials: Sequence[FrozenTrial]) -> list[str]:
        """Return the parameters of which trials have different values, or only some trials have one."""
        names = sorted({name for t in trials for name in t.params})
        return [name for name in names if len({repr(t.params.get(name)) for t in trials}) > 1]

    def pareto(self) -> list[Markup]:
        """Return the Pareto front of every two objectives."""
        if not self._finished:
            return [_none_finished()]
        pairs = combinations(range(len(self._names)), 2)
        return [self._drawn(f"{self._names[i]} against {self._names[j]}", self._pareto, i, j) for i, j in pairs]

    def _pareto(self, first: int, second: int) -> Markup:
        from optuna.visualization import plot_pareto_front

        drawn = plot_pareto_front(
            self._study,
            targets=lambda t: (t.values[second], t.values[first]),
            target_names=[self._axis(second), self._axis(first)],
        )
        for trace, name, key in zip(drawn.data, ("other trials", "Pareto front"), ("complete", "best"), strict=True):
            trace.name, trace.showlegend = name, True
            trace.marker = {"color": COLOURS[key], "size": 9, "opacity": 0.6 if key == "complete" else 1}
        defaults = next((t for t in self._finished if t.user_attrs.get("origin") == "defaults"), None)
        for trial, key, symbol in ((defaults, "defaults", "star"), (self._trial(self._best), "best", "circle-open")):
            if trial is not None and trial in self._finished:
                drawn.add_scatter(
                    **{"x": [trial.values[second]], "y": [trial.values[first]], "mode": "markers"},
                    **{"name": key, "text": [self._hover_label(trial)], "hoverinfo": "text"},
                    marker={"color": COLOURS[key], "symbol": symbol, "size": 17, "line": {"width": 2}},
                )
        drawn.update_layout(legend=LEGEND_ON_TOP, margin=MARGIN, showlegend=True)
        return figure(drawn, f"{self._names[first]} against {self._names[second]}", 440)

    def front(self) -> list[FrozenTrial]:
        """Return the finished trials of the Pareto front, the best by the first objective first."""
        with quiet_optuna():
            numbers = {t.number for t in self._study.best_trials}
        front = [t for t in self._finished if t.number in numbers]
        return sorted(front, key=lambda t: t.values[0], reverse=self._bigger[0])

    def curves(self, metric: str) -> Markup:
        """Return the validation value by epoch, of all trials that have one.

        Args:
            metric: the trials' valid_metric.
        """
        return self._drawn("the curves", self._curves, metric)

    def _curves(self, metric: str) -> Markup:
        from plotly import graph_objects as go

        groups: dict[str, list[tuple[FrozenTrial, list[int], list[float]]]] = {}
        for trial in self._trials:
            epochs, values = _curve(trial, metric)
            if epochs:
                groups.setdefault(self._group(trial), []).append((trial, epochs, values))
        if not groups:
            return note("No trial has a validation value yet.")
        drawn = go.Figure()
        for group in ("complete", "running", "pruned", "failed", "defaults", "best"):
            lines = groups.get(group, [])
            if not lines:
                continue
            strong = group in ("defaults", "best")
            drawn.add_scatter(
                x=[x for _, epochs, _ in lines for x in (*epochs, None)],
                y=[y for _, _, values in lines for y in (*values, None)],
                text=[words for trial, epochs, values in lines for words in _epoch_labels(trial, epochs, values)],
                **{"mode": "lines+markers", "hoverinfo": "text", "connectgaps": False},
                name=f"{group} ({len(lines)})" if not strong else f"{group} (trial {lines[0][0].number})",
                line={
                    "color": COLOURS[group],
                    "width": 3.5 if strong else 1.3,
                    "dash": "dot" if group == "pruned" else "solid",
                },
                marker={"size": 6 if strong else 4},
            )
            if group in ("pruned", "failed"):
                drawn.add_scatter(
                    **{"x": [e[-1] for _, e, _ in lines], "y": [v[-1] for _, _, v in lines], "mode": "markers"},
                    text=[f"trial {t.number}: {hover(t.user_attrs.get('reason', group))}" for t, _, _ in lines],
                    **{"hoverinfo": "text", "showlegend": False},
                    marker={"color": COLOURS[group], "symbol": "x", "size": 10},
                )
        drawn.update_layout(legend=LEGEND_ON_TOP, margin=MARGIN, hovermode="closest", showlegend=True)
        longest = max(epochs[-1] for lines in groups.values() for _, epochs, _ in lines)
        drawn.update_xaxes(title="epoch", dtick=1 if longest <= 15 else None)
        drawn.update_yaxes(title=f"{metric} on the validation split")
        return figure(drawn, f"{metric} by epoch of every trial", 440)

    def _group(self, trial: FrozenTrial) -> str:
        if trial.number == self._best:
            return "best"
        if trial.user_attrs.get("origin") == "defaults" and trial.state.name == "COMPLETE":
            return "defaults"
        return {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}.get(trial.state.name, "running")

    def timeline(self) -> Markup:
        """Return when each trial ran."""
        if not any(t.datetime_start for t in self._trials):
            return note("No trial has begun.")
        return self._drawn("the timeline", self._timeline)

    def _timeline(self) -> Markup:
        from optuna.visualization import plot_timeline

        drawn = plot_timeline(self._study)
        for trace in drawn.data:
            word = {"FAIL": "failed"}.get(trace.name, trace.name.lower())
            trace.name, trace.marker = word, {"color": COLOURS.get(word, "#8a8f98")}
        drawn.update_layout(legend=LEGEND_ON_TOP, margin=MARGIN)
        drawn.update_xaxes(title=None)
        drawn.update_yaxes(title="trial", autorange="reversed", dtick=1 if len(self._trials) <= 20 else None)
        return figure(drawn, "when the trials ran", min(160 + 14 * len(self._trials), 700))

    def _drawn(self, subject: str, draw: Callable[..., Markup], *arguments: Any) -> Markup:
        """Return a figure, or why there is none. One that fails must not cost the others."""
        try:
            with quiet_optuna():
                return draw(*arguments)
        except Exception as error:
            logger.debug("%s could not be drawn", subject, exc_info=True)
            return note(f"{subject[:1].upper()}{subject[1:]} could not be drawn: {type(error).__name__}: {error}")

    def _axis(self, index: int) -> str:
        return f"{self._names[index]} ({'higher' if self._bigger[index] else 'lower'} is better)"

    def _trial(self, number: int | None) -> FrozenTrial | None:
        return None if number is None or number >= len(self._trials) else self._trials[number]

    def _hover_label(self, trial: FrozenTrial) -> str:
        values = [f"{hover(name)}: {short(value)}" for name, value in zip(self._names, trial.values, strict=True)]
        params = [f"{hover(name)} = {hover(short(value))}" for name, value in trial.params.items()]
        return "<br>".join([f"trial {trial.number}", *values, *params])


_ABSENT = -0.14
"""Place at which a line of parallel coordinates passes an axis of which its trial has no value."""


class _Axis:
    """An axis of parallel coordinates: the place of a value between 0 and 1, and the text that stands there."""

    def __init__(self, name: str, values: Sequence[Any], choices: Sequence[Any] | None, log: bool = False) -> None:
        self.name, self._choices, self._log = name, choices, log
        if choices is None:
            present = [value for value in values if value is not None]
            self._low, self._high = min(present), max(present)

    @classmethod
    def of_values(cls, name: str, values: Sequence[float]) -> _Axis:
        return cls(name, values, None)

    @classmethod
    def of_parameter(cls, name: str, trials: Sequence[FrozenTrial]) -> _Axis:
        trials = [t for t in trials if name in t.params]
        distribution: Any = trials[0].distributions[name]
        choices = getattr(distribution, "choices", None)
        used = None if choices is None else [c for c in choices if any(t.params[name] == c for t in trials)]
        return cls(name, [t.params[name] for t in trials], used, bool(getattr(distribution, "log", False)))

    def place(self, value: Any) -> float:
        if value is None:
            return _ABSENT
        if self._choices is not None:
            last = len(self._choices) - 1
            return self._choices.index(value) / last if last else 0.5
        if self._low == self._high:
            return 0.5
        if self._log:
            return math.log(value / self._low) / math.log(self._high / self._low)
        return float((value - self._low) / (self._high - self._low))

    def ticks(self) -> list[tuple[float, str]]:
        """Return places and texts beside the axis: every choice, or the ends of a range."""
        if self._choices is not None:
            return [(self.place(choice), str(choice)) for choice in self._choices]
        if self._low == self._high:
            return [(0.5, self.format(self._low))]
        return [(0.0, self.format(self._low)), (1.0, self.format(self._high))]

    def format(self, value: Any) -> str:
        return "not in the trial" if value is None else short(value)


def _curve(trial: FrozenTrial, metric: str) -> tuple[list[int], list[float]]:
    """Return epochs and validation values of a trial, as far as it came."""
    column = f"valid/{metric}".lower()
    pairs: list[tuple[int, float]] = []
    for row in trial.user_attrs.get("history") or []:
        pairs += [(int(row["epoch"]), value) for key, value in row.items() if key.lower() == column]
    if not pairs and "rungs" not in trial.user_attrs:  # steps are epochs
        pairs = sorted(trial.intermediate_values.items())
    pairs = [(epoch, value) for epoch, value in pairs if value is not None and math.isfinite(value)]
    return [epoch for epoch, _ in pairs], [value for _, value in pairs]


def _epoch_labels(trial: FrozenTrial, epochs: Sequence[int], values: Sequence[float]) -> list[str]:
    labels = [f"trial {trial.number}, epoch {x}: {y:.4f}" for x, y in zip(epochs, values, strict=True)]
    return [*labels, ""]


def _none_finished() -> Markup:
    return note("No trial has finished yet.")


@contextmanager
def quiet_optuna() -> Iterator[None]:
    """Silence Optuna's remarks on a study, and on features it calls experimental."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        optuna.logging.set_verbosity(before)


def _without_attributes(study: optuna.Study, trials: Sequence[FrozenTrial], names: Sequence[str]) -> optuna.Study:
    """Copy the study into memory, without attributes: Optuna would write them all, histories too, into labels."""
    import copy

    import optuna

    light = optuna.create_study(directions=study.directions)
    light.set_metric_names(list(names))
    for trial in trials:
        bare = copy.copy(trial)
        kept: dict[str, Any] = {key: trial.user_attrs[key] for key in ("origin", "reason") if key in trial.user_attrs}
        bare.user_attrs = kept
        light.add_trial(bare)
    return light
