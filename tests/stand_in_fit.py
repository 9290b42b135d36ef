"""A child process in place of `fit` that loads nothing: it writes epochs into a run's history.

It reads its plan from plan.json in the folder of the run: `scores`, the val_top1 of each epoch;
`ending`, "finished", "diverged" or "failed"; `pause`, the seconds of an epoch; and `gate`, a file
for which it waits after its first epoch. A run goes on behind the epochs that its history has, and
each epoch adds a line to trained.txt. As `fit` does, it locks the folder, and SIGTERM, or the end
of its parent, ends it with status 75.
"""

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

COLUMNS = "epoch,step,learning_rate,loss,top1,top5,val_loss,val_top1,val_top5,seconds"


def use(monkeypatch, plan_of):
    """Makes jobs start this program.

    plan_of(folder) -> the plan of the run in a folder, which has its recipe.toml.
    """
    from keras_imnet64.jobs import running

    def start_child(module, *arguments, log, environment):
        folder = Path(arguments[arguments.index("--out") + 1])
        (folder / "plan.json").write_text(json.dumps(plan_of(folder)))
        with open(log, "a") as output:
            return subprocess.Popen(
                [sys.executable, __file__, folder],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    monkeypatch.setattr(running, "start_child", start_child)
    monkeypatch.setattr(running, "POLL_SECONDS", 0.02)


def write(path, text):
    """As a whole, as the runs of the product write."""
    path.with_suffix(".new").write_text(text)
    path.with_suffix(".new").rename(path)


def train(plan, folder):
    scores = plan["scores"]
    history = folder / "history.csv"
    lines = history.read_text().splitlines() if history.exists() else [COLUMNS]
    while len(lines) <= len(scores):
        time.sleep(plan.get("pause", 0))
        epoch = len(lines)
        while epoch > 1 and "gate" in plan and not Path(plan["gate"]).exists():
            time.sleep(0.02)
        lines.append(f"{epoch},{epoch},0.1,1.5,50,90,1.6,{scores[epoch - 1]},91,0.1")
        write(history, "\n".join(lines) + "\n")
        with open(folder / "trained.txt", "a") as trained:
            trained.write(f"epoch {epoch} by {os.getpid()}\n")
    if plan["ending"] == "diverged":
        write(folder / "not_finite.json", "{}")
    if plan["ending"] != "finished":
        print("Error: the loss is not finite", file=sys.stderr)
        return 1
    best = max(scores)
    score = {"top1": best - 5, "top5": 90.0, "loss": 1.5, "count": 100}
    chosen = score | {"epoch": scores.index(best) + 1, "val_top1": best}
    metrics = {"dataset": "drawn", "split": "validation", "verified": True, "epochs": len(scores)}
    metrics |= {"selected_on": "holdout", "training_seconds": 0.1 * len(scores)}
    write(
        folder / "metrics.json",
        json.dumps(metrics | {"model.keras": score, "best.keras": chosen}),
    )
    return 0


def end_with_parent():
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    threading.Thread(target=end_with_parent, daemon=True).start()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(75))
    run = Path(sys.argv[1])
    with open(run / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        sys.exit(train(json.loads((run / "plan.json").read_text()), run))
