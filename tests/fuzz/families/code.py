# ruff: noqa: E501  a case is a line
"""Code in every place that settings come from. Whatever else happens, it must not run."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.fuzz.case import (
    COMPARE,
    EITHER,
    ENTERED,
    EXPLAIN,
    KNOWING,
    PREDICT,
    REFUSED,
    REFUSED_OR_SAME,
    RESUME,
    RUN,
    SAME,
    SEARCH,
    SPACED,
    TEMPLATED,
    Case,
    Family,
    append,
    edit_json,
    several,
    write,
)  # fmt: skip

CODE = "__import__('os').mkdir('MARKER')"
TEXTS = (CODE, f"[{CODE}]", f"{{1: {CODE}}}", f'exec("{CODE}")', f"(lambda: {CODE})()", f"1 if {CODE} else 2")
DATA_KEYS = (
    "wandb_project",
    "LABEL_FIELD",
    "state",
    "field_separator",
    "USER_ID_FIELD",
    "gpu_id",
    "unload_col",
    "transform",
)
FORMULAS = (CODE, "open('MARKER', 'w').close()", "exit(0)", "value", "self", "config_dict")


class Plants:
    """What leaves the marker when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.marker,)


def _pickled(*paths: str) -> Callable[[Path, Path], None]:
    def change(folder: Path, marker: Path) -> None:
        for path in paths:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(pickle.dumps(Plants(marker)))

    return change


def _saved(path: str) -> Callable[[Path, Path], None]:
    def change(folder: Path, marker: Path) -> None:
        import torch

        torch.save({"state_dict": Plants(marker), "config": Plants(marker)}, folder / path)

    return change


def _in_checkpoint(path: str, key: str, text: Any) -> Callable[[Path, Path], None]:
    """The marker's code among the settings inside a checkpoint, of which the weights are as they were."""

    def change(folder: Path, marker: Path) -> None:
        import torch

        content = torch.load(folder / path, weights_only=True)
        settings = content.get("config", content)
        settings[key] = json.loads(json.dumps(text).replace("MARKER", str(marker)))
        torch.save(content, folder / path)

    return change


def _in_array(path: str) -> Callable[[Path, Path], None]:
    def change(folder: Path, marker: Path) -> None:
        import numpy as np

        held = np.empty(1, dtype=object)
        held[0] = Plants(marker)
        np.save(folder / path, held, allow_pickle=True)

    return change


def _in_json(path: str, at: tuple[Any, ...], text: Any = CODE) -> Callable[[Path, Path], None]:
    def change(folder: Path, marker: Path) -> None:
        def plant(content: Any) -> None:
            part = content
            for step in at[:-1]:
                part = part[step]
            part[at[-1]] = json.loads(json.dumps(text).replace("MARKER", str(marker)))

        edit_json(path, plant)(folder, marker)

    return change


def _adder(found: list[Case]) -> Callable[..., None]:
    def add(
        what: str, command: tuple[str, ...], take: tuple[str, ...], change: Any, right: Any = EITHER, like: str = "run"
    ) -> None:
        found.append(Case(what, command, right, take, change, like=like))

    return add


def _places(text: str) -> list[Case]:
    """A text in every place."""
    found: list[Case] = []
    add = _adder(found)
    quoted = json.dumps(text)
    add(f"settings: {text}", RUN, (), append("tiny.yaml", f"wandb_project: {quoted}\n"))
    add(f"settings, an unknown key: {text}", RUN, (), append("tiny.yaml", f"strict: False\nfoo: {quoted}\n"))
    add(f"command line: {text}", (*RUN, f"--wandb_project={text}"), (), None)
    add(
        f"resumed: {text}",
        RESUME,
        ("interrupted",),
        append("interrupted/config.yaml", f"foo: {quoted}\n"),
        like="resume",
    )
    for key in ("main_task", "only_scenario", "foo", "learning_rate", "activation", *DATA_KEYS):
        add(f"settings, {key}: {text}", RUN, (), append("tiny.yaml", f"{key}: {quoted}\n"))
    add(f"best.yaml: {text}", ("run_recbole", "--config_files=search/best.yaml", "--output_dir=out"), ("search",),
        _replace("search/best.yaml", "wandb_project: recbole", f"wandb_project: {quoted}"))  # fmt: skip
    for command, like in ((PREDICT, "predict"), (EXPLAIN, "explain")):
        for key in ("wandb_project", "foo"):
            add(f"{like}, best.ckpt, {key}: {text}", command, ("run", "new.csv"),
                _in_checkpoint("run/best.ckpt", key, text), REFUSED_OR_SAME, like)  # fmt: skip
    add(
        f"last.ckpt: {text}",
        RESUME,
        ("interrupted",),
        _in_checkpoint("interrupted/last.ckpt", "foo", text),
        like="resume",
    )
    add(f"space, a choice: {text}", SPACED, ("space.yaml",),
        append("space.yaml", f"  activation: [relu, {quoted}]\n"), like="space")  # fmt: skip
    add(f"space, one choice: {text}", SPACED, ("space.yaml",),
        append("space.yaml", f"  loss_weighting: {{type: categorical, choices: [{quoted}, [{quoted}]]}}\n"), like="space")  # fmt: skip
    add(f"space, fixed: {text}", SPACED, ("space.yaml",),
        _replace("space.yaml", "fixed: {", f"fixed: {{activation: {quoted}, "), like="space")  # fmt: skip
    add(f"space, a condition: {text}", SPACED, ("space.yaml",),
        append("space.yaml", f"  numerical_as: {{type: categorical, choices: [raw], when: {{embedding_size: {quoted}}}}}\n"), like="space")  # fmt: skip
    add(f"space, a bound: {text}", SPACED, ("space.yaml",),
        append("space.yaml", f"  weight_decay: {{type: float, low: {quoted}, high: 1}}\n"), like="space")  # fmt: skip
    hyper = tuple(word.replace("space.yaml", "hyper.test") for word in SPACED)
    add(
        f"hyper.test: {text}",
        hyper,
        ("hyper.test",),
        append("hyper.test", f"activation choice [{text}]\n"),
        like="space",
    )
    add(
        f"hyper.test, in quotes: {text}",
        hyper,
        ("hyper.test",),
        append("hyper.test", f"activation choice ['relu', {text!r}]\n"),
        like="space",
    )
    add(
        f"hyper.test, a bound: {text}",
        hyper,
        ("hyper.test",),
        append("hyper.test", f"weight_decay uniform {text},1\n"),
        like="space",
    )
    add(
        f"entries: {text}",
        ENTERED,
        ("entries.yaml",),
        append("entries.yaml", f"odd: {{model: SharedBottom, activation: {quoted}}}\n"),
        like="entries",
    )
    add(
        f"entries, unknown key: {text}",
        ENTERED,
        ("entries.yaml",),
        append("entries.yaml", f"odd: {{model: SharedBottom, wandb_project: {quoted}}}\n"),
        like="entries",
    )
    add(
        f"entries, a label: {text}",
        ENTERED,
        ("entries.yaml",),
        append("entries.yaml", f"{quoted}: {{model: SharedBottom}}\n"),
        like="entries",
    )
    add(f"vary: {text}", (*COMPARE, f"--vary={{activation: [relu, {quoted}]}}"), ("comparison",), None, like="compare")
    add(f"models: {text}", (*COMPARE[:2], f"--models={text}", *COMPARE[3:]), ("comparison",), None, like="compare")
    add(
        f"sampler: {text}",
        (*SEARCH, f"--sampler={{name: tpe, n_startup_trials: {quoted}}}"),
        ("search",),
        None,
        like="search",
    )
    add(f"objectives: {text}", (*SEARCH, f"--objectives={text}"), ("search",), None, like="search")
    add(f"lightning: {text}", (*RUN, f"--lightning={{callbacks: {quoted}, logger: {quoted}}}"), (), None)
    add(f"scheduler: {text}", (*RUN, f"--lr_scheduler={{name: StepLR, step_size: {quoted}}}"), (), None)
    add(f"teacher: {text}", ("run_recbole", "--model=KD_DAGFM", "--dataset=tiny", "--config_files=data.yaml", "--output_dir=out",
        "--epochs=1", "--use_gpu=False", f"--teacher={text}"), (), None)  # fmt: skip
    add(
        f"knowledge.json: {text}",
        KNOWING,
        ("knowledge",),
        _in_json("knowledge/known/knowledge.json", ("dtype",), text),
        like="knowing",
    )
    add(
        f"knowledge.json, data: {text}",
        KNOWING,
        ("knowledge",),
        _in_json("knowledge/known/knowledge.json", ("data",), text),
        like="knowing",
    )
    add(
        f"seq_len: {text}",
        RUN,
        (),
        append("tiny.yaml", f"seq_len: {{class: {quoted}}}\nval_interval: {{timestamp: {quoted}}}\n"),
    )
    add(f"a column: {text}", RUN, (), _replace("data/tiny/tiny.inter", "timestamp:float", f"{text}:float"))
    add(f"a column's type: {text}", RUN, (), _replace("data/tiny/tiny.inter", "timestamp:float", f"timestamp:{text}"))
    return found


def draw(draw: random.Random) -> Case:
    """Other code in one of the places."""
    return draw.choice(_places(draw.choice(FORMULAS + TEXTS)))


def listed() -> list[Case]:
    """Every place with some code, templates, and pickles."""
    found = _places(CODE)
    add = _adder(found)
    add("a tuple as key", RUN, (), append("tiny.yaml", f"? {json.dumps(CODE)}\n: 1\nstrict: False\n"))
    for name in ("settings", "config"):
        add(f"a key: {name}", RUN, (), append("tiny.yaml", f"strict: False\n{json.dumps(CODE)}: {name}\n"))
    for text in (
        "{{ cycler.__init__.__globals__.os.mkdir('MARKER') }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{% for x in ().__class__.__base__.__subclasses__() %}{% if 'warning' in x.__name__ %}"
        "{{ x()._module.__builtins__['__import__']('os').mkdir('MARKER') }}{% endif %}{% endfor %}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}{{ os.mkdir('MARKER') }}",
        "{{ self.__init__.__globals__.__builtins__.open('MARKER', 'w') }}",
    ):
        add(f"template: {text}", TEMPLATED, ("template.yaml",),
            write("template.yaml", f"version: 1\nlanguages:\n  en:\n    user: {json.dumps(text)}\n"), REFUSED, "template")  # fmt: skip
    # Pickles where RecBole looks for its own, and where this package reads files of other formats.
    both = ("saved/tiny-Dataset.pth", "saved/tiny-for-SharedBottom-dataloader.pth")
    add("pickles in saved/", RUN, (), _pickled(*both), SAME)
    add("pickles in saved/, single-task model", (*RUN[:1], "--model=LR", "--dataset=tiny", "--config_files=data.yaml", "--output_dir=out",
        "--epochs=1", "--use_gpu=False"), (), _pickled(both[0], "saved/tiny-for-LR-dataloader.pth"))  # fmt: skip
    plain = ("run_recbole", "--model=LR", "--dataset=tiny", "--data_path=data", "--output_dir=out", "--epochs=1", "--use_gpu=False",
             "--load_col={inter: [user_id, item_id, clicked]}", "--LABEL_FIELD=clicked", "--train_neg_sample_args=",
             "--eval_args={split: {RS: [0.8, 0.1, 0.1]}, order: RO, mode: labeled}", "--metrics=[AUC]", "--valid_metric=AUC")  # fmt: skip
    add("pickles in saved/, plain RecBole", plain, (), _pickled(both[0], "saved/tiny-for-LR-dataloader.pth"))
    for key in ("dataset_save_path", "dataloaders_save_path"):
        add(f"{key} of a pickle", (*RUN, f"--{key}=x.pth"), (), _pickled("x.pth"), REFUSED)
        add(f"{key} of a pickle in best.yaml", ("run_recbole", "--config_files=search/best.yaml", "--output_dir=out"), ("search",),
            several(_pickled("x.pth"), _replace("search/best.yaml", f"{key}: null", f"{key}: x.pth")), REFUSED)  # fmt: skip
        for command, like in ((PREDICT, "predict"), (EXPLAIN, "explain")):
            add(f"{like}: {key} in best.ckpt", command, ("run", "new.csv"),
                several(_pickled("x.pth"), _in_checkpoint("run/best.ckpt", key, "x.pth")), REFUSED_OR_SAME, like)  # fmt: skip
    add(
        "checkpoint_dir with pickles",
        (*RUN, "--checkpoint_dir=elsewhere"),
        (),
        _pickled(*(path.replace("saved", "elsewhere") for path in both)),
    )
    for key in (
        "pretrain_path",
        "model_file",
        "checkpoint",
        "resume_file",
        "mf_pretrain_path",
        "pre_model_path",
        "warm_up",
        "load_pickles",
    ):
        add(f"{key} of a pickle", (*RUN, f"--{key}=x.pth", "--strict=False"), (), _saved("x.pth"))
    for path, command, like in (
        ("run/best.ckpt", PREDICT, "predict"),
        ("run/best.ckpt", EXPLAIN, "explain"),
        ("run/vocabulary/dataset.json", PREDICT, "predict"),
        ("run/vocabulary/tables.safetensors", PREDICT, "predict"),
        ("run/config.yaml", PREDICT, "predict"),
        ("interrupted/last.ckpt", RESUME, "resume"),
        ("interrupted/best.ckpt", RESUME, "resume"),
        ("knowledge/known/user.npy", KNOWING, "knowing"),
        ("knowledge/known/knowledge.json", KNOWING, "knowing"),
        ("new.csv", PREDICT, "predict"),
        ("search/study.journal", SEARCH, "search"),
        ("comparison/runs/SharedBottom/all/joint/seed-2020/best.ckpt", COMPARE, "compare"),
    ):
        right = EITHER if path == "new.csv" or path.startswith("comparison") else REFUSED_OR_SAME
        take = (path.split("/")[0], *(("new.csv", "run") if like == "predict" else ()))
        take = tuple(dict.fromkeys(take))
        add(f"a pickle as {path}", command, take, _pickled(path), right, like)
        if path.endswith("ckpt"):
            add(f"a pickle by torch as {path}", command, take, _saved(path), right, like)
            add(f"pickles in {path}'s zip", command, take, _in_zip(path), right, like)
    add(
        "an array of objects in a store",
        KNOWING,
        ("knowledge",),
        _in_array("knowledge/known/user.npy"),
        REFUSED,
        "knowing",
    )
    return found


def _in_zip(path: str) -> Callable[[Path, Path], None]:
    """The checkpoint's own zip file with another pickle in it."""

    def change(folder: Path, marker: Path) -> None:
        import zipfile

        made = io.BytesIO()
        with zipfile.ZipFile(folder / path) as old, zipfile.ZipFile(made, "w") as new:
            for member in old.infolist():
                raw = (
                    pickle.dumps(Plants(marker), protocol=2)
                    if member.filename.endswith("data.pkl")
                    else old.read(member)
                )
                new.writestr(member.filename, raw)
        (folder / path).write_bytes(made.getvalue())

    return change


def _replace(path: str, old: str, new: str) -> Callable[[Path, Path], None]:
    def change(folder: Path, marker: Path) -> None:
        text = (folder / path).read_text(encoding="utf-8")
        assert old in text, (path, old)
        write(path, text.replace(old, new, 1))(folder, marker)

    return change


FAMILY = Family("code", listed, draw, all_listed=True)
