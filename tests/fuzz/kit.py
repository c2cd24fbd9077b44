"""What the cases start from: tiny data, and whatever the commands make of them, made by the commands."""

from __future__ import annotations

import contextlib
import random
import shutil
from pathlib import Path

from tests.fuzz import case

DATA = """\
data_path: data
scenario: {field: country}
tasks: {click: {field: clicked}, buy: {field: bought}}
packed_cache: False
"""
SETTINGS = f"""\
{DATA}\
epochs: 1
embedding_size: 4
tower_hidden_sizes: [4]
train_batch_size: 128
use_gpu: False
show_progress: False
"""
SPACE = """\
model: SharedBottom
fixed: {train_batch_size: 128}
search:
  embedding_size: [4, 8]
  bottom_hidden_sizes: {type: layers, depth: [1, 2], width: [4, 8]}
  learning_rate: {type: float, low: 1e-4, high: 1e-2, log: true}
  dropout: {type: float, low: 0.0, high: 0.5, step: 0.1}
  batch_norm: [false, true]
"""
ENTRIES = """\
base: {model: SharedBottom, bottom_hidden_sizes: [8]}
wide: {model: SharedBottom, bottom_hidden_sizes: [16]}
"""
TEMPLATE = """\
version: 1
limits: {items: 5, categories: 3}
languages:
  en:
    scenario: "Country {{ scenario.name }}"
    user: "{% for part in history %}{% for item in part.liked %}{{ item.title }}; {% endfor %}{% endfor %}"
    item: "{{ item.title }}"
"""
HYPER = "learning_rate loguniform -8,-2\nembedding_size choice [4, 8]\ndropout uniform 0,0.5\n"


def write_data(folder: Path) -> None:
    """Write the dataset "tiny" (240 interactions) and the text files of the kit."""
    draw = random.Random(5)
    users, items = range(24), range(16)
    tables = {
        "inter": [
            ("user_id:token", "item_id:token", "country:token", "clicked:float", "bought:float", "timestamp:float"),
            *(
                (
                    f"u{user}",
                    f"i{item}",
                    draw.choice(("FR", "DE")),
                    draw.randrange(2),
                    draw.randrange(2),
                    1_700_000_000 + n,
                )
                for n, (user, item) in enumerate(draw.sample([(u, i) for u in users for i in items], 240))
            ),
        ],
        "user": [("user_id:token", "age:token"), *((f"u{user}", draw.randint(18, 22)) for user in users)],
        "item": [
            ("item_id:token", "title:token_seq", "class:token_seq", "price:float"),
            *((f"i{item}", f"Film {item}", draw.choice(("war", "war noir")), draw.randint(1, 9)) for item in items),
        ],
    }
    (folder / "data" / "tiny").mkdir(parents=True)
    for name, rows in tables.items():
        text = "".join("\t".join(map(str, row)) + "\n" for row in rows)
        (folder / "data" / "tiny" / f"tiny.{name}").write_text(text, encoding="utf-8")
    new = (
        "user_id,item_id,country,age,title,class,price\n"
        "u1,i2,FR,18,Film 2,war,3\nu3,i4,DE,20,Film 4,war noir,4.5\n,i1,FR,,,,\n"
    )
    texts = {
        "data.yaml": DATA,
        "tiny.yaml": SETTINGS,
        "space.yaml": SPACE,
        "entries.yaml": ENTRIES,
        "template.yaml": TEMPLATE,
        "hyper.test": HYPER,
        "new.csv": new,
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    import pandas as pd

    pd.read_csv(folder / "new.csv", dtype=str).to_parquet(folder / "new.parquet")


class _Interrupt:
    """Stops a training in its second epoch, as a user would."""

    def __new__(cls) -> object:
        import pytorch_lightning

        class Interrupt(pytorch_lightning.Callback):
            def on_train_epoch_start(self, trainer: object, module: object) -> None:
                if trainer.current_epoch == 1:  # type: ignore[attr-defined]
                    raise KeyboardInterrupt

        return Interrupt()


def make(folder: Path) -> None:
    """Fill the folder; the current one must be it."""
    from recbole_msr.cli import main, run_recbole
    from recbole_msr.runs.run import run

    write_data(folder)
    results = {
        "run": lambda: run_recbole(case.RUN[1:]),
        "predict": lambda: main(case.PREDICT[1:]),
        "explain": lambda: main(case.EXPLAIN[1:]),
        "embed": lambda: main([word.replace("made", "known") for word in case.EMBED[1:]]),
        "knowing": lambda: run_recbole([*case.KNOWING[1:4], "--output_dir=knowing", *case.KNOWING[-3:]]),
        "resume": lambda: run_recbole([*case.RUN[1:4], "--epochs=3", "--output_dir=whole"]),
        "search": lambda: main(case.SEARCH[1:]),
        "compare": lambda: main(case.COMPARE[1:]),
        "space": lambda: main(case.SPACED[1:]),
        "entries": lambda: main(case.ENTERED[1:]),
        "prompts": lambda: main(case.PROMPTS[1:]),
        "template": lambda: main(case.TEMPLATED[1:]),
    }
    for name, command in results.items():
        with open(f"{name}.txt", "w", encoding="utf-8") as printed, contextlib.redirect_stdout(printed):
            code = command()
        if code:
            raise SystemExit(f"the kit cannot be made: {name} ended with {code}")
        if name == "run":
            shutil.copytree("out", "run")
    settings = {"model": "SharedBottom", "dataset": "tiny", "epochs": 3, "output_dir": "interrupted"}
    try:
        run(config_files=["tiny.yaml"], config=settings, callbacks=[_Interrupt()])
    except KeyboardInterrupt:
        return
    raise SystemExit("the kit cannot be made: the run was not interrupted")
