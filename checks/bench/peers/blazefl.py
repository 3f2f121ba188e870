"""FedAvg in BlazeFL (3.0): its `contrib.fedavg`, with clients in threads.

BlazeFL asks for Python 3.14, of which it uses new forms of annotations alone. With an older Python, `readable` writes the
older forms into the installed files. Batches come from torch's own loader, which takes a batch at a time from the
tensors.
"""

import re
import sys
import time
from importlib.metadata import files

import torch
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SequentialSampler, TensorDataset

from checks.bench.work import TEST_BATCH, Logits, Work, read_options, tell


def readable() -> None:
    """Let a Python before 3.12 read the installed BlazeFL: `def f[T](x: T)` becomes `def f(x: T)`, and nothing evaluates
    annotations."""
    later = "from __future__ import annotations\n"
    for path in (path.locate() for path in files("blazefl") if path.suffix == ".py"):
        text = path.read_text()
        if sys.version_info < (3, 12) and not text.startswith(later):
            path.write_text(later + re.sub(r"^(def [a-z_]+)[[]T[]]", r"\1", text, flags=re.MULTILINE))


readable()

from blazefl.contrib.fedavg import FedAvgBaseServerHandler, FedAvgThreadPoolClientTrainer  # noqa: E402
from blazefl.core import PartitionedDataset  # noqa: E402


class Shares(PartitionedDataset):
    """The job's own tensors."""

    def __init__(self, work: Work) -> None:
        self.shares, self.test = [TensorDataset(*share) for share in work.shares], TensorDataset(*work.test)

    def get_dataset(self, type_, cid):
        return self.test if cid is None else self.shares[cid]

    def get_dataloader(self, type_, cid, batch_size, generator) -> DataLoader:
        examples = self.get_dataset(type_, cid)
        order = SequentialSampler(examples) if cid is None else RandomSampler(examples, generator=generator)
        batches = BatchSampler(order, TEST_BATCH if cid is None else batch_size, drop_last=False)
        return DataLoader(examples, sampler=batches, batch_size=None)


class Networks:
    """Builds the job's network for each client of a round, as BlazeFL asks."""

    def __init__(self, work: Work) -> None:
        self.work = work

    def select_model(self, model_name: str) -> Logits:
        return Logits(self.work.network())


def main() -> None:
    options = read_options()
    torch.set_num_threads(1)
    work = Work.read(options.work)
    job = work.options
    data, networks, n_clients = Shares(work), Networks(work), len(work.shares)
    server = FedAvgBaseServerHandler(
        networks, "", data, job["rounds"], n_clients, job["participation"], "cpu", job["batch_size"], seed=0
    )
    clients = FedAvgThreadPoolClientTrainer(
        networks, "", data, "cpu", n_clients, job["epoch_per_round"], job["batch_size"], job["lr"], 0, options.threads
    )
    clients.progress_fn = lambda jobs: jobs
    rounds = []
    while not server.is_stopped():
        began = time.perf_counter()
        clients.local_process(server.downlink_package(), server.sample_clients())
        for package in clients.uplink_package():
            server.load(package)
        accuracy = server.get_summary()["server_acc"]
        rounds.append(time.perf_counter() - began)
    a_client = job["epoch_per_round"] * -(-len(data.shares[0]) // job["batch_size"])
    tell(rounds=rounds, tests=[], accuracy=accuracy, steps=work.per_round * a_client * job["rounds"])


if __name__ == "__main__":
    main()
