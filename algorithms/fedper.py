"""FedPer: clients share the body and keep their heads; sends the body both ways.

M. G. Arivazhagan, V. Aggarwal, A. K. Singh, S. Choudhary: Federated Learning with Personalization Layers, 2019 (arXiv
1912.00818), Algorithms 1 and 2. A setting of FedBABU's code: clients train the whole model, the server averages the body.

A new client (`--new_clients`) receives the body, and starts with the initial head.

Differences from the paper:
1. The personal layers are the classifier; the paper tries more of them.
2. All heads start equal, as in FedBABU's code; in the paper each client draws its own head.
3. The differences of `fedbabu` in training and averaging.

Defaults: those of `fedbabu`, in whose authors' code FedPer is a setting, 320 local epochs of CNN4. The settings of FedPer's
own paper (ResNet-34, MobileNet) are unknown to us.
"""

from dataclasses import dataclass

from algorithms import fedbabu
from algorithms.fedbabu import communicate, loss, private_steps, start, uploads

__all__ = ["communicate", "loss", "private_steps", "start", "uploads"]


@dataclass(frozen=True)
class Options(fedbabu.Training):
    local_upt_part, aggr_part = "full", "body"
