/* The data of the page, and the functions that all of its parts share. Every text is set as a text, never as HTML. */
"use strict";

const DATA = JSON.parse(document.getElementById("data").textContent);
const NUM_TRIALS = DATA.columns.trial.length;
const OBJECTIVES = DATA.objectives.map(([name]) => name);
const DIRECTIONS = Object.fromEntries(DATA.objectives);
const PHONE = matchMedia("(max-width: 36rem)");
const CURVE = DATA.learning_curve; // the objective that is the top-1 after each epoch, or null

const byId = (id) => document.getElementById(id);
const column = (name) => DATA.columns[name] ?? Array(NUM_TRIALS).fill(null);
const rowsWhere = (holds) => [...Array(NUM_TRIALS).keys()].filter(holds);
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
const plural = (count, noun) => `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

function say(id, sentence) {
  byId(id).textContent = sentence;
}

function hide(...ids) {
  for (const id of ids) byId(id).classList.add("hidden");
}

/** A number with four significant digits, as the command line prints it. */
function number(value) {
  if (value === null || value === undefined) return "";
  if (Number.isInteger(value)) return String(value);
  const size = Math.abs(value);
  return size >= 1e6 || size < 1e-4 ? value.toExponential(3) : String(Number(value.toPrecision(4)));
}

function duration(seconds) {
  if (seconds < 120) return `${number(seconds)} s`;
  if (seconds < 7200) return `${(seconds / 60).toFixed(1)} min`;
  return `${(seconds / 3600).toFixed(1)} h`;
}

/** A text without the tags that Plotly would read in it. */
function plain(text) {
  return String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
}

/** The words for an axis, such as `multiply-adds, millions`; a parameter of the space keeps its name. */
const axisTitle = (name) => DATA.titles[name] ?? name;
/** The same without the unit, for sentences. */
const words = (name) => axisTitle(name).replace(/, [^,]*$/, "");

/** The number of a trial, with the name of a published or given network, or the trial that scored it. */
function title(row) {
  const name = column("name")[row], whose = column("source")[row] === "front" ? "the network of " : "";
  return `trial ${column("trial")[row]}${name ? `, ${whose}${name}` : ""}`;
}

/** A table. `labels` are pairs of a header and whether its column holds numbers; a cell is a text or an element. */
function table(labels, rows) {
  const kind = (i) => (labels[i][1] ? { class: "number" } : {});
  const head = element("tr", {}, ...labels.map(([label], i) => element("th", { scope: "col", ...kind(i) }, label)));
  const body = rows.map((cells) => element("tr", {}, ...cells.map((cell, i) => element("td", kind(i), cell))));
  return element("table", {}, element("thead", {}, head), element("tbody", {}, ...body));
}

function definitions(list, pairs) {
  for (const [term, text] of pairs) list.append(element("dt", {}, term), element("dd", {}, text));
  return list;
}
