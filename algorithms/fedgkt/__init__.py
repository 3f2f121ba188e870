"""FedGKT: feature maps, logits and labels go up, logits come down; sends no model.

C. He, M. Annavaram, S. Avestimehr: Group Knowledge Transfer: Federated Learning of Large CNNs at the Edge, NeurIPS 2020,
Algorithm 1. The headline answer is "server", the stem of a client's small network followed by the server's large network;
"personal" is the small network.

A new client (`--new_clients`) receives no model.

Differences from the paper and the authors' code:
1. The server's predictions are kept per example, so that a target always belongs to its image (the code keeps them by
   position in batches of another order). They are the last epoch's, in training mode, before the step, as in the code.
2. One augmentation per client and round is extracted, predicted by the server, and used for training in the next round; the
   code draws different augmentations for extraction and training. `--augment_extract 0` extracts plain images and trains on
   new augmentations.
3. Clients start from new networks, not from networks trained on all clients' data; the server shuffles over all clients.
4. The server's learning rate falls on a plateau of *validation* accuracy, on held-out examples that clients send (counted);
   the code's plateau is of the test set, whose features clients send in every round. `--validation 0` keeps the rate
   constant.
5. With `--participation` below 1 the server learns from the received data and, with `--stale keep`, from the last data of
   absent clients: the paper's asynchronous training, which is not in the code.
6. `--optimizer sgd` is plain SGD with `--momentum`; the code's has momentum 0.9 and Nesterov's step.
7. `--distill_server` is 1, as in the paper's equations; in the code it defaults to 0 (labels alone), as in its README.

Defaults: from the authors' code, 200 rounds of ResNet-8 and ResNet-56: AMSGrad with weight decay 1e-4, batches of 64, 3
epochs of the server, temperature 3. Their script has a learning rate of 0.001, as here, batches of 256 and 20 epochs of
the server.
"""

from dataclasses import dataclass

import torch.nn.functional as F

import options
from algorithms.fedgkt import server
from helpers import Round, model_of, own_models, replace_rows, train_own
from options import Choice, Number, Requires, flag

mixed = True
new_clients = None
uploads = {"features": None, "validation features": None}
check, rebuild = server.check, server.rebuild
ON_OFF, KEPT = Choice(("0", "1")), Choice(("keep", "drop"))
AUGMENTED = Requires("--augment", lambda o: o.augment != "none")
PARTIAL = Requires("--participation below 1", lambda o: o.participation < 1)


@dataclass(frozen=True)
class Options(options.Options):
    model: tuple[str, ...] = ("ResNet8",)
    optimizer: str = "amsgrad"
    weight_decay: float = 1e-4
    batch_size: int = 64
    validation: float = 0.1
    server_model: str = flag(
        "ResNet55", server.NETWORK, "model of the server, which continues from the clients' feature maps"
    )
    epochs_server: int = flag(3, Number(int, least=1), "number of server epochs per round (20 in the authors' script)")
    temperature: float = flag(3.0, Number(float, above=0), "temperature of both softmaxes in distillation; 1 is none")
    kd_alpha: float = flag(
        1.0, Number(float, least=0), "weight of the clients' distillation and of the server's cross-entropy"
    )
    distill_client: str = flag("1", ON_OFF, "whether clients distil from the server's logits; 0 is learning alone")
    distill_server: str = flag("1", ON_OFF, "whether the server distils from the clients' logits; 0 is labels only")
    augment_extract: str = flag(
        "1", ON_OFF, "whether clients extract feature maps from augmented images; 0 is from plain images", AUGMENTED
    )
    stale: str = flag("keep", KEPT, "whether the server also trains on the last feature maps of absent clients", PARTIAL)
    feature_dtype: str = flag(
        "float32", Choice(tuple(server.DTYPES)), "number format of feature maps, in messages and at the server"
    )


def loss(model, batch, context, options):
    _, logits = model(batch.x)
    return F.cross_entropy(logits, batch.y) + context["weight"] * transfer(logits, context["targets"][batch.index], options)


def server_loss(model, batch, context, options):
    """Return the server's loss on a batch of maps, a plain scalar; save the server's logits in `context["said"]`."""
    _, logits = model(batch.x)
    context["said"][batch.index] = logits.detach().to(context["said"].dtype)  # the last epoch's logits stay
    label_loss = F.cross_entropy(logits, batch.y)
    if options.distill_server == "0":
        return label_loss
    return transfer(logits, context["targets"][batch.index], options) + options.kd_alpha * label_loss


def transfer(logits, targets, options):
    """Return T^2 KL(softmax(targets / T) + 1e-7 || softmax(logits / T)), the mean over the batch.

    The constant 1e-7 is the code's.
    """
    teacher = (targets / options.temperature).softmax(1) + 1e-7
    return options.temperature**2 * (teacher * (teacher.log() - (logits / options.temperature).log_softmax(1))).sum(1).mean()


def start(federation, options):
    no_rows = [None for _ in federation.clients]
    return {**own_models(federation), "targets": no_rows, "draws": no_rows, **server.start(federation, options)}


def communicate(federation, state, options):
    clients = federation.sample()
    context, augmentation = server.teachers(federation, state, clients, options)
    losses = train_own(federation, clients, state, loss, options, context, augmentation)
    draws = [server.draw(federation, k, options) for k in clients]
    learned = server.learn(federation, state, clients, draws, server_loss, options)
    state["targets"] = replace_rows(state["targets"], clients, federation.wire.down("logits", learned.logits, clients))
    state["draws"] = replace_rows(state["draws"], clients, draws)
    models = {"server": server.behind(federation, state, options), "personal": model_of(federation, state["weights"])}
    return Round(clients, losses, models, learned.metrics)
