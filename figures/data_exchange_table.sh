#!/usr/bin/env bash
# The accuracy grid of "Decentralized learning with data exchanging" (Lan, Guo, Yao 2022): MNIST in blocks of 6,000 images, the
# tree of 5 clients, CNN, 10 rounds of 3 local epochs; the authors' mixing, the uniform one that they meant, a parameter server.
# Cell by cell: finished runs are read, not run again; a stopped one goes on. About eight hours on one core; flags are passed on.
#
#   bash figures/data_exchange_table.sh --threads 1; python -m figures.data_exchange_table saves -o exchange.png
set -euo pipefail
cd "$(dirname "$0")/.."
for digit_num in 2 4 6; do
  for share_ratio in 0 0.2 0.4 0.6 0.8 1; do
    for aggregation in "de --mixing uniform" "de --mixing reference" "ps"; do
      python run.py data_exchange --partition reference_blocks --digit_num $digit_num --share_ratio $share_ratio \
        --aggr_model $aggregation --model cnn --epochs 10 --track_history 0 --quiet "$@"
    done
  done
done
