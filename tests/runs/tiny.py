"""Small random data for runs that several tests of a file share."""

import numpy as np
import pandas as pd

SMALL = {
    "embedding_size": 4,
    "learning_rate": 0.02,
    "epochs": 2,
    "use_gpu": False,
    "show_progress": False,
    "threads": 1,
    "state": "ERROR",
}
"""Settings of a run that takes a second."""


def write_tiny(folder):
    """Write the dataset "tiny" (40 users with an age, 30 items, 600 ratings) below a folder; return its data_path."""
    data = folder / "data" / "tiny"
    data.mkdir(parents=True)
    draw = np.random.default_rng(4)
    pairs = draw.permutation(40 * 30)[:600]
    tables = {
        "user": {"user_id:token": [f"u{n}" for n in range(40)], "age:token": draw.integers(16, 60, 40)},
        "inter": {
            "user_id:token": [f"u{p // 30}" for p in pairs],
            "item_id:token": [f"i{p % 30}" for p in pairs],
            "rating:float": draw.integers(1, 6, 600),
            "timestamp:float": np.arange(600),
        },
    }
    for suffix, columns in tables.items():
        pd.DataFrame(columns).to_csv(data / f"tiny.{suffix}", sep="\t", index=False)
    return data.parent
