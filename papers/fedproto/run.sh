#!/bin/sh
# FedProto (Tan et al. 2022): the commands of its tables, for those who run them by hand. Made by `python -m papers --record`.
# Usage: sh papers/fedproto/run.sh [TABLE ...] [-- FLAGS]. The tables are mnist; without a name: mnist.
# FLAGS are added to every command: sh papers/fedproto/run.sh mnist -- --slurm '--array=1-8'
set -e
cd "$(dirname "$0")/../.."
tables=
while [ $# -gt 0 ] && [ "$1" != -- ]; do tables="$tables $1"; shift; done
[ "$1" != -- ] || shift
for table in ${tables:-mnist}; do
case "$table" in
mnist)  # MNIST, 20 clients with three classes each
    (
    set -- --dataset MNIST --reduced 0.1 --reduced_draw random --model CNNMnist --n_clients 20 --partition classes --classes_per_client 3 --rounds 30 --epoch_per_round 1 --batch_size 4 --optimizer sgd --lr 0.01 --momentum 0.5 --track_history 0 --threads 1 --seed 0 1 2 --split_seed seed "$@"
    python run.py fedproto "$@"
    python run.py independent "$@"
    python run.py fedavg "$@"
    ) ;;
*) echo "$0: no table $table; use mnist" >&2; exit 2 ;;
esac
done
