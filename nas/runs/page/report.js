/* Fills in the page, draws its figures and handles clicks and keys. */
"use strict";

const DRAWN = new Map(); // id of a figure → the function that makes it; called again when the colour scheme changes
const WAITING = []; // functions that draw the figures further down
let SELECTED = null; // row of the trial that the page shows

function draw(id) {
  const [traces, figureLayout] = DRAWN.get(id)(SELECTED);
  return Plotly.react(byId(id), traces, figureLayout, CONFIG);
}

/** Draws a figure later, when the page can already be used. */
function add(id, figure, clickable = false) {
  WAITING.push(() => {
    DRAWN.set(id, figure);
    draw(id);
    if (clickable) onClick(id);
  });
}

function onClick(id) {
  byId(id).on("plotly_click", (event) => {
    const row = event.points[0].customdata;
    if (typeof row === "number") select(row);
  });
}

// The head of the page.

function fillHead() {
  document.title = `${DATA.name}: search report`;
  say("name", DATA.name);
  const running = DATA.state === "running" ? "; the search still runs, so run `nas report` again for newer results" : "";
  say("state", `Search ${DATA.state}: ${DATA.ended}. Started ${DATA.started}; page made ${DATA.made}${running}.`);
  const counts = { ...DATA.counts, front: rowsWhere(isFront).length };
  for (const [status, count] of Object.entries(counts)) {
    byId("counts").append(element("div", {}, element("dt", {}, status === "front" ? "on the front" : status), element("dd", {}, String(count))));
  }
  for (const [label, text] of DATA.facts) byId("facts").append(definitions(element("div"), [[label, text]]));
  say("details", DATA.details);
}

// The front, its table, and the selected network.

function fillAxes() {
  for (const id of ["x", "y"]) {
    for (const [group, names] of Object.entries(DATA.groups)) {
      byId(id).append(element("optgroup", { label: group }, ...names.map((name) => element("option", { value: name }, axisTitle(name)))));
    }
    byId(id).addEventListener("change", () => {
      byId("logarithmic").checked = byId("logarithmic").checked && spreadOut(byId("x").value);
      drawFront();
    });
  }
  byId("x").value = OBJECTIVES[1] ?? "trial";
  byId("y").value = OBJECTIVES[0];
  byId("logarithmic").checked = spreadOut(byId("x").value);
  byId("logarithmic").addEventListener("change", drawFront);
}

/** Whether the largest value of a column is so large that a linear axis would squeeze all others together. */
function spreadOut(name) {
  const values = column(name).filter(FINITE);
  const least = Math.min(...values);
  return values.length > 0 && least > 0 && Math.max(...values) > 30 * least;
}

function drawFront() {
  draw("front");
  const missing = rowsWhere((row) => isDone(row) && [byId("x").value, byId("y").value].some((name) => column(name)[row] === null)).length;
  const notDrawn = missing ? ` ${plural(missing, "done trial")} without a value on these axes ${missing === 1 ? "is" : "are"} not drawn.` : "";
  say("front-caption", frontSentence() + notDrawn);
}

function frontSentence() {
  const done = rowsWhere(isDone).length;
  if (!done) return NUM_TRIALS ? "No trial is done yet, so there is no front; trials that have started are drawn hollow." : "No trial has started yet.";
  const best = OBJECTIVES.map((name) => `${DIRECTIONS[name]} ${words(name)}`).join(", ");
  const front = rowsWhere(isFront).length;
  const what = OBJECTIVES.length > 1 ? "on the front: no other trial is as good on every objective and better on one" : "best on the only objective";
  return `${front} of ${plural(done, "done trial")} ${front === 1 ? "is" : "are"} ${what} (${best}). Click a point or a row of the table to see its network.${MIXED ? MIXED_NOTE : ""}${BELIEVES ? BELIEVED_NOTE : ""}`;
}

const MIXED_NOTE = " Accuracies are those of the networks with different weights: shared (a slice of the shared weights), fine-tuned (that slice, trained further) or trained (new weights, with the whole settings).";
const BELIEVED_NOTE = " Top-1 is drawn, and the front chosen, by what a model of all trainings believes of each network (val_top1_pct_believed), as a single short training can be lucky; the pointer shows what was measured.";
const FRONT_COLUMNS = ["trial", "id", ...OBJECTIVES, BELIEVED, `${BELIEVED}_sd`, ...Object.keys(DATA.columns).filter((name) => name.startsWith("settings.")), ...(MIXED ? ["weights", "gain_pct"] : []), "alone_val_top1_pct", "full_test_top1_pct", "full_test_sd_pct", "seconds", "source", "name"];
let SORT = { name: BELIEVES && OBJECTIVES[0] === CURVE ? BELIEVED : OBJECTIVES[0], ascending: DIRECTIONS[OBJECTIVES[0]] === "minimize" };

function frontRows() {
  const values = column(SORT.name);
  const sign = SORT.ascending ? 1 : -1;
  const order = (a, b) => (values[a] === null ? 1 : values[b] === null ? -1 : sign * (values[a] < values[b] ? -1 : values[a] > values[b] ? 1 : 0));
  return rowsWhere(isFront).sort(order);
}

function fillFrontTable() {
  const rows = frontRows();
  if (!rows.length) return;
  const names = FRONT_COLUMNS.filter((name) => name in DATA.columns && rows.some((row) => column(name)[row] !== null));
  const numeric = (name) => rows.some((row) => typeof column(name)[row] === "number");
  const shown = (value) => (typeof value === "number" ? number(value) : value ?? "");
  const made = table(names.map((name) => [sorter(name), numeric(name)]), rows.map((row) => names.map((name) => shown(column(name)[row]))));
  made.querySelectorAll("th").forEach((head, i) => names[i] === SORT.name && head.setAttribute("aria-sort", SORT.ascending ? "ascending" : "descending"));
  made.querySelectorAll("tbody tr").forEach((line, i) => makeSelectable(line, rows[i]));
  byId("front-table").replaceChildren(made);
  markSelected();
}

function sorter(name) {
  const button = element("button", { type: "button", "data-column": name }, name);
  button.addEventListener("click", () => {
    SORT = { name, ascending: SORT.name === name ? !SORT.ascending : DIRECTIONS[name] !== "maximize" };
    fillFrontTable();
    byId("front-table").querySelector(`[data-column="${name}"]`).focus();
  });
  return button;
}

function makeSelectable(line, row) {
  line.tabIndex = 0;
  line.dataset.row = row;
  line.addEventListener("click", () => select(row));
  line.addEventListener("keydown", (event) => {
    const next = { ArrowDown: line.nextElementSibling, ArrowUp: line.previousElementSibling }[event.key];
    if (event.key !== "Enter" && event.key !== " " && !next) return;
    event.preventDefault();
    if (next) next.focus();
    else select(row);
  });
}

function markSelected() {
  for (const line of byId("front-table").querySelectorAll("tbody tr")) line.setAttribute("aria-selected", String(Number(line.dataset.row) === SELECTED));
}

function select(row) {
  SELECTED = row;
  showNetwork(row);
  markSelected();
  for (const id of ["front", "curves"]) if (DRAWN.has(id)) moveMark(id);
}

/** Moves the mark of the selected network in a figure, and leaves the rest as it is. */
function moveMark(id) {
  const [traces] = DRAWN.get(id)(SELECTED);
  const index = traces.findIndex((trace) => trace.name === "selected");
  const changed = Object.fromEntries(["x", "y", "customdata", "hovertext"].map((name) => [name, [traces[index][name]]]));
  Plotly.restyle(byId(id), changed, [index]);
}

/** An element that fills itself with the drawing of a network, unpacked from zlib. */
function drawing(packed) {
  const bytes = Uint8Array.from(atob(packed), (character) => character.charCodeAt(0));
  const unpacked = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  const made = element("div", { class: "drawing" });
  new Response(unpacked).text().then((svg) => made.append(new DOMParser().parseFromString(svg, "image/svg+xml").documentElement));
  return made;
}

function showNetwork(row) {
  const packed = DATA.networks[row];
  const parts = [element("h3", {}, title(row))];
  if (packed) parts.push(drawing(packed));
  else parts.push(element("p", { class: "caption" }, "This is one of timm's own networks. The run folder does not hold its layers, so there is no picture of it."));
  const [texts, numbers] = valuesOf(row);
  parts.push(definitions(element("dl", { class: "numbers" }), texts), definitions(element("dl", { class: "numbers double" }), numbers));
  const trial = column("trial")[row];
  if (isDone(row) && !isFront(row)) parts.push(element("p", { class: "caption" }, "A run keeps the weights of its front and of networks that may yet be on it; of others only if it was searched with --keep-all."));
  if (isDone(row)) parts.push(element("code", { class: "command" }, `nas export ${DATA.folder} --trial ${trial}`));
  byId("network").replaceChildren(...parts);
}

/** The columns of a trial that have a value, as pairs of name and value: those of text, and those of numbers. */
function valuesOf(row) {
  const texts = ["id", "status", "reason", "error", "weights", "source", "device", "precision"];
  const numbers = [...DATA.groups.objectives, ...(DATA.groups["limits"] ?? []), ...(DATA.groups["only to look at"] ?? []), ...DATA.groups["training"]].filter((name) => name !== "trial");
  const present = (names, shown) => names.filter((name) => column(name)[row] !== null).map((name) => [name, shown(column(name)[row])]);
  return [present(texts, String), present(numbers, number)];
}

function fillFront() {
  fillAxes();
  if (!NUM_TRIALS) {
    say("front-caption", frontSentence());
    hide("front-part");
    return;
  }
  const [first] = [...frontRows(), ...rowsWhere(isDone), 0];
  SELECTED = first;
  DRAWN.set("front", frontFigure);
  drawFront();
  onClick("front");
  fillFrontTable();
  showNetwork(first);
  for (const [name, close] of Object.entries(DATA.close)) {
    const pairs = close.map(([one, other]) => `${one} and ${other}`).join(", ");
    say("close", `The ${words(name)} of these pairs of trials differs by less than the ${DATA.table_error_pct[name].toFixed(1)} % error of the latency table: ${pairs}.`);
  }
}

// The sections below the front.

function fillTrust() {
  const full = rowsWhere((row) => FINITE(column("full_test_top1_pct")[row])).length;
  const command = `nas verify ${DATA.folder}`;
  const none = `No network has been trained in full yet. ${command} trains the best of the front with several seeds; this section then shows how well the search's ranking holds.`;
  say("trust-caption", full ? `${DATA.trust || "A single network has no ranking"}.` : none);
  if (full) add("trust", trustFigure);
  else hide("trust");
}

function fillPredictors() {
  if (!DATA.predictors.length) return;
  say("predictors-caption", `How well the ranking by one column agrees with that by ${words(CURVE)}, over trained networks: Kendall's tau, from -1 to 1. A proxy is worth its time only where it ranks better than the costs.`);
  byId("predictors").append(table([["column"], ["networks", true], ["tau"]], DATA.predictors));
}

function fillShared() {
  if (!DATA.shared) {
    hide("shared");
    return;
  }
  const { training, scored, seconds_each: each, difference, rankings } = DATA.shared;
  const how = training && `${training.copied_from ? `Copied from ${training.copied_from}, where they were trained` : "Trained"} for ${plural(training.train_loss.length, "epoch")} in ${duration(training.seconds)} on ${training.processes > 1 ? `${training.processes} × ` : ""}${training.device}.`;
  const scores = scored ? `${plural(scored, "network")} ${scored === 1 ? "was" : "were"} scored, in ${duration(each)} each (median).` : "No network is scored yet.";
  say("shared-caption", [how, scores, gainSentence()].filter(Boolean).join(" "));
  if (training) add("shared-loss", sharedFigure);
  else hide("shared-loss");
  const none = scored ? `Not checked: nas verify ${DATA.folder} --shared trains some of these networks alone, and says how far to trust the scores.` : "";
  say("shared-trust", difference ? `How far to trust the scores: ${difference}. The table has Kendall's tau with the ranking by top-1 alone, from -1 to 1; scores are no use if the costs rank as well.` : none);
  if (difference) byId("shared-rankings").append(table([["ranked by"], ["tau"]], rankings));
}

function gainSentence() {
  const [count, mean, least, most] = DATA.shared.gains;
  const points = (value) => `${value < 0 ? "" : "+"}${value.toFixed(1)}`;
  return count ? `Fine-tuning changed the top-1 of ${plural(count, "network")} by ${points(mean)} points on average, from ${points(least)} to ${points(most)}.` : "";
}

function fillConvergence() {
  if (!DATA.convergence.share.length) {
    say("convergence-caption", "No trial is done yet.");
    hide("convergence", "over-form");
    return;
  }
  say("convergence-caption", "Hypervolume of the front after each done trial, as a share of a fixed box. The box reaches from the best value of each objective to the worst plus a tenth of the range. While the line still rises, more trials are likely to find better networks.");
  add("convergence", convergenceFigure);
  byId("over").addEventListener("change", () => DRAWN.has("convergence") && draw("convergence"));
}

function fillCurves() {
  if (!DATA.curves.trial.length) {
    say("curves-caption", "No epoch has ended yet.");
    hide("curves");
    return;
  }
  const thinned = DATA.curves.every > 1 ? ` Every ${DATA.curves.every}th epoch is drawn.` : "";
  say("curves-caption", `Top-1 on the search validation part after each epoch. Click a curve of the front to see its network.${thinned} ${DATA.order.join(" ")}`);
  add("curves", curvesFigure, true);
}

function fillImportance() {
  const { why, bars, networks, of } = DATA.importance;
  if (why || !Object.keys(bars).length) {
    say("importance-caption", why ?? "All done trials have the same value, so no parameter matters.");
    return;
  }
  say("importance-caption", `How much the distribution of a parameter's values differs between the best tenth of the trials and all ${plural(networks, "done trial")} (PED-ANOVA); the most important of ${plural(of, "parameter")}. With few trials this is mostly chance.`);
  Object.entries(bars).forEach(([objective, ranked], i) => {
    const figure = element("div", { class: "figure", id: `importance-${i}` });
    figure.style.height = `${90 + 22 * ranked.length}px`;
    byId("importance").append(element("h3", {}, words(objective)), figure);
    add(figure.id, () => importanceFigure(ranked));
  });
}

function fillTime() {
  const seconds = Object.values(spent()).reduce((sum, value) => sum + value, 0);
  if (!seconds) {
    say("time-caption", "No training has ended yet.");
    hide("time", "lanes");
    return;
  }
  const { wall } = DATA.time;
  const share = wall && !DATA.shared ? `, ${(seconds / wall).toFixed(1)} trials at a time` : "";
  say("time-caption", `${duration(seconds)} of ${DATA.shared ? "training and scoring" : "training"} in ${duration(wall)} of search${share}. The lower figure shows every trial from its proposal to its end.`);
  add("time", timeFigure);
  if (rowsWhere((row) => FINITE(column("started")[row]) && FINITE(column("ended")[row])).length) {
    add("lanes", lanesFigure, true);
  } else hide("lanes");
}

const MEANINGS = {
  done: DATA.shared ? "trained to the end, or scored by shared weights" : "trained to the end",
  stopped: "stopped early because it would hardly have reached the front, or by a limit set later",
  failed: "ended with an error; the table below groups them",
  running: "in training",
  interrupted: "cut off when the search ended; nas resume continues it",
  infeasible: "a proposal that misses a limit; not trained",
  duplicate: "a proposal of a network that already has a trial; not trained again",
};

function fillStatuses() {
  const rows = Object.entries(DATA.counts).map(([status, count]) => [status, String(count), MEANINGS[status] ?? ""]);
  if (rows.length) byId("statuses").append(table([["status"], ["count", true], ["meaning"]], rows));
  else byId("statuses").append(element("p", { class: "caption" }, "No trial has started yet."));
  const groups = new Map();
  for (const row of rowsWhere((one) => column("status")[one] === "failed")) {
    const failure = [column("reason")[row] ?? "", column("error")[row] ?? ""];
    const key = JSON.stringify(failure);
    groups.set(key, { failure, trials: [...(groups.get(key)?.trials ?? []), column("trial")[row]] });
  }
  if (!groups.size) return;
  const sorted = [...groups.values()].sort((a, b) => b.trials.length - a.trials.length);
  const few = (trials) => trials.slice(0, 12).join(", ") + (trials.length > 12 ? ", …" : "");
  const cells = sorted.map(({ failure: [reason, error], trials }) => [reason, String(trials.length), element("span", { class: "error" }, error), few(trials)]);
  const made = table([["reason"], ["count", true], ["error"], ["trials"]], cells);
  byId("failures").append(element("h3", {}, "Failures"), element("div", { class: "scroll", tabindex: "0" }, made));
}

function fillPage() {
  for (const form of document.querySelectorAll("form")) form.addEventListener("submit", (event) => event.preventDefault());
  for (const fill of [fillHead, fillFront, fillTrust, fillPredictors, fillShared, fillConvergence, fillCurves, fillImportance, fillTime, fillStatuses]) fill();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => [...DRAWN.keys()].forEach(draw));
  mark("ready");
  setTimeout(drawWaiting);
}

/** Notes on the page how many milliseconds after its opening something was done. */
function mark(what) {
  document.documentElement.dataset[what] = String(Math.round(performance.now()));
}

function drawWaiting() {
  const next = WAITING.shift();
  if (!next) {
    mark("drawn");
    return;
  }
  next();
  setTimeout(drawWaiting); // lets a click in between
}

fillPage();
