// The page of one run: asks for a newer state once a second, as long as the page is visible.
const PERIOD_MS = 1000, IDLE_MS = 5000, RETRY_MS = 3000;
const SECTIONS = { heatmap: d => d.signals.length, charts: d => d.charts.length, "time-charts": d => d.times.length,
  "ratio-charts": d => d.bands, "clip-charts": d => d.clipping };
const path = byId("script").dataset.path;
const parts = {};
let version = "", timerOfPoll = 0, period = PERIOD_MS;

function say(text) {
  byId("notice").hidden = !text;
  if (byId("notice").textContent !== text) byId("notice").textContent = text;
}

function put(id, html) { // the server has escaped everything in it
  if (parts[id] === html) return;
  parts[id] = html;
  byId(id).innerHTML = html;
}

function take(run) {
  document.title = run.title;
  for (const [id, html] of Object.entries(run.parts)) put(id, html);
  byId("now").hidden = false;
  byId("state").textContent = run.state;
  byId("state").className = `state ${run.isOpen ? run.state : ""}`;
  const bar = byId("bar");
  bar.hidden = !run.numSteps;
  if (run.numSteps) { bar.max = run.numSteps; bar.value = Math.min(run.step, run.numSteps); }
  const share = run.numSteps ? ` of ${count(run.numSteps)} (${percent(Math.min(run.step / run.numSteps, 1))})` : "";
  byId("steps").textContent = `${count(run.step)}${share} steps` + (run.isComplete ? "" : ", reading the record …");
  byId("depth").textContent = run.depth ? run.depth.text : "";
  byId("depth").className = run.depth && run.depth.mood ? run.depth.mood : "faint";
  for (const [id, isThere] of Object.entries(SECTIONS)) byId(id).closest("section").hidden = !run.data || !isThere(run.data);
  if (run.data) show(run.data);
}

async function poll() {
  clearTimeout(timerOfPoll);
  if (document.hidden) return;
  let wait = period;
  try {
    const answer = await fetch(path, { cache: "no-store", headers: version ? { "If-None-Match": version } : {} });
    if (answer.status === 404) {
      version = "";
      say("This run is gone: its folder was deleted or renamed." + (data ? " The page shows what was read before." : ""));
      wait = RETRY_MS;
    } else if (answer.status === 304) say("");
    else if (answer.ok) {
      const run = await answer.json();
      version = answer.headers.get("ETag") || "";
      say("");
      take(run);
      period = run.isOpen ? PERIOD_MS : IDLE_MS;
      wait = run.isComplete ? period : 50;
    } else throw new Error(String(answer.status));
  } catch (error) {
    if (error instanceof TypeError) say("The server does not answer: python -m stabletrain ui starts it again.");
    else say(`The record of this run cannot be shown: ${error.message}`);
    wait = RETRY_MS;
  }
  timerOfPoll = setTimeout(poll, wait);
}

document.documentElement.classList.add("scripted");
for (const id of Object.keys(SECTIONS)) byId(id).closest("section").hidden = true;
document.addEventListener("visibilitychange", poll);
poll();
