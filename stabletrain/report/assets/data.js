// Decode what `quantize.py` encodes: grids with 16 bits per cell, histograms with one byte per bin.
const NONE = 0, ZERO = 1, FIRST = 2, FLAG = 0x8000;
const LOG10_2 = Math.log10(2);

function toBytes(text) {
  return Uint8Array.from(atob(text), c => c.charCodeAt(0));
}

class Grid {
  constructor(source) {
    Object.assign(this, source);
    const bytes = toBytes(source.cells);
    this.numColumns = Math.max(this.edges.length - 1, 0);
    this.codes = new Uint16Array(bytes.length / 2);
    for (let k = 0; k < this.codes.length; k++) this.codes[k] = bytes[2 * k] | (bytes[2 * k + 1] << 8);
    this.frames = source.frames ? new Frames(source.frames, this.rows.length) : null;
  }
  code(row, column) { return this.codes[row * this.numColumns + column]; }
  isBad(row, column) { return (this.code(row, column) & FLAG) !== 0; }
  log10(row, column) { // NaN: no finite value; -Infinity: zero
    const code = this.code(row, column) & ~FLAG;
    if (code === NONE) return NaN;
    return code === ZERO ? -Infinity : this.base + (code - FIRST) * this.quantum;
  }
  columnOf(step) { // the last column that begins at or before the step
    let low = 0, high = this.numColumns - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (this.edges[middle] <= step) low = middle; else high = middle - 1;
    }
    return low;
  }
  stepsOf(column) {
    const first = this.edges[column], last = Math.max(Math.ceil(this.edges[column + 1]) - 1, first);
    return last > first && this.merged ? `steps ${count(first)}–${count(last)}` : `step ${count(first)}`;
  }
}

class Frames {
  constructor(source, numRows) {
    Object.assign(this, source);
    this.bytes = toBytes(source.data);
    this.offsets = [];
    for (let k = 0, at = 0; k < this.steps.length * numRows; k++) {
      this.offsets.push(at);
      at += 4 + this.bytes[at + 3];
    }
    this.numRows = numRows;
  }
  nearest(step) {
    let best = 0;
    this.steps.forEach((s, k) => { if (Math.abs(s - step) < Math.abs(this.steps[best] - step)) best = k; });
    return best;
  }
  at(frame, row) { // fractions by bin and the log10 of their lower edge; null if nothing was recorded
    const offset = this.offsets[frame * this.numRows + row], b = this.bytes;
    const zero = b[offset] / 255, bad = b[offset + 1] / 255, first = b[offset + 2], number = b[offset + 3];
    if (!zero && !bad && !number) return null;
    let total = 0;
    for (let k = 0; k < number; k++) total += b[offset + 4 + k];
    const shares = [];
    for (let k = 0; k < number; k++) shares.push(b[offset + 4 + k] / total);
    const histogram = { zero, bad, low: (first - 127) * LOG10_2, shares };
    histogram.median = medianOf(histogram);
    return histogram;
  }
}

function medianOf(histogram) { // log10, interpolated within the bin
  let below = 0;
  for (let k = 0; k < histogram.shares.length; k++) {
    const share = histogram.shares[k];
    if (share > 0 && below + share >= 0.5) return histogram.low + (k + (0.5 - below) / share) * LOG10_2;
    below += share;
  }
  return NaN;
}
