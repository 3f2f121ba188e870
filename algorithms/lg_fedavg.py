"""LG-FedAvg: clients share the head and keep their bodies; sends the head both ways.

P. P. Liang, T. Liu, L. Ziyin, N. B. Allen, R. P. Auerbach, D. Brent, R. Salakhutdinov, L.-P. Morency: Think Locally, Act
Globally: Federated Learning with Local and Global Representations, 2020 (arXiv 2001.01523), Algorithm 1. A setting of
FedBABU's code: clients train the whole model, the server averages the head.

A new client (`--new_clients`) receives the head, and starts with the initial body.

Differences from the paper:
1. The global part is the classifier; the paper tries more layers, and local losses in addition to the loss of the whole
   model.
2. All bodies start equal and untrained, and `--lr` is the same as for other algorithms. The authors' code, and FedBABU's,
   start from FedAvg's best model on the test set and train at 1e-3. The published LG column (`papers/mhmd`) starts from
   FedAvg's last model (`--init_from`), since Chorus chooses nothing on the test set, and trains at their rate.
3. The differences of `fedbabu` in training and averaging.

Defaults: those of `fedbabu`, in whose authors' code LG-FedAvg is a setting, 320 local epochs of CNN4. Both codes train at
1e-3 from a model that FedAvg has trained (difference 2).
"""

from dataclasses import dataclass

from algorithms import fedbabu
from algorithms.fedbabu import communicate, loss, private_steps, start, uploads

__all__ = ["communicate", "loss", "private_steps", "start", "uploads"]


@dataclass(frozen=True)
class Options(fedbabu.Training):
    local_upt_part, aggr_part = "full", "head"
