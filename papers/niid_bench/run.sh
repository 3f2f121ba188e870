#!/bin/sh
# Flower's baseline niid_bench (after Li, Diao, Chen, He 2022): the commands of its tables, for those who run them by hand. Made by `python -m papers --record`.
# Usage: sh papers/niid_bench/run.sh [TABLE ...] [-- FLAGS]. The tables are dirichlet, two_labels; without a name: .
# FLAGS are added to every command: sh papers/niid_bench/run.sh dirichlet -- --slurm '--array=1-8'
set -e
cd "$(dirname "$0")/../.."
tables=
while [ $# -gt 0 ] && [ "$1" != -- ]; do tables="$tables $1"; shift; done
[ "$1" != -- ] || shift
for table in ${tables:-}; do
case "$table" in
dirichlet)  # Fashion-MNIST, Dirichlet 0.5
    (
    set -- --partition lda --alpha 0.5 --dataset FMNIST --n_clients 10 --rounds 50 --epoch_per_round 10 --batch_size 64 --optimizer sgd --lr 0.01 --weight_decay 1e-5 --model LeNet5_classic --threads 1 --seed 0 "$@"
    python run.py fedavg --momentum 0.9 "$@"
    python run.py fedprox --momentum 0.9 --mu 0.01 "$@"
    python run.py fednova --momentum 0.9 "$@"
    python run.py scaffold "$@"
    ) ;;
two_labels)  # Fashion-MNIST, two labels per client
    (
    set -- --partition classes --classes_per_client 2 --dataset FMNIST --n_clients 10 --rounds 50 --epoch_per_round 10 --batch_size 64 --optimizer sgd --lr 0.01 --weight_decay 1e-5 --model LeNet5_classic --threads 1 --seed 0 "$@"
    python run.py fedavg --momentum 0.9 "$@"
    python run.py fedprox --momentum 0.9 --mu 0.01 "$@"
    python run.py fednova --momentum 0.9 "$@"
    python run.py scaffold "$@"
    ) ;;
*) echo "$0: no table $table; use dirichlet, two_labels" >&2; exit 2 ;;
esac
done
