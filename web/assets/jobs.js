// The jobs of a machine, with their controls.

import { bytes, element } from "./text.js";

/** The commands that make sense in each state of a job. */
const VERBS = {
  running: ["pause", "cancel"], ready: ["complete", "pause", "cancel"], paused: ["resume", "cancel"],
  standby: ["resume", "cancel"], pending: ["finalize", "cancel"], concluded: ["dismiss"],
};

/**
 * The jobs that are shown. A job's elements stay for as long as the job does, so that the focus stays where it is,
 * and with it what somebody types.
 */
export class Jobs {
  #panel; #run; #shown = new Map();

  /** Shows jobs in `panel`. `run(command, arguments)` sends a command. */
  constructor(panel, run) {
    [this.#panel, this.#run] = [panel, run];
  }

  /** Shows the jobs of `state`. */
  show(state, mayControl) {
    const jobs = state.jobs ?? [];
    const more = new Map((state["block-jobs"] ?? []).map((job) => [job.device, job]));
    for (const [id, shown] of this.#shown) {
      if (jobs.some((job) => job.id === id)) continue;
      // Whoever works by keyboard goes on from here.
      if (shown.box.contains(document.activeElement)) this.#panel.focus();
      shown.box.remove();
      this.#shown.delete(id);
    }
    this.#panel.querySelector("p")?.remove();
    if (!jobs.length) this.#panel.append(element("p", { textContent: "No job." }));
    for (const job of jobs) {
      if (!this.#shown.has(job.id)) {
        this.#shown.set(job.id, this.#make(job.id));
        this.#panel.append(this.#shown.get(job.id).box);
      }
      this.#update(this.#shown.get(job.id), job, more.get(job.id), mayControl);
    }
  }

  #make(id) {
    const words = element("span"), fill = element("div"), error = element("div", { className: "error", hidden: true });
    const bar = element("div", { className: "bar", role: "progressbar", "aria-valuemin": 0, "aria-valuemax": 100, "aria-label": `progress of ${id}` }, fill);
    const verbs = element("span", { className: "buttons", role: "group", "aria-label": `commands for ${id}` });
    const limit = element("input", { type: "number", min: 0, step: "any", "aria-label": `speed limit of ${id} in MiB a second, 0 for none` });
    const set = element("button", { textContent: "set limit", "aria-label": `set limit of ${id}` });
    set.dataset.key = `${id} limit`;
    const speed = element("form", { className: "speed" }, element("label", {}, limit, " MiB/s"), set);
    // While it is being changed, news do not change it back.
    limit.oninput = () => { limit.dataset.changed = "yes"; };
    speed.onsubmit = (event) => {
      event.preventDefault();
      delete limit.dataset.changed;
      this.#run("block-job-set-speed", { device: id, speed: Math.round(limit.value * 1048576) });
    };
    const box = element("div", { className: "job" }, element("div", {}, element("strong", { textContent: id }), words), bar, error, verbs, speed);
    return { box, words, bar, fill, error, verbs, limit, speed };
  }

  #update(shown, job, block, mayControl) {
    const total = job["total-progress"], done = job["current-progress"];
    const share = total ? Math.min(100, (100 * done) / total) : 100;
    const limited = block?.speed ? `, at most ${bytes(block.speed)} a second` : "";
    shown.words.textContent = ` ${job.type}, ${job.status}: ${bytes(done)} of ${bytes(total)} (${share.toFixed(1)} %)${limited}`;
    shown.fill.style.width = `${share}%`;
    shown.bar.setAttribute("aria-valuenow", share.toFixed(1));
    shown.error.hidden = !job.error;
    shown.error.textContent = job.error ? (job["x-error"] ?? job.error) : "";
    this.#commands(shown.verbs, job.id, mayControl ? (VERBS[job.status] ?? []) : []);
    shown.speed.hidden = !mayControl || !block;
    if (block && !shown.limit.dataset.changed) shown.limit.value = block.speed / 1048576;
  }

  /** Makes the buttons anew if others make sense now. */
  #commands(place, id, verbs) {
    if (place.dataset.verbs === String(verbs)) return;
    const focused = place.contains(document.activeElement);
    place.dataset.verbs = String(verbs);
    place.replaceChildren(...verbs.map((verb) => {
      const button = element("button", { textContent: verb, "aria-label": `${verb} ${id}`, onclick: () => this.#run(`job-${verb}`, { id }) });
      button.dataset.key = `${id} ${verb}`;
      return button;
    }));
    // The button that was pressed became another one: resume instead of pause.
    if (focused) (place.querySelector("button") ?? this.#panel).focus();
  }
}
