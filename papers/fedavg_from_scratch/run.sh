#!/bin/sh
# Federated Learning: Your Data Stays With You! (Agarwal 2021): the commands of its tables, for those who run them by hand. Made by `python -m papers --record`.
# Usage: sh papers/fedavg_from_scratch/run.sh [TABLE ...] [-- FLAGS]. The tables are mnist; without a name: mnist.
# FLAGS are added to every command: sh papers/fedavg_from_scratch/run.sh mnist -- --slurm '--array=1-8'
set -e
cd "$(dirname "$0")/../.."
tables=
while [ $# -gt 0 ] && [ "$1" != -- ]; do tables="$tables $1"; shift; done
[ "$1" != -- ] || shift
for table in ${tables:-mnist}; do
case "$table" in
mnist)  # The claim, and the learning rate that reaches it
    (
    set -- --dataset MNIST --model CNN_scratch --n_clients 8 --participation 0.5 --rounds 5 --epoch_per_round 5 --batch_size 100 --optimizer adam --threads 1 "$@"
    python run.py fedavg --lr 5e-5 --as_published "$@"
    python run.py fedavg --lr 5e-5 "$@"
    python run.py fedavg --lr 2e-4 --as_published "$@"
    python run.py fedavg --lr 2e-4 "$@"
    python run.py fedavg --lr 1e-3 --as_published "$@"
    python run.py fedavg --lr 1e-3 "$@"
    ) ;;
*) echo "$0: no table $table; use mnist" >&2; exit 2 ;;
esac
done
