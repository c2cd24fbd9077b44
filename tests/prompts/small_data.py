"""Items with titles, for the dataset "tiny"; and changes of its interactions."""

import random

WORDS = [
    "amber",
    "birch",
    "cedar",
    "dusk",
    "ember",
    "frost",
    "grove",
    "harbor",
    "island",
    "jade",
    "kite",
    "lagoon",
    "meadow",
    "north",
    "ocean",
    "pine",
    "quartz",
]


def write_items(folder, header=("item_id:token", "movie_title:token_seq", "class:token_seq", "year:token")):
    """tiny.item with titles of two or three words."""
    kinds = ["Drama", "Comedy", "War", "Sci-Fi"]
    lines = ["\t".join(header)]
    for i in range(30):
        title = " ".join(w.title() for w in (WORDS[i % 17], WORDS[(i * 5 + 3) % 17], "Saga")[: 2 + i % 2])
        listed = [kinds[i % 4]] + ([kinds[(i + 1) % 4]] if i % 3 else [])
        lines.append("\t".join([f"i{i}", title, " ".join(listed), str(1970 + i)][: len(header)]))
    (folder / "tiny.item").write_text("\n".join(lines) + "\n", encoding="utf-8")


def poison(path, held_out, group_by):
    """Change label, time, item and user of the held-out rows in an .inter file, as far as all rows keep their splits.

    With `cold_user` and `cold_item` those that are held out are drawn by the order in which they first stand in the
    file: there the first row of each keeps it, and any other gets another one of its split.

    Args:
        path: the file, whose rows have different times.
        held_out: the validation and the test split.
        group_by: as in `eval_args`.

    Returns:
        The numbers of the lines that were not changed.
    """
    draw, lines = random.Random(1), path.read_text().splitlines()
    part_of = {float(time): part for part, split in enumerate(held_out) for time in split.inter_feat["timestamp"]}
    own, seen, kept = {"cold_user": 0, "cold_item": 1}.get(group_by), [[] for _ in held_out], []
    for number, line in enumerate(lines[1:], start=1):
        *pair, rating, time = line.split("\t")
        part = part_of.get(float(time))
        if part is None:
            kept.append(number)
            continue
        if own != 1:
            pair[1] = f"i{draw.randrange(30)}"
        if own != 0 and group_by not in ("user", "scenario"):
            pair[0] = f"u{draw.randrange(40)}"
        if own is not None:
            if pair[own] in seen[part]:
                pair[own] = draw.choice(seen[part])
            else:
                seen[part].append(pair[own])
        lines[number] = "\t".join([*pair, str(6 - int(rating)), str(5000 + draw.randrange(1000))])
    path.write_text("\n".join(lines) + "\n")
    return kept


def turn_label(path, number):
    """Turn the label of one line of an .inter file round."""
    lines = path.read_text().splitlines()
    user, item, rating, time = lines[number].split("\t")
    lines[number] = "\t".join([user, item, str(6 - int(rating) if rating != "3" else 5), time])
    path.write_text("\n".join(lines) + "\n")
