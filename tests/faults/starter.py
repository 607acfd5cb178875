"""Starts commands as processes without their start-up time: imports once what they need, and forks.

It is run as a program (by `harness.Starter`), and answers lines of JSON on stdin with such lines on
stdout. A process that it starts is `python -m WORDS` in a session of its own, except that libraries
are in its memory already. It knows no command.
"""

import atexit
import ctypes
import fcntl
import gc
import json
import os
import resource
import runpy
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

MODULES = (
    *("datasets", "torch._dynamo", "torch.utils.tensorboard"),
    *("codec.training", "codec.tokenizing", "codec.decoding", "conditioning.aligning"),
    *("prior.training", "prior.sampling", "prior.embedding", "plugins.openai.converting"),
)
LARGEST = 1 << 20
"""Bytes that a process may say; a pipe holds them until it has ended."""

Pipes = list[tuple[int, int]]


def main() -> None:
    """Answer until stdin ends."""
    sys.path.pop(0)  # commands have no modules of tests
    for name in MODULES:
        __import__(name)
    gc.freeze()  # or collecting garbage would copy what processes share
    said: dict[int, Pipes] = {}
    for line in sys.stdin:
        request = json.loads(line)
        if "words" in request:
            answer = start(request, said)
        else:
            answer = wait(request["wait"], request["seconds"], said)
        print(json.dumps(answer), flush=True)


def start(request: dict[str, Any], said: dict[int, Pipes]) -> dict[str, Any]:
    """Start `words`; gives `pid`."""
    pipes = [os.pipe(), os.pipe()]
    for _, end in pipes:
        fcntl.fcntl(end, fcntl.F_SETPIPE_SZ, LARGEST)
    process = os.fork()
    if not process:
        become(request, pipes)
    for _, end in pipes:
        os.close(end)
    while os.getpgid(process) != process:  # or a signal to its group would miss it
        time.sleep(0)
    said[process] = pipes
    return {"pid": process}


def wait(process: int, seconds: float, said: dict[int, Pipes]) -> dict[str, Any]:
    """Wait for the end of a process; gives `status`, None if it works on, and what it has said."""
    until = time.monotonic() + seconds
    ended, status = os.waitpid(process, os.WNOHANG)
    while not ended and time.monotonic() < until:
        time.sleep(0.002)
        ended, status = os.waitpid(process, os.WNOHANG)
    if not ended:
        return {"status": None}
    out, err = (_read(end) for end, _ in said.pop(process))
    return {"status": os.waitstatus_to_exitcode(status), "out": out, "err": err}


def _read(end: int) -> str:
    """What a pipe holds; children that live on may have its other end open."""
    os.set_blocking(end, False)
    with open(end, "rb", buffering=0) as file:
        return b"".join(iter(lambda: file.read(LARGEST) or b"", b"")).decode("utf-8", "replace")


def become(request: dict[str, Any], pipes: Pipes) -> None:
    """Be the command, to its end."""
    os.setsid()
    os.chdir(request["cwd"])
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, (_, end) in enumerate(pipes, start=1):
        os.dup2(end, number)
    if request["obedient"]:
        obey_modes()
    if (size := request["file_size"]) is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    if (size := request["memory"]) is not None:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + size, used + size))
    module, *sys.argv[1:] = request["words"]
    status = 0
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
        status = 1
    # What an interpreter does in the end, except to take each of its modules apart: that copies
    # most of the memory that was shared so far.
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def obey_modes() -> None:
    """Be held to the modes of files as root, too: give up the capabilities that pass over them."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # version 3, this process
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable: low words, high words
    if libc.capget(header, sets):
        raise OSError(ctypes.get_errno(), "capget")
    for number in (0, 1):
        sets[number] &= ~0b1110  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER
    if libc.capset(header, sets):
        raise OSError(ctypes.get_errno(), "capset")


if __name__ == "__main__":
    main()
