"""Mutation fuzzing of everything that comes from outside: files, prompts and requests.

    python -m fuzz [--seconds 60] [--target NAME] [--seed 1] [--native FILE] [--page docs/reliability.md]
    python -m fuzz --target NAME --repeat FILE

`targets.py` is the table of what is fuzzed, `seeds.py` makes the valid inputs to start from, `mutate.py` and
`formats.py` damage them, `worker.py` tries them in a process of its own, `run.py` watches that process and counts.
`corpus/` holds inputs that once failed; the tests replay them.
"""
