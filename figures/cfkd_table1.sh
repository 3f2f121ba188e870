#!/usr/bin/env bash
# CFKD (Berdoz et al. 2022), Table 1, its MNIST columns for 5 and 10 clients: 1,200 training images, dealt with the class
# mix of the whole; LeNet5, 100 rounds of 1 epoch, Adam 1e-3, batch 32. Seeds 0, 1, 2, each with a split of its own.
# Resumable: finished runs are read, not repeated. About half an hour on one core.
#
#   bash figures/cfkd_table1.sh [--data_dir DIR] [--export_dir DIR]; python -m figures.cfkd_table1 [DIR]
set -euo pipefail
cd "$(dirname "$0")/.."
shared="--dataset MNIST --reduced 0.02 --model LeNet5 --rounds 100 --epoch_per_round 1 --batch_size 32 --lr 1e-3 --optimizer adam
        --track_history 0 --threads 1 --quiet"
for seed in 0 1 2; do
    for column in "5 100" "10 84"; do # the authors' notebook left feature_dim at 100 for 5 clients
        read -r n_clients feature_dim <<<"$column"
        run="$shared --n_clients $n_clients --feature_dim $feature_dim --seed $seed --split_seed $seed $*"
        # shellcheck disable=SC2086  # the flags are words
        {
            python run.py independent $run
            python run.py fd --fd_variant mse_logits $run
            python run.py cfkd $run
            python run.py fedavg --init independent --keep_optimizer $run
            python run.py fedavg --keep_optimizer $run # only the start differs from the line above
            python run.py fedavg $run
        }
    done
done
