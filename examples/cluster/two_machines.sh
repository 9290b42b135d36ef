#!/usr/bin/env bash
# Trains one run on two machines that share /shared. Start it on one of them, or on a third machine.
#
#     ./two_machines.sh
#
# Run it again to resume. Ctrl-C stops both machines after the same step.
set -euo pipefail

machines=(10.0.0.1 10.0.0.2)
command="cd /shared/keras_imnet64 && .venv/bin/python cli.py fit --recipe wrn36_5 --backend jax \
    --data-dir /shared/data --out /shared/runs/wrn36_5"

processes=()
for number in "${!machines[@]}"; do
    # -tt: the remote process gets the signals of this terminal
    ssh -tt "${machines[$number]}" "$command --coordinator ${machines[0]}:1234 \
        --num-processes ${#machines[@]} --process-id $number" </dev/null &
    processes+=($!)
done
trap 'kill -INT "${processes[@]}"' INT TERM

status=0
for process in "${processes[@]}"; do
    wait "$process" || status=$?
done
exit "$status"
