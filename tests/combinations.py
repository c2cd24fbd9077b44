"""Fewer cases than a full product of options, in which every few of the options still meet in every way."""

import itertools

import pytest


def every(strength, **options):
    """Parametrise a test so that any `strength` of the options take every combination of their values.

    With strength 2 every value of an option meets every value of each other one (pairwise), with 3 every pair of values
    of two others. Chosen greedily, the case first that has most of what is missing; always the same cases.
    """
    indexes = list(itertools.product(*(range(len(values)) for values in options.values())))
    columns = list(itertools.combinations(range(len(options)), strength))

    def meetings(case):
        return {(chosen, tuple(case[column] for column in chosen)) for chosen in columns}

    missing, cases = set().union(*map(meetings, indexes)), []
    while missing:
        case = max(indexes, key=lambda case: len(meetings(case) & missing))
        missing -= meetings(case)
        cases.append(case)
    values = [tuple(one[index] for one, index in zip(options.values(), case, strict=True)) for case in sorted(cases)]
    return pytest.mark.parametrize(list(options), values)
