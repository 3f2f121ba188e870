#!/usr/bin/env bash
# FedGKT on a small machine: CIFAR-10, 5,000 training images, 4 clients with a ResNet-8 each, a ResNet-19 at the server.
# Finished runs are read, not run again; a run that was stopped goes on. About two hours on 2 cores, one run at a time.
# The table: python -m figures.fedgkt_small
set -euo pipefail
cd "$(dirname "$0")/.."
common="--dataset CIFAR10 --reduced 0.1 --n_clients 4 --augment crop_flip --optimizer amsgrad --lr 1e-3 --weight_decay 1e-4
  --batch_size 64 --validation 0.1 --precision bf16 --threads 1 --track_history 0 --quiet $*"
algorithm() { python run.py "$1" $common "${@:2}"; }
algorithm fedgkt --server_model ResNet19 --distill_server 0 --rounds 10 --seed 0 1 2
algorithm centralized --model ResNet8 --rounds 10 --seed 0 1 2
# beside it, without any claim
algorithm centralized --model ResNet8 --rounds 30 100
algorithm fedgkt --server_model ResNet19 --distill_server 0 --augment_extract 0 --rounds 10
algorithm fedavg --model ResNet56 --rounds 10 --epoch_per_round 1 5
algorithm centralized --model ResNet56 ResNet110 --rounds 30
