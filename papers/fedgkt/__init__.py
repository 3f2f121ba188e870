"""Repeat FedGKT on a small machine, and declare the published setting for a GPU."""

from papers.tables import Cell, Results, Table, paragraphs

TITLE = "FedGKT (He, Annavaram, Avestimehr 2020)"
ABOUT = paragraphs(
    """*Group Knowledge Transfer: Federated Learning of Large CNNs at the Edge*: clients train a small ResNet and send
    the feature maps of its stem; a server trains a large network on these maps. The published table (16 clients, ResNet-8
    and ResNet-55, 200 rounds) requires a GPU. `python -m papers fedgkt/published` has its runs; the published numbers are
    missing until someone reads them in the paper again. We ran a small setting: CIFAR-10, 5,000 training images of which
    a tenth is held out, 4 clients with a ResNet-8, a ResNet-19 at the server, 10 rounds of 1 client and 3 server
    epochs. Accuracy (%) on the whole test set, of a client's stem with the server's network behind it, mean
    over clients."""
)
SHARED = (
    "--dataset CIFAR10 --reduced 0.1 --n_clients 4 --augment crop_flip --optimizer amsgrad --lr 1e-3 --weight_decay 1e-4 "
    "--batch_size 64 --validation 0.1 --precision bf16 --threads 1 --track_history 0"
)
GKT = f"fedgkt {SHARED} --server_model ResNet19 --distill_server 0 --rounds 10"
CENTRAL = f"centralized {SHARED}"
LINES = {
    "fedgkt, 10 rounds": f"{GKT} --seed 0 1 2",
    "ResNet-8 centrally, 10 epochs": f"{CENTRAL} --model ResNet8 --rounds 10 --seed 0 1 2",
    "ResNet-8 centrally, 30 epochs": f"{CENTRAL} --model ResNet8 --rounds 30",
    "ResNet-8 centrally, 100 epochs": f"{CENTRAL} --model ResNet8 --rounds 100",
    "fedgkt, plain images extracted": f"{GKT} --augment_extract 0",
    "fedavg of ResNet-56, 10 rounds of 1": f"fedavg {SHARED} --model ResNet56 --rounds 10 --epoch_per_round 1",
    "fedavg of ResNet-56, 10 rounds of 5": f"fedavg {SHARED} --model ResNet56 --rounds 10 --epoch_per_round 5",
    "ResNet-56 centrally, 30 epochs": f"{CENTRAL} --model ResNet56 --rounds 30",
    "ResNet-110 centrally, 30 epochs": f"{CENTRAL} --model ResNet110 --rounds 30",
}
SMALL = Table(
    "small",
    "FedGKT on a small machine",
    "No published counterpart.",
    {name: {"accuracy": Cell(command), "MB up a client": Cell(command, "MB up")} for name, command in LINES.items()},
)
ALONE = (
    "independent --dataset digits --n_clients 4 --track_history 100 --model ResNet8 --optimizer amsgrad --weight_decay 1e-4 "
    "--batch_size 64 --validation 0.1 --threads 1"
)
DIGITS = Table(
    "digits",
    "FedGKT on the embedded digits, and each client alone",
    "No published counterpart.",
    {
        "fedgkt, 3 rounds": {
            "accuracy": Cell(
                "fedgkt --dataset digits --n_clients 4 --rounds 3 --track_history 0 --server_model ResNet19 --threads 1"
            )
        },
        "each client's ResNet-8 alone, 3 epochs": {"accuracy": Cell(f"{ALONE} --rounds 3")},
        "each client's ResNet-8 alone, 600 epochs": {"accuracy": Cell(f"{ALONE} --rounds 600")},
    },
)
PARTITIONS = {"IID": "homo", "non-IID": "hetero --partition_alpha 0.5"}
PUBLISHED = Table(
    "published",
    "The published setting",
    "ResNet-8 at 16 clients, ResNet-55 at the server, 200 rounds of 1 client and 20 server epochs.",
    {
        dataset: {
            column: Cell(
                f"fedgkt --dataset {dataset} --partition_method {partition} --client_number 16 --comm_round 200 "
                "--epochs_client 1 --epochs_server 20 --model ResNet8 --server_model ResNet55 --distill_server 0 "
                "--optimizer amsgrad --lr 0.001 --wd 1e-4 --batch_size 256 --augment crop_flip_cutout --threads 1"
            )
            for column, partition in PARTITIONS.items()
        }
        for dataset in ("CIFAR10", "CIFAR100", "CINIC10")
    },
    heavy=True,
)
TABLES = (SMALL, DIGITS, PUBLISHED)


def words(results: Results) -> str:
    """Return in words what the small table shows."""

    def at(row: str, column: str = "accuracy") -> float:
        return results.mean(SMALL, row, column)

    gkt, alone = at("fedgkt, 10 rounds"), at("ResNet-8 centrally, 10 epochs")
    sent = at("fedgkt, 10 rounds", "MB up a client") / 10
    return paragraphs(
        f"""FedGKT reaches {gkt:.1f} %, which is {gkt - alone:.1f} points more than one ResNet-8 with all the data and
        as many
        client epochs (10, n = 3). A ResNet-8 with 100 epochs reaches {at("ResNet-8 centrally, 100 epochs"):.1f} % (one
        seed), so this table does not show that a large server is needed.""",
        f"""With the same number of client epochs the comparison is not fair: FedGKT's server trained for 30
        epochs on the feature maps. A ResNet-8 with 30
        epochs is {gkt - at("ResNet-8 centrally, 30 epochs"):.1f} points below FedGKT's mean (one seed against three). With
        100 epochs, a ResNet-8 is {at("ResNet-8 centrally, 100 epochs") - gkt:.1f} points above FedGKT and as good as the
        large networks after 30 central epochs; none of them has converged. The table does show that knowledge reaches the
        clients. FedAvg of a ResNet-56 is ahead after ten rounds of 5 local epochs and behind after ten rounds of one;
        neither has converged. Clients must extract feature maps from augmented images: from plain images the same server
        is {gkt - at("fedgkt, plain images extracted"):.1f} points worse (one seed). Each client sends {sent:.0f} MB of
        feature maps per round; the weights of a whole ResNet-56 are
        {at("fedavg of ResNet-56, 10 rounds of 1", "MB up a client") / 10:.1f} MB. In return, a client computes 9 times
        fewer multiply-adds than with a ResNet-56 (a test counts them).""",
    )
