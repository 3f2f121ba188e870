"""A command waits for no library that it has no use for."""

import subprocess
import sys

import pytest
from conftest import ROOT

WEIGHTY = (
    *(
        "networkx",
        "pandas",
        "matplotlib",
        "sklearn",
        "torchvision",
        "scipy",
        "openpyxl",
        "plotly",
        "jinja2",
        "PIL",
        "tabulate",
    ),
    *("torch._dynamo", "torch._inductor", "sympy"),
)
LOADED = f"""
import gc, sys, torch
import run
assert id(torch.nn.Linear) not in map(id, gc.get_objects()), "the end of the process would search all modules"
try:
    run.main(sys.argv[1:])
finally:
    print(*(name for name in {WEIGHTY} if name in sys.modules), sep="\\n", file=sys.stderr)
"""
A_RUN = "--dataset digits --n_clients 2 --rounds 1 --reduced 0.05 --model MLP --ft_epochs 1 --quiet"
SAVED = {"pandas", "openpyxl", "matplotlib", "PIL"}  # the history, the workbook, the picture of the split


@pytest.mark.parametrize(
    ("command", "used"),
    [
        ("-h", set()),
        ("fedavg -h", set()),
        ("fedavg --rounds x", set()),
        ("fedavg --dataset nowhere.npz", set()),
        ("fedavg --show_split --dataset digits", {"matplotlib", "PIL"}),
        (f"fedavg --plan {A_RUN}", {"pandas", "tabulate"}),
        (f"fedavg {A_RUN}", SAVED),
        (f"cfkd --optimizer sgd {A_RUN}", SAVED),
        (f"fedgkt --server_model ResNet5 --optimizer amsgrad --precision bf16 {A_RUN.replace('MLP', 'ResNet4')}", SAVED),
        (f"dpsgd {A_RUN}", SAVED | {"networkx", "scipy"}),  # the picture of the graph
    ],
)
def test_a_command_imports_no_library_that_it_has_no_use_for(command, used, tmp_path):
    words = [sys.executable, "-c", LOADED, *command.split(), *(["--export_dir", str(tmp_path)] * ("-h" not in command))]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    loaded = {name for name in done.stderr.splitlines() if name in WEIGHTY}
    assert loaded == used, done.stderr
