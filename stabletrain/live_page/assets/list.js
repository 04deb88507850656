// The list of runs: asks for the rows that changed once a second, as long as the page is visible.
(() => {
"use strict";
const PERIOD_MS = 1000, RETRY_MS = 3000, WIDTH = 144, HEIGHT = 32;
const byId = id => document.getElementById(id);
const rows = new Map(); // by name: {run, cells, element}
let since = "", timer = 0;

function element(tag, parent, className = "") {
  const made = document.createElement(tag);
  if (className) made.className = className;
  parent.append(made);
  return made;
}

function write(target, text) { if (target.textContent !== text) target.textContent = text; }

function count(value) { return value.toLocaleString("en-US"); }

function makeRow() {
  const row = document.createElement("tr"), cells = {};
  row.setAttribute("role", "row"); // on a phone the table is laid out as cards, which must remain a table for readers
  const add = name => { const cell = element("td", row, name); cell.setAttribute("role", "cell"); return cell; };
  const run = add("run");
  cells.link = element("a", run);
  cells.choices = element("div", run, "faint");
  cells.state = element("span", add("status"), "state");
  cells.verdict = add("verdict");
  const progress = add("progress-cell");
  cells.bar = element("progress", progress);
  cells.steps = element("span", progress);
  const spark = element("div", add("loss"), "spark");
  cells.svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  cells.svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
  cells.svg.setAttribute("preserveAspectRatio", "none");
  cells.svg.setAttribute("role", "img");
  cells.line = document.createElementNS("http://www.w3.org/2000/svg", "polyline");
  cells.svg.append(cells.line);
  spark.append(cells.svg);
  cells.loss = element("span", spark);
  return { element: row, cells };
}

function points({ steps, losses }) { // of the sparkline: the whole width, the range of the losses
  const low = Math.min(...losses), high = Math.max(...losses), first = steps[0], last = steps[steps.length - 1];
  const x = step => WIDTH * (step - first) / Math.max(last - first, 1);
  const y = loss => high > low ? HEIGHT - 2 - (HEIGHT - 4) * (loss - low) / (high - low) : HEIGHT / 2;
  return losses.map((loss, k) => `${x(steps[k]).toFixed(1)},${y(loss).toFixed(1)}`).join(" ");
}

function fill(row, run) {
  const { cells } = row;
  write(cells.link, run.experiment ? `${run.experiment} / ${run.title}` : run.title);
  cells.link.href = "/run/" + run.name.split("/").map(encodeURIComponent).join("/");
  write(cells.choices, run.title === run.name ? run.choices : [run.name, run.choices].filter(Boolean).join(" · "));
  write(cells.state, run.state);
  cells.state.className = `state ${run.isOpen ? run.state : ""}`;
  write(cells.verdict, `${run.sign} ${run.verdict}`);
  cells.verdict.className = `verdict ${run.mood || "faint"}`;
  const planned = run.numSteps;
  cells.bar.hidden = !planned;
  if (planned) { cells.bar.max = planned; cells.bar.value = Math.min(run.step, planned); }
  cells.bar.setAttribute("aria-label", `steps of ${run.title}`);
  write(cells.steps, planned ? `${count(run.step)} of ${count(planned)} steps` : run.step ? `${count(run.step)} steps` : "—");
  const some = run.losses.length > 0;
  cells.svg.toggleAttribute("hidden", !some);
  cells.line.setAttribute("points", some ? points(run) : "");
  const last = run.losses[run.losses.length - 1];
  cells.svg.setAttribute("aria-label", some ? `training loss, from ${run.losses[0]} to ${last}` : "");
  write(cells.loss, some ? String(Number(last.toPrecision(3))) : "—");
  row.words = [run.title, run.name, run.experiment, run.choices, run.state, run.verdict].join(" ").toLowerCase();
}

function take({ rows: changed, names, unread }) {
  for (const run of changed) {
    const row = rows.get(run.name) || makeRow();
    rows.set(run.name, row);
    row.run = run;
    fill(row, run);
  }
  const known = new Set(names);
  for (const [name, row] of rows) if (!known.has(name)) { row.element.remove(); rows.delete(name); }
  order(names.filter(name => rows.has(name)));
  filter();
  byId("empty").hidden = names.length > 0;
  byId("some").hidden = rows.size === 0;
  const training = [...rows.values()].filter(row => row.run.isOpen).length;
  const parts = [`${count(names.length)} ${names.length === 1 ? "run" : "runs"}`];
  if (training) parts.push(`${count(training)} training`);
  if (unread > 20) parts.push(`reading ${count(unread)} more`);
  write(byId("count"), parts.join(", "));
}

function order(names) { // move only what is not in its place, so that focus and scrolling stay
  let place = byId("rows").firstElementChild;
  for (const name of names) {
    const { element: row } = rows.get(name);
    if (row === place) place = place.nextElementSibling;
    else byId("rows").insertBefore(row, place);
  }
}

function filter() {
  const wanted = byId("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  for (const row of rows.values()) row.element.hidden = !wanted.every(word => row.words.includes(word));
}

function say(text) {
  byId("notice").hidden = !text;
  write(byId("notice"), text);
}

async function poll() {
  clearTimeout(timer);
  if (document.hidden) return;
  let wait = PERIOD_MS;
  try {
    const answer = await fetch("/runs.json?since=" + encodeURIComponent(since), { cache: "no-store" });
    if (!answer.ok) throw new Error(String(answer.status));
    const found = await answer.json();
    since = found.since;
    take(found);
    say("");
    if (found.unread) wait = 10; // the folder is being read piece by piece
  } catch {
    say("The server does not answer: python -m stabletrain ui starts it again.");
    wait = RETRY_MS;
  }
  timer = setTimeout(poll, wait);
}

byId("filter").addEventListener("input", filter);
document.addEventListener("visibilitychange", poll);
poll();
})();
