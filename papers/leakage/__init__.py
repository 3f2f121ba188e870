"""Declare what methods leak: the attacks of `attacks/` on the messages and models of every family of methods."""

from papers.tables import Cell, Results, Table, both, paragraphs

TITLE = "What messages and models reveal"
ABOUT = paragraphs(
    """Attacks on the messages that a server, neighbour or client receives, and on the models after the last round
    (docs/privacy.md). *Exposed* (%): 0 is chance, 100 names every training image of a client and no stranger. *Label mix*
    (%): 0 is guessing the public class distribution, 100 is exact. Each number is the best of the attacks, so a lower
    bound; the best of several attacks is slightly above 0 by chance. *Published* is what the clients' models reveal to
    those who get them. kB are all bytes per client and round. The attacker knows all options but no seed."""
)
SEEDS = "--seed 0 1 2 --split_seed seed --record_wire first,last --track_history 0 --threads 1"
MNIST = f"--dataset MNIST --reduced 0.02 --n_clients 5 --partition lda --alpha 0.5 --rounds 20 {SEEDS}"
USUAL = "--epoch_per_round 2 --batch_size 32 --optimizer adam --lr 1e-3"
COLUMNS = {
    "global": "global",
    "personal": "personal",
    "kB": "kB",
    "exposed": "exposed",
    "label mix": "label mix",
    "published": "exposed, published",
}
METHODS = {
    "independent": f"independent {USUAL}",
    "centralized": f"centralized {USUAL}",
    "fedavg": f"fedavg {USUAL}",
    "scaffold": "scaffold --epoch_per_round 2 --batch_size 32 --lr 0.05",
    "fedbabu": f"fedbabu {USUAL}",
    "lg_fedavg": f"lg_fedavg {USUAL}",
    "ditto": f"ditto {USUAL}",
    "cfkd": f"cfkd {USUAL}",
    "fedproto": f"fedproto {USUAL}",
    "fd": f"fd {USUAL}",
    "fml": f"fml {USUAL}",
    "data_exchange": f"data_exchange {USUAL}",
    "dpsgd": f"dpsgd {USUAL}",
    "fedmd": f"fedmd --public_share 0.1 --pretrain_epochs 5 --alignment 120 {USUAL}",
}


def rows(methods: dict[str, str], shared: str, columns: dict[str, str]) -> dict[str, dict[str, Cell]]:
    """Return a row per method: the metrics of `columns` of the run of its command."""
    return {
        name: {column: Cell(f"{command} {shared}", metric) for column, metric in columns.items()}
        for name, command in methods.items()
    }


FAMILIES = Table(
    "families",
    "Every family of methods: MNIST, 1,200 images, 5 clients, lda 0.5, LeNet5_classic, 20 rounds",
    "Three seeds, each with its own split.",
    rows(METHODS, f"--model LeNet5_classic {MNIST}", COLUMNS),
)
CIFAR = Table(
    "cifar10",
    "Membership: CIFAR-10, 1,500 images, 5 clients, IID, MLP, 20 rounds",
    "A network that fits its few training images by heart. Three seeds.",
    rows(
        {name: METHODS[name] for name in ("independent", "fedavg", "fedbabu", "cfkd", "fd")},
        f"--model MLP --dataset CIFAR10 --reduced 0.03 --n_clients 5 --partition iid --rounds 20 {SEEDS}",
        {name: metric for name, metric in COLUMNS.items() if name != "label mix"},
    ),
)
KNOWLEDGE = {"messages": "exposed", "own client": "exposed, own client", "network": "exposed, network"}
OBSERVATIONS = Table(
    "observations",
    "CFKD: how many features are averaged into an observation, and what the attacker knows",
    "The paper: averaging hides single images. Exposed (%), the problem of the first table.",
    both(
        [f"n_avg {n}" for n in (1, 10, 100)],
        list(KNOWLEDGE),
        lambda row, column: Cell(f"cfkd --n_avg {row.split()[1]} {USUAL} --model LeNet5_classic {MNIST}", KNOWLEDGE[column]),
    ),
)
STEPS = "--batch_size 32 --optimizer sgd"
EPOCHS = Table(
    "epochs",
    "FedAvg: more local epochs",
    "The problem of the first table with an MLP, whose first layer is linear, and 5 rounds.",
    rows(
        {f"{n} local epochs": f"fedavg --epoch_per_round {n} {STEPS} --lr 0.05" for n in (1, 5, 20)},
        f"--model MLP {MNIST.replace('--rounds 20', '--rounds 5')}",
        {name: COLUMNS[name] for name in ("global", "exposed", "label mix", "published")},
    ),
)
DOMAINS = Table(
    "domains",
    "FedMD: logits for public images of the clients' domain, and of another",
    "The problem of the first table with 5 rounds. As many public images in both rows; no pretraining on their labels.",
    rows(
        {"MNIST": "fedmd --public_share 0.1", "Fashion-MNIST": "fedmd --public_dataset FMNIST --public_share 0.002"},
        f"--pretrain_epochs 0 --alignment 120 {USUAL} --model LeNet5_classic {MNIST.replace('--rounds 20', '--rounds 5')}",
        {name: COLUMNS[name] for name in ("personal", "exposed", "label mix")},
    ),
)
SERVER = "--batch_size 32 --model ResNet4 --server_model ResNet19 --epochs_server 1"
STEMS = Table(
    "stems",
    "FedGKT: feature maps of the stem, and what the attacker knows",
    "The paper: exchanging features and not weights maintains privacy. Exposed (%), the problem of the first table.",
    both(
        ["1 round", "5 rounds"],
        list(KNOWLEDGE),
        lambda row, column: Cell(
            f"fedgkt {SERVER} {MNIST.replace('--rounds 20', f'--rounds {row.split()[0]}')}", KNOWLEDGE[column]
        ),
    ),
)
NOISES = {"no noise": "", **{f"noise {s:g}": f"--dp_sgd {s:g}" for s in (0.1, 0.5, 2)}}
TRADE_OFF = Table(
    "trade_off",
    "FedAvg with DP-SGD and secure aggregation: accuracy, and what messages reveal",
    "The problem of the first table with an MLP. Gradients of an example are clipped to a norm of 1; epsilon at delta 1e-5.",
    rows(
        {
            f"{noise}, {view}": f"fedavg --epoch_per_round 1 {STEPS} --lr 0.1 {flags} {more}".strip()
            for view, more in (("single messages", ""), ("sums", "--secure_aggregation"))
            for noise, flags in NOISES.items()
        },
        f"--model MLP {MNIST}",
        {**{name: COLUMNS[name] for name in ("global", "exposed", "label mix", "published")}},
    ),
)
for noise, row in TRADE_OFF.rows.items():
    if not noise.startswith("no noise"):
        row["epsilon"] = Cell(row["global"].command, "epsilon")
TABLES = (FAMILIES, CIFAR, OBSERVATIONS, STEMS, EPOCHS, DOMAINS, TRADE_OFF)


def words(results: Results) -> str:
    """Return in words what the tables show."""
    mean = results.mean
    return paragraphs(
        f"""Class counts that are sent in clear reveal the whole label mix (cfkd, fedproto:
        {mean(FAMILIES, "cfkd", "label mix"):.0f} %). Weights reveal {mean(FAMILIES, "fedavg", "label mix"):.0f} % of it
        (fedavg)."""
    )
