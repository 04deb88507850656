const ALARM = [200, 0, 30]; // the same in light and dark mode: it is shown among the colors of the scale

// A grid as colored cells, with marks for Inf and NaN, outlines of findings, the fraction of clipped steps, a cursor.
class Heatmap {
  constructor(canvas, palette) {
    this.canvas = canvas; this.palette = palette;
    this.image = document.createElement("canvas");
  }

  show(grid, { cursor = null, clipped = null, marks = [], height = 420, margin = 24 } = {}) {
    const colors = theme(), { context, width } = prepare(this.canvas, height), narrow = width < 520;
    this.grid = grid; this.axis = null;
    this.box = { left: narrow ? 84 : 168, top: margin, right: width - 8, bottom: height - 88 };
    const { left, top, right, bottom } = this.box;
    if (!grid.numColumns) return write(context, "nothing recorded", width / 2, height / 2, colors.faint, { align: "center" });
    this.axis = new StepAxis(grid.edges, left, right - left);
    this.rowHeight = (bottom - top) / grid.rows.length;
    this.paint(context, colors);
    this.labels(context, colors, cursor);
    this.above(context, colors, clipped);
    this.axis.draw(context, bottom, colors);
    this.scale(context, colors, height - 34);
    const places = this.outline(context, colors, marks);
    if (cursor) this.cross(context, colors, cursor);
    for (const place of places) this.tag(context, colors, place);
  }

  paint(context, colors) {
    const { image } = this, { left, top, bottom } = this.box;
    if (this.painted !== this.grid || this.flat !== colors.missing) this.fill(colors.missing);
    context.imageSmoothingEnabled = false;
    for (let column = 0; column < image.width; column++) {
      const x = Math.floor(this.axis.edge(column)), next = Math.ceil(this.axis.edge(column + 1));
      context.drawImage(image, column, 0, 1, image.height, x, top, next - x, bottom - top);
    }
    if (this.anyBad) this.hatch(context);
    context.strokeStyle = colors.line;
    context.strokeRect(left - 0.5, top - 0.5, this.box.right - left + 1, bottom - top + 1);
  }

  fill(missing) { // one pixel per cell
    const { grid, image, palette } = this, flat = hexToRgb(missing);
    this.painted = grid; this.flat = missing;
    image.width = grid.numColumns; image.height = grid.rows.length;
    const inner = image.getContext("2d"), pixels = inner.createImageData(image.width, image.height);
    const span = grid.high - grid.low;
    this.anyZero = this.anyBad = this.anyMissing = false;
    for (let row = 0, at = 0; row < image.height; row++) for (let column = 0; column < image.width; column++, at += 4) {
      const value = grid.log10(row, column);
      let color = flat;
      if (grid.isBad(row, column)) { color = ALARM; this.anyBad = true; }
      else if (value === -Infinity) { color = [0, 0, 0]; this.anyZero = true; }
      else if (Number.isNaN(value)) this.anyMissing = true;
      else {
        const shade = 3 * Math.round(255 * Math.min(Math.max((value - grid.low) / span, 0), 1));
        color = [palette[shade], palette[shade + 1], palette[shade + 2]];
      }
      pixels.data.set(color, at); pixels.data[at + 3] = 255;
    }
    inner.putImageData(pixels, 0, 0);
  }

  hatch(context) { // white strokes over red: Inf and NaN are recognizable without color too
    const { grid } = this, { top } = this.box, tall = Math.max(this.rowHeight, 3); // of many layers, a row has no pixel
    context.save();
    context.beginPath();
    for (let row = 0; row < grid.rows.length; row++) for (let column = 0; column < grid.numColumns; column++) {
      if (!grid.isBad(row, column)) continue;
      const x = this.axis.edge(column);
      while (column + 1 < grid.numColumns && grid.isBad(row, column + 1)) column++;
      context.rect(x, top + row * this.rowHeight, this.axis.edge(column + 1) - x, tall);
    }
    context.clip();
    if (tall > this.rowHeight) { context.fillStyle = `rgb(${ALARM})`; context.fill(); }
    context.strokeStyle = "#ffffff"; context.globalAlpha = 0.75; context.beginPath();
    for (let x = this.box.left - (this.box.bottom - top); x < this.box.right; x += 9) {
      context.moveTo(x, this.box.bottom); context.lineTo(x + this.box.bottom - top, top);
    }
    context.stroke();
    context.restore();
  }

  labels(context, colors, cursor) {
    const { grid } = this, { left, top, bottom } = this.box, number = grid.rows.length;
    const room = Math.max(Math.floor((bottom - top) / 14), 2), chosen = cursor ? cursor.row : -1;
    const at = row => top + (row + 0.5) * this.rowHeight;
    const stride = Math.ceil(number / room), shown = [...grid.rows.keys()].filter(row => row % stride === 0);
    context.font = `11px ${FONT}`;
    for (const row of shown) {
      if (chosen >= 0 && Math.abs(at(row) - at(chosen)) < 12) continue; // the selected layer is written there
      write(context, fit(context, grid.rows[row], left - 12), left - 7, at(row), colors.ink, { size: 11, align: "right" });
    }
    if (chosen < 0 || chosen >= number) return;
    context.font = `bold 11px ${FONT}`;
    const name = fit(context, grid.rows[chosen], left - 12);
    write(context, name, left - 7, at(chosen), colors.ink, { size: 11, align: "right", weight: "bold" });
  }

  above(context, colors, clipped) { // fraction of clipped steps as bars, crosses above columns with Inf or NaN
    const { grid } = this, { left, right, top } = this.box;
    if (clipped) {
      context.strokeStyle = colors.line;
      context.strokeRect(left - 0.5, 6.5, right - left + 1, 15);
      context.fillStyle = colors.first;
      clipped.forEach((share, column) => {
        const x = Math.floor(this.axis.edge(column)), tall = 15 * (share || 0) / 100;
        context.fillRect(x, 22 - tall, Math.ceil(this.axis.edge(column + 1)) - x, tall);
      });
      write(context, "clipped", left - 7, 14, colors.faint, { size: 11, align: "right" });
    }
    if (!this.anyBad) return;
    let last = -Infinity;
    for (let column = 0; column < grid.numColumns; column++) {
      const x = (this.axis.edge(column) + this.axis.edge(column + 1)) / 2;
      if (x - last < 14 || !grid.rows.some((_, row) => grid.isBad(row, column))) continue;
      write(context, "✖", x, top - 9, colors.bad, { size: 13, align: "center" });
      last = x;
    }
  }

  scale(context, colors, y) {
    const { grid, palette } = this, { left, right } = this.box, wide = Math.min(right - left - 20, 260), x = this.box.left;
    for (let k = 0; k < wide; k++) {
      const shade = 3 * Math.round(255 * k / wide);
      context.fillStyle = `rgb(${palette[shade]},${palette[shade + 1]},${palette[shade + 2]})`;
      context.fillRect(x + k, y, 1.5, 10);
    }
    for (const tick of decades(grid.low, grid.high, Math.floor(wide / 30))) {
      const place = x + wide * (tick - grid.low) / (grid.high - grid.low);
      write(context, powerOfTen(tick), place, y + 20, colors.ink, { size: 11, align: "center" });
    }
    write(context, grid.unit, x - 12, y + 5, colors.faint, { size: 11, align: "right" });
    const signs = [["✖ Inf/NaN", colors.bad, this.anyBad], ["■ zero", "#000000", this.anyZero], ["■ no data", colors.missing, this.anyMissing]];
    let place = x + wide + 24;
    for (const [text, color] of signs.filter(s => s[2])) {
      if (place > right - 60) { place = x + wide + 24; y += 14; }
      write(context, text[0], place, y + 5, color, { size: 12 });
      write(context, text.slice(2), place + 15, y + 5, colors.ink, { size: 11 });
      place += 28 + context.measureText(text).width;
    }
  }

  outline(context, colors, marks) {
    const { grid } = this, { left, right, top, bottom } = this.box, places = [];
    const end = grid.edges[grid.numColumns];
    for (const mark of marks) {
      const row = mark.layer === null ? -1 : grid.rows.indexOf(mark.layer);
      if ((mark.layer !== null && row < 0) || mark.first >= end || mark.last < grid.edges[0]) continue;
      const x = Math.max(this.axis.x(mark.first), left), wide = Math.max(Math.min(this.axis.x(mark.last + 1), right) - x, 4);
      const y = row < 0 ? top : top + row * this.rowHeight, tall = row < 0 ? bottom - top : Math.max(this.rowHeight, 4);
      context.lineWidth = 4; context.strokeStyle = "#ffffff"; context.strokeRect(x, y, wide, tall);
      context.lineWidth = 1.8; context.strokeStyle = "#111111"; context.strokeRect(x, y, wide, tall);
      context.lineWidth = 1;
      places.push({ mark, x: x + 6, y: row < 0 ? y + 6 : y + tall + 4 });
    }
    let free = -Infinity;
    for (const place of places.sort((a, b) => a.y - b.y)) {
      place.y = Math.max(place.y, free);
      free = place.y + 22;
    }
    return places.filter(place => place.y < bottom - 16);
  }

  tag(context, colors, { mark, x, y }) {
    const text = `${mark.sign} ${mark.name}`;
    context.font = `600 11px ${FONT}`;
    const wide = context.measureText(text).width + 12;
    x = Math.max(Math.min(x, this.box.right - wide - 4), this.box.left + 4);
    context.fillStyle = "#ffffff"; context.strokeStyle = "#111111";
    context.beginPath(); context.roundRect(x, y, wide, 19, 4); context.fill(); context.stroke();
    write(context, text, x + 6, y + 10, "#111111", { size: 11, weight: "600" });
  }

  cross(context, colors, { row, step }) {
    const { left, right, top, bottom } = this.box, x = Math.round(this.axis.x(step) + 0.5);
    const y = top + row * this.rowHeight, tall = Math.max(this.rowHeight, 2);
    for (const [line, color] of [[3, "#111111"], [1.4, "#ffffff"]]) {
      context.lineWidth = line; context.strokeStyle = color;
      if (x >= left && x <= right) { context.beginPath(); context.moveTo(x, top); context.lineTo(x, bottom); context.stroke(); }
      if (row >= 0 && row < this.grid.rows.length) context.strokeRect(left, y, right - left, tall);
    }
    context.lineWidth = 1;
  }

  hit(x, y) { // the cell below a point, or null
    const { left, right, top, bottom } = this.box || {};
    if (!this.axis || !(x >= left && x < right && y >= top && y < bottom)) return null;
    return { row: Math.min(Math.floor((y - top) / this.rowHeight), this.grid.rows.length - 1), column: this.axis.column(x) };
  }
}

function hexToRgb(hex) {
  const value = parseInt(hex.slice(1), 16);
  return [value >> 16, (value >> 8) & 255, value & 255];
}
