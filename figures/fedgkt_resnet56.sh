#!/usr/bin/env bash
# The published setting of FedGKT (He et al. 2020): ResNet-8 at 16 clients, ResNet-55 at the server, 200 rounds of 1 client and
# 20 server epochs, equal parts and LDA 0.5. For a GPU. Finished runs are read, not run again; a stopped one goes on.
# Further flags are passed on: bash figures/fedgkt_resnet56.sh --precision bf16 --data_dir /path/to/data
set -euo pipefail
cd "$(dirname "$0")/.."
for dataset in CIFAR10 CIFAR100 CINIC10; do
  for partition in "homo" "hetero --partition_alpha 0.5"; do
    python run.py fedgkt --dataset $dataset --partition_method $partition --client_number 16 --comm_round 200 \
      --epochs_client 1 --epochs_server 20 --model ResNet8 --server_model ResNet55 --distill_server 0 \
      --optimizer amsgrad --lr 0.001 --wd 1e-4 --batch_size 256 --augment crop_flip_cutout --quiet "$@"
  done
done
