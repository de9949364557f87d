/* Fills the page in, draws its figures and answers clicks and keys. */
"use strict";

const DRAWN = new Map(); // id of a figure → what makes it; drawn again when the colour scheme changes
const WAITING = []; // what draws the figures further down
let CHOSEN = null; // row of the trial that the page shows

function draw(id) {
  const [traces, figureLayout] = DRAWN.get(id)(CHOSEN);
  return Plotly.react(byId(id), traces, figureLayout, CONFIG);
}

/** Draw a figure once the page can be used. */
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
    if (typeof row === "number") choose(row);
  });
}

// The head of the page.

function fillHead() {
  document.title = `${DATA.name}: search report`;
  say("name", DATA.name);
  const running = DATA.state === "running" ? "; the search goes on, and the page made again will show what came since" : "";
  say("state", `Search ${DATA.state}: ${DATA.ended} trials have ended, begun ${DATA.begun}. Page of ${DATA.made}${running}.`);
  const counts = { ...DATA.counts, front: rowsWhere(isFront).length };
  for (const [status, count] of Object.entries(counts)) {
    byId("counts").append(element("div", {}, element("dt", {}, status === "front" ? "on the front" : status), element("dd", {}, String(count))));
  }
  for (const [label, text] of DATA.facts) byId("facts").append(definitions(element("div"), [[label, text]]));
  say("details", DATA.details);
}

// The front, its table, and the network that is chosen.

function fillAxes() {
  for (const id of ["x", "y"]) {
    for (const [group, names] of Object.entries(DATA.groups)) {
      byId(id).append(element("optgroup", { label: group }, ...names.map((name) => element("option", { value: name }, name))));
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

/** Whether the values of a column are so far apart that a linear axis would show the largest alone. */
function spreadOut(name) {
  const values = column(name).filter(FINITE);
  const least = Math.min(...values);
  return values.length > 0 && least > 0 && Math.max(...values) > 30 * least;
}

function drawFront() {
  draw("front");
  const missing = rowsWhere((row) => isDone(row) && [byId("x").value, byId("y").value].some((name) => column(name)[row] === null)).length;
  const untold = missing ? ` ${plural(missing, "done trial")} without a value on these axes ${missing === 1 ? "is" : "are"} not drawn.` : "";
  say("front-caption", frontSentence() + untold);
}

function frontSentence() {
  const done = rowsWhere(isDone).length;
  if (!done) return NUM_TRIALS ? "No trial is done yet, so there is no front; trials that have begun are drawn hollow." : "No trial has begun yet.";
  const best = OBJECTIVES.map((name) => `${DIRECTIONS[name] === "minimize" ? "least" : "greatest"} ${name}`).join(", ");
  const front = rowsWhere(isFront).length;
  const what = OBJECTIVES.length > 1 ? "on the front: no other is as good on every objective and better on one" : "best on the one objective";
  return `${front} of ${plural(done, "done trial")} ${front === 1 ? "is" : "are"} ${what} (${best}). Choose a point, or a row below, to see its network.`;
}

const FRONT_COLUMNS = ["trial", "id", ...OBJECTIVES, "full_test_top1_pct", "full_test_sd_pct", "seconds", "source", "name"];
let SORT = { name: OBJECTIVES[0], ascending: DIRECTIONS[OBJECTIVES[0]] === "minimize" };

function frontRows() {
  const values = column(SORT.name);
  const sign = SORT.ascending ? 1 : -1;
  const compared = (a, b) => (values[a] === null ? 1 : values[b] === null ? -1 : sign * (values[a] < values[b] ? -1 : values[a] > values[b] ? 1 : 0));
  return rowsWhere(isFront).sort(compared);
}

function fillFrontTable() {
  const rows = frontRows();
  if (!rows.length) return;
  const names = FRONT_COLUMNS.filter((name) => rows.some((row) => column(name)[row] !== null));
  const numeric = (name) => rows.some((row) => typeof column(name)[row] === "number");
  const shown = (value) => (typeof value === "number" ? number(value) : value ?? "");
  const made = table(names.map((name) => [sorter(name), numeric(name)]), rows.map((row) => names.map((name) => shown(column(name)[row]))));
  made.querySelectorAll("th").forEach((head, i) => names[i] === SORT.name && head.setAttribute("aria-sort", SORT.ascending ? "ascending" : "descending"));
  made.querySelectorAll("tbody tr").forEach((line, i) => answering(line, rows[i]));
  byId("front-table").replaceChildren(made);
  markChosen();
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

function answering(line, row) {
  line.tabIndex = 0;
  line.dataset.row = row;
  line.addEventListener("click", () => choose(row));
  line.addEventListener("keydown", (event) => {
    const next = { ArrowDown: line.nextElementSibling, ArrowUp: line.previousElementSibling }[event.key];
    if (event.key !== "Enter" && event.key !== " " && !next) return;
    event.preventDefault();
    if (next) next.focus();
    else choose(row);
  });
}

function markChosen() {
  for (const line of byId("front-table").querySelectorAll("tbody tr")) line.setAttribute("aria-selected", String(Number(line.dataset.row) === CHOSEN));
}

function choose(row) {
  CHOSEN = row;
  showNetwork(row);
  markChosen();
  for (const id of ["front", "curves"]) if (DRAWN.has(id)) moveMark(id);
}

/** Draw what marks the chosen network in a figure anew, and leave all else of it. */
function moveMark(id) {
  const [traces] = DRAWN.get(id)(CHOSEN);
  const place = traces.findIndex((trace) => trace.name === "chosen");
  const changed = Object.fromEntries(["x", "y", "customdata", "hovertext"].map((name) => [name, [traces[place][name]]]));
  Plotly.restyle(byId(id), changed, [place]);
}

/** The drawing of a network, which was compressed with zlib; it fills itself in. */
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
  else parts.push(element("p", { class: "caption" }, "One of timm's own networks, whose layers are not known here: there is no picture of it."));
  const [texts, numbers] = knownOf(row);
  parts.push(definitions(element("dl", { class: "numbers" }), texts), definitions(element("dl", { class: "numbers double" }), numbers));
  const trial = column("trial")[row];
  if (isDone(row) && !isFront(row)) parts.push(element("p", { class: "caption" }, "Off the front, a run keeps weights only with --keep-all."));
  if (isDone(row)) parts.push(element("code", { class: "command" }, `nas export ${DATA.folder} --trial ${trial}`));
  byId("network").replaceChildren(...parts);
}

/** What is known of a trial, as pairs of the names of columns and values; the first list is of texts. */
function knownOf(row) {
  const texts = ["id", "status", "reason", "error", "source", "device", "precision"];
  const numbers = [...DATA.groups.objectives, ...(DATA.groups["also measured"] ?? []), ...DATA.groups["of the trial"]].filter((name) => name !== "trial");
  const known = (names, shown) => names.filter((name) => column(name)[row] !== null).map((name) => [name, shown(column(name)[row])]);
  return [known(texts, String), known(numbers, number)];
}

function fillFront() {
  fillAxes();
  if (!NUM_TRIALS) {
    say("front-caption", frontSentence());
    hide("front-part");
    return;
  }
  const [first] = [...frontRows(), ...rowsWhere(isDone), 0];
  CHOSEN = first;
  DRAWN.set("front", frontFigure);
  drawFront();
  onClick("front");
  fillFrontTable();
  showNetwork(first);
  for (const [name, close] of Object.entries(DATA.close)) {
    const pairs = close.map(([one, other]) => `${one} and ${other}`).join(", ");
    say("close", `The latency table errs by ${DATA.table_error_pct[name].toFixed(1)} %, and does not tell apart, by ${name}, trials ${pairs}.`);
  }
}

// What follows below.

function fillTrust() {
  const full = rowsWhere((row) => FINITE(column("full_test_top1_pct")[row])).length;
  const command = `nas verify ${DATA.folder}`;
  const none = `No network was trained in full yet. ${command} trains the best of the front to the end with several seeds, and then this tells how well the search's ranking holds.`;
  say("trust-caption", full ? `${DATA.trust ?? "One network alone has no ranking"}.` : none);
  if (full) add("trust", trustFigure);
  else hide("trust");
}

function fillConvergence() {
  if (!DATA.convergence.share.length) {
    say("convergence-caption", "No network of the space is done yet.");
    hide("convergence", "over-form");
    return;
  }
  say("convergence-caption", "Share of a fixed box that the front dominates, after each done trial. The box goes from the best value of each objective that was found to a tenth of the range beyond the worst. While the line still rises, more trials are likely to find better networks.");
  add("convergence", convergenceFigure);
  byId("over").addEventListener("change", () => DRAWN.has("convergence") && draw("convergence"));
}

function fillCurves() {
  if (!DATA.curves.trial.length) {
    say("curves-caption", "No epoch was trained yet.");
    hide("curves");
    return;
  }
  const thinned = DATA.curves.every > 1 ? ` Every ${DATA.curves.every}th epoch is drawn.` : "";
  say("curves-caption", `Top-1 on the search validation part after each epoch; a click on a curve of the front chooses its network.${thinned}`);
  add("curves", curvesFigure, true);
}

function fillImportance() {
  const { why, bars, networks, of } = DATA.importance;
  if (why || !Object.keys(bars).length) {
    say("importance-caption", why ?? "Every done network has the same value, so no parameter tells them apart.");
    return;
  }
  say("importance-caption", `How much the values of a parameter differ between the best tenth and all of ${plural(networks, "done network")} (PED-ANOVA); the greatest of ${plural(of, "parameter")}. Of few networks, this is mostly chance.`);
  Object.entries(bars).forEach(([objective, ranked], i) => {
    const figure = element("div", { class: "figure", id: `importance-${i}` });
    figure.style.height = `${90 + 22 * ranked.length}px`;
    byId("importance").append(element("h3", {}, objective), figure);
    add(figure.id, () => importanceFigure(ranked));
  });
}

function fillTime() {
  const seconds = Object.values(DATA.time.by_status).reduce((sum, value) => sum + value, 0);
  if (!seconds) {
    say("time-caption", "No training has ended yet.");
    hide("time", "lanes");
    return;
  }
  const { wall } = DATA.time;
  const share = wall ? `, ${(seconds / wall).toFixed(1)} at a time` : "";
  say("time-caption", `${duration(seconds)} of training in ${duration(wall)} of searching${share}. Below, every trial from its proposal to its end.`);
  add("time", timeFigure);
  if (rowsWhere((row) => FINITE(column("started")[row]) && FINITE(column("ended")[row])).length) {
    add("lanes", lanesFigure, true);
  } else hide("lanes");
}

const MEANINGS = {
  done: "trained to the end",
  stopped: "stopped early, as it fell behind its peers, or by a later limit",
  failed: "ended with an error; grouped below",
  running: "under way",
  interrupted: "not at its end when the search was; nas resume goes on with it",
  infeasible: "a proposal outside a limit, not trained",
  duplicate: "a proposal of a network that has a trial, not trained again",
};

function fillStatuses() {
  const rows = Object.entries(DATA.counts).map(([status, count]) => [status, String(count), MEANINGS[status] ?? ""]);
  if (rows.length) byId("statuses").append(table([["status"], ["count", true], ["what it is"]], rows));
  else byId("statuses").append(element("p", { class: "caption" }, "No trial has begun yet."));
  const groups = new Map();
  for (const row of rowsWhere((one) => column("status")[one] === "failed")) {
    const found = [column("reason")[row] ?? "", column("error")[row] ?? ""];
    const name = JSON.stringify(found);
    groups.set(name, { found, trials: [...(groups.get(name)?.trials ?? []), column("trial")[row]] });
  }
  if (!groups.size) return;
  const sorted = [...groups.values()].sort((a, b) => b.trials.length - a.trials.length);
  const few = (trials) => trials.slice(0, 12).join(", ") + (trials.length > 12 ? ", …" : "");
  const cells = sorted.map(({ found: [reason, error], trials }) => [reason, String(trials.length), element("span", { class: "error" }, error), few(trials)]);
  const made = table([["reason"], ["count", true], ["what it said"], ["trials"]], cells);
  byId("failures").append(element("h3", {}, "Failures"), element("div", { class: "scroll", tabindex: "0" }, made));
}

function fillPage() {
  for (const form of document.querySelectorAll("form")) form.addEventListener("submit", (event) => event.preventDefault());
  for (const fill of [fillHead, fillFront, fillTrust, fillConvergence, fillCurves, fillImportance, fillTime, fillStatuses]) fill();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => [...DRAWN.keys()].forEach(draw));
  mark("ready");
  setTimeout(drawWaiting);
}

/** Milliseconds from when the page was opened. */
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
  setTimeout(drawWaiting); // so that a click comes in between
}

fillPage();
