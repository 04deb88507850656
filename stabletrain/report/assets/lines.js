// Line plots by step: training curves, and the band of update ratios.
class Lines {
  constructor(canvas) { this.canvas = canvas; }

  // chart: {lines: [{label, steps, values}], log, limits, band: {steps, low, high}, level, range: [first, last]}
  show(chart, { step = null, height = 210 } = {}) {
    const colors = theme(), { context, width } = prepare(this.canvas, height);
    const box = this.box = { left: 58, top: 24, right: width - 14, bottom: height - 40 };
    this.chart = chart;
    const [first, last] = chart.range, [low, high] = this.limits(chart);
    const x = this.x = s => box.left + (box.right - box.left) * (s - first) / Math.max(last - first, 1e-9);
    const lift = v => box.bottom - (box.bottom - box.top) * (v - low) / (high - low);
    const y = v => lift(chart.log ? Math.log10(v) : v);
    this.axes(context, colors, box, first, last, low, high, lift);
    context.save();
    context.beginPath(); context.rect(box.left - 4, box.top - 4, box.right - box.left + 8, box.bottom - box.top + 8); context.clip();
    if (chart.band) this.band(context, colors, chart.band, x, lift);
    if (chart.level !== undefined) this.level(context, colors, box, lift(chart.level));
    chart.lines.forEach((line, k) => this.line(context, line, x, y, [colors.first, colors.second, colors.ink][k % 3], chart.lines.length > 1 && !k ? 3 : 1.7));
    context.restore();
    if (step !== null) {
      const place = Math.round(x(step)) + 0.5;
      context.strokeStyle = colors.ink; context.setLineDash([3, 3]); context.beginPath();
      context.moveTo(place, box.top); context.lineTo(place, box.bottom); context.stroke(); context.setLineDash([]);
    }
    this.legend(context, colors, chart, step, box);
  }

  limits(chart) {
    if (chart.limits && !chart.log) return chart.limits;
    let values = chart.lines.flatMap(line => line.values);
    if (chart.log) values = values.filter(v => v > 0).map(Math.log10);
    if (!values.length) return [0, 1];
    let low = values.reduce((a, b) => Math.min(a, b)), high = values.reduce((a, b) => Math.max(a, b));
    if (chart.log) { low = Math.floor(low - 0.05); high = Math.ceil(high + 0.05); }
    else { const room = 0.05 * (high - low) || 0.5 * Math.abs(high) || 1; low -= room; high += room; }
    return chart.log && chart.limits10 ? chart.limits10 : [low, high];
  }

  axes(context, colors, box, first, last, low, high, lift) {
    const { chart } = this;
    context.strokeStyle = colors.line;
    const ticks = chart.log ? decades(low, high, 6) : niceTicks(low, high, 5, false);
    for (const tick of ticks) {
      const place = Math.round(lift(tick)) + 0.5;
      context.beginPath(); context.moveTo(box.left, place); context.lineTo(box.right, place); context.stroke();
      write(context, chart.log ? powerOfTen(tick) : plain(tick), box.left - 6, place, colors.ink, { size: 11, align: "right" });
    }
    for (const tick of niceTicks(first, last, Math.max(Math.floor((box.right - box.left) / 90), 2), true)) {
      write(context, count(tick), this.x(tick), box.bottom + 14, colors.ink, { size: 11, align: "center" });
    }
    write(context, "step", (box.left + box.right) / 2, box.bottom + 30, colors.faint, { size: 11, align: "center" });
  }

  line(context, line, x, y, color, width) {
    context.strokeStyle = color; context.fillStyle = color; context.lineWidth = width; context.lineJoin = "round";
    context.beginPath();
    let pen = false;
    line.steps.forEach((s, k) => {
      const value = y(line.values[k]);
      if (!Number.isFinite(value)) { pen = false; return; }
      if (pen) context.lineTo(x(s), value); else context.moveTo(x(s), value);
      pen = true;
    });
    context.stroke();
    if (line.steps.length <= 30) line.steps.forEach((s, k) => {
      const value = y(line.values[k]);
      if (Number.isFinite(value)) { context.beginPath(); context.arc(x(s), value, 3.2, 0, 7); context.fill(); }
    });
    context.lineWidth = 1;
  }

  band(context, colors, band, x, lift) {
    const known = band.steps.map((s, k) => k).filter(k => band.low[k] !== null);
    context.fillStyle = colors.first; context.globalAlpha = 0.3; context.beginPath();
    known.forEach((k, n) => n ? context.lineTo(x(band.steps[k]), lift(band.high[k])) : context.moveTo(x(band.steps[k]), lift(band.high[k])));
    known.slice().reverse().forEach(k => context.lineTo(x(band.steps[k]), lift(band.low[k])));
    context.fill(); context.globalAlpha = 1;
  }

  level(context, colors, box, y) {
    context.strokeStyle = colors.ink; context.setLineDash([7, 4]); context.lineWidth = 1.5; context.beginPath();
    context.moveTo(box.left, y); context.lineTo(box.right, y); context.stroke(); context.setLineDash([]); context.lineWidth = 1;
  }

  legend(context, colors, chart, step, box) {
    let place = box.left;
    chart.lines.forEach((line, k) => {
      const near = step === null ? "" : " " + valueNear(line, step);
      write(context, "▬", place, 11, [colors.first, colors.second, colors.ink][k % 3], { size: 12 });
      context.font = `12px ${FONT}`;
      const text = fit(context, line.label, Math.max((box.right - box.left) / chart.lines.length - 90, 60)) + near;
      write(context, text, place + 15, 11, colors.ink);
      place += 30 + context.measureText(text).width;
    });
    if (chart.level !== undefined && place < box.right - 90) write(context, chart.levelLabel, box.right, 11, colors.faint, { align: "right" });
  }
}

function valueNear(line, step) {
  let best = 0;
  line.steps.forEach((s, k) => { if (Math.abs(s - step) < Math.abs(line.steps[best] - step)) best = k; });
  return line.steps.length ? plain(line.values[best]) : "";
}
