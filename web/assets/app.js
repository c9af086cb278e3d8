// The page: joins the server's news with what shows them.

import { showChain } from "./chain.js";
import { Jobs } from "./jobs.js";
import { Link } from "./link.js";
import { ClusterMap } from "./map.js";
import { Flight, Timeline } from "./plots.js";
import { by, bytes, element } from "./text.js";

const link = new Link();
const map = new ClusterMap(by("map"), by("map-legend"), by("map-text"));
const timeline = new Timeline(by("latency"), by("throughput"), by("latency-text"));
const flight = new Flight(by("flight"), by("flight-text"));
/** The last state of each machine, by number. */
const states = new Map();
let hello = { machines: [], control: null };
let endConsole = null, endScreen = null;
/** The part of the disk that the map shows, or null for the whole disk. */
let zoom = null;
/** Counts what has been asked for anew; replies to what was asked before are dropped. */
let turn = 0;
let clock = null;
/** The number of the last interval that the plots have. */
let interval = -1;

const machine = () => Number(by("machine").value || 0);
const state = () => states.get(machine()) ?? {};
const disks = () => (state().disks ?? []).filter((disk) => disk.device);
const device = () => by("disk").value;
const may = (group) => ["jobs", "copy", "full"].indexOf(hello.control) >= ["jobs", "copy", "full"].indexOf(group);

function notice(text) {
  by("notice").hidden = !text;
  by("notice").textContent = text ?? "";
}

/** Sends a command, and shows its error. */
async function run(command, args) {
  try {
    const reply = await link.execute(machine(), command, args);
    notice(null);
    return reply;
  } catch (error) {
    notice(`${command}: ${error.message}`);
    throw error;
  }
}
const go = (command, args) => run(command, args).catch(() => {});
const jobs = new Jobs(by("jobs"), go);

/** Sets the choices of a select element, and keeps what is chosen. */
function choose(select, names, texts = names) {
  if ([...select.options].map((option) => option.value).join("\n") === names.join("\n")) return false;
  const chosen = select.value;
  select.replaceChildren(...names.map((name, at) => element("option", { value: name, textContent: texts[at] })));
  if (names.includes(chosen)) select.value = chosen;
  return select.value !== chosen;
}

/** The name of a machine: the end of its monitor's path, which tells it from the others. */
const nameOf = (number) => (hello.machines[number] ?? "").split("/").slice(-2).join("/");
const stateOf = (all) => (all?.status === undefined ? "not connected" : (all.status?.status ?? "running"));

/** Says of every machine how it is, also of those that are not looked at. */
function showMachines() {
  choose(by("machine"), hello.machines.map((_, number) => String(number)));
  [...by("machine").options].forEach((option, number) => {
    const text = hello.machines.length > 1 ? `${nameOf(number)}: ${stateOf(states.get(number))}` : nameOf(number);
    if (option.textContent !== text) option.textContent = text;
  });
}

function showState() {
  showMachines();
  const all = state();
  const up = all.status !== undefined;
  const badge = by("status");
  if (badge.textContent !== stateOf(all)) badge.textContent = stateOf(all);
  badge.className = `badge ${up ? (all.status?.running ? "running" : "") : "down"}`;
  if (choose(by("disk"), disks().map((disk) => disk.device))) whole();
  const disk = disks().find((disk) => disk.device === device());
  // The map knows what the leaf has, if it shows the whole disk.
  showChain(by("chain"), disk, all, zoom || !map.cells.length ? null : map.held);
  jobs.show(all, may("jobs"));
  const power = may("jobs") && up
    ? [all.status?.running ? ["Stop", "stop"] : ["Continue", "cont"], ["Power down", "system_powerdown"]] : [];
  if (by("power").dataset.shown !== String(power)) {
    by("power").dataset.shown = String(power);
    by("power").replaceChildren(...power.map(([text, command]) => element("button", { textContent: text, onclick: () => go(command) })));
  }
  by("copy-panel").hidden = !may("copy");
  const ports = (all.chardevs ?? []).filter((port) => /^(disconnected:)?unix:/.test(port.filename));
  choose(by("console-port"), ports.map((port) => port.label));
  by("console-panel").hidden = !ports.length;
  by("screen-panel").hidden = !all.vnc?.enabled || !hello.control;
}

/** Asks for everything about the chosen disk anew. */
async function whole() {
  turn += 1;
  const own = turn;
  if (!device()) return;
  try {
    await Promise.all([wholeMap(own), wholeLatency(own), wholeFlight(own)]);
  } catch (error) {
    if (own === turn) notice(error.message);
  }
}

async function wholeMap(own) {
  for (let next = zoom?.first, begun = false; ;) {
    const question = { device: device() };
    if (zoom) Object.assign(question, { "cell-size": zoom.cellSize, cells: zoom.cells - ((next ?? zoom.first) - zoom.first) });
    if (next !== undefined) question.first = next;
    const reply = await link.execute(machine(), "x-query-block-map", question);
    if (own !== turn) return;
    if (!begun) {
      begun = true;
      const cells = zoom ? Math.min(zoom.cells, reply["total-cells"] - zoom.first) : reply["total-cells"];
      map.begin(reply.size, reply["cell-size"], zoom?.first ?? 0, cells);
      by("map-where").textContent = zoom ? `${bytes(zoom.first * reply["cell-size"])} to ${bytes((zoom.first + cells) * reply["cell-size"])}` : `whole disk, ${bytes(reply.size)}; a cell is ${bytes(reply["cell-size"])}`;
      by("map-out").disabled = !zoom;
    }
    map.apply({ ...reply, first: next ?? 0 });
    showCursor();
    if (reply.next === undefined) return;
    next = reply.next;
  }
}

/** The points of a reply of x-query-latency, less those that the plots have. */
function points(reply) {
  // The machine counts from its start; the page shows the time of day.
  clock ??= Date.now() / 1000 - reply.now / 1e9;
  const fresh = reply.intervals.filter(({ number }) => number > interval);
  interval = fresh.at(-1)?.number ?? interval;
  const second = 1e9 / reply.interval;
  return fresh.map((own) => {
    const kinds = [own.read, own.write].filter(Boolean);
    const most = (key) => (kinds.length ? Math.max(...kinds.map((kind) => kind[key])) : null);
    return [clock + (own.number * reply.interval) / 1e9, most("p50"), most("p99"), most("max"), second * (own.read?.bytes ?? 0), second * (own.write?.bytes ?? 0)];
  });
}

async function wholeLatency(own) {
  [clock, interval] = [null, -1];
  timeline.clear();
  for (let since; ;) {
    const reply = await link.execute(machine(), "x-query-latency", since === undefined ? { device: device() } : { device: device(), since });
    if (own !== turn) return;
    timeline.add(points(reply));
    if (reply.intervals.length < 600) return;
    since = reply.next;
  }
}

async function wholeFlight(own) {
  let all = [];
  for (let first = 0; ;) {
    const reply = await link.execute(machine(), "x-query-flight", { device: device(), first });
    if (own !== turn) return;
    if (!reply.switch) { flight.show([], "No disk has switched yet."); return; }
    all = all.concat(reply.requests);
    first += reply.requests.length;
    if (!reply.requests.length || first >= reply.total) { showFlight({ ...reply, requests: all }); return; }
  }
}

function news({ detail: message }) {
  if (message.resync) { whole(); return; }
  const own = message.m === machine();
  if (message.up === false) { states.delete(message.m); if (own) showState(); else showMachines(); }
  if (message.up === true && own) whole();
  if (message.state) { const first = !states.has(message.m); states.set(message.m, message.state); if (own) { showState(); if (first) whole(); } else showMachines(); }
  if (message.event) event(message.event, message.m);
  if (!own) return;
  if (message.map?.device === device()) change(message.map.reply);
  if (message.latency?.device === device()) {
    if (message.latency.reply.resync) wholeLatency(turn).catch((error) => notice(error.message));
    else timeline.add(points(message.latency.reply));
  }
}

function change(reply) {
  if (reply.resync) { wholeMap(turn).catch((error) => notice(error.message)); return; }
  if (zoom) {
    // Changes are told in cells of the whole disk's size.
    zoom.stale = true;
    return;
  }
  map.apply(reply);
}

// A part of the map is asked for again when something has changed, twice a second at most.
setInterval(() => {
  if (zoom?.stale) { zoom.stale = false; wholeMap(turn).catch(() => {}); }
}, 500);

function event(event, from) {
  const at = event.timestamp.seconds + event.timestamp.microseconds / 1e6;
  const data = event.data ? ` ${JSON.stringify(event.data)}` : "";
  const where = hello.machines.length > 1 ? `${nameOf(from)}: ` : "";
  by("events").prepend(element("li", { textContent: `${new Date(at * 1000).toLocaleTimeString(undefined, { hour12: false })} ${where}${event.event}${data}` }));
  while (by("events").children.length > 200) by("events").lastChild.remove();
  if (from !== machine()) return;
  if (event.event === "BLOCK_SWITCHED" && event.data.device === device()) {
    timeline.mark(at, "switch", "--warn");
    // The reply waits for the requests of the 50 ms after it.
    wholeFlight(turn).catch(() => {});
  }
  if (event.event === "JOB_STATUS_CHANGE" && ["created", "ready", "concluded"].includes(event.data.status)) timeline.mark(at, `${event.data.id} ${event.data.status}`, "--soft");
  if (/ERROR/.test(event.event)) timeline.mark(at, event.event, "--warn");
}

function showFlight(reply) {
  const kinds = ["read", "write", "flush", "discard"];
  const around = `${reply.around / 1e6} ms`;
  flight.show(reply.requests.map((request) => [(request.time - reply.time) / 1e6, kinds.indexOf(request.kind), request.latency]),
    reply.total ? `${reply.total} requests ended within ${around} of switch ${reply.switch}${reply.cut ? "; there were more" : ""}.` : `No request ended within ${around} of switch ${reply.switch}.`);
}

link.addEventListener("hello", ({ detail }) => {
  hello = detail;
  notice(null);
  states.clear();
  by("about-version").textContent = `Version ${detail.version}. ${detail.control ? `The page may control: ${detail.control}.` : "The page is read-only."}`;
  showState();
});
link.addEventListener("news", news);
link.addEventListener("down", ({ detail }) => {
  states.clear();
  showState();
  notice(detail.refused ? "The page's server does not let this page in: open the address that it printed, with its token." : "The page's server is gone; connecting again.");
});

by("machine").onchange = () => {
  // Whoever types now means the machine that is chosen now.
  endConsole?.();
  endScreen?.();
  [endConsole, endScreen, zoom] = [null, null, null];
  for (const id of ["console", "console-text", "screen", "screen-text", "copy-reply"]) by(id).replaceChildren();
  map.begin(0, 1, 0, 0);
  showState();
  whole();
};
by("disk").onchange = () => { zoom = null; showState(); whole(); };
by("map-order").onchange = () => { map.order = by("map-order").value; map.redraw(); };
by("map-out").onclick = () => { zoom = null; whole(); };
by("map").onmousemove = (event) => { const cell = map.at(event); by("map-cell").textContent = cell === null ? "" : map.describe(cell); };
by("map").onclick = (event) => showAround(map.at(event));
/** Shows the part of the disk around a cell. */
function showAround(cell) {
  const cells = 4096;
  if (cell === null || zoom || map.cells.length <= cells) return;
  const size = disks().find((disk) => disk.device === device())?.inserted?.image?.["cluster-size"] ?? map.cellSize;
  const each = map.cellSize / size;
  if (each < 1) return;
  zoom = { cellSize: size, first: Math.max(0, Math.floor((cell * each) / cells) * cells), cells };
  whole();
}
/** Marks the keyboard's cell, and describes it. */
function showCursor() {
  const canvas = by("map"), mark = by("map-mark"), [x, y] = map.place(map.cursor), share = 100 / map.side;
  mark.hidden = document.activeElement !== canvas || !map.cells.length;
  // A cell may be smaller than a pixel; the mark is not.
  const size = Math.max(share, 1.5);
  Object.assign(mark.style, { left: `${share * (x + 0.5) - size / 2}%`, top: `${share * (y + 0.5) - size / 2}%`, width: `${size}%`, height: `${size}%` });
  if (!map.cells.length) return;
  const words = map.describe(map.cursor);
  canvas.setAttribute("aria-valuemin", 0);
  canvas.setAttribute("aria-valuemax", map.cells.length - 1);
  canvas.setAttribute("aria-valuenow", map.cursor);
  canvas.setAttribute("aria-valuetext", words);
  if (!mark.hidden) by("map-cell").textContent = words;
}
by("map").onfocus = by("map").onblur = showCursor;
by("map").onkeydown = (event) => {
  const last = map.cells.length - 1, page = Math.max(1, Math.floor(map.cells.length / 16));
  const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -1, ArrowDown: 1, PageUp: -page, PageDown: page, Home: -Infinity, End: Infinity };
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  if (event.key in steps) map.cursor = Math.max(0, Math.min(last, map.cursor + steps[event.key]));
  else if (event.key === "Enter") showAround(map.cursor);
  else if (event.key === "Escape" && zoom) { zoom = null; whole(); } else return;
  event.preventDefault();
  showCursor();
};
by("copy").onsubmit = async (event) => {
  event.preventDefault();
  const args = { device: device(), target: by("copy-target").value, format: by("copy-format").value };
  try {
    by("copy-reply").textContent = `x-live-copy: ${JSON.stringify(await link.execute(machine(), "x-live-copy", args))}`;
  } catch (error) {
    by("copy-reply").textContent = `x-live-copy: ${error.message}`;
  }
};
const tell = (id) => (text) => { by(id).textContent = text; };
by("console-open").onclick = async () => {
  endConsole?.();
  const { openConsole } = await import("./terminal.js");
  try { endConsole = await openConsole(link, machine(), by("console-port").value, by("console"), Boolean(hello.control), tell("console-text")); } catch (error) { tell("console-text")(error.message); }
};
by("screen-open").onclick = async () => {
  endScreen?.();
  const { openScreen } = await import("./terminal.js");
  try { endScreen = await openScreen(link, machine(), by("screen"), tell("screen-text")); } catch (error) { tell("screen-text")(error.message); }
};
by("about-button").onclick = () => by("about").showModal();
// For tests.
globalThis.millrace = { link, map, timeline, flight, states, whole };
