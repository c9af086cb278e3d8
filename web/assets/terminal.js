// The guest's consoles and its screen.
//
// Both take every key, Tab too, because it is the guest's. Shift+Escape gives the keyboard back to the page.

import { FitAddon } from "./vendor/addon-fit/lib/addon-fit.mjs";
import RFB from "./vendor/novnc/core/rfb.js";
import { Terminal } from "./vendor/xterm/lib/xterm.mjs";
import { by } from "./text.js";

/** Makes Shift+Escape leave `place` for `button`. Returns a function that ends this. */
function leaves(place, button) {
  const leave = (event) => {
    if (event.key !== "Escape" || !event.shiftKey) return;
    event.preventDefault();
    event.stopPropagation();
    button.focus();
  };
  place.addEventListener("keydown", leave, true);
  return () => place.removeEventListener("keydown", leave, true);
}

/** Asks for the password of the screen. Resolves to null if there is none to be had. */
function askPassword() {
  const [dialog, text] = [by("password"), by("password-text")];
  text.value = "";
  dialog.showModal();
  return new Promise((resolve) => {
    by("password-cancel").onclick = () => dialog.close("");
    by("password-form").onsubmit = (event) => { event.preventDefault(); dialog.close("given"); };
    dialog.onclose = () => { resolve(dialog.returnValue === "given" ? text.value : null); text.value = ""; dialog.returnValue = ""; };
  });
}

/** Connects a terminal to a serial port. Returns a function that ends it. */
export async function openConsole(link, machine, port, place, mayType, tell) {
  const { url, protocols } = await link.pipe(machine, port);
  const terminal = new Terminal({ convertEol: false, cursorBlink: false, fontSize: 13, screenReaderMode: true, scrollback: 10000, disableStdin: !mayType });
  const fit = new FitAddon();
  terminal.loadAddon(fit);
  place.replaceChildren();
  terminal.open(place);
  fit.fit();
  const observer = new ResizeObserver(() => fit.fit());
  observer.observe(place);
  const socket = new WebSocket(url, protocols);
  socket.binaryType = "arraybuffer";
  const encoder = new TextEncoder();
  const stay = leaves(place, by("console-open"));
  socket.onopen = () => { tell(mayType ? "Connected. What you type goes to the guest; Shift+Escape leaves the console." : "Connected, for reading only. Shift+Escape leaves the console."); terminal.focus(); };
  socket.onmessage = (message) => terminal.write(new Uint8Array(message.data));
  socket.onclose = (event) => tell(event.reason ? `The console is not connected: ${event.reason}.` : "The console is not connected any more.");
  terminal.onData((data) => { if (socket.readyState === WebSocket.OPEN) socket.send(encoder.encode(data)); });
  // For tests: what a terminal shows is not in the document.
  place.terminal = terminal;
  return () => { stay(); observer.disconnect(); socket.onclose = null; socket.close(); terminal.dispose(); };
}

/** Shows the guest's screen. Returns a function that ends it. */
export async function openScreen(link, machine, place, tell) {
  const { url, protocols } = await link.pipe(machine, "vnc");
  place.replaceChildren();
  const rfb = new RFB(place, url, { wsProtocols: protocols });
  rfb.scaleViewport = true;
  const stay = leaves(place, by("screen-open"));
  let refused = null, ended = false, gone = false;
  rfb.addEventListener("connect", () => { tell("Connected. Shift+Escape leaves the screen."); rfb.focus(); });
  rfb.addEventListener("disconnect", (event) => {
    stay();
    gone = true;
    if (!ended) tell(refused ?? (event.detail.clean ? "Disconnected." : "The connection to the screen ended."));
  });
  rfb.addEventListener("credentialsrequired", async () => {
    const password = await askPassword();
    if (password === null) rfb.disconnect(); else rfb.sendCredentials({ password });
  });
  rfb.addEventListener("securityfailure", (event) => { refused = `The screen's server refused: ${event.detail.reason ?? "wrong password"}.`; });
  return () => { ended = true; if (!gone) rfb.disconnect(); };
}
