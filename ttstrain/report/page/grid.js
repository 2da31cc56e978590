// The grid of samples: rows are texts, columns are the recording, the base, and each sampled step.

const BY = { recording: "recording", base: "base", online: "raw", ema: "EMA" };
const FIGURES = { "mel distance": "mel", "length ratio": "length", voice: "voice", words: "words", cer: "CER", mos: "MOS", pace: "pace" };
const gridFilter = { text: "", raw: true, ema: true, steps: "all" };

function gridSection(runs) {
  if (!runs.some((run) => run.grid.rows.length)) return null;
  const place = el("div", { class: "grid-place" });
  const count = el("p", { class: "note", "aria-live": "polite" });
  const draw = () => drawGrid(runs, place, count);
  const box = (name, label) => el("label", {}, el("input", { type: "checkbox", checked: gridFilter[name], onchange: (event) => { gridFilter[name] = event.target.checked; draw(); } }), ` ${label}`);
  const choice = el("select", { id: "grid-steps", onchange: (event) => { gridFilter.steps = event.target.value; draw(); } },
    [["all", "all steps"], ["ends", "first, best and last"], ["last", "the last only"]].map(([value, label]) => el("option", { value, selected: value === gridFilter.steps }, label)));
  const search = el("input", { type: "search", id: "grid-text", placeholder: "words of a text", value: gridFilter.text, oninput: (event) => { gridFilter.text = event.target.value; draw(); } });
  draw();
  return section("samples", "Samples",
    el("div", { class: "controls" }, el("label", { for: "grid-text" }, "Texts with "), search, el("label", { for: "grid-steps" }, "Steps "), choice, box("raw", "raw weights"), box("ema", "EMA")),
    el("p", { class: "note" }, "A press plays or stops; arrow keys move in the grid, Escape stops. One sound stops another."),
    count, place, runs.flatMap((run) => [...run.grid.notes, ...(run.grid.left_out ? [`${run.grid.left_out} more sampled steps of ${run.name} are in its folder.`] : [])].map((note) => el("p", { class: "note" }, note))));
}

function shownSteps(run) {
  const all = run.grid.steps.filter((step) => run.grid.rows.some((row) => row.cells.some((cell) => cell.step === step)));
  if (gridFilter.steps === "last") return all.slice(-1);
  if (gridFilter.steps === "ends") return all.filter((step, index) => index === 0 || index === all.length - 1 || step === run.checkpoints.best);
  return all;
}

function drawGrid(runs, place, count) {
  const wanted = gridFilter.text.trim().toLowerCase();
  let shown = 0;
  const blocks = runs.map((run) => {
    const rows = run.grid.rows.filter((row) => !wanted || row.text.toLowerCase().includes(wanted) || row.name.toLowerCase().includes(wanted));
    shown += rows.length;
    const columns = gridColumns(run, rows);
    const head = el("tr", {}, el("th", { scope: "col", class: "text" }, "text"), columns.map((column) => el("th", { scope: "col" }, column.title)));
    const body = rows.map((row) => gridRow(run, row, columns, runs.length > 1));
    return el("div", { class: "scroll samples", role: "group", "aria-label": `Samples of ${run.name}` },
      runs.length > 1 ? el("h3", {}, run.name) : null,
      el("table", { class: "grid" }, el("caption", { class: "hidden" }, `Samples of ${run.name}`), el("thead", {}, head), el("tbody", {}, body)));
  });
  count.textContent = wanted ? `${shown} texts hold “${gridFilter.text.trim()}”` : "";
  place.replaceChildren(...blocks);
}

function gridColumns(run, rows) {
  const has = (by, step) => rows.some((row) => row.cells.some((cell) => cell.by === by && cell.step === step));
  const columns = [["recording", "recording"], ["base", "base"]].filter(([by]) => has(by, null)).map(([by, title]) => ({ by, step: null, title }));
  for (const step of shownSteps(run)) {
    for (const [by, wanted] of [["online", gridFilter.raw], ["ema", gridFilter.ema]]) {
      if (wanted && has(by, step)) columns.push({ by, step, title: `step ${steps(step)}${step === run.checkpoints.best ? " (best)" : ""}, ${BY[by]}` });
    }
  }
  return columns;
}

function gridRow(run, row, columns, several) {
  const longest = Math.max(...row.cells.map((cell) => cell.seconds), 0.1);
  const cells = columns.map((column) => {
    const cell = row.cells.find((one) => one.by === column.by && one.step === column.step);
    return el("td", { "data-column": column.title, class: cell ? null : "empty" }, cell ? soundButton(run, row, cell, column, longest, several) : null);
  });
  return el("tr", {}, el("th", { scope: "row", class: "text" }, el("span", { class: "said" }, row.text), el("span", { class: "note" }, row.name)), cells);
}

function soundButton(run, row, cell, column, longest, several) {
  const title = `${several ? run.name + ", " : ""}${column.title}: ${row.text}`;
  const line = el("span", { class: "line" });
  const picture = el("span", { class: "picture" }, cell.picture ? el("img", { src: cell.picture, alt: "" }) : null, line);
  picture.style.width = `${Math.max(12, (100 * cell.seconds) / longest)}%`;
  const figures = Object.entries(cell.figures || {}).map(([name, value]) => el("span", {}, `${FIGURES[name] || name} ${shortNumber(value)}`));
  return el("div", { class: "cell" },
    el("button", {
      type: "button", class: "sound", "aria-pressed": "false", "aria-label": `Play ${title}`, "data-address": cell.address, "data-title": title,
      onclick: (event) => play(event.currentTarget), onkeydown: moveInGrid,
    }, picture, el("span", { class: "length" }, seconds(cell.seconds))),
    figures.length ? el("div", { class: "figures" }, figures) : null);
}

function moveInGrid(event) {
  const way = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
  if (!way) return;
  event.preventDefault();
  const cell = event.currentTarget.closest("td");
  const row = cell.parentElement;
  let [down, right] = [row.sectionRowIndex + way[0], cell.cellIndex + way[1]];
  for (;; down += way[0], right += way[1]) { // over gaps
    const target = row.parentElement.rows[down] && row.parentElement.rows[down].cells[right];
    if (!target || target.tagName !== "TD") return;
    const button = target.querySelector("button");
    if (button) { button.focus(); button.scrollIntoView({ block: "nearest", inline: "nearest" }); return; }
  }
}
