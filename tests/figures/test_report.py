"""The report: rows and series against histories made by hand, what it escapes and refuses, and a browser that opens it."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from conftest import ROOT, keeping, one_by_one
from PIL import Image
from playwright.sync_api import expect, sync_playwright
from test_targets import right, saved

import run as command
import saves
from figures import report, table
from figures.groups import ordered

NASTY = "</script><script>alert(1)</script><a href='http://example.org'>\"&b"
ENVIRONMENT = {"python": "3.11", "torch": "2.13.0", "processor": "x86_64", "device": "cpu"}
CLASSES = np.array(["cat", "dog", "<i>"])
SPLIT = {"table": np.array([[3, 0, 5], [1, 7, 0]]), "classes": CLASSES}


# along two axes of three, the first of them longer: by PCA they are these, but for their signs
AT = np.array([[-4.0, 1.0], [-4.0, -1.0], [4.0, 1.0], [4.0, -1.0]])
FEATURES = {
    "rounds": np.array([1, 3]),
    "classes": CLASSES,
    "features_0": np.array([np.c_[AT[:3] / 2, np.zeros(3)], np.c_[AT[:3], np.zeros(3)]]),
    "features_1": np.array([np.c_[AT[3:] / 2, np.zeros(1)], np.c_[AT[3:], np.zeros(1)]]),
    "labels_0": np.array([0, 2, 2]),
    "labels_1": np.array([0]),
}


def create(export, with_confusion=True):
    """Two seeds each of fedavg in two settings, one of them nasty, of fd and of both references, with splits."""
    runs = []
    for seed, more in enumerate((0.0, 0.1)):
        changed = {"environment": ENVIRONMENT, "clients": {3: [0.5, 0.7 + more]}}
        for algorithm, curve, nbytes, options in (
            ("fedavg", (0.2, 0.4, 0.6 + more), (1000, 2000, 0), {"topology_file": NASTY}),
            ("fedavg", (0.2, 0.3, 0.5), (500, 500, 0), {"topology_file": "plain"}),
            ("fd", (0.1, 0.2, 0.3), (10, 10, 0), {}),
            ("independent", (0.3, 0.3, 0.4), (0, 0, 0), {}),
            ("centralized", (0.5, 0.7, 0.9), (0, 0, 500), {}),
        ):
            columns = {"flops": [0, 5e9, 5e9, 5e9], "bytes_up:weights": [0, *[nbytes[0]] * 3]}
            run = saved(export, algorithm, seed, curve=curve, nbytes=nbytes, columns=columns, **options, **changed)
            keeping(run, "split.npz", SPLIT)
            if with_confusion and algorithm == "fd":
                own = np.array([[[2, 0, 0], [1, 1, 0], [0, 0, 2]], [[0, 1, 0], [0, 3, 1], [0, 0, 4]]])
                keeping(run, "confusion.npz", {"test": own + seed, "classes": CLASSES, **one_by_one(own)})
                keeping(run, "features.npz", FEATURES)
            runs.append(run)
    return runs


class Page(HTMLParser):
    """What a test asks of a page: `specs` of the figures, `scripts`, `links`, `words`, and the rows of its `tables`, whose
    cells are [value, text]."""

    def __init__(self, text):
        super().__init__()
        self.scripts, self.links, self.tables, self.words, self.inside = [], [], [], [], set()
        self.feed(text)
        self.specs = json.loads(self.scripts[0])

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.inside.add(tag)
        self.links += [attributes[name] for name in ("src", "href", "action", "data", "srcset") if name in attributes]
        if tag == "script":
            self.scripts.append("")
        elif tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("th", "td"):
            self.tables[-1][-1].append([attributes.get("data-value"), ""])

    def handle_endtag(self, tag):
        self.inside.discard(tag)

    def handle_data(self, text):
        if "script" in self.inside:
            self.scripts[-1] += text
        elif "style" not in self.inside:
            self.words.append(" ".join(text.split()))
        if self.inside & {"th", "td"}:
            self.tables[-1][-1][-1][1] += text

    def rows(self):
        """Of the comparison: {first two cells: {header: (value, text)}}."""
        results = {}
        for header, *rows in self.tables[:3]:  # what was reached, what the target cost, what it took
            names = [" ".join(text.split()) for _, text in header]
            for row in rows:
                name = " ".join(text for _, text in row[:2])
                results[name] = results.get(name, {}) | dict(zip(names, map(tuple, row), strict=True))
        return results


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return create(tmp_path_factory.mktemp("saves"))


@pytest.fixture(scope="module")
def text(runs):
    return report.page(runs, title=f"Title {NASTY}", baseline="fd", target=0.35)


@pytest.fixture(scope="module")
def page(text):
    return Page(text)


def trace(spec, name):
    """The trace that stands in the legend by this name."""
    (results,) = [item for item in spec["data"] if item.get("name") == name and item.get("showlegend", True)]
    return results


PLAIN = "fedavg (--topology_file plain) (n = 2)"


# --- rows and series ---------------------------------------------------------------------------------------------------


def test_rows_are_those_of_the_histories(page):
    rows = page.rows()
    assert list(rows) == [f"fedavg {NASTY}", "fedavg plain", "fd ", "centralized ", "independent "], "the best first"
    row = rows["fedavg plain"]
    assert float(row["accuracy % global"][0]) == pytest.approx(50)
    assert row["accuracy % global"][1] == "50.00 ±0.00"
    assert float(row["accuracy % personal"][0]) == pytest.approx(100 * (0.6 + 0.65) / 2), "mean over clients, then seeds"
    assert float(row["difference to baseline difference"][0]) == pytest.approx(20)
    assert row["what clients send"][1] == "weights"
    assert row["per client and round sent"] == ("500.0", "500 B"), "of two clients, in three rounds"
    assert float(row["per client and round FLOPs"][0]) == 15e9 / 2 / 3
    assert float(row["to 35 % rounds"][0]) == pytest.approx(2.25)
    assert rows["fd "]["to 35 % rounds"] == (">3", ">3.0")
    assert rows["fd "]["difference to baseline difference"] == ("", "")
    assert rows["independent "]["what clients send"][1] == "nothing"
    assert "difference to baseline p (Holm)" not in row, "of two seeds there is none, and no empty column"


def test_curves_are_means_over_seeds_in_percent_with_their_band(runs, page):
    nasty = next(name for name in (spec["name"] for spec in page.specs["curves"]["rounds/global"]["data"]) if "&lt;" in name)
    line = trace(page.specs["curves"]["rounds/global"], nasty)
    assert line["x"] == [1, 2, 3]
    assert line["y"] == pytest.approx([20, 40, 65])
    assert line["customdata"] == pytest.approx([0, 0, 10 / np.sqrt(2)], abs=1e-4), "one standard deviation over seeds"
    (area,) = [spec for spec in page.specs["curves"]["rounds/global"]["data"] if spec["name"] == nasty and spec is not line]
    assert area["x"] == [1, 2, 3, 3, 2, 1]
    assert area["y"][2:4] == pytest.approx([65 + 10 / np.sqrt(2), 65 - 10 / np.sqrt(2)])


def test_against_bytes_a_reference_is_a_level_line_and_totals_far_apart_are_logarithmic(page):
    spec = page.specs["curves"]["bytes/global"]
    assert spec["layout"]["xaxis"]["type"] == "log", "60 and 9000 bytes"
    assert trace(spec, PLAIN)["x"] == [1000, 2000, 3000]
    level = trace(spec, "independent (n = 2)")
    assert level["y"] == pytest.approx([40] * 41)
    assert level["hovertext"] == "<b>independent (n = 2)</b><br>40.0 % ± 0.0<br>after the last round"
    assert level["x"][0] < 20
    assert level["x"][-1] > 9000
    assert "type" not in page.specs["curves"]["rounds/global"]["layout"]["xaxis"]
    assert trace(page.specs["curves"]["flops/personal"], PLAIN)["x"] == [5e9, 10e9, 15e9]


def test_against_bytes_what_sends_nothing_is_a_level_line_too(tmp_path):
    two = [saved(tmp_path, environment={}), saved(tmp_path, "silent", nbytes=(0, 0, 0), environment={})]
    level = trace(Page(report.page(two)).specs["curves"]["bytes/global"], "silent (n = 1)")
    assert level["y"] == pytest.approx([80] * 41), "after the last round, where a line at 0 bytes could not be seen"


def test_a_price_is_the_total_of_the_run_and_the_unbeaten_are_joined(page):
    spec = page.specs["price"]["bytes/global"]
    point = trace(spec, PLAIN)
    assert (point["x"], point["y"]) == ([3000], pytest.approx([50]))
    assert point["error_y"]["array"] == [0]
    front = trace(spec, "Pareto front")
    assert front["line"]["shape"] == "hv"
    assert front["x"] == [60, 3000, 9000, pytest.approx(10 ** spec["layout"]["xaxis"]["range"][1])]
    assert front["y"] == pytest.approx([30, 50, 65, 65])
    assert trace(spec, "centralized (n = 2)")["y"] == pytest.approx([90] * 41)


def rows_of_clients(spec):
    """{method: {hover text: accuracy}} of the dots, the worst client first."""
    names = [name.partition(" (n")[0] for name in spec["layout"]["yaxis"]["ticktext"]]
    by_name = {name: {} for name in names}
    for item in spec["data"]:
        if "markers" in item["mode"] and isinstance(item.get("hovertext"), list):
            for x, y, words in zip(item["x"], item["y"], item["hovertext"], strict=True):
                by_name[names[round(y)]][words] = x
    return by_name


def test_clients_have_their_own_accuracies_on_each_split(page):
    (spec,) = page.specs["clients"].values()
    gain = "+0.0 points over learning alone"
    assert rows_of_clients(spec)["fd"] == {
        f"<b>fd (n = 2)</b><br>client 0 (8 training examples)<br>50.0 % ± 0.0<br>{gain}": pytest.approx(50),
        f"<b>fd (n = 2)</b><br>client 1 (8 training examples)<br>75.0 % ± 7.1<br>{gain}": pytest.approx(75),
    }
    bars = [value for item in spec["data"] for value in item.get("error_x", {}).get("array", ())]
    assert bars[:2] == [0, pytest.approx(10 / np.sqrt(2))]
    assert spec["layout"]["yaxis"]["ticktext"][0] == "fd (n = 2)", "these runs do not tell who is harmed"
    assert [list(item["text"]) for item in spec["data"] if "text" in item][0] == ["client 0\u2002", "client 1\u2002"]


def test_a_client_that_is_harmed_is_a_cross(tmp_path):
    runs = [
        right(
            saved(tmp_path, name, clients={4: own}, environment={}), *[np.arange(100) < round(100 * value) for value in own]
        )
        for name, own in (("fd", [0.5, 0.6]), ("independent", [0.4, 0.7]))
    ]
    (spec,) = Page(report.page(runs)).specs["clients"].values()
    crosses = [
        item
        for item in spec["data"]
        if item.get("marker", {}).get("symbol") == "x" and isinstance(item.get("hovertext"), list)
    ]
    assert [words for crosse in crosses for words in crosse["hovertext"]] == [
        "<b>fd (n = 1)</b><br>client 1<br>60.0 %<br>-10.0 points over learning alone"
    ]
    assert spec["layout"]["yaxis"]["ticktext"] == ["fd (n = 1)<br>1 of 2 harmed", "independent (n = 1)"]
    assert trace(spec, "harmed: significantly worse than the<br>same client alone")["x"] == [None], "in the legend alone"


def test_the_split_is_its_table_and_confusion_is_counted_over_models_and_seeds(page):
    (heat,) = page.specs["split"]["0"]["data"]
    assert heat["z"] == SPLIT["table"].tolist()
    assert heat["x"] == ["cat", "dog", "&lt;i&gt;"]
    assert len(page.specs["confusion"]) == 2, "one method has matrices, of two kinds"
    test, own = (
        next(spec for key, spec in page.specs["confusion"].items() if key.endswith(kind)) for kind in ("test", "own")
    )
    assert own["data"][0]["customdata"] == [[4, 2, 0], [2, 8, 2], [0, 0, 12]]
    assert test["data"][0]["customdata"] == [[6, 4, 2], [4, 10, 4], [2, 2, 14]], "two models more in seed 1"
    assert own["data"][0]["z"][1] == pytest.approx([100 / 6, 400 / 6, 100 / 6], abs=0.01)


def test_representations_are_principal_components_by_class_with_the_client_of_each_point(page):
    specs = {key.partition("/")[2]: spec for key, spec in page.specs["representations"].items()}
    assert list(specs) == ["3", "1"], "the last round first"
    for r, scale in (("1", 0.5), ("3", 1.0)):
        cat, cat_of_other, other = (spec for spec in specs[r]["data"] if spec["x"] != [None])
        assert (cat["name"], cat_of_other["name"], other["name"]) == ("class cat", "class cat", "class &lt;i&gt;")
        assert cat["hovertext"] == ["<b>class cat, client 0</b>"]
        assert cat_of_other["hovertext"] == ["<b>class cat, client 1</b>"]
        assert other["hovertext"] == ["<b>class &lt;i&gt;, client 0</b>"] * 2
        assert [item["marker"]["symbol"] for item in (cat, cat_of_other, other)] == ["circle", "square", "circle"]
        assert cat["legendgroup"] == cat_of_other["legendgroup"], "one click hides both"
        for axis, at in (("x", AT[:, 0]), ("y", AT[:, 1])):
            both = np.array([*cat[axis], *cat_of_other[axis]])
            assert np.abs(both) == pytest.approx(scale * np.abs(at[[0, 3]]), abs=1e-5)
            assert both[0] * both[1] < 0, "on either side"
            assert specs[r]["layout"][f"{axis}axis"]["range"] == specs["3"]["layout"][f"{axis}axis"]["range"]


def test_every_figure_is_one_that_plotly_takes(page):
    from plotly import graph_objects

    for specs in page.specs.values():
        for spec in specs.values():
            graph_objects.Figure(spec)


def test_a_page_takes_no_matplotlib(runs):
    command = "import sys; from pathlib import Path; from figures import report; from figures.groups import read"
    command += f"; report.page(read([Path({str(runs[0].folder.parent)!r})])); print('matplotlib' in sys.modules)"
    completed = subprocess.run([sys.executable, "-c", command], cwd=ROOT, capture_output=True, text=True, check=True)
    assert completed.stdout == "False\n"


def test_an_algorithm_has_one_colour_everywhere(page):
    line = trace(page.specs["curves"]["rounds/global"], "fd (n = 2)")["line"]["color"]
    assert trace(page.specs["price"]["bytes/global"], "fd (n = 2)")["marker"]["color"] == line
    dots = next(spec for spec in page.specs["clients"]["0"]["data"] if "<b>fd (n = 2)</b>" in spec.get("hovertext", [""])[0])
    assert dots["marker"]["color"] == line


def test_what_the_runs_lack_is_left_out_with_a_sentence(tmp_path):
    result = Page(report.page([saved(tmp_path, "independent", environment=ENVIRONMENT)]))
    assert {name: len(specs) for name, specs in result.specs.items()} == {
        "curves": 6,  # three accuracies against rounds and seconds
        "price": 0,
        "clients": 1,
        "split": 0,
        "confusion": 0,
        "representations": 0,
    }
    words = " ".join(result.words)
    assert "There is no method to compare, only independent and centralized." in words
    assert "No run's folder has its split (split.npz)." in words
    assert "No run's folder has confusion matrices (confusion.npz)." in words
    assert (
        "Not shown against FLOPs, because the histories do not count it or the seeds have no common range: independent (n = "
        "1)." in words
    )


def test_clients_of_different_splits_are_not_averaged(tmp_path):
    two = [saved(tmp_path, seed=0, split_seed=s, split=str(s), clients={4: [0.2 + s / 2]}, environment={}) for s in (0, 1)]
    specs = Page(report.page(two)).specs["clients"]
    dots = [list(rows_of_clients(specs[seed])["fedavg"].values()) for seed in ("0", "1")]
    assert dots == [[pytest.approx(20)], [pytest.approx(70)]]


def test_clients_stand_from_the_worst_to_the_best(tmp_path):
    accuracies = [0.9, 0.1, *[0.5] * 28]
    run = saved(tmp_path, n_clients=30, clients={4: accuracies}, environment={})
    dots = rows_of_clients(Page(report.page([run])).specs["clients"]["0"])["fedavg"]
    assert list(dots.values()) == pytest.approx(sorted(100 * value for value in accuracies))
    assert [list(dots)[i].split("<br>")[1] for i in (0, 1, -1)] == ["client 1", "client 2", "client 0"]


# --- options, and where it comes from ----------------------------------------------------------------------------------


def test_options_that_differ_and_those_that_all_share(runs):
    differing, shared = report.options(ordered(runs))
    assert list(differing) == ["topology_file"]
    assert sorted(differing["topology_file"]) == sorted(["", "", "", "plain", NASTY]), "nothing where it is not had"
    assert shared["alpha"] == "0.5"
    assert shared["seed"] == "0, 1"


def test_folders_are_named_without_their_path_and_environments_once(runs, text, page):
    assert str(runs[0].folder.parent) not in text
    assert all(run.folder.name in page.words for run in runs)
    (header, *rows) = page.tables[-1]
    assert [cell[1] for cell in header][:4] == list(ENVIRONMENT)
    assert len(rows) == 1


def test_the_head_says_what_was_split_how(page):
    words = " ".join(" ".join(page.words).split())
    assert "Data set digits , split by lda (alpha 0.5) over 2 clients; 3 rounds; 2 seeds, 10 runs." in words


# --- safe and whole ----------------------------------------------------------------------------------------------------


def test_what_a_config_holds_is_text(text, page):
    assert len(page.scripts) == 3, "data, plotly, the page's own"
    assert NASTY not in text
    assert f"Title {NASTY}" in page.words
    assert "<script>alert" not in page.scripts[0]
    assert "<a href" not in json.dumps(page.specs), "plotly would make a link of it"


def test_the_page_asks_no_network(page):
    assert [link for link in page.links if not link.startswith(("#", "data:"))] == []


def test_the_command_writes_the_page_and_says_how_large(runs, tmp_path, capsys):
    path = tmp_path / "report.html"
    report.main([str(runs[0].folder.parent), "-o", str(path), "--title", "Ours"])
    nbytes = path.stat().st_size
    assert capsys.readouterr().out == f"{path}: 10 runs, {nbytes / 1e6:.3g} MB\n"
    assert 4e6 < nbytes < 6e6
    assert "<title>Ours</title>" in path.read_text()


def test_refusals_are_a_line_each(tmp_path, capsys):
    run = saved(tmp_path / "one", environment={})
    other = saved(tmp_path / "other", split="1", environment={})

    def refused(*words):
        with pytest.raises(SystemExit) as stopped:
            report.main([str(word) for word in words])
        assert stopped.value.code == 2
        (line,) = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
        return line.partition("error: ")[2]

    here = ("-o", tmp_path / "report.html")
    assert refused(run.folder, other.folder, *here).startswith("different splits cannot be compared: the split's digest at ")
    assert refused(tmp_path / "x", *here) == f"{tmp_path / 'x'}: no such folder"
    assert refused(run.folder, "--baseline", "fd", *here) == "--baseline fd: no row with this name; must be one of: fedavg"
    assert refused(run.folder, "--target", "90", *here) == "argument --target: 90 must be above 0 and at most 1, such as 0.9"
    assert "No such file or directory" in refused(run.folder, "-o", tmp_path / "no" / "report.html")
    assert not (tmp_path / "report.html").exists()


# --- in a browser ------------------------------------------------------------------------------------------------------

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def opened(text, tmp_path_factory):
    """The page in headless Chromium, and what it complained of or asked for."""
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(text, encoding="utf-8")
    result = []
    with sync_playwright() as player:
        root = hasattr(os, "geteuid") and os.geteuid() == 0
        browser = player.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"] if root else [])
        tab = browser.new_page(viewport={"width": 1366, "height": 768})
        tab.on("console", lambda message: result.append(f"{message.type}: {message.text}"))
        tab.on("pageerror", lambda error: result.append(str(error)))
        tab.on("dialog", lambda dialog: (result.append("dialog"), dialog.dismiss()))
        tab.on("request", lambda request: result.append(request.url))
        tab.goto(path.as_uri())
        yield tab, result, path.as_uri()
        browser.close()


needs_browser = pytest.mark.skipif(BROWSER is None, reason="no chromium, chromium-browser or google-chrome on the PATH")


@needs_browser
def test_in_a_browser_every_figure_is_drawn(opened):
    tab, _, _ = opened
    assert tab.locator("form.chart").count() == 6
    assert tab.locator("#representations .point").count() == 4
    for chart, part in (("curves", ".scatterlayer .js-line"), ("price", ".scatterlayer .point"), ("clients", ".errorbar")):
        assert tab.locator(f"#{chart} {part}").count() >= 3
    for chart in ("split", "confusion"):
        assert tab.locator(f"#{chart} .heatmaplayer image, #{chart} .heatmaplayer .hm").count() >= 1
    assert tab.evaluate("document.documentElement.scrollWidth") == 1366, "nothing sticks out"
    assert "Share" not in " ".join(tab.locator(".modebar-btn").evaluate_all("all => all.map((b) => b.dataset.title)"))
    image = np.asarray(Image.open(io.BytesIO(tab.locator("#curves").screenshot())).convert("RGB"))
    assert len(np.unique(image.reshape(-1, 3), axis=0)) > 100
    assert (image.min(2) < 250).mean() > 0.02, "not blank"


@needs_browser
def test_in_a_browser_a_header_sorts_both_ways_with_what_is_missing_last(opened):
    tab, _, _ = opened
    header = tab.locator("#comparison thead th", has_text="to baseline\ndifference")
    column = header.evaluate("th => th.cellIndex")

    def texts(at, table=0):
        rows = tab.locator("#comparison table").nth(table).locator("tbody tr")
        return rows.evaluate_all("(rows, at) => rows.map((row) => row.cells[at].innerText)", at)

    header.locator("button").click()
    assert header.get_attribute("aria-sort") == "ascending"
    assert texts(column) == ["+10.00", "+20.00", "+35.00", "+60.00", ""]
    header.locator("button").press("Enter")
    assert header.get_attribute("aria-sort") == "descending"
    assert texts(column) == ["+60.00", "+35.00", "+20.00", "+10.00", ""]
    reached = tab.locator("#comparison thead th", has_text="to 35 %\nbytes")
    reached.locator("button").click()
    assert tab.locator("#comparison table").nth(1).locator("[aria-sort]").count() == 1
    assert texts(reached.evaluate("th => th.cellIndex"), table=1)[-1] == ">60 B", "a bound comes after the numbers"


def test_of_several_problems_the_page_begins_with_the_table_over_them_and_offers_each(tmp_path):
    runs = []
    for alpha, value in ((0.1, 0.4), (1.0, 0.6)):
        for name, more in (("fd", 0.0), ("fedavg", 0.2)):
            runs.append(saved(tmp_path, name, curve=(0.1, value + more), alpha=alpha, split=str(alpha), environment={}))
    page = Page(report.page(runs, baseline="fd"))
    header, *rows = page.tables[0]
    assert [text for _, text in header] == ["algorithm", "alpha 0.1", "alpha 1", "average\nrank"]
    assert {row[0][1]: [text.split()[0] for _, text in row[1:3]] for row in rows} == {
        "fd": ["40.00", "60.00"],
        "fedavg": ["60.00", "80.00"],
    }
    for number, end in ((0, 60), (1, 80)):
        spec = page.specs["curves"][f"{number}/rounds/global"]
        assert trace(spec, "fedavg (n = 1)")["y"][-1] == pytest.approx(end), "each problem has its own figure"
    assert "alpha 0.1" in page.words
    assert sum(table[0][0][1] == "algorithm" for table in page.tables) == 1 + 2 * 2, "and its own tables, none of a target"


@needs_browser
def test_in_a_browser_tabs_change_the_axis_and_by_keyboard_too(opened):
    tab, _, _ = opened
    title = tab.locator("#curves .xtitle")
    expect(title).to_have_text("communication rounds")
    tab.locator("#curves label", has_text="bytes").click()
    expect(title).to_have_text("bytes of all clients in all directions (logarithmic)")
    tab.locator("#curves input[value=bytes]").press("ArrowRight")
    expect(title).to_have_text("floating-point operations of all clients and the server")
    tab.locator("#curves label", has_text="personal").click()
    expect(tab.locator("#curves .gtitle")).to_have_text("personal: each client's own distribution")
    tab.locator("#confusion label", has_text="own").click()
    expect(tab.locator("#confusion .heatmap-label").first).to_have_text("67")


@needs_browser
def test_on_a_phone_tables_scroll_in_their_boxes_and_the_page_does_not(opened):
    tab, _, _ = opened
    tab.set_viewport_size({"width": 390, "height": 844})
    try:
        for _ in range(40):  # the figures follow the window after a while
            if tab.evaluate("document.documentElement.scrollWidth") == 390:
                break
            tab.wait_for_timeout(500)
        assert tab.evaluate("document.documentElement.scrollWidth") == 390
        wide = "[...document.querySelectorAll('.wide')].filter((box) => box.scrollWidth > box.clientWidth).length"
        assert tab.evaluate(wide) >= 2
        box = "part => document.querySelector(`#curves ${part}`).getBoundingClientRect().toJSON()"
        panel, legend = tab.evaluate(box, ".nsewdrag"), tab.evaluate(box, ".legend")
        assert panel["width"] > 250, "nearly the whole screen"
        assert legend["top"] > panel["bottom"], "below the figure"
    finally:
        tab.set_viewport_size({"width": 1366, "height": 768})


@needs_browser
def test_in_a_browser_nothing_was_complained_of_or_asked_of_the_network(opened):
    _, result, address = opened
    assert [line for line in result if not line.startswith(("data:", "blob:"))] == [address]


def test_command_table_and_report_say_the_same_word_for_word(tmp_path, capsys):
    """Of the same runs: who is best, the points, the intervals, and from whom seeds tell it apart."""
    words = "cfkd fedavg fd independent --n_clients 3 --rounds 2 --reduced 0.1 --model MLP --seed 0 1 2 --lr 0.01 --jobs 1"
    assert command.main([*words.split(), "--export_dir", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    lines = out.replace("\n  ", " ").splitlines()  # long lines are wrapped
    texts = [line for line in lines if " is the best collaborating method" in line or "Significantly different:" in line]
    assert len(texts) == 3, "global, personal, the rule"
    assert "95 % interval" in texts[0]
    table.main([str(tmp_path), "--metric", "personal", "--baseline", "independent", "--columns", "difference"])
    again = capsys.readouterr().out
    page = Page(report.page(list(saves.find(tmp_path))))
    for line in texts:
        assert line in again.replace("\n  ", " ")
        assert line in " ".join(page.words)
    (points, low, high) = re.search(r"([\d.]+) points above .*?interval ([+-][\d.]+) to ([+-][\d.]+)", texts[1]).groups()
    best = re.search(r"distributions (\S+) is the best", texts[1])[1]
    (row,) = [line.split() for line in again.splitlines() if line.startswith(best)]
    difference, *interval = [float(cell) for cell in row if re.fullmatch(r"[+-]\d+\.\d\d", cell)][:3]
    assert [f"{difference:.1f}", f"{interval[0]:+.1f}", f"{interval[1]:+.1f}"] == [points, low, high]
