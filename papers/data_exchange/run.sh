#!/bin/sh
# Decentralized learning with data exchanging (Lan, Guo, Yao 2022): the commands of its tables, for those who run them by hand. Made by `python -m papers --record`.
# Usage: sh papers/data_exchange/run.sh [TABLE ...] [-- FLAGS]. The tables are grid; without a name: grid.
# FLAGS are added to every command: sh papers/data_exchange/run.sh grid -- --slurm '--array=1-8'
set -e
cd "$(dirname "$0")/../.."
tables=
while [ $# -gt 0 ] && [ "$1" != -- ]; do tables="$tables $1"; shift; done
[ "$1" != -- ] || shift
for table in ${tables:-grid}; do
case "$table" in
grid)  # Accuracy by digits and share
    (
    set -- --partition reference_blocks --model cnn --epochs 10 --threads 1 --track_history 0 "$@"
    python run.py data_exchange --digit_num 2 --share_ratio 0 --aggr_model de --mixing reference "$@"
    python run.py data_exchange --digit_num 2 --share_ratio 0 --aggr_model de --mixing uniform "$@"
    python run.py data_exchange --digit_num 2 --share_ratio 0 --aggr_model ps "$@"
    python run.py data_exchange --digit_num 2 --share_ratio 0.2 --aggr_model de --mixing reference "$@"
    python run.py data_exchange --digit_num 2 --share_ratio 0.2 --aggr_model de --mixing uniform "$@"
    python run.py data_exchange --digit_num 2 --share_ratio 0.2 --aggr_model ps "$@"
    python run.py data_exchange --digit_num 2 --share_ratio 0.4 --aggr_model de --mixing reference "$@"
    python run.py data_exchange --digit_num 2 --share_ratio 0.4 --aggr_model de --mixing uniform "$@"
    python run.py data_exchange --digit_num 2 --share_ratio 0.4 --aggr_model ps "$@"
    python run.py data_exchange --digit_num 2 --share_ratio 0.6 --aggr_model de --mixing reference "$@"
    python run.py data_exchange --digit_num 2 --share_ratio 0.6 --aggr_model de --mixing uniform "$@"
    python run.py data_exchange --digit_num 2 --share_ratio 0.6 --aggr_model ps "$@"
    python run.py data_exchange --digit_num 2 --share_ratio 0.8 --aggr_model de --mixing reference "$@"
    python run.py data_exchange --digit_num 2 --share_ratio 0.8 --aggr_model de --mixing uniform "$@"
    python run.py data_exchange --digit_num 2 --share_ratio 0.8 --aggr_model ps "$@"
    python run.py data_exchange --digit_num 2 --share_ratio 1 --aggr_model de --mixing reference "$@"
    python run.py data_exchange --digit_num 2 --share_ratio 1 --aggr_model de --mixing uniform "$@"
    python run.py data_exchange --digit_num 2 --share_ratio 1 --aggr_model ps "$@"
    python run.py data_exchange --digit_num 4 --share_ratio 0 --aggr_model de --mixing reference "$@"
    python run.py data_exchange --digit_num 4 --share_ratio 0 --aggr_model de --mixing uniform "$@"
    python run.py data_exchange --digit_num 4 --share_ratio 0 --aggr_model ps "$@"
    python run.py data_exchange --digit_num 4 --share_ratio 0.2 --aggr_model de --mixing reference "$@"
    python run.py data_exchange --digit_num 4 --share_ratio 0.2 --aggr_model de --mixing uniform "$@"
    python run.py data_exchange --digit_num 4 --share_ratio 0.2 --aggr_model ps "$@"
    python run.py data_exchange --digit_num 4 --share_ratio 0.4 --aggr_model de --mixing reference "$@"
    python run.py data_exchange --digit_num 4 --share_ratio 0.4 --aggr_model de --mixing uniform "$@"
    python run.py data_exchange --digit_num 4 --share_ratio 0.4 --aggr_model ps "$@"
    python run.py data_exchange --digit_num 4 --share_ratio 0.6 --aggr_model de --mixing reference "$@"
    python run.py data_exchange --digit_num 4 --share_ratio 0.6 --aggr_model de --mixing uniform "$@"
    python run.py data_exchange --digit_num 4 --share_ratio 0.6 --aggr_model ps "$@"
    python run.py data_exchange --digit_num 4 --share_ratio 0.8 --aggr_model de --mixing reference "$@"
    python run.py data_exchange --digit_num 4 --share_ratio 0.8 --aggr_model de --mixing uniform "$@"
    python run.py data_exchange --digit_num 4 --share_ratio 0.8 --aggr_model ps "$@"
    python run.py data_exchange --digit_num 4 --share_ratio 1 --aggr_model de --mixing reference "$@"
    python run.py data_exchange --digit_num 4 --share_ratio 1 --aggr_model de --mixing uniform "$@"
    python run.py data_exchange --digit_num 4 --share_ratio 1 --aggr_model ps "$@"
    python run.py data_exchange --digit_num 6 --share_ratio 0 --aggr_model de --mixing reference "$@"
    python run.py data_exchange --digit_num 6 --share_ratio 0 --aggr_model de --mixing uniform "$@"
    python run.py data_exchange --digit_num 6 --share_ratio 0 --aggr_model ps "$@"
    python run.py data_exchange --digit_num 6 --share_ratio 0.2 --aggr_model de --mixing reference "$@"
    python run.py data_exchange --digit_num 6 --share_ratio 0.2 --aggr_model de --mixing uniform "$@"
    python run.py data_exchange --digit_num 6 --share_ratio 0.2 --aggr_model ps "$@"
    python run.py data_exchange --digit_num 6 --share_ratio 0.4 --aggr_model de --mixing reference "$@"
    python run.py data_exchange --digit_num 6 --share_ratio 0.4 --aggr_model de --mixing uniform "$@"
    python run.py data_exchange --digit_num 6 --share_ratio 0.4 --aggr_model ps "$@"
    python run.py data_exchange --digit_num 6 --share_ratio 0.6 --aggr_model de --mixing reference "$@"
    python run.py data_exchange --digit_num 6 --share_ratio 0.6 --aggr_model de --mixing uniform "$@"
    python run.py data_exchange --digit_num 6 --share_ratio 0.6 --aggr_model ps "$@"
    python run.py data_exchange --digit_num 6 --share_ratio 0.8 --aggr_model de --mixing reference "$@"
    python run.py data_exchange --digit_num 6 --share_ratio 0.8 --aggr_model de --mixing uniform "$@"
    python run.py data_exchange --digit_num 6 --share_ratio 0.8 --aggr_model ps "$@"
    python run.py data_exchange --digit_num 6 --share_ratio 1 --aggr_model de --mixing reference "$@"
    python run.py data_exchange --digit_num 6 --share_ratio 1 --aggr_model de --mixing uniform "$@"
    python run.py data_exchange --digit_num 6 --share_ratio 1 --aggr_model ps "$@"
    ) ;;
*) echo "$0: no table $table; use grid" >&2; exit 2 ;;
esac
done
