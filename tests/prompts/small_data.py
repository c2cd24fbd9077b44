"""Items with titles, for the dataset "tiny"."""

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
