#!/bin/sh
# What messages and models reveal: the commands of its tables, for those who run them by hand. Made by `python -m papers --record`.
# Usage: sh papers/leakage/run.sh [TABLE ...] [-- FLAGS]. The tables are families, cifar10, observations, stems, epochs, domains, trade_off; without a name: families cifar10 observations stems epochs domains trade_off.
# FLAGS are added to every command: sh papers/leakage/run.sh families -- --slurm '--array=1-8'
set -e
cd "$(dirname "$0")/../.."
tables=
while [ $# -gt 0 ] && [ "$1" != -- ]; do tables="$tables $1"; shift; done
[ "$1" != -- ] || shift
for table in ${tables:-families cifar10 observations stems epochs domains trade_off}; do
case "$table" in
families)  # Every family of methods: MNIST, 1,200 images, 5 clients, lda 0.5, LeNet5_classic, 20 rounds
    (
    set -- --epoch_per_round 2 --batch_size 32 --model LeNet5_classic --dataset MNIST --reduced 0.02 --n_clients 5 --partition lda --alpha 0.5 --rounds 20 --seed 0 1 2 --split_seed seed --record_wire first,last --track_history 0 --threads 1 "$@"
    python run.py independent --optimizer adam --lr 1e-3 "$@"
    python run.py centralized --optimizer adam --lr 1e-3 "$@"
    python run.py fedavg --optimizer adam --lr 1e-3 "$@"
    python run.py scaffold --lr 0.05 "$@"
    python run.py fedbabu --optimizer adam --lr 1e-3 "$@"
    python run.py lg_fedavg --optimizer adam --lr 1e-3 "$@"
    python run.py ditto --optimizer adam --lr 1e-3 "$@"
    python run.py cfkd --optimizer adam --lr 1e-3 "$@"
    python run.py fedproto --optimizer adam --lr 1e-3 "$@"
    python run.py fd --optimizer adam --lr 1e-3 "$@"
    python run.py fml --optimizer adam --lr 1e-3 "$@"
    python run.py data_exchange --optimizer adam --lr 1e-3 "$@"
    python run.py dpsgd --optimizer adam --lr 1e-3 "$@"
    python run.py fedmd --public_share 0.1 --pretrain_epochs 5 --alignment 120 --optimizer adam --lr 1e-3 "$@"
    ) ;;
cifar10)  # Membership: CIFAR-10, 1,500 images, 5 clients, IID, MLP, 20 rounds
    (
    set -- --epoch_per_round 2 --batch_size 32 --optimizer adam --lr 1e-3 --model MLP --dataset CIFAR10 --reduced 0.03 --n_clients 5 --partition iid --rounds 20 --seed 0 1 2 --split_seed seed --record_wire first,last --track_history 0 --threads 1 "$@"
    python run.py independent "$@"
    python run.py fedavg "$@"
    python run.py fedbabu "$@"
    python run.py cfkd "$@"
    python run.py fd "$@"
    ) ;;
observations)  # CFKD: how many features are averaged into an observation, and what the attacker knows
    (
    set -- --epoch_per_round 2 --batch_size 32 --optimizer adam --lr 1e-3 --model LeNet5_classic --dataset MNIST --reduced 0.02 --n_clients 5 --partition lda --alpha 0.5 --rounds 20 --seed 0 1 2 --split_seed seed --record_wire first,last --track_history 0 --threads 1 "$@"
    python run.py cfkd --n_avg 1 "$@"
    python run.py cfkd --n_avg 10 "$@"
    python run.py cfkd --n_avg 100 "$@"
    ) ;;
stems)  # FedGKT: feature maps of the stem, and what the attacker knows
    (
    set -- --batch_size 32 --model ResNet4 --server_model ResNet19 --epochs_server 1 --dataset MNIST --reduced 0.02 --n_clients 5 --partition lda --alpha 0.5 --seed 0 1 2 --split_seed seed --record_wire first,last --track_history 0 --threads 1 "$@"
    python run.py fedgkt --rounds 1 "$@"
    python run.py fedgkt --rounds 5 "$@"
    ) ;;
epochs)  # FedAvg: more local epochs
    (
    set -- --batch_size 32 --optimizer sgd --lr 0.05 --model MLP --dataset MNIST --reduced 0.02 --n_clients 5 --partition lda --alpha 0.5 --rounds 5 --seed 0 1 2 --split_seed seed --record_wire first,last --track_history 0 --threads 1 "$@"
    python run.py fedavg --epoch_per_round 1 "$@"
    python run.py fedavg --epoch_per_round 5 "$@"
    python run.py fedavg --epoch_per_round 20 "$@"
    ) ;;
domains)  # FedMD: logits for public images of the clients' domain, and of another
    (
    set -- --pretrain_epochs 0 --alignment 120 --epoch_per_round 2 --batch_size 32 --optimizer adam --lr 1e-3 --model LeNet5_classic --dataset MNIST --reduced 0.02 --n_clients 5 --partition lda --alpha 0.5 --rounds 5 --seed 0 1 2 --split_seed seed --record_wire first,last --track_history 0 --threads 1 "$@"
    python run.py fedmd --public_share 0.1 "$@"
    python run.py fedmd --public_dataset FMNIST --public_share 0.002 "$@"
    ) ;;
trade_off)  # FedAvg with DP-SGD and secure aggregation: accuracy, and what messages reveal
    (
    set -- --epoch_per_round 1 --batch_size 32 --optimizer sgd --model MLP --dataset MNIST --reduced 0.02 --n_clients 5 --partition lda --alpha 0.5 --rounds 20 --seed 0 1 2 --split_seed seed --record_wire first,last --track_history 0 --threads 1 "$@"
    python run.py fedavg --lr 0.1 "$@"
    python run.py fedavg --lr 0.1 --dp_sgd 0.1 "$@"
    python run.py fedavg --lr 0.1 --dp_sgd 0.5 "$@"
    python run.py fedavg --lr 0.1 --dp_sgd 2 "$@"
    python run.py fedavg --lr 0.1  --secure_aggregation "$@"
    python run.py fedavg --lr 0.1 --dp_sgd 0.1 --secure_aggregation "$@"
    python run.py fedavg --lr 0.1 --dp_sgd 0.5 --secure_aggregation "$@"
    python run.py fedavg --lr 0.1 --dp_sgd 2 --secure_aggregation "$@"
    ) ;;
*) echo "$0: no table $table; use families, cifar10, observations, stems, epochs, domains, trade_off" >&2; exit 2 ;;
esac
done
