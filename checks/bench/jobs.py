"""The jobs that are timed: one table."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Job:
    """`words`: what it is; `command`: what Chorus runs, of which the others do the same work; `apart`: by how many points an
    accuracy may be another than Chorus's, since batches and samples are drawn otherwise."""

    words: str
    command: str
    apart: float

    @property
    def rounds(self) -> int:
        """How many rounds it has; the first is not timed."""
        words = self.command.split()
        return int(words[words.index("--rounds") + 1])

    @property
    def every_round(self) -> bool:
        """Whether it is tested after every round, or only after the last."""
        return "--track_history 0" not in self.command


SGD = "--partition iid --epoch_per_round 1 --optimizer sgd"
MNIST = f"--dataset MNIST --model LeNet5_classic {SGD} --batch_size 32 --lr 0.1"
CIFAR10 = f"--dataset CIFAR10 {SGD}"
BABU = f"{CIFAR10} --reduced 0.4 --n_clients 100 --participation 0.1 --batch_size 50 --lr 0.1 --lr_schedule constant"

JOBS = {
    "fedavg": Job(
        "FedAvg, LeNet5_classic, MNIST, 10 clients of 600 images, all in every round",
        f"fedavg {MNIST} --reduced 0.1 --n_clients 10 --rounds 10",
        3,
    ),
    "fedavg_100": Job(
        "FedAvg, LeNet5_classic, MNIST, 100 clients of 600 images, 10 in every round",
        f"fedavg {MNIST} --n_clients 100 --participation 0.1 --rounds 10",
        3,
    ),
    "fedavg_batch_10": Job(
        "FedAvg, LeNet5_classic, MNIST, 10 clients of 300 images, in batches of 10",
        f"fedavg {MNIST.replace('--batch_size 32', '--batch_size 10')} --reduced 0.05 --n_clients 10 --rounds 10",
        3,
    ),
    "cfkd": Job(
        "CFKD, LeNet5, MNIST, 5 clients of 240 images",
        "cfkd --dataset MNIST --reduced 0.02 --n_clients 5 --partition iid --model LeNet5 --batch_size 32 --rounds 100 "
        "--track_history 0",
        2,
    ),
    "fedgkt": Job(
        "FedGKT, ResNet8 and ResNet19, digits, 4 clients of 179 images",
        "fedgkt --dataset digits --reduced 0.5 --n_clients 4 --partition iid --server_model ResNet19 --epochs_server 1 "
        "--validation 0 --rounds 2 --track_history 0",
        25,
    ),
    "resnet56": Job(
        "FedAvg, ResNet56, CIFAR-10, 4 clients of 125 images",
        f"fedavg {CIFAR10} --reduced 0.01 --n_clients 4 --model ResNet56 --batch_size 64 --lr 0.05 --rounds 2 "
        "--track_history 0",
        10,
    ),
    "cnn4": Job(
        "FedBABU, CNN4, CIFAR-10, 100 clients of 200 images, 10 in every round",
        f"fedbabu {BABU} --model CNN4 --rounds 3",
        15,
    ),
    "mobilenet": Job(
        "FedBABU, MobileNet, CIFAR-10, 100 clients of 200 images, 10 in every round",
        f"fedbabu {BABU} --model MobileNet --rounds 2",
        10,
    ),
}
