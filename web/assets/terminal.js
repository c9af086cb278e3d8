// The guest's consoles and its screen.

import { FitAddon } from "./vendor/addon-fit/lib/addon-fit.mjs";
import RFB from "./vendor/novnc/core/rfb.js";
import { Terminal } from "./vendor/xterm/lib/xterm.mjs";

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
  socket.onopen = () => { tell(mayType ? "Connected. What you type goes to the guest." : "Connected, for reading only."); terminal.focus(); };
  socket.onmessage = (message) => terminal.write(new Uint8Array(message.data));
  socket.onclose = (event) => tell(event.reason ? `The console is not connected: ${event.reason}.` : "The console is not connected any more.");
  terminal.onData((data) => { if (socket.readyState === WebSocket.OPEN) socket.send(encoder.encode(data)); });
  // For tests: what a terminal shows is not in the document.
  place.terminal = terminal;
  return () => { observer.disconnect(); socket.close(); terminal.dispose(); };
}

/** Shows the guest's screen. Returns a function that ends it. */
export async function openScreen(link, machine, place, tell) {
  const { url, protocols } = await link.pipe(machine, "vnc");
  place.replaceChildren();
  const rfb = new RFB(place, url, { wsProtocols: protocols });
  rfb.scaleViewport = true;
  rfb.addEventListener("connect", () => tell("Connected."));
  rfb.addEventListener("disconnect", (event) => tell(event.detail.clean ? "Disconnected." : "The connection to the screen ended."));
  rfb.addEventListener("credentialsrequired", () => {
    const password = prompt("The password of the VNC server");
    if (password === null) rfb.disconnect(); else rfb.sendCredentials({ password });
  });
  rfb.addEventListener("securityfailure", (event) => tell(`The server refused: ${event.detail.reason ?? "authentication failed"}`));
  return () => rfb.disconnect();
}
