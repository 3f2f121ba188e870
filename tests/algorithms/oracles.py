"""Hold a slow and obvious version of each algorithm, written from its paper, and of its loss, where it has one of its own.

The version of a method is a function (federation, options, rounds) -> {"models": ..., "state": ..., "loss": ...}: the
weights of its answers, the entries of the state that a test compares, the losses of the last round. All are in float64.
Where a docstring does not say otherwise, a local epoch is one step of plain gradient descent on the whole share of a client.

The version of a loss is a function (federation, model, batch, extra, options) -> (value, {name: slope}).
"""

import math

import torch
import torch.nn.functional as F
from conftest import gradient_of, mean_of, only

HEAD = {"classifier.weight", "classifier.bias"}


# --- small steps ---


def zeros(row):
    return {name: torch.zeros_like(w) for name, w in row.items()}


def even(rows):
    return mean_of(rows, [1] * len(rows))


def sizes(federation, clients):
    return [len(federation.shares[k]) for k in clients]


def moved(row, slopes, rate):
    """Compute row - rate * slopes, of the parameters that have a slope."""
    return {name: w - rate * slopes[name] if name in slopes else w for name, w in row.items()}


def network(federation, row, client=0, train=True):
    """Build a network of its own with these weights, of the client's architecture."""
    net = federation.architectures[client % len(federation.architectures)]().double().train(train)
    net.load_state_dict(row)
    return net


def examples(federation, indices):
    return federation.data.images(indices, torch.float64), federation.data.y[indices]


def request(federation, row, indices, client=0):
    """Ask a network in evaluation mode about images -> (features, logits)."""
    with torch.no_grad():
        return network(federation, row, client, train=False)(federation.data.images(indices, torch.float64))


def slope(federation, row, objective, client=0, train=True):
    """Differentiate objective(network) at a row of weights -> (value, {name: slope})."""
    net = network(federation, row, client, train)
    value = objective(net)
    value.backward()
    return value.detach(), {name: w.grad for name, w in net.named_parameters() if w.grad is not None}


def error_on(federation, indices):
    """Return the cross-entropy on these examples as a function of a network."""
    x, y = examples(federation, indices)
    return lambda net: F.cross_entropy(net(x)[1], y)


def with_momentum(slopes, velocity, momentum):
    """Compute the velocities after a step of SGD with momentum."""
    return {name: momentum * velocity[name] + g if velocity else g for name, g in slopes.items()}


# --- methods ---


def fedavg(federation, options, rounds):
    w = federation.initial()
    for r in range(1, rounds + 1):
        clients = federation.at(r).sample()
        w = mean_of([pulled(federation, w, w, k, options, 0.0) for k in clients], sizes(federation, clients))
    return {"models": {"global": w}}


def pulled(federation, row, anchor, k, options, weight):
    """Go through the local epochs: each step goes down grad F_k(row) + weight (row - anchor)."""
    for _ in range(options.epoch_per_round):
        g = gradient_of(federation, row, federation.shares[k])
        row = {name: w - options.lr * (g[name] + weight * (w - anchor[name])) for name, w in row.items()}
    return row


def fedprox(federation, options, rounds):
    """Step w <- w - lr (grad F_k(w) + mu (w - w^t)): the first step, at w^t, is FedAvg's."""
    w = federation.initial()
    for r in range(1, rounds + 1):
        clients = federation.at(r).sample()
        w = mean_of([pulled(federation, w, w, k, options, options.mu) for k in clients], sizes(federation, clients))
    return {"models": {"global": w}}


def ditto(federation, options, rounds):
    """Average w as in FedAvg, and step v <- v - lr (grad F_k(v) + lambda (v - w^t)) of each client of the round."""
    w, v = federation.initial(), [federation.initial() for _ in federation.clients]
    for r in range(1, rounds + 1):
        clients = federation.at(r).sample()
        for k in clients:
            v[k] = pulled(federation, v[k], w, k, options, options.lam)
        w = mean_of([pulled(federation, w, w, k, options, 0.0) for k in clients], sizes(federation, clients))
    return {"models": {"global": w, "personal": v}}


def fednova(federation, options, rounds):
    """Sum up weighted gradients, of small batches and with stragglers: equation 7 of the paper."""
    x, taken = federation.initial(), []
    for r in range(1, rounds + 1):
        here = federation.at(r)
        clients = here.sample()
        n, tau, direction = sum(sizes(here, clients)), 0.0, dict.fromkeys(x, 0.0)
        for k in clients:
            order, share, p = here.stream("batches", k), here.shares[k], len(here.shares[k]) / n
            epochs = [torch.from_numpy(order.permutation(len(share))) for _ in range(options.epoch_per_round)]
            batches = [i for epoch in epochs for i in epoch.split(options.batch_size)]
            straggles, part = here.stream("straggler", k).random(2)
            K = math.ceil((1 - part) * len(batches)) if straggles < options.straggler else len(batches)
            a = [sum(options.momentum**j for j in range(K - s)) for s in range(K)]
            y, velocity, weighted = dict(x), dict.fromkeys(x, 0.0), dict.fromkeys(x, 0.0)
            for i, a_s in zip(batches[:K], a, strict=True):
                g = gradient_of(here, y, share[i])
                g = {name: g[name] + options.weight_decay * y[name] for name in x}
                velocity = {name: options.momentum * velocity[name] + g[name] for name in x}
                y = moved(y, velocity, options.lr)
                weighted = {name: weighted[name] + a_s * g[name] for name in x}
            tau += p * sum(a)
            direction = {name: direction[name] + p * weighted[name] / sum(a) for name in x}
            taken.append(K)
        x = moved(x, direction, options.lr * tau)
    assert len(set(taken)) > 1, "clients take unequal numbers of steps"
    return {"models": {"global": x}}


def fedopt(federation, options, rounds):
    """Follow Algorithm 2, number by number, from one full-batch step a client: its change is -lr g_k."""
    row = federation.initial()
    flat = {name: w.flatten().tolist() for name, w in row.items()}
    m = {name: [0.0] * len(values) for name, values in flat.items()}
    v = {name: [options.tau**2] * len(values) for name, values in flat.items()}
    for r in range(1, rounds + 1):
        clients = federation.at(r).sample()
        n = sum(sizes(federation, clients))
        slopes = {k: gradient_of(federation, row, federation.shares[k]) for k in clients}
        for name, values in flat.items():
            mean = sum(len(federation.shares[k]) / n * slopes[k][name] for k in clients)
            for i, delta in enumerate((-options.lr * mean).flatten().tolist()):
                values[i], m[name][i], v[name][i] = fedopt_number(delta, m[name][i], v[name][i], values[i], options)
        row = {name: torch.tensor(flat[name], dtype=torch.float64).view_as(w) for name, w in row.items()}
    return {"models": {"global": row}}


def fedopt_number(delta, m, v, x, o):
    """Step in a single number of the server's model: lines 10 to 15 of Algorithm 2, or FedAvgM -> (x, m, v)."""
    if o.server_optimizer == "sgd":
        m = o.server_momentum * m + delta
        return x + o.server_lr * m, m, v
    m = o.beta1 * m + (1 - o.beta1) * delta
    if o.server_optimizer == "adagrad":
        v = v + delta**2
    elif o.server_optimizer == "adam":
        v = o.beta2 * v + (1 - o.beta2) * delta**2
    else:
        v = v - (1 - o.beta2) * delta**2 * (0 if v == delta**2 else math.copysign(1, v - delta**2))
    return x + o.server_lr * m / (math.sqrt(v) + o.tau), m, v


def feddyn(federation, options, rounds):
    """Follow Algorithm 1, a line a line, whose minimum is approached by full-batch steps."""
    w, alpha, m = federation.initial(), options.alpha_coef, len(federation.clients)
    h, g = zeros(w), {}
    for r in range(1, rounds + 1):
        clients, rows = federation.at(r).sample(), []
        for k in clients:
            theta, g_k = dict(w), g.get(k, zeros(w))
            for _ in range(options.epoch_per_round):
                s = gradient_of(federation, theta, federation.shares[k])
                theta = {n: t - options.lr * (s[n] - g_k[n] + alpha * (t - w[n])) for n, t in theta.items()}
            g[k] = {n: g_k[n] - alpha * (theta[n] - w[n]) for n in w}
            rows.append(theta)
        h = {n: h[n] - alpha / m * sum(row[n] - w[n] for row in rows) for n in w}
        w = {n: sum(row[n] for row in rows) / len(rows) - h[n] / alpha for n in w}
    assert max(tensor.abs().max() for tensor in h.values()) > 1e-4, "h is not nothing"
    return {"models": {"global": w}, "state": {"h": h, "g": g}}


def scaffold(federation, options, rounds):
    """Follow Algorithm 1, a line a line, for networks without buffers."""
    x, lr, N = federation.initial(), options.lr, len(federation.clients)
    c, variates = zeros(x), {}
    for r in range(1, rounds + 1):
        clients, rows, changes = federation.at(r).sample(), [], []
        for k in clients:
            share, c_i = federation.shares[k], variates.get(k, zeros(x))
            y, K = dict(x), options.epoch_per_round
            for _ in range(K):
                g = gradient_of(federation, y, share)
                y = {n: w - lr * (g[n] - c_i[n] + c[n]) for n, w in y.items()}
            if options.variate == 1:
                new = gradient_of(federation, x, share)
            else:
                new = {n: c_i[n] - c[n] + (x[n] - y[n]) / (K * lr) for n in x}
            rows.append({n: y[n] - x[n] for n in x})
            changes.append({n: new[n] - c_i[n] for n in x})
            variates[k] = new
        x = {n: w + options.server_lr * even(rows)[n] for n, w in x.items()}
        c = {n: v + len(clients) / N * even(changes)[n] for n, v in c.items()}
    assert max(tensor.abs().max() for tensor in c.values()) > 1e-3, "c is not nothing"
    return {"models": {"global": x}, "state": {"c": c, "c_i": variates}}


def pfedme(federation, options, rounds):
    """Step w <- w - eta lambda (w - theta) by full batches; the server goes a part beta of the way to the even average."""
    server, personal = federation.initial(), [federation.initial() for _ in federation.clients]
    for r in range(1, rounds + 1):
        rows = []
        for k in federation.at(r).sample():
            row = server
            for _ in range(options.epoch_per_round):
                theta = pfedme_theta(federation, row, federation.shares[k], options)
                row = {name: w - options.lr * options.lam * (w - theta[name]) for name, w in row.items()}
            rows.append(row)
            personal[k] = pfedme_theta(federation, row, federation.shares[k], options)
        server = {name: w + options.beta * (even(rows)[name] - w) for name, w in server.items()}
    return {"models": {"global": server, "personal": personal}}


def pfedme_theta(federation, row, indices, options, train=False):
    """Step theta <- theta - alpha (grad f(theta) + lambda (theta - w)) from theta = w."""
    theta = dict(row)
    for _ in range(options.inner_steps):
        _, g = slope(federation, theta, error_on(federation, indices), train=train)
        pull = {name: g[name] + options.lam * (theta[name] - row[name]) for name in g}
        theta = moved(theta, pull, options.inner_lr)
    return theta


def perfedavg(federation, options, rounds):
    """Take the gradient on the second half of a batch, here the share, after a step of alpha on the first half. A client
    makes its model by one step of alpha over its whole share."""
    w = federation.initial()
    for r in range(1, rounds + 1):
        clients, rows = federation.at(r).sample(), []
        for k in clients:
            row, share, order = w, federation.shares[k], federation.at(r).stream("batches", k)
            for _ in range(options.epoch_per_round):
                i, half = share[torch.from_numpy(order.permutation(len(share)))], len(share) // 2
                adapted = moved(row, gradient_of(federation, row, i[:half]), options.adapt_lr)
                row = moved(row, gradient_of(federation, adapted, i[half:]), options.lr)
            rows.append(row)
        w = mean_of(rows, sizes(federation, clients))
    personal = [moved(w, gradient_of(federation, w, share), options.adapt_lr) for share in federation.shares]
    return {"models": {"global": w, "personal": personal}}


def fedrep(federation, options, rounds):
    """Train a client's own head under the body it received, then the body under that head; each descent is a fresh SGD."""

    def descended(row, k, names, steps):
        velocity = {}
        for _ in range(steps):
            velocity = with_momentum(
                only(gradient_of(federation, row, federation.shares[k]), names), velocity, options.momentum
            )
            row = moved(row, velocity, options.lr)
        return row

    body, heads = federation.initial(), [federation.initial() for _ in federation.clients]
    for r in range(1, rounds + 1):
        clients, losses = federation.at(r).sample(), []
        for k in clients:
            row = descended({**body, **only(heads[k], HEAD)}, k, HEAD, options.head_epochs)
            losses.append(slope(federation, row, error_on(federation, federation.shares[k]))[0])  # of the body's first step
            heads[k] = descended(row, k, row.keys() - HEAD, options.epoch_per_round)
        body = mean_of([heads[k] for k in clients], sizes(federation, clients))
    personal = [{**body, **only(head, HEAD)} for head in heads]
    loss = torch.stack(losses) if options.epoch_per_round == 1 else None
    return {"models": {"personal": personal}, "state": {"server": only(body, body.keys() - HEAD)}, "loss": loss}


def fedala(federation, options, rounds):
    """Start at own + (received - own) * W, whose W goes down the loss there by autograd, on all examples at once, and is
    clipped to [0, 1]. The last layer alone has a W; a client that comes for the first time starts from what it received."""
    w, own, weights = federation.initial(), {}, {}
    for r in range(1, rounds + 1):
        clients = federation.at(r).sample()
        for k in clients:
            begin = w
            if k in own:
                W = weights.get(k) or {name: torch.ones_like(w[name]) for name in sorted(HEAD, reverse=True)}
                for _ in range(1 if weights.get(k) else options.ala_first):
                    W = {name: part.clone().requires_grad_() for name, part in W.items()}
                    blend = {name: own[k][name] + (w[name] - own[k][name]) * W[name] for name in W}
                    x, y = examples(federation, federation.shares[k])
                    net = network(federation, w, train=False)
                    value = F.cross_entropy(torch.func.functional_call(net, {**w, **blend}, (x,))[1], y)
                    slopes = torch.autograd.grad(value, list(W.values()))
                    steps = zip(W.items(), slopes, strict=True)
                    W = {name: (part.detach() - options.ala_lr * g).clip(0, 1) for (name, part), g in steps}
                begin = {**w, **{name: own[k][name] + (w[name] - own[k][name]) * W[name] for name in W}}
                weights[k] = W
            own[k] = pulled(federation, begin, begin, k, options, 0.0)
        w = mean_of([own[k] for k in clients], sizes(federation, clients))
    learnt = torch.cat([part.flatten() for W in weights.values() for part in W.values()])
    assert ((learnt > 0) & (learnt < 1)).any(), "weights are learnt"
    personal = [own.get(k, federation.initial()) for k in federation.clients]
    return {"models": {"global": w, "personal": personal}}


def apfl(federation, options, rounds):
    """Let w go down its own loss, and v and alpha that of the mixture alpha v + (1 - alpha) w; alpha stays in [0, 1]."""
    server, mine = federation.initial(), {}
    begin = {"v": server, "alpha": options.mixture}
    for r in range(1, rounds + 1):
        clients, rows = federation.at(r).sample(), []
        for k in clients:
            w, v, alpha = server, *mine.get(k, begin).values()
            for _ in range(options.epoch_per_round):
                mixed = {name: alpha * v[name] + (1 - alpha) * w[name] for name in w}
                g, g_w = (gradient_of(federation, row, federation.shares[k]) for row in (mixed, w))
                step = 0 if options.fixed_mixture else sum(((v[name] - w[name]) * g[name]).sum().item() for name in g)
                v, w = moved(v, g, options.lr * alpha), moved(w, g_w, options.lr)
                alpha = min(max(alpha - options.lr * step, 0.0), 1.0)
            mine[k] = {"v": v, "alpha": alpha}
            rows.append(w)
        server = mean_of(rows, sizes(federation, clients))
    personal = []
    for k in federation.clients:
        v, alpha = mine.get(k, begin).values()
        personal.append({name: alpha * v[name] + (1 - alpha) * server[name] for name in server})
    return {"models": {"global": server, "personal": personal}, "state": {"mine": mine}}


def fml(federation, options, rounds):
    """Let both networks learn in every step from the labels and from each other. The own network keeps its momentum."""

    def objective(teacher, y, x, labels):
        def value(net):
            log_p, q = net(x)[1].log_softmax(1), teacher.softmax(1)
            return labels * F.cross_entropy(net(x)[1], y) + (1 - labels) * (q * (q.log() - log_p)).sum(1).mean()

        return value

    def stepped(row, slopes, velocity):
        slopes = {name: g + options.weight_decay * row[name] for name, g in slopes.items()}
        velocity = with_momentum(slopes, velocity, options.momentum)
        return moved(row, velocity, options.lr), velocity

    shared, own = federation.initial(), [federation.initial(k) for k in federation.clients]
    kept = [{} for _ in federation.clients]
    for r in range(1, rounds + 1):
        clients, rows = federation.at(r).sample(), []
        for k in clients:
            row, fresh, (x, y) = shared, {}, examples(federation, federation.shares[k])
            for _ in range(options.epoch_per_round):
                result, shared_said = (network(federation, net)(x)[1].detach() for net in (own[k], row))
                _, g = slope(federation, own[k], objective(shared_said, y, x, options.mutual_own))
                _, g_shared = slope(federation, row, objective(result, y, x, options.mutual_shared))
                own[k], kept[k] = stepped(own[k], g, kept[k])
                row, fresh = stepped(row, g_shared, fresh)
            rows.append(row)
        shared = mean_of(rows, sizes(federation, clients))
    return {"models": {"personal": own, "global": shared}}


def fedproto(federation, options, rounds):
    """Draw a client's network to the mean features of all examples of a class. Its momentum stays with it."""
    n_classes, weights = len(federation.data.classes), [federation.initial(k) for k in federation.clients]
    velocities, sent, known = [{} for _ in federation.clients], {}, [None for _ in federation.clients]

    def objective(x, y, prototypes):
        def value(net):
            features, logits = net(x)
            drawn = sum(
                ((feature - prototypes[c]) ** 2).sum()
                for feature, c in zip(features, y.tolist(), strict=True)
                if c in prototypes
            )
            return F.cross_entropy(logits, y) + options.lambda_proto * drawn / features.numel()

        return value

    for r in range(1, rounds + 1):
        clients = federation.at(r).sample()
        for k in clients:
            x, y = examples(federation, federation.shares[k])
            for _ in range(options.epoch_per_round):
                _, g = slope(federation, weights[k], objective(x, y, known[k] or {}))
                velocities[k] = with_momentum(g, velocities[k], options.momentum)
                weights[k] = moved(weights[k], velocities[k], options.lr)
            features, _ = request(federation, weights[k], federation.shares[k])
            sent[k] = [features[y == c] for c in range(n_classes)]
        pooled = {c: torch.cat([of[c] for of in sent.values()]) for c in range(n_classes)}
        for k in clients:
            known[k] = {c: features.mean(0) for c, features in pooled.items() if len(features)}
    blank = torch.zeros(federation.skeletons[0].classifier.in_features, dtype=torch.float64)
    as_rows = [
        {
            "prototypes": torch.stack([(of or {}).get(c, blank) for c in range(n_classes)]),
            "held": torch.tensor([c in (of or {}) for c in range(n_classes)]),
        }
        for of in known
    ]
    of_client = [
        {
            "means": torch.stack([part.mean(0) if len(part) else blank for part in sent[k]]),
            "counts": torch.tensor([len(part) for part in sent[k]]),
        }
        if k in sent
        else None
        for k in federation.clients
    ]
    return {"models": {"personal": weights}, "state": {"weights": weights, "known": as_rows, "sent": of_client}}


def fedmd(federation, options, rounds):
    """Let each client step along the mean absolute difference from the mean logits of the clients of the round on public
    images, then along the cross-entropy of its own images."""
    weights, x = (
        [federation.initial(k) for k in federation.clients],
        federation.data.images(federation.public, torch.float64),
    )
    for r in range(1, rounds + 1):
        clients = federation.at(r).sample()
        consensus = sum(request(federation, weights[k], federation.public, k)[1] for k in clients) / len(clients)
        for k in clients:
            for objective in (
                lambda net, consensus=consensus: (net(x)[1] - consensus).abs().mean(),
                error_on(federation, federation.shares[k]),
            ):
                weights[k] = moved(weights[k], slope(federation, weights[k], objective, k)[1], options.lr)
    return {"models": {"personal": weights}, "state": {"weights": weights}}


def feddf(federation, options, rounds):
    """Average each architecture; the averages take full-batch steps of torch's own Adam on KL(mean logits of all models that
    were sent, student)."""
    n_models, x = len(federation.architectures), federation.data.images(federation.public, torch.float64)
    prototypes = [federation.initial(None, a) for a in range(n_models)]
    for r in range(1, rounds + 1):
        clients, sent = federation.at(r).sample(), {}
        for k in clients:
            sent[k] = prototypes[k % n_models]
            for _ in range(options.epoch_per_round):
                sent[k] = moved(
                    sent[k], slope(federation, sent[k], error_on(federation, federation.shares[k]), k)[1], options.lr
                )
        target = (sum(request(federation, row, federation.public, k)[1] for k, row in sent.items()) / len(sent)).softmax(1)
        assert federation.participation == 1 or list(sent) == [0, 2], "nobody of the second architecture is of the round"
        for a, before in enumerate(prototypes):
            own = [k for k in clients if k % n_models == a]
            average = mean_of([sent[k] for k in own], sizes(federation, own)) if own else before
            student = network(federation, average, a)
            optimizer = torch.optim.Adam(student.parameters(), lr=options.distill_lr)
            for _ in range(options.distill_epochs):
                optimizer.zero_grad()
                (target * (target.log() - student(x)[1].log_softmax(1))).sum(1).mean().backward()
                optimizer.step()
            prototypes[a] = {name: w.detach() for name, w in student.state_dict().items()}
            assert max((w - before[name]).abs().max() for name, w in prototypes[a].items()) > 1e-3, "and it has moved"
    rows = [prototypes[k % n_models] for k in federation.clients]
    return {"models": {"personal": rows} if n_models > 1 else {"global": prototypes[0]}, "state": {"server": prototypes}}


def plain_training(federation, row, indices, batches, options):
    """Train with torch's own Adam, the same for all rounds, on the batches of each -> (weights, mean loss of the last)."""
    net = network(federation, row)
    optimizer = torch.optim.Adam(net.parameters(), lr=options.lr, weight_decay=options.weight_decay)
    for of_round in batches:
        values = []
        for i in of_round:
            value = error_on(federation, indices[i])(net)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            values += [value.item()] * len(i)
    return {name: w.detach() for name, w in net.state_dict().items()}, sum(values) / len(values)


def independent(federation, options, rounds):
    """Train K times, in batches, by Adam."""
    rows, losses = [], []
    for k, share in enumerate(federation.shares):
        batches = []
        for r in range(1, rounds + 1):
            order = federation.at(r).stream("batches", k)
            orders = [torch.from_numpy(order.permutation(len(share))) for _ in range(options.epoch_per_round)]
            batches.append([i for epoch in orders for i in epoch.split(options.batch_size)])
        assert all(len(i) > 1 for of_round in batches for i in of_round), "never one left over"
        row, loss = plain_training(federation, federation.initial(k), share, batches, options)
        rows, losses = [*rows, row], [*losses, loss]
    return {"models": {"personal": rows}, "state": {"weights": rows}, "loss": torch.tensor(losses, dtype=torch.float64)}


def centralized(federation, options, rounds):
    """Train once, in batches, by Adam, on what all clients have sent, client after client. A single example that is left
    over joins the last batch."""
    pooled, batches = torch.cat([torch.as_tensor(share) for share in federation.shares]), []
    full, left = divmod(len(pooled), options.batch_size)
    lengths = [options.batch_size] * full + [left] * (left > 0)
    lengths = [*lengths[:-2], lengths[-2] + 1] if lengths[-1] == 1 else lengths
    for r in range(1, rounds + 1):
        order = federation.at(r).server(pooled).stream("batches", 0)
        orders = [torch.from_numpy(order.permutation(len(pooled))) for _ in range(options.epoch_per_round)]
        batches.append([i for epoch in orders for i in epoch.split_with_sizes(lengths)])
    row, loss = plain_training(federation, federation.initial(), pooled, batches, options)
    return {"models": {"global": row}, "state": {"pooled": pooled}, "loss": torch.tensor([loss], dtype=torch.float64)}


# --- losses ---


def row_of(model):
    return {name: w.detach().clone() for name, w in model.state_dict().items()}


def proximal_loss(federation, model, batch, extra, weight):
    """Add weight / 2 times the squared distance of all parameters, and of no buffer, to the cross-entropy."""
    net = network(federation, row_of(model))
    distance = sum(((w - extra[name]) ** 2).sum() for name, w in net.named_parameters())
    value = F.cross_entropy(net(batch.x)[1], batch.y) + weight / 2 * distance
    value.backward()
    assert len(extra) > len(list(net.parameters())), "there are buffers, which lie elsewhere too"
    return value.detach(), {name: w.grad for name, w in net.named_parameters()}


def fedprox_loss(federation, model, batch, extra, options):
    return proximal_loss(federation, model, batch, extra, options.mu)


def ditto_loss(federation, model, batch, extra, options):
    return proximal_loss(federation, model, batch, extra, options.lam)


def feddyn_loss(federation, model, batch, extra, options):
    """Count the pull to what was received in the value, and the gradient of last time only in the slopes."""
    value, slopes = proximal_loss(federation, model, batch, extra["w"], options.alpha_coef)
    return value, {name: g + extra["-g"][name] for name, g in slopes.items()}


def moon_loss(federation, model, batch, extra, options):
    """Go image by image, with two other networks in evaluation mode."""
    row, (received, previous) = row_of(model), extra
    student = network(federation, row)
    now, last = (network(federation, other, train=False) for other in (received, previous))
    features, logits = student(batch.x)
    total = 0.0
    for b in range(len(batch.y)):
        x = batch.x[b : b + 1]
        z, z_glob, z_prev = features[b], now(x)[0][0].detach(), last(x)[0][0].detach()
        s_glob = (z @ z_glob) / (z.norm() * z_glob.norm())
        s_prev = (z @ z_prev) / (z.norm() * z_prev.norm())
        e_glob, e_prev = torch.exp(s_glob / options.temperature), torch.exp(s_prev / options.temperature)
        total = total - logits[b].log_softmax(0)[batch.y[b]] - options.mu * torch.log(e_glob / (e_glob + e_prev))
    value = total / len(batch.y)
    value.backward()
    assert abs(value - F.cross_entropy(network(federation, row)(batch.x)[1], batch.y)) > 1e-3, "the term is there"
    return value.detach(), {name: w.grad for name, w in student.named_parameters()}


def pfedme_loss(federation, model, batch, extra, options):
    """Compute the envelope f(theta) + lambda / 2 ||w - theta||^2, whose gradient is lambda (w - theta)."""
    row = row_of(model)
    theta = pfedme_theta(federation, row, batch.index, options, train=True)
    at_theta, _ = slope(federation, theta, error_on(federation, batch.index))
    distance = sum(((row[name] - theta[name]) ** 2).sum() for name in row)
    return at_theta + options.lam / 2 * distance, {name: options.lam * (row[name] - theta[name]) for name in row}


def perfedavg_loss(federation, model, batch, extra, options):
    """Compute the loss of the second half after a step on the first, and its gradient there; of fewer than four, of all."""
    row, n = row_of(model), len(batch.index)
    first, second = (batch.index[: n // 2], batch.index[n // 2 :]) if n >= 4 else (batch.index, batch.index)
    _, g = slope(federation, row, error_on(federation, first))
    return slope(federation, moved(row, g, options.adapt_lr), error_on(federation, second))


def fedproto_loss(federation, model, batch, extra, options):
    """Add the mean square to the prototype of the label, image by image and of known classes alone, to the cross-entropy."""
    net = network(federation, row_of(model))
    features, logits = net(batch.x)
    total = F.cross_entropy(logits, batch.y)
    for feature, c in zip(features, batch.y, strict=True):
        if extra["held"][c]:
            total = total + options.lambda_proto * (feature - extra["prototypes"][c]).square().sum() / features.numel()
    total.backward()
    return total.detach(), {name: w.grad for name, w in net.named_parameters()}


def fml_loss(federation, model, batch, extra, options):
    """Let each learn from the labels and from the other, image by image, class by class; a teacher is a constant."""
    nets = {part: network(federation, row_of(getattr(model, part))) for part in ("own", "shared")}
    by_name = {part: net(batch.x)[1].softmax(1) for part, net in nets.items()}
    total = 0.0
    for b, label in enumerate(batch.y):
        for student, other, labels in (("own", "shared", options.mutual_own), ("shared", "own", options.mutual_shared)):
            p, q = by_name[student][b], by_name[other][b].detach()
            divergence = sum(q[c] * (q[c] / p[c]).log() for c in range(len(q)))
            total = total + (-labels * p[label].log() + (1 - labels) * divergence) / len(batch.y)
    total.backward()
    return total.detach(), {f"{part}.{name}": w.grad for part, net in nets.items() for name, w in net.named_parameters()}
