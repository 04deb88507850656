// Shared by all drawings: high-resolution canvases, the colors of the page, tick marks, formatted numbers.
const SUPERSCRIPTS = { "-": "⁻", 0: "⁰", 1: "¹", 2: "²", 3: "³", 4: "⁴", 5: "⁵", 6: "⁶", 7: "⁷", 8: "⁸", 9: "⁹" };
const FONT = 'system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif';

function theme() {
  const style = getComputedStyle(document.documentElement), read = name => style.getPropertyValue(name).trim();
  return {
    ink: read("--ink"), faint: read("--faint"), card: read("--card"), line: read("--line"), bad: read("--bad"),
    missing: read("--missing"), first: read("--first"), second: read("--second"), edge: read("--edge"),
  };
}

function prepare(canvas, height) { // return a cleared context in CSS pixels
  const width = Math.max(canvas.parentElement.clientWidth, 120), ratio = window.devicePixelRatio || 1;
  canvas.style.height = height + "px";
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  context.textBaseline = "middle";
  return { context, width, height };
}

function write(context, text, x, y, color, { size = 12, align = "left", weight = "" } = {}) {
  context.font = `${weight} ${size}px ${FONT}`;
  context.fillStyle = color;
  context.textAlign = align;
  context.fillText(text, x, y);
}

function fit(context, text, width) { // replace the middle by an ellipsis; keep the index and the end
  if (context.measureText(text).width <= width) return text;
  let kept = text.length - 1;
  const cut = () => text.slice(0, Math.ceil(kept / 2)) + "…" + text.slice(text.length - Math.floor(kept / 2));
  while (kept > 2 && context.measureText(cut()).width > width) kept--;
  return cut();
}

function powerOfTen(exponent) {
  return "10" + String(exponent).replace(/./g, c => SUPERSCRIPTS[c]);
}

function decades(low, high, most) {
  const stride = [1, 2, 5, 10, 20, 50, 100].find(s => (high - low) / s <= most - 1) || 100, ticks = [];
  for (let k = Math.ceil(low / stride) * stride; k <= high + 1e-9; k += stride) ticks.push(k);
  return ticks;
}

function niceTicks(low, high, most, whole) {
  const raw = (high - low) / Math.max(most, 1) || 1, power = 10 ** Math.floor(Math.log10(raw));
  let stride = [1, 2, 5, 10].map(k => k * power).find(s => s >= raw - 1e-12);
  if (whole) stride = Math.max(1, Math.round(stride));
  const ticks = [];
  for (let k = Math.ceil(low / stride - 1e-9); k * stride <= high + 1e-9 * stride; k++) ticks.push(k * stride);
  return ticks;
}

function count(value) { return (Math.round(value) || 0).toLocaleString("en-US"); }

function plain(value) { // format a number for people
  if (value === 0) return "0";
  const size = Math.abs(value);
  return size >= 1e-3 && size < 1e5 ? String(Number(value.toPrecision(4))) : value.toExponential(2);
}

function fromLog(log10) { // format 10^log10, which may exceed the range of a double
  if (log10 === -Infinity) return "0";
  const exponent = Math.floor(log10), mantissa = 10 ** (log10 - exponent);
  return log10 >= -3 && log10 < 5 ? plain(10 ** log10) : mantissa.toFixed(2) + "·" + powerOfTen(exponent);
}

function percent(share) { return share > 0 && share < 0.01 ? "<1%" : Math.min(Math.round(100 * share), share < 1 ? 99 : 100) + "%"; }

// The horizontal axis of steps. If measurements are spaced unevenly (log-spaced), all columns get the same width.
class StepAxis {
  constructor(edges, left, width) {
    const gaps = edges.slice(1).map((e, k) => e - edges[k]).sort((a, b) => a - b);
    this.edges = edges; this.left = left; this.width = width;
    this.number = gaps.length;
    this.even = gaps.length > 4 && gaps[gaps.length - 1] > 20 * gaps[0];
  }
  edge(column) {
    if (this.even) return this.left + this.width * column / this.number;
    return this.x(this.edges[column]);
  }
  x(step) {
    const { edges } = this, last = edges.length - 1;
    if (!this.even) return this.left + this.width * (step - edges[0]) / (edges[last] - edges[0]);
    let k = 0;
    while (k < last - 1 && edges[k + 1] <= step) k++;
    const inside = Math.min(Math.max((step - edges[k]) / (edges[k + 1] - edges[k]), 0), 1);
    return this.left + this.width * (k + inside) / this.number;
  }
  column(x) {
    for (let k = 0; k < this.number; k++) if (x < this.edge(k + 1)) return k;
    return this.number - 1;
  }
  draw(context, y, colors) {
    const most = Math.max(Math.floor(this.width / 80), 2), { edges } = this;
    const ticks = this.even
      ? Array.from({ length: most + 1 }, (_, k) => edges[Math.round(k * (this.number - 1) / most)])
      : niceTicks(edges[0], edges[edges.length - 1], most, true);
    context.strokeStyle = colors.faint;
    for (const tick of ticks) {
      const x = Math.round(this.x(tick)) + 0.5;
      context.beginPath(); context.moveTo(x, y); context.lineTo(x, y + 5); context.stroke();
      const align = x > this.left + this.width - 12 ? "right" : "center"; // not cut off at the edge
      write(context, count(tick), align === "right" ? x + 8 : x, y + 14, colors.ink, { align });
    }
    const words = this.even ? "step (one column per measurement)" : "step";
    write(context, words, this.left + this.width / 2, y + 30, colors.faint, { align: "center" });
  }
}
