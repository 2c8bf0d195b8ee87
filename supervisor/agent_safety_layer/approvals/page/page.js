"use strict";
// Whatever a program is called, it reaches the page as text only: nothing here makes markup of it.
const at = (id) => document.getElementById(id);
const WORDS = { once: "Once", run: "This run", program: "This program, this run", always: "Always…" };
const KEYS = { y: "once", r: "run", p: "program", a: "always" };
const CALM_MS = 400; // a key or a click that was meant for what stood here before is no answer
let pending = [];
let chosen = "";
let since = 0; // when another card was chosen
let moved = 0; // when cards came to stand elsewhere
let sound = null;

function make(name, text, kind) {
  const node = document.createElement(name);
  if (text !== undefined) node.textContent = text;
  if (kind) node.className = kind;
  return node;
}

function card(request) {
  const node = make("li", undefined, "card");
  node.dataset.id = request.id;
  const left = make("span", "", "left");
  const head = make("h2");
  head.append(make("span", request.kind + " ", "kind"), make("code", request.object));
  const list = make("dl");
  for (const [label, text] of request.lines) list.append(make("dt", label), make("dd", text));
  if (request.from) list.append(make("dt", "from"), make("dd", request.from));
  const answers = make("div", undefined, "answers");
  for (const scope of request.scopes) {
    const button = make("button", WORDS[scope], "yes");
    button.type = "button";
    button.dataset.scope = scope;
    button.addEventListener("click", () => calm() && approve(request, scope));
    answers.append(button);
  }
  for (const [text, act] of [["Deny", () => answer(request, false)], ["Deny, say why…", () => why(request)]]) {
    const button = make("button", text, "no");
    button.type = "button";
    button.addEventListener("click", () => calm() && act());
    answers.append(button);
  }
  node.append(left, head, list, answers);
  node.addEventListener("pointerdown", () => choose(request.id));
  return node;
}

function calm() {
  return performance.now() - moved > CALM_MS;
}

function show(state) {
  const known = new Set(pending.map((request) => request.id));
  const now = new Set(state.pending.map((request) => request.id));
  const list = at("pending");
  for (const node of [...list.children]) {
    if (now.has(node.dataset.id)) continue;
    node.remove();
    moved = performance.now();
  }
  const fresh = state.pending.filter((request) => !known.has(request.id));
  for (const request of fresh) list.append(card(request));
  pending = state.pending;
  if (!now.has(chosen)) choose(pending.length ? pending[0].id : "");
  at("nothing").hidden = pending.length > 0;
  at("history").replaceChildren(...state.history.map((line) => {
    const node = make("li");
    node.append(make("time", new Date(line.time * 1000).toLocaleTimeString()), make("span", line.object + ": "),
      make("span", line.verdict, line.status));
    return node;
  }));
  document.title = (pending.length ? `(${pending.length}) ` : "") + "Approvals";
  say(state.problem || "live", Boolean(state.problem));
  if (fresh.length && sound) ring();
  tick();
}

function say(text, lost) {
  at("state").textContent = text;
  at("state").className = lost ? "lost" : "";
}

function choose(id) {
  if (id !== chosen) since = performance.now();
  chosen = id;
  for (const node of at("pending").children) node.classList.toggle("chosen", node.dataset.id === id);
}

function tick() {
  for (const node of at("pending").children) {
    const request = pending.find((each) => each.id === node.dataset.id);
    const left = Math.max(0, Math.round(request.until - Date.now() / 1000));
    const label = node.querySelector(".left");
    label.textContent = `${Math.floor(left / 60)}:${String(left % 60).padStart(2, "0")} left`;
    label.classList.toggle("soon", left < 30);
  }
}

async function answer(request, approved, scope = "once", message = null) {
  const node = [...at("pending").children].find((each) => each.dataset.id === request.id);
  const buttons = node ? [...node.querySelectorAll("button")] : [];
  for (const button of buttons) button.disabled = true;
  let said = "";
  try {
    const response = await fetch("answer", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ id: request.id, approved, scope, message }),
    });
    if (response.status === 409) said = "Too late: " + (await response.json()).verdict;
    else if (!response.ok) said = "Not taken: " + (await response.text());
  } catch {
    said = "Not sent: the server cannot be reached.";
  }
  if (said && node) {
    node.querySelector(".said")?.remove();
    node.append(make("p", said, "said"));
    for (const button of buttons) button.disabled = false;
  }
}

// By the press itself: the close event comes later, when the dialog may already be open for another question.
function asked(dialog) {
  return new Promise((done) => {
    dialog.querySelector("form").onsubmit = (event) => done(event.submitter?.value === "yes");
    dialog.oncancel = () => done(false);
    dialog.showModal();
  });
}

async function approve(request, scope) {
  if (!request.scopes.includes(scope)) return;
  if (scope === "always") {
    at("always-file").textContent = request.always.file;
    at("always-line").textContent = request.always.line;
    if (!(await asked(at("always")))) return;
  }
  await answer(request, true, scope);
}

async function why(request) {
  at("message").value = "";
  if (await asked(at("why"))) await answer(request, false, "once", at("message").value);
}

function ring() {
  const tone = sound.createOscillator();
  const volume = sound.createGain();
  volume.gain.setValueAtTime(0.15, sound.currentTime);
  volume.gain.exponentialRampToValueAtTime(0.001, sound.currentTime + 0.5);
  tone.frequency.value = 660;
  tone.connect(volume).connect(sound.destination);
  tone.start();
  tone.stop(sound.currentTime + 0.5);
}

at("sound").addEventListener("click", () => {
  if (sound) {
    sound.close();
    sound = null;
  } else {
    sound = new AudioContext();
    ring();
  }
  at("sound").textContent = sound ? "Sound on" : "Sound off";
  at("sound").setAttribute("aria-pressed", String(Boolean(sound)));
});

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || document.querySelector("dialog[open]")) return;
  const index = pending.findIndex((request) => request.id === chosen);
  if (index < 0) return;
  if (event.key === "j" || event.key === "k") {
    const next = pending[index + (event.key === "j" ? 1 : -1)];
    if (next) {
      choose(next.id);
      at("pending").children[pending.indexOf(next)].scrollIntoView({ block: "nearest" });
    }
    return;
  }
  if (performance.now() - since < CALM_MS || !calm()) return;
  if (event.key === "n") answer(pending[index], false);
  else if (event.key === "m") {
    event.preventDefault();
    why(pending[index]);
  } else if (Object.hasOwn(KEYS, event.key)) approve(pending[index], KEYS[event.key]);
});

const events = new EventSource("events");
events.onmessage = (event) => show(JSON.parse(event.data));
events.onerror = () => say("connection lost; what is open is denied in time", true);
setInterval(tick, 1000);
