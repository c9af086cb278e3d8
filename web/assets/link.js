// The WebSocket to the server: news of the machines in, commands out.

/** The token is in the URL's fragment, which no server sees. It is kept for this tab only. */
function token() {
  const given = new URLSearchParams(location.hash.slice(1)).get("t");
  if (given) {
    sessionStorage.setItem("token", given);
    history.replaceState(null, "", location.pathname);
  }
  return sessionStorage.getItem("token") ?? "";
}

const address = (path) => `${location.protocol === "https:" ? "wss" : "ws"}://${location.host}${path}`;

/**
 * A connection that is made again whenever it ends. It is an EventTarget: "hello", "news" and "down".
 */
export class Link extends EventTarget {
  #token = token();
  #socket = null;
  #waiting = new Map();
  #next = 1;

  constructor() {
    super();
    this.#open();
  }

  #open() {
    const socket = new WebSocket(address("/ws"), ["millrace.v1", `t.${this.#token}`]);
    let opened = false;
    socket.onopen = () => { opened = true; };
    socket.onmessage = (message) => this.#receive(JSON.parse(message.data));
    socket.onclose = async () => {
      for (const { reject } of this.#waiting.values()) reject(new Error("the connection to the page's server ended"));
      this.#waiting.clear();
      // A script cannot see why a WebSocket was refused: the server is there if it gives a file.
      const refused = !opened && (await fetch("icon.svg", { cache: "no-store" }).then(() => true, () => false));
      this.dispatchEvent(new CustomEvent("down", { detail: { refused } }));
      setTimeout(() => this.#open(), 1000);
    };
    this.#socket = socket;
  }

  #receive(message) {
    if (message.id !== undefined) {
      const waiting = this.#waiting.get(message.id);
      this.#waiting.delete(message.id);
      if (!waiting) return;
      if (message.error) waiting.reject(new Error(message.error.desc)); else waiting.resolve(message.return);
      return;
    }
    this.dispatchEvent(new CustomEvent(message.hello ? "hello" : "news", { detail: message.hello ?? message }));
  }

  #request(request) {
    if (this.#socket.readyState !== WebSocket.OPEN) return Promise.reject(new Error("not connected"));
    const id = this.#next++;
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject });
      this.#socket.send(JSON.stringify({ ...request, id }));
    });
  }

  /** Runs a command of a machine's monitor. Resolves to what it returns; rejects with the monitor's words. */
  execute(machine, command, args = {}) {
    return this.#request({ m: machine, execute: command, arguments: args });
  }

  /** Returns address and subprotocols of a WebSocket that carries a serial port's or the screen's bytes. */
  async pipe(machine, name) {
    const { ticket } = await this.#request({ m: machine, pipe: name });
    return { url: address("/pipe"), protocols: ["millrace.v1", `k.${ticket}`] };
  }
}
