"""One of several processes of a run: the command line, with shorter waits and actions at steps.

    python process_of_several.py ACTION ... -- fit --coordinator ...

An ACTION is "step N NAME": at the beginning of the N-th step of this process it gets the signal of
that name. Processes wait 8 seconds for each other, so that tests of those that do not come are
fast.
"""

import os
import signal
import sys

from keras_imnet64.backend import cluster
from keras_imnet64.cli import main

cluster.JOIN_SECONDS = 8
cluster.MIN_JOIN_SECONDS = 8
cluster.SHARED_SECONDS = 3


def act_at(actions):
    """Sends this process its signals when their steps begin."""
    if not actions:
        return
    from keras_imnet64.training.callbacks.position import Position

    signals = {int(step): name for _, step, name in map(str.split, actions)}
    begin, num_begun = Position.begin_step, 0

    def counting(self):
        nonlocal num_begun
        num_begun += 1
        begin(self)
        if num_begun in signals:
            os.kill(os.getpid(), getattr(signal, signals[num_begun]))

    Position.begin_step = counting


if __name__ == "__main__":
    end = sys.argv.index("--")
    actions, sys.argv[1:] = sys.argv[1:end], sys.argv[end + 1 :]
    if actions:
        os.environ.setdefault("KERAS_BACKEND", "jax")
        act_at(actions)
    main()
