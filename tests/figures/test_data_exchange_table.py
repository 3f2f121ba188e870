"""Which runs are the grid of the data exchange; the table and its picture are in tests/test_figures.py, beside real runs."""

from test_targets import saved

from figures import data_exchange_table


def test_of_all_runs_those_of_the_grid_are_found_with_every_seed(tmp_path):
    grid = {**data_exchange_table.SETTING, "digit_num": 2, "share_ratio": 0.2, "aggr_model": "de", "mixing": "uniform"}
    runs = [saved(tmp_path, **grid, seed=seed) for seed in (0, 1)] + [saved(tmp_path, **grid | {"aggr_model": "ps"})]
    for other in ({"mixing": "metropolis"}, {"digit_num": 3}, {"topology": "ring"}, {"rounds": 9}, {"model": ["LeNet5"]}):
        saved(tmp_path, **grid | other)
    found = {cell: {run.folder for run in seeds} for cell, seeds in data_exchange_table.cells(tmp_path).items()}
    assert found == {(2, 0.2, "uniform"): {run.folder for run in runs[:2]}, (2, 0.2, "ps"): {runs[2].folder}}
