"""Repeat FedProto on MNIST: learning from the others' mean features, compared with averaging and learning alone."""

from papers.tables import Cell, Results, Table, paragraphs

TITLE = "FedProto (Tan et al. 2022)"
ABOUT = paragraphs(
    """*FedProto: Federated Prototype Learning across Heterogeneous Clients* (AAAI 2022) lets clients with few classes each
    learn from the mean features of all. The paper finds that on the clients' own test images FedProto is better than
    learning alone and than averaging weights, in few rounds and with far fewer bytes. The published numbers are missing
    here, because we could not read the paper again. We ran its MNIST experiment with the settings of its code: 20
    clients, a network of 21,840
    weights, batches of 4, SGD 0.01 with momentum 0.5, one local epoch, weight 1.""",
    """Differences: every client has three classes (theirs three plus or minus two), about 300 images in total (theirs 100
    per class), and all its test images (theirs 15 per class); 30 rounds instead of 100.
    Personal accuracy (%), mean over clients, then over seeds, each with its own split; kB are all bytes per client and
    round.""",
)
COLUMNS = {"personal": "personal", "worst client": "worst", "kB": "kB"}
NAMES = ("fedproto", "independent", "fedavg")
SHARED = (
    "--dataset MNIST --reduced 0.1 --reduced_draw random --model CNNMnist --n_clients 20 --partition classes "
    "--classes_per_client 3 --rounds 30 --epoch_per_round 1 --batch_size 4 --optimizer sgd "
    "--lr 0.01 --momentum 0.5 --track_history 0 --threads 1 "
    "--seed 0 1 2 --split_seed seed"
)


def row(name: str) -> dict[str, Cell]:
    """Return the row of one method."""
    command = f"{name} {SHARED}"
    return {column: Cell(command, metric) for column, metric in COLUMNS.items()}


MNIST = Table(
    "mnist",
    "MNIST, 20 clients with three classes each",
    "Published: that fedproto is ahead of all others here.",
    {name: row(name) for name in NAMES},
)
TABLES = (MNIST,)


def words(results: Results) -> str:
    """Return in words what agrees with the paper, and what does not."""

    def at(name: str, column: str) -> float:
        return results.mean(MNIST, name, column)

    def ahead(other: str) -> str:
        difference = results.of(MNIST.rows["fedproto"]["personal"]) - results.of(MNIST.rows[other]["personal"])
        side = "above" if difference.mean() > 0 else "below"
        n_ahead = f"ahead in {int((difference > 0).sum())} of {len(difference)} seeds"
        return f"{abs(difference.mean()):.2f} points {side} {other} ({n_ahead})"

    return paragraphs(
        f"""On the clients' own distributions, fedproto is {ahead("independent")} and {ahead("fedavg")}. It transfers
        {at("fedproto", "kB"):.1f} kB per client and round, {at("fedavg", "kB") / at("fedproto", "kB"):.0f} times less than
        averaging weights."""
    )
