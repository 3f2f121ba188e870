"""Ditto: what its two trainings cost."""

from conftest import options_for, play, tiny_federation


def test_both_trainings_of_a_round_are_the_clients_steps():
    run, other = tiny_federation(), tiny_federation()
    play(run, options_for("ditto"))
    play(other, options_for("fedavg"))
    for k in run.clients:
        for what in ("steps", "samples", "flops"):
            assert run.meter.spent[what, "client", k] == 2 * other.meter.spent[what, "client", k]
