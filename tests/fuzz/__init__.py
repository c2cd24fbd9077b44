"""A campaign of malformed input against the commands: `python -m tests.fuzz --cases 5000 --seed 7`.

Each case gives one command something wrong, or something odd that is right, in a process of its own, forked from one
that has imported everything. A case is right if the command refuses it (exit code 2, one line, nothing left behind or
changed), or if it runs to the result that the case declares.
"""
