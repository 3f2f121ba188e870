"""Compare FedBABU and MHMD: personal accuracy after fine-tuning, on a small machine; and the published grid, for a GPU."""

from pathlib import Path

from figures import on_paper
from figures.marks import Axis, Line, Panel, Style
from figures.styles import COLOURS, DASHES
from papers.tables import Cell, Results, Table, paragraphs

TITLE = "FedBABU (Oh, Kim, Yun 2022) and MHMD (2024)"
ABOUT = paragraphs(
    """*FedBABU: Towards Enhanced Representation for Federated Image Classification* trains and averages the body of a
    network and keeps its random head; each client then fine-tunes a copy. MHMD (multi-head mutual
    distillation, a repository built on FedBABU's) adds auxiliary heads and distillation between heads. Personal accuracy
    (%) by epoch of fine-tuning, mean over clients; *local* is after the local epochs of the last round, for its 10
    clients; *tenth* is the mean of the worst tenth of the clients.""",
    """The published table is MobileNet on CIFAR-100 with 100 clients and requires a GPU. It compares MHMD in its own code,
    whose BatchNorm keeps running statistics, with numbers of FedBABU's code, whose BatchNorm uses the statistics of a
    client's test batch; here all methods are in one code. Its LG-FedAvg column starts from FedAvg's best model on the test
    set. Ours starts from FedAvg's last model, because Chorus selects nothing on the test set; it trains at 1e-3 for 80, 20
    or 8 rounds, as theirs does. We ran a small setting: CNN4, 100 clients with two shards each (CIFAR-10) or ten
    (CIFAR-100), 10 of them a
    round, one local epoch, SGD 0.1 with momentum 0.9.""",
)
SHARED = (
    "--model CNN4 --n_clients 100 --partition shards --participation 0.1 --epoch_per_round 1 --batch_size 50 "
    "--optimizer sgd --lr 0.1 --momentum 0.9 --lr_schedule step --augment crop_flip --ft_epochs 5 --track_history 20 "
    "--precision bf16 "
    "--threads 1"
)
CIFAR10 = f"--dataset CIFAR10 --shard_per_user 2 --rounds 60 {SHARED}"
CIFAR100 = f"--dataset CIFAR100 --shard_per_user 10 --rounds 30 {SHARED}"
EPOCHS = range(6)  # of fine-tuning; 0 is the model as sent


def fine_tuned(command: str) -> dict[str, Cell]:
    """Return a row: accuracies of a run's last model, before, during and after fine-tuning."""
    metrics = {"global": "global", "local": "local", "as sent": "tuned 0"}
    metrics |= {f"epoch {epoch}": f"tuned {epoch}" for epoch in EPOCHS if epoch}
    metrics |= {"std over clients": "tuned std", "tenth": "tuned tenth"}
    return {column: Cell(command, metric) for column, metric in metrics.items()}


LINES = {
    "fedavg": f"fedavg {CIFAR10} --seed 0 1 2",
    "fedbabu": f"fedbabu {CIFAR10} --seed 0 1 2",
    "mhmd": f"mhmd {CIFAR10} --seed 0 1 2",
    "mhmd, no distillation": f"mhmd --distill none {CIFAR10}",
    "mhmd, deep to shallow only": f"mhmd --distill deep_to_shallow {CIFAR10}",
    "mhmd, ten times the distillation": f"mhmd --kd_reduction batchmean {CIFAR10}",
}
SMALL = Table(
    "cifar10",
    "Fine-tuning, CIFAR-10, two shards a client",
    "No published counterpart. One split.",
    {name: fine_tuned(command) for name, command in LINES.items()},
)
SMALL_100 = Table(
    "cifar100",
    "Fine-tuning, CIFAR-100, ten shards a client",
    "No published counterpart. One split.",
    {name: fine_tuned(f"{name} {CIFAR100}") for name in ("fedavg", "fedbabu", "mhmd")},
)

ALGORITHMS = {
    "mhmd": "MHMD",
    "fedbabu": "FedBABU",
    "fedavg": "FedAvg",
    "fedper": "FedPer",
    "lg_fedavg": "LG-FedAvg",
    "fedrep": "FedRep",
    "perfedavg": "Per-FedAvg",
    "ditto": "Ditto",
}
PUBLISHED = {  # (shards, participation, local epochs): in the order of ALGORITHMS
    (100, 1.0, 1): (66.70, 55.79, 51.93, 51.95, 53.01, 18.29, 47.09, 39.36),
    (100, 1.0, 4): (58.99, 44.49, 42.66, 40.87, 43.09, 15.32, 39.07, 31.58),
    (100, 1.0, 10): (49.34, 33.20, 34.62, 32.91, 34.64, 13.45, 30.22, 21.18),
    (100, 0.1, 1): (61.87, 49.67, 43.92, 45.17, 40.91, 23.84, 48.10, 45.46),
    (100, 0.1, 4): (54.69, 44.74, 39.67, 39.30, 37.87, 16.01, 33.70, 32.46),
    (100, 0.1, 10): (46.89, 35.94, 33.13, 32.08, 30.08, 11.11, 25.82, 23.96),
    (50, 1.0, 1): (65.73, 61.09, 57.84, 57.16, 58.44, 24.75, 43.75, 42.70),
    (50, 1.0, 4): (64.21, 51.56, 47.17, 48.89, 47.78, 21.55, 37.59, 36.57),
    (50, 1.0, 10): (58.19, 42.09, 40.59, 39.90, 40.32, 19.92, 28.75, 27.27),
    (50, 0.1, 1): (66.15, 56.69, 49.55, 51.63, 42.64, 32.88, 43.96, 43.22),
    (50, 0.1, 4): (62.47, 49.55, 43.63, 46.31, 38.54, 21.13, 28.67, 31.65),
    (50, 0.1, 10): (55.09, 42.63, 38.09, 39.81, 30.79, 15.15, 21.64, 22.16),
    (10, 1.0, 1): (83.23, 79.17, 77.46, 74.71, 77.49, 61.28, 36.59, 65.33),
    (10, 1.0, 4): (76.22, 74.60, 70.41, 65.61, 69.97, 50.59, 18.31, 64.47),
    (10, 1.0, 10): (68.77, 66.64, 63.51, 59.71, 61.50, 42.13, 11.54, 51.68),
    (10, 0.1, 1): (80.51, 76.02, 71.24, 69.36, 51.75, 60.13, 31.21, 31.91),
    (10, 0.1, 4): (71.05, 71.00, 67.14, 62.62, 35.80, 45.91, 14.34, 23.70),
    (10, 0.1, 10): (68.13, 66.32, 62.67, 59.50, 25.04, 34.30, 9.17, 14.24),
}


def published(shards: int, part: float, epochs: int) -> dict[str, Cell]:
    """Return a row of the published grid: 320 local epochs.

    LG-FedAvg continues from FedAvg's last model for a quarter more rounds."""
    shared = (
        f"--dataset CIFAR100 --model MobileNet --n_clients 100 --partition shards --shard_per_user {shards} "
        f"--participation {part} --epoch_per_round {epochs} --batch_size 50 --optimizer sgd --momentum 0.9 "
        "--weight_decay 0 --augment crop_flip --ft_epochs 5 --track_history 8 --threads 1"
    )
    row = {}
    for (name, title), value in zip(ALGORITHMS.items(), PUBLISHED[shards, part, epochs], strict=True):
        command, start = trained(name, shared, 320 // epochs)
        row[title] = Cell(command, "tuned 5", value, start=start)
    return row


def trained(name: str, shared: str, rounds: int) -> tuple[str, str]:
    """Return the command of a method, and the command of the runs that it starts from, "" for none.

    LG-FedAvg starts from FedAvg's runs, for a quarter more rounds."""
    fedavg = f"fedavg {shared} --rounds {rounds} --lr 0.1 --lr_schedule step"
    if name == "lg_fedavg":
        return f"lg_fedavg {shared} --rounds {rounds // 4} --lr 1e-3", fedavg
    return fedavg.replace("fedavg", name, 1), ""


def small(shards: int, name: str) -> tuple[str, str]:
    """Return the command of a method in the grid for a CPU, and the command of the runs that it starts from."""
    shared = (
        f"--dataset CIFAR10 --reduced 0.2 --model CNN4 --n_clients 20 --partition shards --shard_per_user {shards} "
        "--participation 0.1 --epoch_per_round 1 --batch_size 50 --optimizer sgd --momentum 0.9 --weight_decay 0 "
        "--augment crop_flip --ft_epochs 5 --track_history 0 --precision bf16 --threads 1 --seed 0 1 2 --split_seed seed"
    )
    return trained(name, shared, rounds=50)


def on_a_cpu(name: str) -> dict[str, Cell]:
    """Return a row of the grid for a CPU: before and after fine-tuning, on two degrees of heterogeneity."""
    columns = {"as sent": "tuned 0", "epoch 1": "tuned 1", "epoch 5": "tuned 5"}
    return {
        f"s {shards}, {column}": Cell(small(shards, name)[0], metric, start=small(shards, name)[1])
        for shards in (2, 5)
        for column, metric in columns.items()
    }


CPU = Table(
    "cpu",
    "All columns of the published grid, on a small machine",
    "No published counterpart. CIFAR-10, its first 10,000 training images, 20 clients with s shards each, 2 of them a "
    "round, 50 rounds; each seed has its own split. Personal accuracy (%) by epoch of fine-tuning.",
    {title: on_a_cpu(name) for name, title in ALGORITHMS.items()},
)
GRID = Table(
    "grid",
    "The published grid: personal accuracy after 5 epochs of fine-tuning",
    "Published: tables in the README of MHMD's repository. s shards a client, a fraction f a round, tau local epochs.",
    {f"s {s}, f {f:g}, tau {tau}": published(s, f, tau) for s, f, tau in PUBLISHED},
    heavy=True,
)
TABLES = (SMALL, SMALL_100, CPU, GRID)


def words(results: Results) -> str:
    """Return in words what the two small tables show."""

    def at(row: str, column: str, table: Table = SMALL) -> float:
        return results.mean(table, row, column)

    firsts = [at("fedbabu", "epoch 1", table) - at("fedavg", "epoch 1", table) for table in (SMALL, SMALL_100)]
    fifths = [at("fedbabu", "epoch 5", table) - at("fedavg", "epoch 5", table) for table in (SMALL, SMALL_100)]
    heavy = [at("mhmd", column) - at("mhmd, ten times the distillation", column) for column in ("as sent", "epoch 5")]
    published = _ranked(dict(zip(ALGORITHMS.values(), PUBLISHED[10, 0.1, 1], strict=True)))
    sent = at("FedAvg", "s 2, as sent", CPU)
    ours = {shards: _ranked({name: at(name, f"s {shards}, epoch 5", CPU) for name in CPU.rows}) for shards in (2, 5)}
    return paragraphs(
        f"""After one epoch of fine-tuning, FedBABU is {firsts[0]:.0f} points above FedAvg on CIFAR-10 (n = 3) and
        {firsts[1]:.0f} on CIFAR-100 (one seed). MHMD is not ahead of FedBABU: after five epochs on CIFAR-10 they reach
        {at("mhmd", "epoch 5"):.1f} and {at("fedbabu", "epoch 5"):.1f} %.""",
        f"""After five epochs of fine-tuning, FedBABU is still {fifths[0]:.0f} points (CIFAR-10) and {fifths[1]:.0f} points
        (CIFAR-100) above FedAvg. The ablations (one seed each) suggest why MHMD is not ahead: at the published weights for
        this network, distillation has little effect on the body. Ten times this weight makes it worse: {heavy[0]:.0f}
        points lost before fine-tuning, {heavy[1]:.0f} after five epochs.""",
        f"""All methods after five epochs of fine-tuning. Published, with ten shards, a tenth of the clients and one local
        epoch: {published}. Ours, in the small setting, with two shards: {ours[2]}; with five shards: {ours[5]}. In both,
        MHMD and FedBABU are ahead of FedAvg, LG-FedAvg, FedRep and Per-FedAvg. In ours, MHMD is not ahead of FedBABU, and
        FedPer and Ditto are far better. One reason is the learning rate of 0.1 with momentum 0.9 for all methods, as
        published: with two clients per round, FedAvg's common head hardly learns (as sent {sent:.0f} %, chance is 10), and
        LG-FedAvg starts from FedAvg's model. Three seeds, each with its own split: methods a few points apart are not
        significantly different.""",
    )


def _ranked(values: dict[str, float]) -> str:
    """Return methods and their numbers, the best first."""
    return ", ".join(f"{name} {value:.1f}" for name, value in sorted(values.items(), key=lambda item: -item[1]))


PICTURE = (
    "fine_tuning.png",
    "Personal accuracy by epoch of fine-tuning: fedbabu and mhmd gain at once, fedavg over five epochs",
)


def draw(results: Results, path: Path) -> None:
    """Draw personal accuracy against epochs of fine-tuning, a panel per data set."""
    panels = []
    for table in (SMALL, SMALL_100):
        marks = []
        for name, colour, dash in zip(table.rows, COLOURS, DASHES, strict=False):
            line = [results.mean(table, name, "as sent" if epoch == 0 else f"epoch {epoch}") for epoch in EPOCHS]
            label = f"{name} (n = {results.n(table, name, 'epoch 5')})"
            marks.append(Line(list(EPOCHS), line, Style(colour, dash, ""), label if table is SMALL else ""))
        x, y = Axis("epochs of fine-tuning", whole=True), Axis("personal accuracy (%)")
        panels.append(Panel(marks, x, y, title=table.title))
    on_paper.figure(panels, 4.8, 3.2, path, legend="")
