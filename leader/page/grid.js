// A pool's addresses as a grid on one canvas that is as large as what is seen of it: 65,536 cells cost no more than the visible thousand.

export const STATES = {
  a: 'allocated', p: 'pinned', w: 'warm', f: 'free', c: 'cooling', s: 'suspect', q: 'quarantined', r: 'reserved',
};
const LETTERS = Object.keys(STATES);
const PADDING = 10;
const LABEL_FONT = '11px ui-monospace, "DejaVu Sans Mono", Menlo, monospace';

/** "a12fw3" as one number (index into STATES) per address. */
export function decode(text, count) {
  const states = new Uint8Array(count);
  let at = 0;
  for (const [, letter, length] of text.matchAll(/([a-z])(\d*)/g)) {
    const end = at + (length ? Number(length) : 1);
    states.fill(LETTERS.indexOf(letter), at, end);
    at = end;
  }
  return states;
}

function parseV6(text) {
  const [head, tail] = text.split('::');
  const left = head ? head.split(':') : [];
  const right = tail ? tail.split(':') : [];
  const groups = tail === undefined ? left : [...left, ...Array(8 - left.length - right.length).fill('0'), ...right];
  return groups.reduce((sum, group) => (sum << 16n) + BigInt(`0x${group}`), 0n);
}

/** RFC 5952: the first longest run of two or more zero groups is written as "::". */
function formatV6(value) {
  const groups = Array.from({ length: 8 }, (_, index) => ((value >> BigInt(112 - 16 * index)) & 0xffffn).toString(16));
  let [at, length] = [-1, 1];
  groups.forEach((_, start) => {
    const end = groups.findIndex((group, index) => index >= start && group !== '0');
    const run = (end < 0 ? 8 : end) - start;
    if (run > length) [at, length] = [start, run];
  });
  return at < 0 ? groups.join(':') : `${groups.slice(0, at).join(':')}::${groups.slice(at + length).join(':')}`;
}

/** The address `offset` after `text`. */
export function addressAfter(text, offset) {
  if (text.includes(':')) return formatV6(parseV6(text) + BigInt(offset));
  const value = text.split('.').reduce((sum, part) => sum * 256 + Number(part), 0) + offset;
  return [24, 16, 8, 0].map((shift) => Math.floor(value / 2 ** shift) % 256).join('.');
}

export class Grid {
  /** `onCell(index | null, rectangle, how)`: the pointer or the keyboard is on another address; `how` is 'hover', 'key' or 'keep'. */
  constructor(box, canvas, spacer, onCell) {
    Object.assign(this, { box, canvas, spacer, onCell });
    this.states = new Uint8Array();
    this.spans = [];
    this.cursor = -1;
    this.ranges = [];
    box.addEventListener('scroll', () => {
      if (this.how === 'hover') this.leave(); else if (this.how) this.tell(this.how);
      this.paintSoon();
      this.onScroll?.();
    });
    box.addEventListener('keydown', (event) => this.key(event));
    box.addEventListener('focus', () => { if (this.cursor < 0 && this.states.length) this.move(this.topIndex()); });
    canvas.addEventListener('pointermove', (event) => event.pointerType === 'mouse' && this.pointed(event, 'hover'));
    canvas.addEventListener('pointerleave', () => this.how === 'hover' && this.leave());
    canvas.addEventListener('click', (event) => this.pointed(event, 'keep'));
    new ResizeObserver(() => this.layout()).observe(box);
    matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => this.restyle());
    this.restyle();
  }

  show(spans, states) {
    let before = 0;
    this.spans = spans.map(([text, length]) => { const span = { text, length, before }; before += length; return span; });
    this.states = states;
    if (this.cursor >= states.length) this.cursor = -1;
    this.layout();
  }

  restyle() {
    const style = getComputedStyle(document.documentElement);
    this.colours = Object.fromEntries(['ink', 'soft', 'accent', 'card', ...Object.values(STATES).flatMap((name) => [name, `${name}-mark`])]
      .map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
    this.tiles = null;
    this.paintSoon();
  }

  address(index) {
    const span = this.spans.find((one) => index < one.before + one.length);
    return span ? addressAfter(span.text, index - span.before) : '';
  }

  label(index) {
    const text = this.address(index);
    return text.includes(':') ? `…:${text.split(':').slice(-2).join(':')}` : text;
  }

  layout() {
    const count = this.states.length;
    const width = this.box.clientWidth - 2 * PADDING;
    if (!count || width <= 0) { this.rows = 0; this.paintSoon(); return; }
    const context = this.canvas.getContext('2d');
    context.font = LABEL_FONT;
    this.gutter = Math.ceil(Math.max(...[0, 1, count >> 1, count - 1].map((at) => context.measureText(this.label(Math.min(at, count - 1))).width))) + 10;
    const least = count <= 64 ? 34 : count <= 256 ? 22 : 13;
    const room = width - this.gutter;
    let columns = 64;
    while (columns > 8 && columns * least > room) columns /= 2;
    this.columns = Math.min(columns, count);
    this.cell = Math.min(Math.floor(room / columns), count <= 64 ? 44 : count <= 256 ? 28 : 20);
    this.rows = Math.ceil(count / this.columns);
    const height = this.rows * this.cell + 2 * PADDING;
    const shown = Math.min(height, Math.max(280, innerHeight * 0.62));
    this.box.style.height = `${shown + 2}px`;
    this.spacer.style.height = `${height}px`;
    const scale = devicePixelRatio || 1;
    this.scale = scale;
    this.canvas.style.width = `${this.box.clientWidth}px`;
    this.canvas.style.height = `${shown}px`;
    this.canvas.width = Math.round(this.box.clientWidth * scale);
    this.canvas.height = Math.round(shown * scale);
    this.tiles = null;
    this.paint();
    this.onScroll?.();
  }

  tile(index) {
    const size = Math.max(1, Math.round((this.cell - (this.cell > 10 ? 2 : 1)) * this.scale));
    const canvas = new OffscreenCanvas(size, size);
    const c = canvas.getContext('2d');
    const name = STATES[LETTERS[index]];
    const mark = this.colours[`${name}-mark`];
    const line = Math.max(1, size / 9);
    c.beginPath();
    c.roundRect(0, 0, size, size, size / 7);
    c.clip();
    c.fillStyle = this.colours[name];
    c.fillRect(0, 0, size, size);
    c.strokeStyle = c.fillStyle = mark;
    c.lineWidth = line;
    const stroke = (...points) => { c.beginPath(); for (const [x1, y1, x2, y2] of points) { c.moveTo(x1 * size, y1 * size); c.lineTo(x2 * size, y2 * size); } c.stroke(); };
    const dot = (x, y, r) => { c.beginPath(); c.arc(x * size, y * size, r * size, 0, 7); c.fill(); };
    if (name === 'pinned') for (const [x, y, r] of this.cell < 30 ? [[0.5, 0.5, 0.2]] : [[0.18, 0.18, 0.09], [0.82, 0.18, 0.09], [0.18, 0.82, 0.09], [0.82, 0.82, 0.09]]) dot(x, y, r);
    if (name === 'warm') stroke([-0.1, 0.6, 0.6, -0.1], [-0.1, 1.1, 1.1, -0.1], [0.4, 1.1, 1.1, 0.4]);
    if (name === 'cooling') stroke([0, 0.25, 1, 0.25], [0, 0.5, 1, 0.5], [0, 0.75, 1, 0.75]);
    if (name === 'suspect') for (const [x, y] of [[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]]) dot(x, y, 0.09);
    if (name === 'quarantined') { c.lineWidth = line * 1.4; const e = this.cell < 30 ? 0.22 : 0.06; stroke([e, e, 1 - e, 1 - e], [1 - e, e, e, 1 - e]); }
    if (name === 'reserved') { c.lineWidth = Math.max(1, line * 0.7); stroke([0.33, 0, 0.33, 1], [0.67, 0, 0.67, 1], [0, 0.33, 1, 0.33], [0, 0.67, 1, 0.67]); }
    if (name !== 'allocated' && name !== 'quarantined' && name !== 'pinned') {
      c.lineWidth = Math.max(2, 2 * Math.round(this.scale));
      c.beginPath();
      c.roundRect(0, 0, size, size, size / 7);
      c.stroke();
    }
    return canvas;
  }

  paintSoon() {
    this.frame ??= requestAnimationFrame(() => { this.frame = null; this.paint(); });
  }

  paint() {
    const c = this.canvas.getContext('2d');
    c.setTransform(1, 0, 0, 1, 0, 0);
    c.clearRect(0, 0, this.canvas.width, this.canvas.height);
    if (!this.rows) return;
    this.tiles ??= LETTERS.map((_, index) => this.tile(index));
    const { scale, cell, columns, gutter } = this;
    const top = this.box.scrollTop;
    const [first, last] = this.visibleRows();
    const inset = cell > 10 ? 1 : 0.5;
    c.textBaseline = 'middle';
    for (let row = first; row <= last; row += 1) {
      const y = PADDING + row * cell - top;
      c.font = LABEL_FONT.replace('11px', `${11 * scale}px`);
      c.fillStyle = this.colours.soft;
      c.globalAlpha = 1;
      c.textAlign = 'left';
      if (cell >= 13 || row % 2 === 0) c.fillText(this.label(row * columns), PADDING * scale, (y + cell / 2) * scale);
      for (let column = 0; column < columns; column += 1) {
        const index = row * columns + column;
        if (index >= this.states.length) break;
        const x = PADDING + gutter + column * cell;
        c.globalAlpha = this.ranges.length && !this.isMarked(index) ? 0.28 : 1;
        c.drawImage(this.tiles[this.states[index]], Math.round((x + inset) * scale), Math.round((y + inset) * scale));
        if (cell >= 30) this.number(c, index, x, y);
      }
    }
    c.globalAlpha = 1;
    for (const index of this.markedBetween(first * columns, (last + 1) * columns)) this.ring(c, index, this.colours.ink, 1.5);
    if (this.cursor >= 0) {
      this.ring(c, this.cursor, this.colours.ink, 5);
      this.ring(c, this.cursor, this.colours.card, 1.5);
    }
  }

  number(c, index, x, y) {
    const text = this.address(index).split(/[.:]/).pop();
    const name = STATES[LETTERS[this.states[index]]];
    const dark = name === 'allocated' || name === 'pinned' || name === 'quarantined';
    c.font = `600 ${11 * this.scale}px system-ui, sans-serif`;
    c.textAlign = 'center';
    const at = [(x + this.cell / 2) * this.scale, (y + this.cell / 2 + 1) * this.scale];
    const wide = c.measureText(text).width + 6 * this.scale;
    c.fillStyle = this.colours[name];
    c.beginPath();
    c.roundRect(at[0] - wide / 2, at[1] - 8 * this.scale, wide, 15 * this.scale, 3 * this.scale);
    c.fill();
    c.fillStyle = dark ? this.colours.card : this.colours.ink;
    c.fillText(text, ...at);
  }

  ring(c, index, colour, thick) {
    const { x, y, width } = this.cellBox(index);
    c.strokeStyle = colour;
    c.lineWidth = thick * this.scale;
    c.beginPath();
    c.roundRect(x * this.scale, y * this.scale, width * this.scale, width * this.scale, (width / 7) * this.scale);
    c.stroke();
  }

  cellBox(index) {
    const row = Math.floor(index / this.columns);
    return { x: PADDING + this.gutter + (index % this.columns) * this.cell, y: PADDING + row * this.cell - this.box.scrollTop, width: this.cell };
  }

  visibleRows() {
    const top = this.box.scrollTop - PADDING;
    const first = Math.max(0, Math.floor(top / this.cell));
    return [first, Math.min(this.rows - 1, Math.floor((top + this.box.clientHeight) / this.cell))];
  }

  isMarked(index) {
    return this.ranges.some(([from, length]) => index >= from && index < from + length);
  }

  * markedBetween(low, high) {
    for (const [from, length] of this.ranges) {
      for (let index = Math.max(from, low); index < Math.min(from + length, high, this.states.length); index += 1) yield index;
    }
  }

  mark(ranges) {
    this.ranges = ranges;
    this.paintSoon();
    this.onScroll?.();
  }

  topIndex() {
    return this.visibleRows()[0] * this.columns;
  }

  reveal(index) {
    const y = PADDING + Math.floor(index / this.columns) * this.cell;
    if (y < this.box.scrollTop || y + this.cell > this.box.scrollTop + this.box.clientHeight) {
      this.box.scrollTop = y - this.box.clientHeight / 2;
    }
  }

  /** Nothing is told of any address any more. */
  leave() {
    this.how = null;
    this.onCell(null);
  }

  tell(how) {
    this.how = how;
    const { x, y, width } = this.cellBox(this.cursor);
    const box = this.canvas.getBoundingClientRect();
    this.onCell(this.cursor, { left: box.left + x, top: box.top + y, width }, how);
  }

  move(index, how = 'key') {
    this.cursor = Math.max(0, Math.min(index, this.states.length - 1));
    this.reveal(this.cursor);
    this.paint();
    this.tell(how);
  }

  pointed(event, how) {
    const column = Math.floor((event.offsetX - PADDING - this.gutter) / this.cell);
    const row = Math.floor((event.offsetY + this.box.scrollTop - PADDING) / this.cell);
    const index = row * this.columns + column;
    if (column < 0 || column >= this.columns || row < 0 || index >= this.states.length) { if (this.how !== 'keep') this.leave(); return; }
    if (how === 'hover' && (this.how === 'keep' || (index === this.cursor && this.how))) return;
    this.cursor = index;
    this.paintSoon();
    this.tell(how);
  }

  key(event) {
    const page = Math.max(1, Math.floor(this.box.clientHeight / this.cell) - 1) * this.columns;
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -this.columns, ArrowDown: this.columns, PageUp: -page, PageDown: page };
    if (event.key in steps) {
      const next = this.cursor + steps[event.key];
      if (next >= 0 && next < this.states.length) this.move(next); else if (Math.abs(steps[event.key]) === page) this.move(next);
    } else if (event.key === 'Home') this.move(0);
    else if (event.key === 'End') this.move(this.states.length - 1);
    else if (event.key === 'Enter' || event.key === ' ') this.move(Math.max(this.cursor, 0), 'keep');
    else return;
    event.preventDefault();
  }
}
