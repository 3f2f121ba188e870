"""Plugins that interfere: each is refused in one line, or leaves the runs beside it as they are. What a plugin has changed
never passes for the run of the same command without it.

Each row of `PLUGINS` is a file that a command brings along. The command runs twice, with and without it, each in a process
of its own.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

from checks.hard import Outcome, methods
from checks.hard.forks import Ended, Forks, Plan

COMMAND = (
    "fedavg --dataset digits --reduced 0.1 --n_clients 2 --model MLP --rounds 2 --batch_size 16 --jobs 1 --workers 1 --quiet"
)
LATER = """
import threading, time
def later():
    for _ in range(200):
        time.sleep(0.01)
        {}
threading.Thread(target=later, daemon=True).start()
"""
HALF = """
import models
forward = models.Net.forward
models.Net.forward = lambda self, x: (forward(self, x)[0], 0.5 * forward(self, x)[1])
"""
PLUGINS: dict[str, str | bytes] = {
    # of Chorus
    "a network's forward": HALF,
    "the code of a function": "import helpers\ndef other(*of): return of\nhelpers.train.__code__ = other.__code__",
    "the average": "import helpers\nhelpers.average = lambda rows, *given: rows[0]",
    "a default of a function": "import models\nmodels.Net.forward.__defaults__ = (3,)",
    "a table's entry": "from models import MODELS\nMODELS['MLP'] = MODELS['2NN']",
    "a table, emptied": "from models import MODELS\nMODELS.clear()",
    "the streams": "import numpy, streams\nstreams.generator = lambda *given: numpy.random.default_rng(0)",
    "the digests of saved files": "import saves.files\nsaves.files.checked = lambda path, digest: path",
    "what names a run": "from experiment import identity\nidentity.name_of = lambda config: 'fedavg-digits-0'",
    "the flags' defaults": "import options\noptions.Options.lr = 0.5",
    "a constant": "import experiment.checkpoints\nexperiment.checkpoints.SECONDS = 10**9",
    "a module, replaced": "import sys, types\nsys.modules['helpers'] = types.ModuleType('helpers')",
    "a module, removed": "import sys\ndel sys.modules['federation.wire']",
    "a subclass hook": "import models\nmodels.MLP.__class_getitem__ = print\nmodels.Net.parameters = lambda self: iter(())",
    "a built-in": "import builtins\nbuiltins.sum = max",
    # of torch, numpy and Python
    "torch's default dtype": "import torch\ntorch.set_default_dtype(torch.float64)",
    "torch's default device": "import torch\ntorch.set_default_device('meta')",
    "torch's gradients": "import torch\ntorch.set_grad_enabled(False)",
    "torch's random numbers": "import torch\ntorch.manual_seed(5)\ntorch.rand(3)",
    "torch's threads": "import torch\ntorch.set_num_threads(3)",
    "torch's cross entropy": "import torch.nn.functional as F\nF.cross_entropy = lambda x, y, **named: x.sum() * 0",
    "a layer of torch": "from torch import nn\nnn.Linear.forward = lambda self, x: x[:, :1].repeat(1, self.out_features)",
    "a hook of every module": "from torch.nn.modules import module\nmodule.register_module_forward_hook(lambda *of: of[2])",
    "numpy's random numbers": "import numpy\nnumpy.random.seed(1)",
    "numpy's errors": "import numpy\nnumpy.seterr(all='raise')",
    "numpy's mean": "import numpy\nnumpy.mean = numpy.max",
    "Python's random numbers": "import random\nrandom.seed(1)",
    "the depth of recursion": "import sys\nsys.setrecursionlimit(120)",
    # of the process
    "sys.exit": "import sys\nsys.exit(0)",
    "sys.exit with words": "import sys\nsys.exit('all is well')",
    "an error": "1 / 0",
    "an interrupt of its own": "raise RuntimeError('a\\nline\\nTraceback (most recent call last):')",
    "os.chdir": "import os\nos.chdir('/')",
    "sys.stdout": "import sys, io\nsys.stdout = io.StringIO()",
    "sys.stderr": "import sys, io\nsys.stderr = io.StringIO()",
    "print": "print('a line of its own')",
    "sys.argv": "import sys\nsys.argv[:] = ['run.py', 'independent']",
    "sys.path": "import sys\nsys.path.insert(0, '/nowhere')",
    "the environment": "import os\nos.environ.update(OMP_NUM_THREADS='7', TMPDIR='/nowhere', PYTHONHASHSEED='3')",
    "logging": "import logging\nlogging.disable(logging.CRITICAL)",
    "warnings are errors": "import warnings\nwarnings.simplefilter('error')",
    "signals": "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)",
    "an exception hook": "import sys\nsys.excepthook = print",
    "a thread that only waits": LATER.format("pass"),
    "a thread that changes Chorus later": LATER.format("import models; models.Net.forward = lambda self, x: (x, x)"),
    "a thread that changes torch later": LATER.format("import torch; torch.manual_seed(3)"),
    "a process": "import os\nif not os.fork():\n    os._exit(0)",
    # of its file
    "latin-1": "# -*- coding: latin-1 -*-\nNAME = 'é'\n".encode("latin-1"),
    "latin-1 that is not said": "NAME = 'é'\n".encode("latin-1"),
    "no text": b"\x00\xff\x00",
    "UTF-16": "NAME = 1\n".encode("utf-16"),
    "half a line": "def later(:\n",
    "brackets": "x = " + "(" * 500 + ")" * 500,
    "nothing": "",
}


def tried(seed: int) -> Outcome:
    """Each of `PLUGINS`; nothing is drawn."""
    outcome = Outcome(dict.fromkeys(("plugins", "refused in one line", "left the run as it is", "named another run"), 0))
    with tempfile.TemporaryDirectory(dir="/tmp") as scratch, Forks() as forks:
        plain = Path(scratch) / "plain"
        plain.mkdir()
        assert _run(forks, plain).status == 0
        for number, name in enumerate(PLUGINS):
            outcome.count("plugins")
            place = Path(scratch) / str(number)
            place.mkdir()
            for line in held_to(name, place, plain, forks, outcome):
                outcome.failures.append(f"{name}: {line}")
    return outcome


def held_to(name: str, place: Path, plain: Path, forks: Forks, outcome: Outcome) -> Iterator[str]:
    """Run the command with a plugin, and hold it to what is promised; yields what is wrong. `plain` has the run without."""
    text = PLUGINS[name]
    (place / "brought.py").write_bytes(text if isinstance(text, bytes) else text.encode())
    ended = _run(forks, place, "--plugin", str(place / "brought.py"))
    lines = ended.output.strip().splitlines()
    if any(line.startswith("Traceback") for line in lines):
        yield f"a traceback: {ended.output[-400:]!r}"
    elif ended.status:
        refused = ended.status in (1, 2) and len(lines) == 1 and "brought.py" in lines[0]
        outcome.count("refused in one line", int(refused))
        if not refused:
            yield f"exit status {ended.status}, {len(lines)} lines that must be one and name the file: {lines[-2:]}"
    expected, result = methods.runs_in(plain / "saves"), methods.runs_in(place / "saves")
    if not ended.status and not result:
        yield "exit status 0, and no run is there"
    for folder, run in result.items():
        if folder not in expected:
            outcome.count("named another run")
        elif apart := methods.apart(expected[folder], run):
            yield f"passes for the run without it: {', '.join(apart[:4])}"
        else:
            outcome.count("left the run as it is")


def _run(forks: Forks, place: Path, *more: str) -> Ended:
    return forks.run(Plan([*COMMAND.split(), *more, "--export_dir", str(place / "saves")], str(place)))
