"""Repeat SCAFFOLD's rounds to a target: the value of local epochs where clients differ, and where they do not."""

from papers.tables import Cell, Results, Table, paragraphs

TITLE = "SCAFFOLD (Karimireddy et al. 2020)"
ABOUT = paragraphs(
    """*SCAFFOLD: Stochastic Controlled Averaging for Federated Learning* (ICML 2020) counts rounds to a test accuracy on
    EMNIST, with 100 clients of which 20 participate, 5 local steps per epoch (batches of a fifth of a client's images) and
    a server learning rate of 1. The paper finds that SCAFFOLD needs fewer rounds than FedAvg at every number of local
    epochs. More local epochs make FedAvg worse on sorted data, and both methods better on IID data. The published numbers
    are missing here, because we could not read the paper again and could not get EMNIST.""",
    """We ran the first 12,000 images of MNIST with the two-layer network 2NN: clients with one class each (*sorted*), and
    IID. The learning rate is 0.05 everywhere; the paper tunes it for each method. Rounds until the global test accuracy
    is 80 % for
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

    def rounds(name: str, split: str) -> list[str]:
        return [f"{results.mean(MNIST, f'{name}, {split}', f'rounds, {epochs} epochs'):.0f}" for epochs in EPOCHS]

    epochs, (first, second) = " and ".join(map(str, EPOCHS)), SPLITS
    parts = [
        f"scaffold needs {' and '.join(rounds('scaffold', split))} rounds and fedavg {' and '.join(rounds('fedavg', split))}"
        for split in SPLITS
    ]
    n = results.n(MNIST, f"fedavg, {first}", f"rounds, {EPOCHS[0]} epochs")
    return paragraphs(
        f"""With {epochs} local epochs on {first} data, {parts[0]} to reach 80 % (means of n = {n}). On {second} data,
        {parts[1]}."""
    )
