"""D-PSGD: neighbours on a graph average their weights each round, without a server.

X. Lian, C. Zhang, H. Zhang, C.-J. Hsieh, W. Zhang, J. Liu: Can Decentralized Algorithms Outperform Centralized Algorithms? A
Case Study for Decentralized Parallel Stochastic Gradient Descent, NeurIPS 2017, Algorithm 1. `data_exchange` without an
exchange and with Metropolis weights.

A new client (`--new_clients`) receives no model.

Differences from the paper:
1. Clients mix models after the local epochs of a round; the paper mixes after every step, with the gradient at the model
   before mixing (`--local_steps 1` with batches as large as the shares is one step per round).
2. Adapt-then-combine: a client steps and then mixes; in Algorithm 1 both are one sum.

Defaults: those of `data_exchange`, of its authors' code, 5 rounds on MNIST; the paper's are for ResNet-20 on CIFAR-10.
"""

from dataclasses import dataclass

from algorithms import data_exchange
from algorithms.data_exchange import check, communicate, loss, start

__all__ = ["check", "communicate", "loss", "start"]
private_steps = True
new_clients = None


@dataclass(frozen=True)
class Options(data_exchange.Training):
    share_ratio, aggr_model, mixing = 0.0, "de", "metropolis"
