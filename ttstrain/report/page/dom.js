"use strict";
// Making elements, and writing numbers. Text only ever enters the page as text.

function el(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.flat(9).filter((child) => child !== null && child !== undefined));
  return element;
}

// Four significant digits, and never more characters than they need.
function shortNumber(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  if (value === 0 || Number.isInteger(value)) return value.toLocaleString("en");
  if (size >= 1000) return Math.round(value).toLocaleString("en");
  if (size < 0.001) return value.toExponential(2);
  return String(Number(value.toPrecision(4)));
}

const seconds = (value) => `${value.toFixed(1)} s`;
const steps = (value) => value.toLocaleString("en");
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function section(id, title, ...content) {
  return el("section", { id, "aria-labelledby": `${id}-title` }, el("h2", { id: `${id}-title` }, title), content);
}

function table(caption, heads, rows) {
  const head = el("tr", {}, heads.map((one) => el("th", { scope: "col" }, one)));
  return el("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": caption },
    el("table", {}, el("caption", { class: "hidden" }, caption), el("thead", {}, head), el("tbody", {}, rows)));
}

const facts = (pairs) => el("dl", { class: "facts" }, pairs.map(([label, text]) =>
  el("div", { class: text.length > 40 ? "wide" : null }, el("dt", {}, label), el("dd", {}, text))));
