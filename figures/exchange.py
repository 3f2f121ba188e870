"""Draw what `data_exchange` and `dpsgd` add to a run.

The graph has accuracies on its nodes, the intensity picture shows the images before, sent and after, and `result.xlsx` is
the authors' format."""

import logging
from pathlib import Path

from errors import reason_of
from federation import locks
from figures.on_paper import finished, panels
from saves import Run
from untrusted import RefusedError, opened, refusing

MAX_SHOWN = 10  # maximum number of clients in the picture of intensities
THEIRS = {"CNNMnist": "cnn", "MLP_dropout": "mlp"}  # {model: the authors' name}
log = logging.getLogger("chorus")


def report(run: Run, state: dict) -> None:
    """Draw `graph.png` and `intensity.png` into the run's folder, and add its row to `result.xlsx` beside the folder."""
    draw_intensity(state["maps"], run.folder / "intensity.png")
    append(run, run.folder.parent / "result.xlsx")
    draw_graph(run, state["edges"], run.folder / "graph.png")  # last: if this file exists, the others exist


def draw_graph(run: Run, edges, path: Path) -> None:
    """Draw the graph; a node shows its client's accuracy on the whole test set after the last round, in percent."""
    import networkx as nx

    graph = nx.Graph()
    graph.add_nodes_from(range(run.options["n_clients"]))
    graph.add_edges_from(edges)
    values = dict(enumerate(accuracies(run)))
    side = max(3.2, 1.1 * len(graph) ** 0.5 + 1.6)
    figure, ((axes,),) = panels(1, 1, 1.15 * side, side)
    places = nx.kamada_kawai_layout(graph) if nx.is_connected(graph) else nx.spring_layout(graph, seed=0)
    nx.draw_networkx_edges(graph, places, ax=axes, edge_color="#888888", node_size=1100)
    node_values = [values[k] for k in graph]
    nodes = nx.draw_networkx_nodes(
        graph, places, ax=axes, node_color=node_values, cmap="cividis", vmin=0, vmax=100, node_size=1100, edgecolors="black"
    )
    for k, (x, y) in places.items():
        colour = "white" if values[k] < 50 else "black"
        axes.text(x, y, f"{k}\n{values[k]:.1f}", ha="center", va="center", fontsize=8, color=colour)
    figure.colorbar(nodes, ax=axes, label="accuracy on the whole test set (%)", shrink=0.8)
    topology = run.options.get("topology", "")
    axes.set_title(f"{run.options['algorithm']}: {topology}, client and its accuracy", fontsize=10)
    axes.margins(0.18)
    axes.set_axis_off()
    finished(figure, path)


def draw_intensity(maps, path: Path) -> None:
    """Draw for each client the sum of its images over their total: before, of the images sent, and after.

    Every map has its own scale; black is 0."""
    shown_maps = maps[:MAX_SHOWN]
    figure, grid = panels(3, len(shown_maps), 1.25 + 0.7 / len(shown_maps), 1.4)
    for column, client_maps in enumerate(shown_maps):
        for row, (name, intensity) in enumerate(zip(("before", "sent", "after"), client_maps, strict=True)):
            axes = grid[row, column]
            pixels = intensity.mean(0).cpu().numpy()
            axes.imshow(pixels, cmap="gray", vmin=min(0, pixels.min()))  # the numbers of tabular data may all be negative
            axes.set(xticks=[], yticks=[])
            if not intensity.any():
                axes.text(0.5, 0.5, "none", color="white", ha="center", va="center", transform=axes.transAxes)
            if row == 0:
                axes.set_title(f"client {column}", fontsize=9)
            if column == 0:
                axes.set_ylabel(name)
    finished(figure, path)


def accuracies(run: Run) -> list[float]:
    """Return percent of the whole test set after the last round, of each client's model, or K times of the global model."""
    clients = run.clients
    if "global_accuracy" not in clients:
        return [100 * run.summary()["global_mean"]] * run.options["n_clients"]
    last = clients[clients["round"] == clients["round"].max()].sort_values("client")
    return (100 * last["global_accuracy"]).round(10).tolist()


def row_of(run: Run) -> dict[str, object]:
    """Return the authors' columns in their order. With a parameter server the global model is under client 1."""
    options, n_clients = run.options, run.options["n_clients"]
    model_names = ",".join(THEIRS.get(name, name) for name in options["model"])
    last = run.clients[run.clients["round"] == run.clients["round"].max()].sort_values("client")
    is_central = options.get("aggr_model") == "ps"
    values = accuracies(run)[:1] + [None] * (n_clients - 1) if is_central else accuracies(run)
    leakage = last.get("exchange_kl", [None] * n_clients)  # undefined for negative numbers
    return {
        "nn model": model_names,
        "share ratio": options.get("share_ratio", 0.0),
        "number of original digits": options["digit_num"]
        if options["partition"] in ("digit_sets", "reference_blocks")
        else None,
        "aggregation model": options.get("aggr_model", "de"),
        "iid status": options["partition"] == "iid",
        "training rounds": options["rounds"],
        **{f"acc client {k + 1}": value for k, value in enumerate(values)},
        **{f"leakage {k + 1}": value for k, value in enumerate(leakage)},
    }


def append(run: Run, path: Path) -> None:
    """Add a row to the sheet for this number of clients; create the file, or replace the whole file.

    A file that is not a workbook stays unchanged, with a warning."""
    row, sheet = row_of(run), f"{run.options['n_clients']} clients"
    try:
        with locks.held(path.with_name(f".{path.name}.lock")):
            book = _workbook(path)
            if sheet not in book.sheetnames:
                book.create_sheet(sheet).append(list(row))
                for cell in book[sheet][1]:
                    book[sheet].column_dimensions[cell.column_letter].width = len(cell.value) + 2
            book[sheet].append(list(row.values()))
            new_path = path.with_name(f".{path.name}.new")
            book.save(new_path)
            new_path.replace(path)
    except (RefusedError, PermissionError) as error:
        log.warning("%s; this run is not added to %s", reason_of(error), path.name)


def _workbook(path: Path):
    """Return the workbook of a file, or an empty one if there is no file. Raises RefusedError if it is not a workbook."""
    from openpyxl import Workbook, load_workbook

    if path.exists():
        with opened(path) as file, refusing(path, "a workbook"):
            return load_workbook(file)
    book = Workbook()
    book.remove(book.active)
    return book
