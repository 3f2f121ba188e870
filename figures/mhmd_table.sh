#!/usr/bin/env bash
# The published grid of MHMD (2024), which is FedBABU's (Oh et al. 2022): CIFAR-100, MobileNet, 100 clients with s shards each, a
# fraction f of them a round, tau local epochs, 320 local epochs in all; personal accuracy after 5 epochs of fine-tuning. For a
# GPU. Cell by cell: finished runs are read, not run again; a stopped one goes on. Further flags are passed on.
#
#   bash figures/mhmd_table.sh --precision bf16; python -m figures.mhmd_table
set -euo pipefail
cd "$(dirname "$0")/.."
for s in 100 50 10; do
  for f in 1.0 0.1; do
    for tau in 1 4 10; do
      python run.py mhmd fedbabu fedavg fedper lg_fedavg --dataset CIFAR100 --model MobileNet --n_clients 100 --partition shards \
        --shard_per_user $s --participation $f --epoch_per_round $tau --rounds $((320 / tau)) --batch_size 50 --optimizer sgd \
        --lr 0.1 --momentum 0.9 --lr_schedule step --augment crop_flip --ft_epochs 5 --track_history 8 --quiet "$@"
    done
  done
done
