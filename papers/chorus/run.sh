#!/bin/sh
# Comparisons of our own: the commands of its tables, for those who run them by hand. Made by `python -m papers --record`.
# Usage: sh papers/chorus/run.sh [TABLE ...] [-- FLAGS]. The tables are five_seeds, writers; without a name: five_seeds writers.
# FLAGS are added to every command: sh papers/chorus/run.sh five_seeds -- --slurm '--array=1-8'
set -e
cd "$(dirname "$0")/../.."
tables=
while [ $# -gt 0 ] && [ "$1" != -- ]; do tables="$tables $1"; shift; done
[ "$1" != -- ] || shift
for table in ${tables:-five_seeds writers}; do
case "$table" in
five_seeds)  # The comparison of `make run` over five seeds, each with its own split
    (
    set -- --dataset digits --n_clients 5 --partition lda --alpha 0.5 --lr 3e-3 --rounds 60 --track_history 60 --threads 1 --seed 0 1 2 3 4 --split_seed seed "$@"
    python run.py cfkd "$@"
    python run.py fd "$@"
    python run.py fedavg --epoch_per_round 1 --batch_size 32 --optimizer adam "$@"
    python run.py independent "$@"
    python run.py centralized "$@"
    ) ;;
writers)  # MNIST by writer
    (
    set -- --dataset MNIST --model CNN_scratch --partition writers --n_clients 50 --lr 1e-3 --rounds 20 --track_history 5 --threads 1 "$@"
    python run.py fedavg --epoch_per_round 1 --batch_size 32 --optimizer adam "$@"
    python run.py independent "$@"
    ) ;;
*) echo "$0: no table $table; use five_seeds, writers" >&2; exit 2 ;;
esac
done
