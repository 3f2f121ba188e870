"""FedAvg in FedLab (1.3): its standalone pipeline, with `SGDSerialClientTrainer`.

Clients train one after another, with one thread or several. Batches come from torch's own loader, which takes a batch at a
time from the tensors; FedLab has no evaluation of the server's model, so it is the bare loop's.
"""

# ruff: noqa: E402

import time

import torch

from data import datasets

datasets._torchvision()  # FedLab imports it, beside a torch for processors alone too

from fedlab.contrib.algorithm.basic_client import SGDSerialClientTrainer
from fedlab.contrib.algorithm.basic_server import SyncServerHandler
from fedlab.contrib.dataset.basic_dataset import FedDataset
from fedlab.core.standalone import StandalonePipeline
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

from checks.bench.work import Logits, Work, accuracy_of, read_options, tell


class Shares(FedDataset):
    """The job's own tensors."""

    def __init__(self, work: Work) -> None:
        super().__init__()
        self.parts = [TensorDataset(*share) for share in work.shares]

    def get_dataloader(self, id: int, batch_size: int, type: str = "train") -> DataLoader:
        part = self.parts[id]
        return DataLoader(part, sampler=BatchSampler(RandomSampler(part), batch_size, drop_last=False), batch_size=None)


class Pipeline(StandalonePipeline):
    """Notes when rounds end, and how good they are."""

    def __init__(self, handler: SyncServerHandler, trainer: SGDSerialClientTrainer, work: Work) -> None:
        super().__init__(handler, trainer)
        self.work, self.ends, self.accuracy = work, [], 0.0

    def evaluate(self) -> None:
        self.accuracy = accuracy_of(self.handler.model, self.work.test)
        self.ends.append(time.perf_counter())


def main() -> None:
    options = read_options()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    work = Work.read(options.work)
    job = work.options
    network = Logits(work.network())
    trainer = SGDSerialClientTrainer(network, len(work.shares))
    trainer.setup_dataset(Shares(work))
    trainer.setup_optim(job["epoch_per_round"], job["batch_size"], job["lr"])
    handler = SyncServerHandler(network, job["rounds"], job["participation"])
    pipeline = Pipeline(handler, trainer, work)
    pipeline.ends.append(time.perf_counter())
    pipeline.main()
    rounds = [end - begin for begin, end in zip(pipeline.ends, pipeline.ends[1:], strict=False)]
    a_round = work.per_round * job["epoch_per_round"] * len(trainer.dataset.get_dataloader(0, job["batch_size"]))
    tell(rounds=rounds, tests=[], accuracy=pipeline.accuracy, steps=a_round * job["rounds"])


if __name__ == "__main__":
    main()
