"""Processes that end or fork while others generate: they end quietly, or are told what is wrong; nothing hangs."""

from __future__ import annotations

import subprocess
import sys

import pytest

EXIT = """
import random, sys, threading, time
import trilens
model = trilens.load({name!r})
def talk(seed):
    while True:
        for _ in model.stream("What is 47 times 86?", thinking=True, seed=seed):
            pass
threads = [threading.Thread(target=talk, args=(i,), daemon=True) for i in range({threads})]
for thread in threads:
    thread.start()
time.sleep(random.random() * {most})
{last}
"""

FORK = """
import os, sys, threading, time
import trilens
from trilens.errors import RequestRefused
model = trilens.load("tiny-dense")
state = {state!r}
stop = threading.Event()
def talk():
    while not stop.is_set():
        for _ in model.stream("What is 47 times 86?", thinking=True):
            pass
threads = [threading.Thread(target=talk) for _ in range({{"idle": 0, "loaded": 0, "one": 1}}.get(state, 4))]
if state != "loaded":
    expected = model.generate("What is 2 plus 2?", temperature=0).text
for thread in threads:
    thread.start()
stream = model.stream("What is 12 times 12?", thinking=True)
if state == "middle":
    next(stream)
for i in range({times}):
    time.sleep(0.003 * i)
    child = os.fork()
    if child == 0:
        code = 1
        for ask in (lambda: model.generate("What is 2 plus 2?"), lambda: next(stream), model.step):
            try:
                ask()
            except RequestRefused as problem:
                code = 0 if "forked" in str(problem) and code in (0, 1) else 3
            except BaseException as problem:
                print(repr(problem), file=sys.stderr)
                code = 3
        model.forget()
        if {hard}:
            os._exit(code)
        sys.exit(code)
    for _ in range(1000):
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        time.sleep(0.01)
    else:
        os.kill(child, 9)
        sys.exit("the child hangs")
    assert os.waitstatus_to_exitcode(status) == 0, status
stop.set()
for thread in threads:
    thread.join()
if state != "loaded":
    assert model.generate("What is 2 plus 2?", temperature=0).text == expected
"""


def run(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("last", ["", "sys.exit(3)", "raise SystemExit('over')"])
@pytest.mark.parametrize("name", ["tiny-dense", pytest.param("tiny-routed", marks=pytest.mark.slow)])
def test_a_process_ends_quietly_while_daemon_threads_generate(name: str, last: str) -> None:
    done = run(EXIT.format(name=name, threads=3, most=0.3, last=last))
    expected = {"": (0, ""), "sys.exit(3)": (3, "")}.get(last, (1, "over\n"))
    assert (done.returncode, done.stderr) == expected


@pytest.mark.slow
@pytest.mark.parametrize("time", range(50))
def test_it_ends_quietly_fifty_times(time: int) -> None:
    done = run(EXIT.format(name="tiny-dense", threads=1 + time % 5, most=0.5, last=""))
    assert (done.returncode, done.stderr) == (0, "")


# in the fast suite each state ends in one way, and the hardest in both
@pytest.mark.parametrize(
    ("state", "hard"),
    [
        *[("loaded", False), ("idle", True), ("one", False), ("many", True), ("middle", False), ("middle", True)],
        *[
            pytest.param(state, hard, marks=pytest.mark.slow)
            for state, hard in (("loaded", True), ("idle", False), ("one", True), ("many", False))
        ],
    ],
)
def test_a_forked_child_is_told_and_its_parent_works_on(state: str, hard: bool) -> None:
    done = run(FORK.format(state=state, hard=hard, times=2))
    assert (done.returncode, done.stderr) == (0, "")
