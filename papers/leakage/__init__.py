"""Declare what methods leak: the attacks of `attacks/` on the messages and models of every family of methods."""

from pathlib import Path

from figures.on_paper import finished, panels
from figures.styles import COLOURS
from papers.tables import Cell, Results, Table, both, paragraphs

TITLE = "What messages and models reveal"
ABOUT = paragraphs(
    """Attacks on the messages that a server, neighbour or client receives, and on the models after the last round
    (docs/privacy.md). *Exposed* (%): 0 is chance, 100 names every training image of a client and no stranger. *Label mix*
    (%): 0 is guessing the public class distribution, 100 is exact. Each number is the best of the attacks, so a lower
    bound; the best of several attacks is slightly above 0 by chance. *Published* is what the clients' models reveal to
    those who get them. 0.0 also stands where none of the attacks can use the messages (lg_fedavg sends a head alone). kB are
    all bytes per client and round. The attacker knows all options but no seed."""
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
    """Return in words what the tables show, without what has no results yet."""

    def at(row: str, column: str, table: Table = FAMILIES) -> str:
        return f"{results.mean(table, row, column):.0f}"

    def cfkd(column: str) -> str:
        return ", ".join(at(f"n_avg {n}", column, OBSERVATIONS) for n in (1, 10, 100))

    def epochs(column: str) -> str:
        values = [at(f"{n} local epochs", column, EPOCHS) for n in (1, 5, 20)]
        return f"{', '.join(values[:-1])} and {values[-1]} %"

    def traded(row: str, column: str = "exposed") -> str:
        return f"{at(row, column, TRADE_OFF)} %"

    findings = [
        f"""Raw images are found exactly (centralized: {at("centralized", "exposed")} %; data_exchange sends a part:
        {at("data_exchange", "exposed")} %). Weights after Adam on LeNet5 reveal the label mix
        ({at("fedavg", "label mix")} %) and hardly single images ({at("fedavg", "exposed")} %). With an MLP and plain SGD
        the first layer reveals {at("5 local epochs", "exposed", EPOCHS)} % of the images, also after 5 local epochs.""",
        f"""Class counts that are sent in clear reveal the whole label mix (cfkd {at("cfkd", "label mix")} %, fedproto
        {at("fedproto", "label mix")} %). Mean outputs without counts reveal little of it (fd {at("fd", "label mix")} %).""",
        f"""What a method sends and what its models reveal are two things. independent and cfkd send nothing from which an
        attacker without a network finds images. Their personal models, if they are published, name
        {at("independent", "published")} % (independent) and {at("cfkd", "published")} % (cfkd) of the clients' images.
        Three seeds cannot show whether these two differ from the {at("centralized", "published")} % of centralized in
        general: another data set or another number of rounds gives other numbers.""",
        f"""CFKD's averaging does not protect here. Where the attacker knows the client's network, {cfkd("network")} % of the
        images are found with 1, 10 and 100 features in an observation: the class means, which are sent beside it, reveal
        as much. With the attacker's own network instead, the same attack is at chance ({cfkd("own client")} %). So the
        secret network protects, not the average; a better substitute of the network may find more.""",
        f"""More local epochs do not hide images from the span of an MLP's changes: {epochs("exposed")} after 1, 5 and 20.
        The label mix: {epochs("label mix")}.""",
        f"""Secure aggregation lowers what messages reveal from {traded("no noise, single messages")} to
        {traded("no noise, sums")} at the same accuracy ({traded("no noise, sums", "global")}). DP-SGD with noise 0.5 lowers
        it to {traded("noise 0.5, single messages")} at an accuracy of {traded("noise 0.5, single messages", "global")},
        with noise 2 to {traded("noise 2, single messages")} at {traded("noise 2, single messages", "global")}.""",
        f"""FedGKT's maps of an unknown stem show {at("5 rounds", "messages", STEMS)} % of the images after 5 rounds, of a
        known stem {at("5 rounds", "network", STEMS)} %. So keeping weights secret does not keep images secret.""",
    ]
    return paragraphs(*(finding for finding in findings if "nan" not in finding))


def draw(results: Results, path: Path) -> None:
    """Draw accuracy against exposed training examples and against the label mix, from no noise to strong noise."""
    figure, (grid,) = panels(1, 2, 4.6, 3.6, sharey=True)
    for axes, column in zip(grid, ("exposed", "label mix"), strict=True):
        for view, colour, marker in zip(("single messages", "sums"), COLOURS, "os", strict=False):
            rows = [f"{noise}, {view}" for noise in NOISES]
            x, y = ([results.mean(TRADE_OFF, row, name) for row in rows] for name in (column, "global"))
            axes.plot(x, y, marker + "-", color=colour, markersize=4, label=f"the attacker sees {view}")
            for noise, below, *point in zip(NOISES, (4, -3, 11, 4), x, y, strict=True):
                axes.annotate(noise, point, textcoords="offset points", xytext=(6, -below), fontsize=7, color=colour)
        axes.set_xlabel(f"{column} (%)")
        axes.margins(x=0.2)
        axes.grid(alpha=0.3)
    grid[0].set_ylabel("accuracy on the whole test set (%)")
    figure.legend(*grid[0].get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False, fontsize=8)
    finished(figure, path)


PICTURE = ("trade_off.png", "FedAvg with DP-SGD: accuracy against what single messages and sums reveal")
