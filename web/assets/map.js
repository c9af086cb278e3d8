// The map of a disk's clusters, drawn cell by cell.

import { bytes } from "./text.js";

/** The states, by their numbers in x-query-block-map. */
const STATES = [
  { name: "nowhere", text: "zeros, in no image", color: "--back" },
  { name: "absent", text: "in a backing file", color: "--absent" },
  { name: "zero", text: "zeros, in the leaf", color: "--zero" },
  { name: "data", text: "data, in the leaf", color: "--data" },
  { name: "populating", text: "being copied", color: "--moving" },
  { name: "written", text: "written since the switch", color: "--written" },
];

/** A number of the runs: seven bits a byte, the lowest first. */
function number(data, at) {
  let value = 0, scale = 1, byte;
  do { byte = data[at.next++]; value += (byte & 127) * scale; scale *= 128; } while (byte & 128);
  return value;
}

/** Calls `each(first, length, state byte)` for every run of a reply. */
export function runs(reply, each) {
  const text = atob(reply.runs);
  const data = Uint8Array.from(text, (c) => c.charCodeAt(0));
  for (const at = { next: 0, cell: reply.first ?? 0 }; at.next < data.length;) {
    at.cell += number(data, at);
    const length = number(data, at);
    each(at.cell, length, data[at.next++]);
    at.cell += length;
  }
}

/** The place of cell `d` on a Hilbert curve that fills a square of side `n`, a power of two. */
export function hilbert(n, d) {
  let x = 0, y = 0;
  for (let s = 1; s < n; s *= 2) {
    const rx = 1 & (d / 2), ry = 1 & (d ^ rx);
    if (!ry) {
      if (rx) { x = s - 1 - x; y = s - 1 - y; }
      [x, y] = [y, x];
    }
    x += s * rx;
    y += s * ry;
    d = Math.floor(d / 4);
  }
  return [x, y];
}

/** The cell at a place on the curve. */
export function unhilbert(n, x, y) {
  let d = 0;
  for (let s = n / 2; s >= 1; s /= 2) {
    const rx = (x & s) > 0 ? 1 : 0, ry = (y & s) > 0 ? 1 : 0;
    d += s * s * ((3 * rx) ^ ry);
    if (!ry) {
      if (rx) { x = n - 1 - x; y = n - 1 - y; }
      [x, y] = [y, x];
    }
  }
  return d;
}

/** A map on a canvas. */
export class ClusterMap {
  #canvas; #legend; #text; #image = null; #dirty = false; #colors = [];
  #cells = new Uint8Array(0); #side = 1; #cellSize = 0; #size = 0; #first = 0;
  order = "hilbert";
  /** The cell that the keyboard is at. */
  cursor = 0;

  constructor(canvas, legend, text) {
    [this.#canvas, this.#legend, this.#text] = [canvas, legend, text];
    this.#paintLegend();
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { this.#paintLegend(); this.redraw(); });
  }

  /** The cells' bytes, for tests. */
  get cells() { return this.#cells; }
  get cellSize() { return this.#cellSize; }
  get first() { return this.#first; }

  #paintLegend() {
    const style = getComputedStyle(document.documentElement);
    const parse = (name) => {
      const hex = style.getPropertyValue(name).trim();
      return [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
    };
    this.#colors = STATES.map((state) => parse(state.color));
    this.#legend.replaceChildren(...STATES.map((state) => {
      const item = document.createElement("li"), box = document.createElement("i");
      box.style.background = `var(${state.color})`;
      const count = document.createElement("span");
      count.dataset.state = state.name;
      item.append(box, state.text, " ", count);
      return item;
    }));
  }

  /** Begins a map of `cells` cells of `cellSize` bytes, from cell `first` on, of a disk of `size` bytes. */
  begin(size, cellSize, first, cells) {
    [this.#size, this.#cellSize, this.#first] = [size, cellSize, first];
    this.#cells = new Uint8Array(cells);
    this.cursor = Math.min(this.cursor, Math.max(cells - 1, 0));
    this.#side = 1;
    while (this.#side * this.#side < cells) this.#side *= 2;
    this.#canvas.width = this.#canvas.height = this.#side;
    this.#image = this.#canvas.getContext("2d").createImageData(this.#side, this.#side);
    this.redraw();
  }

  /** Takes over a reply: a part of the map, or what has changed of it. */
  apply(reply) {
    // News may come before the first map.
    if (!this.#image) return;
    runs(reply, (first, length, byte) => {
      const from = Math.max(first - this.#first, 0), to = Math.min(first + length - this.#first, this.#cells.length);
      for (let cell = from; cell < to; cell += 1) {
        this.#cells[cell] = byte;
        this.#paint(cell);
      }
    });
    this.#later();
  }

  redraw() {
    if (!this.#image) return;
    this.#image.data.fill(0);
    for (let cell = 0; cell < this.#cells.length; cell += 1) this.#paint(cell);
    this.#later();
  }

  #paint(cell) {
    const byte = this.#cells[cell], state = byte & 7, high = byte >> 3;
    const [x, y] = this.place(cell);
    const color = this.#colors[state] ?? this.#colors[0];
    const at = 4 * (y * this.#side + x);
    // A cell that the leaf has only a part of is paler; a deeper backing file is fainter.
    const strength = state === 1 ? 1 - 0.12 * Math.min(Math.max(high, 1) - 1, 5) : state >= 2 && high > 0 ? 0.4 + (0.6 * high) / 31 : 1;
    const ground = this.#colors[1];
    for (let channel = 0; channel < 3; channel += 1) {
      this.#image.data[at + channel] = color[channel] * strength + ground[channel] * (1 - strength);
    }
    this.#image.data[at + 3] = 255;
  }

  #later() {
    if (this.#dirty) return;
    this.#dirty = true;
    requestAnimationFrame(() => {
      this.#dirty = false;
      this.#canvas.getContext("2d").putImageData(this.#image, 0, 0);
      this.#count();
    });
  }

  #count() {
    const counts = STATES.map(() => 0);
    for (const byte of this.#cells) counts[byte & 7] += 1;
    STATES.forEach((state, number) => {
      this.#legend.querySelector(`[data-state="${state.name}"]`).textContent = bytes(counts[number] * this.#cellSize);
    });
    const words = STATES.map((state, number) => `${state.text}: ${bytes(counts[number] * this.#cellSize)}`);
    this.#text.textContent = `A map of ${bytes(this.#size)}. ${words.join("; ")}.`;
  }

  /** The column and the row of a cell. */
  place(cell) {
    return this.order === "hilbert" ? hilbert(this.#side, cell) : [cell % this.#side, Math.floor(cell / this.#side)];
  }

  /** The number of columns, and of rows. */
  get side() { return this.#side; }

  /** The number of bytes of the cells shown that are in the leaf. Of a cell that the leaf has a part of, that part counts. */
  get held() {
    let all = 0;
    for (const byte of this.#cells) if ([2, 3, 5].includes(byte & 7)) all += (byte >> 3) / 31;
    return Math.min(all * this.#cellSize, this.#size);
  }

  /** The cell below a mouse, or null. */
  at(event) {
    const box = this.#canvas.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left, event.clientY - box.top].map((at, axis) => Math.floor((at * this.#side) / (axis ? box.height : box.width)));
    if (x < 0 || y < 0 || x >= this.#side || y >= this.#side) return null;
    const cell = this.order === "hilbert" ? unhilbert(this.#side, x, y) : y * this.#side + x;
    return cell < this.#cells.length ? cell : null;
  }

  /** Words for a cell. */
  describe(cell) {
    const byte = this.#cells[cell], state = STATES[byte & 7] ?? STATES[0], high = byte >> 3;
    const offset = (this.#first + cell) * this.#cellSize;
    const more = (byte & 7) === 1 ? `, ${high} down the chain` : (byte & 7) >= 2 && high < 31 ? `, about ${Math.round((100 * high) / 31)} % of it in the leaf` : "";
    return `Offset ${bytes(offset)} (${offset}), ${bytes(this.#cellSize)}: ${state.text}${more}.`;
  }
}
