#!/usr/bin/env bash
# "Federated Learning - Your Data Stays With You!" (S. Agarwal, 2021): its README claims 98.5 % on MNIST for these flags.
# What the correct algorithm reaches with them, what the reference's own does, and both at larger learning rates.
# Resumable. About 25 minutes on one core.
#
#   bash figures/fedavg_from_scratch.sh [--data_dir DIR] [--export_dir DIR]
set -euo pipefail
cd "$(dirname "$0")/.."
command="run.py fedavg --dataset MNIST --model CNN_scratch --n_clients 8 --participation 0.5 --rounds 5 --epoch_per_round 5
         --batch_size 100 --optimizer adam --threads 1 --quiet --lr 5e-5 2e-4 1e-3 $*"
# shellcheck disable=SC2086  # the flags are words
python $command
# shellcheck disable=SC2086
python $command --as_published
