// Puts the page together.

const CHART_SECTIONS = [["losses", "Losses"], ["heard", "What is heard"], ["optimizer", "Optimizer"], ["speed", "Speed"], ["other", "Other figures"]];
const JUDGE_NOTE = "Means over the sentences that were heard at a step. Between the first and the last step there are fewer of them; the base is measured on the same ones.";
const live = JSON.parse(document.getElementById("live").textContent);
let report = JSON.parse(document.getElementById("data").textContent);
let controls = null;

function verdictCard(run, several) {
  const { tone, sentences } = run.verdict;
  return el("article", { class: `verdict ${tone}` },
    several ? el("h3", {}, run.name) : null,
    sentences.map((sentence, index) => el("p", { class: index ? null : "first" }, sentence)),
    el("details", { open: !several }, el("summary", {}, "The run"), facts([...(run.status ? [["status", run.status]] : []), ...run.facts])));
}

function drawHeader(runs) {
  const theme = el("button", { type: "button", id: "theme", onclick: () => setTheme(isDark() ? "light" : "dark") }, "");
  const parts = [el("h1", {}, runs.map((run) => run.name).join(" · ")), el("p", { class: "note" }, `ttstrain report, written ${new Date(report.written).toLocaleString()}`), theme];
  document.getElementById("top").replaceChildren(...parts);
  nameTheme();
}

function draw() {
  const { runs, differences } = report;
  const several = runs.length > 1;
  for (const { u } of charts) if (u) u.destroy(); // else it goes on following the pointer
  charts.length = 0;
  drawHeader(runs);
  const merged = mergedCharts(runs);
  const ofSection = (id) => merged.filter((chart) => chart.section === id);
  const chartSection = ([id, title]) => (ofSection(id).length ? section(id, title,
    id === "heard" && ofSection(id).some((chart) => chart.id.startsWith("judge")) ? el("p", { class: "note" }, JUDGE_NOTE) : null,
    chartFigures(ofSection(id), runs),
    id === "heard" ? runs.map((run) => judgeTable(run, several)) : null) : null);
  const [losses, heard, ...others] = CHART_SECTIONS.map(chartSection);
  const parts = [
    section("verdict", "Verdict", controls, el("div", { class: "verdicts" }, runs.map((run) => verdictCard(run, several)))),
    several ? section("differences", "Settings that differ", differencesTable(runs, differences)) : null,
    losses, gridSection(runs), heard, ...others, eventsSection(runs), dataSection(runs), settingsSection(runs, differences),
  ].filter(Boolean);
  document.getElementById("main").replaceChildren(...parts);
  document.getElementById("sections").replaceChildren(...parts.map((part) => el("a", { href: `#${part.id}` }, part.querySelector("h2").textContent)));
  drawAllCharts();
}

// Where the keyboard is: a control, a sound or a chart, and the place in what is typed; null for nowhere.
function focusNow() {
  const at = document.activeElement;
  const caret = at && typeof at.selectionStart === "number" ? [at.selectionStart, at.selectionEnd] : null;
  if (at && at.id) return { where: `#${CSS.escape(at.id)}`, caret };
  if (at && at.dataset.address) return { where: `button.sound[data-address="${CSS.escape(at.dataset.address)}"]`, caret };
  return at && at.classList.contains("focus") ? { where: `#${CSS.escape(at.closest("figure").id)} .focus`, caret } : null;
}

// What is new of a run that is watched. What a person set, opened, typed or plays stays as it is.
function take(newer) {
  const playing = player.button && player.button.dataset.address;
  const focused = focusNow();
  const place = window.scrollY;
  const opened = new Map([...document.querySelectorAll("details")].map((one) => [one.querySelector("summary").textContent, one.open]));
  const scrolled = new Map([...document.querySelectorAll(".scroll")].map((one) => [one.getAttribute("aria-label"), [one.scrollLeft, one.scrollTop]]));
  const typed = new Map([...document.querySelectorAll("#recipe input")].map((one) => [one.id, one.type === "checkbox" ? one.checked : one.value]));
  report = newer;
  draw();
  for (const one of document.querySelectorAll("details")) one.open = opened.get(one.querySelector("summary").textContent) ?? one.open;
  for (const one of document.querySelectorAll(".scroll")) [one.scrollLeft, one.scrollTop] = scrolled.get(one.getAttribute("aria-label")) || [0, 0];
  for (const one of document.querySelectorAll("#recipe input")) {
    if (one.type === "checkbox") one.checked = typed.get(one.id) || false; else one.value = typed.get(one.id) || "";
    one.dispatchEvent(new Event(one.type === "checkbox" ? "change" : "input"));
  }
  if (playing) {
    const again = [...document.querySelectorAll("button.sound")].find((button) => button.dataset.address === playing);
    if (again) { player.button = again; again.setAttribute("aria-pressed", String(!player.audio.paused)); }
  }
  const again = focused && document.querySelector(focused.where);
  if (again) again.focus({ preventScroll: true });
  if (again && focused.caret) again.setSelectionRange(...focused.caret);
  window.scrollTo(0, place);
}

const isDark = () => (document.documentElement.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";

function setTheme(name) {
  document.documentElement.dataset.theme = name;
  nameTheme();
  drawAllCharts();
}

function nameTheme() {
  const button = document.getElementById("theme");
  if (button) button.textContent = isDark() ? "Light" : "Dark";
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { nameTheme(); drawAllCharts(); });
let shownTheme = "";
addEventListener("beforeprint", () => { shownTheme = document.documentElement.dataset.theme || ""; setTheme("light"); });
addEventListener("afterprint", () => { delete document.documentElement.dataset.theme; if (shownTheme) setTheme(shownTheme); else drawAllCharts(); });

if (live) controls = liveControls(live, take);
draw();
document.documentElement.dataset.ready = "true";
