"""Repeat Flower's baseline niid_bench on Fashion-MNIST, with the best round on the test set and with the last round."""

from papers.tables import Cell, Results, Table, paragraphs

TITLE = "Flower's baseline niid_bench (after Li, Diao, Chen, He 2022)"
ABOUT = paragraphs(
    """*Federated Learning on Non-IID Data Silos: An Experimental Study*, as Flower's baseline of this name repeats it:
    Fashion-MNIST, 10 clients, 50 rounds of 10 local epochs, batches of 64, SGD with a learning rate of 0.01, momentum 0.9
    and weight decay 1e-5. Its numbers are the accuracy (%) of the best round on the test set, means over seeds. We add the
    last round.""",
    """Differences: LeNet5_classic pads the images (61,706 parameters; theirs has 44,426), and Chorus normalises images. With
    two labels, a client's first label is its number there, and both are drawn here. The baseline's SCAFFOLD has momentum in
    the local steps, but computes control variates as if it had none, so that they are up to ten times the gradients that
    they stand for. Its server's variate starts as a copy of the weights. Chorus refuses momentum here; our scaffold has
    none.""",
)
SHARED = (
    "--dataset FMNIST --n_clients 10 --rounds 50 --epoch_per_round 10 --batch_size 64 --optimizer sgd --lr 0.01 "
    "--weight_decay 1e-5 --model LeNet5_classic --threads 1 --seed 0"
)
METHODS = {
    "fedavg": "fedavg --momentum 0.9",
    "fedprox": "fedprox --momentum 0.9 --mu 0.01",
    "fednova": "fednova --momentum 0.9",
    "scaffold": "scaffold",
}
SPLITS = {
    "dirichlet": ("Dirichlet 0.5", "--partition lda --alpha 0.5", (88.09, 88.15, 88.22, 88.44)),
    "two_labels": ("two labels per client", "--partition classes --classes_per_client 2", (78.10, 78.05, 71.67, 33.80)),
}


def table(name: str) -> Table:
    """Return the table of a split."""
    words, split, published = SPLITS[name]
    return Table(
        name,
        f"Fashion-MNIST, {words}",
        "One seed here.",
        {
            method: {
                "best test round": Cell(f"{command} {split} {SHARED}", "best round", published=value),
                "last round": Cell(f"{command} {split} {SHARED}"),
            }
            for (method, command), value in zip(METHODS.items(), published, strict=True)
        },
        heavy=True,
    )


TABLES = tuple(map(table, SPLITS))


def words(results: Results) -> str:
    """Return in words what the two rules give."""
    of_split = TABLES[0]
    gaps = [
        results.mean(of_split, method, "best test round") - results.mean(of_split, method, "last round")
        for method in METHODS
    ]
    return paragraphs(
        f"""With Dirichlet 0.5, the best round on the test set is {min(gaps):.1f} to {max(gaps):.1f} points above the last
        round: choosing the round by the test set adds this much to each number."""
    )
