"""One of several processes of a run: the command line, with actions at steps and shorter waits.

Its arguments are ACTION ... -- fit --coordinator ...; an ACTION is "step N NAME": at the beginning
of the N-th step of this process it gets the signal of that name; or "wait N": it waits N seconds
for processes that do not come, and for files.
"""

import os
import signal
import sys

from keras_imnet64 import cli
from keras_imnet64.backend import cluster


def act_at(signals):
    """Sends this process signals, {step: name}, when its steps begin."""
    from keras_imnet64.training.callbacks.position import Position

    begin, num_begun = Position.begin_step, 0

    def counting(self):
        nonlocal num_begun
        num_begun += 1
        begin(self)
        if num_begun in signals:
            os.kill(os.getpid(), getattr(signal, signals[num_begun]))

    Position.begin_step = counting


def main():
    end = sys.argv.index("--")
    actions, sys.argv[1:] = [each.split() for each in sys.argv[1:end]], sys.argv[end + 1 :]
    for _, seconds in (each for each in actions if each[0] == "wait"):
        cluster.JOIN_SECONDS = cluster.MIN_JOIN_SECONDS = cluster.SHARED_SECONDS = int(seconds)
    signals = {int(step): name for _, step, name in (each for each in actions if each[0] == "step")}
    if signals:
        act_at(signals)
    cli.main()
