"""Check the claim of a federated averaging written from scratch, with the correct algorithm and the published code's."""

from papers.tables import Cell, Results, Table, paragraphs

TITLE = "Federated Learning: Your Data Stays With You! (Agarwal 2021)"
ABOUT = paragraphs(
    """A repository with FedAvg from scratch. Its README claims 98.5 % (loss 0.048) on MNIST for 8 clients of which 4
    take part, 5 rounds of 5 epochs, Adam at 5e-5. Global accuracy (%) and cross-entropy on the test set after round 5."""
)
COMMAND = (
    "fedavg --dataset MNIST --model CNN_scratch --n_clients 8 --participation 0.5 --rounds 5 --epoch_per_round 5 "
    "--batch_size 100 --optimizer adam --threads 1"
)
RATES = ("5e-5", "2e-4", "1e-3")


def row(rate: str, claimed: tuple[float | None, float | None]) -> dict[str, Cell]:
    """Return the row of a learning rate: as the published code averages, and correctly."""
    coded, correct = f"{COMMAND} --lr {rate} --as_published", f"{COMMAND} --lr {rate}"
    return {
        "accuracy, as coded": Cell(coded, published=claimed[0]),
        "loss, as coded": Cell(coded, "loss", published=claimed[1]),
        "accuracy, correct": Cell(correct),
        "loss, correct": Cell(correct, "loss"),
    }


CLAIM = Table(
    "mnist",
    "The claim, and the learning rate that reaches it",
    "Published: README of the repository, one run.",
    {f"lr {rate}": row(rate, (98.5, 0.048) if rate == RATES[0] else (None, None)) for rate in RATES},
)
TABLES = (CLAIM,)


def words(results: Results) -> str:
    """Return in words what the table shows."""

    def at(rate: str, column: str) -> float:
        return results.mean(CLAIM, f"lr {rate}", column)

    return paragraphs(
        f"""At the published learning rate, neither the published code ({at("5e-5", "accuracy, as coded"):.2f} %) nor the
        correct algorithm ({at("5e-5", "accuracy, correct"):.2f} %) reaches the claimed 98.5 %. With four times that rate,
        the correct algorithm reaches {at("2e-4", "accuracy, correct"):.2f} % with a loss of
        {at("2e-4", "loss, correct"):.3f} (one seed each).""",
        """The published code also averages the models of clients that were never selected, and never uses half of the
        data.""",
    )
