"""Where the clients' representations lie, round by round, of saved runs made with `--track_features`.

    python -m figures.representations RUN [RUN ...] --method tsne --rounds 1 10 25 -o representations.png

A row a run, a column a round; a dot is a training example in the feature space of its client's model, in two dimensions:
its colour is the class, its marker the client. With PCA the axes are those of the run's last round, and movement over rounds
is seen; with t-SNE every panel has its own. All clients of a run, shown or not, are embedded together.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from errors import UserError
from figures import command, finished, panels
from figures.curves import MARKERS
from figures.groups import Group, check, name_of, ordered, seed_of
from figures.split import MANY_CLASSES
from saves import Run

COLUMNS = 6  # rounds, and as many clients as there are markers, where none are asked for
PERPLEXITY = 30  # of t-SNE


def features(run: Run) -> tuple[list[int], np.ndarray, np.ndarray, np.ndarray]:
    """What a run kept of all its clients together: the rounds [T], the features float [T, N, D] of N examples, and of each
    its class, int [N], and its client, int [N]. Raises UserError for a run that kept none, where clients' features
    differ in length, and where there are less than two of two."""
    saved = run.arrays("features")
    if saved is None:
        raise UserError(f"{run.folder}: kept no features; --track_features N, with --force, runs it anew")
    clients = range(sum(name.startswith("features_") for name in saved))
    of_clients = [saved[f"features_{k}"] for k in clients]
    if len(lengths := sorted({values.shape[2] for values in of_clients})) > 1:
        told = " and ".join(map(str, lengths))
        raise UserError(f"{run.folder}: its clients' features have no common axes, they are of {told} numbers")
    if lengths[0] < 2 or sum(values.shape[1] for values in of_clients) < 2:
        raise UserError(f"{run.folder}: a plane takes two examples of two features at least")
    classes = np.concatenate([saved[f"labels_{k}"] for k in clients])
    whose = np.repeat(clients, [values.shape[1] for values in of_clients])
    return saved["rounds"].tolist(), np.concatenate(of_clients, axis=1), classes, whose


def embedded(values: np.ndarray, method: str = "pca") -> np.ndarray:
    """Features float [T, N, D] in two dimensions, float [T, N, 2]: by "pca" on the axes of the last of T, or each of T by
    "tsne"; the same whenever it is repeated."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    if method == "pca":
        axes = PCA(n_components=2, random_state=0).fit(values[-1])
        return np.array([axes.transform(of_round) for of_round in values])
    perplexity = min(PERPLEXITY, (values.shape[1] - 1) / 3)
    return np.array([TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(of_round) for of_round in values])


def draw(
    runs: Sequence[Run],
    path: Path | None = None,
    method: str = "pca",
    rounds: Sequence[int] | None = None,
    clients: Sequence[int] | None = None,
):
    """The representations as a figure, written to a PNG or PDF where there is a path. `rounds`: by default up to COLUMNS of
    those that all runs kept; `clients`: by default as many. Raises UserError for runs that are not to be compared, for
    rounds or clients that they did not keep, and as `features`."""
    check(runs)
    found = ordered(runs)
    rows = [(_label(run, group, found), run) for group in found for run in group.runs]
    kept = [features(run) for _, run in rows]
    columns, shown = rounds_shown([of_run[0] for of_run in kept], rounds), _clients(runs, clients)
    class_names = runs[0].arrays("features")["classes"]
    colours = colours_of(len(class_names))
    scale = "row" if method == "pca" else "none"
    figure, grid = panels(len(rows), len(columns), 2.1, 2.1, sharex=scale, sharey=scale)
    for row, (label, _), (there, values, classes, whose) in zip(grid, rows, kept, strict=True):
        places = [there.index(r) for r in columns]
        # with PCA the last round that was kept is there for its axes, shown or not
        points = embedded(values[[*places, -1]])[:-1] if method == "pca" else embedded(values[places], method)
        for axes, of_round in zip(row, points, strict=True):
            for k, marker in zip(shown, MARKERS * len(shown), strict=False):
                own = whose == k
                how = {"c": colours[classes[own]], "marker": marker, "s": 14, "linewidths": 0, "alpha": 0.75}
                axes.scatter(*of_round[own].T, **how)
            axes.set(xticks=[], yticks=[])
        row[0].set_ylabel(label)
    for axes, r in zip(grid[0], columns, strict=True):
        axes.set_title(f"round {r}", fontsize=10)
    _legend(figure, class_names, colours, shown)
    return finished(figure, path)


def _label(run: Run, group: Group, found: Sequence[Group]) -> str:
    seeds = "\nseed {}, split {}".format(*seed_of(run)) if any(len(group.runs) > 1 for group in found) else ""
    return name_of(group, found) + seeds


def rounds_shown(kept: Sequence[Sequence[int]], asked: Sequence[int] | None = None) -> list[int]:
    """Of the rounds that each of some runs kept those that are drawn: the ones asked for, or up to COLUMNS that all of them
    kept, evenly spaced, the first and the last included. Raises UserError for one that is not there, and for none."""
    common = sorted(set(kept[0]).intersection(*kept))
    told = ", ".join(map(str, common)) or "none"
    if wrong := [r for r in asked or () if r not in common]:
        raise UserError(f"--rounds {wrong[0]}: features of all these runs were kept of rounds {told}")
    if not common:
        raise UserError("these runs kept features of no round in common")
    places = np.linspace(0, len(common) - 1, min(COLUMNS, len(common))).round().astype(int)
    return list(asked or [common[place] for place in places])


def _clients(runs: Sequence[Run], asked: Sequence[int] | None) -> list[int]:
    n_clients = min(run.options["n_clients"] for run in runs)
    if wrong := [k for k in asked or () if not 0 <= k < n_clients]:
        raise UserError(f"--clients {wrong[0]}: the clients of these runs are 0 to {n_clients - 1}")
    return list(asked or range(min(n_clients, len(MARKERS))))


def colours_of(n_classes: int) -> np.ndarray:
    """A colour a class, [C, 4]: ten that are told apart by colour-blind readers, or as many as it takes, less well."""
    import matplotlib
    from matplotlib.colors import to_rgba_array

    ten = matplotlib.color_sequences["petroff10"]
    return to_rgba_array(ten[:n_classes]) if n_classes <= 10 else matplotlib.colormaps["turbo"](np.linspace(0, 1, n_classes))


def _legend(figure, class_names: Sequence[str], colours: np.ndarray, shown: Sequence[int]) -> None:
    """Classes by colour, clients by marker."""
    from matplotlib.lines import Line2D

    def of(name: str, **how):
        return Line2D([], [], linestyle="", label=name, **how)

    how = {"frameon": False, "fontsize": 8}
    if len(class_names) <= MANY_CLASSES:
        classes = [of(f"class {name}", marker="o", color=c) for name, c in zip(class_names, colours, strict=True)]
        figure.legend(handles=classes, loc="outside lower center", ncols=max(2, int(figure.get_figwidth() / 1.2)), **how)
    clients = [
        of(f"client {k}", marker=marker, color="#444444") for k, marker in zip(shown, MARKERS * len(shown), strict=False)
    ]
    figure.legend(handles=clients, loc="outside right center", **how)


def main(argv: Sequence[str] | None = None) -> None:
    parser = command.parser("representations", __doc__)
    parser.add_argument("--method", choices=("pca", "tsne"), default="pca", help="to two dimensions (default: pca)")
    parser.add_argument("--rounds", type=int, nargs="+", metavar="R", help=f"which (default: up to {COLUMNS} of those kept)")
    parser.add_argument("--clients", type=int, nargs="+", metavar="K", help=f"shown (default: the first {len(MARKERS)})")
    command.run(parser, draw, argv)


if __name__ == "__main__":
    main()
