"use strict";
// Everything in here that came from the run is put into the page as text, never as markup.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const texts = data.texts, events = data.events, processes = data.processes;
  const count = events.t.length;
  const $ = (selector) => document.querySelector(selector);
  const number = (n) => n.toLocaleString("en");
  const element = (name, className, text) => {
    const made = document.createElement(name);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  };
  const tag = (text, mood) => element("span", `tag ${mood}`, text);
  const seconds = (us) => (us / 1e6).toFixed(3);
  for (const section of document.querySelectorAll("[data-script]")) section.hidden = false;

  // -- theme
  const theme = $("#theme"), root = document.documentElement;
  const isDark = () => root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  const label = () => { theme.textContent = isDark() ? "Light" : "Dark"; };
  theme.hidden = false;
  theme.addEventListener("click", () => { root.dataset.theme = isDark() ? "light" : "dark"; label(); });
  label();

  // -- processes: a tree of rows, each with its life on the run's time
  const children = processes.map(() => []), roots = [];
  processes.forEach((process, index) => (process[1] >= 0 ? children[process[1]] : roots).push(index));
  const tree = $("#processes .tree");
  const left = data.unlisted.processes ? `, ${number(data.unlisted.processes)} more are not listed` : "";
  $("#processes h2 small").textContent = `${number(processes.length)} in all${left}; choose one to see its events`;
  const BLOCK = texts.indexOf("block"), denials = processes.map(() => []);
  for (let i = 0; i < count; i++) {
    if (BLOCK > 0 && events.p[i] >= 0 && (events.a[i] === BLOCK || events.e[i] === BLOCK)) denials[events.p[i]].push(events.t[i]);
  }
  const stack = roots.map((index) => [index, 0]).reverse();
  const rows = document.createDocumentFragment();
  while (stack.length) {
    const [index, depth] = stack.pop();
    const [pid, , began, ended, program, command, n, blocked, cpu, peak] = processes[index];
    const row = element("button", "proc");
    row.type = "button";
    row.setAttribute("role", "listitem");
    const name = element("span", "name");
    name.style.setProperty("--depth", Math.min(depth, 12));
    name.append(element("b", "", texts[program] || "?"), element("span", "pid", String(pid)), element("code", "", texts[command]));
    const sum = element("span", "n num", number(n));
    if (blocked) sum.append(" ", element("span", "red", `${number(blocked)}✕`));
    const life = element("span", "life"), bar = element("i");
    bar.style.left = `${Math.min(99.5, 100 * began / data.lasted)}%`;
    bar.style.width = `${Math.max(0, 100 * (ended - began) / data.lasted)}%`;
    life.append(bar);
    for (const at of denials[index].slice(0, 200)) {
      const tick = element("i", "denial");
      tick.style.left = `${Math.min(99.7, 100 * at / 1e6 / data.lasted)}%`;
      life.append(tick);
    }
    const used = element("span", "used num", peak ? `${cpu.toFixed(2)} s, ${(peak / 1048576).toFixed(1)} MiB` : "");
    row.append(name, sum, used, life);
    row.title = `${texts[command] || texts[program]}\n${began.toFixed(3)} s to ${ended.toFixed(3)} s, ${n} events, ${blocked} refused` +
      (peak ? `\nCPU ${cpu.toFixed(3)} s, peak memory ${(peak / 1048576).toFixed(1)} MiB` : "");
    row.addEventListener("click", () => { only = index; search.value = ""; refresh(); $("#events").scrollIntoView(); });
    rows.append(row);
    for (const child of children[index].slice().reverse()) stack.push([child, depth + 1]);
  }
  tree.append(rows);

  // -- files: folders open on demand
  const folder = () => ({ files: [], folders: new Map(), sums: [0, 0, 0] });
  const top = folder();
  for (const [path, ...sums] of data.files) {
    const parts = texts[path].split("/").slice(1), last = parts.pop();
    let at = top;
    const add = (node) => sums.forEach((n, i) => { node.sums[i] += n; });
    add(at);
    for (const part of parts) {
      if (!at.folders.has(part)) at.folders.set(part, folder());
      at = at.folders.get(part);
      add(at);
    }
    at.files.push([last, sums]);
  }
  const sums = ([reads, changes, denied]) => {
    const made = element("span", "sum");
    const said = [];
    if (reads) said.push(`${number(reads)} read`);
    if (changes) said.push(`${number(changes)} changed`);
    made.textContent = said.join(", ");
    if (denied) made.append(said.length ? ", " : "", element("span", "red", `${number(denied)} refused`));
    return made;
  };
  const entry = (name, text, of, select) => {
    const line = element(name, name === "div" ? "leaf" : "");
    line.append(element("span", "mono", text), sums(of));
    return line;
  };
  const branch = (name, node) => {
    while (node.folders.size === 1 && !node.files.length) {
      const [[below, only]] = node.folders;
      name += `/${below}`;
      node = only;
    }
    const made = element("details");
    made.append(entry("summary", `${name}/`, node.sums));
    made.addEventListener("toggle", () => { if (made.open && made.childElementCount === 1) fill(made, node); });
    return made;
  };
  const order = (a, b) => b[1][2] - a[1][2] || (a[0] < b[0] ? -1 : 1);
  const fill = (into, node) => {
    const folders = [...node.folders].map(([name, below]) => [name, below.sums, below]).sort(order);
    for (const [name, , below] of folders) into.append(branch(name, below));
    for (const [name, of] of node.files.sort(order).slice(0, 2000)) into.append(entry("div", name || "/", of));
    if (node.files.length > 2000) into.append(element("div", "leaf note", `and ${number(node.files.length - 2000)} more`));
  };
  const files = $("#files .scroll");
  for (const [name, node] of [...top.folders].sort((a, b) => b[1].sums[2] - a[1].sums[2] || (a[0] < b[0] ? -1 : 1))) {
    const made = branch(`/${name}`, node);
    files.append(made);
    made.open = node.sums[2] > 0; // what was refused is not to be looked for
  }
  for (const [name, of] of top.files) files.append(entry("div", `/${name}`, of));
  if (!data.files.length) files.append(element("p", "note", "None."));
  $("#files h2 small").textContent = `${number(data.files.length)} paths` + (data.unlisted.files ? " and more" : "");

  // -- hosts
  const hosts = $("#hosts .scroll");
  $("#hosts h2 small").textContent = `${number(data.hosts.length)} destinations`;
  if (data.hosts.length) {
    const table = element("table"), head = element("thead"), body = element("tbody"), names = element("tr");
    for (const name of ["Destination", "Tried", "Refused", "Asked", "By"]) {
      const cell = element("th", ["Tried", "Refused", "Asked"].includes(name) ? "num" : "", name);
      cell.scope = "col";
      names.append(cell);
    }
    head.append(names);
    for (const [name, tried, blocked, asked, by] of data.hosts) {
      const row = element("tr"), cell = element("td");
      cell.append(element("code", "", texts[name]));
      row.append(cell, element("td", "num", number(tried)), element("td", blocked ? "num red" : "num", blocked ? number(blocked) : ""),
        element("td", "num", asked ? number(asked) : ""), element("td", "why", texts[by]));
      body.append(row);
    }
    table.append(head, body);
    hosts.append(table);
  } else hosts.append(element("p", "note", "None."));

  // -- events: only the rows in view exist
  const HEIGHT = 28, MOST = 1e6; // browsers stop at some 30 million pixels
  const viewport = $("#viewport"), space = $("#space"), details = $("#details");
  const search = $("#search"), kind = $("#kind"), action = $("#action"), matches = $("#matches");
  let shown = [], current = -1, only = -1;
  const fold = texts.map((text) => text.toLowerCase());
  const options = (select, column) => {
    for (const place of [...new Set(column)].sort((a, b) => (texts[a] < texts[b] ? -1 : 1))) {
      const option = element("option", "", texts[place]);
      option.value = String(place);
      select.append(option);
    }
  };
  options(kind, events.k);
  options(action, [...events.a, ...events.e].filter((place, i, all) => i < 2 || place !== all[i - 1]));
  const programOf = (i) => (events.p[i] < 0 ? 0 : processes[events.p[i]][4]);
  const draw = () => {
    const first = Math.max(0, Math.floor(viewport.scrollTop / HEIGHT) - 10);
    const end = Math.min(shown.length, first + Math.ceil(viewport.clientHeight / HEIGHT) + 20);
    const drawn = document.createDocumentFragment();
    for (let at = first; at < end; at++) drawn.append(rowOf(at));
    if (!shown.length) drawn.append(element("div", "none", "No event fits."));
    space.replaceChildren(drawn);
  };
  const rowOf = (at) => {
    const i = shown[at], process = processes[events.p[i]];
    const row = element("div", at === current ? "row current" : "row");
    row.setAttribute("role", "row");
    row.style.top = `${at * HEIGHT}px`;
    const decision = texts[events.a[i]], effective = texts[events.e[i]];
    const cells = [element("span", "time", seconds(events.t[i])),
      element("span", "", process ? `${texts[process[4]] || "?"} ${process[0]}` : ""), element("span", "mono", texts[events.k[i]]),
      element("span"), element("span", "mono", texts[events.o[i]])];
    cells[3].append(tag(decision === effective ? decision : `${decision} › ${effective}`, effective === "allow" && decision !== "allow" ? decision : effective));
    for (const cell of cells) cell.setAttribute("role", "cell");
    row.append(...cells);
    row.addEventListener("click", () => choose(at));
    return row;
  };
  const choose = (at) => {
    if (at < 0 || at >= shown.length) return;
    current = at;
    const y = at * HEIGHT;
    if (y < viewport.scrollTop) viewport.scrollTop = y;
    if (y + HEIGHT > viewport.scrollTop + viewport.clientHeight) viewport.scrollTop = y + HEIGHT - viewport.clientHeight;
    draw();
    tell(shown[at]);
  };
  const tell = (i) => {
    const process = processes[events.p[i]], list = element("dl");
    const fields = [["Event", `${events.n[i]}, ${seconds(events.t[i])} s, took ${number(events.us[i])} µs`],
      ["Kind", texts[events.k[i]]], ["Object", texts[events.o[i]]], ["Decision", texts[events.a[i]]], ["Done", texts[events.e[i]]],
      ["Rule", texts[events.r[i]]], ["Reason", texts[events.w[i]]], ["System call", texts[events.s[i]]], ["Result", texts[events.x[i]]],
      ["Process", process ? `${process[0]} ${texts[process[5]] || texts[process[4]]}` : ""]];
    for (const [name, said] of fields) if (said) list.append(element("dt", "", name), element("dd", "mono", said));
    details.replaceChildren(list);
    details.hidden = false;
  };
  const refresh = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const k = kind.value === "" ? -1 : Number(kind.value), a = action.value === "" ? -1 : Number(action.value);
    const fits = words.map((word) => fold.map((text) => text.includes(word)));
    shown = [];
    for (let i = 0; i < count && shown.length < MOST; i++) {
      if (k >= 0 && events.k[i] !== k) continue;
      if (a >= 0 && events.a[i] !== a && events.e[i] !== a) continue;
      if (only >= 0 && events.p[i] !== only) continue;
      const program = programOf(i);
      if (fits.every((fit) => fit[events.o[i]] || fit[events.r[i]] || fit[events.k[i]] || fit[events.w[i]] || fit[program])) shown.push(i);
    }
    current = -1;
    details.hidden = true;
    space.style.height = `${Math.max(2, shown.length) * HEIGHT}px`;
    viewport.style.height = `${Math.max(2, Math.min(20, shown.length)) * HEIGHT}px`;
    viewport.scrollTop = 0;
    const of = only >= 0 ? ` of process ${processes[only][0]}` : "";
    matches.textContent = shown.length === count ? `${number(count)} events` : `${number(shown.length)} of ${number(count)} events${of}`;
    draw();
  };
  const cut = data.total > count ? `${number(count)} of ${number(data.total)}: all that were not simply allowed, and the first of the rest` : number(count);
  $("#events h2 small").textContent = cut;
  let due = 0;
  search.addEventListener("input", () => { clearTimeout(due); due = setTimeout(refresh, 80); });
  kind.addEventListener("change", refresh);
  action.addEventListener("change", refresh);
  $(".filters").addEventListener("reset", () => { only = -1; setTimeout(refresh); });
  $(".filters").addEventListener("submit", (event) => event.preventDefault());
  viewport.addEventListener("scroll", () => requestAnimationFrame(draw));
  addEventListener("resize", draw);
  viewport.addEventListener("keydown", (event) => {
    const page = Math.floor(viewport.clientHeight / HEIGHT) - 1;
    const to = { ArrowDown: current + 1, ArrowUp: current - 1, PageDown: current + page, PageUp: current - page, Home: 0, End: shown.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    choose(Math.max(0, Math.min(shown.length - 1, to)));
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "/" && !/^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) { event.preventDefault(); search.focus(); }
    if (event.key === "Escape") { search.value = ""; only = -1; refresh(); }
  });
  // On paper: what is being looked for, or else what was not simply allowed; the first of it.
  addEventListener("beforeprint", () => {
    const ALLOW = texts.indexOf("allow"), all = shown.length === count, kept = shown;
    if (all) shown = shown.filter((i) => events.a[i] !== ALLOW || events.e[i] !== ALLOW);
    const drawn = document.createDocumentFragment(), most = Math.min(shown.length, 500);
    for (let at = 0; at < most; at++) drawn.append(rowOf(at));
    const what = all ? "events that were not simply allowed" : "events that fit the search";
    drawn.append(element("p", "note", `${number(most)} of ${number(shown.length)} ${what}; ${number(count)} events in all.`));
    space.replaceChildren(drawn);
    shown = kept;
  });
  addEventListener("afterprint", draw);
  refresh();
  document.body.dataset.ready = "true";
})();
