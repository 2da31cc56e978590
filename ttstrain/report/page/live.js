// A page that `ttstrain watch` serves: ask for what is new, and for samples, a checkpoint or an end.

const EVERY_MS = 4000;

function liveControls(live, take) {
  const said = el("p", { class: "note", role: "status" });
  const text = el("input", { type: "text", id: "say-text", maxlength: 500, placeholder: "a text of your own, or nothing for the usual ones" });
  const ask = async (what, body) => {
    said.textContent = "…";
    try {
      const answer = await fetch(`${live.root}/${what}`, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
      said.textContent = (await answer.json()).said;
    } catch (error) { said.textContent = `no answer from ttstrain watch: ${error.message}`; }
  };
  const button = (what, label, body) => el("button", { type: "button", id: `ask-${what}`, onclick: () => ask(what, body ? body() : {}) }, label);
  const stop = el("button", { type: "button", id: "ask-stop", onclick: () => { if (confirm("Save and stop the run?")) ask("stop", {}); } }, "Stop the run");
  refresh(live, take, said);
  return el("div", { class: "live", role: "group", "aria-label": "Steer the run" },
    el("label", { for: "say-text" }, "Say "), text, button("sample", "Sample now", () => ({ text: text.value })), button("save", "Save now"), stop, said);
}

async function refresh(live, take, said) {
  let known = live.version;
  let lost = false;
  for (;;) {
    await new Promise((done) => setTimeout(done, EVERY_MS));
    if (document.hidden) continue;
    try {
      const answer = await fetch(`${live.root}/data.json?since=${encodeURIComponent(known)}`);
      if (!answer.ok) throw new Error(await answer.text());
      if (lost) { lost = false; said.textContent = ""; }
      if (answer.status === 204) continue;
      known = answer.headers.get("X-Version");
      take(await answer.json());
    } catch (error) { lost = true; said.textContent = `no answer from ttstrain watch: ${error.message}`; }
  }
}
