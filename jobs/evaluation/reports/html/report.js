"use strict";
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const PAGE_ROWS = 50;

// Return the button that a cell's contents become.
function makeButton(cell) {
  const button = document.createElement("button");
  button.type = "button";
  button.append(...cell.childNodes);
  cell.append(button);
  return button;
}

// Sortable tables: a click on a column's name sorts by it, numbers first from the largest one.
const collator = new Intl.Collator("en", { numeric: true });
const parseNumber = (text) => parseFloat(text.replaceAll(",", "")); // also of "6 of 8", and NaN of "-"

function sortTable(table, index) {
  const header = table.tHead.rows[0].cells[index];
  const isNumber = header.classList.contains("number");
  const previous = header.getAttribute("aria-sort");
  const descending = previous ? previous === "ascending" : isNumber;
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", descending ? "descending" : "ascending");
  const values = new Map([...table.tBodies[0].rows].map((row) => {
    const text = row.cells[index].dataset.value ?? row.cells[index].textContent;
    return [row, isNumber ? parseNumber(text) : text.trim()];
  }));
  const sign = descending ? -1 : 1;
  const compare = isNumber
    ? (one, other) => isNaN(one) - isNaN(other) || sign * (one - other) || 0
    : (one, other) => sign * collator.compare(one, other);
  table.tBodies[0].append(...[...values.keys()].sort((one, other) => compare(values.get(one), values.get(other))));
  table.dispatchEvent(new Event("sorted"));
}

for (const table of all("table.sortable")) {
  for (const [index, header] of [...table.tHead.rows[0].cells].entries()) {
    if (header.textContent) makeButton(header).addEventListener("click", () => sortTable(table, index));
  }
}

// Texts: a form filters the rows of a table, of which some are shown and more on request.
const form = document.getElementById("filter");
const texts = document.getElementById("texts");
let shownRows = PAGE_ROWS;

function matches(row) {
  const { label, predicted, mistakes, words } = form.elements;
  const has = (numbers, number) => !number || numbers.split(" ").includes(number);
  return has(row.dataset.true, label.value) && has(row.dataset.predicted, predicted.value)
    && !(mistakes.checked && row.dataset.true === row.dataset.predicted)
    && row.textContent.toLowerCase().includes(words.value.toLowerCase());
}

function showTexts() {
  let number = 0;
  for (const row of texts.tBodies[0].rows) row.hidden = !(matches(row) && ++number <= shownRows);
  const shown = Math.min(number, shownRows);
  document.getElementById("state").textContent = `${shown.toLocaleString("en")} of ${number.toLocaleString("en")} matching rows of this page are shown.`;
  document.getElementById("more").hidden = shown === number;
}

function restartTexts() {
  shownRows = PAGE_ROWS;
  showTexts();
}

// Select the texts of a cell: an element with the number of the true label, the predicted one, or both.
function selectCell(cell) {
  form.reset();
  form.elements.label.value = cell.dataset.true ?? "";
  form.elements.predicted.value = cell.dataset.predicted ?? "";
  restartTexts();
  document.getElementById("texts-title").scrollIntoView();
  form.elements.label.focus({ preventScroll: true });
}

function describeCell(cell) {
  const name = (select, number) => [...select.options].find((option) => option.value === number).textContent;
  const { label, predicted } = form.elements;
  const parts = [];
  if (cell.dataset.true) parts.push("true: " + name(label, cell.dataset.true));
  if (cell.dataset.predicted) parts.push("predicted: " + name(predicted, cell.dataset.predicted));
  return parts.join(", ");
}

if (form) {
  form.hidden = false;
  form.addEventListener("input", restartTexts);
  form.addEventListener("reset", () => setTimeout(restartTexts));
  form.addEventListener("submit", (event) => event.preventDefault());
  texts.addEventListener("sorted", showTexts);
  document.getElementById("more").addEventListener("click", () => {
    shownRows += PAGE_ROWS;
    showTexts();
  });
  showTexts();
  for (const cell of all("td[data-true], td[data-predicted]")) {
    const button = makeButton(cell);
    button.title = describeCell(cell);
    button.setAttribute("aria-label", `${button.textContent} rows, ${button.title}`);
    button.addEventListener("click", () => selectCell(cell));
  }
  for (const map of all("svg.map")) {
    map.addEventListener("click", (event) => event.target.dataset.true && selectCell(event.target));
    map.addEventListener("pointerover", (event) => {
      const text = event.target.dataset.true ? `${event.target.dataset.rows} rows, ${describeCell(event.target)}` : "";
      map.nextElementSibling.textContent = text || "Point at a cell to see its labels.";
    });
  }
}

// Confusion matrix: one stop of the Tab key, in which the arrow keys move from cell to cell.
for (const matrix of all("table.matrix")) {
  const buttons = all("button", matrix);
  for (const button of buttons.slice(1)) button.tabIndex = -1;
  const steps = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] };
  matrix.addEventListener("keydown", (event) => {
    const step = steps[event.key];
    const cell = event.target.closest("td");
    if (!step || !cell) return;
    event.preventDefault();
    let [row, column] = [cell.parentElement.rowIndex, cell.cellIndex];
    let next = null;
    do {
      row += step[0];
      column += step[1];
      next = matrix.rows[row]?.cells[column];
    } while (next && !next.querySelector("button"));
    const button = next?.querySelector("td button");
    if (!button) return;
    for (const other of buttons) other.tabIndex = -1;
    button.tabIndex = 0;
    button.focus();
  });
}

// Trials: a trial under the pointer, or one whose number was clicked, is highlighted in every chart and in the table.
const pinned = new Set();

function highlight(trial, isOn) {
  for (const element of all(`[data-trial="${trial}"]`)) element.classList.toggle("selected", isOn || pinned.has(trial));
}

for (const element of all("[data-trial]")) {
  const { trial } = element.dataset;
  element.addEventListener("pointerenter", () => highlight(trial, true));
  element.addEventListener("pointerleave", () => highlight(trial, false));
  if (element.tagName !== "TR") continue;
  const button = makeButton(element.cells[0]);
  button.setAttribute("aria-pressed", "false");
  button.title = "Highlight this trial in the charts";
  button.addEventListener("click", () => {
    if (!pinned.delete(trial)) pinned.add(trial);
    button.setAttribute("aria-pressed", pinned.has(trial));
    highlight(trial, pinned.has(trial));
  });
}

// A link to a closed section opens it.
function openTarget() {
  const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (target?.tagName === "DETAILS") target.open = true;
}
addEventListener("hashchange", openTarget);
openTarget();
