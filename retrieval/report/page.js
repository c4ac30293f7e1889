"use strict";

// A header sorts its table by its column, and once more the other way round.
for (const header of document.querySelectorAll("thead th")) {
  const button = document.createElement("button");
  button.type = "button";
  button.append(...header.childNodes);
  button.addEventListener("click", () => sort(header));
  header.append(button);
}

function sort(header) {
  const direction = header.getAttribute("aria-sort") === "ascending" ? -1 : 1;
  for (const other of header.parentElement.cells) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
  const key = header.classList.contains("word") ? word : number;
  const body = header.closest("table").tBodies[0];
  const lines = Array.from(body.rows, (row) => [key(row.cells[header.cellIndex].textContent), row]);
  lines.sort(([a], [b]) => (a === null) - (b === null) || direction * compare(a, b));
  body.append(...lines.map(([, row]) => row));
}

// The first number in "41.2 ± 0.3", "3.1 (2.0 to 4.2)" and "1,234", below 0 in "lost 1.20"; null in "-" and "NaN",
// which stand last.
function number(text) {
  const found = text.replaceAll("\u2212", "-").replace(/,(?=\d{3})/g, "").match(/[-+]?\d+(\.\d+)?(e[-+]?\d+)?/i);
  return found && (text.startsWith("lost ") ? -1 : 1) * Number(found[0]);
}

function word(text) {
  return text === "-" ? null : text;
}

// Words that are numbers, as "0.25" and "1e-5" of a config's key, count as numbers.
function compare(a, b) {
  return isNaN(a) || isNaN(b) ? a.localeCompare(b, "en", { numeric: true }) : a - b;
}

// Charts that answer when pointed at take the place of the still ones, which remain for print.
if (window.Plotly) document.querySelectorAll(".live").forEach(draw);

function draw(live) {
  const plots = Array.from(live.querySelectorAll(".plot"));
  live.hidden = false;
  live.parentElement.classList.add("drawn");
  // On a touch screen a drag scrolls the page.
  const dragmode = matchMedia("(pointer: coarse)").matches ? false : "zoom";
  for (const plot of plots) {
    const { data, layout } = JSON.parse(plot.nextElementSibling.textContent);
    Plotly.newPlot(plot, data, { ...layout, dragmode }, { responsive: true, displayModeBar: false });
  }
  for (const button of live.querySelectorAll(".legend button")) {
    button.addEventListener("click", () => toggle(button, plots));
  }
  const choice = live.querySelector("select");
  if (!choice) return;
  choice.addEventListener("change", () => choose(live, plots, choice.value));
  if (choice.value) choose(live, plots, choice.value);
}

function toggle(button, plots) {
  const visible = button.getAttribute("aria-pressed") !== "true";
  button.setAttribute("aria-pressed", visible);
  for (const plot of plots) {
    const own = plot.data.flatMap((trace, i) => (trace.legendgroup === button.textContent ? [i] : []));
    if (own.length) Plotly.restyle(plot, { visible }, own);
  }
}

function choose(live, plots, title) {
  for (const panel of live.querySelectorAll(".panel")) panel.hidden = title !== "" && panel.dataset.title !== title;
  live.classList.toggle("one", title !== "");
  for (const plot of plots) if (!plot.parentElement.hidden) Plotly.Plots.resize(plot);
}
