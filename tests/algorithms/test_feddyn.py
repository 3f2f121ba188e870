"""FedDyn: its fixed point."""

import oracles
import pytest
from conftest import WHOLE, away, drifting, gradient_of, optimum, options_for

from algorithms import feddyn


@pytest.mark.parametrize("alpha", [0.01, 1.0])
def test_where_all_clients_are_at_the_minimum_of_all_with_their_gradients_nothing_moves(alpha):
    # there the gradient of a client's objective is grad L_k - g_k + 0 = 0, and h, the mean of the g_k, is 0
    federation, decay = drifting(participation=0.7), 0.1
    flags = options_for("feddyn", alpha_coef=alpha, weight_decay=decay, batch_size=WHOLE, epoch_per_round=3)
    best = optimum(federation, decay)
    slopes = [gradient_of(federation, best, share) for share in federation.shares]
    g = {k: {name: slope[name] + decay * best[name] for name in best} for k, slope in enumerate(slopes)}
    state = {**feddyn.start(federation, flags), "server": best, "g": g}
    for r in (1, 2, 3):
        feddyn.communicate(federation.at(r), state, flags)
        assert away(state["server"], best) < 1e-10
        assert away(state["h"], oracles.zeros(best)) < 1e-10
        assert all(away(state["g"][k], g[k]) < 1e-10 for k in federation.clients)
    assert max(away(row, oracles.zeros(row)) for row in g.values()) > 0.1, "alone they would leave"
