#!/usr/bin/env bash
# Trains one run on two machines that share /shared. Start it on one of them, or on a third machine.
#
#     ./two_machines.sh
#
# Run it again to resume. Ctrl-C, or SIGTERM to this script, stops both machines after the same
# step, with the state saved. Each machine must accept SSH connections without a password.
set -euo pipefail

machines=(10.0.0.1 10.0.0.2)
command="cd /shared/keras_imnet64 && .venv/bin/python cli.py fit --recipe wrn36_5 --backend jax \
    --data-dir /shared/data --out /shared/runs/wrn36_5"

# SSH passes no signals on, but a key that is typed on the terminal of a process (-tt) reaches it.
# What this script writes into a pipe is typed on the terminal of process 0, which tells the others.
keyboard=$(mktemp -u)
mkfifo -m 600 "$keyboard"
exec 3<>"$keyboard"
rm "$keyboard"
ctrl_c=$'\003'

processes=()
for number in "${!machines[@]}"; do
    if [ "$number" -eq 0 ]; then keys=/dev/fd/3; else keys=/dev/null; fi
    ssh -tt "${machines[$number]}" "$command --coordinator ${machines[0]}:1234 \
        --num-processes ${#machines[@]} --process-id $number" <"$keys" &
    processes+=($!)
done
trap 'printf "$ctrl_c" >&3' INT TERM

status=0
for process in "${processes[@]}"; do
    while kill -0 "$process" 2>/dev/null; do
        wait "$process" || true # a signal ends `wait` early
    done
    wait "$process" || status=$?
done
exit "$status"
