// Charts: uPlot draws them; the step under the pointer is the same in all of them.

const SERIES_COLOURS = 8;
const WHOSE = { online: "--series-1", ema: "--series-2", base: "--muted" };
const SHADED = "Shaded: where the first steps of a healthy run lie, on average.";
const charts = []; // what is drawn now, to be drawn again for another width or theme
const kept = new Map(); // id of a chart -> what a person set: scale, hidden lines, zoom
let redrawn = 0;

// Put the charts of the same id of all runs into one; lines carry the run's number.
function mergedCharts(runs) {
  const found = new Map();
  runs.forEach((run, number) => {
    for (const chart of run.charts) {
      if (!found.has(chart.id)) found.set(chart.id, { ...chart, parts: [] });
      found.get(chart.id).parts.push({ number, run, chart });
    }
  });
  return [...found.values()];
}

const everyValue = (merged, holds) => merged.parts.every((part) => part.chart.values.every((row) => row.every(holds)));

// The figures of one section; those that never left 0, or hold no number, are only named.
function chartFigures(all, runs) {
  const empty = all.filter((chart) => everyValue(chart, (value) => value === null));
  const flat = all.filter((chart) => !empty.includes(chart) && everyValue(chart, (value) => !value));
  const drawn = all.filter((chart) => !empty.includes(chart) && !flat.includes(chart));
  const named = (what, some) => (some.length ? el("p", { class: "note" }, `${what}: ${some.map((chart) => chart.title).join(", ")}.`) : null);
  return [el("div", { class: "charts" }, drawn.map((chart) => chartFigure(chart, runs))),
    named("Always 0", flat), named("Always NaN or infinite", empty)];
}

function chartFigure(merged, runs) {
  const several = runs.length > 1;
  const plot = el("div", { class: "plot" });
  const where = el("p", { class: "readout" });
  const legend = el("ul", { class: "legend" });
  const scale = el("button", { type: "button", class: "small", "aria-pressed": "false" }, "log");
  const figure = el("figure", { class: "chart", id: `chart-${merged.id}` },
    el("figcaption", {}, el("h3", {}, merged.title + (merged.unit ? ` (${merged.unit})` : "")), scale),
    merged.note ? el("p", { class: "note" }, merged.note) : null,
    merged.parts.some((part) => part.chart.shades.length) ? el("p", { class: "note" }, SHADED) : null,
    el("div", { class: "focus", tabindex: "0", role: "img", "aria-label": summary(merged, several) }, plot),
    where, legend);
  const thinned = Math.max(...merged.parts.map((part) => part.chart.thinned));
  if (thinned) figure.append(el("p", { class: "note" },
    `Of ${steps(thinned)} logged steps the lowest and highest of each stretch are drawn.`));
  if (!kept.has(merged.id)) kept.set(merged.id, { log: merged.log, hidden: new Set(), zoom: null });
  const set = kept.get(merged.id);
  const state = { merged, runs, plot, where, legend, scale, figure, set, u: null };
  scale.addEventListener("click", () => { set.log = !set.log; drawChart(state); });
  figure.querySelector(".focus").addEventListener("keydown", (event) => moveCursor(state, event));
  charts.push(state);
  return figure;
}

function summary(merged, several) {
  const said = merged.parts.flatMap(({ run, chart }) => chart.lines.map((line, index) => {
    if (line.style === "faint") return "";
    const known = chart.values[index].map((value, place) => [chart.steps[place], value]).filter((pair) => pair[1] !== null);
    if (!known.length) return "";
    const [first, last] = [known[0], known[known.length - 1]];
    return `${several ? run.name + ", " : ""}${line.label}: ${shortNumber(first[1])} at step ${first[0]}, ` +
      `${shortNumber(last[1])} at step ${last[0]}`;
  })).filter(Boolean);
  const beside = merged.parts.flatMap(({ run, chart }) => chart.shades.map((shade) => `${several ? run.name + ", " : ""}${shade.label}`));
  return `${merged.title}. ${[...said.slice(0, 12), ...beside].join(". ")}. Arrow keys move the pointer.`;
}

function linesOf({ merged, runs }) {
  const several = runs.length > 1;
  return merged.parts.flatMap(({ number, run, chart }) => {
    const plain = chart.lines.filter((line) => line.style === "line" || line.style === "faint");
    const names = [...new Set(plain.map((line) => line.key))];
    return chart.lines.map((line, index) => {
      const place = Math.max(0, names.indexOf(line.key));
      let stroke = WHOSE[line.whose] || `--series-${(place % SERIES_COLOURS) + 1}`;
      if (several) stroke = `--series-${(number % SERIES_COLOURS) + 1}`;
      if (line.style === "limit") stroke = "--muted";
      if (line.style === "planned" && !several) stroke = "--text"; // thin dashes over the line: seen where they part, and where they do not
      let dash = line.style === "planned" || line.style === "limit" ? [5, 5] : null;
      if (!several && line.whose === "base") dash = [4, 3];
      if (several && !dash) dash = [null, [8, 3], [2, 3], [8, 3, 2, 3]][line.whose ? ["online", "ema", "base"].indexOf(line.whose) : place % 4];
      return { key: line.key, number, label: several ? `${run.name}: ${line.label}` : line.label, stroke, dash, style: line.style, steps: chart.steps, values: chart.values[index] };
    });
  });
}

// The bands of reference runs, each in the colour of the lines that it belongs to.
function shadesOf({ merged, runs }, lines) {
  return merged.parts.flatMap(({ number, run, chart }) => chart.shades.map((shade) => {
    const line = lines.find((one) => one.key === shade.key && one.number === number);
    const names = [runs.length > 1 ? run.name : null, chart.shades.length > 1 ? line.label : null].filter(Boolean);
    return { ...shade, id: `${number} ${shade.key}`, stroke: line.stroke, label: [...names, shade.label].join(", ") };
  }));
}

// What is seen of a band decides how high a chart is, as lines do.
function withShades(u, low, high, state) {
  const [first, last] = [u.series[0].min, u.series[0].max];
  for (const shade of state.shades) if (!state.set.hidden.has(shade.id)) for (const one of shade.stretches) {
    if (one.last < first || one.first > last) continue;
    low = low === null ? one.low : Math.min(low, one.low);
    high = high === null ? one.high : Math.max(high, one.high);
  }
  return [low, high];
}

function drawShades(u, state) {
  const { ctx, bbox } = u;
  ctx.save();
  ctx.beginPath();
  ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
  ctx.clip();
  ctx.globalAlpha = 0.22;
  for (const shade of state.shades) if (!state.set.hidden.has(shade.id)) {
    ctx.fillStyle = colour(shade.stroke);
    for (const { first, last, low, high } of shade.stretches) {
      let [left, right] = [u.valToPos(first === last ? first : first - 1, "x", true), u.valToPos(last, "x", true)];
      if (first === last) [left, right] = [left - 5 * devicePixelRatio, right + 5 * devicePixelRatio];
      const [top, bottom] = [u.valToPos(high, "y", true), u.valToPos(low, "y", true)];
      ctx.fillRect(left, top, right - left, Math.max(bottom - top, 2 * devicePixelRatio));
    }
  }
  ctx.restore();
}

function drawChart(state) {
  if (state.u) state.u.destroy();
  const lines = linesOf(state);
  state.shades = shadesOf(state, lines);
  const data = uPlot.join(lines.map((line) => [line.steps, line.values]));
  const positive = lines.every((line) => line.values.every((value) => value === null || value >= 0)) &&
    lines.some((line) => line.values.some((value) => value > 0));
  const log = state.set.log && positive;
  if (log) for (let i = 1; i < data.length; i++) data[i] = data[i].map((value) => (value === 0 ? null : value));
  state.scale.hidden = !positive;
  state.scale.setAttribute("aria-pressed", String(log));
  const axis = { stroke: colour("--muted"), grid: { stroke: colour("--grid"), width: 1 }, ticks: { stroke: colour("--grid") }, font: "12px system-ui, sans-serif" };
  const many = data[0].length > 40;
  state.u = new uPlot({
    width: Math.max(240, state.plot.clientWidth), height: 220, legend: { show: false },
    cursor: { sync: { key: "steps", scales: ["x", null] }, drag: { x: true, y: false }, points: { size: 7 } },
    scales: { x: { time: false, ...(state.set.zoom || {}) }, y: { distr: log ? 3 : 1, range: (u, low, high) => (log ? aroundLogs : aroundValues)(...withShades(u, low, high, state)) } },
    padding: [8, 12, 0, 0],
    axes: [
      { ...axis, size: 32, values: (_, all) => all.map((value) => (Number.isInteger(value) ? steps(value) : "")), space: 70 },
      { ...axis, size: (_, shown) => 20 + 7 * Math.max(6, ...(shown ?? []).map((text) => text.length)), values: (_, all) => all.map((value) => (value === null ? "" : shortNumber(value))) },
    ],
    series: [{}, ...lines.map((line, index) => ({
      stroke: colour(line.stroke), dash: line.dash || undefined, spanGaps: true, show: !state.set.hidden.has(index),
      width: line.style === "line" ? 2 : 1, alpha: line.style === "faint" ? 0.35 : 1,
      points: { show: !many && line.style === "line", size: 5 },
    }))],
    hooks: { drawAxes: [(u) => drawShades(u, state)], draw: [(u) => drawMarks(u, state)], setCursor: [(u) => readOut(u, state, lines)], setScale: [(u, key) => key === "x" && keepZoom(u, state)] },
  }, data, state.plot);
  state.lines = lines;
  drawLegend(state, lines);
  readOut(state.u, state, lines);
}

function keepZoom(u, { set }) {
  const [first, last] = [u.data[0][0], u.data[0][u.data[0].length - 1]];
  const { min, max } = u.scales.x;
  set.zoom = min > first || max < last ? { min, max } : null;
}

function aroundValues(low, high) {
  if (low === null || high === null) return [0, 1];
  if (low === high) return low === 0 ? [-1, 1] : [Math.min(low * 0.9, low * 1.1), Math.max(low * 0.9, low * 1.1)];
  return uPlot.rangeNum(low, high, 0.08, false);
}

const aroundLogs = (low, high) => (low === null || high === null ? [1, 10] : uPlot.rangeLog(low, high, 10, false));

// Incidents are marked on every curve.
function drawMarks(u, { runs }) {
  const { ctx, bbox } = u;
  ctx.save();
  ctx.strokeStyle = colour("--bad");
  ctx.setLineDash([3, 4]);
  ctx.lineWidth = devicePixelRatio;
  for (const run of runs) for (const mark of run.marks) {
    const x = Math.round(u.valToPos(mark.step, "x", true));
    if (x < bbox.left || x > bbox.left + bbox.width) continue;
    ctx.beginPath();
    ctx.moveTo(x, bbox.top);
    ctx.lineTo(x, bbox.top + bbox.height);
    ctx.stroke();
  }
  ctx.restore();
}

function drawLegend(state, lines) {
  const entry = (id, key, text, redraw) => el("li", {}, el("button", {
    type: "button", "aria-pressed": String(!state.set.hidden.has(id)), title: "show or hide",
    onclick: () => {
      if (!state.set.hidden.delete(id)) state.set.hidden.add(id);
      redraw();
      drawLegend(state, lines);
      readOut(state.u, state, lines);
    },
  }, key, text));
  state.legend.replaceChildren(...lines.map((line, index) => {
    const key = el("span", { class: "key" + (line.dash ? " dashed" : "") });
    key.style.borderTopColor = colour(line.stroke);
    if (line.style === "faint") key.style.opacity = "0.4";
    return entry(index, key, [line.label, el("span", { class: "value" })], () => state.u.setSeries(index + 1, { show: !state.set.hidden.has(index) }));
  }), ...state.shades.map((shade) => {
    const key = el("span", { class: "key shade" });
    key.style.backgroundColor = colour(shade.stroke);
    const outside = shade.place !== null && shade.place !== "inside";
    return entry(shade.id, key, el("span", { class: outside ? "outside" : null }, shade.label), () => drawChart(state));
  }));
}

// Write the values at the pointer, or the last ones, beside the names.
function readOut(u, state, lines) {
  if (!state.lines) return;
  const at = u.cursor.idx;
  const there = at !== null && at !== undefined && u.cursor.left >= 0;
  const cells = state.legend.querySelectorAll(".value");
  lines.forEach((_, index) => {
    const column = u.data[index + 1];
    let place = there ? at : column.length - 1;
    while (place >= 0 && (column[place] === null || column[place] === undefined)) place -= 1;
    if (cells[index]) cells[index].textContent = place < 0 ? "" : shortNumber(column[place]);
  });
  if (!there) { state.where.textContent = ""; return; }
  const step = u.data[0][at];
  const close = (u.scales.x.max - u.scales.x.min) / 60;
  const marks = state.runs.flatMap((run) => run.marks.filter((mark) => Math.abs(mark.step - step) <= close));
  state.where.textContent = `step ${steps(step)}` + marks.slice(0, 2).map((mark) => ` · ${mark.kind} at step ${mark.step}: ${mark.text}`).join("");
}

function moveCursor({ u }, event) {
  const way = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[event.key];
  if (way === undefined) return;
  event.preventDefault();
  const last = u.data[0].length - 1;
  const from = u.cursor.idx === null || u.cursor.idx === undefined || u.cursor.left < 0 ? last : u.cursor.idx;
  const place = Math.min(last, Math.max(0, from + way));
  u.setCursor({ left: u.valToPos(u.data[0][place], "x"), top: u.over.clientHeight / 2 }, true, true);
}

function drawAllCharts() {
  for (const state of charts) if (state.figure.isConnected) drawChart(state);
}

new ResizeObserver(() => {
  cancelAnimationFrame(redrawn);
  redrawn = requestAnimationFrame(() => {
    for (const { u, plot, figure } of charts) {
      if (u && figure.isConnected && plot.clientWidth && plot.clientWidth !== u.width) u.setSize({ width: Math.max(240, plot.clientWidth), height: 220 });
    }
  });
}).observe(document.documentElement);
