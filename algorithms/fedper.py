"""The body, both ways, while every client's head stays with it.

M. G. Arivazhagan, V. Aggarwal, A. K. Singh, S. Choudhary: Federated Learning with Personalization Layers, 2019 (arXiv
1912.00818), Algorithms 1 and 2. A setting of FedBABU's code: everything is trained, the body is averaged.

Differences from the paper:
1. The personal layers are the classifier; the paper tries more of them.
2. All heads begin alike, as in FedBABU's code; the paper has each client draw its own.
3. Those of `fedbabu` in how it trains and averages.

Defaults: those of `fedbabu`, in whose authors' code FedPer is a setting, 320 local epochs of CNN4. The settings of FedPer's
own paper (ResNet-34, MobileNet) are unknown here.
"""

from dataclasses import dataclass

from algorithms import fedbabu
from algorithms.fedbabu import communicate, loss, start

__all__ = ["communicate", "loss", "start"]


@dataclass(frozen=True)
class Options(fedbabu.Training):
    local_upt_part, aggr_part = "full", "body"
