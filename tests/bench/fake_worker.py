"""A worker that answers at once, with the seconds that its arguments say, and logs what it does.

    fake_worker.py LOG NAME [SECONDS] [WHEN_TO_FAIL STATUS LAST_WORDS]

WHEN_TO_FAIL is "start", or a line that it is asked. Options of `torch_peer.py` are ignored.
"""

import json
import os
import signal
import sys
import time

TASKS = ["forward", "step"]


def log(path, name, text):
    with open(path, "a") as file:
        file.write(f"{name} {text}\n")


def end(status, last_words):
    print("a library's chatter\n" + last_words, file=sys.stderr)
    if status < 0:
        os.kill(os.getpid(), -status)
    sys.exit(status)


def main(path, name, seconds="1.0", when="", status="0", last_words=""):
    log(path, name, f"is {os.getpid()}")
    if when == "start":
        end(int(status), last_words)
    if when == "hang":
        time.sleep(100)
    print("a library prints this")
    print(json.dumps({"name": name, "compile_seconds": 2.0, "devices": ["CPU:0"]}), flush=True)
    for line in map(str.strip, sys.stdin):
        if line.startswith("{"):
            continue
        log(path, name, f"begins {line}")
        if line == when:
            end(int(status), last_words)
        if line == "memory":
            answer = {"peak_mb": 100 * float(seconds)}
        else:
            task, count = line.split()
            factor = {"forward": 0.25, "step": 1.0}[task]
            answer = {"seconds": int(count) * factor * float(seconds)}
        log(path, name, f"ends {line}")  # before the parent may ask another worker
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    main(*[argument for argument in sys.argv[1:] if not argument.startswith("--")])
