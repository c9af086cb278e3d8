// Latency, throughput and the requests around a switch, as plots.

import uPlot from "./vendor/uplot/dist/uPlot.esm.js";
import { bytes, time } from "./text.js";

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const KEPT = 6000;
const axis = (more = {}) => ({ stroke: () => css("--soft"), grid: { stroke: () => css("--line"), width: 1 }, ticks: { stroke: () => css("--line") }, ...more });

/** A plot that follows its element's width. */
function plot(place, options, data) {
  const made = new uPlot({ width: place.clientWidth || 300, height: 200, ...options }, data, place);
  new ResizeObserver(() => made.setSize({ width: place.clientWidth, height: 200 })).observe(place);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => made.redraw());
  return made;
}

/** Vertical lines with words: events. */
function marks(list) {
  return {
    hooks: {
      draw: (u) => {
        const context = u.ctx;
        context.save();
        context.font = `${11 * devicePixelRatio}px sans-serif`;
        for (const { at, text, color } of list()) {
          const x = u.valToPos(at, "x", true);
          if (x < u.bbox.left || x > u.bbox.left + u.bbox.width) continue;
          context.strokeStyle = context.fillStyle = css(color);
          context.setLineDash([4, 4]);
          context.beginPath();
          context.moveTo(x, u.bbox.top);
          context.lineTo(x, u.bbox.top + u.bbox.height);
          context.stroke();
          context.fillText(text, Math.min(x + 4, u.bbox.left + u.bbox.width - 90 * devicePixelRatio), u.bbox.top + 12 * devicePixelRatio);
        }
        context.restore();
      },
    },
  };
}

/** Latencies and throughput of a disk over time. */
export class Timeline {
  #latency; #rate; #words; #rows = [[], [], [], [], [], []]; #marks = []; #due = false;

  constructor(latency, rate, words) {
    this.#words = words;
    const x = { time: true };
    const sync = { key: "time" };
    this.#latency = plot(latency, {
      scales: { x, y: { distr: 3 } },
      axes: [axis(), axis({ size: 70, values: (_, all) => all.map((v) => (v === null ? "" : time(v))) })],
      series: [{}, { label: "p50", stroke: () => css("--data"), width: 1.5, value: (_, v) => time(v ?? NaN) },
        { label: "p99", stroke: () => css("--moving"), width: 1.5, value: (_, v) => time(v ?? NaN) },
        { label: "longest", stroke: () => css("--written"), width: 1, dash: [3, 3], value: (_, v) => time(v ?? NaN) }],
      bands: [{ series: [2, 1], fill: () => `${css("--data")}22` }],
      cursor: { sync }, plugins: [marks(() => this.#marks)],
    }, [[], [], [], []]);
    this.#rate = plot(rate, {
      scales: { x, y: { range: (_, low, high) => [0, Math.max(high ?? 1, 1)] } },
      axes: [axis(), axis({ size: 70, values: (_, all) => all.map((v) => `${bytes(v)}/s`) })],
      series: [{}, { label: "read", stroke: () => css("--data"), width: 1.5, value: (_, v) => `${bytes(v ?? 0)}/s` },
        { label: "written", stroke: () => css("--written"), width: 1.5, value: (_, v) => `${bytes(v ?? 0)}/s` }],
      cursor: { sync }, plugins: [marks(() => this.#marks)],
    }, [[], [], []]);
  }

  clear() {
    this.#rows = [[], [], [], [], [], []];
    this.#marks = [];
    this.#later();
  }

  /** Adds points: seconds since 1970, p50, p99 and longest in ns (or null), bytes a second read and written. */
  add(points) {
    for (const point of points) point.forEach((value, row) => this.#rows[row].push(value));
    if (this.#rows[0].length > KEPT) this.#rows = this.#rows.map((row) => row.slice(-KEPT));
    if (points.length) this.#later();
  }

  /** Marks a moment, in seconds since 1970. */
  mark(at, text, color) {
    this.#marks.push({ at, text, color });
    this.#marks = this.#marks.slice(-50);
    this.#later();
  }

  /** The number of points, for tests. */
  get length() { return this.#rows[0].length; }

  #later() {
    if (this.#due) return;
    this.#due = true;
    requestAnimationFrame(() => {
      this.#due = false;
      const [x, p50, p99, max, read, written] = this.#rows;
      this.#latency.setData([x, p50, p99, max]);
      this.#rate.setData([x, read, written]);
      const last = x.length - 1;
      this.#words.textContent = last < 0 ? "No request in the last ten minutes."
        : `Last: p50 ${time(p50[last] ?? NaN)}, p99 ${time(p99[last] ?? NaN)}, longest ${time(max[last] ?? NaN)}; read ${bytes(read[last])}/s, written ${bytes(written[last])}/s.`;
    });
  }
}

/** Every request around a switch, as a dot. */
export class Flight {
  #plot; #words; #count = 0;

  constructor(place, words) {
    this.#words = words;
    const dots = (color) => ({ stroke: () => css(color), paths: () => null, points: { show: true, size: 4, fill: () => css(color) } });
    this.#plot = plot(place, {
      height: 240, scales: { x: { time: false }, y: { distr: 3 } },
      axes: [axis({ values: (_, all) => all.map((v) => `${v} ms`) }), axis({ size: 70, values: (_, all) => all.map((v) => (v === null ? "" : time(v))) })],
      series: [{ value: (_, v) => `${v?.toFixed(3)} ms` }, { label: "read", ...dots("--data") }, { label: "write", ...dots("--written") }, { label: "flush", ...dots("--moving") }, { label: "discard", ...dots("--zero") }],
      plugins: [marks(() => [{ at: 0, text: "switch", color: "--warn" }])],
    }, [[], [], [], [], []]);
  }

  /** The number of dots, for tests. */
  get length() { return this.#count; }

  /** Shows requests: time since the switch in ms, kind (0 read, 1 write, 2 flush, 3 discard), latency in ns. */
  show(requests, words) {
    const rows = [[], [], [], [], []];
    for (const [at, kind, latency] of requests.toSorted((a, b) => a[0] - b[0])) {
      rows[0].push(at);
      for (let row = 1; row < 5; row += 1) rows[row].push(row === kind + 1 ? latency : null);
    }
    this.#count = requests.length;
    this.#plot.setData(rows);
    this.#words.textContent = words;
  }
}
