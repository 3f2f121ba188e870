"""FedAvg in fluke (0.8): `FedAVG` with loaders of the job's own tensors.

Its documented ways to compute side by side need two GPUs, so clients train one after another here, with one thread or
several. The server's evaluation has the accuracy alone, of fluke's seven metrics; it tests once more at the end.
"""

# ruff: noqa: E402

import time

import torch

from data import datasets

datasets._torchvision()  # fluke imports it, beside a torch for processors alone too

from fluke import DDict, FlukeENV
from fluke.algorithms.fedavg import FedAVG
from fluke.data import DataSplitter, DummyDataContainer, FastDataLoader
from fluke.evaluation import ClassificationEval
from fluke.utils import FederationObserver
from torchmetrics import Accuracy

from checks.bench.work import TEST_BATCH, Logits, Work, read_options, tell


class Watch(FederationObserver):
    """When rounds end, and how good they are."""

    def __init__(self) -> None:
        self.ends, self.accuracy = [], 0.0

    def start_round(self, round: int, global_model) -> None:
        if round == 1:
            self.ends.append(time.perf_counter())

    def server_evaluation(self, round: int, eval_type: str, evals: dict, **others) -> None:
        self.accuracy = evals.get("accuracy", self.accuracy)

    def end_round(self, round: int) -> None:
        self.ends.append(time.perf_counter())


def main() -> None:
    options = read_options()
    torch.set_num_threads(options.threads)
    work = Work.read(options.work)
    job = work.options
    environment = FlukeENV()
    environment.set_seed(0)
    environment.set_device("cpu")
    environment.set_eval_cfg(server=True, locals=False, pre_fit=False, post_fit=False)
    metric = Accuracy(task="multiclass", num_classes=work.n_classes)
    environment.set_evaluator(ClassificationEval(1, work.n_classes, accuracy=metric))

    def loader(examples, batch_size: int, shuffle: bool) -> FastDataLoader:
        return FastDataLoader(*examples, num_labels=work.n_classes, batch_size=batch_size, shuffle=shuffle)

    shares = [loader(share, job["batch_size"], True) for share in work.shares]
    data = DummyDataContainer(shares, [None] * len(shares), loader(work.test, TEST_BATCH, False), work.n_classes)
    optimizer = {"name": "SGD", "lr": job["lr"], "momentum": job["momentum"]}
    client = {
        "batch_size": job["batch_size"],
        "local_epochs": job["epoch_per_round"],
        "loss": "CrossEntropyLoss",
        "optimizer": optimizer,
        "scheduler": {"name": "StepLR", "step_size": 1, "gamma": 1},
    }
    settings = DDict(client=DDict(client), server=DDict(weighted=True), model=Logits(work.network()))
    watch, algorithm = Watch(), FedAVG(len(shares), DataSplitter(data, distribution="iid"), settings)
    algorithm.set_callbacks(watch)
    algorithm.run(job["rounds"], job["participation"], finalize=False)
    rounds = [end - begin for begin, end in zip(watch.ends, watch.ends[1:], strict=False)]
    steps = work.per_round * job["rounds"] * job["epoch_per_round"] * shares[0].n_batches
    tell(rounds=rounds, tests=[], accuracy=watch.accuracy, steps=steps)


if __name__ == "__main__":
    main()
