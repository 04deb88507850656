// One ridge per layer at one step, aligned with the rows of the heatmap; and the distribution of a single layer.
class Ridges {
  constructor(canvas, palette) { this.canvas = canvas; this.palette = palette; }

  show(grid, frame, { row = -1, height = 420, margin = 24 } = {}) {
    const colors = theme(), { context, width } = prepare(this.canvas, height), frames = grid.frames;
    const box = this.box = { left: 14, top: margin, right: width - 66, bottom: height - 88 };
    if (!frames) return write(context, "no histograms of this signal", width / 2, height / 2, colors.faint, { align: "center" });
    const tall = (box.bottom - box.top) / grid.rows.length, x = logAxis(frames, box);
    this.rowHeight = tall; this.numRows = grid.rows.length;
    axisOfPowers(context, colors, frames, box, x);
    const points = [], crowd = grid.rows.length > 40, every = Math.max(Math.ceil(3 / tall), 1); // a ridge needs 3 pixels
    for (let k = 0; k < grid.rows.length; k++) {
      const histogram = frames.at(frame, k), base = box.top + (k + 1) * tall;
      if (!histogram) continue;
      if (k === row) { context.fillStyle = colors.line; context.fillRect(box.left, base - tall, box.right - box.left, Math.max(tall, 2)); }
      const drawn = k % every === 0 || k === row || histogram.bad > 0;
      if (drawn) this.ridge(context, colors, grid, histogram, { base, lift: Math.max(1.6 * tall, 7), x, chosen: k === row, crowd, box });
      if (histogram.shares.length) points.push([x(histogram.median), base - tall / 2]);
      this.note(context, colors, histogram, box.right, base - tall / 2, tall);
    }
    context.strokeStyle = colors.ink; context.lineWidth = 1.6; context.beginPath();
    points.forEach(([px, py], k) => k ? context.lineTo(clamp(px, box), py) : context.moveTo(clamp(px, box), py));
    context.stroke(); context.lineWidth = 1;
  }

  ridge(context, colors, grid, histogram, { base, lift, x, chosen, crowd, box }) {
    if (!histogram.shares.length) return;
    const most = Math.max(...histogram.shares), at = k => x(histogram.low + (k + 0.5) * LOG10_2);
    context.save();
    context.beginPath(); context.rect(box.left, 0, box.right - box.left, box.bottom + 1); context.clip();
    context.beginPath();
    context.moveTo(at(-1), base);
    histogram.shares.forEach((share, k) => context.lineTo(at(k), base - lift * share / most));
    context.lineTo(at(histogram.shares.length), base);
    const shade = 3 * Math.round(255 * Math.min(Math.max((histogram.median - grid.low) / (grid.high - grid.low), 0), 1));
    context.fillStyle = `rgb(${this.palette[shade]},${this.palette[shade + 1]},${this.palette[shade + 2]})`;
    context.fill();
    context.strokeStyle = chosen ? colors.ink : colors.edge;
    context.lineWidth = chosen ? 2 : 1;
    if (chosen || !crowd) context.stroke();
    context.restore();
  }

  note(context, colors, histogram, right, y, tall) { // zeros, Inf and NaN, which a ridge does not show
    if (histogram.bad > 0 && (tall >= 9 || Math.floor(y / 12) !== this.lastNote)) {
      write(context, `✖ ${percent(histogram.bad)}`, right + 4, y, colors.bad, { size: 11, weight: "bold" });
      this.lastNote = Math.floor(y / 12);
    } else if (histogram.zero > 0.01 && tall >= 9) {
      write(context, histogram.zero === 1 ? "all zero" : `${percent(histogram.zero)} zero`, right + 4, y, colors.faint, { size: 11 });
    }
  }

  hit(x, y) {
    const { left, right, top, bottom } = this.box || {};
    return x >= left && x < right + 60 && y >= top && y < bottom ? Math.min(Math.floor((y - top) / this.rowHeight), this.numRows - 1) : null;
  }
}

function clamp(x, box) { return Math.min(Math.max(x, box.left), box.right); }

function logAxis({ low, high }, box) { return log10 => box.left + (box.right - box.left) * (log10 - low) / (high - low); }

function axisOfPowers(context, colors, { low, high }, box, x) {
  context.strokeStyle = colors.line;
  for (const tick of decades(low, high, Math.max(Math.floor((box.right - box.left) / 44), 2))) {
    const place = Math.round(x(tick)) + 0.5;
    context.beginPath(); context.moveTo(place, box.top); context.lineTo(place, box.bottom + 4); context.stroke();
    write(context, powerOfTen(tick), place, box.bottom + 14, colors.ink, { size: 11, align: "center" });
  }
}

class Distribution {
  constructor(canvas) { this.canvas = canvas; }

  show(grid, frame, row, height = 200) {
    const colors = theme(), { context, width } = prepare(this.canvas, height), frames = grid.frames;
    const box = { left: 46, top: 14, right: width - 14, bottom: height - 40 };
    const center = [width / 2, height / 2], style = { align: "center" };
    if (!frames) return write(context, "no histograms of this signal were recorded", ...center, colors.faint, style);
    const histogram = frames.at(frame, row), x = logAxis(frames, box);
    axisOfPowers(context, colors, frames, box, x);
    const label = `${grid.element} of one element` + (width < 520 ? "" : ": fraction of elements by magnitude");
    write(context, label, (box.left + box.right) / 2, height - 8, colors.faint, { size: 11, align: "center" });
    if (!histogram) return write(context, "no histogram at this step", ...center, colors.faint, style);
    const most = this.highest(frames, row);
    for (const share of niceTicks(0, most, 3, false)) {
      const y = box.bottom - (box.bottom - box.top) * share / most;
      write(context, percent(share), box.left - 6, y, colors.faint, { size: 11, align: "right" });
    }
    const others = [[0, [2, 3]], [frames.steps.length - 1, [6, 3]]];
    context.save();
    context.beginPath(); context.rect(box.left, 0, box.right - box.left, box.bottom); context.clip();
    context.fillStyle = colors.first;
    histogram.shares.forEach((share, k) => {
      const left = x(histogram.low + k * LOG10_2), tall = (box.bottom - box.top) * share / most;
      context.fillRect(left + 0.5, box.bottom - tall, Math.max(x(histogram.low + (k + 1) * LOG10_2) - left - 1, 1), tall);
    });
    for (const [other, dash] of others) this.trace(context, colors, frames.at(other, row), x, box, most, dash);
    if (histogram.shares.length) {
      context.strokeStyle = colors.second; context.lineWidth = 2; context.beginPath();
      context.moveTo(x(histogram.median), box.top); context.lineTo(x(histogram.median), box.bottom); context.stroke();
    }
    context.restore();
    this.notes(context, colors, histogram, box);
  }

  highest(frames, row) { // one scale for all steps, so that they can be compared
    let most = 0;
    for (let k = 0; k < frames.steps.length; k++) for (const share of (frames.at(k, row) || { shares: [] }).shares) most = Math.max(most, share);
    return most || 1;
  }

  trace(context, colors, histogram, x, box, most, dash) { // outline of the first (dotted) or the last (dashed) step
    if (!histogram || !histogram.shares.length) return;
    const at = k => x(histogram.low + k * LOG10_2), up = share => box.bottom - (box.bottom - box.top) * share / most;
    context.save(); context.setLineDash(dash); context.strokeStyle = colors.faint; context.lineWidth = 1.3;
    context.beginPath(); context.moveTo(at(0), box.bottom);
    histogram.shares.forEach((share, k) => { context.lineTo(at(k), up(share)); context.lineTo(at(k + 1), up(share)); });
    context.lineTo(at(histogram.shares.length), box.bottom); context.stroke(); context.restore();
  }

  notes(context, colors, histogram, box) {
    const words = [];
    if (histogram.bad) words.push([`✖ ${percent(histogram.bad)} Inf/NaN`, colors.bad]);
    if (histogram.zero) words.push([`${percent(histogram.zero)} zero`, colors.ink]);
    words.forEach(([text, color], k) => write(context, text, box.right, box.top + 8 + 16 * k, color, { align: "right", weight: "bold" }));
  }
}
