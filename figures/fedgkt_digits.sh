#!/usr/bin/env bash
# FedGKT on the embedded digits, and beside it each client's own network alone, for as many epochs and to convergence. About
# ten minutes on 2 cores.
set -euo pipefail
cd "$(dirname "$0")/.."
alone="--model ResNet8 --optimizer amsgrad --weight_decay 1e-4 --batch_size 64 --validation 0.1 --threads 1"
python run.py independent --dataset digits --n_clients 4 --rounds 3 600 --track_history 100 $alone "$@"
python run.py fedgkt --dataset digits --n_clients 4 --rounds 3 --track_history 0 --server_model ResNet19 --threads 1 "$@"
