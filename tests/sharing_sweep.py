"""One of several processes that share out a sweep, whose cells the stand-in of `fit` trains.

    python sharing_sweep.py RECIPE OUT RATES [MACHINE]

RATES are the learning rates of the cells, such as 0.1,0.2. The cell of a rate above 1 fails, and
that of a rate above 0.5 waits after its first epoch for the file OUT.gate. With MACHINE, the
process is on a machine of that name, so that others know only by its claims whether it lives, and
take it for dead after two seconds. On the machine "broken" every cell fails. Prints whether it has
written the results.
"""

import sys
from pathlib import Path

import stand_in_fit
from pytest import MonkeyPatch

from keras_imnet64.core.errors import UserError
from keras_imnet64.jobs import claims, sharing
from keras_imnet64.jobs import machine as here
from keras_imnet64.recipe.loading import load_recipe, read_content
from keras_imnet64.sweep import grid
from keras_imnet64.sweep.axes import parse_axis
from keras_imnet64.sweep.plan import plan_grid

NUM_EPOCHS = 10


def plan_of(folder):
    rate = load_recipe(folder / "recipe.toml").optimizer.learning_rate
    scores = [50.0 + number for number in range(NUM_EPOCHS)]
    plan = {"scores": scores, "pause": 0.02, "ending": "failed" if rate > 1 else "finished"}
    gate = {"gate": f"{folder.parent}.gate"} if 0.5 < rate < 1 else {}
    return plan | gate


def main(recipe, out, rates, machine=None):
    here.run_preflight = lambda request: []
    broken = {"ending": "failed", "scores": []}
    stand_in_fit.use(
        MonkeyPatch(), lambda folder: plan_of(folder) | (broken if machine == "broken" else {})
    )
    claims.TOUCH_SECONDS, claims.STALE_SECONDS, sharing.LOOK_SECONDS = 0.2, 2.0, 0.2
    sharing.STALE_SECONDS = sharing.IDLE_SECONDS = 2.0
    if machine:
        claims.machine_id = lambda: machine
    plan = plan_grid(read_content(recipe, ()), [parse_axis(f"optimizer.learning_rate={rates}")], 1)
    outcome = grid.run_grid(plan, Path(out), here.Machine())
    try:
        outcome.raise_unfinished()
    finally:
        print("wrote the results" if outcome.is_written else "")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except UserError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(error.exit_status)
