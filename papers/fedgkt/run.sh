#!/bin/sh
# FedGKT (He, Annavaram, Avestimehr 2020): the commands of its tables, for those who run them by hand. Made by `python -m papers --record`.
# Usage: sh papers/fedgkt/run.sh [TABLE ...] [-- FLAGS]. The tables are small, digits, published; without a name: small digits.
# FLAGS are added to every command: sh papers/fedgkt/run.sh small -- --slurm '--array=1-8'
set -e
cd "$(dirname "$0")/../.."
tables=
while [ $# -gt 0 ] && [ "$1" != -- ]; do tables="$tables $1"; shift; done
[ "$1" != -- ] || shift
for table in ${tables:-small digits}; do
case "$table" in
small)  # FedGKT on a small machine
    (
    set -- --dataset CIFAR10 --reduced 0.1 --n_clients 4 --augment crop_flip --optimizer amsgrad --lr 1e-3 --weight_decay 1e-4 --batch_size 64 --validation 0.1 --precision bf16 --threads 1 --track_history 0 "$@"
    python run.py fedgkt --server_model ResNet19 --distill_server 0 --rounds 10 --seed 0 1 2 "$@"
    python run.py centralized --model ResNet8 --rounds 10 --seed 0 1 2 "$@"
    python run.py centralized --model ResNet8 --rounds 30 "$@"
    python run.py centralized --model ResNet8 --rounds 100 "$@"
    python run.py fedgkt --server_model ResNet19 --distill_server 0 --rounds 10 --augment_extract 0 "$@"
    python run.py fedavg --model ResNet56 --rounds 10 --epoch_per_round 1 "$@"
    python run.py fedavg --model ResNet56 --rounds 10 --epoch_per_round 5 "$@"
    python run.py centralized --model ResNet56 --rounds 30 "$@"
    python run.py centralized --model ResNet110 --rounds 30 "$@"
    ) ;;
digits)  # FedGKT on the embedded digits, and each client alone
    (
    set -- --dataset digits --n_clients 4 --threads 1 "$@"
    python run.py fedgkt --rounds 3 --track_history 0 --server_model ResNet19 "$@"
    python run.py independent --track_history 100 --model ResNet8 --optimizer amsgrad --weight_decay 1e-4 --batch_size 64 --validation 0.1 --rounds 3 "$@"
    python run.py independent --track_history 100 --model ResNet8 --optimizer amsgrad --weight_decay 1e-4 --batch_size 64 --validation 0.1 --rounds 600 "$@"
    ) ;;
published)  # The published setting
    (
    set -- --client_number 16 --comm_round 200 --epochs_client 1 --epochs_server 20 --model ResNet8 --server_model ResNet55 --distill_server 0 --optimizer amsgrad --lr 0.001 --wd 1e-4 --batch_size 256 --augment crop_flip_cutout --threads 1 "$@"
    python run.py fedgkt --dataset CIFAR10 --partition_method homo "$@"
    python run.py fedgkt --dataset CIFAR10 --partition_method hetero --partition_alpha 0.5 "$@"
    python run.py fedgkt --dataset CIFAR100 --partition_method homo "$@"
    python run.py fedgkt --dataset CIFAR100 --partition_method hetero --partition_alpha 0.5 "$@"
    python run.py fedgkt --dataset CINIC10 --partition_method homo "$@"
    python run.py fedgkt --dataset CINIC10 --partition_method hetero --partition_alpha 0.5 "$@"
    ) ;;
*) echo "$0: no table $table; use small, digits, published" >&2; exit 2 ;;
esac
done
