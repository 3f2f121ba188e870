"""The head, both ways, while every client's body stays with it.

P. P. Liang, T. Liu, L. Ziyin, N. B. Allen, R. P. Auerbach, D. Brent, R. Salakhutdinov, L.-P. Morency: Think Locally, Act
Globally: Federated Learning with Local and Global Representations, 2020 (arXiv 2001.01523), Algorithm 1. A setting of
FedBABU's code: everything is trained, the head is averaged.

Differences from the paper:
1. The global part is the classifier; the paper tries more layers, and local losses beside the one of the whole.
2. All bodies begin alike and untrained, and `--lr` is as for the others. The authors' code, and FedBABU's, start from
   FedAvg's best model on the test set and train at 1e-3; the published LG column (`papers/mhmd`) starts from FedAvg's last
   model (`--init_from`), since nothing is chosen on the test set here, at their rate.
3. Those of `fedbabu` in how it trains and averages.

Defaults: those of `fedbabu`, in whose authors' code LG-FedAvg is a setting, 320 local epochs of CNN4. Both codes train at
1e-3 from a model that FedAvg has trained (difference 2).
"""

from dataclasses import dataclass

from algorithms import fedbabu
from algorithms.fedbabu import communicate, loss, start

__all__ = ["communicate", "loss", "start"]


@dataclass(frozen=True)
class Options(fedbabu.Training):
    local_upt_part, aggr_part = "full", "head"
