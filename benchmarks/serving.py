"""Work on demand in a process: one JSON line in, one out. It knows neither work nor toolkit.

A parent that compares environments starts one such process in each and asks them in turn. What a
task built is kept until another is asked for, so that models of several tasks never share memory.
Whatever the work prints goes to stderr: stdout is the parent's.
"""

import json
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Any

import torch

Answer = dict[str, float]
Run = Callable[[], Answer]
"""One measurement, by name of what was measured."""
Build = Callable[[Mapping[str, Any]], Run]
"""A task's settings to what can be run again and again."""


def serve(tasks: Mapping[str, Build], threads: int) -> None:
    """Answer `{"task": …, "settings": …}` until stdin ends: what the run gives, or `error`."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    torch.set_num_threads(threads)
    kept: tuple[Any, Run] | None = None
    for line in sys.stdin:
        request = json.loads(line)
        key = (request["task"], request["settings"])
        try:
            if kept is None or kept[0] != key:
                kept = None
                kept = (key, tasks[request["task"]](request["settings"]))
            answer: dict[str, Any] = kept[1]()
        except Exception as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)
