#!/bin/sh
# Which method works best on which split?: the commands of its tables, for those who run them by hand. Made by `python -m papers --record`.
# Usage: sh papers/benchmark/run.sh [TABLE ...] [-- FLAGS]. The tables are personal, few_examples; without a name: personal few_examples.
# FLAGS are added to every command: sh papers/benchmark/run.sh personal -- --slurm '--array=1-8'
set -e
cd "$(dirname "$0")/../.."
tables=
while [ $# -gt 0 ] && [ "$1" != -- ]; do tables="$tables $1"; shift; done
[ "$1" != -- ] || shift
for table in ${tables:-personal few_examples}; do
case "$table" in
personal)  # Personal accuracy (%) of all methods on all problems
    (
    set -- --model LeNet5_classic --partition iid --reduced 0.02 --rounds 40 --stacked 5 --test_reduced 0.3 --track_history 10 --seed 1 2 3 4 5 6 --split_seed seed "$@"
    python run.py independent --dataset MNIST --lr 0.1 --n_clients 5 --optimizer sgd --public_share 0.1 "$@"
    python run.py centralized --dataset MNIST --lr 0.2 --n_clients 5 --optimizer sgd --public_share 0.1 "$@"
    python run.py fedavg --batch_size 32 --dataset MNIST --epoch_per_round 1 --lr 0.2 --n_clients 5 --public_share 0.1 "$@"
    python run.py fedprox --batch_size 32 --dataset MNIST --epoch_per_round 1 --lr 0.3 --n_clients 5 --public_share 0.1 "$@"
    python run.py scaffold --batch_size 32 --dataset MNIST --epoch_per_round 1 --n_clients 5 --public_share 0.1 "$@"
    python run.py fedopt --batch_size 32 --dataset MNIST --lr 0.1 --n_clients 5 --public_share 0.1 --server_lr 0.03 "$@"
    python run.py fednova --dataset MNIST --epoch_per_round 1 --lr 0.2 --lr_schedule constant --momentum 0.0 --n_clients 5 --public_share 0.1 --weight_decay 0.0 "$@"
    python run.py feddyn --batch_size 32 --dataset MNIST --epoch_per_round 1 --lr 0.03 --n_clients 5 --public_share 0.1 --weight_decay 0.0 "$@"
    python run.py moon --batch_size 32 --dataset MNIST --epoch_per_round 1 --lr 0.3 --momentum 0.0 --n_clients 5 --public_share 0.1 --weight_decay 0.0 "$@"
    python run.py fedbabu --batch_size 32 --dataset MNIST --ft_epochs 5 --lr_schedule constant --momentum 0.0 --n_clients 5 --public_share 0.1 "$@"
    python run.py fedper --batch_size 32 --dataset MNIST --lr 0.3 --lr_schedule constant --momentum 0.0 --n_clients 5 --public_share 0.1 "$@"
    python run.py fedrep --batch_size 32 --dataset MNIST --lr 0.1 --momentum 0.0 --n_clients 5 --public_share 0.1 --weight_decay 0.0 "$@"
    python run.py lg_fedavg --batch_size 32 --dataset MNIST --lr_schedule constant --momentum 0.0 --n_clients 5 --public_share 0.1 "$@"
    python run.py ditto --batch_size 32 --dataset MNIST --epoch_per_round 1 --lr 0.1 --n_clients 5 --public_share 0.1 "$@"
    python run.py pfedme --batch_size 32 --dataset MNIST --inner_lr 0.03 --lr 0.05 --n_clients 5 --public_share 0.1 "$@"
    python run.py perfedavg --batch_size 32 --dataset MNIST --lr 0.3 --n_clients 5 --public_share 0.1 "$@"
    python run.py apfl --dataset MNIST --n_clients 5 --public_share 0.1 "$@"
    python run.py fedala --ala_layers 2 --batch_size 32 --dataset MNIST --lr 0.3 --n_clients 5 --public_share 0.1 "$@"
    python run.py cfkd --dataset MNIST --lambda_kd 1.0 --lr 0.1 --n_clients 5 --optimizer sgd --public_share 0.1 "$@"
    python run.py fedproto --batch_size 32 --dataset MNIST --lr 0.1 --momentum 0.0 --n_clients 5 --public_share 0.1 "$@"
    python run.py fml --batch_size 32 --dataset MNIST --momentum 0.0 --mutual_own 0.9 --n_clients 5 --public_share 0.1 --shared_model LeNet5_classic --weight_decay 0.0 "$@"
    python run.py fedmd --batch_size 32 --dataset MNIST --epoch_per_round 1 --lr 0.1 --n_clients 5 --optimizer sgd "$@"
    python run.py feddf --batch_size 32 --dataset MNIST --distill_lr 0.0001 --distill_steps 50 --epoch_per_round 1 --lr 0.3 --n_clients 5 "$@"
    python run.py fd --dataset MNIST --lr 0.1 --n_clients 5 --optimizer sgd --public_share 0.1 "$@"
    python run.py data_exchange --batch_size 32 --epoch_per_round 1 --lr 0.3 --momentum 0.0 --public_share 0.1 "$@"
    python run.py dpsgd --batch_size 32 --epoch_per_round 1 --lr 0.3 --momentum 0.0 --public_share 0.1 --topology full "$@"
    python run.py epidemic --dataset MNIST --lr 0.2 --n_clients 5 --public_share 0.1 "$@"
    ) ;;
few_examples)  # few_examples: MNIST, 1,200 images, 5 clients, IID
    (
    set -- --model LeNet5_classic --partition iid --reduced 0.02 --rounds 40 --stacked 5 --test_reduced 0.3 --track_history 10 --seed 1 2 3 4 5 6 --split_seed seed "$@"
    python run.py independent --dataset MNIST --lr 0.1 --n_clients 5 --optimizer sgd --public_share 0.1 "$@"
    python run.py centralized --dataset MNIST --lr 0.2 --n_clients 5 --optimizer sgd --public_share 0.1 "$@"
    python run.py fedavg --batch_size 32 --dataset MNIST --epoch_per_round 1 --lr 0.2 --n_clients 5 --public_share 0.1 "$@"
    python run.py fedprox --batch_size 32 --dataset MNIST --epoch_per_round 1 --lr 0.3 --n_clients 5 --public_share 0.1 "$@"
    python run.py scaffold --batch_size 32 --dataset MNIST --epoch_per_round 1 --n_clients 5 --public_share 0.1 "$@"
    python run.py fedopt --batch_size 32 --dataset MNIST --lr 0.1 --n_clients 5 --public_share 0.1 --server_lr 0.03 "$@"
    python run.py fednova --dataset MNIST --epoch_per_round 1 --lr 0.2 --lr_schedule constant --momentum 0.0 --n_clients 5 --public_share 0.1 --weight_decay 0.0 "$@"
    python run.py feddyn --batch_size 32 --dataset MNIST --epoch_per_round 1 --lr 0.03 --n_clients 5 --public_share 0.1 --weight_decay 0.0 "$@"
    python run.py moon --batch_size 32 --dataset MNIST --epoch_per_round 1 --lr 0.3 --momentum 0.0 --n_clients 5 --public_share 0.1 --weight_decay 0.0 "$@"
    python run.py fedbabu --batch_size 32 --dataset MNIST --ft_epochs 5 --lr_schedule constant --momentum 0.0 --n_clients 5 --public_share 0.1 "$@"
    python run.py fedper --batch_size 32 --dataset MNIST --lr 0.3 --lr_schedule constant --momentum 0.0 --n_clients 5 --public_share 0.1 "$@"
    python run.py fedrep --batch_size 32 --dataset MNIST --lr 0.1 --momentum 0.0 --n_clients 5 --public_share 0.1 --weight_decay 0.0 "$@"
    python run.py lg_fedavg --batch_size 32 --dataset MNIST --lr_schedule constant --momentum 0.0 --n_clients 5 --public_share 0.1 "$@"
    python run.py ditto --batch_size 32 --dataset MNIST --epoch_per_round 1 --lr 0.1 --n_clients 5 --public_share 0.1 "$@"
    python run.py pfedme --batch_size 32 --dataset MNIST --inner_lr 0.03 --lr 0.05 --n_clients 5 --public_share 0.1 "$@"
    python run.py perfedavg --batch_size 32 --dataset MNIST --lr 0.3 --n_clients 5 --public_share 0.1 "$@"
    python run.py apfl --dataset MNIST --n_clients 5 --public_share 0.1 "$@"
    python run.py fedala --ala_layers 2 --batch_size 32 --dataset MNIST --lr 0.3 --n_clients 5 --public_share 0.1 "$@"
    python run.py cfkd --dataset MNIST --lambda_kd 1.0 --lr 0.1 --n_clients 5 --optimizer sgd --public_share 0.1 "$@"
    python run.py fedproto --batch_size 32 --dataset MNIST --lr 0.1 --momentum 0.0 --n_clients 5 --public_share 0.1 "$@"
    python run.py fml --batch_size 32 --dataset MNIST --momentum 0.0 --mutual_own 0.9 --n_clients 5 --public_share 0.1 --shared_model LeNet5_classic --weight_decay 0.0 "$@"
    python run.py fedmd --batch_size 32 --dataset MNIST --epoch_per_round 1 --lr 0.1 --n_clients 5 --optimizer sgd "$@"
    python run.py feddf --batch_size 32 --dataset MNIST --distill_lr 0.0001 --distill_steps 50 --epoch_per_round 1 --lr 0.3 --n_clients 5 "$@"
    python run.py fd --dataset MNIST --lr 0.1 --n_clients 5 --optimizer sgd --public_share 0.1 "$@"
    python run.py data_exchange --batch_size 32 --epoch_per_round 1 --lr 0.3 --momentum 0.0 --public_share 0.1 "$@"
    python run.py dpsgd --batch_size 32 --epoch_per_round 1 --lr 0.3 --momentum 0.0 --public_share 0.1 --topology full "$@"
    python run.py epidemic --dataset MNIST --lr 0.2 --n_clients 5 --public_share 0.1 "$@"
    ) ;;
*) echo "$0: no table $table; use personal, few_examples" >&2; exit 2 ;;
esac
done
