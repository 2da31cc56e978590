// Tables: settings, the judge, incidents, data.

function settingsSection(runs, differences) {
  const many = runs.length > 1;
  const search = el("input", { type: "search", id: "setting-text", placeholder: "key, value or origin" });
  const own = el("input", { type: "checkbox", id: "setting-own" });
  const bodies = [];
  const draw = () => {
    const wanted = search.value.trim().toLowerCase();
    for (const row of bodies) {
      row.hidden = (wanted && !row.textContent.toLowerCase().includes(wanted)) || (own.checked && row.dataset.origin === "default");
    }
  };
  search.addEventListener("input", draw);
  own.addEventListener("change", draw);
  const tables = runs.map((run) => {
    const rows = run.settings.map((one) => el("tr", { "data-origin": one.origin || "default" },
      el("th", { scope: "row" }, one.key), el("td", { class: "value" }, one.value, one.decided ? el("span", { class: "note" }, ` → ${one.decided}`) : null), el("td", { class: "origin" }, one.origin)));
    bodies.push(...rows);
    const whole = table(`Recipe of ${run.name}`, ["setting", "value", "set by"], rows);
    return many ? el("details", {}, el("summary", {}, run.name), whole) : whole;
  });
  return section("recipe", "Recipe",
    el("div", { class: "controls" }, el("label", { for: "setting-text" }, "Settings with "), search, el("label", {}, own, " only what is not a default")), tables);
}

function differencesTable(runs, differences) {
  if (runs.length < 2) return null;
  if (!differences.length) return el("p", {}, "The recipes of these runs do not differ.");
  return table("Settings that differ", ["setting", ...runs.map((run) => run.name)], differences.map((one) =>
    el("tr", {}, el("th", { scope: "row" }, one.key), one.values.map((value) => el("td", { class: "value" }, value === null ? "–" : value)))));
}

function judgeTable(run, several) {
  const { titles, sides, words, left_out: more } = run.judgement;
  if (!sides.length) return null;
  const rows = sides.map((side) => el("tr", { class: side.usable ? null : "unusable" },
    el("th", { scope: "row" }, side.step === null ? "base" : `step ${steps(side.step)}, ${side.whose}`),
    titles.map(([name, , digits]) => {
      const found = side.figures[name];
      const sure = found && found.low !== null && found.high !== null;
      return el("td", { class: "number", title: sure ? `${found.low.toFixed(digits)} to ${found.high.toFixed(digits)}, 95 % interval` : null }, found ? found.mean.toFixed(digits).replace(/^-(0\.?0*)$/, "$1") : "–");
    }),
    el("td", { class: "why" }, side.usable ? "usable" : side.faults.join("; "))));
  const said = el("ol", { class: "words" }, words.map(([step, text]) => el("li", {}, `step ${steps(step)}: ${text}`)));
  return el("details", { open: !several }, el("summary", {}, several ? `What the judge heard of ${run.name}` : "What the judge heard, in figures"),
    table(`The judge's figures of ${run.name}`, ["weights", ...titles.map((one) => one[1]), "usable?"], rows), said,
    more ? el("p", { class: "note" }, `${steps(more)} more steps were judged; they are in judge.json and on the curves.`) : null);
}

function eventsSection(runs) {
  const blocks = runs.map((run) => {
    const all = [...run.events.incidents, ...run.events.warnings].sort((a, b) => a.step - b.step);
    const rows = all.map((one) => el("tr", {}, el("td", { class: "number" }, steps(one.step)), el("td", {}, one.kind), el("td", { class: "value" }, one.text)));
    const more = run.events.left_out ? el("p", { class: "note" }, `${run.events.left_out} more are in the run's folder.`) : null;
    return [runs.length > 1 ? el("h3", {}, run.name) : null,
      all.length ? table(`Incidents and warnings of ${run.name}`, ["step", "what", "why"], rows) : el("p", {}, "None."), more,
      run.notes.map((note) => el("p", { class: "note" }, note))];
  });
  return section("incidents", "Incidents and warnings", blocks);
}

function dataSection(runs) {
  return section("the-data", "Data", runs.map((run) => {
    const { facts: pairs, histograms, symbols, num_symbols: count, left_out: groups, notes } = run.data;
    return [runs.length > 1 ? el("h3", {}, run.name) : null,
      pairs.length ? facts(pairs) : el("p", {}, "The run's folder has no clip lists."),
      el("div", { class: "charts" }, histograms.map(histogramFigure)),
      symbols.length ? [el("h3", {}, `Letters (${count})`), el("p", { class: "letters" }, symbols.map(([letter, number]) =>
        el("span", { title: `${number} times` }, letter, el("small", {}, ` ${steps(number)}`))))] : null,
      el("h3", {}, "Left out or repaired"),
      groups.length ? groups.map((group) => el("details", {}, el("summary", {}, `${steps(group.count)} ${group.action === "skip" ? "left out" : "repaired"}: ${group.reason}`),
        el("ul", {}, group.examples.map((text) => el("li", {}, text))))) : el("p", {}, "Nothing."),
      notes.map((note) => el("p", { class: "note" }, note))];
  }));
}

function histogramFigure({ title, unit, edges, counts, median }) {
  const highest = Math.max(...counts, 1);
  const bars = counts.map((count, index) => {
    const bar = el("span", { title: `${edges[index]} to ${edges[index + 1]} ${unit}: ${count} clips` });
    bar.style.height = `${(100 * count) / highest}%`;
    return bar;
  });
  return el("figure", { class: "chart" }, el("figcaption", {}, el("h3", {}, `${title} of the clips (${unit})`)),
    el("div", { class: "bars", role: "img", "aria-label": `${title}: ${edges[0]} to ${edges[edges.length - 1]} ${unit}, median ${median}` }, bars),
    el("p", { class: "ends" }, el("span", {}, shortNumber(edges[0])), el("span", {}, `median ${shortNumber(median)}`), el("span", {}, shortNumber(edges[edges.length - 1]))));
}
