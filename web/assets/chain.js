// The images of a disk, from the leaf down, with the jobs that move data between them.

import { bytes, element } from "./text.js";

const base = (path) => path?.split("/").pop() ?? "?";

/** Words for the space that an image takes. Of the leaf, `held` bytes of the disk are known to be in it. */
function space(image, held) {
  const taken = image["actual-size"];
  if (held === null || taken === undefined) return `${bytes(taken)} on the host`;
  // Space for new clusters is taken in large pieces, before they come.
  const ahead = taken > held + (1 << 20) ? ", with what is reserved for more" : "";
  return `holds ${bytes(held)} of the disk; its file takes ${bytes(taken)} on the host${ahead}`;
}

/**
 * Fills `panel` with the chain of `disk`, an entry of query-block. `held` is the number of bytes of the disk that
 * are in its leaf, or null.
 */
export function showChain(panel, disk, state, held) {
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
      element("small", { textContent: place }),
      element("small", { textContent: space(image, depth ? null : held) })));
  }
  panel.replaceChildren(...parts);
}
