"""FedAvg in Flower (1.42): `FedAvg` in its simulation on Ray, as many clients at once as there are cores, a thread each.

A client reads the job's file once a process and trains as in Flower's quickstart for PyTorch. The server tests its model
with all cores, while no client is at work.
"""

import random
import time
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation

from checks.bench.work import Logits, Work, accuracy_of, read_options, tell


@cache
def read(path: Path) -> tuple[Work, Logits]:
    """The job and a network, once a process."""
    torch.set_num_threads(1)
    work = Work.read(path)
    return work, Logits(work.network())


def main() -> None:
    options = read_options()
    torch.manual_seed(0)
    random.seed(0)
    work, _ = read(options.work)
    torch.set_num_threads(options.threads)
    job, path = work.options, options.work
    server, ends, accuracies = Logits(work.network()), [], []
    client_app, server_app = ClientApp(), ServerApp()

    @client_app.train()
    def train(message, context):
        from checks.bench.peers.flower import read  # of the process that trains

        work, network = read(path)
        network.load_state_dict(message.content["arrays"].to_torch_state_dict())
        network.train()
        optimizer = torch.optim.SGD(network.parameters(), lr=job["lr"], momentum=job["momentum"])
        x, y = work.shares[context.node_config["partition-id"]]
        steps = 0
        for _ in range(job["epoch_per_round"]):
            for i in torch.randperm(len(y)).split(job["batch_size"]):
                optimizer.zero_grad()
                F.cross_entropy(network(x[i]), y[i]).backward()
                optimizer.step()
                steps += 1
        metrics = MetricRecord({"num-examples": len(y), "steps": steps})
        content = RecordDict({"arrays": ArrayRecord(network.state_dict()), "metrics": metrics})
        return Message(content=content, reply_to=message)

    def evaluate(round: int, arrays: ArrayRecord) -> MetricRecord:
        server.load_state_dict(arrays.to_torch_state_dict())
        accuracies.append(accuracy_of(server, work.test))
        ends.append(time.perf_counter())
        return MetricRecord({"accuracy": accuracies[-1]})

    @server_app.main()
    def serve(grid, context) -> None:
        strategy = FedAvg(
            fraction_train=job["participation"],
            fraction_evaluate=0.0,
            min_train_nodes=work.per_round,
            min_available_nodes=len(work.shares),
        )
        initial = ArrayRecord(server.state_dict())
        result = strategy.start(grid, initial, job["rounds"], train_config=ConfigRecord(), evaluate_fn=evaluate)
        mean = [metrics["steps"] for metrics in result.train_metrics_clientapp.values()]
        rounds = [end - begin for begin, end in zip(ends, ends[1:], strict=False)]
        tell(rounds=rounds, tests=[], accuracy=accuracies[-1], steps=round(sum(mean) * work.per_round))

    resources = {"init_args": {"num_cpus": options.threads}, "client_resources": {"num_cpus": 1, "num_gpus": 0.0}}
    run_simulation(server_app, client_app, num_supernodes=len(work.shares), backend_config=resources)


if __name__ == "__main__":
    main()
