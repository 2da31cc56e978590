"use strict";
const clips = JSON.parse(document.getElementById("clips").textContent);
const list = document.getElementById("list");
const said = document.getElementById("said");
const rows = [];
let unsaved = false;

function make(name, settings, ...children) {
  const node = Object.assign(document.createElement(name), settings);
  node.append(...children);
  return node;
}

function figures(clip) {
  const parts = [`${clip.seconds.toFixed(1)} s`];
  if (clip.loudness !== null) parts.push(`${clip.loudness.toFixed(0)} LUFS`);
  if (clip.snr !== null) parts.push(`${clip.snr.toFixed(0)} dB above its pauses`);
  parts.push(clip.origin || "no text");
  return parts.join(" · ");
}

function add(clip, number) {
  const audio = make("audio", { controls: true, preload: "none", src: clip.file });
  const text = make("textarea", { value: clip.text, rows: 2, lang: clip.language });
  const speaker = make("input", { type: "text", value: clip.speaker });
  const drop = make("input", { type: "checkbox", checked: clip.dropped });
  const right = clip.origin === "draft" ? make("input", { type: "checkbox", checked: false }) : null; // a person has seen it
  text.setAttribute("aria-label", `text of ${clip.id}`);
  const row = make("li", {},
    make("div", { className: "head" }, make("span", { className: "id", textContent: clip.id }), audio),
    make("div", { className: "figures", textContent: figures(clip) }),
    ...(clip.notes.length ? [make("p", { className: "notes", textContent: clip.notes.join("; ") })] : []),
    text,
    make("div", { className: "bar" },
      make("label", {}, "speaker ", speaker), make("label", {}, drop, " drop this clip"),
      ...(right ? [make("label", {}, right, " this draft is right")] : [])));
  audio.addEventListener("play", () => rows.forEach((one) => one.audio !== audio && one.audio.pause()));
  drop.addEventListener("change", changed);
  text.addEventListener("input", () => { if (right) right.checked = true; changed(); });
  if (right) right.addEventListener("change", changed);
  speaker.addEventListener("input", changed);
  text.addEventListener("keydown", (event) => {
    if (event.key !== "Enter") return;
    event.preventDefault();
    if (event.ctrlKey || event.metaKey) return void (audio.paused ? audio.play() : audio.pause());
    const next = rows.slice(number + 1).find((one) => !one.row.hidden);
    if (next) { next.text.focus(); next.audio.play(); }
  });
  list.append(row);
  rows.push({ clip, row, audio, text, speaker, drop, right });
}

const isUnseen = (one) => one.right !== null && !one.right.checked && !one.drop.checked;

function changed() {
  unsaved = true;
  count();
}

function count() {
  rows.forEach((one) => one.row.classList.toggle("dropped", one.drop.checked));
  const kept = rows.filter((one) => !one.drop.checked && !isUnseen(one) && one.text.value.trim());
  const unseen = rows.filter(isUnseen).length;
  said.textContent = `${kept.length} of ${rows.length} clips have a text and stay` + (unseen ? `; ${unseen} draft${unseen > 1 ? "s are" : " is"} not checked yet` : "");
}

function filter() {
  const only = document.getElementById("only").checked;
  rows.forEach((one) => { one.row.hidden = only && !one.clip.notes.length && one.clip.origin !== "draft"; });
}

function cell(value) {
  return `"${value.replace(/\s+/g, " ").trim().replace(/"/g, '""')}"`;
}

function save() {
  const lines = rows.filter((one) => !isUnseen(one)).map((one) =>
    [one.clip.id, one.drop.checked ? "drop" : "keep", one.speaker.value, one.text.value].map(cell).join(","));
  const file = new Blob([["id,action,speaker,text", ...lines, ""].join("\n")], { type: "text/csv" });
  const link = make("a", { href: URL.createObjectURL(file), download: "review.csv" });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  unsaved = false;
}

clips.forEach(add);
count();
addEventListener("beforeunload", (event) => { if (unsaved) event.preventDefault(); });
document.getElementById("only").addEventListener("change", filter);
document.getElementById("save").addEventListener("click", save);
