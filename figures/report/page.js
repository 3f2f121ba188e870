"use strict";

// every figure: the choices above it name the traces and the layout to show; nothing of it can be uploaded
const specs = JSON.parse(document.getElementById("specs").textContent);
const config = {
  responsive: true,
  displaylogo: false,
  showSendToCloud: false,
  plotlyServerURL: "",
  modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
};
// on a narrow screen the legend is below the figure, so that the figure has the whole width
const narrow = window.matchMedia("(max-width: 640px)");
function layoutOf(shown) {
  if (!narrow.matches) return shown.layout;
  const entries = shown.data.filter((trace) => trace.showlegend).length;
  const legend = { ...shown.layout.legend, orientation: "h", x: 0, y: -0.2, yanchor: "top" };
  const margin = { ...shown.layout.margin, l: 44, r: 8 };
  return { ...shown.layout, legend, margin, height: shown.layout.height + 22 * entries };
}
for (const form of document.querySelectorAll("form.chart")) {
  const draw = () => {
    const chosen = [...form.querySelectorAll("input:checked")].map((input) => input.value).join("/");
    const shown = specs[form.dataset.chart][chosen];
    form.querySelector(".plot").hidden = !shown; // not every choice is there on every problem
    form.querySelector(".nothing").hidden = Boolean(shown);
    if (shown) Plotly.react(form.querySelector(".plot"), shown.data, layoutOf(shown), config);
  };
  narrow.addEventListener("change", draw);
  form.addEventListener("change", draw);
  draw();
}

// a table sorted by a column, smallest first: numbers, then words such as ">30", and what is missing last, in both directions
const rank = (value) => (value === "" ? 2 : isNaN(value) ? 1 : 0);
function compare(a, b, direction) {
  if (rank(a) !== rank(b)) return rank(a) - rank(b);
  return direction * (rank(a) ? a.localeCompare(b, "en", { numeric: true }) : a - b);
}
for (const button of document.querySelectorAll(".sortable thead button")) {
  button.addEventListener("click", () => {
    const header = button.parentElement;
    const direction = header.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    header.parentElement.querySelectorAll("[aria-sort]").forEach((other) => other.removeAttribute("aria-sort"));
    header.setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
    const body = header.closest("table").tBodies[0];
    const value = (row) => row.cells[header.cellIndex].dataset.value;
    body.append(...[...body.rows].sort((one, other) => compare(value(one), value(other), direction)));
  });
}
