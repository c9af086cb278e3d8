// The jobs of a machine, with their controls.

import { bytes, element } from "./text.js";

/** The commands that make sense in each state of a job. */
const VERBS = {
  running: ["pause", "cancel"], ready: ["complete", "pause", "cancel"], paused: ["resume", "cancel"],
  standby: ["resume", "cancel"], pending: ["finalize", "cancel"], concluded: ["dismiss"],
};

/** Fills `panel` with the jobs of `state`. `run(command, arguments)` sends a command. */
export function showJobs(panel, state, mayControl, run) {
  const jobs = state.jobs ?? [];
  const more = new Map((state["block-jobs"] ?? []).map((job) => [job.device, job]));
  if (!jobs.length) {
    panel.replaceChildren(element("p", { textContent: "No job." }));
    return;
  }
  // An input that somebody types into stays.
  if (panel.contains(document.activeElement) && document.activeElement.tagName === "INPUT") return;
  const focused = panel.contains(document.activeElement) ? document.activeElement.dataset.key : null;
  panel.replaceChildren(...jobs.map((job) => {
    const total = job["total-progress"], done = job["current-progress"];
    const share = total ? Math.min(100, (100 * done) / total) : 100;
    const fill = element("div");
    fill.style.width = `${share}%`;
    const bar = element("div", { className: "bar", role: "progressbar", "aria-valuenow": share.toFixed(1), "aria-valuemin": 0, "aria-valuemax": 100, "aria-label": `progress of ${job.id}` }, fill);
    const block = more.get(job.id);
    const speed = block?.speed ? `, at most ${bytes(block.speed)} a second` : "";
    const box = element("div", { className: "job" },
      element("div", {}, element("strong", { textContent: job.id }), ` ${job.type}, ${job.status}: ${bytes(done)} of ${bytes(total)} (${share.toFixed(1)} %)${speed}`),
      bar);
    if (job.error) box.append(element("div", { className: "error", textContent: job["x-error"] ?? job.error }));
    if (mayControl) {
      const buttons = element("span", { className: "buttons" });
      for (const verb of VERBS[job.status] ?? []) {
        const button = element("button", { textContent: verb, onclick: () => run(`job-${verb}`, { id: job.id }) });
        button.dataset.key = `${job.id} ${verb}`;
        buttons.append(button);
      }
      if (block) {
        const limit = element("input", { type: "number", min: 0, size: 6, value: (block.speed ?? 0) / 1048576, "aria-label": `speed limit of ${job.id} in MiB a second, 0 for none` });
        limit.style.width = "6rem";
        limit.onchange = () => { run("block-job-set-speed", { device: job.id, speed: Math.round(limit.value * 1048576) }); limit.blur(); };
        buttons.append(element("label", {}, limit, " MiB/s"));
      }
      box.append(buttons);
    }
    return box;
  }));
  if (focused) panel.querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus();
}
