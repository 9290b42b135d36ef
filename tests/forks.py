"""Runs programs in forks of one process that has imported what takes them seconds to import.

A program is a dict: `code`, or `module` whose `main()` is called; `arguments`, its sys.argv; and
optionally `environment`, variables beside those of this process, and `merged`, whether what it
prints to standard error stands among its standard output. Of TensorFlow and JAX nothing is started
before a fork, so each program takes its own devices. Where libraries do not outlive a fork, as on
macOS, each program runs in a process of its own.

    python forks.py fork|start MODULE ...

imports the modules, then reads lists of programs from standard input, one on a line; the programs
of a list run at the same time. Answers each list with [status, standard output, standard error] of
each program, on a line.
"""

import atexit
import contextlib
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback

IN_TIME = 300  # seconds for the programs of a list


class Forks:
    """A context manager that starts the process which imports `modules`, and ends it."""

    def __init__(self, *modules, folder=None, environment=None, can_fork=sys.platform != "darwin"):
        self.command = [sys.executable, __file__, "fork" if can_fork else "start", *modules]
        self.place = {"cwd": folder, "env": environment}

    def __enter__(self):
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.server = subprocess.Popen(self.command, text=True, **pipes, **self.place)
        return self

    def __exit__(self, *_):
        self.server.communicate()

    def run(self, *programs):
        """[(status, standard output, standard error)]; status -9 where 300 seconds are over."""
        print(json.dumps(programs), file=self.server.stdin, flush=True)
        return [tuple(end) for end in json.loads(self.server.stdout.readline())]


def perform(program):
    """Runs a program in this process and returns its exit status."""
    sys.argv[:] = program["arguments"]
    variables = program.get("environment", {})
    os.environ.update(variables)
    sys.path[:0] = filter(None, variables.get("PYTHONPATH", "").split(os.pathsep))
    try:
        if "code" in program:
            exec(program["code"], {"__name__": "__main__"})
        else:
            importlib.import_module(program["module"]).main()
    except SystemExit as stop:
        if isinstance(stop.code, str):  # Python prints it, with status 1
            print(stop.code, file=sys.stderr)
            return 1
        return stop.code or 0
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def perform_into(program, out, err):
    """As the whole life of a fork."""
    os.dup2(out.fileno(), 1)
    os.dup2(err.fileno(), 2)
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    status = perform(program)
    atexit._run_exitfuncs()  # as at the end of any other process: JAX leaves the other ones then
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def begin(program, out, err, can_fork):
    """The id of the process of a program."""
    if not can_fork:
        command = [sys.executable, __file__, "once", json.dumps(program)]
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err).pid
    child = os.fork()
    if child == 0:
        perform_into(program, out, err)
    return child


def ends_of(programs, can_fork):
    with contextlib.ExitStack() as stack:
        files = [
            [stack.enter_context(tempfile.TemporaryFile()) for _ in range(2)] for _ in programs
        ]
        children = [
            begin(program, out, out if program.get("merged") else err, can_fork)
            for program, (out, err) in zip(programs, files, strict=True)
        ]
        statuses, deadline = {}, time.monotonic() + IN_TIME
        while len(statuses) < len(children):
            child, status = os.waitpid(-1, os.WNOHANG)
            if child:
                statuses[child] = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > deadline:
                for each in set(children) - set(statuses):
                    os.kill(each, 9)
            else:
                time.sleep(0.02)
        for pair in files:
            for file in pair:
                file.seek(0)
        printed = [[file.read().decode(errors="replace") for file in pair] for pair in files]
    return [[statuses[child], *pair] for child, pair in zip(children, printed, strict=True)]


def serve(how, *modules):
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no reply
    for module in modules:
        importlib.import_module(module)
    for line in sys.stdin:
        print(json.dumps(ends_of(json.loads(line), how == "fork")), file=replies, flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "once":
        program, sys.argv[1:] = json.loads(sys.argv[2]), []
        sys.exit(perform(program))
    serve(*sys.argv[1:])
