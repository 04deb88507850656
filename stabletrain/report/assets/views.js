// The drawings of a run, which share one cursor (layer and step). Hovering moves it temporarily, a click permanently.
const byId = id => document.getElementById(id);
const state = { signal: 0, row: 0, step: 0, hover: null, timer: 0 };
let data = null, palette = null, signals = [], timeGrids = [], extent = [0, 1];
let explorer = null, plots = [], builtFor = ""; // explorer: {draw, refresh}; plots: functions that draw

function show(fresh) { // draw the data of a run, or newer data of the same run: the selection stays
  const first = data === null, before = signals.length ? { key: grid().key, layer: layer(), follows: state.step >= last(stops()) } : null;
  data = fresh;
  palette = toBytes(data.colors);
  signals = data.signals.map(source => new Grid(source));
  timeGrids = data.times.map(source => new Grid(source));
  extent = extentOf();
  if (signals.length && byId("heatmap")) {
    explorer ??= explore();
    explorer.refresh(before);
  }
  const shape = JSON.stringify([data.charts.map(c => c.heading), data.clipping, !data.bands, signals.map(g => g.key), timeGrids.map(g => g.key)]);
  if (shape !== builtFor) {
    builtFor = shape;
    plots = [];
    for (const id of ["charts", "clip-charts", "ratio-charts", "time-charts"]) if (byId(id)) byId(id).replaceChildren();
    charts();
    times();
  }
  redraw();
  if (!first) return;
  new ResizeObserver(redraw).observe(document.body);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
}

function extentOf() { // range of the steps in all drawings
  const ends = signals.filter(g => g.numColumns).flatMap(g => [g.edges[0], g.edges[g.numColumns] - 1]);
  for (const chart of data.charts) for (const line of chart.lines) ends.push(line.steps[0], last(line.steps));
  const low = Math.min(...ends), high = Math.max(...ends);
  return high > low ? [low, high] : [low - 0.5, low + 0.5];
}

function last(array) { return array[array.length - 1]; }
function signalOf(key) { return signals.find(g => g.key === key); }
function grid() { return signals[state.signal]; }
function cursor() { return { row: state.row, step: state.step, ...state.hover }; }
function layer() { return signals.length ? grid().rows[cursor().row] : null; }
function stops() { return grid().frames ? grid().frames.steps : grid().edges.slice(0, -1); }

let wanted = false;
function redraw() {
  if (wanted) return;
  wanted = true;
  requestAnimationFrame(() => {
    wanted = false;
    if (explorer) explorer.draw();
    for (const draw of plots) draw();
  });
}

function element(tag, text, parent, className = "") {
  const made = document.createElement(tag);
  made.textContent = text;
  if (className) made.className = className;
  parent.append(made);
  return made;
}

// Pointer and keys over a heatmap: calls `move(cell or null, whether permanently)`.
function listen(canvas, view, current, move) {
  const cell = event => {
    const box = canvas.getBoundingClientRect();
    return view.hit(event.clientX - box.left, event.clientY - box.top);
  };
  canvas.addEventListener("pointermove", event => move(cell(event), false));
  canvas.addEventListener("pointerdown", event => move(cell(event), true));
  canvas.addEventListener("pointerleave", () => move(null, false));
  const strides = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0], Home: [0, -1e9], End: [0, 1e9] };
  canvas.addEventListener("keydown", event => {
    const stride = strides[event.key];
    if (!stride || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    const at = current(), within = (x, n) => Math.min(Math.max(x, 0), n - 1);
    move({ row: within(at.row + stride[0], view.grid.rows.length), column: within(at.column + stride[1], view.grid.numColumns) }, true);
  });
}

function explore() {
  const heat = new Heatmap(byId("heatmap"), palette), ridges = new Ridges(byId("ridges"), palette), one = new Distribution(byId("distribution"));
  const signal = byId("signal"), layers = byId("layer"), time = byId("step");
  let listed = "", marked = "";
  const choose = (row, step) => { state.row = row; state.step = step; state.hover = null; controls(); redraw(); };
  const move = (cell, good) => {
    if (!cell) { if (!good) { state.hover = null; redraw(); } return; }
    const step = stepIn(cell.column);
    if (good) choose(cell.row, step); else { state.hover = { row: cell.row, step }; redraw(); }
  };
  function stepIn(column) { // the step of a histogram in the column, if there is one
    const { edges, frames } = grid();
    const kept = frames ? frames.steps[frames.nearest(edges[column])] : edges[column];
    return kept >= edges[column] && kept < edges[column + 1] ? kept : edges[column];
  }
  function controls() {
    layers.value = state.row;
    time.max = stops().length - 1;
    time.value = nearestIndex(stops(), state.step);
    byId("shown").textContent = "step " + count(state.step);
  }
  function fill() {
    layers.replaceChildren();
    grid().rows.forEach((row, k) => { element("option", row, layers).value = k; });
    controls();
  }
  signal.addEventListener("input", () => {
    const name = layer();
    stop(); state.signal = Number(signal.value); state.hover = null;
    state.row = Math.max(grid().rows.indexOf(name), 0);
    fill(); redraw();
  });
  layers.addEventListener("input", () => choose(Number(layers.value), state.step));
  time.addEventListener("input", () => { stop(); choose(state.row, stops()[Number(time.value)]); });
  function stop() { clearInterval(state.timer); state.timer = 0; byId("play").textContent = "▶ Play"; }
  byId("play").addEventListener("click", () => {
    if (state.timer) return stop();
    if (Number(time.value) >= stops().length - 1) choose(state.row, stops()[0]);
    byId("play").textContent = "❚❚ Pause";
    state.timer = setInterval(() => {
      const next = nearestIndex(stops(), state.step) + 1;
      if (next >= stops().length) return stop();
      choose(state.row, stops()[next]);
    }, 150);
  });
  listen(byId("heatmap"), heat, () => ({ row: state.row, column: grid().columnOf(state.step) }), move);
  const pick = (event, good) => {
    const box = byId("ridges").getBoundingClientRect(), row = ridges.hit(event.clientX - box.left, event.clientY - box.top);
    if (row === null || row === undefined) return;
    if (good) choose(row, state.step); else { state.hover = { row }; redraw(); }
  };
  byId("ridges").addEventListener("pointermove", event => pick(event, false));
  byId("ridges").addEventListener("pointerdown", event => pick(event, true));
  byId("ridges").addEventListener("pointerleave", () => { state.hover = null; redraw(); });
  function marks() { // a button for each finding, which goes to its layer and first step
    byId("marks").replaceChildren();
    for (const mark of data.findings) {
      const button = element("button", `${mark.sign} ${mark.name} · ${mark.where}`, byId("marks"), mark.severity);
      button.type = "button";
      button.addEventListener("click", () => {
        const known = signals.findIndex(g => g.rows.includes(mark.layer));
        if (mark.layer !== null && known >= 0 && !grid().rows.includes(mark.layer)) { state.signal = known; signal.value = known; fill(); }
        choose(Math.max(grid().rows.indexOf(mark.layer), 0), mark.first);
      });
    }
  }
  function refresh(before) { // take over new data: lists that have not changed stay as they are, with their focus
    state.signal = before ? Math.max(signals.findIndex(g => g.key === before.key), 0) : 0;
    state.row = before ? Math.max(grid().rows.indexOf(before.layer), 0) : 0;
    if (!before || before.follows) state.step = last(stops()) ?? 0;
    if (state.hover && state.hover.row >= grid().rows.length) state.hover = null;
    const lists = JSON.stringify([signals.map(g => g.label), grid().rows]), findings = JSON.stringify(data.findings);
    if (lists !== listed) {
      listed = lists;
      signal.replaceChildren();
      signals.forEach((g, k) => { element("option", g.label, signal).value = k; });
      signal.value = state.signal;
      fill();
    } else controls();
    if (findings !== marked) { marked = findings; marks(); }
  }
  function draw() {
    const at = cursor(), g = grid(), frame = g.frames ? g.frames.nearest(at.step) : 0;
    const height = Math.min(Math.max(13 * g.rows.length + 130, 330), 640);
    const clipped = state.signal === 0 ? data.clipped : null, margin = clipped ? 44 : 24;
    heat.show(g, { cursor: at, clipped, marks: data.findings, height, margin });
    ridges.show(g, frame, { row: at.row, height, margin });
    one.show(g, frame, at.row);
    const when = g.frames ? `step ${count(g.frames.steps[frame])}` : "";
    byId("ridges-heading").textContent = `All layers · ${when}`;
    byId("distribution-heading").textContent = `${g.rows[at.row]} · ${when}`;
    byId("readout").textContent = readout(g, at, frame);
    byId("heatmap").setAttribute("aria-label", `Heatmap of the ${g.label}, ${g.rows.length} layers by step. Arrow keys move the cursor. ${readout(g, at, frame)}`);
  }
  return { draw, refresh };
}

function readout(g, at, frame) {
  if (!g.numColumns) return g.rows[at.row];
  const column = g.columnOf(at.step), value = g.log10(at.row, column);
  const words = [g.rows[at.row], g.stepsOf(column)];
  words.push(Number.isNaN(value) ? "no finite value recorded" : `${g.unit} ${fromLog(value)}`);
  if (g.isBad(at.row, column)) words.push("✖ Inf/NaN");
  const histogram = g.frames ? g.frames.at(frame, at.row) : null;
  if (histogram && histogram.shares.length) words.push(`median ${g.element} ${fromLog(histogram.median)}`);
  if (histogram && histogram.zero) words.push(`${percent(histogram.zero)} zero`);
  if (g.frames && g.frames.sizes[at.row]) words.push(`${count(g.frames.sizes[at.row])} elements`);
  return words.join(" · ");
}

function nearestIndex(sorted, value) {
  let best = 0;
  sorted.forEach((s, k) => { if (Math.abs(s - value) < Math.abs(sorted[best] - value)) best = k; });
  return best;
}

function addChart(parent, heading, make, height) {
  const figure = element("figure", "", parent), title = element("h3", heading, figure), canvas = element("canvas", "", figure);
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", heading);
  const lines = new Lines(canvas);
  canvas.addEventListener("pointermove", event => {
    const box = canvas.getBoundingClientRect(), { left, right } = lines.box, [first, last] = lines.chart.range;
    const share = (event.clientX - box.left - left) / (right - left);
    state.hover = { step: Math.round(Math.min(Math.max(first + share * (last - first), first), last)) };
    redraw();
  });
  canvas.addEventListener("pointerleave", () => { state.hover = null; redraw(); });
  plots.push(() => {
    const chart = make();
    title.textContent = chart.heading || heading;
    lines.show({ range: extent, ...chart }, { step: cursor().step, height });
  });
}

function lineOf(g, row, label) { // one row of a grid as a line
  const steps = g.edges.slice(0, -1), logs = steps.map((_, k) => g.log10(row, k));
  return { label, steps, values: logs.map(v => Number.isFinite(v) ? 10 ** v : NaN) };
}

function charts() {
  data.charts.forEach((chart, k) => {
    const parent = byId(chart.isNorm && data.clipping ? "clip-charts" : "charts");
    if (parent) addChart(parent, chart.heading, () => data.charts[k]);
  });
  const { before, after, ratio } = data.keys;
  if (data.clipping && signalOf(before) && signalOf(after)) addChart(byId("clip-charts"), "One layer", () => {
    const both = [[signalOf(before), "before clipping"], [signalOf(after), "after clipping"]];
    const name = layer(), lines = both.filter(([g]) => g.rows.includes(name));
    return { heading: `rms of ${name}`, log: true, lines: lines.map(([g, label]) => lineOf(g, g.rows.indexOf(name), label)) };
  });
  if (!data.bands || !signalOf(ratio)) return;
  addChart(byId("ratio-charts"), "‖ΔW‖/‖W‖: median and 10–90% of the layers, and the selected layer", () => {
    const { steps, log10, low, high } = data.bands, ratios = signalOf(ratio);
    const median = { label: "median of the layers", steps, values: log10[1].map(v => v === null ? NaN : 10 ** v) };
    const row = ratios.rows.indexOf(layer()), own = row < 0 ? [] : [lineOf(ratios, row, layer())];
    return { log: true, lines: [median, ...own], band: { steps, low: log10[0], high: log10[2] }, level: -3, levelLabel: "– – 10⁻³, usual", limits10: [low, high] };
  }, 300);
}

function times() {
  timeGrids.forEach((_, k) => {
    const current = () => timeGrids[k], figure = element("figure", "", byId("time-charts"));
    element("h3", current().label, figure);
    const shown = element("p", "", figure, "readout"), canvas = element("canvas", "", figure), view = new Heatmap(canvas, palette);
    canvas.tabIndex = 0;
    canvas.setAttribute("role", "application");
    let own = 0;
    listen(canvas, view, () => ({ row: own, column: current().columnOf(state.step) }), (cell, good) => {
      const { edges } = current();
      if (cell) { own = cell.row; state.hover = good ? null : { step: edges[cell.column] }; if (good) state.step = edges[cell.column]; }
      else if (!good) state.hover = null;
      redraw();
    });
    plots.push(() => {
      const g = current(), { step } = cursor();
      own = Math.min(own, g.rows.length - 1);
      const column = g.columnOf(step), value = g.log10(own, column);
      view.show(g, { cursor: { row: own, step }, height: 340 });
      const number = Number.isNaN(value) ? "no finite value recorded" : `${g.unit} ${fromLog(value)}`;
      shown.textContent = `${g.rows[own]} · ${g.stepsOf(column)} · ${number}${g.isBad(own, column) ? " · ✖ Inf/NaN" : ""}`;
      canvas.setAttribute("aria-label", `Gradient through time of ${g.label}. Arrow keys move the cursor. ${shown.textContent}`);
    });
  });
}
