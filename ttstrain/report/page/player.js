// One player for the whole page, so a sound stops when another begins.

const player = { audio: new Audio(), button: null, bar: null };
player.audio.preload = "none";

function play(button) {
  if (player.button === button && !player.audio.paused) { player.audio.pause(); return; }
  if (player.button !== button) {
    if (player.button) player.button.setAttribute("aria-pressed", "false");
    moveLine(0);
    player.button = button;
    player.audio.src = button.dataset.address;
  }
  player.audio.play().catch((error) => { if (error.name !== "AbortError") cannotPlay(button); });
  showPlayer();
}

function cannotPlay(button) {
  button.setAttribute("aria-pressed", "false");
  player.bar.title.textContent = `${button.dataset.title}: the sound file is not where the page expects it. ` +
    "Keep the page beside its run's samples, or write it with `ttstrain report RUN --embed-audio`.";
}

function showPlayer() {
  const place = document.getElementById("player");
  if (!player.bar) {
    const toggle = el("button", { type: "button", "aria-label": "Play or pause", onclick: () => player.button && play(player.button) }, "❚❚");
    const seek = el("input", { type: "range", min: 0, max: 1000, value: 0, "aria-label": "Place in the sound", oninput: () => {
      if (player.audio.duration) player.audio.currentTime = (seek.value / 1000) * player.audio.duration;
    } });
    player.bar = { toggle, seek, title: el("span", { class: "title", "aria-live": "polite" }), time: el("span", { class: "time" }) };
    place.append(toggle, player.bar.title, seek, player.bar.time);
    place.hidden = false;
  }
  player.bar.title.textContent = player.button.dataset.title;
}

function follow() {
  const { audio, bar, button } = player;
  if (!bar || !button) return;
  const share = audio.duration ? audio.currentTime / audio.duration : 0;
  bar.seek.value = Math.round(1000 * share);
  bar.time.textContent = audio.duration ? `${audio.currentTime.toFixed(1)} of ${seconds(audio.duration)}` : "";
  moveLine(share);
  if (!audio.paused) requestAnimationFrame(follow);
}

function moveLine(share) {
  const line = player.button && player.button.querySelector(".line");
  if (line) line.style.left = `${100 * share}%`;
}

for (const kind of ["play", "pause", "ended", "seeked", "loadedmetadata"]) {
  player.audio.addEventListener(kind, () => {
    const playing = !player.audio.paused && !player.audio.ended;
    if (player.button) player.button.setAttribute("aria-pressed", String(playing));
    if (player.bar) player.bar.toggle.textContent = playing ? "❚❚" : "▶";
    follow();
  });
}
player.audio.addEventListener("error", () => { if (player.button && player.audio.error) cannotPlay(player.button); });
document.addEventListener("keydown", (event) => { if (event.key === "Escape") player.audio.pause(); });
