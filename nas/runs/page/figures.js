/* The figures: each function returns the traces and the layout of one, in the colours of the light or the dark scheme. */
"use strict";

const CONFIG = { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["lasso2d", "select2d", "autoScale2d"] };
const KINDS = ["done", "stopped", "failed", "interrupted", "running"];
const FINITE = (value) => value !== null;

function layout(xTitle, yTitle, more = {}) {
  const axis = { gridcolor: colour("grid"), linecolor: colour("line"), zeroline: false, automargin: true };
  const { xaxis, yaxis, ...rest } = more;
  return {
    autosize: true, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", margin: { l: 48, r: 12, t: 28, b: 44 },
    font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: colour("text") },
    hoverlabel: { bgcolor: colour("raised"), bordercolor: colour("line"), font: { color: colour("text") }, align: "left" },
    legend: { orientation: "h", x: 0, y: 1, xanchor: "left", yanchor: "bottom" }, hovermode: "closest",
    modebar: { bgcolor: "rgba(0,0,0,0)", color: colour("quiet"), activecolor: colour("text") },
    dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom", // a finger scrolls the page
    xaxis: { ...axis, title: { text: plain(xTitle) }, ...xaxis }, yaxis: { ...axis, title: { text: plain(yTitle) }, ...yaxis }, ...rest,
  };
}

function hover(row) {
  const names = [...new Set([...OBJECTIVES, byId("x").value, byId("y").value])];
  const lines = names.filter((name) => column(name)[row] !== null && name !== "trial").map((name) => `${plain(axisTitle(name))}: ${number(column(name)[row])}`);
  const source = column("source")[row];
  const words = [column("status")[row], MIXED ? column("weights")[row] : null, source === "search" ? null : source];
  return [plain(title(row)), plain(column("id")[row]), ...lines, words.filter(Boolean).map(plain).join(", ")].join("<br>");
}

/** A trace of one point per row; a click on a point gives its row. */
function points(name, rows, x, y, more) {
  return {
    type: "scatter", mode: "markers", name, x: rows.map((row) => x[row]), y: rows.map((row) => y[row]),
    customdata: rows, hovertext: rows.map(hover), hoverinfo: "text", ...more,
  };
}

/** How a point looks by the weights of its network; used only if they differ. */
const SYMBOLS = { shared: "circle", "fine-tuned": "triangle-up", trained: "star" };
const MIXED = new Set(column("weights").filter(FINITE)).size > 1;

/** A trace of points for each kind of weights. */
function byWeights(name, rows, x, y, more) {
  if (!MIXED) return [points(name, rows, x, y, more)];
  return Object.entries(SYMBOLS).map(([weights, symbol]) => {
    const marker = { ...more.marker, symbol, size: weights === "shared" ? more.marker.size - 2 : more.marker.size + 2 };
    return points(`${name}, ${weights}`, rows.filter((row) => column("weights")[row] === weights), x, y, { ...more, marker });
  });
}

const BELIEVED = "val_top1_pct_believed";
const BELIEVES = BELIEVED in DATA.columns;

/** Where the points of a column are drawn: of the top-1, at the believed one, where there is one. */
function drawn(name) {
  return BELIEVES && name === CURVE ? column(name).map((value, row) => column(BELIEVED)[row] ?? value) : column(name);
}

/** The words for what is drawn. */
const drawnTitle = (name) => axisTitle(BELIEVES && name === CURVE ? BELIEVED : name);

/** The front: the line with steps through it, and its points. */
function frontTraces(front, xName, yName, error) {
  const [x, y, { mode, line }] = [drawn(xName), drawn(yName), steps(xName, yName)];
  const marker = { size: 9, color: colour("front") };
  if (!MIXED) return [points("front", front, x, y, { mode, line, error_x: error, marker })];
  const through = line ? [points("front", front, x, y, { mode: "lines", line, hoverinfo: "skip", showlegend: false })] : [];
  return [...through, ...byWeights("front", front, x, y, { error_x: error, marker })];
}

const isFront = (row) => column("is_front")[row] === 1;
const isReference = (row) => column("source")[row] === "reference";
const isDone = (row) => column("status")[row] === "done";

/** The columns on the axes; at first the first objective over the second, or over the trial's number if it is the only one. */
function axes() {
  return { x: byId("x").value, y: byId("y").value };
}

/** A line with steps through the front of exactly two objectives; with more, a line would mean nothing. */
function steps(xName, yName) {
  const both = OBJECTIVES.length === 2 && OBJECTIVES.includes(xName) && OBJECTIVES.includes(yName) && xName !== yName;
  if (!both) return { mode: "markers" };
  return { mode: "lines+markers", line: { shape: DIRECTIONS[xName] === "minimize" ? "hv" : "vh", width: 1.5, color: colour("front") } };
}

const FEASIBLE = new Set(DATA.convergence.trial); // done trials that can be on the front

/** The best value so far of the only objective, over the trials. */
function bestSoFar(rows, yName) {
  const sign = DIRECTIONS[yName] === "minimize" ? 1 : -1;
  let best = Infinity;
  const values = rows.map((row) => (best = Math.min(best, sign * drawn(yName)[row])) * sign);
  const line = { color: colour("front"), width: 1.5, shape: "hv" };
  return { type: "scatter", mode: "lines", name: "best so far", x: rows.map((row) => column("trial")[row]), y: values, line, hoverinfo: "skip" };
}

function referenceTrace(rows, x, y) {
  return points("references", rows, x, y, { marker: { symbol: "diamond", size: 10, color: colour("reference"), line: { width: 1, color: colour("page") } } });
}

/** Names of the references, with a background, as other points may lie behind them. */
function referenceNames(rows, x, y, logarithmic) {
  const font = { size: 11, color: colour("reference") };
  return rows.filter((row) => column("name")[row]).map((row) => ({
    x: logarithmic ? Math.log10(x[row]) : x[row], y: y[row], yshift: 15, text: plain(column("name")[row]), showarrow: false,
    font, bgcolor: colour("page"), opacity: 0.9, borderpad: 1, captureevents: false,
  }));
}

function fullTrace(rows, x, yName) {
  const means = column("full_test_top1_pct");
  const full = yName === CURVE ? rows.filter((row) => FINITE(means[row])) : [];
  const spread = full.map((row) => column("full_test_sd_pct")[row] ?? 0);
  return points("full training: top-1 on test images ± sd", full, x, means, {
    hovertext: full.map((row, i) => `${hover(row)}<br>full training: test top-1 ${number(means[row])} ± ${number(spread[i])}`),
    marker: { symbol: "square", size: 8, color: colour("full") },
    error_y: { type: "data", array: spread, color: colour("full"), thickness: 1.5, width: 4 },
  });
}

function limitLines(xName, yName) {
  const lines = [];
  for (const [name, axis, other] of [[xName, "x", "y"], [yName, "y", "x"]]) {
    for (const bound of (DATA.limits[name] ?? []).filter(FINITE)) {
      const line = { color: colour("quiet"), width: 1, dash: "dot" };
      lines.push({ type: "line", [`${axis}0`]: bound, [`${axis}1`]: bound, [`${axis}ref`]: axis, [`${other}0`]: 0, [`${other}1`]: 1, [`${other}ref`]: "paper", line });
    }
  }
  return lines;
}

function frontFigure(selected) {
  const { x: xName, y: yName } = axes();
  const [x, y] = [drawn(xName), drawn(yName)];
  const logarithmic = byId("logarithmic").checked;
  const rows = rowsWhere((row) => FINITE(x[row]) && FINITE(y[row]) && !(logarithmic && x[row] <= 0));
  const front = rows.filter(isFront).sort((a, b) => x[a] - x[b] || (y[a] - y[b]) * (DIRECTIONS[yName] === "minimize" ? -1 : 1));
  const errorPct = DATA.table_error_pct[xName];
  const error = errorPct !== undefined ? { type: "percent", value: errorPct, thickness: 1, width: 3, color: colour("front") } : { visible: false };
  const others = rows.filter((row) => isDone(row) && !isFront(row) && !isReference(row));
  const references = rows.filter((row) => isReference(row) && isDone(row));
  const ring = { symbol: "circle-open", size: 17, color: colour("text"), line: { width: 2.5 } };
  const traces = [
    points("not done", rows.filter((row) => !isDone(row)), x, y, { marker: { symbol: "circle-open", size: 7, color: colour("other") }, opacity: 0.7 }),
    ...byWeights("done", others, x, y, { marker: { size: 7, color: colour("other") } }),
    ...frontTraces(front, xName, yName, error),
    referenceTrace(references, x, y),
    fullTrace(rows, x, yName),
    points("selected", rows.filter((row) => row === selected), x, y, { marker: ring, hoverinfo: "skip", showlegend: false }),
  ];
  if (OBJECTIVES.length === 1 && xName === "trial" && yName === OBJECTIVES[0]) traces.push(bestSoFar(rows.filter((row) => FEASIBLE.has(column("trial")[row])), yName));
  const shown = traces.filter((trace) => trace.x.length || trace.name === "selected");
  return [shown, layout(drawnTitle(xName), drawnTitle(yName), {
    shapes: limitLines(xName, yName), annotations: referenceNames(references, x, y, logarithmic), xaxis: { type: logarithmic ? "log" : "linear" },
  })];
}

function convergenceFigure() {
  const { trial, ended, share } = DATA.convergence;
  const hours = byId("over").value === "hours";
  const begin = Math.min(...column("started").concat(ended).filter(FINITE));
  const x = hours ? ended.map((time) => (time - begin) / 3.6e6) : trial.map((_, i) => i + 1);
  const trace = {
    type: "scatter", mode: "lines", x, y: share.map((value) => 100 * value), line: { shape: "hv", color: colour("front"), width: 2 },
    hovertext: trial.map((after, i) => `after trial ${after}: ${(100 * share[i]).toFixed(2)} %`), hoverinfo: "text",
  };
  return [[trace], layout(hours ? "hours since the first trial began" : "done trials", "hypervolume, % of the box")];
}

/** The curves of the rows that are `wanted`, as one trace with gaps. */
function curves(name, wanted, more) {
  const { trial, epoch, val_top1_pct: top1 } = DATA.curves;
  const [x, y, text, rows] = [[], [], [], []];
  for (let i = 0; i < trial.length; i += 1) {
    const row = ROW_OF.get(trial[i]);
    if (row === undefined || !wanted(row)) continue;
    if (i && trial[i - 1] !== trial[i] && x.length) [x, y, text, rows].forEach((list) => list.push(null));
    x.push(epoch[i]);
    y.push(top1[i]);
    rows.push(row);
    text.push(`${plain(title(row))}<br>epoch ${epoch[i]}: ${number(top1[i])} %`);
  }
  return { type: "scatter", mode: "lines", name, x, y, customdata: rows, hovertext: text, hoverinfo: "text", connectgaps: false, ...more };
}

const ROW_OF = new Map(column("trial").map((trial, row) => [trial, row]));

function curvesFigure(selected) {
  const traces = [
    curves("others", (row) => !isFront(row), { line: { width: 0.8, color: colour("other") }, opacity: 0.8, hoverinfo: "skip" }),
    curves("front", isFront, { mode: "lines+markers", marker: { size: 4 }, line: { width: 1.5, color: colour("front") } }),
    curves("selected", (row) => row === selected, { line: { width: 3, color: colour("full") } }),
  ];
  return [traces.filter((trace) => trace.x.length || trace.name === "selected"), layout("epoch", "top-1 on validation images, %", { xaxis: { tickformat: "d", ...(Math.max(...DATA.curves.epoch) <= 12 ? { dtick: 1 } : {}) } })];
}

function importanceFigure(bars) {
  const trace = {
    type: "bar", orientation: "h", x: bars.map(([, share]) => share), y: bars.map(([name]) => plain(name)), marker: { color: colour("front") },
    hovertemplate: "%{y}: %{x:.3f}<extra></extra>",
  };
  return [[trace], layout("importance, share of 1", "", { yaxis: { autorange: "reversed", gridcolor: "rgba(0,0,0,0)" }, bargap: 0.3, margin: { l: 12, r: 12, t: 8, b: 44 } })];
}

function sharedFigure() {
  const losses = DATA.shared.training.train_loss;
  const trace = { type: "scatter", mode: "lines", x: losses.map((_, i) => i + 1), y: losses, line: { color: colour("front"), width: 1.5 }, hovertemplate: "epoch %{x}: %{y:.3f}<extra></extra>" };
  return [[trace], layout("epoch", "training loss, nat", { xaxis: { tickformat: "d" } })];
}

/** Seconds by status, and those of shared weights: their training, if it was in this run, and the scores. */
function spent() {
  const training = DATA.shared?.training;
  const shared = { "training shared weights": training && !training.copied_from ? training.seconds : 0, scoring: DATA.time.scoring };
  return { ...DATA.time.by_status, ...Object.fromEntries(Object.entries(shared).filter(([, seconds]) => seconds > 0)) };
}

function timeFigure() {
  const seconds = spent();
  const largest = Math.max(...Object.values(seconds));
  const [unit, scale] = largest < 7200 ? ["minutes", 60] : ["hours", 3600];
  const shades = { "training shared weights": "reference", scoring: "quiet" };
  const traces = [...KINDS, ...Object.keys(shades)].filter((kind) => seconds[kind]).map((kind) => ({
    type: "bar", orientation: "h", name: kind, x: [seconds[kind] / scale], y: ["work"], marker: { color: colour(shades[kind] ?? kind) },
    hovertemplate: `${kind}: ${duration(seconds[kind])}<extra></extra>`,
  }));
  const wall = { type: "bar", orientation: "h", name: "wall clock", x: [DATA.time.wall / scale], y: ["wall clock"], marker: { color: colour("other") }, hovertemplate: `${duration(DATA.time.wall)}<extra></extra>`, showlegend: false };
  return [[...traces, wall], layout(unit, "", { barmode: "stack", bargap: 0.35 })];
}

/** (row, lane) of each trial, sorted by start; a trial takes the first lane that is free from its start to its end. */
function lanes(rows) {
  const free = [];
  const [started, ended] = [column("started"), column("ended")];
  return [...rows].sort((a, b) => started[a] - started[b]).map((row) => {
    const first = free.findIndex((end) => end <= started[row]);
    const lane = first < 0 ? free.length : first;
    free[lane] = ended[row];
    return [row, lane];
  });
}

function lanesFigure() {
  const rows = rowsWhere((row) => FINITE(column("started")[row]) && FINITE(column("ended")[row]));
  const inLanes = lanes(rows);
  const traces = KINDS.map((kind) => {
    const mine = inLanes.filter(([row]) => column("status")[row] === kind);
    const spread = (of) => mine.flatMap(([row, lane]) => of(row, lane));
    const said = ([row]) => `${plain(title(row))}: ${kind}${column("seconds")[row] === null ? "" : `, ${duration(column("seconds")[row])} of training`}`;
    return {
      type: "scatter", mode: rows.length < 200 ? "lines+markers" : "lines", name: kind, line: { width: 7, color: colour(kind) }, hoverinfo: "text",
      marker: { symbol: "line-ns", size: 5, opacity: 1, line: { width: 1, color: colour("page") } }, // sets one from the next
      x: spread((row) => [column("started")[row], column("ended")[row], null]), y: spread((_, lane) => [lane + 1, lane + 1, null]),
      hovertext: mine.flatMap((pair) => [said(pair), said(pair), ""]), customdata: spread((row) => [row, row, null]),
    };
  });
  const count = inLanes.reduce((most, [, lane]) => Math.max(most, lane + 1), 1);
  const yaxis = { range: [0.4, count + 0.6], tick0: 1, dtick: Math.ceil(count / 8) };
  return [traces.filter((trace) => trace.x.length), layout("time, UTC", "trials at a time", { xaxis: { type: "date" }, yaxis })];
}

function trustFigure() {
  const rows = rowsWhere((row) => FINITE(column("full_test_top1_pct")[row]) && FINITE(column(CURVE)[row]));
  const spread = rows.map((row) => column("full_test_sd_pct")[row] ?? 0);
  const trace = points("networks", rows, column(CURVE), column("full_test_top1_pct"), {
    mode: "markers+text", text: rows.map((row) => String(column("trial")[row])), textposition: "top center", marker: { size: 9, color: colour("full") },
    hovertext: rows.map((row, i) => `${plain(title(row))}<br>search: top-1 ${number(column(CURVE)[row])} %<br>full training: test top-1 ${number(column("full_test_top1_pct")[row])} ± ${number(spread[i])} %`),
    error_y: { type: "data", array: spread, color: colour("full"), thickness: 1.5, width: 4 },
  });
  return [[trace], layout(`search: ${axisTitle(CURVE)}`, `full training: ${axisTitle("full_test_top1_pct")}`)];
}
