"""Repeat SCAFFOLD's rounds to a target: the value of local epochs where clients differ, and where they do not."""

from papers.tables import Cell, Results, Table, paragraphs

TITLE = "SCAFFOLD (Karimireddy et al. 2020)"
ABOUT = paragraphs(
    """*SCAFFOLD: Stochastic Controlled Averaging for Federated Learning* (ICML 2020) counts rounds to a test accuracy on
    EMNIST, with 100 clients of which 20 take part, 5 local steps an epoch (batches of a fifth of a client's images) and a
    server rate of 1. It finds that SCAFFOLD needs fewer rounds than FedAvg at every number of local epochs; that more
    local epochs make FedAvg worse where clients have nothing in common, and both better where they are alike. Its
    numbers are not printed here: they could not be read again, and EMNIST could not be had.""",
    """What was run is MNIST's first 12,000 images and the two-layer network 2NN: clients of one class each (*sorted*), and
    IID. A rate of 0.05 for both and all; the paper tunes it for each. Rounds until the global test accuracy is 80 % for
    the first time, of 60 (inf: not reached), and that accuracy (%) after the last round.""",
)
SHARED = (
    "--dataset MNIST --reduced 0.2 --model 2NN --n_clients 100 --participation 0.2 --rounds 60 --batch_size 24 "
    "--optimizer sgd --lr 0.05 --threads 1 --seed 0 1 2 --split_seed seed"
)
SPLITS = {"sorted": "--partition shards --shard_per_user 1", "IID": "--partition iid"}
EPOCHS = (1, 5)


def row(name: str, split: str) -> dict[str, Cell]:
    """Return the row of one method on one split, for each number of local epochs."""
    commands = {epochs: f"{name} {SHARED} {SPLITS[split]} --epoch_per_round {epochs}" for epochs in EPOCHS}
    reached = {f"rounds, {epochs} epochs": Cell(command, "rounds to 80") for epochs, command in commands.items()}
    return reached | {f"accuracy, {epochs} epochs": Cell(command, "global") for epochs, command in commands.items()}


MNIST = Table(
    "mnist",
    "Rounds to 80 %, MNIST",
    "Published: fewer rounds than FedAvg, and more so the more local epochs there are.",
    {f"{name}, {split}": row(name, split) for split in SPLITS for name in ("fedavg", "scaffold")},
)
TABLES = (MNIST,)


def words(results: Results) -> str:
    """Return in words what agrees with the paper, and what does not."""

    def rounds(name: str, split: str) -> str:
        return ", ".join(f"{results.mean(MNIST, f'{name}, {split}', f'rounds, {epochs} epochs'):.0f}" for epochs in EPOCHS)

    parts = [
        f"{split} fedavg needs {rounds('fedavg', split)} rounds and scaffold {rounds('scaffold', split)}" for split in SPLITS
    ]
    return paragraphs(f"With {', '.join(map(str, EPOCHS))} local epochs: {'; '.join(parts)}.")
