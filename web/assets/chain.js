// The images of a disk, from the leaf down, with the jobs that move data between them.

import { bytes, element } from "./text.js";

const base = (path) => path?.split("/").pop() ?? "?";

/** Fills `panel` with the chain of `disk`, an entry of query-block. */
export function showChain(panel, disk, state) {
  let image = disk?.inserted?.image;
  if (!image) {
    panel.replaceChildren(element("p", { textContent: "No medium." }));
    return;
  }
  const parts = [];
  // A job's id says which disk it works on only if nobody has chosen it: if there is one disk, it is that one.
  const alone = (state.disks ?? []).filter((disk) => disk.device).length === 1;
  const job = (state.jobs ?? []).find((job) => alone || job.id === disk.device);
  for (let depth = 0; image; depth += 1, image = image["backing-image"]) {
    if (depth) {
      const moving = depth === 1 && job && job.status === "running";
      const share = moving && job["total-progress"] ? ` ${job.type}: ${Math.floor((100 * job["current-progress"]) / job["total-progress"])} %` : "";
      parts.push(element("div", { className: "arrow", textContent: moving ? `▲${share}` : "▲ backing file of" }));
    }
    const place = depth ? `backing file ${depth}, read by others too` : "leaf: the disk writes it";
    parts.push(element("div", { className: depth ? "image" : "image leaf" },
      element("strong", { textContent: base(image.filename), title: image.filename }),
      ` ${image.format}, ${bytes(image["virtual-size"])}`,
      element("small", { textContent: `${place}; ${bytes(image["actual-size"])} on the host` })));
  }
  panel.replaceChildren(...parts);
}
