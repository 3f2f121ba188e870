#!/bin/sh
# SCAFFOLD (Karimireddy et al. 2020): the commands of its tables, for those who run them by hand. Made by `python -m papers --record`.
# Usage: sh papers/scaffold/run.sh [TABLE ...] [-- FLAGS]. The tables are mnist; without a name: mnist.
# FLAGS are added to every command: sh papers/scaffold/run.sh mnist -- --slurm '--array=1-8'
set -e
cd "$(dirname "$0")/../.."
tables=
while [ $# -gt 0 ] && [ "$1" != -- ]; do tables="$tables $1"; shift; done
[ "$1" != -- ] || shift
for table in ${tables:-mnist}; do
case "$table" in
mnist)  # Rounds to 80 %, MNIST
    (
    set -- --dataset MNIST --reduced 0.2 --model 2NN --n_clients 100 --participation 0.2 --rounds 60 --batch_size 24 --optimizer sgd --lr 0.05 --threads 1 --seed 0 1 2 --split_seed seed "$@"
    python run.py fedavg --partition shards --shard_per_user 1 --epoch_per_round 1 "$@"
    python run.py fedavg --partition shards --shard_per_user 1 --epoch_per_round 5 "$@"
    python run.py scaffold --partition shards --shard_per_user 1 --epoch_per_round 1 "$@"
    python run.py scaffold --partition shards --shard_per_user 1 --epoch_per_round 5 "$@"
    python run.py fedavg --partition iid --epoch_per_round 1 "$@"
    python run.py fedavg --partition iid --epoch_per_round 5 "$@"
    python run.py scaffold --partition iid --epoch_per_round 1 "$@"
    python run.py scaffold --partition iid --epoch_per_round 5 "$@"
    ) ;;
*) echo "$0: no table $table; use mnist" >&2; exit 2 ;;
esac
done
