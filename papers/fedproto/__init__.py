"""Repeat FedProto on MNIST: learning from the others' mean features, compared with averaging and learning alone."""

from papers.tables import Cell, Results, Table, paragraphs

TITLE = "FedProto (Tan et al. 2022)"
ABOUT = paragraphs(
    """*FedProto: Federated Prototype Learning across Heterogeneous Clients* (AAAI 2022) lets clients with few classes each
    learn from the mean features of all. It finds that on the clients' own test images this is better than learning alone
    and than averaging weights, in few rounds and with far fewer bytes. Its numbers are not printed here: they
    could not be read again. What was run is its MNIST experiment as its code has it: 20 clients, a network of 21,840
    weights, batches of 4, SGD 0.01 with momentum 0.5, one local epoch, weight 1.""",
    """Differences: every client has just three classes (theirs three plus or minus two), about 300 images in all (theirs
    100 a class), and is tested on all test images that it was dealt (theirs 15 a class); 30 rounds in place of 100.
    Personal accuracy (%), mean over clients, then over seeds, each with its own split; kB are all bytes of a client and
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

    def ahead(other: str, column: str) -> str:
        difference = results.of(MNIST.rows["fedproto"][column]) - results.of(MNIST.rows[other][column])
        return (
            f"{difference.mean():+.2f} points of {other} (ahead in {int((difference > 0).sum())} of {len(difference)} seeds)"
        )

    return paragraphs(
        f"""On the clients' own distributions fedproto is {ahead("independent", "personal")} and
        {ahead("fedavg", "personal")}. A client and round cost {at("fedproto", "kB"):.1f} kB,
        {at("fedavg", "kB") / at("fedproto", "kB"):.0f} times less than averaging weights."""
    )
