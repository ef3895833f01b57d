/** Page to try the model of its folder. What comes from the model or from the user is set as text, never as HTML. */

import { load } from "./text_classifier.mjs";

const SHOWN_LABELS = 5, MAX_LABELS = 100, MAX_PHRASES = 12;
const DELAY_MS = 50; // after the last key, so that typing does not wait for long texts

const byId = (id) => document.getElementById(id);
const percent = (share) => `${(100 * share).toFixed(1)} %`;
const signed = (value) => (value < 0 ? "\u2212" : "+") + Math.abs(value).toFixed(3);

function createElement(tag, text, className = "") {
  const element = document.createElement(tag);
  element.textContent = text;
  element.className = className;
  return element;
}

let classifier;
let chosen = null; // the label that the user wants explained; null for the best one
let timer;

function describe(labels, isMultiLabel) {
  const number = `${labels.length.toLocaleString()} ${labels.length === 1 ? "label" : "labels"}`;
  return isMultiLabel ? `Reads a text and assigns any of ${number}.` : `Reads a text and assigns one of ${number}.`;
}

function show() {
  try {
    update();
    byId("error").textContent = "";
  } catch (error) {
    report(error);
  }
}

function update() {
  const text = byId("text").value;
  byId("result").hidden = !text.trim();
  if (byId("result").hidden) return;
  const predictions = classifier.predict(text, { topK: MAX_LABELS });
  const selected = new Set(classifier.predictLabels(text));
  if (!predictions.some(({ label }) => label === chosen)) chosen = null;
  const explained = chosen ?? predictions[0].label;
  const isExpanded = byId("more").getAttribute("aria-expanded") === "true";
  const shown = predictions.slice(0, isExpanded ? MAX_LABELS : SHOWN_LABELS);
  const focused = [...byId("labels").children].findIndex((item) => item.contains(document.activeElement));
  byId("labels").replaceChildren(...shown.map((prediction) => createItem(prediction, selected, explained)));
  if (focused >= 0) byId("labels").children[focused]?.firstChild.focus();
  byId("none").hidden = selected.size > 0;
  byId("more").hidden = predictions.length <= SHOWN_LABELS;
  byId("more").textContent = isExpanded ? "Show fewer" : `${predictions.length - SHOWN_LABELS} more`;
  explain(text, explained);
}

function createItem({ label, score }, selected, explained) {
  const item = document.createElement("li"), button = createElement("button", "", selected.has(label) ? "selected" : "");
  button.type = "button";
  button.setAttribute("aria-pressed", String(label === explained));
  const bar = document.createElement("i");
  bar.style.width = `${100 * score}%`;
  button.append(bar, createElement("span", label), createElement("span", percent(score), "score"));
  button.addEventListener("click", () => {
    chosen = label;
    show();
  });
  item.append(button);
  return item;
}

function explain(text, label) {
  const { score, bias, phrases } = classifier.explain(text, label);
  byId("why").textContent = `Why ${label}`;
  const shown = phrases.slice(0, MAX_PHRASES);
  const rest = phrases.slice(MAX_PHRASES).reduce((sum, phrase) => sum + phrase.share, 0);
  const rows = shown.map((phrase) => [phrase.text || "(no word)", phrase.share]);
  if (phrases.length > MAX_PHRASES) rows.push([`${phrases.length - MAX_PHRASES} more phrases`, rest]);
  rows.push(["(bias of the label)", bias], ["Sum", score]);
  byId("phrases").replaceChildren(...rows.map(([name, share]) => {
    const row = document.createElement("tr");
    row.append(createElement("td", name), createElement("td", signed(share)));
    return row;
  }));
}

function report(error) {
  byId("error").textContent = error.message;
}

try {
  classifier = await load();
  document.title = byId("name").textContent = classifier.name;
  byId("purpose").textContent = describe(classifier.labels, classifier.isMultiLabel);
  byId("classifier").hidden = false;
  byId("text").focus();
  byId("text").addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(show, DELAY_MS);
  });
  byId("more").addEventListener("click", () => {
    const isExpanded = byId("more").getAttribute("aria-expanded") === "true";
    byId("more").setAttribute("aria-expanded", String(!isExpanded));
    show();
  });
  show(); // what the browser has kept when the page is loaded again
} catch (error) {
  byId("purpose").textContent = "The model cannot be loaded.";
  report(error);
}
