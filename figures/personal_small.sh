#!/usr/bin/env bash
# Fine-tuning after fedavg, fedbabu and mhmd on a small machine: CNN4, 100 clients of which 10 a round, FedBABU's shards, SGD
# 0.1 with momentum 0.9, batches of 50, one local epoch; 5 epochs of fine-tuning at every client.
# Finished runs are read, not run again; a stopped one goes on. Further flags are passed on.
#
#   bash figures/personal_small.sh && python -m figures.tuning saves/*-CIFAR10-* && python -m figures.tuning saves/*-CIFAR100-*
set -euo pipefail
cd "$(dirname "$0")/.."
common="--model CNN4 --n_clients 100 --partition shards --participation 0.1 --epoch_per_round 1 --batch_size 50 --optimizer sgd
  --lr 0.1 --momentum 0.9 --lr_schedule step --augment crop_flip --ft_epochs 5 --track_history 20 --precision bf16 --threads 1
  --quiet $*"
algorithms() { python run.py "$@" $common; }
algorithms fedavg fedbabu mhmd --dataset CIFAR10 --shard_per_user 2 --rounds 60 --seed 0 1 2
# what makes a difference to fedbabu: heads without distillation, distillation one way, distillation ten times as heavy
algorithms mhmd --distill none deep_to_shallow --dataset CIFAR10 --shard_per_user 2 --rounds 60
algorithms mhmd --kd_reduction batchmean --dataset CIFAR10 --shard_per_user 2 --rounds 60
algorithms fedavg fedbabu mhmd --dataset CIFAR100 --shard_per_user 10 --rounds 30
