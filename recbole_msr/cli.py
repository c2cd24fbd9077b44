"""Console scripts `run_recbole` and `recbole-msr`: they read arguments, call the Python API and print."""

from __future__ import annotations

import argparse
import logging
import shlex
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from recbole_msr import registry
from recbole_msr.errors import InputError
from recbole_msr.files.yaml import parse_argument
from recbole_msr.memory import importing
from recbole_msr.prompts.encoders import DEFAULT_ENCODER, encoder_forms

if TYPE_CHECKING:
    from recbole_msr.runs.explain.permutation import ImportanceOptions

_RUN_HELP = """
any further --key=value (or --key value) is a configuration key of RecBole, of the model or of recbole-msr,
for instance --epochs=5 --learning_rate=1e-3 --output_dir=DIR --seed=1;
--resume continues the interrupted run in --output_dir.
"""

_KNOWLEDGE_HELP = """
any further --key=value is a setting:
  prompts   --language=zh --max_items=20 --max_tokens=200 --long_prompts=windows
            --title_field=FIELD --category_field=FIELD --liked=TASK
  embed     --levels=[user, scenario, item] --batch_size=32 --store_dtype=float16|float32 --knowledge_dir=DIR
  encoder   --device=cuda --dtype=bfloat16 --layer=-1 --pooling=last|mean --mode=prompt|generate --server_model=NAME ...
or a configuration key of RecBole or recbole-msr, for instance --data_path=DIR --data_seed=1.
"""

_SEARCH_HELP = """
any further --key=value is a configuration key of every trial, for instance --epochs=5 --data_path=DIR --seed=1;
a key that is also in the space is fixed to this value. --sampler and --pruner may have options:
--sampler='{name: tpe, n_startup_trials: 20}'.
"""

_COMPARE_HELP = """
--models names models, or a YAML file of entries {LABEL: {model: NAME, key: value, ...}, ...}.
any further --key=value is a configuration key of every run, for instance --epochs=5 --data_path=DIR --seed=1.
"""


class _Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, as those of the commands; `--help` shows the usage."""

    def error(self, message: str) -> NoReturn:
        """End with exit code 2 and one line."""
        self.exit(2, f"error: {' '.join(message.split())} ({self.prog} --help lists all arguments)\n")


def run_recbole(arguments: Sequence[str] | None = None) -> int:
    """Run the command `run_recbole`: train, validate and test one model, of this package or of RecBole's.

    Args:
        arguments: the command's arguments; by default those of the process.

    Returns:
        The exit code: 0, 2 for bad input, 1 for any other error.
    """
    parser = _Parser(
        prog="run_recbole",
        description="Train a model, keep its best epoch by validation, and test it.",
        epilog=_RUN_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--model", "-m", metavar="NAME", help=f"{_MODEL_HELP} (default: BPR)")
    parser.add_argument("--dataset", "-d", metavar="NAME", help=f"{_DATASET_HELP} (default: ml-100k)")
    _add_config_files(parser)
    parser.add_argument("--resume", nargs="?", const="True", help=argparse.SUPPRESS)
    _add_debug(parser)
    parsed, rest = parser.parse_known_args(arguments)
    parsed.rest = rest
    return _guarded(parsed.debug, lambda: _run(parsed))


_MODEL_HELP = "model name; `recbole-msr models` lists them"
_DATASET_HELP = "dataset name: a folder below --data_path"


def _add_config_files(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config_files", nargs="+", default=[], metavar="FILE", help="YAML files of configuration keys; later ones win"
    )


def _add_debug(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")


def _run(parsed: argparse.Namespace) -> int:
    settings = _settings(parsed)
    if parsed.resume is not None:
        settings["resume"] = parse_argument("resume", parsed.resume)
        if settings["resume"] not in (True, False):
            raise InputError(f"--resume stands alone, or is --resume=True or False, got {parsed.resume!r}")
    files = _files(parsed)
    with importing():
        from recbole_msr.report.run.result_table import print_metrics, print_result
        from recbole_msr.runs.run import run

    model, dataset = parsed.model, parsed.dataset
    if not files and not settings.get("resume"):  # RecBole's own defaults
        model = model or settings.get("model", "BPR")
        dataset = dataset or settings.get("dataset", None if settings.get("data") else "ml-100k")
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
    """Run the command `recbole-msr`.

    Args:
        arguments: the command's arguments; by default those of the process.

    Returns:
        The exit code: 0, 2 for bad input, 1 for any other error.
    """
    parser = _Parser(prog="recbole-msr", description="Multi-scenario, multi-task recommendation.")
    common = _Parser(add_help=False)
    _add_debug(common)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add in (
        _add_data,
        _add_predict,
        _add_recommend,
        _add_serve,
        _add_export,
        _add_explain,
        _add_search,
        _add_compare,
        _add_models,
        _add_knowledge,
    ):
        add(commands, common)
    parsed, rest = parser.parse_known_args(arguments)
    takes_keys = ("prompts", "embed", "search", "compare")
    if rest and parsed.command not in takes_keys and getattr(parsed, "dataset", None) != "convert":
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    parsed.rest = rest
    parsed.words = sys.argv[1:] if arguments is None else list(arguments)
    return _guarded(parsed.debug, lambda: _COMMANDS[parsed.command](parsed))


def _add_data(commands: Any, common: argparse.ArgumentParser) -> None:
    data = commands.add_parser(
        "data", parents=[common], help="convert a public dataset's raw files, or tables, to atomic files"
    )
    data.add_argument(
        "dataset",
        help="name of a public dataset, such as ml-1m or kuairand-pure; or convert, for tables of your own",
    )
    data.add_argument("raw_dir", help="folder with its original files, plain or .gz, in folders or not; or the table")
    data.add_argument("out_dir", help="folder to write to; pass it on as --data_path")
    _add_config_files(data)
    data.add_argument("--name", help="name of the dataset that is converted (default: that of the file)")
    data.add_argument("--sample", type=int, metavar="N", help="keep only N random interactions")
    data.add_argument("--seed", type=int, default=2020, help="seed of the sample (default: 2020)")


def _add_predict(commands: Any, common: argparse.ArgumentParser) -> None:
    predict = commands.add_parser("predict", parents=[common], help="score new rows with a finished run or an ensemble")
    predict.add_argument("--run", required=True, metavar="DIR", help="folder of the run, or of an ensemble")
    predict.add_argument("--data", required=True, metavar="FILE", help="rows to score: .parquet or .csv")
    predict.add_argument(
        "--out", required=True, metavar="FILE", help="file to write, with one column per task: .parquet or .csv"
    )
    predict.add_argument("--prefix", default="", metavar="PREFIX", help="prefix of the columns' names, before the task")
    predict.add_argument(
        "--batch-size", type=int, default=8192, metavar="N", help="number of rows scored at a time (default: 8192)"
    )
    _add_histories(predict)


def _add_histories(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--histories",
        metavar="FILE",
        help="what users have done, for a run with knowledge of profiles: .csv, .parquet or .inter",
    )


def _add_recommend(commands: Any, common: argparse.ArgumentParser) -> None:
    recommend = commands.add_parser("recommend", parents=[common], help="write the best items for every user")
    recommend.add_argument("--run", required=True, metavar="DIR", help="folder of the run, or of an ensemble")
    recommend.add_argument(
        "--users", required=True, metavar="FILE", help="users: .csv or .parquet with a row a list, or ids with commas"
    )
    recommend.add_argument("--out", required=True, metavar="FILE", help="file to write: .parquet or .csv")
    recommend.add_argument("--k", type=int, default=10, metavar="K", help="items of a list (default: 10)")
    recommend.add_argument(
        "--scenario", metavar="NAME", help="scenario of all lists (default: the users' rows tell it)"
    )
    recommend.add_argument("--candidates", metavar="FILE", help="items to choose from (default: all trained on)")
    recommend.add_argument("--score", metavar="FORMULA", help="such as 'click * buy' (default: the first task)")
    recommend.add_argument("--exclude-seen", action="store_true", help="leave out items of the user's rows in the data")
    _add_histories(recommend)


def _add_serve(commands: Any, common: argparse.ArgumentParser) -> None:
    serve = commands.add_parser("serve", parents=[common], help="answer requests for scores and lists over HTTP")
    serve.add_argument("--run", required=True, metavar="DIR", help="folder of the run, or of an ensemble")
    serve.add_argument("--host", default="127.0.0.1", help="address to listen at (default: this machine alone)")
    serve.add_argument("--port", type=int, default=8000, help="port (default: 8000)")
    serve.add_argument(
        "--exported",
        metavar="DIR",
        help="folder of the run's export, to score by onnxruntime (default: PyTorch)",
    )
    serve.add_argument("--max-rows", type=int, default=10_000, metavar="N", help="rows of a request (default: 10000)")


def _add_export(commands: Any, common: argparse.ArgumentParser) -> None:
    export = commands.add_parser(
        "export", parents=[common], help="write a finished run's model, or an ensemble, as ONNX, with JSON"
    )
    export.add_argument("--run", required=True, metavar="DIR", help="folder of the run")
    export.add_argument("--out", required=True, metavar="DIR", help="folder to write the model to")
    export.add_argument(
        "--no-check", action="store_true", help="do not compare the scores of onnxruntime with those of the run"
    )
    export.add_argument("--knowledge_dir", metavar="DIR", help="folder of the run's knowledge, if it has moved")
    export.add_argument(
        "--embeddings", default="float32", metavar="float32|float16|int8",
        help="numbers of the embedding tables (default: float32); what the metrics lose is printed",
    )  # fmt: skip
    export.add_argument(
        "--format", default="onnx", metavar="onnx|torch", help="ONNX (default), or a program of torch.export"
    )


def _add_explain(commands: Any, common: argparse.ArgumentParser) -> None:
    explain = commands.add_parser(
        "explain", parents=[common], help="show what a finished run has learnt about scenarios and users"
    )
    explained = explain.add_mutually_exclusive_group(required=True)
    explained.add_argument("--run", metavar="DIR", help="folder of the run, or of an ensemble")
    explained.add_argument(
        "--runs", metavar="DIR,DIR", help="folders of several runs of one model, to see what they agree on"
    )
    explain.add_argument("--users", metavar="ID,ID", help="users to explain, by their ids in the data")
    explain.add_argument(
        "--n", type=int, metavar="N", help="number of users to explain, spread over the scenarios (default: 5)"
    )
    explain.add_argument(
        "--shuffles", type=int, metavar="N", help="shuffles that measure a field's importance; 0: none (default: 5)"
    )
    explain.add_argument(
        "--fields", metavar="FIELD,A+B", help="fields whose importance is measured; a+b: shuffled together; "
        "user, item: all fields of users, of items; history (default: each field that the model reads)",
    )  # fmt: skip
    explain.add_argument(
        "--split", choices=("test", "valid"), help="rows on which importance is measured (default: test)"
    )
    explain.add_argument(
        "--rows", metavar="N", help="rows of each scenario that are shuffled at most, or all (default: 20000)"
    )
    explain.add_argument("--seed", type=int, metavar="N", help="seed of the shuffles (default: 2020)")
    explain.add_argument("--out", metavar="FILE", help="page to write (default: DIR/explain.html)")
    explain.add_argument("--knowledge_dir", metavar="DIR", help="folder of the run's knowledge, if it has moved")


def _add_models(commands: Any, common: argparse.ArgumentParser) -> None:
    models = commands.add_parser("models", parents=[common], help="list all models, or one model's settings")
    models.add_argument("model", nargs="?", help="model whose settings and defaults are shown")


def _add_knowledge(commands: Any, common: argparse.ArgumentParser) -> None:
    for name, what in (
        ("prompts", "print examples of the prompts made from the training data"),
        ("embed", "encode prompts into a knowledge store"),
    ):
        command = _add_command(commands, common, name, what, f"{what[0].upper()}{what[1:]}.", _KNOWLEDGE_HELP)
        command.add_argument("--dataset", "-d", metavar="NAME", help=_DATASET_HELP)
        _add_config_files(command)
        command.add_argument("--template", help="full, brief, keywords, or the path of a YAML file (default: full)")
        if name == "prompts":
            command.add_argument("--level", dest="levels", help="scenario, user or item (default: all)")
            command.add_argument("--n", type=int, default=1, metavar="N", help="prompts of each level (default: 1)")
        else:
            forms = f"{', '.join(encoder_forms())} (default: {DEFAULT_ENCODER})"
            command.add_argument("--encoder", help=forms)
            command.add_argument("--name", help="name of the knowledge, for run_recbole --knowledge=NAME")
            command.add_argument("--replace", action="store_true", help="replace other knowledge of the same name")


def _add_search(commands: Any, common: argparse.ArgumentParser) -> None:
    from recbole_msr.tuning.options import SearchOptions

    command = _add_command(
        commands, common, "search", "search a model's architecture and training settings",
        "Search a model's architecture and training settings. The same command resumes an interrupted search.",
        _SEARCH_HELP,
    )  # fmt: skip
    _add_options(command, SearchOptions)


def _add_compare(commands: Any, common: argparse.ArgumentParser) -> None:
    from recbole_msr.comparison.options import CompareOptions

    command = _add_command(
        commands, common, "compare", "compare models on equal terms, with a leaderboard",
        "Compare models on equal terms. The same command resumes an interrupted comparison and reuses finished runs.",
        _COMPARE_HELP,
    )  # fmt: skip
    _add_options(command, CompareOptions)


def _add_command(
    commands: Any, common: argparse.ArgumentParser, name: str, what: str, description: str, epilog: str
) -> argparse.ArgumentParser:
    """Add a command that passes unknown arguments on as configuration keys."""
    command: argparse.ArgumentParser = commands.add_parser(
        name, parents=[common], help=what, description=description, epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
    )  # fmt: skip
    return command


def _add_options(command: argparse.ArgumentParser, options: type) -> None:
    """Add the arguments of a class of options. Their defaults stay with the class: only what is set is passed on."""
    from recbole_msr.jobs.options import declared_options

    for option in declared_options(options):
        argument = option.argument
        if option.name == "config_files":
            _add_config_files(command)
        if argument is None:
            continue
        flags = [option.flag] if argument.short is None else [option.flag, argument.short]
        text = option.summary[0].lower() + option.summary[1:].rstrip(".").replace("%", "%%")
        has_default = option.default is not None and option.default is not False
        described: dict[str, Any] = {
            "help": f"{text} (default: {option.default})" if has_default else text,
            "default": argparse.SUPPRESS,
        }
        if option.default is False:
            command.add_argument(*flags, action="store_true", **described)
            continue
        command.add_argument(
            *flags,
            type=str if argument.read == "yaml" else argument.read,
            metavar=argument.metavar,
            choices=argument.choices,
            **described,
        )


def _options(parsed: argparse.Namespace, options: type) -> dict[str, Any]:
    """Return the options that were set on the command line, by field."""
    from recbole_msr.jobs.options import declared_options

    read: dict[str, Any] = {"config_files": _files(parsed), "config": _settings(parsed)}
    for option in declared_options(options):
        if option.argument is not None and hasattr(parsed, option.name):
            value = getattr(parsed, option.name)
            read[option.name] = parse_argument(option.name, value) if option.argument.read == "yaml" else value
    return read


def _compare(parsed: argparse.Namespace) -> int:
    with importing():
        from recbole_msr.comparison.options import CompareOptions
        from recbole_msr.comparison.run import compare
        from recbole_msr.report.comparison.terminal import print_comparison

    command = shlex.join(["recbole-msr", *parsed.words])
    result = compare(**_options(parsed, CompareOptions), command=command)
    print_comparison(result.summary)
    print(f"Files: {result.folder}")
    return 0


def _search(parsed: argparse.Namespace) -> int:
    with importing():
        from recbole_msr.jobs.storage import hide_password
        from recbole_msr.report.tuning.terminal import print_ensemble, print_search
        from recbole_msr.tuning.options import SearchOptions
        from recbole_msr.tuning.run import search

    command = shlex.join(["recbole-msr", *(hide_password(word) for word in parsed.words)])
    sys.argv = [hide_password(word) for word in sys.argv]  # Weights & Biases keeps it
    result = search(**_options(parsed, SearchOptions), command=command)
    print_search(result.summary)
    print_ensemble(result.summary, result.folder)
    print(f"Files: {result.folder}")
    return 0


def _data(parsed: argparse.Namespace) -> int:
    from recbole_msr.data.public import convert

    if parsed.dataset == "convert":
        return _convert(parsed)
    folder = convert(parsed.dataset, parsed.raw_dir, parsed.out_dir, parsed.sample, parsed.seed)
    print(f"Written to {folder}. Train on it with:")
    command = f"run_recbole --model=HiNet --dataset={parsed.dataset} --data_path={folder.parent}"
    print(f"  {command} --config_files {folder / f'{parsed.dataset}.yaml'}")
    return 0


def _convert(parsed: argparse.Namespace) -> int:
    from recbole_msr.config.merge import merge_settings
    from recbole_msr.data.tables.dataset import write_dataset

    settings = merge_settings(_files(parsed), _settings(parsed), out_dir=parsed.out_dir)
    settings |= {"data": parsed.raw_dir} | ({"dataset": parsed.name} if parsed.name else {})
    folder = write_dataset(settings, parsed.out_dir)
    print(f"Written to {folder}. Train on it with:")
    print(f"  run_recbole --model=HiNet --dataset={folder.name} --data_path={folder.parent}")
    return 0


def _predict(parsed: argparse.Namespace) -> int:
    with importing():
        from recbole_msr.runs.predict import predict_file

    report = predict_file(parsed.run, parsed.data, parsed.out, parsed.batch_size, parsed.prefix, parsed.histories)
    for line in report:
        print(line)
    return 0


def _recommend(parsed: argparse.Namespace) -> int:
    with importing():
        from recbole_msr.runs.recommend_file import recommend_file

    options = {name: getattr(parsed, name) for name in ("k", "score", "scenario", "exclude_seen", "histories")}
    for line in recommend_file(parsed.run, parsed.users, parsed.out, parsed.candidates, **options):
        print(line)
    return 0


def _serve(parsed: argparse.Namespace) -> int:
    with importing():
        from recbole_msr.runs.serve import serve

    serve(parsed.run, parsed.host, parsed.port, parsed.max_rows, parsed.exported)
    return 0


def _export(parsed: argparse.Namespace) -> int:
    with importing():
        from recbole_msr.runs.export.export import export_run

    for line in export_run(
        parsed.run, parsed.out, not parsed.no_check, parsed.knowledge_dir, parsed.embeddings, parsed.format
    ):
        print(line)
    return 0


def _explain(parsed: argparse.Namespace) -> int:
    with importing():
        from recbole_msr.report.run.agreement_page import write_agreement
        from recbole_msr.report.run.ensemble_page import write_ensemble_importance
        from recbole_msr.report.run.explain_page import write_explanation
        from recbole_msr.runs.ensemble import is_ensemble

    importance = _importance_options(parsed)
    if parsed.runs is not None:
        if parsed.users is not None or parsed.n is not None:
            raise InputError("--users and --n are for one run (--run): --runs compares attentions, gates and fields")
        folders = [folder.strip() for folder in parsed.runs.split(",") if folder.strip()]
        write_agreement(folders, parsed.out, parsed.knowledge_dir, importance=importance)
        return 0
    if is_ensemble(parsed.run):
        if parsed.users is not None or parsed.n is not None:
            raise InputError("--users and --n are for one run: of an ensemble the importance of fields is shown")
        write_ensemble_importance(parsed.run, parsed.out, parsed.knowledge_dir, importance)
        return 0
    users = None if parsed.users is None else [token.strip() for token in parsed.users.split(",") if token.strip()]
    write_explanation(parsed.run, parsed.out, users, parsed.n, parsed.knowledge_dir, importance=importance)
    return 0


def _importance_options(parsed: argparse.Namespace) -> ImportanceOptions | None:
    """Read how the importance of fields is to be measured; None with --shuffles=0."""
    from recbole_msr.runs.explain.permutation import ImportanceOptions

    given: dict[str, Any] = {
        name: value for name in ("shuffles", "split", "seed") if (value := getattr(parsed, name)) is not None
    }
    if parsed.fields is not None:
        given["fields"] = [field.strip() for field in parsed.fields.split(",") if field.strip()]
    if parsed.rows is not None:
        given["rows"] = None if parsed.rows == "all" else _whole("--rows", parsed.rows)
    if parsed.shuffles == 0:
        others = [name for name in given if name != "shuffles"]
        if others:
            raise InputError(f"--{others[0]} is about the importance of fields, which --shuffles=0 leaves out")
        return None
    return ImportanceOptions(**given, tell=lambda line: print(line, file=sys.stderr))


def _whole(option: str, value: str) -> int:
    """Read a whole number; "all" is the other value."""
    try:
        return int(value)
    except ValueError:
        raise InputError(f"{option} must be a whole number or all, got {value!r}") from None


def _models(parsed: argparse.Namespace) -> int:
    if parsed.model is None:
        print("Multi-scenario, multi-task models:")
        names = registry.registered_models()
        width = max(map(len, names))
        for name in names:
            print(f"  {name:<{width}}  {registry.summary(name)}".rstrip())
        print("RecBole's models:")
        print("  " + ", ".join(registry.recbole_models()))
    else:
        print(registry.describe(parsed.model) + registry.describe_shared(parsed.model), end="")
    return 0


def _prompts(parsed: argparse.Namespace) -> int:
    with importing():
        from recbole_msr.runs.knowledge_commands import show_prompts

    settings = _settings(parsed) | {"template": parsed.template, "levels": parsed.levels}
    for line in show_prompts(parsed.dataset, _files(parsed), settings, parsed.n):
        print(line)
    return 0


def _embed(parsed: argparse.Namespace) -> int:
    with importing():
        from recbole_msr.runs.knowledge_commands import embed

    settings = _settings(parsed) | {"template": parsed.template, "encoder": parsed.encoder, "name": parsed.name}
    for line in embed(parsed.dataset, _files(parsed), settings, parsed.replace):
        print(line, flush=True)
    return 0


def _files(parsed: argparse.Namespace) -> list[str]:
    return [name for entry in parsed.config_files if not entry.startswith("--") for name in entry.split()]


def _settings(parsed: argparse.Namespace) -> dict[str, Any]:
    """Return the configuration keys among the arguments."""
    # A setting behind --config_files that has a space in it: argparse takes it for a file.
    taken_for_files = [entry for entry in parsed.config_files if entry.startswith("--")]
    return parse_settings([*parsed.rest, *taken_for_files])


_COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "data": _data,
    "predict": _predict,
    "recommend": _recommend,
    "serve": _serve,
    "export": _export,
    "explain": _explain,
    "search": _search,
    "compare": _compare,
    "models": _models,
    "prompts": _prompts,
    "embed": _embed,
}


def parse_settings(rest: Sequence[str]) -> dict[str, Any]:
    """Read `--key=value` and `--key value` arguments as settings.

    Raises:
        InputError: an argument is none of these, or has another value the second time.
    """
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
        parsed = parse_argument(key, value)
        if key in settings and settings[key] != parsed:
            raise InputError(f"--{key} is given twice, with different values")
        settings[key] = parsed
    return settings


def _guarded(debug: bool, work: Callable[[], int]) -> int:
    """Do the work; errors become one line and the exit code 2 for bad input, 1 for anything else."""
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
            code = getattr(error, "exit_code", 1)
            message = (
                "interrupted; a run under Lightning resumes with --resume and the same --output_dir, "
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
