"""Seconds and memory of a call; it knows PyTorch and nothing of this toolkit.

So it runs in environments where the toolkit is not, for whoever it is compared with. Times are
medians of runs that take turns in one process, so that noise of the machine hits all of them alike
and their ratios hold. Memory is what PyTorch's allocator hands out.
"""

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch

Name = TypeVar("Name")
Work = Callable[[], Any]

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else the profiler chats


def seconds(work: Work, device: torch.device) -> float:
    """What one call takes."""
    started = time.perf_counter()
    work()
    if device.type != "cpu":
        torch.accelerator.synchronize()
    return time.perf_counter() - started


def in_turn(runs: Mapping[Name, Work], repeats: int, device: torch.device) -> dict[Name, float]:
    """Median seconds of each, taking turns, after one call each that does not count."""
    for work in runs.values():
        work()
    times: dict[Name, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, work in runs.items():
            times[name].append(seconds(work, device))
    return {name: statistics.median(taken) for name, taken in times.items()}


def peak(work: Work, device: torch.device) -> int:
    """Most bytes that were allocated at a time during one call, beyond those before it."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        work()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "trace.json"
        profile.export_chrome_trace(str(file))
        events = json.loads(file.read_text())["traceEvents"]
    held = most = 0
    for event in sorted((e for e in events if e["name"] == "[memory]"), key=lambda e: e["ts"]):
        held += event["args"]["Bytes"]
        most = max(most, held)
    return most
