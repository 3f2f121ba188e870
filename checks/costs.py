"""What a run costs beside its kernels: memory that is given back, the Python of a step, the start of a command.

    python checks/costs.py memory            # microseconds an image, blocks given back or kept; or some of JOBS, by name
    python checks/costs.py batches           # microseconds an image of an evaluation, by its batches
    python checks/costs.py pooling           # microseconds an image of an evaluation, pooled by torch and by slices
    python checks/costs.py step              # microseconds a step: of Chorus, of a bare loop, and where they go
    python checks/costs.py stacked           # local training of ten clients: one after another, and --stacked 5 and 10
    python checks/costs.py start             # seconds until an answer, and until the first step

Medians of what is measured in turn, one thread each; but for the seconds of *start* it is time of the processor, which other
work on the machine changes less than that of the clock. Each job of *memory* is a process of its own, since memory that was
kept stays. *step* has a bare loop of the same layout: the same network, batches gathered and normalised alike, the optimizer
of torch.optim; nothing is counted in it, or checked.
"""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from types import SimpleNamespace

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

TIMES, SECONDS = 3, 1.5
# name: (model, batch size, precision); of 32x32 colour images, or, of a LeNet5, of 28x28 grey ones
JOBS = {
    "evaluate ResNet8": ("ResNet8", 250, "float32"),
    "evaluate ResNet19": ("ResNet19", 250, "float32"),
    "evaluate CNN4": ("CNN4", 250, "float32"),
    "evaluate LeNet5": ("LeNet5", 250, "float32"),
    "evaluate LeNet5_classic": ("LeNet5_classic", 250, "float32"),
    "train ResNet8": ("ResNet8", 64, "float32"),
    "train ResNet56": ("ResNet56", 64, "float32"),
    "train ResNet56 bf16": ("ResNet56", 64, "bf16"),
    "train LeNet5": ("LeNet5", 32, "float32"),
    "train MobileNet": ("MobileNet", 50, "float32"),
    "train CNN4": ("CNN4", 50, "float32"),
}
STEPS = {  # model, batch size, optimizer
    "LeNet5_classic, 32, SGD": ("LeNet5_classic", 32, "sgd"),
    "LeNet5_classic, 10, SGD": ("LeNet5_classic", 10, "sgd"),
    "LeNet5_classic, 32, Adam": ("LeNet5_classic", 32, "adam"),
    "MLP, 10, SGD": ("MLP", 10, "sgd"),
}


def of_one(model: str, n: int, precision: str = "float32"):
    """A federation of one client with n random images."""
    import numpy as np

    import models
    from data.datasets import from_arrays
    from federation import Federation

    shape = (16, 32, 32) if model == "ResNet19" else (1, 28, 28) if model.startswith(("LeNet5", "MLP")) else (3, 32, 32)
    draw = np.random.default_rng(0)
    x, y = draw.integers(0, 256, (n, *shape), dtype=np.uint8), draw.integers(0, 10, n)
    data = from_arrays("random", (x, y), (x[:1], y[:1]), tuple("0123456789"))
    return Federation.of(data, [np.arange(n)], [partial(models.make, model, shape, 10, 84)], precision=precision)


def options_of(batch_size: int, optimizer: str = "sgd"):
    """What `helpers.train` reads."""
    others = {"momentum": 0.0, "weight_decay": 0.0, "clip_grad": 0.0, "augment": "none", "lr_schedule": "constant"}
    others |= {"straggler": 0.0, "stacked": 1}
    return SimpleNamespace(batch_size=batch_size, optimizer=optimizer, lr=1e-3, rounds=1, epoch_per_round=1, **others)


def a_call(do: Callable[[], object], seconds: float = SECONDS) -> float:
    """Seconds of the processor for a call, mean over as many as fit, after one."""
    do()
    calls, began = 0, time.process_time()
    while (taken := time.process_time() - began) < seconds:
        do()
        calls += 1
    return taken / calls


# --- memory ------------------------------------------------------------------------------------------------------------


def job(name: str, batch: int | None = None) -> dict[str, float]:
    """Microseconds and page faults an image, and the peak of this process in MB."""
    import torch

    from experiment.evaluation import _scores
    from helpers import cross_entropy, train

    torch.set_num_threads(1)
    model, size, precision = JOBS[name]
    n = 4 * max(size, batch or 0)
    federation = of_one(model, n, precision).at(1)
    weights, everything = federation.initial(0), torch.arange(n)

    def evaluate():
        import experiment.evaluation as evaluation

        evaluation.EVALUATION_BATCH = batch or size
        _scores(federation, 0, federation.model(0, weights), everything)

    def trained():
        train(federation, [0], [weights], cross_entropy, options_of(size))

    do = evaluate if name.startswith("evaluate") else trained
    do()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    do()
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    microseconds = a_call(do) / n * 1e6
    return {"us": microseconds, "faults": faults / n, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def apart(*words: str) -> dict[str, float]:
    """What a process of this file says of a job."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "one", *words]
    return json.loads(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)


def print_row(name: str, flags: str, batch: str = "") -> None:
    """A job in this process, with memory given back or kept."""
    from federation import allocator

    if flags == "kept":
        assert allocator.keep_blocks()
    print(json.dumps(job(name, int(batch) if batch else None)))


def memory(*names: str) -> None:
    print(f"{'':<26}{'us an image':>20}{'ratio':>7}{'faults an image':>18}{'peak, MB':>14}")
    print(f"{'':<26}{'given back':>12}{'kept':>8}{'':>7}{'given back':>12}{'kept':>6}{'back':>8}{'kept':>6}")
    for name in names or JOBS:
        result: dict[str, list] = {"back": [], "kept": []}
        for _ in range(TIMES):
            for flags, actual in result.items():
                actual.append(apart(name, flags))
        (us, kept_us), (faults, kept_faults), (peak, kept_peak) = (
            [median(reported[what] for reported in result[settings]) for settings in result]
            for what in ("us", "faults", "peak")
        )
        line = f"{name:<26}{us:>12.0f}{kept_us:>8.0f}{us / kept_us:>7.2f}{faults:>12.1f}{kept_faults:>6.1f}"
        print(f"{line}{peak:>8.0f}{kept_peak:>6.0f}", flush=True)


def batches(*names: str) -> None:
    sizes = (25, 50, 100, 250, 500, 1000)
    print(f"{'us an image, memory kept':<26}" + "".join(f"{size:>8}" for size in sizes))
    for name in names or [name for name in JOBS if name.startswith("evaluate")]:
        outputs = [[apart(name, "kept", str(size))["us"] for size in sizes] for _ in range(TIMES)]
        print(f"{name:<26}" + "".join(f"{median(of_size):>8.0f}" for of_size in zip(*outputs, strict=True)), flush=True)


def pooling() -> None:
    import torch
    from torch import nn

    import models
    from experiment.evaluation import _scores
    from federation import allocator

    allocator.keep_blocks()
    torch.set_num_threads(1)
    ways = {"torch": nn.MaxPool2d.forward, "slices": models.MaxPool.forward}
    print(f"{'us an image':<26}" + "".join(f"{way:>9}" for way in ways) + f"{'ratio':>7}")
    for name in ("LeNet5_classic", "LeNet5", "CNN4", "ResNet9"):
        federation, everything, result = of_one(name, 1000).at(1), torch.arange(1000), {way: [] for way in ways}
        model = federation.model(0, federation.initial(0))
        for _ in range(2 * TIMES + 1):
            for way, models.MaxPool.forward in ways.items():
                result[way].append(a_call(partial(_scores, federation, 0, model, everything), SECONDS / 4) * 1e3)
        torchs, slices = (median(taken) for taken in result.values())
        print(f"{name:<26}{torchs:>9.1f}{slices:>9.1f}{torchs / slices:>7.2f}", flush=True)


# --- a step ------------------------------------------------------------------------------------------------------------


def step() -> None:
    import torch

    from federation import allocator

    allocator.keep_blocks()
    torch.set_num_threads(1)
    parts = ("Chorus", "bare", "both ways", "optimizer", "images")
    print(f"{'us a step':<26}" + "".join(f"{part:>11}" for part in (*parts, "the rest")) + f"{'ratio':>8}")
    for name, options in STEPS.items():
        calls, result = of_a_step(*options), {part: [] for part in parts}
        for _ in range(2 * TIMES + 1):
            for part, (do, steps) in calls.items():
                result[part].append(a_call(do, SECONDS / 4) / steps * 1e6)
        us = {part: median(taken) for part, taken in result.items()}
        rest = us["Chorus"] - us["both ways"] - us["optimizer"] - us["images"]
        line = f"{name:<26}" + "".join(f"{us[part]:>11.1f}" for part in parts)
        print(f"{line}{rest:>11.1f}{us['Chorus'] / us['bare']:>8.3f}", flush=True)


def of_a_step(model: str, size: int, optimizer: str) -> dict[str, tuple[Callable[[], object], int]]:
    """{part: (what does it, for how many steps)}."""
    import torch
    import torch.nn.functional as F

    from federation import optimizers
    from helpers import cross_entropy, train

    n_batches = 40
    federation, options = of_one(model, n_batches * size).at(1), options_of(size, optimizer)
    data, share, weights = federation.data, federation.shares[0], federation.initial(0)
    net = federation.architectures[0]().to(memory_format=torch.channels_last).train()
    kind = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[optimizer]
    mean, std = (values.float().view(-1, 1, 1) for values in (data.mean, data.std))

    def bare():
        net.load_state_dict(weights)
        torchs = kind(net.parameters(), lr=options.lr)
        for i in torch.randperm(len(share)).split(size):
            indices = share[i]
            x = data.x[indices].float().sub_(mean).div_(std).clone(memory_format=torch.channels_last)
            torchs.zero_grad()
            F.cross_entropy(net(x)[1], data.y[indices]).backward()
            torchs.step()

    indices = share[:size]
    x, y = data.images(indices), data.y[indices]
    trained = dict(net.named_parameters())
    memory = optimizers.recalled(None, trained)

    def both_ways():
        for parameter in trained.values():
            parameter.grad = None
        F.cross_entropy(net(x)[1], y).backward()

    return {
        "Chorus": (lambda: train(federation, [0], [weights], cross_entropy, options), n_batches),
        "bare": (bare, n_batches),
        "both ways": (both_ways, 1),
        "optimizer": (lambda: optimizers.OPTIMIZERS[optimizer](trained, memory, options.lr, options), 1),
        "images": (lambda: data.images(share[indices]), 1),
    }


# --- stacked clients ---------------------------------------------------------------------------------------------------

STACKED = {  # model, examples of a client, batch size, optimizer
    "LeNet5_classic, 600, 32, SGD": ("LeNet5_classic", 600, 32, "sgd"),
    "LeNet5_classic, 300, 10, SGD": ("LeNet5_classic", 300, 10, "sgd"),
    "LeNet5, 240, 32, Adam": ("LeNet5", 240, 32, "adam"),
    "MLP, 100, 10, SGD": ("MLP", 100, 10, "sgd"),
    "CNN_McMahan, 100, 10, SGD": ("CNN_McMahan", 100, 10, "sgd"),
    "CNN4, 100, 50, SGD": ("CNN4", 100, 50, "sgd"),
    "ResNet8, 128, 64, SGD": ("ResNet8", 128, 64, "sgd"),
}


def stacked(*names: str) -> None:
    import torch

    from federation import allocator
    from helpers import cross_entropy, train

    allocator.keep_blocks()
    torch.set_num_threads(1)
    ways = (1, 5, 10)
    print(f"{'ms a round of ten clients':<32}" + "".join(f"{way:>9}" for way in ways) + f"{'ratios':>14}")
    for name in names or STACKED:
        model, n, size, optimizer = STACKED[name]
        federation = of_one(model, 10 * n)
        federation = replace(federation, shares=federation.shares[0].split(n)).at(1)
        rows, timings = [federation.initial()] * 10, {way: [] for way in ways}
        for _ in range(2 * TIMES + 1):
            for way in ways:
                options = SimpleNamespace(**{**vars(options_of(size, optimizer)), "stacked": way})
                began = time.process_time()
                train(federation, range(10), rows, cross_entropy, options)
                timings[way].append((time.process_time() - began) * 1e3)
        ms = [median(taken[1:]) for taken in timings.values()]  # of the first round, operations are counted
        ratios = "".join(f"{ms[0] / part:>7.2f}" for part in ms[1:])
        print(f"{name:<32}" + "".join(f"{part:>9.0f}" for part in ms) + ratios, flush=True)


# --- the start ---------------------------------------------------------------------------------------------------------

FIRST_STEP = """
import sys, time
now = time.process_time
began = now()
import torch
torch_in = now()
import run
imported = now()
first, backward = [], torch.Tensor.backward
def noted(*given, **flags):
    first.append(now())
    return backward(*given, **flags)
torch.Tensor.backward = noted
run.main(sys.argv[1:])
print(torch_in - began, imported - torch_in, first[0] - imported, now(), len(sys.modules))
"""
RUN = "fedavg --dataset {} --n_clients 5 --rounds 2 --reduced 0.2 --threads 1 --quiet --force --export_dir {}"


def start() -> None:
    import tempfile

    # as for anybody, whose Python keeps what it has compiled
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    run = partial(subprocess.run, cwd=ROOT, env=environment, capture_output=True, text=True)
    run([sys.executable, "run.py", "-h"], check=True)
    with tempfile.TemporaryDirectory() as folder:
        data = [name for name in ("digits", "MNIST") if name == "digits" or (ROOT / "data" / name / "raw").exists()]
        commands = {
            "python -c 'import torch'": ["-c", "import torch"],
            "run.py -h": ["run.py", "-h"],
            "run.py fedavg --rounds x": ["run.py", "fedavg", "--rounds", "x"],
            "run.py ... --plan": ["run.py", *RUN.format("digits", folder).split(), "--plan"],
            **{f"run.py ..., {name}": ["run.py", *RUN.format(name, folder).split()] for name in data},
        }
        taken, worked = {name: [] for name in commands}, {name: [] for name in commands}
        by_name = {name: [] for name in data}
        for _ in range(TIMES):
            for name, words in commands.items():
                began, before = time.perf_counter(), _of_children()
                run([sys.executable, *words], check=False)
                taken[name].append(time.perf_counter() - began)
                worked[name].append(_of_children() - before)
            for name in data:
                words = [sys.executable, "-c", FIRST_STEP, *RUN.format(name, folder).split()]
                done = run(words, check=True)
                by_name[name].append([float(word) for word in done.stdout.split()[-5:]])
    for name, seconds in taken.items():
        print(f"{median(seconds):>7.2f} s, {median(worked[name]):>5.2f} s of the processor  {name}")
    for name, rows in by_name.items():
        torch_in, imports, first, whole, modules = (median(column) for column in zip(*rows, strict=True))
        print(
            f"a run, {name}, of the processor: torch imported in {torch_in:.2f} s, the rest in {imports:.2f} s, first step "
            f"{first:.2f} s after that, over after {whole:.2f} s; {modules:.0f} modules"
        )


def _of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    parts = {"memory": memory, "batches": batches, "pooling": pooling, "step": step, "stacked": stacked, "start": start}
    parts["one"] = print_row
    parts[sys.argv[1]](*sys.argv[2:])
