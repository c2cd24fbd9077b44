"""Put together what a finished run has learnt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from recbole_msr.errors import InputError
from recbole_msr.evaluation.importance import Importance
from recbole_msr.models.base import MultiScenarioRecommender
from recbole_msr.models.llm4msr import LLM4MSR
from recbole_msr.runs.explain.ids import check_users, spread_ids, view_id
from recbole_msr.runs.explain.knowledge import KnowledgeReader
from recbole_msr.runs.explain.permutation import SHUFFLES, ImportanceOptions, choose_split, measure_importance
from recbole_msr.runs.explain.scenario_pass import ScenarioPass
from recbole_msr.runs.explain.scores import EnsembleScores, RunScores
from recbole_msr.runs.explain.sources import RunSources
from recbole_msr.runs.explain.training_rows import MAX_SCENARIOS, TrainingRows, largest_scenarios
from recbole_msr.runs.explain.vectors import vectors_read
from recbole_msr.runs.explain.views import Explanation, IdView, ScenarioView
from recbole_msr.runs.explain.weights import attention_matrices, attention_notes, weight_lines
from recbole_msr.runs.initial_weights import Movement, Weights, movements, read_start
from recbole_msr.threads import torch_threads

if TYPE_CHECKING:
    from recbole_msr.runs.ensemble import SavedEnsemble
    from recbole_msr.runs.run_files import RunFiles
    from recbole_msr.runs.saved_run import SavedRun


@torch_threads()
def explain_run(
    files: SavedRun, users: Sequence[str] | None, n: int, importance: ImportanceOptions | None = None
) -> Explanation:
    """Look into a finished run, as `SavedRun.explain` describes.

    Args:
        files: the run.
        users: raw ids of users; None for `n` users spread over the scenarios.
        n: number of those users.
        importance: how the importance of fields is measured; None leaves it out.

    Raises:
        InputError: the run has no scenarios and tasks, or does not know a user.
    """
    if n < 1:
        raise InputError(f"--n must be at least 1 user, got {n}")
    _ = files.result  # an unfinished run, or a damaged result, is refused before anything is computed
    files.require_tasks(
        "there is nothing to explain. Runs of HiNet, LLM4MSR and the other multi-scenario models are explained"
    )
    if users is not None:
        check_users(files.dataset, users)
    sources = RunSources(files)
    model, train, notes = sources.model, sources.training_split(), sources.notes
    rows = None if train is None else TrainingRows(train)
    names, shown = sources.dataset.scenario_names, largest_scenarios(sources.dataset)
    if len(names) > MAX_SCENARIOS:
        notes.append(f"of the {len(names)} scenarios the {MAX_SCENARIOS} with most training rows are shown")

    readings = ScenarioPass(model, rows, shown)
    attention = attention_matrices(model, shown)
    notes += attention_notes(model)
    weights = weight_lines(attention, [*readings.gates, *readings.other_gates], readings.fusion)
    moves = _moves(files, weights, notes)
    between = [*attention, *readings.added_logits(), *readings.measures]
    scenarios = _view_scenarios(sources, shown, rows, readings)
    shows_nothing = model is not None and rows is not None and not between and not readings.gates
    notes += _absence_notes(model, shows_nothing)
    chosen = list(dict.fromkeys(users)) if users is not None else spread_ids(sources.dataset, rows, shown, n, "user")
    ids = {"user": chosen}
    if "item" in vectors_read(model):
        ids["item"] = spread_ids(sources.dataset, rows, shown, n, "item")
    users_and_items = {level: _view_ids(level, tokens, sources, rows) for level, tokens in ids.items()}
    knowledge = KnowledgeReader(sources, rows, shown, ids).view()
    test = files.evaluation.test
    if test is None:
        told = (
            "RecBole's own trainer evaluated this run" if "test" in files.result else "the run has not been tested yet"
        )
        notes.append(f"{told}: there is no result by scenario")
    measured = None if importance is None else _importance(files, sources, importance)
    facts, gates = sources.facts(), readings.gates
    return Explanation(
        files.folder, facts, notes, test, scenarios, users_and_items["user"], users_and_items.get("item", []), between,
        gates, weights, moves, knowledge, measured,
    )  # fmt: skip


def explain_importance(run: SavedRun, options: ImportanceOptions) -> Importance:
    """Measure the importance of a run's fields alone, as `SavedRun.importance` describes."""
    _check_tasks(run)
    return _of_run(run, RunSources(run), options)


def importance_over_runs(
    runs: Sequence[SavedRun], fields: Sequence[str] | None = None, shuffles: int = SHUFFLES, **options: Any
) -> Importance:
    """Measure the importance of fields in several runs of one model, such as with several seeds.

    Every loss is the mean over the runs, and its interval also says what other runs would change. All runs predict the
    same rows, and shuffle k is the same for all of them.

    Args:
        runs: the opened runs, two or more.
        fields: as `SavedRun.importance` takes them.
        shuffles: of each field.
        **options: `split`, `rows` and `seed`, as there.

    Raises:
        InputError: they are of other rows, models or tasks, a field is unknown, or data are gone or have changed.

    Example::

        runs = [recbole_msr.load(f"runs/seed-{seed}") for seed in (1, 2, 3)]
        importance = importance_over_runs(runs, ["user", "item"])
        importance.fields[0].loss("auc", "click", macro=True).by_run
    """
    if len(runs) < 2:
        raise InputError(f"importance over runs takes two runs or more, got {len(runs)}")
    asked = ImportanceOptions(fields, shuffles, **options)
    for run in runs:
        _check_tasks(run)
        first, own = (of.config["model"] for of in (runs[0], run))
        if own != first:
            raise InputError(f"{run.folder} is of {own}, and {runs[0].folder} of {first}: give runs of one model")
    split, notes = choose_split(runs, asked.split)
    scores = [RunScores(run, RunSources(run).split(split), asked.rows) for run in runs]
    return measure_importance(scores, split, asked, notes, [str(run.folder) for run in runs])


def ensemble_importance(ensemble: SavedEnsemble, options: ImportanceOptions) -> Importance:
    """Measure the importance of an ensemble's fields, as `SavedEnsemble.importance` describes."""
    for run in ensemble.members:
        _check_tasks(run)
    split, notes = choose_split(ensemble.members, options.split)
    members = [RunScores(run, RunSources(run).split(split), options.rows, True) for run in ensemble.members]
    scores = EnsembleScores(members, ensemble.weights, ensemble.member_tasks, ensemble.tasks)
    return measure_importance([scores], split, options, notes)


def _check_tasks(run: SavedRun) -> None:
    _ = run.result  # an unfinished run, or a damaged result, is refused
    run.require_tasks("importance is what a metric of a task loses")


def _of_run(run: SavedRun, sources: RunSources, options: ImportanceOptions) -> Importance:
    split, notes = choose_split([run], options.split)
    return measure_importance([RunScores(run, sources.split(split), options.rows)], split, options, notes)


def _importance(run: SavedRun, sources: RunSources, options: ImportanceOptions) -> Importance | None:
    """Measure the importance of fields; where that cannot be, say why in the notes, or refuse what was asked for."""
    if not any(run.evaluation) and options.fields is None:
        return None  # the notes say it already
    try:
        sources.split("test")
        _ = run.model
    except InputError as error:
        if options.fields is not None:
            raise
        sources.notes.append(f"no importance of fields: {error}")
        return None
    return _of_run(run, sources, options)


def _moves(files: RunFiles, weights: list[Weights], notes: list[str]) -> list[Movement]:
    """Compare weights with those that the run began with."""
    start = read_start(files.folder)
    if weights and start is None:
        notes.append(
            "how far attentions and gates have moved is not known: the run was made by a version that did not keep "
            "where they began"
        )
    return movements(weights, start or [])


def _view_scenarios(
    sources: RunSources, shown: list[int], rows: TrainingRows | None, readings: ScenarioPass
) -> list[ScenarioView]:
    names = [sources.dataset.scenario_names[m] for m in shown]
    prompts = sources.prompts("scenario", names)
    return [
        ScenarioView(
            name,
            None if rows is None else len(rows.of_scenario[m]),
            readings.movement.get(m, {}),
            readings.strength.get(m, {}),
            prompts.get(name),
        )
        for m, name in zip(shown, names, strict=True)
    ]


def _view_ids(level: str, tokens: list[str], sources: RunSources, rows: TrainingRows | None) -> list[IdView]:
    prompts = sources.prompts(level, tokens)
    titles = sources.titles(tokens) if level == "item" else {}
    return [
        view_id(level, token, sources.dataset, sources.model, rows, prompts.get(token), titles.get(token))
        for token in tokens
    ]


def _absence_notes(model: MultiScenarioRecommender | None, shows_nothing: bool) -> list[str]:
    """Return what the model does not have.

    Args:
        model: the model, or None.
        shows_nothing: whether training rows went through it, and it has neither attention nor gates.
    """
    levels = (model.user_level, model.scenario_level) if isinstance(model, LLM4MSR) else (None, None)
    if any(levels) and not all(levels):
        absent, measure = ("scenario", "strengths") if levels[0] is not None else ("user", "movement")
        return [f"the run has no {absent} level (knowledge_level), so there is no {measure} to show"]
    if shows_nothing and not any(levels) and not (isinstance(model, LLM4MSR) and model.item_level is not None):
        shown = "its results by scenario, the training rows of scenarios and users"
        shown += ", and what it makes of its vectors" if vectors_read(model) else ""
        return [
            f"this {type(model).__name__} has neither gates over experts nor attention nor meta layers: {shown} are "
            "shown"
        ]
    return []
