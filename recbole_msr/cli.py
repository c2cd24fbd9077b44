"""Console scripts: `run_recbole` and `recbole-msr`. They read arguments and print; the work is done elsewhere."""

from __future__ import annotations

import argparse
import logging
import shlex
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from recbole_msr import registry
from recbole_msr.errors import InputError
from recbole_msr.files.yaml import parse_argument
from recbole_msr.prompts.encoders import DEFAULT_ENCODER, encoder_forms

_RUN_HELP = """
any further --key=value (or --key value) is a configuration key of RecBole, of the model or of recbole-msr,
for instance --epochs=5 --learning_rate=1e-3 --output_dir=DIR --seed=1; --resume goes on with the run in --output_dir.
"""

_KNOWLEDGE_HELP = """
any further --key=value is a setting:
  prompts   --language=zh --max_items=20 --max_tokens=200 --title_field=FIELD --category_field=FIELD --liked=TASK
  embed     --levels=[user, scenario, item] --batch_size=32 --store_dtype=float16|float32 --knowledge_dir=DIR
  encoder   --device=cuda --dtype=bfloat16 --layer=-1 --pooling=last|mean --mode=prompt|generate --server_model=NAME ...
or a configuration key of RecBole or recbole-msr, for instance --data_path=DIR --data_seed=1.
"""

_SEARCH_HELP = """
any further --key=value is a configuration key of every trial, for instance --epochs=5 --data_path=DIR --seed=1;
a key that is also in the space is fixed by it. --sampler and --pruner take options too:
--sampler='{name: tpe, n_startup_trials: 20}'.
"""


_COMPARE_HELP = """
--models names models, or a YAML file of entries {LABEL: {model: NAME, key: value, ...}, ...}.
any further --key=value is a configuration key of every run, for instance --epochs=5 --data_path=DIR --seed=1.
"""


class _Parser(argparse.ArgumentParser):
    """An argument parser that refuses in one line, as the commands do; `--help` shows the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {' '.join(message.split())} ({self.prog} --help lists all arguments)\n")


def run_recbole(arguments: Sequence[str] | None = None) -> int:
    """`run_recbole`: train, validate and test one model. RecBole's own arguments, and any model of RecBole's."""
    parser = _Parser(
        prog="run_recbole",
        description="Train a model, keep its best epoch by validation, and test it.",
        epilog=_RUN_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--model", "-m", help="a model's name; `recbole-msr models` lists them (default: BPR)")
    parser.add_argument("--dataset", "-d", help="a dataset's name, looked for below --data_path (default: ml-100k)")
    parser.add_argument("--config_files", nargs="+", default=[], metavar="FILE", help="YAML files; later ones win")
    parser.add_argument("--resume", nargs="?", const="True", help=argparse.SUPPRESS)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    given, rest = parser.parse_known_args(arguments)
    return _guarded(given.debug, lambda: _run(given, rest))


def _run(given: argparse.Namespace, rest: Sequence[str]) -> int:
    settings = parse_settings([*rest, *_strayed(given)])
    if given.resume is not None:
        settings["resume"] = parse_argument("resume", given.resume)
        if settings["resume"] not in (True, False):
            raise InputError(f"--resume is given alone, or as --resume=True or False, got {given.resume!r}")
    files = _files(given)
    from recbole_msr.report.run.result_table import print_metrics, print_result
    from recbole_msr.runs.run import run

    model, dataset = given.model, given.dataset
    if not files and not settings.get("resume"):  # RecBole's own defaults
        model, dataset = model or settings.get("model", "BPR"), dataset or settings.get("dataset", "ml-100k")
    result = run(model, dataset, files, settings)
    if result.rank == 0:
        summary = result.summary
        title = f"{summary['model']} on {summary['dataset']}: test, best epoch {summary['best_epoch']}"
        if result.test is not None:
            print_result(result.test, title)
        print_metrics(result.summary)
        print(f"Files: {result.folder}")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """`recbole-msr`: one command a job."""
    parser = _Parser(prog="recbole-msr", description="Multi-scenario, multi-task recommendation.")
    common = _Parser(add_help=False)
    common.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    data = commands.add_parser("data", parents=[common], help="turn a public dataset's raw files into atomic files")
    data.add_argument("dataset", help="which dataset the raw files are: ml-1m")
    data.add_argument("raw_dir", help="the folder with ratings.dat, users.dat, movies.dat, plain or .gz")
    data.add_argument("out_dir", help="the folder to write into; it becomes --data_path")
    data.add_argument("--sample", type=int, metavar="N", help="keep N random ratings only")
    data.add_argument("--seed", type=int, default=2020, help="seed of the sample (default: 2020)")

    predict = commands.add_parser("predict", parents=[common], help="score new rows with a finished run")
    predict.add_argument("--run", required=True, metavar="DIR", help="the run's folder")
    predict.add_argument("--data", required=True, metavar="FILE", help="rows to score: .parquet or .csv")
    predict.add_argument(
        "--out", required=True, metavar="FILE", help="where they go, with a column a task: .parquet or .csv"
    )
    predict.add_argument(
        "--prefix", default="", metavar="PRE", help="names of the scores begin with it, before the task's name"
    )
    predict.add_argument("--batch-size", type=int, default=8192, help="rows scored at once (default: 8192)")

    explain = commands.add_parser(
        "explain", parents=[common], help="show what a finished run has learnt between scenarios and for users"
    )
    explained = explain.add_mutually_exclusive_group(required=True)
    explained.add_argument("--run", metavar="DIR", help="the run's folder")
    explained.add_argument("--runs", metavar="DIR,DIR", help="several runs: whether their attentions and gates agree")
    explain.add_argument("--users", metavar="ID,ID", help="these users, by their ids as in the data")
    explain.add_argument("--n", type=int, help="so many users, spread over the scenarios (default: 5)")
    explain.add_argument("--out", metavar="FILE", help="the page that is written (default: DIR/explain.html)")
    explain.add_argument("--knowledge_dir", metavar="DIR", help="where the run's knowledge is, if it has moved")

    _add_search(commands, common)
    _add_compare(commands, common)

    models = commands.add_parser("models", parents=[common], help="list the models, or one model's settings")
    models.add_argument("model", nargs="?", help="show this model's settings and their defaults")

    helps = {
        "prompts": "print some prompts made of the training data",
        "embed": "encode prompts into a knowledge store",
    }
    for name, what in helps.items():
        command = commands.add_parser(
            name, parents=[common], help=what, description=f"{what[0].upper()}{what[1:]}.", allow_abbrev=False,
            epilog=_KNOWLEDGE_HELP, formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        command.add_argument("--dataset", "-d", help="a dataset's name, looked for below --data_path")
        command.add_argument("--config_files", nargs="+", default=[], metavar="FILE", help="YAML files; later ones win")
        command.add_argument("--template", help="full, brief, keywords, or the path of a YAML file (default: full)")
        if name == "prompts":
            command.add_argument("--level", dest="levels", help="scenario, user or item (default: all)")
            command.add_argument("--n", type=int, default=1, help="how many of each level (default: 1)")
        else:
            forms = f"{', '.join(encoder_forms())} (default: {DEFAULT_ENCODER})"
            command.add_argument("--encoder", help=forms)
            command.add_argument("--name", help="what the knowledge is called: run_recbole --knowledge=NAME")
            command.add_argument("--replace", action="store_true", help="replace other knowledge of this name")

    given, rest = parser.parse_known_args(arguments)
    if rest and given.command not in ("prompts", "embed", "search", "compare"):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    given.rest = rest
    given.words = sys.argv[1:] if arguments is None else list(arguments)
    return _guarded(given.debug, lambda: _COMMANDS[given.command](given))


def _add_search(commands: Any, common: argparse.ArgumentParser) -> None:
    command = commands.add_parser(
        "search", parents=[common], help="search a model's architecture and training settings",
        description="Search a model's architecture and training settings; the same command again goes on.",
        epilog=_SEARCH_HELP, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
    )  # fmt: skip
    command.add_argument("--model", "-m", help="a model's name")
    command.add_argument("--dataset", "-d", help="a dataset's name, looked for below --data_path")
    command.add_argument("--config_files", nargs="+", default=[], metavar="FILE", help="YAML files; later ones win")
    command.add_argument("--space", metavar="FILE", help="the parameters (default: the model's own space)")
    command.add_argument("--trials", type=int, metavar="N", help="trials, over all workers and restarts")
    command.add_argument("--timeout", type=float, metavar="SECONDS", help="time after which no trial begins")
    command.add_argument("--total-epochs", type=int, metavar="N", help="epochs of all trials after which none begins")
    command.add_argument("--workers", type=int, default=1, metavar="N", help="processes on this machine (default: 1)")
    command.add_argument("--study", metavar="NAME", help="the study's name (default: MODEL-DATASET)")
    command.add_argument("--output", metavar="DIR", help="the folder (default: searches/STUDY)")
    command.add_argument("--storage", metavar="URL", help="a database that machines share (default: a file in DIR)")
    command.add_argument("--sampler", help="tpe, gp, cmaes, random, qmc, grid or nsga2 (default: tpe)")
    command.add_argument("--pruner", help="median, percentile, halving, hyperband, patient, wilcoxon or none")
    command.add_argument("--objectives", help="metrics and costs, such as auc/macro,parameters,flops,latency")
    command.add_argument(
        "--tolerance", type=float, default=0.01, metavar="SHARE",
        help="several objectives: quality that a smaller model may cost (default: 0.01)",
    )  # fmt: skip
    command.add_argument("--trial-seeds", type=int, default=1, metavar="N", help="trainings of each trial (default: 1)")
    command.add_argument("--final-seeds", type=int, default=3, metavar="N", help="seeds of the final test (default: 3)")
    command.add_argument(
        "--max-failures", type=int, default=5, metavar="N", help="failed trials in a row that end it (default: 5)"
    )
    command.add_argument(
        "--fused", default="auto", metavar="N", help="trainings a worker has at once: N, off, or auto (default: auto)"
    )
    command.add_argument("--wandb", choices=("online", "offline", "disabled"), help="Weights & Biases")


def _add_compare(commands: Any, common: argparse.ArgumentParser) -> None:
    command = commands.add_parser(
        "compare", parents=[common], help="compare models on equal terms, with a leaderboard",
        description="Compare models on equal terms; the same command again goes on, and reuses what is done.",
        epilog=_COMPARE_HELP, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
    )  # fmt: skip
    command.add_argument("--models", "-m", metavar="A,B", help="what is compared: this package's models and RecBole's")
    command.add_argument("--dataset", "-d", help="a dataset's name, looked for below --data_path")
    command.add_argument("--config_files", nargs="+", default=[], metavar="FILE", help="YAML files; later ones win")
    command.add_argument("--trials", type=int, default=0, metavar="N", help="trials of each search (default: 0, none)")
    command.add_argument("--timeout", type=float, metavar="SECONDS", help="time of each search")
    command.add_argument("--seeds", type=int, default=3, metavar="N", help="runs of each model (default: 3)")
    command.add_argument("--reference", metavar="NAME", help="what the others are tested against (default: the first)")
    command.add_argument("--vary", metavar="KEYS", help="'{loss_weighting: [fixed, dwa]}': each model once for each")
    command.add_argument(
        "--single-scenario", action="store_true", help="train on each scenario alone, too: negative transfer"
    )
    command.add_argument("--workers", type=int, default=1, metavar="N", help="processes on this machine (default: 1)")
    command.add_argument("--output", metavar="DIR", help="the folder (default: comparisons/DATASET)")
    command.add_argument(
        "--alpha", type=float, default=0.05, help="level of significance, after Holm's correction (default: 0.05)"
    )
    command.add_argument("--wandb", choices=("online", "offline", "disabled"), help="Weights & Biases")


def _compare(given: argparse.Namespace) -> int:
    from recbole_msr.comparison.run import compare
    from recbole_msr.report.comparison.terminal import print_comparison

    names = ("trials", "seeds", "reference", "single_scenario", "output", "workers", "timeout", "alpha", "wandb")
    result = compare(
        given.models,
        given.dataset,
        config_files=_files(given),
        config=parse_settings([*given.rest, *_strayed(given)]),
        vary=parse_argument("vary", given.vary) if given.vary is not None else None,
        command=shlex.join(["recbole-msr", *given.words]),
        **{name: getattr(given, name) for name in names},
    )
    print_comparison(result.summary)
    print(f"Files: {result.folder}")
    return 0


def _search(given: argparse.Namespace) -> int:
    from recbole_msr.jobs.storage import hide_password
    from recbole_msr.report.tuning.terminal import print_search
    from recbole_msr.tuning.run import search

    options = {
        name: getattr(given, name)
        for name in (
            *("space", "trials", "timeout", "total_epochs", "workers", "study", "output", "storage", "objectives"),
            *("tolerance", "trial_seeds", "final_seeds", "max_failures", "fused", "wandb"),
        )
    }
    for name in ("sampler", "pruner"):
        value = getattr(given, name)
        options[name] = parse_argument(name, value) if value is not None else None
    command = shlex.join(["recbole-msr", *(hide_password(word) for word in given.words)])
    sys.argv = [hide_password(word) for word in sys.argv]  # Weights & Biases keeps it
    result = search(
        given.model,
        given.dataset,
        config_files=_files(given),
        config=parse_settings([*given.rest, *_strayed(given)]),
        command=command,
        **options,
    )
    print_search(result.summary)
    print(f"Files: {result.folder}")
    return 0


def _data(given: argparse.Namespace) -> int:
    from recbole_msr.data.converters import convert

    folder = convert(given.dataset, given.raw_dir, given.out_dir, given.sample, given.seed)
    print(f"Written to {folder}. Train on it with:")
    print(f"  run_recbole --model=HiNet --dataset={given.dataset} --data_path={folder.parent}")
    return 0


def _predict(given: argparse.Namespace) -> int:
    from recbole_msr.runs.predict import predict_file

    report = predict_file(given.run, given.data, given.out, given.batch_size, given.prefix)
    for line in report:
        print(line)
    return 0


def _explain(given: argparse.Namespace) -> int:
    from recbole_msr.report.run.agreement_page import write_agreement
    from recbole_msr.report.run.explain_page import write_explanation

    if given.runs is not None:
        if given.users is not None or given.n is not None:
            raise InputError("--users and --n are for one run (--run); --runs compares attentions and gates")
        folders = [folder.strip() for folder in given.runs.split(",") if folder.strip()]
        write_agreement(folders, given.out, given.knowledge_dir)
        return 0
    users = None if given.users is None else [token.strip() for token in given.users.split(",") if token.strip()]
    write_explanation(given.run, given.out, users, given.n, given.knowledge_dir)
    return 0


def _models(given: argparse.Namespace) -> int:
    if given.model is None:
        print("Multi-scenario, multi-task models:")
        print("  " + ", ".join(registry.registered_models()))
        print("RecBole's models:")
        print("  " + ", ".join(registry.recbole_models()))
    else:
        print(registry.describe(given.model), end="")
    return 0


def _prompts(given: argparse.Namespace) -> int:
    from recbole_msr.prompts.command import show_prompts

    settings = parse_settings([*given.rest, *_strayed(given)]) | {"template": given.template, "levels": given.levels}
    for line in show_prompts(given.dataset, _files(given), settings, given.n):
        print(line)
    return 0


def _embed(given: argparse.Namespace) -> int:
    from recbole_msr.prompts.command import embed

    settings = parse_settings([*given.rest, *_strayed(given)]) | {
        "template": given.template,
        "encoder": given.encoder,
        "name": given.name,
    }
    for line in embed(given.dataset, _files(given), settings, given.replace):
        print(line, flush=True)
    return 0


def _files(given: argparse.Namespace) -> list[str]:
    return [name for entry in given.config_files if not entry.startswith("--") for name in entry.split()]


def _strayed(given: argparse.Namespace) -> list[str]:
    """Settings behind --config_files that have a space in them: argparse takes them for files."""
    return [entry for entry in given.config_files if entry.startswith("--")]


_COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "data": _data,
    "predict": _predict,
    "explain": _explain,
    "search": _search,
    "compare": _compare,
    "models": _models,
    "prompts": _prompts,
    "embed": _embed,
}


def parse_settings(rest: Sequence[str]) -> dict[str, Any]:
    """`--key=value` and `--key value` arguments as settings."""
    settings: dict[str, Any] = {}
    arguments = list(rest)
    while arguments:
        argument = arguments.pop(0)
        if not argument.startswith("--"):
            raise InputError(f"unexpected argument '{argument}': settings are given as --key=value")
        key, equals, value = argument[2:].partition("=")
        if not equals:
            if not arguments or arguments[0].startswith("--"):
                raise InputError(f"--{key} needs a value: --{key}=VALUE")
            value = arguments.pop(0)
        read = parse_argument(key, value)
        if key in settings and settings[key] != read:
            raise InputError(f"--{key} is given twice, with different values")
        settings[key] = read
    return settings


def _guarded(debug: bool, work: Callable[[], int]) -> int:
    """Exit code 0: done; 2: bad input; 1: anything else. Errors are one line, unless --debug asks for more."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    handlers = list(logging.getLogger().handlers)  # who calls this from Python may have some
    for handler in handlers:
        handler.addFilter(_is_for_the_terminal)
    try:
        return work()
    except (Exception, KeyboardInterrupt) as error:
        if debug:
            traceback.print_exc()
        if isinstance(error, InputError):
            code, message = 2, str(error)
        elif isinstance(error, KeyboardInterrupt):
            code = 1
            message = (
                "interrupted; a run under Lightning goes on with --resume and the same --output_dir, "
                "a search or a comparison with the same command"
            )
        else:
            code, message = 1, f"{type(error).__name__}: {error}{'' if debug else ' (--debug shows where)'}"
    finally:
        for handler in handlers:
            handler.removeFilter(_is_for_the_terminal)
    line = f"error: {' '.join(message.split())}"
    print(line.encode("utf-8", "backslashreplace").decode(), file=sys.stderr)  # a path may hold half a character
    return code


def _is_for_the_terminal(record: logging.LogRecord) -> bool:
    return not getattr(record, "shown", False)
