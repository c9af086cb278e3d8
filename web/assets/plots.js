// Latency, throughput and the requests around a switch, as plots.

import uPlot from "./vendor/uplot/dist/uPlot.esm.js";
import { bytes, time } from "./text.js";

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const KEPT = 6000;
/** Powers of ten, for a logarithmic axis. */
const tens = (_, __, low, high) => {
  const all = [];
  for (let at = Math.floor(Math.log10(low)); at <= Math.log10(high) + 1e-9; at += 1) if (10 ** at >= low * 0.999) all.push(10 ** at);
  return all;
};
/** Steps of an axis of time, in seconds. */
const SECONDS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600];
/** Powers of two, as steps of an axis of bytes. */
const TWOS = Array.from({ length: 50 }, (_, power) => 2 ** power);
const clock = (_, all) => all.map((at) => new Date(at * 1000).toLocaleTimeString(undefined, { hour12: false }));
/** Words for a value below a cursor, or a dash if there is none. */
const shown = (say) => (_, value) => (value === null || value === undefined ? "–" : say(value));
const axis = (more = {}) => ({ stroke: () => css("--soft"), grid: { stroke: () => css("--line"), width: 1 }, ticks: { stroke: () => css("--line") }, ...more });

/** A plot that follows its element's width. */
function plot(place, options, data) {
  const height = options.height ?? 200;
  const made = new uPlot({ width: place.clientWidth || 300, height, ...options }, data, place);
  new ResizeObserver(() => { if (place.clientWidth) made.setSize({ width: place.clientWidth, height }); }).observe(place);
  const recolor = () => {
    made.redraw();
    // The legend's boxes keep the colours that they were made with.
    place.querySelectorAll(".u-marker").forEach((marker, at, all) => { marker.style.borderColor = made.series.at(at - all.length).stroke?.() ?? ""; });
  };
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", recolor);
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
        let row = 0, end = -Infinity;
        for (const { at, text, color } of list()) {
          const x = u.valToPos(at, "x", true);
          if (x < u.bbox.left || x > u.bbox.left + u.bbox.width) continue;
          context.strokeStyle = context.fillStyle = css(color);
          context.setLineDash([4, 4]);
          context.beginPath();
          context.moveTo(x, u.bbox.top);
          context.lineTo(x, u.bbox.top + u.bbox.height);
          context.stroke();
          // Words that would lie over those before go into the next of four rows.
          const width = context.measureText(text).width, left = Math.min(x + 4, u.bbox.left + u.bbox.width - width);
          row = left < end ? (row + 1) % 4 : 0;
          end = Math.max(row ? end : 0, left + width + 8);
          context.textAlign = "left";
          // Lines of other marks do not cross the words.
          const top = u.bbox.top + (2 + 13 * row) * devicePixelRatio;
          context.fillStyle = css("--panel");
          context.fillRect(left - 2, top, width + 4, 13 * devicePixelRatio);
          context.fillStyle = css(color);
          context.fillText(text, left, u.bbox.top + (12 + 13 * row) * devicePixelRatio);
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
      axes: [axis({ values: clock, incrs: SECONDS, space: 80 }), axis({ size: 70, splits: tens, values: (_, all) => all.map(time) })],
      series: [{ value: shown((at) => clock(null, [at])[0]) },
        { label: "p50", stroke: () => css("--data"), width: 1.5, value: shown(time) },
        { label: "p99", stroke: () => css("--moving"), width: 1.5, value: shown(time) },
        { label: "longest", stroke: () => css("--written"), width: 1, dash: [3, 3], value: shown(time) }],
      bands: [{ series: [2, 1], fill: () => `${css("--data")}22` }],
      cursor: { sync }, plugins: [marks(() => this.#marks)],
    }, [[], [], [], []]);
    this.#rate = plot(rate, {
      scales: { x, y: { range: (_, low, high) => [0, Math.max(high ?? 1, 1)] } },
      axes: [axis({ values: clock, incrs: SECONDS, space: 80 }), axis({ size: 80, incrs: TWOS, values: (_, all) => all.map((v) => `${bytes(v)}/s`) })],
      series: [{ value: shown((at) => clock(null, [at])[0]) },
        { label: "read", stroke: () => css("--data"), width: 1.5, value: shown((v) => `${bytes(v)}/s`) },
        { label: "written", stroke: () => css("--written"), width: 1.5, value: shown((v) => `${bytes(v)}/s`) }],
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
        : `Last: ${p50[last] === null ? "no read or write" : `p50 ${time(p50[last])}, p99 ${time(p99[last])}, longest ${time(max[last])}`}; read ${bytes(read[last])}/s, written ${bytes(written[last])}/s.`;
    });
  }
}

/** Every request around a switch, as a dot. */
export class Flight {
  #plot; #words; #count = 0;

  constructor(place, words) {
    this.#words = words;
    const dots = (color) => ({ stroke: () => css(color), paths: () => null, points: { show: true, size: 4, fill: () => css(color) }, value: shown(time) });
    this.#plot = plot(place, {
      height: 240, scales: { x: { time: false, range: [-50, 50] }, y: { distr: 3 } },
      axes: [axis({ values: (_, all) => all.map((v) => `${v} ms`) }), axis({ size: 70, splits: tens, values: (_, all) => all.map(time) })],
      series: [{ label: "After the switch", value: shown((v) => `${v.toFixed(3)} ms`) }, { label: "read", ...dots("--data") }, { label: "write", ...dots("--written") }, { label: "flush", ...dots("--moving") }, { label: "discard", ...dots("--zero") }],
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
