"""Declare comparisons of this bench's own, which the README and the docs discuss."""

from papers.tables import Cell, Results, Table, paragraphs

TITLE = "Comparisons of our own"
ABOUT = paragraphs(
    """Several algorithms on one problem, without a published counterpart. Accuracy (%):
    *global* is the whole test set, *personal* the client's own distribution, *worst* the client with the lowest; means
    over clients, then over seeds; kB are all bytes per client and round."""
)
COLUMNS = {"global": "global", "personal": "personal", "worst": "worst", "kB": "kB"}
# alone, fedavg uses its own defaults; in a command with other methods it uses the shared defaults
AS_SHARED = {"fedavg": "fedavg --epoch_per_round 1 --batch_size 32 --optimizer adam"}


def rows(names: tuple[str, ...], shared: str) -> dict[str, dict[str, Cell]]:
    """Return a row per algorithm, as one command with all algorithms runs it."""
    commands = {name: f"{AS_SHARED.get(name, name)} {shared}" for name in names}
    return {name: {column: Cell(commands[name], metric) for column, metric in COLUMNS.items()} for name in names}


FIVE = Table(
    "five_seeds",
    "The comparison of `make run` over five seeds, each with its own split",
    "Embedded digits, 5 clients, lda 0.5.",
    rows(
        ("cfkd", "fd", "fedavg", "independent", "centralized"),
        "--dataset digits --n_clients 5 --partition lda --alpha 0.5 --lr 3e-3 --rounds 60 --track_history 60 --threads 1 "
        "--seed 0 1 2 3 4 --split_seed seed",
    ),
)
WRITERS = Table(
    "writers",
    "MNIST by writer",
    "50 clients of 10 or 11 people each; the test set is by other people. One seed.",
    rows(
        ("fedavg", "independent"),
        "--dataset MNIST --model CNN_scratch --partition writers --n_clients 50 --lr 1e-3 --rounds 20 --track_history 5 "
        "--threads 1",
    ),
)
TABLES = (FIVE, WRITERS)


def words(results: Results) -> str:
    """Return in words what the tables show."""
    ahead = results.of(FIVE.rows["cfkd"]["personal"]) - results.of(FIVE.rows["fedavg"]["personal"])
    times = results.mean(FIVE, "fedavg", "kB") / results.mean(FIVE, "cfkd", "kB")
    return paragraphs(
        f"""On the clients' own distributions, cfkd is ahead of fedavg in {int((ahead > 0).sum())} of {len(ahead)} seeds, by
        {ahead.mean():.1f} points on average, with {times:.0f} times fewer bytes. On the global test set, cfkd is
        {results.mean(FIVE, "fedavg", "global") - results.mean(FIVE, "cfkd", "global"):.0f} points behind fedavg.""",
        f"""The clients of cfkd know their own classes. On the clients' own distributions, fd is
        {results.mean(FIVE, "fd", "personal") - results.mean(FIVE, "independent", "personal"):+.1f} points from
        independent learning.""",
    )
