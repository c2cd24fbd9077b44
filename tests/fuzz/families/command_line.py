# ruff: noqa: E501  a case is a line
"""Options and arguments of every command."""

from __future__ import annotations

import random

from tests.fuzz.case import COMPARE, EITHER, EMBED, EXPLAIN, PREDICT, PROMPTS, REFUSED, RUN, RUNS, SEARCH, Case, Family

NOT_COUNTS = ("-1", "x", "", " ", "1.5", "nan", "inf", "1e3", "[]", "None", "True", "0x10")
NOT_NUMBERS = ("-1", "x", "", " ", "nan", "inf", "-inf", "[]", "None", "True", "1,5")
NOT_PATHS = (
    "",
    " ",
    "nothing",
    "nothing/at/all",
    "\udcff",
    "x" * 300,
    "/dev/null",
    "data",
    "tiny.yaml",
    "~nobody/x",
    "tiny.yaml/x",
)
NOT_NAMES = ("", " ", ".", "..", "../x", "a/b", "/x", "a\\b", "\udcff", "x" * 300, "a\nb", "-", ".hidden")

COMMANDS: dict[str, tuple[tuple[str, ...], tuple[str, ...], str]] = {
    "run": (RUN, (), "run"),
    "search": (SEARCH, ("search",), "search"),
    "compare": (COMPARE, ("comparison",), "compare"),
    "predict": (PREDICT, ("run", "new.csv"), "predict"),
    "explain": (EXPLAIN, ("run",), "explain"),
    "prompts": (PROMPTS, (), "prompts"),
    "embed": (EMBED, ("knowledge",), "embed"),
    "models": (("recbole-msr", "models"), (), "none"),
    "data": (("recbole-msr", "data", "ml-1m", "data", "out"), (), "none"),
}
"""Command: words, what it takes, its result's name."""
WRONG: dict[str, dict[str, tuple[str, ...]]] = {
    "run": {
        "--resume": ("x", "2", "", "None", "[]"),
        "--config_files": NOT_PATHS,
        "--model": ("", " ", "nothing", "hinet", "../x", "SharedBottom ", "os", "\udcff", "a.b", "Dataset"),
        "--dataset": NOT_NAMES,
        "--output_dir": ("tiny.yaml", "tiny.yaml/x", "data/tiny/tiny.inter", "/dev/null", "/proc/x", "\udcff\udcfe"),
        "--": ("",),
        "--=": ("3",),
        "--epochs": NOT_COUNTS,
        "--no such key": ("1",),
        "--learning_rate": NOT_NUMBERS,
    },
    "search": {
        **{
            f"--{name}": NOT_COUNTS
            for name in ("trials", "workers", "trial-seeds", "final-seeds", "max-failures", "total-epochs")
        },
        "--timeout": (*NOT_NUMBERS, "0"),
        "--tolerance": (*NOT_NUMBERS, "2"),
        "--fused": ("x", "0", "-1", "1.5", ""),
        "--study": NOT_NAMES,
        "--storage": (
            "x",
            "",
            "sqlite:///no/such/folder/x.db",
            "nothing://x",
            "postgresql://",
            "http://127.0.0.1:1/",
            "5",
        ),
        "--space": NOT_PATHS,
        "--objectives": ("", "nothing", "auc,auc", "parameters", "auc,,flops", ",", "auc/nothing", "5"),
        "--wandb": ("x", "", "True"),
        "--model": ("", "nothing", "BPR", "GRU4Rec", "\udcff"),
        "--dataset": NOT_NAMES,
        "--output": ("tiny.yaml", "tiny.yaml/x", "/dev/null", "/proc/x"),
    },
    "compare": {
        **{f"--{name}": (*NOT_COUNTS, *(("0",) if name == "seeds" else ())) for name in ("seeds", "workers", "trials")},
        "--timeout": (*NOT_NUMBERS, "0"),
        "--alpha": (*NOT_NUMBERS, "0", "1", "2"),
        "--reference": ("", "nothing", "sharedbottom", "5"),
        "--models": (
            "",
            " ",
            ",",
            "nothing",
            "SharedBottom,",
            "SharedBottom,SharedBottom",
            "nothing.yaml",
            "data",
            "5",
            "GRU4Rec",
        ),
        "--vary": (
            "",
            "x",
            "5",
            "[]",
            "{}",
            "{nothing: [1]}",
            "{epochs: 1}",
            "{epochs: []}",
            "{seed: [1, 2]}",
            "{",
            "{a: {b: 1}}",
        ),
        "--dataset": NOT_NAMES,
        "--output": ("tiny.yaml", "tiny.yaml/x", "/dev/null", "/proc/x"),
        "--wandb": ("x", ""),
    },
    "predict": {
        "--run": NOT_PATHS,
        "--data": (*(path for path in NOT_PATHS if path != "new.csv"), "new.txt", "run/result.json"),
        "--out": (
            "",
            "out.txt",
            "tiny.yaml",
            "data",
            "no/such/folder/x.csv",
            "new.csv",
            "\udcff",
            "/proc/x.csv",
            "run/best.ckpt",
        ),
        "--batch-size": (*NOT_COUNTS, "0"),
        "--nonsense": ("1",),
    },
    "explain": {
        "--run": NOT_PATHS,
        "--users": ("", ",", "nothing", "u1,u1,nothing", "\udcff"),
        "--n": (*NOT_COUNTS, "0"),
        "--shuffles": NOT_COUNTS,
        "--fields": ("", ",", "nothing", "user_id,nothing", "user_id+", "label_click", "scenario", "\udcff"),
        "--split": ("train", "", "x"),
        "--rows": (*NOT_COUNTS, "0", "1"),
        "--seed": NOT_COUNTS,
        "--out": ("", "data", "no/such/folder/x.html", "run/best.ckpt", "run/result.json", "tiny.yaml", "/proc/x"),
        "--knowledge_dir": ("", "nothing"),
    },
    "prompts": {
        "--level": ("", "nothing", "users", "5", "[user, nothing]"),
        "--n": (*NOT_COUNTS, "0"),
        "--template": ("", " ", "nothing", "./nothing.yaml", "data", "tiny.yaml", "../x", "\udcff"),
        "--max_items": ("0", *NOT_COUNTS),
        "--max_tokens": ("0", *NOT_COUNTS),
        "--language": ("", "xx", "5", "[en]"),
        "--title_field": ("", "nothing", "5", "price", "[title]"),
        "--category_field": ("", "nothing", "5", "[class]"),
        "--liked": ("", "nothing", "5"),
        "--dataset": NOT_NAMES,
    },
    "embed": {
        "--encoder": (
            "",
            "nothing",
            "hf:",
            "hf:nothing",
            "st:",
            "st:./nothing",
            "server:",
            "server:x",
            "server:ftp://x",
            "random:x",
            "5",
        ),
        "--name": (*NOT_NAMES, "random", "none"),
        "--batch_size": (*NOT_COUNTS, "0"),
        "--store_dtype": ("", "float64", "int8", "5"),
        "--levels": ("", "nothing", "[]", "[nothing]", "5", "{a: 1}", "[user, user]"),
        "--knowledge_dir": ("tiny.yaml", "/dev/null", "/proc/x"),
        "--template": ("", "nothing", "./nothing.yaml"),
        "--sort_by_length": ("x", "5"),
        "--lightning": ("5", "[]", "{devices: 0}", "{nothing: 1}"),
    },
    "models": {"": ("nothing", "", "\udcff", "../x"), "--nonsense": ("1",)},
    "data": {"--sample": (*NOT_COUNTS, "0"), "--seed": ("x", "-1", "1.5"), "": ("more",)},
}
RAW: list[tuple[str, tuple[str, ...]]] = [
    *(
        (f"recbole-msr {word}", ("recbole-msr", word))
        for word in ("", "nothing", "--nothing", "run", "Search", "\udcff")
    ),
    ("recbole-msr", ("recbole-msr",)),
    *(
        (f"{word} alone", ("recbole-msr", word))
        for word in ("search", "compare", "predict", "explain", "data", "prompts", "embed")
    ),
    ("an argument", (*RUN, "nonsense")),
    ("a key without a value", (*RUN, "--epochs")),
    ("a key without a value, then another", (*RUN, "--epochs", "--seed=1")),
    ("a key twice", (*RUN, "--seed=1", "--seed=2")),
    ("an option of argparse twice", (*RUN, "--model=HiNet", "--dataset=nothing")),
    ("one dash", (*RUN, "-x")),
    ("one dash and a value", (*RUN, "-epochs=3")),
    ("a resumed run of nothing", ("run_recbole", "--resume")),
    ("a resumed run without a folder", ("run_recbole", "--resume", "--output_dir=nothing")),
    ("a resumed run in a file", ("run_recbole", "--resume", "--output_dir=tiny.yaml")),
    ("search without a budget", tuple(word for word in SEARCH if not word.startswith("--trials"))),
    ("search without a model", tuple(word for word in SEARCH if not word.startswith("--model"))),
    ("compare without models", tuple(word for word in COMPARE if not word.startswith("--models"))),
    ("no data set", tuple(word for word in RUN if not word.startswith("--dataset="))),
]


def listed() -> list[Case]:
    """Every option with every nonsense, and commands without what they need."""
    found = []
    for name, options in WRONG.items():
        words, take, like = COMMANDS[name]
        for option, values in options.items():
            for value in values:
                given = [value] if not option else ["--"] if option == "--" else [f"{option}={value}"]
                kept = [word for word in words if not option or not word.startswith(f"{option}=")]
                right = EITHER if (name, option, value) in ODD else REFUSED
                found.append(Case(f"{name} {option} {value!r}"[:120], (*kept, *given), right, take, like=like))
    found += [Case(what, words, REFUSED, ("search", "comparison") if "out" in what else ()) for what, words in RAW]
    found.append(Case("models", ("recbole-msr", "models"), RUNS, like="none"))
    return found


YAML_COUNTS = (("prompts", "--max_items"), ("prompts", "--max_tokens"), ("embed", "--batch_size"))
ODD = {
    *(("run", option, "") for option in ("--", "--config_files")),
    ("search", "--study", ""),
    ("search", "--objectives", ""),
    ("compare", "--models", "SharedBottom,"),
    *((name, option, value) for name, option in YAML_COUNTS for value in ("", " ", "1e3", "0x10")),
    *(("run", "--epochs", value) for value in ("1e3", "0x10")),
    ("explain", "--users", ""),
    *(("search", option, value) for option in ("--timeout", "--tolerance") for value in ("inf", "1,5")),
    *(("search", option, "nothing") for option in ("--dataset",)),
    *(("prompts", f"--{key}", "") for key in ("language", "title_field", "category_field", "liked", "max_items", "max_tokens")),
    *(("embed", f"--{key}", "") for key in ("batch_size", "store_dtype", "levels")),
    *((name, option, value) for name, option in (("search", "--study"), ("embed", "--name")) for value in (".hidden", "-")),
    ("prompts", "--title_field", "price"),
    ("prompts", "--language", "[en]"),
    ("prompts", "--title_field", "[title]"),
    ("prompts", "--category_field", "[class]"),
    ("predict", "--run", "~nobody/x"),
    ("embed", "--encoder", "random:x"),
    ("data", "--seed", "-1"),
}  # fmt: skip
"""Not nonsense for certain: any clean end is right."""


def draw(draw: random.Random) -> Case:
    """Two options at once."""
    name = draw.choice([name for name in WRONG if name not in ("models", "data")])
    words, take, like = COMMANDS[name]
    options = draw.sample(
        [option for option in WRONG[name] if option.startswith("--") and option not in ("--", "--=")], 2
    )
    given = [f"{option}={draw.choice(WRONG[name][option])}" for option in options]
    kept = [word for word in words if not word.startswith(tuple(f"{option}=" for option in options))]
    return Case(f"{name} {' '.join(given)!r}"[:120], (*kept, *given), EITHER, take, like=like)


FAMILY = Family("options", listed, draw)
