"""FedAvg in pfl-research (0.6): `FederatedAveraging` on a `SimulatedBackend`.

Started by `torchrun` with a process a core, among which pfl deals the clients of a round and the test images, as its guide
on fast simulations says. Its in-memory data sets give the same batches in the same order every epoch; there are as many. Its
first round ends without a test, and it is not timed.
"""

import os
import time

import numpy as np
import torch
import torch.nn.functional as F
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.callback.central_evaluation import CentralEvaluationCallback
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.pytorch import PyTorchTensorDataset
from pfl.data.sampling import get_user_sampler
from pfl.hyperparam.base import NNEvalHyperParams, NNTrainHyperParams
from pfl.metrics import Metrics, StringMetricName, Weighted
from pfl.model.pytorch import PyTorchModel

from checks.bench.work import TEST_BATCH, Logits, Work, read_options, tell


class Network(Logits):
    """What pfl asks of a network besides."""

    def loss(self, x, y):
        self.train()
        return F.cross_entropy(self(x), y)

    @torch.no_grad()
    def metrics(self, x, y):
        self.eval()
        return {"accuracy": Weighted((self(x).argmax(1) == y).sum().item(), len(y))}


class Watch(TrainingProcessCallback):
    """When rounds end, and how good they are; after the evaluation."""

    def __init__(self) -> None:
        self.ends, self.accuracy = [], 0.0

    def on_train_begin(self, *, model) -> Metrics:
        self.ends.append(time.perf_counter())
        return Metrics()

    def after_central_iteration(self, aggregate_metrics: Metrics, model, *, central_iteration: int) -> tuple[bool, Metrics]:
        self.ends.append(time.perf_counter())
        name = StringMetricName("Central val | accuracy")
        self.accuracy = aggregate_metrics[name].overall_value if name in aggregate_metrics else self.accuracy
        return False, Metrics()


def main() -> None:
    options = read_options()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    np.random.seed(0)
    work = Work.read(options.work)
    job = work.options
    sampler = get_user_sampler("minimize_reuse", list(range(len(work.shares))))
    shares = [PyTorchTensorDataset(share) for share in work.shares]
    data = FederatedDataset(lambda k: shares[k], sampler)
    network = Network(work.network())
    model = PyTorchModel(network, torch.optim.SGD, torch.optim.SGD(network.parameters(), lr=1.0))
    watch, evaluated = Watch(), NNEvalHyperParams(local_batch_size=TEST_BATCH)
    FederatedAveraging().run(
        NNAlgorithmParams(
            central_num_iterations=job["rounds"],
            evaluation_frequency=job["rounds"] + 1,  # of the clients' own evaluation: in the first round alone
            train_cohort_size=work.per_round,
            val_cohort_size=None,
        ),
        SimulatedBackend(data, data),
        model,
        model_train_params=NNTrainHyperParams(
            local_num_epochs=job["epoch_per_round"],
            local_learning_rate=job["lr"],
            local_batch_size=job["batch_size"],
        ),
        model_eval_params=evaluated,
        callbacks=[CentralEvaluationCallback(PyTorchTensorDataset(work.test), model_eval_params=evaluated), watch],
    )
    rounds = [end - begin for begin, end in zip(watch.ends, watch.ends[1:], strict=False)]
    a_round = work.per_round * job["epoch_per_round"] * -(-len(shares[0]) // job["batch_size"])
    if os.environ.get("RANK", "0") == "0":
        tell(rounds=rounds, tests=[], accuracy=watch.accuracy, steps=a_round * job["rounds"])


if __name__ == "__main__":
    main()
