"""The optimizers are torch's, to the bit, with the memory by name."""

from types import SimpleNamespace

import pytest
import torch

from federation.optimizers import OPTIMIZERS, recalled

CASES = {
    "SGD": ("sgd", {}, torch.optim.SGD),
    "SGD, momentum": ("sgd", {"momentum": 0.9}, torch.optim.SGD),
    "SGD, momentum and decay": ("sgd", {"momentum": 0.9, "weight_decay": 0.1}, torch.optim.SGD),
    "Adam": ("adam", {}, torch.optim.Adam),
    "Adam, decay": ("adam", {"weight_decay": 0.1}, torch.optim.Adam),
    "AMSGrad, decay": ("amsgrad", {"weight_decay": 0.1}, lambda p, **flags: torch.optim.Adam(p, amsgrad=True, **flags)),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("case", CASES)
def test_a_step_and_what_is_remembered_are_those_of_torchs_class_to_the_bit(case, dtype):
    """Whatever the layout of a weight, and where one has no gradient at first, at times, or never."""
    name, flags, torchs = CASES[case]
    draw = torch.Generator().manual_seed(0)
    shapes = {"matrix": (7, 5), "images": (4, 3, 5, 5), "bias": (7,), "late": (3,), "never": (2,)}
    start = {n: torch.randn(shape, generator=draw, dtype=dtype) for n, shape in shapes.items()}
    start["images"] = start["images"].to(memory_format=torch.channels_last)
    ours, theirs = ({n: w.clone().requires_grad_() for n, w in start.items()} for _ in range(2))
    options = SimpleNamespace(**{"momentum": 0.0, "weight_decay": 0.0, **flags})
    memory, optimizer = recalled(None, ours), torchs(theirs.values(), lr=0.05, **flags)
    for step in range(20):
        for n in start:
            has_none = n == "never" or (n == "late" and step < 3) or (n == "bias" and step % 4 == 2)
            grad = None if has_none else torch.randn(shapes[n], generator=draw, dtype=dtype) * 10.0 ** (step - 10)
            ours[n].grad = theirs[n].grad = grad
        OPTIMIZERS[name](ours, memory, 0.05, options)
        optimizer.step()
        for n in start:
            assert torch.equal(ours[n], theirs[n])
            assert ours[n].stride() == theirs[n].stride()
            remembered = optimizer.state[theirs[n]]
            assert memory[n].keys() == remembered.keys()
            for key, value in remembered.items():
                assert torch.equal(memory[n][key], value)
                assert (memory[n][key].dtype, memory[n][key].stride()) == (value.dtype, value.stride())


def test_memory_is_recalled_as_copies_and_of_the_names_that_are_asked_for():
    kept = {"a": {"step": torch.tensor(3.0), "word": "x"}, "b": {"step": torch.tensor(4.0)}}
    again = recalled(kept, ["a", "c"])
    again["a"]["step"] += 1
    assert again == {"a": {"step": torch.tensor(4.0), "word": "x"}, "c": {}}
    assert kept["a"]["step"] == 3.0
